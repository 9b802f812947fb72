//! The steering program on an interface: loaded, attached, and gone with the process that attached it.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant as Clock};

use aya::maps::{HashMap, MapData, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode as AyaMode};
use aya::{Ebpf, EbpfLoader};
use sandrail_ebpf as ebpf;
use sandrail_wire::MacAddr;

use super::error::{XdpError, errno_of};
use super::interface::Interface;
use super::probe;
use super::{XdpConfig, XdpMode};

/// How long a program that is just going away is waited for: after `kill -9` the kernel needs some 30 ms.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two tries.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// In the driver, before there is an skb.
    Native,
    /// In the network stack, on an skb: any driver.
    Generic,
}

impl Hook {
    const fn aya(self) -> AyaMode {
        match self {
            Self::Native => AyaMode::Driver,
            Self::Generic => AyaMode::Skb,
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
        }
    }
}

/// What the steering program counted on all CPUs since it was attached, by verdict and reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounters {
    /// Left to the kernel: neither AoE nor lock frames.
    pub passed_other: u64,
    /// Left to the kernel: the frame ends within its Ethernet header.
    pub passed_short: u64,
    /// Left to the kernel: more VLAN tags than two.
    pub passed_tags: u64,
    /// Left to the kernel: a SAN frame, but no socket is on the queue it arrived on.
    pub passed_no_socket: u64,
    /// AoE responses given to the shard that their tag names.
    pub redirected_aoe: u64,
    /// AoE frames given to shard 0 of their queue: requests, and responses whose shard has no socket there.
    pub redirected_aoe_base: u64,
    /// Lock frames given to shard 0 of their queue.
    pub redirected_lock: u64,
    /// SAN frames dropped since their source is not on the allow-list.
    pub dropped_not_allowed: u64,
}

/// The program on its interface; dropping it detaches.
pub(super) struct Attached {
    pub(super) interface: Interface,
    pub(super) index: u32,
    pub(super) hook: Hook,
    pub(super) driver: String,
    pub(super) rx_queues: u32,
    pub(super) mac: MacAddr,
    pub(super) mtu_bytes: usize,
    /// First of the fields that hold the program: the hook is empty before the maps go.
    _link: FdLink,
    sockets: Mutex<XskMap<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    allowed: Option<Mutex<HashMap<MapData, [u8; 8], u8>>>,
    _program: Ebpf,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map's handle is as good after a panic elsewhere as before it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Six bytes of address and two of zero, as the program builds its key.
fn allow_key(mac: MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [a, b, c, d, e, f, 0, 0]
}

/// Which hooks to try, in order.
///
/// Generic mode goes first on veth, where it echoes 1.4 times as many small frames as native mode does (a veth's
/// native mode turns every frame into a buffer of another kind first); a NIC's driver saves the skb in native mode.
pub(super) fn hooks(mode: XdpMode, driver: &str, features: Option<u64>) -> &'static [Hook] {
    const NEEDED: u64 = probe::FEATURE_BASIC | probe::FEATURE_REDIRECT;
    match mode {
        XdpMode::Native => &[Hook::Native],
        XdpMode::Generic => &[Hook::Generic],
        XdpMode::Auto if driver == "veth" => &[Hook::Generic, Hook::Native],
        XdpMode::Auto if features.is_some_and(|bits| bits & NEEDED != NEEDED) => &[Hook::Generic],
        XdpMode::Auto => &[Hook::Native, Hook::Generic],
    }
}

/// The interface's words for an error of the loader.
struct Failure<'a> {
    interface: &'a str,
    driver: &'a str,
}

impl Failure<'_> {
    fn name(&self, action: &'static str, error: &(dyn std::error::Error + 'static)) -> XdpError {
        let interface = self.interface.to_owned();
        match errno_of(error) {
            Some(libc::EPERM | libc::EACCES) => XdpError::NotPermitted { action, interface },
            Some(libc::EOPNOTSUPP) => XdpError::Unsupported {
                interface,
                driver: self.driver.to_owned(),
                what: "XDP programs".to_owned(),
            },
            _ => {
                let mut message = error.to_string();
                let mut next = error.source();
                while let Some(cause) = next {
                    message.push_str(": ");
                    message.push_str(&cause.to_string());
                    next = cause.source();
                }
                XdpError::Program {
                    interface,
                    action,
                    message,
                }
            }
        }
    }

    /// A driver that has no such hook, or not for this MTU: EOPNOTSUPP, ERANGE or EINVAL, by driver.
    fn hook(
        &self,
        hook: Hook,
        mtu_bytes: usize,
        error: &(dyn std::error::Error + 'static),
    ) -> XdpError {
        let Some(number) = errno_of(error) else {
            return self.name("attach", error);
        };
        let words = io::Error::from_raw_os_error(number);
        XdpError::Unsupported {
            interface: self.interface.to_owned(),
            driver: self.driver.to_owned(),
            what: format!("{} with an MTU of {mtu_bytes}: {words}", hook.words()),
        }
    }

    fn missing(&self, name: &str) -> XdpError {
        XdpError::Program {
            interface: self.interface.to_owned(),
            action: "load",
            message: format!("the object has no `{name}`"),
        }
    }
}

