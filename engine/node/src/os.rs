//! The few system calls that std does not offer.
#![allow(
    unsafe_code,
    reason = "eventfd, ppoll, clock_gettime, prctl and sched_* have no safe wrapper in std"
)]

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use crate::doorbell::Bell;

/// Nanoseconds since boot, suspends included.
pub(crate) fn boottime_ns() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` is valid for a write of a timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, time.as_mut_ptr()) };
    assert_eq!(
        result, 0,
        "CLOCK_BOOTTIME is missing (Linux has it since 2.6.39)"
    );
    // SAFETY: clock_gettime succeeded, so it filled the timespec in.
    let time = unsafe { time.assume_init() };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds * 1_000_000_000 + nanoseconds
}

/// An eventfd, non-blocking.
#[derive(Debug)]
pub struct EventFd {
    file: File,
}

impl EventFd {
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes two plain numbers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { file: fd.into() })
    }

    /// Forgets earlier rings.
    pub fn drain(&self) {
        // An error means that nobody rang.
        let _ = (&self.file).read(&mut [0; 8]);
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Bell for EventFd {
    fn ring(&self) {
        // SAFETY: the descriptor is an open eventfd. It fails only when 2^64 - 2 rings are pending: readable anyway.
        unsafe { libc::eventfd_write(self.file.as_raw_fd(), 1) };
    }
}

/// Descriptors to wait on, allocated once.
#[derive(Debug)]
pub struct PollSet {
    fds: Vec<libc::pollfd>,
}

impl PollSet {
    /// For `count` descriptors.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let none = libc::pollfd {
            fd: -1,
            events: libc::POLLIN,
            revents: 0,
        };
        Self {
            fds: vec![none; count],
        }
    }

    /// Sets one place; `None` leaves it out (poll(2) ignores negative descriptors).
    pub fn set(&mut self, place: usize, fd: Option<RawFd>) {
        self.fds[place].fd = fd.unwrap_or(-1);
    }

    /// Blocks until a descriptor is readable, a signal comes, or `timeout` is over; whether something is readable.
    pub fn wait(&mut self, timeout: Option<Duration>) -> bool {
        let time = timeout.map(|timeout| libc::timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let time_ptr = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        let count = libc::nfds_t::try_from(self.fds.len()).unwrap_or(0);
        // SAFETY: `fds` has `count` entries, `time_ptr` is null or points to `time`, which outlives the call, and a
        // null signal mask changes nothing.
        let ready = unsafe { libc::ppoll(self.fds.as_mut_ptr(), count, time_ptr, ptr::null()) };
        ready > 0
    }
}

/// Pins the calling thread, which is the loop of that number, to a core; whether it is pinned. A core that it can't be
/// pinned to is logged.
pub fn pin(number: usize, core: usize) -> bool {
    // The crate panics when asked for a core past its mask.
    let known = core_affinity::get_core_ids().unwrap_or_default();
    let id = core_affinity::CoreId { id: core };
    let pinned = known.contains(&id) && core_affinity::set_for_current(id);
    if !pinned {
        tracing::warn!(number, core, "could not pin the thread to this core");
    }
    pinned
}

/// Lets this thread's timers expire within a microsecond instead of the default 50 (prctl(2), PR_SET_TIMERSLACK).
pub fn sharpen_timers() {
    let slack_ns: libc::c_ulong = 1_000;
    // SAFETY: PR_SET_TIMERSLACK takes one number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns) };
}

/// Puts this thread into SCHED_FIFO.
///
/// # Errors
/// Without CAP_SYS_NICE, or with a priority outside 1..=99.
pub(crate) fn set_fifo(priority: u8) -> io::Result<()> {
    let param = libc::sched_param {
        sched_priority: i32::from(priority),
    };
    // SAFETY: pid 0 is the calling thread, `param` outlives the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// This thread's scheduling class, in words fit for a report.
pub(crate) fn scheduling() -> String {
    // SAFETY: pid 0 is the calling thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    match policy {
        libc::SCHED_OTHER => "SCHED_OTHER".to_owned(),
        libc::SCHED_BATCH => "SCHED_BATCH".to_owned(),
        libc::SCHED_FIFO => "SCHED_FIFO".to_owned(),
        libc::SCHED_RR => "SCHED_RR".to_owned(),
        other => format!("policy {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_ends_the_wait_once() {
        let bell = EventFd::new().unwrap();
        let mut set = PollSet::new(2);
        set.set(1, Some(bell.as_raw_fd()));
        assert!(!set.wait(Some(Duration::from_millis(1))));
        bell.ring();
        bell.ring();
        assert!(set.wait(None));
        bell.drain();
        assert!(!set.wait(Some(Duration::ZERO)));
        bell.drain();
    }

    #[test]
    fn the_wait_takes_as_long_as_told() {
        let before = boottime_ns();
        assert!(!PollSet::new(1).wait(Some(Duration::from_millis(5))));
        assert!(boottime_ns() - before >= 5_000_000);
    }
}
