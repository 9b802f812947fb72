//! As much rtnetlink and generic netlink as AF_XDP needs: who is attached, what a driver can do, when a link goes down.

#![allow(
    clippy::host_endian_bytes,
    reason = "netlink speaks the byte order of the host (netlink(7))"
)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const HEADER_BYTES: usize = 16;
const LINK_BODY_BYTES: usize = 16;
const GENERIC_BODY_BYTES: usize = 4;
/// An answer fits: the kernel's link messages stay far below (NLMSG_GOODSIZE is a page).
const ANSWER_BYTES: usize = 32 * 1024;

/// From `linux/if_link.h`, which the libc crate leaves out.
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// From `linux/netdev.h` (Linux 6.3).
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// What rtnetlink tells about an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkAnswer {
    /// Receive queues that the device was made with; those in use may be fewer.
    pub(super) rx_queues: Option<u32>,
    /// Program in the driver's hook.
    pub(super) native_program: Option<u32>,
    /// Program in the generic hook.
    pub(super) generic_program: Option<u32>,
}

/// A bound netlink socket.
#[derive(Debug)]
struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    fn open(protocol: i32, groups: u32) -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all bytes zero is a valid `sockaddr_nl`.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family =
            libc::sa_family_t::try_from(libc::AF_NETLINK).map_err(io::Error::other)?;
        address.nl_groups = groups;
        let len =
            libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).map_err(io::Error::other)?;
        // SAFETY: the address is a live `sockaddr_nl` of the length given.
        let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { socket })
    }

    fn receive(&self, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
        // SAFETY: the pointer and the length are those of a live slice.
        let got = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                flags,
            )
        };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Sends one request and hands back the body of the one answer, attributes after `body_bytes` of fixed part.
    fn ask(&self, kind: u16, body: &[u8], buffer: &mut [u8]) -> io::Result<(u16, usize)> {
        let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
        let len = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let flags = u16::try_from(libc::NLM_F_REQUEST).map_err(io::Error::other)?;
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        // SAFETY: the pointer and the length are those of a live vector.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
            )
        };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let got = self.receive(buffer, 0)?;
        let (answer, body) = messages(&buffer[..got])
            .next()
            .ok_or_else(|| io::Error::other("netlink answered with less than a header"))?;
        if i32::from(answer) == libc::NLMSG_ERROR {
            let code = i32::from_ne_bytes(body.first_chunk().copied().unwrap_or_default());
            return Err(io::Error::from_raw_os_error(code.saturating_neg()));
        }
        Ok((answer, HEADER_BYTES + body.len()))
    }
}

/// The messages in what one `recv` brought: kind and body. Ends where the lengths make no sense.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER_BYTES..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes of a body: kind without its flag bits, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|&bytes| u32::from_ne_bytes(bytes))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn link_body(index: u32) -> [u8; LINK_BODY_BYTES] {
    let mut body = [0; LINK_BODY_BYTES];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

/// Asks rtnetlink about the interface of that index.
pub(super) fn link(index: u32) -> io::Result<LinkAnswer> {
    let netlink = Netlink::open(libc::NETLINK_ROUTE, 0)?;
    let mut buffer = vec![0; ANSWER_BYTES];
    let (_, len) = netlink.ask(libc::RTM_GETLINK, &link_body(index), &mut buffer)?;
    Ok(parse_link(
        buffer
            .get(HEADER_BYTES + LINK_BODY_BYTES..len)
            .unwrap_or_default(),
    ))
}