impl Attached {
    /// Loads the program and attaches it.
    pub(super) fn open(config: &XdpConfig) -> Result<Self, XdpError> {
        let name = config.interface.as_str();
        let interface = Interface::new(name).map_err(|error| missing_or(name, error))?;
        let index = interface.index().map_err(|error| missing_or(name, error))?;
        let os = |call| {
            move |source| XdpError::Os {
                interface: name.to_owned(),
                call,
                source,
            }
        };
        let flags = interface.flags().map_err(os("SIOCGIFFLAGS"))?;
        if flags & libc::IFF_UP.cast_unsigned() == 0 {
            return Err(XdpError::InterfaceDown {
                interface: name.to_owned(),
            });
        }
        let mtu_bytes = interface.mtu_bytes().map_err(os("SIOCGIFMTU"))?;
        if mtu_bytes > super::MTU_BYTES_MAX {
            return Err(XdpError::MtuTooLarge {
                interface: name.to_owned(),
                mtu_bytes,
                max_bytes: super::MTU_BYTES_MAX,
            });
        }
        let mac = interface.mac().map_err(os("SIOCGIFHWADDR"))?;
        let support = probe::of(&interface, index);
        let failure = Failure {
            interface: name,
            driver: &support.driver,
        };

        let mut program = load(config, support.rx_queues, &failure)?;
        let sockets = XskMap::try_from(take_map(&mut program, ebpf::MAP_SOCKETS, &failure)?)
            .map_err(|error| failure.name("load", &error))?;
        let counters = PerCpuArray::try_from(take_map(&mut program, ebpf::MAP_COUNTERS, &failure)?)
            .map_err(|error| failure.name("load", &error))?;
        let mut allowed = HashMap::try_from(take_map(&mut program, ebpf::MAP_ALLOWED, &failure)?)
            .map_err(|error| failure.name("load", &error))?;
        for &mac in config.allow_list.iter().flatten() {
            allowed
                .insert(allow_key(mac), 1, 0)
                .map_err(|error| failure.name("fill the allow-list of", &error))?;
        }
        let hooks = hooks(config.mode, &support.driver, support.features);
        let (hook, link) = attach(&mut program, (index, mtu_bytes), hooks, &failure)?;
        Ok(Self {
            interface,
            index,
            hook,
            driver: support.driver,
            rx_queues: support.rx_queues,
            mac,
            mtu_bytes,
            _link: link,
            sockets: Mutex::new(sockets),
            counters,
            allowed: config.allow_list.is_some().then(|| Mutex::new(allowed)),
            _program: program,
        })
    }

    /// Gives frames of that key to the socket.
    pub(super) fn set_socket(&self, key: u32, fd: i32) -> Result<(), XdpError> {
        locked(&self.sockets)
            .set(key, fd, 0)
            .map_err(|error| self.failure().name("give a socket to", &error))
    }

    /// Leaves frames of that key to the kernel again. A key without a socket is left as it is.
    pub(super) fn unset_socket(&self, key: u32) {
        if let Err(error) = locked(&self.sockets).unset(key) {
            tracing::debug!(key, %error, "no socket to take out of the map");
        }
    }

