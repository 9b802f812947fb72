//! Whether an interface may be used for raw frames.

use std::fs;

use sandrail_node::netif::{candidates, default_route, names};

use crate::fault::Fault;

/// `IFF_UP` (`linux/if.h`).
const FLAG_UP: u32 = 1;
/// `ARPHRD_ETHER` (`linux/if_arp.h`).
const TYPE_ETHERNET: u32 = 1;

/// A number from the interface's folder in /sys; `None` where /sys shows another namespace or has no such file.
pub(crate) fn sys_number(interface: &str, file: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/{file}")).ok()?;
    let text = text.trim();
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Whether the interface is administratively up; `None` where that cannot be seen.
pub(crate) fn is_up(interface: &str) -> Option<bool> {
    sys_number(interface, "flags").map(|flags| flags & FLAG_UP != 0)
}

/// Refuses what must not, or cannot, be used for raw frames.
pub(crate) fn check(interface: &str, force_default_route: bool) -> Result<(), Fault> {
    let name = interface.to_owned();
    if !names().contains(&name) {
        return Err(Fault::InterfaceMissing {
            name,
            others: candidates(),
        });
    }
    if let Some(family) = default_route(interface).filter(|_| !force_default_route) {
        return Err(Fault::DefaultRoute { name, family });
    }
    if sys_number(interface, "type").is_some_and(|kind| kind != TYPE_ETHERNET) {
        return Err(Fault::NotEthernet { name });
    }
    if is_up(interface) == Some(false) {
        return Err(Fault::InterfaceDown { name });
    }
    Ok(())
}
