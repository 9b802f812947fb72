//! Whether an interface may be used for raw frames.

use sandrail_node::netif::{candidates, default_route, names};

/// Why raw frames must not, or cannot, be sent on the interface.
pub(super) fn problem(interface: &str, force: bool) -> Option<String> {
    // The loopback's frames reach every program of this machine and no other.
    if interface == "lo" {
        return Some("is the loopback, which carries no SAN".to_owned());
    }
    if !names().iter().any(|name| name == interface) {
        return Some(format!(
            "does not exist in this network namespace; there are: {}",
            candidates()
        ));
    }
    let family = default_route(interface).filter(|_| !force)?;
    Some(format!(
        "carries the default route ({family}); raw frames on it may disturb whatever else this machine does there. Use an \
         interface of the SAN's own, or insist with --force-interface"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_strangers_are_refused_whatever_is_forced() {
        assert!(problem("lo", true).unwrap().contains("loopback"));
        assert!(
            problem("nosuchif0", true)
                .unwrap()
                .contains("does not exist")
        );
    }
}
