//! The io_uring instance of a file disk: requests in, completions out.
#![allow(
    unsafe_code,
    reason = "io_uring takes addresses; that they stay valid until the completion is promised here"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::table::{CHAIN_OPERATIONS_MAX, Kind, Request, Table};
use crate::memory::Slots;

/// The disk's file and its slots have the first place in the ring's tables.
const FILE: types::Fixed = types::Fixed(0);
const BUFFER: u16 = 0;

/// Pieces of merged requests: a row for each operation, in use while that operation heads a request.
struct Rows(Vec<libc::iovec>);

// SAFETY: the addresses in it lead into the slots that the same disk owns, and are read by the kernel only.
unsafe impl Send for Rows {}

pub(super) struct Ring {
    ring: IoUring,
    rows: Rows,
    backlog: bool,
    write_flags: i32,
    /// Whether the slots are registered, and why not.
    registered: Result<(), io::Error>,
    /// Whether merged requests can use registered slots (since Linux 6.15).
    vectored_fixed: bool,
}

impl Ring {
    /// A ring for `operations_max` operations on `file`. The ring holds on to the file, and its lock, until the last
    /// request is over, even when the process dies before.
    pub(super) fn new(
        operations_max: u32,
        file: &File,
        slots: &Slots,
        write_through: bool,
    ) -> io::Result<Self> {
        let entries = operations_max.next_power_of_two();
        // Since Linux 5.18; without it a bad request keeps those behind it from being submitted by the same call.
        let ring = match IoUring::builder().setup_submit_all().build(entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                IoUring::builder().build(entries)?
            }
            other => other?,
        };
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let (start, len) = slots.whole();
        let whole = libc::iovec {
            iov_base: start.as_ptr().cast(),
            iov_len: len,
        };
        // SAFETY: the slots are mapped, and the disk keeps them until the ring has nothing under way.
        let registered = unsafe { ring.submitter().register_buffers(&[whole]) };
        let mut probe = Probe::new();
        let vectored_fixed = registered.is_ok()
            && ring.submitter().register_probe(&mut probe).is_ok()
            && probe.is_supported(opcode::ReadvFixed::CODE)
            && probe.is_supported(opcode::WritevFixed::CODE);
        let empty = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let pieces = operations_max.saturating_mul(CHAIN_OPERATIONS_MAX);
        Ok(Self {
            ring,
            rows: Rows(vec![empty; usize::try_from(pieces).unwrap_or(usize::MAX)]),
            backlog: false,
            write_flags: if write_through { libc::RWF_DSYNC } else { 0 },
            registered,
            vectored_fixed,
        })
    }

    pub(super) fn registered(&self) -> Result<(), &io::Error> {
        self.registered.as_ref().copied()
    }

    /// Readable, for poll(2), while completions wait.
    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Whether requests wait that the kernel did not take yet.
    pub(super) fn has_backlog(&self) -> bool {
        self.backlog
    }

    /// Puts all requests of a plan into the submission ring.
    ///
    /// # Panics
    /// If there is a backlog: the ring has room for every operation once.
    ///
    /// # Safety
    /// The slots of the requests' operations are not touched, and `slots` lives, until the requests are complete.
    pub(super) unsafe fn push(&mut self, table: &Table, slots: &Slots, full_sync: bool) {
        let fixed = self.registered.is_ok();
        let style = Style {
            fixed,
            vectored_fixed: self.vectored_fixed,
            write_flags: self.write_flags,
            full_sync,
        };
        let row_len = usize::try_from(CHAIN_OPERATIONS_MAX).unwrap_or(usize::MAX);
        let mut queue = self.ring.submission();
        for request in table.requests() {
            let start = usize::try_from(request.head).unwrap_or(usize::MAX) * row_len;
            let row = &mut self.rows.0[start..start + row_len];
            if matches!(request.kind, Kind::Read | Kind::Write) {
                for (piece, (io, operation)) in row.iter_mut().zip(table.chain(request.head)) {
                    let slot = usize::try_from(io).unwrap_or(usize::MAX);
                    let offset = usize::try_from(operation.done()).unwrap_or(usize::MAX);
                    let len = usize::try_from(operation.left()).unwrap_or(usize::MAX);
                    *piece = libc::iovec {
                        iov_base: slots.address(slot, offset, len).as_ptr().cast(),
                        iov_len: len,
                    };
                }
            }
            let entry = style.entry(request, row).user_data(u64::from(request.head));
            // SAFETY: the entry's addresses lead into the slots and into the row of its head, which stay as they are until
            // the request is complete: the slots by the caller's promise, the row because an operation heads one request
            // at a time.
            let pushed = unsafe { queue.push(&entry) };
            assert!(
                pushed.is_ok(),
                "the ring is full with {} operations",
                table.submitted()
            );
        }
    }

    /// One system call for all that was pushed. What the kernel does not take now stays for the next call.
    pub(super) fn submit(&mut self) {
        // EINTR, EAGAIN and EBUSY leave the entries where they are; so does any other error, and the caller tries again.
        let _ = self.ring.submit();
        self.backlog = !self.ring.submission().is_empty();
    }

    /// A completion, if one waits: the request's head and the kernel's word. No system call.
    pub(super) fn reap(&mut self) -> Option<(u32, i32)> {
        let entry = self.ring.completion().next()?;
        let head = u32::try_from(entry.user_data()).unwrap_or(u32::MAX);
        Some((head, entry.result()))
    }

    /// Waits for a completion, `limit` at the most. For the end only.
    pub(super) fn wait(&mut self, limit: Duration) {
        let limit = types::Timespec::from(limit);
        let arguments = types::SubmitArgs::new().timespec(&limit);
        let _ = self.ring.submitter().submit_with_args(1, &arguments);
    }
}

