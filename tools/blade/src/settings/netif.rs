//! Interfaces of this network namespace, and whether one may be used for raw frames.

use std::fs;

/// Tables of the namespace that this thread is in.
const DEVICES: &str = "/proc/thread-self/net/dev";
const ROUTES_V4: &str = "/proc/thread-self/net/route";
const ROUTES_V6: &str = "/proc/thread-self/net/ipv6_route";
/// `RTF_UP` and `RTF_REJECT` (`linux/route.h`): a route in use, and one that only refuses.
const ROUTE_UP: u32 = 0x1;
const ROUTE_REJECT: u32 = 0x200;

/// Why raw frames must not, or cannot, be sent on the interface.
pub(super) fn problem(interface: &str, force: bool) -> Option<String> {
    // The loopback's frames reach every program of this machine and no other.
    if interface == "lo" {
        return Some("is the loopback, which carries no SAN".to_owned());
    }
    let names = names_in(&fs::read_to_string(DEVICES).unwrap_or_default());
    if !names.iter().any(|name| name == interface) {
        let others: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| *name != "lo")
            .collect();
        let others = if others.is_empty() {
            "none".to_owned()
        } else {
            others.join(", ")
        };
        return Some(format!(
            "does not exist in this network namespace; there are: {others}"
        ));
    }
    let family = default_route(interface).filter(|_| !force)?;
    Some(format!(
        "carries the default route ({family}); raw frames on it may disturb whatever else this machine does there. Use an \
         interface of the SAN's own, or insist with --force-interface"
    ))
}

fn names_in(table: &str) -> Vec<String> {
    // Two lines of headings, then `name: counters`.
    let lines = table.lines().skip(2);
    lines
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect()
}

fn default_route(interface: &str) -> Option<&'static str> {
    let table = |path| fs::read_to_string(path).unwrap_or_default();
    if default_v4(&table(ROUTES_V4), interface) {
        Some("IPv4")
    } else if default_v6(&table(ROUTES_V6), interface) {
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
            && zero(words[1])
            && zero(words[7])
            && leads_out(words[3])
    })
}

/// `destination prefix source prefix gateway metric refcount use flags interface`, in hexadecimal.
fn default_v6(table: &str, interface: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.len() > 9
            && words[9] == interface
            && zero(words[0])
            && zero(words[1])
            && leads_out(words[8])
    })
}

fn zero(digits: &str) -> bool {
    digits.bytes().all(|digit| digit == b'0')
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
        ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn the_default_route_is_told_from_others() {
        assert!(default_v4(V4, "eth0"));
        assert!(!default_v4(V4, "san0"));
        assert!(
            !default_v4(V4, "half"),
            "a route to half the world is no default route"
        );
        assert!(default_v6(V6, "eth1"));
        assert!(!default_v6(V6, "lo"), "a route that only refuses");
    }

    #[test]
    fn loopback_and_strangers_are_refused_whatever_is_forced() {
        assert!(problem("lo", true).unwrap().contains("loopback"));
        assert!(
            problem("nosuchif0", true)
                .unwrap()
                .contains("does not exist")
        );
    }

    #[test]
    fn interfaces_are_listed() {
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 2\n  san0:12 3\n";
        assert_eq!(names_in(table), ["lo", "san0"]);
    }
}
