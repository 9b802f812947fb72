//! The packet socket and its options, as safe calls.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_void, sock_filter, socklen_t};
use sandrail_wire::MacAddr;

use super::{MTU_BYTES_MAX, PacketError};

/// What an interface is.
pub(super) struct InterfaceFacts {
    pub(super) index: c_int,
    pub(super) mac: MacAddr,
    pub(super) mtu_bytes: usize,
}

/// An error of a system call, with those named that have a remedy.
pub(super) fn os_error(interface: String, call: &'static str, source: io::Error) -> PacketError {
    match source.raw_os_error() {
        Some(libc::EPERM) => PacketError::NoPrivilege { interface },
        Some(libc::ENODEV | libc::ENXIO) => PacketError::NoInterface { interface },
        Some(libc::ENETDOWN) => PacketError::Down { interface },
        _ => PacketError::Os {
            interface,
            call,
            source,
        },
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn length<T>() -> socklen_t {
    socklen_t::try_from(mem::size_of::<T>()).expect("a socket option is small")
}

/// Asks the kernel about an interface, and refuses one that cannot work.
pub(super) fn interface_facts(name: &str) -> Result<InterfaceFacts, PacketError> {
    let interface = || name.to_owned();
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.bytes().any(|byte| byte == 0) {
        return Err(PacketError::NoInterface {
            interface: interface(),
        });
    }
    // Any socket carries these requests; this kind needs no privilege and no network.
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let fd = check(fd).map_err(|source| os_error(interface(), "socket", source))?;
    // SAFETY: the descriptor was just opened and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let ask = |request: u64, call: &'static str| -> Result<libc::ifreq, PacketError> {
        // SAFETY: an ifreq of zeros is valid: a name and a union of plain integers.
        let mut asked: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in asked.ifr_name.iter_mut().zip(name.bytes()) {
            // One byte either way: whether characters are signed differs between machines.
            *to = libc::c_char::from_be_bytes([from]);
        }
        // SAFETY: all requests used here read and write one ifreq, which lives through the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut asked) };
        check(result).map_err(|source| os_error(interface(), call, source))?;
        Ok(asked)
    };
    let index = ask(libc::SIOCGIFINDEX, "ioctl(SIOCGIFINDEX)")?;
    // SAFETY: SIOCGIFINDEX filled this member.
    let index = unsafe { index.ifr_ifru.ifru_ifindex };
    let hardware = ask(libc::SIOCGIFHWADDR, "ioctl(SIOCGIFHWADDR)")?;
    // SAFETY: SIOCGIFHWADDR filled this member.
    let hardware = unsafe { hardware.ifr_ifru.ifru_hwaddr };
    if hardware.sa_family != libc::ARPHRD_ETHER {
        return Err(PacketError::NotEthernet {
            interface: interface(),
        });
    }
    let flags = ask(libc::SIOCGIFFLAGS, "ioctl(SIOCGIFFLAGS)")?;
    // SAFETY: SIOCGIFFLAGS filled this member.
    let flags = unsafe { flags.ifr_ifru.ifru_flags };
    if c_int::from(flags) & libc::IFF_UP == 0 {
        return Err(PacketError::Down {
            interface: interface(),
        });
    }
    let mtu = ask(libc::SIOCGIFMTU, "ioctl(SIOCGIFMTU)")?;
    // SAFETY: SIOCGIFMTU filled this member.
    let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
    let mtu_bytes = usize::try_from(mtu).unwrap_or(0);
    if mtu_bytes > MTU_BYTES_MAX {
        return Err(PacketError::MtuTooLarge {
            interface: interface(),
            mtu_bytes,
        });
    }
    let mut mac = [0; 6];
    for (to, from) in mac.iter_mut().zip(hardware.sa_data) {
        [*to] = from.to_be_bytes();
    }
    Ok(InterfaceFacts {
        index,
        mac: MacAddr(mac),
        mtu_bytes,
    })
}

/// A raw packet socket that does not block.
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl PacketSocket {
    /// A socket that receives nothing yet.
    pub(super) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed.
        let fd = check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the descriptor was just opened and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// A socket that only sends, past the queueing discipline, with room for `bytes` in its send queue.
    pub(super) fn open_sender(bytes: usize) -> io::Result<Self> {
        let socket = Self::open()?;
        socket.set_packet(libc::PACKET_QDISC_BYPASS, &1_i32)?;
        socket.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)?;
        Ok(socket)
    }

    fn set<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let pointer: *const T = value;
        let fd = self.as_raw_fd();
        // SAFETY: the pointer and the length describe `value`, which the kernel only reads.
        let result =
            unsafe { libc::setsockopt(fd, level, option, pointer.cast::<c_void>(), length::<T>()) };
        check(result).map(drop)
    }

    /// Sets an option of packet sockets.
    pub(super) fn set_packet<T>(&self, option: c_int, value: &T) -> io::Result<()> {
        self.set(libc::SOL_PACKET, option, value)
    }

    /// Sets a buffer's size: past the system's limit where that is allowed, else up to it.
    pub(super) fn set_buffer(&self, forced: c_int, limited: c_int, bytes: usize) -> io::Result<()> {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX / 2);
        self.set(libc::SOL_SOCKET, forced, &bytes)
            .or_else(|_| self.set(libc::SOL_SOCKET, limited, &bytes))
    }

    /// Has the kernel run a program for each frame before it is queued here.
    pub(super) fn attach_filter(&self, program: &[sock_filter]) -> io::Result<()> {
        let described = libc::sock_fprog {
            len: u16::try_from(program.len()).expect("a filter is short"),
            filter: program.as_ptr().cast_mut(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &described)
    }

    /// Frames sent by this machine are not received here.
    pub(super) fn ignore_outgoing(&self) -> io::Result<()> {
        self.set_packet(libc::PACKET_IGNORE_OUTGOING, &1_i32)
    }

    /// Binds to an interface and an ethertype; with 0 the socket only sends.
    pub(super) fn bind(&self, index: c_int, ethertype: u16) -> io::Result<()> {
        // SAFETY: a sockaddr_ll of zeros is valid: plain integers.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small constant");
        address.sll_protocol = ethertype.to_be();
        address.sll_ifindex = index;
        let pointer: *const libc::sockaddr_ll = &raw const address;
        let len = length::<libc::sockaddr_ll>();
        // SAFETY: the pointer and the length describe `address`, which the kernel only reads.
        check(unsafe { libc::bind(self.as_raw_fd(), pointer.cast(), len) }).map(drop)
    }

    fn get<T>(&self, level: c_int, option: c_int, mut value: T) -> io::Result<T> {
        let mut len = length::<T>();
        let pointer: *mut T = &raw mut value;
        let fd = self.as_raw_fd();
        // SAFETY: the pointer and the length describe `value`; only plain structures of integers are asked for.
        let result =
            unsafe { libc::getsockopt(fd, level, option, pointer.cast::<c_void>(), &raw mut len) };
        check(result)?;
        Ok(value)
    }

    /// The pending error, which is cleared by asking.
    pub(super) fn take_error(&self) -> Option<c_int> {
        self.get(libc::SOL_SOCKET, libc::SO_ERROR, 0)
            .ok()
            .filter(|error| *error != 0)
    }

    /// Frames dropped for want of room since the last call (the kernel starts again at zero).
    pub(super) fn take_drops(&self) -> u64 {
        let none = libc::tpacket_stats {
            tp_packets: 0,
            tp_drops: 0,
        };
        self.get(libc::SOL_PACKET, libc::PACKET_STATISTICS, none)
            .map_or(0, |stats| u64::from(stats.tp_drops))
    }

    /// Whether every frame sent through this socket has been freed by the driver.
    pub(super) fn send_queue_empty(&self) -> bool {
        let mut bytes: c_int = 0;
        // SAFETY: SIOCOUTQ writes one int, which lives through the call.
        let result = unsafe { libc::ioctl(self.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        result == 0 && bytes == 0
    }
}
