//! Memory and sockets of one queue.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant as Clock};

use sandrail_ebpf as ebpf;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue};

use super::error::{XdpError, errno_of, memlock_limit};
use super::netlink::Watch;
use super::program::{Attached, BUSY_PAUSE, Hook};
use super::queue::{self, Chunks, Memory, Queue, SEGMENT_BYTES};
use super::socket::{Parts, XdpLink};
use super::{LINK_HEADER_BYTES_MAX, XdpConfig, ZeroCopy, probe};
use crate::LinkInfo;

/// From `linux/if_xdp.h`, which the libc crate leaves out.
const XDP_OPTIONS: i32 = 8;
const XDP_OPTIONS_ZEROCOPY: u32 = 1;
/// Linux 6.17: frames that one system call sends; 32 where it is not known.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
/// Bytes of frames on their way that a socket may have in copy mode. The default of 208 KiB is 25 jumbo frames.
const SEND_BUFFER_BYTES: i32 = 16 << 20;

/// How long a socket that is just going away is waited for. The kernel frees a queue from a work item that takes the RTNL
/// lock (xp_release_deferred, xsk_buff_pool.c): within 30 ms as a rule, after seconds where namespaces come and go.
const BUSY_PATIENCE: Duration = Duration::from_secs(3);

/// One socket's rings.
struct Rings {
    tx: TxQueue,
    rx: RxQueue,
}

/// Everything that is bound to a queue at once.
struct Bound {
    memory: Memory,
    sockets: Vec<Rings>,
    fill: FillQueue,
    completion: CompQueue,
}

/// See [`super::XdpPort::links`].
pub(super) fn links(
    config: &XdpConfig,
    attached: &Arc<Attached>,
    queue: u32,
    shards: &[u32],
) -> Result<Vec<XdpLink>, XdpError> {
    check(attached, queue, shards)?;
    let chunks = chunks(config, shards.len());
    let bound = bind_patiently(config, attached, queue, chunks)?;
    let Bound {
        memory,
        sockets,
        mut fill,
        completion,
    } = bound;
    // SAFETY: all descriptors are of this UMEM and were never given to the kernel.
    let filled = unsafe { fill.produce(&memory.rx) };
    assert_eq!(filled, memory.rx.len(), "the fill ring has twice the room");

    let base = ebpf::socket_key(queue, 0);
    let shared = Arc::new(Queue::new(memory.umem, chunks, fill, completion));
    let mut links = Vec::with_capacity(shards.len());
    for (position, (rings, tx_free)) in sockets.into_iter().zip(memory.tx).enumerate() {
        let fd = rings.tx.fd().as_raw_fd();
        let own = ebpf::socket_key(queue, shards[position]);
        let mut keys = vec![own];
        if position == 0 && !shards.contains(&0) {
            keys.push(base);
        }
        tune(fd);
        let watch =
            Watch::open(attached.index, || attached.interface.flags()).map_err(|source| {
                XdpError::Os {
                    interface: config.interface.clone(),
                    call: "subscribe to link changes",
                    source,
                }
            })?;
        let parts = Parts {
            info: info(attached, queue, fd),
            attached: attached.clone(),
            queue: shared.clone(),
            position,
            keys,
            tx: rings.tx,
            rx: rings.rx,
            tx_free,
            chunks,
            watch,
        };
        links.push(XdpLink::new(parts));
    }
    // Only now do frames come in: every socket has its rings and its owner.
    for link in &links {
        link.take_frames()?;
    }
    Ok(links)
}

fn check(attached: &Attached, queue: u32, shards: &[u32]) -> Result<(), XdpError> {
    if queue >= attached.rx_queues {
        return Err(XdpError::QueueOutOfRange {
            interface: attached.interface.name().to_owned(),
            queue,
            queues: attached.rx_queues,
        });
    }
    if shards.is_empty() {
        return Err(XdpError::Config("a queue without shards".to_owned()));
    }
    for (position, &shard) in shards.iter().enumerate() {
        if shard >= ebpf::SHARDS_PER_QUEUE {
            return Err(XdpError::Config(format!(
                "shard {shard} is out of range: a tag names shards 0 to {}",
                ebpf::SHARDS_PER_QUEUE - 1
            )));
        }
        if shards[..position].contains(&shard) {
            return Err(XdpError::Config(format!("shard {shard} is named twice")));
        }
    }
    Ok(())
}

fn chunks(config: &XdpConfig, shards: usize) -> Chunks {
    /// A huge page of 2 MiB.
    const CHUNKS_PER_HUGEPAGE: u32 = 512;
    let count = u32::try_from(shards).unwrap_or(u32::MAX);
    let mut chunks = Chunks {
        shards,
        tx_each: config.tx_chunks,
        rx_all: config.rx_chunks.saturating_mul(count),
    };
    if config.hugepages {
        let total = chunks.total().next_multiple_of(CHUNKS_PER_HUGEPAGE);
        chunks.rx_all = total - chunks.tx_all();
    }
    chunks
}

/// Binds, waiting for a socket that is just going away.
fn bind_patiently(
    config: &XdpConfig,
    attached: &Attached,
    queue: u32,
    chunks: Chunks,
) -> Result<Bound, XdpError> {
    let started = Clock::now();
    loop {
        match bind(config, attached, queue, chunks) {
            // A UMEM cannot be bound a second time, so each try makes its own.
            Err(XdpError::QueueBusy { .. }) if started.elapsed() < BUSY_PATIENCE => {
                thread::sleep(BUSY_PAUSE)
            }
            other => return other,
        }
    }
}

