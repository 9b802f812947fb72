//! One machine with an initiator on it: the production state machine, the rings of its interfaces, and what its user
//! has asked of it.

use std::collections::VecDeque;
use std::time::Duration;

use sandrail_proto::aoe::initiator::{
    Initiator, InitiatorConfig, InterfaceConfig, IoError, Outcome, RequestId, TargetId,
};
use sandrail_wire::{MacAddr, VlanTag};

use crate::bytes::Mac;
use crate::load::{Load, LoadSpec};
use crate::net::FrameId;
use crate::oracle::Moment;
use crate::stamp::Stamp;

/// One interface of a host.
#[derive(Clone, Debug)]
pub struct InterfaceSpec {
    /// Its station.
    pub mac: Mac,
    /// Its MTU.
    pub mtu_bytes: usize,
    /// The VLAN that its frames are tagged with; the switch takes the tag off.
    pub vlan: Option<u16>,
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Its initiator's limits and timings.
    pub config: InitiatorConfig,
    /// Its interfaces.
    pub interfaces: Vec<InterfaceSpec>,
    /// What it asks by itself; without, a test asks.
    pub load: Option<LoadSpec>,
    /// Frames leave this much later than they were handed over, at most.
    pub transmit_delay_ns: u64,
    /// And are reported as gone this much later than that, at most.
    pub report_delay_ns: u64,
    /// Least time between two turns of its loop.
    pub turn_ns: u64,
    /// Frames longer than a UMEM chunk are handed over in segments.
    pub segments: bool,
    /// Targets' MACs are named; otherwise the first to answer counts.
    pub pins: bool,
}

impl HostSpec {
    /// A host with so many interfaces that asks nothing by itself.
    #[must_use]
    pub fn new(index: u8, interfaces: u8, mtu_bytes: usize) -> Self {
        let interface = |number| InterfaceSpec {
            mac: [2, 0, 0, 0, index, 0xa0 + number],
            mtu_bytes,
            vlan: None,
        };
        Self {
            config: InitiatorConfig {
                commands_max: 256,
                requests_max: 64,
                ..InitiatorConfig::default()
            },
            interfaces: (0..interfaces).map(interface).collect(),
            load: None,
            transmit_delay_ns: 0,
            report_delay_ns: 0,
            turn_ns: 1_000,
            segments: false,
            pins: true,
        }
    }

    pub(crate) fn interface_configs(&self) -> Vec<InterfaceConfig> {
        let config = |spec: &InterfaceSpec| InterfaceConfig {
            mac: MacAddr(spec.mac),
            mtu_bytes: spec.mtu_bytes,
            vlan: spec.vlan.and_then(|id| VlanTag::new(id, 0)),
        };
        self.interfaces.iter().map(config).collect()
    }
}

/// What is asked of an initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// READ.
    Read {
        /// First sector.
        lba: u64,
        /// Sectors.
        sectors: u64,
    },
    /// WRITE of a stamp of its own.
    Write {
        /// First sector.
        lba: u64,
        /// Sectors.
        sectors: u64,
        /// Be refused rather than wait for a closed range.
        refuse: bool,
    },
    /// FLUSH.
    Flush,
    /// IDENTIFY.
    Identify,
    /// Reads the config string.
    ReadConfig,
    /// Reads the reservation.
    ReadReservation,
}

impl Ask {
    /// The sectors it concerns.
    #[must_use]
    pub const fn extent(self) -> (u64, u64) {
        match self {
            Self::Read { lba, sectors } | Self::Write { lba, sectors, .. } => (lba, sectors),
            _ => (0, 0),
        }
    }
}

/// Names a request from a test's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u32);

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its ticket.
    pub ticket: Ticket,
    /// What was asked.
    pub ask: Ask,
    /// When, and when it ended.
    pub submitted_ns: u64,
    /// When it ended.
    pub at_ns: u64,
    /// How.
    pub result: Result<Outcome, IoError>,
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) ask: Ask,
    pub(crate) target: u8,
    pub(crate) ticket: Ticket,
    pub(crate) stamp: Option<Stamp>,
    pub(crate) begun: Moment,
    pub(crate) submitted_ns: u64,
    pub(crate) deadline_ns: u64,
    pub(crate) id: RequestId,
}