    fn failure(&self) -> Failure<'_> {
        Failure {
            interface: self.interface.name(),
            driver: &self.driver,
        }
    }

    pub(super) fn allow(&self, mac: MacAddr) -> Result<(), XdpError> {
        let allowed = self.allowed.as_ref().ok_or_else(no_allow_list)?;
        locked(allowed)
            .insert(allow_key(mac), 1, 0)
            .map_err(|error| self.failure().name("change the allow-list of", &error))
    }

    pub(super) fn disallow(&self, mac: MacAddr) -> Result<(), XdpError> {
        let allowed = self.allowed.as_ref().ok_or_else(no_allow_list)?;
        match locked(allowed).remove(&allow_key(mac)) {
            Err(error) if errno_of(&error) == Some(libc::ENOENT) => Ok(()),
            other => other.map_err(|error| self.failure().name("change the allow-list of", &error)),
        }
    }

    pub(super) fn steer_counters(&self) -> Result<SteerCounters, XdpError> {
        let of = |name: &str| -> Result<u64, XdpError> {
            let index = ebpf::counter_index(name).ok_or_else(|| self.failure().missing(name))?;
            let index = u32::try_from(index).map_err(|_| self.failure().missing(name))?;
            let by_cpu = self
                .counters
                .get(&index, 0)
                .map_err(|error| self.failure().name("read the counters of", &error))?;
            Ok(by_cpu.iter().sum())
        };
        Ok(SteerCounters {
            passed_other: of("passed_other")?,
            passed_short: of("passed_short")?,
            passed_tags: of("passed_tags")?,
            passed_no_socket: of("passed_no_socket")?,
            redirected_aoe: of("redirected_aoe")?,
            redirected_aoe_base: of("redirected_aoe_base")?,
            redirected_lock: of("redirected_lock")?,
            dropped_not_allowed: of("dropped_not_allowed")?,
        })
    }
}

fn no_allow_list() -> XdpError {
    XdpError::Config("the interface was opened without an allow-list".to_owned())
}

pub(super) fn missing_or(interface: &str, source: io::Error) -> XdpError {
    let interface = interface.to_owned();
    match source.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO) => XdpError::InterfaceMissing { interface },
        _ => XdpError::Os {
            interface,
            call: "SIOCGIFINDEX",
            source,
        },
    }
}

fn load(config: &XdpConfig, rx_queues: u32, failure: &Failure<'_>) -> Result<Ebpf, XdpError> {
    let allow_list_on = u32::from(config.allow_list.is_some());
    let mut program = EbpfLoader::new()
        .map_max_entries(ebpf::MAP_SOCKETS, ebpf::socket_key(rx_queues, 0))
        .override_global(ebpf::GLOBAL_ALLOW_LIST, &allow_list_on, true)
        .load(ebpf::STEER)
        .map_err(|error| failure.name("load", &error))?;
    let xdp: &mut Xdp = program
        .program_mut(ebpf::PROGRAM)
        .ok_or_else(|| failure.missing(ebpf::PROGRAM))?
        .try_into()
        .map_err(|error| failure.name("load", &error))?;
    xdp.load().map_err(|error| failure.name("load", &error))?;
    Ok(program)
}

fn take_map(
    program: &mut Ebpf,
    name: &str,
    failure: &Failure<'_>,
) -> Result<aya::maps::Map, XdpError> {
    program.take_map(name).ok_or_else(|| failure.missing(name))
}

/// Attaches to the first of the hooks that takes the program.
fn attach(
    program: &mut Ebpf,
    (index, mtu_bytes): (u32, usize),
    hooks: &[Hook],
    failure: &Failure<'_>,
) -> Result<(Hook, FdLink), XdpError> {
    let xdp: &mut Xdp = program
        .program_mut(ebpf::PROGRAM)
        .ok_or_else(|| failure.missing(ebpf::PROGRAM))?
        .try_into()
        .map_err(|error| failure.name("attach", &error))?;
    let started = Clock::now();
    let mut refusal = None;
    for &hook in hooks {
        let id = loop {
            let error = match xdp.attach_to_if_index(index, hook.aya()) {
                Ok(id) => break Some(id),
                Err(error) => error,
            };
            match errno_of(&error) {
                // EEXIST: something is attached in the other mode.
                Some(libc::EBUSY | libc::EEXIST) if started.elapsed() < BUSY_PATIENCE => {
                    thread::sleep(BUSY_PAUSE)
                }
                Some(libc::EBUSY | libc::EEXIST) => {
                    return Err(XdpError::ProgramBusy {
                        interface: failure.interface.to_owned(),
                        holder: probe::holder(index),
                    });
                }
                Some(libc::EPERM | libc::EACCES) => return Err(failure.name("attach", &error)),
                _ => {
                    tracing::info!(interface = failure.interface, hook = hook.words(), %error, "XDP hook refused");
                    refusal = Some(failure.hook(hook, mtu_bytes, &error));
                    break None;
                }
            }
        };
        let Some(id) = id else { continue };
        let link = xdp
            .take_link(id)
            .map_err(|error| failure.name("attach", &error))?;
        // Attached by netlink instead, which kernels before 5.9 need, it would outlive this process.
        let link: FdLink = link
            .try_into()
            .map_err(|error| failure.name("attach", &error))?;
        return Ok((hook, link));
    }
    Err(refusal.unwrap_or_else(|| failure.missing("hook")))
}
