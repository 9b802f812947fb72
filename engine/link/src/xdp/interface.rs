//! What the kernel tells about an interface: flags, MTU, address, driver, queues.
//!
//! Asked through ioctls on a socket opened here, so that the answers are of the network namespace in
//! which the link was opened, wherever /sys is mounted from.

#![allow(
    clippy::host_endian_bytes,
    reason = "C's char has a sign on some machines; one byte has no order"
)]

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use sandrail_wire::MacAddr;

/// From `linux/ethtool.h`, which the libc crate leaves out.
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GRXRINGS: u32 = 0x2d;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    cmd: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_rxnfc` without its flow specification, which GRXRINGS does not fill; the tail is room for it.
#[repr(C)]
struct RxRings {
    cmd: u32,
    flow_type: u32,
    data: u64,
    tail: [u64; 24],
}

/// An interface by name, and a socket to ask about it.
#[derive(Debug)]
pub(super) struct Interface {
    name: String,
    socket: OwnedFd,
}

impl Interface {
    /// # Errors
    /// The system's, also when the name is longer than names are.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        // SAFETY: plain system call.
        let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            name: name.to_owned(),
            socket,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: all bytes zero is a valid `ifreq`: integers, arrays and a null pointer.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request
    }

    fn ask(&self, code: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the descriptor is open and every code used here takes a pointer to an `ifreq`.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), code, request) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The kernel's index of the interface.
    pub(super) fn index(&self) -> io::Result<u32> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: SIOCGIFINDEX filled this member.
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        u32::try_from(index).map_err(io::Error::other)
    }

    /// IFF_UP, IFF_RUNNING and the other flags.
    pub(super) fn flags(&self) -> io::Result<u32> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS filled this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        Ok(u32::from(flags.cast_unsigned()))
    }

    pub(super) fn mtu_bytes(&self) -> io::Result<usize> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU filled this member.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        usize::try_from(mtu).map_err(io::Error::other)
    }

    pub(super) fn mac(&self) -> io::Result<MacAddr> {
        let mut request = self.request();
        self.ask(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: SIOCGIFHWADDR filled this member.
        let address = unsafe { request.ifr_ifru.ifru_hwaddr };
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = u8::from_ne_bytes(from.to_ne_bytes());
        }
        Ok(MacAddr(mac))
    }

    fn ethtool<T>(&self, command: &mut T) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut *command).cast();
        self.ask(libc::SIOCETHTOOL, &mut request)
    }

    /// The driver's name; `unknown` where it does not tell.
    pub(super) fn driver(&self) -> String {
        let mut info = DriverInfo {
            cmd: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            rest: [0; 160],
        };
        let told = self.ethtool(&mut info).is_ok();
        debug_assert_eq!(
            info.rest.len() + info.driver.len() + 4,
            196,
            "struct ethtool_drvinfo"
        );
        match CStr::from_bytes_until_nul(&info.driver) {
            Ok(name) if told && !name.is_empty() => name.to_string_lossy().into_owned(),
            _ => "unknown".to_owned(),
        }
    }

    /// Receive queues in use: the channels that carry reception, or what the driver says of its rings; `None` where it tells neither.
    pub(super) fn rx_queues(&self) -> Option<u32> {
        let mut channels = Channels {
            cmd: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        if self.ethtool(&mut channels).is_ok() && channels.rx + channels.combined > 0 {
            return Some(channels.rx + channels.combined);
        }
        let mut rings = RxRings {
            cmd: ETHTOOL_GRXRINGS,
            flow_type: 0,
            data: 0,
            tail: [0; 24],
        };
        self.ethtool(&mut rings).ok()?;
        u32::try_from(rings.data).ok().filter(|&count| count > 0)
    }
}
