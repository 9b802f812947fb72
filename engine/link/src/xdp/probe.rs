//! What an interface can do for AF_XDP, found out without attaching anything.

use super::error::XdpError;
use super::interface::Interface;
use super::netlink;
use super::program::missing_or;

/// Bits of the kernel's `enum netdev_xdp_act` (`linux/netdev.h`): native XDP with PASS, DROP, TX, ABORTED.
pub(super) const FEATURE_BASIC: u64 = 1;
/// Native XDP_REDIRECT, which AF_XDP is.
pub(super) const FEATURE_REDIRECT: u64 = 1 << 1;
/// AF_XDP without a copy.
pub(super) const FEATURE_ZERO_COPY: u64 = 1 << 3;
/// Native reception of frames in several buffers.
pub(super) const FEATURE_RX_SG: u64 = 1 << 5;

/// What an interface can do for AF_XDP, and who holds its hook now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpSupport {
    /// The driver's name, `unknown` where it does not tell.
    pub driver: String,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// The kernel's feature bits (`enum netdev_xdp_act`); `None` before Linux 6.3.
    pub features: Option<u64>,
    /// Who is attached to the driver's hook.
    pub native_holder: Option<Holder>,
    /// Who is attached to the generic hook.
    pub generic_holder: Option<Holder>,
}

/// A program that somebody has attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The kernel's number for the program.
    pub program_id: u32,
    /// Its name, where it has one and we may ask.
    pub program_name: Option<String>,
}

impl XdpSupport {
    /// Whether the driver runs XDP programs and redirects natively; `None` where the kernel does not tell.
    #[must_use]
    pub fn native(&self) -> Option<bool> {
        let needed = FEATURE_BASIC | FEATURE_REDIRECT;
        self.features.map(|bits| bits & needed == needed)
    }

    /// Whether the driver does AF_XDP without a copy; `None` where the kernel does not tell.
    #[must_use]
    pub fn zero_copy(&self) -> Option<bool> {
        self.features.map(|bits| bits & FEATURE_ZERO_COPY != 0)
    }

    /// Whether the driver receives frames in several buffers natively; `None` where the kernel does not tell.
    #[must_use]
    pub fn native_multi_buffer(&self) -> Option<bool> {
        self.features.map(|bits| bits & FEATURE_RX_SG != 0)
    }
}

/// What an interface can do for AF_XDP. Changes nothing and attaches nothing; needs no privilege but for the names of programs.
///
/// # Errors
/// [`XdpError::InterfaceMissing`].
pub fn probe(interface: &str) -> Result<XdpSupport, XdpError> {
    let asked = Interface::new(interface).map_err(|error| missing_or(interface, error))?;
    let index = asked
        .index()
        .map_err(|error| missing_or(interface, error))?;
    Ok(of(&asked, index))
}

pub(super) fn of(interface: &Interface, index: u32) -> XdpSupport {
    let answer = netlink::link(index).unwrap_or_default();
    XdpSupport {
        driver: interface.driver(),
        rx_queues: interface
            .rx_queues()
            .or(answer.rx_queues)
            .unwrap_or(1)
            .max(1),
        features: netlink::xdp_features(index).ok(),
        native_holder: answer.native_program.map(holder_of),
        generic_holder: answer.generic_program.map(holder_of),
    }
}

fn holder_of(program_id: u32) -> Holder {
    let program_name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == program_id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty());
    Holder {
        program_id,
        program_name,
    }
}

/// Who is attached, in words.
pub(super) fn holder(index: u32) -> String {
    let answer = netlink::link(index).unwrap_or_default();
    let words = |mode: &str, id: u32| {
        let holder = holder_of(id);
        let name = holder
            .program_name
            .map(|name| format!(" `{name}`"))
            .unwrap_or_default();
        format!("program {id}{name} ({mode} mode)")
    };
    let native = answer.native_program.map(|id| words("native", id));
    let generic = answer.generic_program.map(|id| words("generic", id));
    let all: Vec<String> = native.into_iter().chain(generic).collect();
    if all.is_empty() {
        return "one that is gone by now".to_owned();
    }
    all.join(", ")
}
