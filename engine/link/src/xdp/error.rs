//! Why AF_XDP could not be had, in words that say what to do.

use std::io;

/// Why an interface could not be opened for AF_XDP.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// No interface of that name in this network namespace.
    #[error("interface {interface} does not exist in this network namespace")]
    InterfaceMissing {
        /// The name asked for.
        interface: String,
    },
    /// The interface is administratively down.
    #[error("interface {interface} is down: `ip link set {interface} up` first")]
    InterfaceDown {
        /// The interface.
        interface: String,
    },
    /// The kernel wants more privilege.
    #[error(
        "no permission to {action} on {interface}: AF_XDP needs CAP_NET_RAW (socket), CAP_NET_ADMIN and CAP_BPF (program, maps); \
         run as root, or `setcap cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock=ep` the binary"
    )]
    NotPermitted {
        /// What was tried.
        action: &'static str,
        /// The interface.
        interface: String,
    },
    /// The kernel would not lock or find the memory.
    #[error(
        "no memory for {len_bytes} bytes of UMEM: locked memory is limited to {limit} here; raise `ulimit -l` \
         (LimitMEMLOCK=), grant CAP_IPC_LOCK, or ask for fewer frames{hugepages_hint}"
    )]
    Memory {
        /// Size of the UMEM that was asked for.
        len_bytes: usize,
        /// RLIMIT_MEMLOCK in words.
        limit: String,
        /// What else to look at when huge pages were asked for.
        hugepages_hint: &'static str,
    },
    /// Driver or kernel does not do this.
    #[error("{interface} (driver {driver}) does not support {what}")]
    Unsupported {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What it lacks.
        what: String,
    },
    /// The interface has fewer receive queues.
    #[error(
        "queue {queue} is out of range: {interface} has {queues} receive queue(s), counted from 0"
    )]
    QueueOutOfRange {
        /// The interface.
        interface: String,
        /// The queue asked for.
        queue: u32,
        /// How many there are.
        queues: u32,
    },
    /// Frames of this MTU do not fit the segments of a frame.
    #[error(
        "MTU {mtu_bytes} of {interface} is too large: AF_XDP frames here hold an MTU of at most {max_bytes} bytes"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu_bytes: usize,
        /// The largest that works.
        max_bytes: usize,
    },
    /// Another program holds the interface's XDP hook.
    #[error(
        "{interface} has an XDP program attached already: {holder}; stop its owner, or `ip link set {interface} xdp off`"
    )]
    ProgramBusy {
        /// The interface.
        interface: String,
        /// Who, as far as can be told: mode, id and name of the program.
        holder: String,
    },
    /// Another AF_XDP socket is bound to the queue.
    #[error("queue {queue} of {interface} is bound by another AF_XDP socket")]
    QueueBusy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
    /// The program could not be loaded or attached.
    #[error("cannot {action} the XDP program on {interface}: {message}")]
    Program {
        /// The interface.
        interface: String,
        /// What was tried.
        action: &'static str,
        /// The loader's words.
        message: String,
    },
    /// Anything else that the operating system refuses.
    #[error("{call} failed on {interface}: {source}")]
    Os {
        /// The interface.
        interface: String,
        /// What was called.
        call: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// The error number at the bottom of a chain of errors, if there is an I/O error in it.
pub(super) fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// RLIMIT_MEMLOCK in words.
pub(super) fn memlock_limit() -> String {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live `rlimit`.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    match limit.rlim_cur {
        _ if result != 0 => "an unknown amount".to_owned(),
        libc::RLIM_INFINITY => "no limit".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}
