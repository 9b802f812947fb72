//! A packet socket: what the kernel's own stack sends and gets.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use sandrail_lab::{Lab, Side};

/// A raw packet socket on one side's interface.
pub(crate) struct Raw {
    socket: OwnedFd,
}

impl Raw {
    /// Gets frames of that ethertype that the kernel's stack gets.
    pub(crate) fn open(lab: &Lab, side: Side, ethertype: u16) -> Self {
        let interface = std::ffi::CString::new(lab.interface(side)).expect("no zero in a name");
        lab.enter(side, || {
            let protocol = i32::from(ethertype.to_be());
            // SAFETY: plain system call.
            let fd = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                    protocol,
                )
            };
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            // SAFETY: the descriptor was just made and belongs to nobody else.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: the pointer is to a live string.
            let index = unsafe { libc::if_nametoindex(interface.as_ptr()) };
            // SAFETY: all bytes zero is a valid `sockaddr_ll`.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = ethertype.to_be();
            address.sll_ifindex = i32::try_from(index).expect("an index");
            let len = size_of::<libc::sockaddr_ll>() as u32;
            // SAFETY: the address is a live `sockaddr_ll` of the length given.
            let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
            assert_eq!(bound, 0, "{}", io::Error::last_os_error());
            Self { socket }
        })
        .expect("the namespace can be entered")
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        // SAFETY: the pointer and the length are those of a live slice.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
            )
        };
        assert!(
            sent >= 0,
            "{} bytes: {}",
            frame.len(),
            io::Error::last_os_error()
        );
    }

    /// The next frame, if one is there.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 1 << 16];
        // SAFETY: the pointer and the length are those of a live vector.
        let got = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
            )
        };
        frame.truncate(usize::try_from(got).ok()?);
        Some(frame)
    }
}
