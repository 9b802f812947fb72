//! What goes wrong in a run, and what is counted of it.

/// Something that goes wrong, or is done, at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// A target's process is stopped; its socket goes on filling.
    PauseTarget {
        /// Which.
        target: u8,
        /// Which of its sockets.
        queue: u8,
        /// How long.
        for_ns: u64,
    },
    /// A target ends and starts again.
    RestartTarget {
        /// Which.
        target: u8,
        /// How long it is away; `u64::MAX`: for good.
        down_ns: u64,
        /// Power fails: some of what was not flushed is lost.
        power: bool,
        /// It advertises itself at its start.
        advertises: bool,
    },
    /// A target's size changes.
    Resize {
        /// Which.
        target: u8,
        /// Sectors from now on.
        sectors: u64,
    },
    /// Somebody else reserves a target, and releases it.
    Reserve {
        /// Which.
        target: u8,
        /// How long.
        for_ns: u64,
    },
    /// A host's thread is not scheduled.
    PauseHost {
        /// Which.
        host: u8,
        /// How long.
        for_ns: u64,
    },
    /// A host's process ends and a new one starts with the same addresses.
    CrashHost {
        /// Which.
        host: u8,
        /// How long it is away.
        down_ns: u64,
    },
    /// A host lets a target go, and attaches it again as soon as it may.
    Detach {
        /// Which host.
        host: u8,
        /// Which target.
        target: u8,
    },
    /// An interface's frames stay in its ring.
    StallTransmit {
        /// Which host.
        host: u8,
        /// Which interface.
        interface: u8,
        /// How long.
        for_ns: u64,
    },
    /// A host's transmit rings are full.
    BlockTransmit {
        /// Which.
        host: u8,
        /// How long.
        for_ns: u64,
    },
    /// A port of the switch is down.
    PortDown {
        /// Which.
        port: u8,
        /// How long.
        for_ns: u64,
    },
    /// The blade's process is killed, or its machine loses power, and it starts again.
    StopMachine {
        /// How long it is away.
        down_ns: u64,
        /// Power fails: some of what was not flushed is lost.
        power: bool,
    },
    /// The blade's thread is not scheduled.
    PauseMachine {
        /// How long.
        for_ns: u64,
    },
    /// Nothing gets from one port to another; the way back is open.
    Block {
        /// From.
        from: u8,
        /// To.
        to: u8,
        /// How long.
        for_ns: u64,
    },
    /// A port carries less from now on.
    Shrink {
        /// Which.
        port: u8,
        /// Bytes behind the Ethernet header.
        mtu_bytes: usize,
    },
}

/// What a run counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests accepted.
    pub requests: u64,
    /// Of those, succeeded.
    pub succeeded: u64,
    /// Failed by their deadline.
    pub deadlines: u64,
    /// Failed otherwise.
    pub failed: u64,
    /// Not accepted.
    pub rejected: u64,
    /// Flushes that failed for suspected loss.
    pub losses_told: u64,
    /// Sectors that crashes took.
    pub sectors_lost: u64,
    /// Frames sent by hosts.
    pub frames: u64,
    /// Of those, WRITEs.
    pub write_frames: u64,
    /// Of those, config queries.
    pub query_frames: u64,
    /// Frames lost in full sockets.
    pub socket_drops: u64,
    /// Runs that show nothing: without S3, an initiator sent a write as two requests.
    pub inconclusive: u64,
    /// Late copies of writes, SETs answered, and writes of those shut out, as production blades got them.
    pub copies_late: u64,
    /// SETs answered as done.
    pub sets_done: u64,
    /// Writes that came from those shut out.
    pub fenced_tries: u64,
    /// Sectors judged.
    pub sectors_judged: u64,
    /// Turns of hosts.
    pub turns: u64,
    /// Events.
    pub events: u64,
}
