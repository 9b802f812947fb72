//! Entering a network namespace, one thread at a time.
#![allow(
    unsafe_code,
    reason = "setns, unshare and mount have no safe form in the standard library"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::error::LabError;

/// Where iproute2 keeps its named namespaces (ip-netns(8)).
pub(crate) const DIRECTORY: &str = "/run/netns";

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Runs `work` on a new thread inside the namespace and returns its result; a panic in it goes on in the caller.
pub(crate) fn enter<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let outcome = std::thread::scope(|scope| {
        let inside = || {
            join(name)?;
            Ok(work())
        };
        let thread = std::thread::Builder::new()
            .name(format!("in {name}"))
            .spawn_scoped(scope, inside);
        thread.map(std::thread::ScopedJoinHandle::join)
    });
    match outcome.map_err(LabError::io("start a thread"))? {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Moves the calling thread into the namespace, with a `/sys` that shows its interfaces, as `ip netns exec` does.
fn join(name: &str) -> Result<(), LabError> {
    let file = File::open(path(name)).map_err(LabError::io(format!("open namespace {name}")))?;
    // SAFETY: `setns` takes a descriptor, which `file` keeps open, and changes the calling thread alone.
    let joined = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    check(joined).map_err(LabError::io(format!("join namespace {name}")))?;

    // The mounts are made in a mount namespace of this thread's own, and "slave" keeps them from spreading to the host.
    // SAFETY: `unshare` takes flags only and changes the calling thread alone.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    check(unshared).map_err(LabError::io("make a mount namespace"))?;
    let (none, root, sys, sysfs) = (
        c"none".as_ptr(),
        c"/".as_ptr(),
        c"/sys".as_ptr(),
        c"sysfs".as_ptr(),
    );
    let no_data = std::ptr::null();
    // SAFETY: all pointers are to constant, terminated strings, or null where mount(2) allows it.
    let slave = unsafe {
        libc::mount(
            none,
            root,
            std::ptr::null(),
            libc::MS_SLAVE | libc::MS_REC,
            no_data,
        )
    };
    check(slave).map_err(LabError::io("keep mounts private"))?;
    // A failure here only means that nothing was mounted: the mount below tells whether it matters.
    // SAFETY: the pointer is to a constant, terminated string.
    let _ = unsafe { libc::umount2(sys, libc::MNT_DETACH) };
    // SAFETY: all pointers are to constant, terminated strings, or null where mount(2) allows it.
    let mounted = unsafe { libc::mount(sysfs, sys, sysfs, 0, no_data) };
    check(mounted).map_err(LabError::io("mount the namespace's /sys"))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
