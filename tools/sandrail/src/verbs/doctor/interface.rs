//! One interface: what it is fit for, and who is at it.

use std::process::{Command, Stdio};

use sandrail_link::xdp::{self, XdpSupport};
use sandrail_wire::aoe::sectors_by_mtu;

use super::Finding;
use crate::cli::Global;
use crate::fault::Fault;
use crate::netif;

/// Above it a 4 KiB block fits one frame.
const MTU_OF_A_PAGE: usize = 4118;
/// Above it a frame does not fit one chunk of AF_XDP memory.
const MTU_SINGLE_BUFFER: usize = 3818;

/// Everything about `name`.
pub(super) fn examine(name: &str, global: &Global) -> Vec<Finding> {
    let what = |aspect: &str| format!("{name}: {aspect}");
    let mut findings = Vec::new();
    if let Some(family) = sandrail_node::netif::default_route(name) {
        let found = format!("carries the {family} default route");
        findings.push(if global.force_default_route {
            Finding::warn(
                what("route"),
                format!("{found}, and was forced"),
                "an interface of the SAN's own",
            )
        } else {
            Finding::fail(
                what("route"),
                found,
                "an interface of the SAN's own, or --force-default-route",
            )
        });
    } else {
        findings.push(Finding::ok(what("route"), "not the default route's"));
    }
    match netif::check(name, true) {
        Ok(()) => findings.push(Finding::ok(what("state"), "up")),
        Err(fault @ Fault::InterfaceMissing { .. }) => {
            findings.truncate(0);
            findings.push(Finding::fail(
                name,
                fault.to_string(),
                "the right name, or the right namespace",
            ));
            return findings;
        }
        Err(fault @ Fault::InterfaceDown { .. }) => findings.push(Finding::fail(
            what("state"),
            fault.to_string(),
            format!("ip link set {name} up"),
        )),
        Err(fault) => findings.push(Finding::fail(
            what("state"),
            fault.to_string(),
            "another interface",
        )),
    }
    if netif::sys_number(name, "carrier") == Some(0) {
        findings.push(Finding::fail(
            what("carrier"),
            "none",
            "the cable, or the other end's state",
        ));
    }
    let mtu = netif::sys_number(name, "mtu").and_then(|mtu| usize::try_from(mtu).ok());
    findings.extend(mtu.map(|bytes| of_mtu(&what("MTU"), bytes)));
    match xdp::probe(name) {
        Ok(support) => findings.extend(of_xdp(name, &support, mtu.unwrap_or(0))),
        Err(error) => findings.push(Finding::warn(
            what("XDP"),
            error.to_string(),
            "--link packet",
        )),
    }
    findings.push(offloads(&what("offloads"), name, global.vlan.is_some()));
    findings
}

fn of_mtu(what: &str, bytes: usize) -> Finding {
    let sectors = sectors_by_mtu(bytes);
    let found = format!("{bytes} bytes, {sectors} sectors a frame");
    if bytes > sandrail_link::packet::MTU_BYTES_MAX {
        Finding::fail(
            what,
            found,
            format!("at most {}", sandrail_link::packet::MTU_BYTES_MAX),
        )
    } else if sectors == 0 {
        Finding::fail(what, found, "at least 1500")
    } else if bytes < MTU_OF_A_PAGE {
        Finding::warn(
            what,
            format!(
                "{found}: a 4 KiB block takes {} frames",
                8_usize.div_ceil(sectors)
            ),
            "9000 on both ends and every switch between, if they can",
        )
    } else {
        Finding::ok(what, found)
    }
}

