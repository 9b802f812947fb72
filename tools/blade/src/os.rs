//! The few system calls that neither std nor the crates below offer.
#![allow(
    unsafe_code,
    reason = "signals, locked memory and an end without clean-up have no safe form in std"
)]

use std::io;
use std::mem::MaybeUninit;

/// The signals that ask for an orderly end.
const STOPS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

fn stop_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `set` is valid for a write of a signal set, which sigemptyset makes.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigemptyset made it; it fails for null pointers only.
    let mut set = unsafe { set.assume_init() };
    for signal in STOPS {
        // SAFETY: the set is a live one, the signal's number a valid one.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Keeps the signals that end the process for [`wait_for_stop`]. Threads that are started later inherit it.
pub(crate) fn hold_stops() -> io::Result<()> {
    let set = stop_set();
    // SAFETY: the set is a live one, and a null pointer asks for no old one.
    let error =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

/// Sleeps until the process is asked to end; the signal's name.
pub(crate) fn wait_for_stop() -> &'static str {
    let set = stop_set();
    loop {
        let mut signal = 0;
        // SAFETY: both pointers are to live objects.
        let error = unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        match signal {
            libc::SIGTERM if error == 0 => return "SIGTERM",
            libc::SIGINT if error == 0 => return "SIGINT",
            _ => {}
        }
    }
}

/// Keeps all memory of the process, present and future, from being swapped out.
pub(crate) fn lock_memory() -> io::Result<()> {
    // SAFETY: mlockall takes one number and touches no memory of ours.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Memory that can be had without pushing anybody's out, in bytes, as the kernel estimates it; zero where it does not tell.
pub(crate) fn available_memory_bytes() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Files that `make` makes are nobody else's from the start. What other threads make meanwhile is so, too.
pub(crate) fn with_private_files<T>(make: impl FnOnce() -> T) -> T {
    // SAFETY: umask takes one number and never fails.
    let before = unsafe { libc::umask(0o077) };
    let made = make();
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    made
}

/// Ends the process as a crash would: no destructor, no buffer, no exit handler.
pub(crate) fn end_now(code: i32) -> ! {
    // SAFETY: _exit never returns and has no preconditions.
    unsafe { libc::_exit(code) }
}