fn parse_link(attributes_bytes: &[u8]) -> LinkAnswer {
    /// Values of IFLA_XDP_ATTACHED.
    const ATTACHED_NATIVE: u8 = 1;
    let mut answer = LinkAnswer::default();
    for (kind, value) in attributes(attributes_bytes) {
        match kind {
            IFLA_NUM_RX_QUEUES => answer.rx_queues = number(value),
            IFLA_XDP => {
                let mut is_native = false;
                for (kind, value) in attributes(value) {
                    match kind {
                        IFLA_XDP_ATTACHED => is_native = value.first() == Some(&ATTACHED_NATIVE),
                        IFLA_XDP_DRV_PROG_ID => answer.native_program = number(value),
                        IFLA_XDP_SKB_PROG_ID => answer.generic_program = number(value),
                        // Older kernels tell one program and its mode instead; newer ones tell it besides.
                        IFLA_XDP_PROG_ID if is_native => answer.native_program = number(value),
                        IFLA_XDP_PROG_ID => {
                            answer.generic_program = answer.generic_program.or(number(value))
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    answer
}

/// The driver's XDP features as generic netlink's `netdev` family tells them (Linux 6.3 and later).
pub(super) fn xdp_features(index: u32) -> io::Result<u64> {
    let netlink = Netlink::open(libc::NETLINK_GENERIC, 0)?;
    let mut buffer = vec![0; ANSWER_BYTES];
    let get_family = u8::try_from(libc::CTRL_CMD_GETFAMILY).map_err(io::Error::other)?;
    let name_kind = u16::try_from(libc::CTRL_ATTR_FAMILY_NAME).map_err(io::Error::other)?;
    let id_kind = u16::try_from(libc::CTRL_ATTR_FAMILY_ID).map_err(io::Error::other)?;
    let mut body = vec![get_family, 1, 0, 0];
    body.extend(attribute(name_kind, b"netdev\0"));
    let controller = u16::try_from(libc::GENL_ID_CTRL).map_err(io::Error::other)?;
    let (_, len) = netlink.ask(controller, &body, &mut buffer)?;
    let family = attributes(
        buffer
            .get(HEADER_BYTES + GENERIC_BODY_BYTES..len)
            .unwrap_or_default(),
    )
    .find(|&(kind, _)| kind == id_kind)
    .and_then(|(_, value)| value.first_chunk().map(|&bytes| u16::from_ne_bytes(bytes)))
    .ok_or_else(|| io::Error::other("generic netlink knows no family `netdev`"))?;

    let mut body = vec![NETDEV_CMD_DEV_GET, 1, 0, 0];
    body.extend(attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes()));
    let (_, len) = netlink.ask(family, &body, &mut buffer)?;
    attributes(
        buffer
            .get(HEADER_BYTES + GENERIC_BODY_BYTES..len)
            .unwrap_or_default(),
    )
    .find(|&(kind, _)| kind == NETDEV_A_DEV_XDP_FEATURES)
    .and_then(|(_, value)| value.first_chunk().map(|&bytes| u64::from_ne_bytes(bytes)))
    .ok_or_else(|| io::Error::other("the netdev family told no XDP features"))
}

/// Sees one interface go down and up without ever waiting.
///
/// The library that kicks the ring hides ENETDOWN, and a link that only receives is never told. Notices are queued by
/// the kernel, so a flap between two looks is not missed; asking for the flags would take the RTNL lock or miss it.
#[derive(Debug)]
pub(super) struct Watch {
    netlink: Netlink,
    index: u32,
    up: bool,
    buffer: Box<[u8]>,
}

impl Watch {
    /// Starts with the interface as `flags()` tells it, asked after the subscription so that no change falls between.
    pub(super) fn open(index: u32, flags: impl FnOnce() -> io::Result<u32>) -> io::Result<Self> {
        /// RTMGRP_LINK as a bit of `nl_groups`.
        const GROUP_LINK: u32 = 1;
        let netlink = Netlink::open(libc::NETLINK_ROUTE, GROUP_LINK)?;
        let up = is_running(flags()?);
        Ok(Self {
            netlink,
            index,
            up,
            buffer: vec![0; ANSWER_BYTES].into_boxed_slice(),
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// How often the interface went down since the last look. One system call where nothing happened.
    pub(super) fn downs(&mut self) -> u64 {
        /// A storm of notices, of other interfaces as a rule, must not hold the data path up: the rest is for the next look.
        const NOTICES_MAX: usize = 8;
        let mut downs = 0;
        for _ in 0..NOTICES_MAX {
            let Ok(len) = self.netlink.receive(&mut self.buffer, libc::MSG_DONTWAIT) else {
                break;
            };
            for (kind, body) in messages(&self.buffer[..len]) {
                let Some(up) = notice(kind, body, self.index) else {
                    continue;
                };
                downs += u64::from(self.up && !up);
                self.up = up;
            }
        }
        downs
    }
}

/// What a notice says of the interface: `Some(true)` when it runs; `None` when it is about something else.
fn notice(kind: u16, body: &[u8], index: u32) -> Option<bool> {
    if number(body.get(4..)?)? != index {
        return None;
    }
    match kind {
        libc::RTM_NEWLINK => Some(is_running(number(body.get(8..)?)?)),
        libc::RTM_DELLINK => Some(false),
        _ => None,
    }
}

/// Up by the operator's word and by the carrier's.
fn is_running(flags: u32) -> bool {
    let wanted = (libc::IFF_UP | libc::IFF_RUNNING).cast_unsigned();
    flags & wanted == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link_notice(kind: u16, index: u32, flags: i32) -> Vec<u8> {
        let mut bytes = 32_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10 + 4]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn a_notice_is_read_for_its_own_interface_only() {
        let up = link_notice(libc::RTM_NEWLINK, 7, libc::IFF_UP | libc::IFF_RUNNING);
        let (kind, body) = messages(&up).next().expect("one message");
        assert_eq!(notice(kind, body, 7), Some(true));
        assert_eq!(notice(kind, body, 8), None);
        let no_carrier = link_notice(libc::RTM_NEWLINK, 7, libc::IFF_UP);
        let (kind, body) = messages(&no_carrier).next().expect("one message");
        assert_eq!(notice(kind, body, 7), Some(false));
    }

    #[test]
    fn lengths_that_make_no_sense_end_the_walk() {
        let mut bytes = link_notice(libc::RTM_NEWLINK, 7, 0);
        bytes[0] = 200;
        assert_eq!(messages(&bytes).count(), 0);
        bytes[0] = 8;
        assert_eq!(messages(&bytes).count(), 0);
        assert_eq!(
            attributes(&[3, 0, 1, 0]).count(),
            0,
            "shorter than its own header"
        );
        assert_eq!(
            attributes(&[9, 0, 1, 0, 5]).count(),
            0,
            "longer than what is there"
        );
    }

    #[test]
    fn attached_programs_are_told_apart_by_mode() {
        let mut inner = attribute(IFLA_XDP_ATTACHED, &[1]);
        inner.extend(attribute(IFLA_XDP_PROG_ID, &40_u32.to_ne_bytes()));
        let mut bytes = attribute(IFLA_NUM_RX_QUEUES, &2_u32.to_ne_bytes());
        bytes.extend(attribute(IFLA_XDP, &inner));
        let answer = parse_link(&bytes);
        assert_eq!(answer.rx_queues, Some(2));
        assert_eq!(answer.native_program, Some(40));
        assert_eq!(answer.generic_program, None);

        let mut inner = attribute(IFLA_XDP_ATTACHED, &[2]);
        inner.extend(attribute(IFLA_XDP_PROG_ID, &41_u32.to_ne_bytes()));
        inner.extend(attribute(IFLA_XDP_SKB_PROG_ID, &41_u32.to_ne_bytes()));
        let answer = parse_link(&attribute(IFLA_XDP, &inner));
        assert_eq!(
            (answer.native_program, answer.generic_program),
            (None, Some(41))
        );
    }
}