fn bind(
    config: &XdpConfig,
    attached: &Attached,
    queue: u32,
    chunks: Chunks,
) -> Result<Bound, XdpError> {
    let refused = |call, error: &(dyn std::error::Error + 'static)| {
        refusal(config, attached, queue, chunks, call, error)
    };
    let memory = queue::umem(chunks, config.hugepages)
        .map_err(|error| refused("create the UMEM", error.as_ref()))?;
    let name = CString::new(config.interface.as_str())
        .map_err(|error| refused("name the interface", &error))?;
    let interface = Interface::new(name);
    let size = |ring: Option<u32>, chunks: u32| {
        QueueSize::new(ring.unwrap_or(chunks.next_power_of_two()))
            .map_err(|error| refused("size a ring", &error))
    };
    let socket_config = SocketConfig::builder()
        .rx_queue_size(size(config.rx_ring, config.rx_chunks)?)
        .tx_queue_size(size(config.tx_ring, config.tx_chunks)?)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(bind_flags(config, attached))
        .build();
    let mut sockets = Vec::with_capacity(chunks.shards);
    let mut shared = None;
    for _ in 0..chunks.shards {
        // SAFETY: the flag against loading a program is set, which is all that a shared UMEM asks for.
        let made = unsafe { Socket::new(socket_config, &memory.umem, &interface, queue) };
        let (tx, rx, rings) = made.map_err(|error| refused("bind an AF_XDP socket", &error))?;
        close_on_exec(tx.fd().as_raw_fd())
            .map_err(|error| refused("mark an AF_XDP socket", &error))?;
        sockets.push(Rings { tx, rx });
        shared = shared.or(rings);
    }
    let (fill, completion) = shared.ok_or_else(|| {
        XdpError::Config("the first socket of a queue came without its rings".to_owned())
    })?;
    Ok(Bound {
        memory,
        sockets,
        fill,
        completion,
    })
}

fn bind_flags(config: &XdpConfig, attached: &Attached) -> BindFlags {
    let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
    let features = probe::of(&attached.interface, attached.index)
        .features
        .unwrap_or(0);
    let may_zero_copy = attached.hook == Hook::Native
        && config.zero_copy == ZeroCopy::Auto
        && features & probe::FEATURE_ZERO_COPY != 0;
    if !may_zero_copy {
        flags |= BindFlags::XDP_COPY;
    }
    // Multi-buffer always, also for a later rise of the MTU; but where it is not needed it must not cost zero-copy on a driver that
    // has the one and not the other.
    if !may_zero_copy || attached.mtu_bytes + LINK_HEADER_BYTES_MAX > SEGMENT_BYTES {
        flags |= BindFlags::XDP_USE_SG;
    }
    flags
}

fn refusal(
    config: &XdpConfig,
    attached: &Attached,
    queue: u32,
    chunks: Chunks,
    call: &'static str,
    error: &(dyn std::error::Error + 'static),
) -> XdpError {
    let interface = config.interface.clone();
    match errno_of(error) {
        Some(libc::EPERM | libc::EACCES) => XdpError::NotPermitted {
            action: call,
            interface,
        },
        Some(libc::ENOBUFS | libc::ENOMEM) => XdpError::Memory {
            len_bytes: chunks.len_bytes(),
            limit: memlock_limit(),
            hugepages_hint: if config.hugepages {
                "; huge pages were asked for: see HugePages_Free in /proc/meminfo, reserve with vm.nr_hugepages"
            } else {
                ""
            },
        },
        Some(libc::EOPNOTSUPP) => XdpError::Unsupported {
            interface,
            driver: attached.driver.clone(),
            what: format!(
                "AF_XDP in {} mode with these settings",
                attached.hook.words()
            ),
        },
        Some(libc::EBUSY) => XdpError::QueueBusy { interface, queue },
        Some(libc::ENETDOWN) => XdpError::InterfaceDown { interface },
        Some(number) => XdpError::Os {
            interface,
            call,
            source: std::io::Error::from_raw_os_error(number),
        },
        None => XdpError::Config(format!("cannot {call}: {error}")),
    }
}

/// A program that this process starts must not keep the queue: libxdp makes its sockets without SOCK_CLOEXEC. A child that is
/// started on another thread within the milliseconds of opening still inherits one, for which there is no remedy here.
fn close_on_exec(fd: i32) -> std::io::Result<()> {
    // SAFETY: the descriptor is open; no memory is passed.
    let result = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

/// Settings that may be refused: without them it works, with more system calls.
fn tune(fd: i32) {
    /// More than that at a time would keep the thread in one system call for too long.
    const BUDGET_MAX: u32 = 256;
    let set = |level: i32, name: i32, value: i32| -> bool {
        let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
        // SAFETY: the pointer and the length are those of a live integer.
        let result = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), len) };
        result == 0
    };
    if !set(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES) {
        set(libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER_BYTES);
    }
    // The kernel takes no budget above the ring's size.
    let mut budget = BUDGET_MAX;
    while budget > 32
        && !set(
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            i32::try_from(budget).unwrap_or(32),
        )
    {
        budget /= 2;
    }
}

fn is_zero_copy(fd: i32) -> bool {
    let mut options: u32 = 0;
    let mut len = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4);
    // SAFETY: the pointers are to live integers, the second tells the size of the first.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_XDP,
            XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut len,
        )
    };
    result == 0 && options & XDP_OPTIONS_ZEROCOPY != 0
}

fn info(attached: &Attached, queue: u32, fd: i32) -> LinkInfo {
    let copy = if is_zero_copy(fd) {
        "zero-copy"
    } else {
        "copy"
    };
    LinkInfo {
        interface: attached.interface.name().to_owned(),
        mac: attached.mac,
        mtu_bytes: attached.mtu_bytes,
        queue,
        mode: format!("{} {copy}", attached.hook.words()),
    }
}