/// How requests become entries of the ring.
#[derive(Clone, Copy)]
struct Style {
    fixed: bool,
    vectored_fixed: bool,
    write_flags: i32,
    full_sync: bool,
}

impl Style {
    fn entry(self, request: &Request, row: &[libc::iovec]) -> squeue::Entry {
        let offset = request.offset;
        match request.kind {
            Kind::Read => self.read(request, row, offset),
            Kind::Write => self.write(request, row, offset),
            Kind::Flush if self.full_sync => opcode::Fsync::new(FILE).build(),
            Kind::Flush => opcode::Fsync::new(FILE)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Kind::Discard => opcode::Fallocate::new(FILE, request.len)
                .offset(offset)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
        }
    }

    fn read(self, request: &Request, row: &[libc::iovec], offset: u64) -> squeue::Entry {
        let (start, count) = (row.as_ptr(), request.operations);
        if count == 1 {
            let to = row[0].iov_base.cast::<u8>();
            let len = u32::try_from(request.len).unwrap_or(u32::MAX);
            return if self.fixed {
                let read = opcode::ReadFixed::new(FILE, to, len, BUFFER);
                read.offset(offset).build()
            } else {
                opcode::Read::new(FILE, to, len).offset(offset).build()
            };
        }
        if self.vectored_fixed {
            let read = opcode::ReadvFixed::new(FILE, start, count, BUFFER);
            read.offset(offset).build()
        } else {
            opcode::Readv::new(FILE, start, count)
                .offset(offset)
                .build()
        }
    }

    fn write(self, request: &Request, row: &[libc::iovec], offset: u64) -> squeue::Entry {
        let (start, count) = (row.as_ptr(), request.operations);
        let flags = self.write_flags;
        if count == 1 {
            let from = row[0].iov_base.cast::<u8>().cast_const();
            let len = u32::try_from(request.len).unwrap_or(u32::MAX);
            return if self.fixed {
                let write = opcode::WriteFixed::new(FILE, from, len, BUFFER);
                write.offset(offset).rw_flags(flags).build()
            } else {
                let write = opcode::Write::new(FILE, from, len);
                write.offset(offset).rw_flags(flags).build()
            };
        }
        if self.vectored_fixed {
            let write = opcode::WritevFixed::new(FILE, start, count, BUFFER);
            write.offset(offset).rw_flags(flags).build()
        } else {
            let write = opcode::Writev::new(FILE, start, count);
            write.offset(offset).rw_flags(flags).build()
        }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