/// What a host knows of one target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attachment {
    pub(crate) id: Option<TargetId>,
    pub(crate) up: bool,
    pub(crate) retry_at_ns: u64,
    /// An advertisement sent then has been delivered.
    pub(crate) advert_seen_ns: Option<u64>,
    /// The first frame since the last answer.
    pub(crate) unanswered_since_ns: Option<u64>,
    pub(crate) attached_at_ns: Option<u64>,
}

/// The rings of one interface.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    pub(crate) port: u8,
    /// When the frames given to the interface will be reported as gone, in order.
    pub(crate) reports: VecDeque<u64>,
    pub(crate) reported: u64,
    pub(crate) free_at_ns: u64,
    pub(crate) stalled_until_ns: u64,
}

/// A machine.
#[derive(Debug)]
pub struct Host {
    /// What it is.
    pub spec: HostSpec,
    /// Its initiator; none while it is crashed.
    pub initiator: Option<Initiator<Vec<u8>>>,
    /// Requests under way.
    pub(crate) pending: Vec<Option<Pending>>,
    pub(crate) pending_count: usize,
    pub(crate) attachments: Vec<Attachment>,
    pub(crate) rings: Vec<Rings>,
    pub(crate) inbox: Vec<(u8, FrameId)>,
    pub(crate) load: Option<Load>,
    pub(crate) paused_until_ns: u64,
    pub(crate) transmit_blocked_until_ns: u64,
    pub(crate) wake_at_ns: u64,
    pub(crate) next_turn_ns: u64,
    pub(crate) next_deadline_ns: u64,
    pub(crate) lives: u64,
}

/// Frames that an interface's receive ring holds.
pub(crate) const INBOX_FRAMES: usize = 512;
/// Frames handed to an interface and not gone that its transmit ring holds.
pub(crate) const TRANSMIT_FRAMES: usize = 64;
/// A request may end this much after its deadline.
pub(crate) const DEADLINE_SLACK_NS: u64 = 1_000_000;

impl Host {
    pub(crate) fn new(spec: HostSpec, targets: usize, ports: &[u8], seed: u64) -> Self {
        let rings = |port: &u8| Rings {
            port: *port,
            ..Rings::default()
        };
        Self {
            initiator: None,
            pending: Vec::new(),
            pending_count: 0,
            attachments: vec![Attachment::default(); targets],
            rings: ports.iter().map(rings).collect(),
            inbox: Vec::new(),
            load: spec.load.clone().map(|load| Load::new(load, seed)),
            paused_until_ns: 0,
            transmit_blocked_until_ns: 0,
            wake_at_ns: u64::MAX,
            next_turn_ns: 0,
            next_deadline_ns: u64::MAX,
            lives: 0,
            spec,
        }
    }

    /// Requests that have not ended.
    #[must_use]
    pub const fn pending(&self) -> usize {
        self.pending_count
    }

    /// The place for a request, and the earliest deadline with it.
    pub(crate) fn place(&mut self) -> usize {
        if let Some(place) = self.pending.iter().position(Option::is_none) {
            return place;
        }
        self.pending.push(None);
        self.pending.len() - 1
    }

    pub(crate) fn earliest_deadline(&self) -> u64 {
        self.pending
            .iter()
            .flatten()
            .map(|pending| pending.deadline_ns)
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Its load has nothing more to ask.
    #[must_use]
    pub fn asks_no_more(&self) -> bool {
        self.load.as_ref().is_none_or(|load| load.left() == 0)
    }

    /// Every target is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attachments.iter().all(|attachment| attachment.up)
    }

    /// Requests that its initiator would take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.initiator.as_ref().map_or(0, Initiator::room)
    }

    /// Writes whose copies are unaccounted for.
    #[must_use]
    pub fn unaccounted(&self) -> usize {
        self.initiator.as_ref().map_or(0, Initiator::unaccounted)
    }
}

pub(crate) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
