//! What goes in and comes out of a blade, but frames.

use sandrail_wire::MacAddr;
use sandrail_wire::aoe::Session;

use super::backing::DiskError;

/// A target, by its place in the list given at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetIndex(pub u16);

/// A state to be made durable. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoidReason {
    /// One of its MACs has attached with a new incarnation: the process was started anew.
    NewIncarnation,
    /// One of its MACs was removed from the reservation.
    Fenced,
    /// It had not been used for long, and places were running out.
    Idle,
}

/// What happened, for the log. None is told for each frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BladeEvent {
    /// A session was opened.
    SessionOpened {
        /// The target.
        target: TargetIndex,
        /// The session.
        session: Session,
        /// Who attached.
        mac: MacAddr,
        /// Which of its shards.
        shard: u8,
        /// Which life of it.
        incarnation: u64,
    },
    /// A session is void from now on.
    SessionVoided {
        /// The target.
        target: TargetIndex,
        /// The session.
        session: Session,
        /// Why.
        why: VoidReason,
    },
    /// The reservation was replaced.
    Reserved {
        /// The target.
        target: TargetIndex,
        /// Who asked for it.
        by: MacAddr,
        /// The epoch it came with; 0: none.
        epoch: u64,
        /// MACs on the list now.
        members: u16,
    },
    /// The same, by force.
    ForcedSet {
        /// The target.
        target: TargetIndex,
        /// Who asked for it.
        by: MacAddr,
        /// MACs on the list now.
        members: u16,
    },
    /// A change of the reservation was refused.
    SetRefused {
        /// The target.
        target: TargetIndex,
        /// Who asked for it.
        by: MacAddr,
        /// The epoch it came with; 0: none.
        epoch: u64,
    },
    /// A MAC with sessions was removed from the reservation; this life of it is not admitted again.
    Fenced {
        /// The target.
        target: TargetIndex,
        /// The MAC.
        mac: MacAddr,
        /// Which life of it.
        incarnation: u64,
    },
    /// The list of admitted MACs was edited.
    MaskEdited {
        /// The target.
        target: TargetIndex,
        /// Who asked for it.
        by: MacAddr,
        /// MACs on the list now.
        members: u16,
    },
    /// The config string was set.
    ConfigSet {
        /// The target.
        target: TargetIndex,
        /// Who asked for it.
        by: MacAddr,
    },
    /// The target has another size.
    Resized {
        /// The target.
        target: TargetIndex,
        /// Sectors now.
        sectors: u64,
    },
    /// A state could not be made durable: whoever asked for the change was told.
    NotDurable {
        /// The target.
        target: TargetIndex,
    },
    /// The disk failed an operation for the first time, or for the first time since one succeeded.
    DiskFailed {
        /// The target.
        target: TargetIndex,
        /// How.
        error: DiskError,
    },
}

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// Each counter with its name, for reports.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field),)*].into_iter()
            }
        }

        impl core::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counters! {
    /// What became of frames. Each received frame that leads to nothing is in one `rx_` counter, but a frame to several targets
    /// is counted for each of them.
    BladeCounters {
        /// Frames that were acted upon.
        rx_used,
        /// Not AoE, or no Ethernet header.
        rx_not_aoe,
        /// For another station.
        rx_other_host,
        /// With another VLAN tag than the interface's, or with two.
        rx_other_vlan,
        /// An interface that does not exist.
        rx_no_interface,
        /// From a group address or from nobody.
        rx_bad_source,
        /// From our own MAC.
        rx_own,
        /// The AoE header is cut off.
        rx_malformed,
        /// Responses: other targets'.
        rx_response,
        /// For a target that is not here.
        rx_other_target,
        /// From a MAC that the mask does not admit.
        rx_masked,
        /// The sender has [`buffer_count`](super::BladeConfig::buffer_count) requests under way.
        rx_buffers_full,
        /// More initiators at once than there are places.
        rx_no_station,
        /// The target has all operations under way that its disk takes.
        rx_target_full,
        /// No memory is left for a write that must wait.
        rx_stash_full,
        /// No memory is left for answers to config, mask, reserve and vendor commands.
        rx_control_full,
        /// Too many changes of a target wait to become durable.
        rx_changes_full,
        /// A copy of a request that still executes (S6).
        rx_copy_executing,
        /// The memory for copies is full of younger entries (S6).
        rx_duplicates_full,
        /// A test of the config string that fails is answered with silence.
        rx_config_test_failed,
        /// An attach that came before session numbers for it were durable.
        rx_sessions_not_durable,
        /// Frames handed out.
        tx_frames,
        /// Of them, advertisements.
        tx_advertisements,
        /// Answers thrown away since their interface is gone.
        tx_dropped,
        /// Events that nobody fetched.
        events_lost,
    }
}

counters! {
    /// What a target has done.
    TargetCounters {
        /// READs answered with data.
        reads,
        /// Their sectors.
        read_sectors,
        /// WRITEs done.
        writes,
        /// Their sectors.
        write_sectors,
        /// FLUSHes done.
        flushes,
        /// TRIMs done.
        trims,
        /// Other ATA commands answered with success.
        others,
        /// Copies of requests that were done: answered again, not executed (S6).
        copies_answered,
        /// Requests that waited for an overlapping one.
        waits,
        /// Requests that waited for the disk.
        disk_waits,
        /// ATA commands that were not understood (ABRT).
        aborted,
        /// ATA commands past the end.
        past_end,
        /// ATA commands that the disk failed.
        disk_errors,
        /// Refused with error 1 or 2: the request makes no sense.
        refused_argument,
        /// Refused with error 5: another version of AoE.
        refused_version,
        /// Refused with error 6: reserved for others.
        refused_reserved,
        /// Refused with error 0x80: the session is void, or not the sender's.
        refused_session,
        /// Requests of removed MACs or void sessions that were thrown away while they waited.
        discarded,
        /// Attaches that yielded a session.
        attaches,
        /// Attaches that were refused.
        attaches_refused,
        /// Changes of config string, mask or reservation.
        changes,
        /// Changes that were refused.
        changes_refused,
    }
}

/// What a blade holds at a moment: for tests and reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// ATA requests that are not answered, or whose answer is not sent.
    pub operations: usize,
    /// The same and other commands, as counted for their senders.
    pub requests: usize,
    /// Answers to other commands that are not sent, or not due yet.
    pub answers: usize,
    /// Pieces of memory with the data of writes that wait.
    pub stash_pieces: usize,
    /// Ranges of sectors that later requests may have to wait for.
    pub ranges: usize,
}

/// What a target is at a moment.
#[derive(Clone, Copy, Debug)]
pub struct TargetStatus<'a> {
    /// Its address.
    pub addr: sandrail_wire::TargetAddr,
    /// Its size.
    pub sectors: u64,
    /// What is to outlive a restart, durable or not.
    pub state: &'a super::PersistentState,
    /// Whether everything of it is durable.
    pub is_durable: bool,
    /// Open sessions.
    pub sessions: usize,
}