fn of_xdp(name: &str, support: &XdpSupport, mtu_bytes: usize) -> Vec<Finding> {
    let what = |aspect: &str| format!("{name}: {aspect}");
    let mut findings = vec![Finding::ok(
        what("driver"),
        format!("{}, {} receive queue(s)", support.driver, support.rx_queues),
    )];
    let yes_no = |fact: Option<bool>| match fact {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown to this kernel",
    };
    let modes = format!(
        "native {}, zero-copy {}, jumbo frames native {}, generic yes",
        yes_no(support.native()),
        yes_no(support.zero_copy()),
        yes_no(support.native_multi_buffer())
    );
    let jumbo_generic_only =
        mtu_bytes > MTU_SINGLE_BUFFER && support.native_multi_buffer() == Some(false);
    findings.push(if support.native() == Some(false) {
        Finding::warn(
            what("XDP"),
            modes,
            "none for this driver: --link xdp-generic or packet, whichever is faster here",
        )
    } else if jumbo_generic_only {
        Finding::warn(
            what("XDP"),
            modes,
            "an MTU of at most 3818 for native mode, or --link xdp-generic",
        )
    } else {
        Finding::ok(what("XDP"), modes)
    });
    let holders = [
        ("native", &support.native_holder),
        ("generic", &support.generic_holder),
    ];
    for (mode, holder) in holders {
        let Some(holder) = holder else { continue };
        let program = holder.program_name.as_deref().unwrap_or("without a name");
        findings.push(Finding::fail(
            what("attached"),
            format!(
                "program {} {program} holds the {mode} XDP hook",
                holder.program_id
            ),
            format!(
                "stop its owner, or `ip link set {name} xdp off`; --link packet works beside it"
            ),
        ));
    }
    if support.native_holder.is_none() && support.generic_holder.is_none() {
        findings.push(Finding::ok(what("attached"), "no XDP program"));
    }
    findings
}

/// Tags that the card takes out do not reach an XDP program; frames that it joins together are no frames.
fn offloads(what: &str, name: &str, vlan: bool) -> Finding {
    let told = Command::new("ethtool")
        .args(["-k", name])
        .stdin(Stdio::null())
        .output();
    let text = match told {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ if vlan => {
            return Finding::warn(
                what,
                "not examined: no ethtool",
                "apt-get install ethtool, and see that rx-vlan-offload is off",
            );
        }
        _ => return Finding::ok(what, "not examined: no ethtool"),
    };
    judge_offloads(what, name, &text, vlan)
}

fn judge_offloads(what: &str, name: &str, features: &str, vlan: bool) -> Finding {
    let is_on = |feature: &str| {
        features.lines().any(|line| {
            line.trim()
                .strip_prefix(feature)
                .is_some_and(|rest| rest.starts_with(": on"))
        })
    };
    if is_on("large-receive-offload") {
        return Finding::warn(
            what,
            "large-receive-offload joins frames",
            format!("ethtool -K {name} lro off"),
        );
    }
    let stripped = ["rx-vlan-offload", "rx-vlan-hw-parse"]
        .into_iter()
        .any(is_on);
    match (stripped, vlan) {
        (true, true) => Finding::warn(
            what,
            "rx-vlan-offload takes tags out before AF_XDP sees them",
            format!("ethtool -K {name} rxvlan off, or --link packet"),
        ),
        (true, false) => Finding::ok(
            what,
            "rx-vlan-offload is on, which matters with --vlan only",
        ),
        (false, _) => Finding::ok(what, "none in the way"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn mtus_are_judged_by_what_fits() {
        for (bytes, level) in [
            (9000, Level::Ok),
            (4118, Level::Ok),
            (1500, Level::Warn),
            (500, Level::Fail),
            (16_000, Level::Fail),
        ] {
            assert_eq!(of_mtu("x", bytes).level, level, "{bytes}");
        }
        assert!(
            of_mtu("x", 1500)
                .found
                .contains("2 sectors a frame: a 4 KiB block takes 4 frames")
        );
    }

    #[test]
    fn a_tag_that_is_taken_out_matters_when_tags_are_asked_for() {
        let on = "rx-vlan-offload: on\nlarge-receive-offload: off [fixed]\n";
        assert_eq!(judge_offloads("x", "e", on, true).level, Level::Warn);
        assert_eq!(judge_offloads("x", "e", on, false).level, Level::Ok);
        let joined = "large-receive-offload: on\n";
        assert_eq!(judge_offloads("x", "e", joined, false).level, Level::Warn);
        assert_eq!(
            judge_offloads("x", "e", "rx-vlan-offload: off\n", true).level,
            Level::Ok
        );
    }
}
