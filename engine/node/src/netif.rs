//! Interfaces of the calling thread's network namespace, and which of them lead out of it.

use std::fs;

/// Tables of the namespace that this thread is in.
const DEVICES: &str = "/proc/thread-self/net/dev";
const ROUTES_V4: &str = "/proc/thread-self/net/route";
const ROUTES_V6: &str = "/proc/thread-self/net/ipv6_route";

/// `RTF_UP` and `RTF_REJECT` (`linux/route.h`): a route in use, and one that only refuses.
const ROUTE_UP: u32 = 0x1;
const ROUTE_REJECT: u32 = 0x200;

/// Names of all interfaces.
#[must_use]
pub fn names() -> Vec<String> {
    let table = fs::read_to_string(DEVICES).unwrap_or_default();
    names_in(&table)
}

fn names_in(table: &str) -> Vec<String> {
    // Two lines of headings, then `name: counters`.
    table
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

/// Names but the loopback's, for messages.
#[must_use]
pub fn candidates() -> String {
    let names: Vec<String> = names().into_iter().filter(|name| name != "lo").collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

/// The default route's family, if it leaves through `interface`.
#[must_use]
pub fn default_route(interface: &str) -> Option<&'static str> {
    let v4 = fs::read_to_string(ROUTES_V4).unwrap_or_default();
    let v6 = fs::read_to_string(ROUTES_V6).unwrap_or_default();
    if default_v4(&v4, interface) {
        Some("IPv4")
    } else if default_v6(&v6, interface) {
        Some("IPv6")
    } else {
        None
    }
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`, in hexadecimal.
fn default_v4(table: &str, interface: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.len() > 7
            && words[0] == interface
            && words[1].bytes().all(|digit| digit == b'0')
            && words[7].bytes().all(|digit| digit == b'0')
            && leads_out(words[3])
    })
}

/// `destination prefix source prefix gateway metric refcount use flags interface`, in hexadecimal.
fn default_v6(table: &str, interface: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.len() > 9
            && words[9] == interface
            && words[0].bytes().all(|digit| digit == b'0')
            && words[1] == "00"
            && leads_out(words[8])
    })
}

fn leads_out(flags: &str) -> bool {
    u32::from_str_radix(flags, 16)
        .is_ok_and(|flags| flags & ROUTE_UP != 0 && flags & ROUTE_REJECT == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        san0\t0000530A\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0\n\
        half\t00000000\t0100000A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
    const V6: &str = "\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 \
        00000400 00000001 00000000 00000003     eth1\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 \
        ffffffff 00000001 00000000 00200200       lo\n\
        fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 \
        00000100 00000001 00000000 00000001     san0\n";

    #[test]
    fn the_default_route_is_told_from_others() {
        assert!(default_v4(V4, "eth0"));
        assert!(!default_v4(V4, "san0"));
        assert!(!default_v4(V4, "eth"));
        assert!(
            !default_v4(V4, "half"),
            "a route to half the world is no default route"
        );
        assert!(default_v6(V6, "eth1"));
        assert!(!default_v6(V6, "lo"), "a route that only refuses");
        assert!(!default_v6(V6, "san0"));
    }

    #[test]
    fn interfaces_are_listed() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 2\n  san0:12 3\nveth-long: 0\n";
        assert_eq!(names_in(table), ["lo", "san0", "veth-long"]);
    }
}
