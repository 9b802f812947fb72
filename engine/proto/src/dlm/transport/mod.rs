//! Records between cores of nodes: reliable, in order, exactly once in one life of both.
//!
//! A [`Transport`] belongs to one core of a node and has a *channel* to each core of other nodes that it was told of.
//! Nothing is sent on a channel but greetings until both ends know each other's incarnation. From there on slots of
//! 64 bytes are numbered; a record takes one or two, and no more are sent than the peer has granted credits for. What is not
//! acknowledged in time is sent again, what arrives twice is delivered once. A new life of the peer ends the channel:
//! what was under way is gone, [`TransportEvent::Restarted`] tells, and a new channel begins.
//!
//! Frames of an older epoch are refused, so that who is out of the cluster is not heard. Frames of a newer one are as well:
//! the peer sends them again until this node has heard of its epoch.
//!
//! A turn of the owner's loop: [`handle_frame`](Transport::handle_frame) for each frame,
//! [`handle_timeout`](Transport::handle_timeout), all of [`poll_event`](Transport::poll_event), all of
//! [`poll_message`](Transport::poll_message), the lock manager, [`send`](Transport::send), all of
//! [`poll_transmit`](Transport::poll_transmit). Records gather between two polls and nowhere else.
//!
//! Nothing allocates but `new` and `add_peer`; no frame makes it panic. The frames are drawn in `docs/wire.md`.

mod channel;
mod config;
mod receive;
mod rtt;
mod send;
mod set;
mod stat;

#[cfg(test)]
mod tests;

use core::time::Duration;

use sandrail_wire::lock::{
    CoreId, Epoch, FRAME_SLOTS_MAX, Incarnation, LockFrame, NodeId, SLOT_BYTES, Seal,
};

pub use config::{
    CHANNELS_MAX, MTU_BYTES_MIN, TransportConfig, TransportConfigError, WINDOW_SLOTS_MAX,
    WINDOW_SLOTS_MIN,
};
pub use stat::{FrameRefusal, TransportCounters};

use crate::time::Instant;
use channel::{Channel, Shared};
use set::ChannelSet;

/// A core of another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its core.
    pub core: CoreId,
}

/// A channel to a peer: a number that stays the peer's for as long as the transport lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(u16);

impl ChannelId {
    /// Below [`TransportConfig::channels_max`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why a peer was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddPeerError {
    /// All channels belong to other peers.
    #[error("all channels are taken")]
    Full,
    /// It is a peer already.
    #[error("node {}, core {} is a peer already", .0.node, .0.core)]
    Known(Peer),
    /// It is this very core.
    #[error("a core has no channel to itself")]
    Own,
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No credits, no room, or the peer was not met yet: [`TransportEvent::Writable`] or
    /// [`TransportEvent::Opened`] will tell when to try again.
    #[error("the peer takes no more for now")]
    Wait,
    /// The peer was removed.
    #[error("no such peer")]
    NoPeer,
    /// Records have 64 or 128 bytes.
    #[error("a record of {0} bytes; 64 and 128 are allowed")]
    Length(usize),
}

/// What happened on a channel. To be polled before messages: they wait until all events are fetched, so that no message of a
/// new life comes before the word of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportEvent {
    /// The peer has begun a new life. What was under way in either direction is gone.
    Restarted {
        /// The channel.
        channel: ChannelId,
        /// The life that is over.
        old: Incarnation,
        /// The one that began.
        new: Incarnation,
    },
    /// Both ends know each other: records can be sent.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// The peer's life.
        incarnation: Incarnation,
    },
    /// There is room again, after a [`SendError::Wait`].
    Writable {
        /// The channel.
        channel: ChannelId,
    },
    /// The peer is in an epoch that this node has not heard of. Its frames are refused until then.
    EpochAhead {
        /// The channel.
        channel: ChannelId,
        /// The peer's epoch.
        epoch: Epoch,
    },
    /// Nothing was heard of the peer, though it owes an answer. What that means, the membership decides.
    Silent {
        /// The channel.
        channel: ChannelId,
        /// Since when it owes one.
        since: Instant,
    },
    /// A silent peer was heard again.
    Heard {
        /// The channel.
        channel: ChannelId,
    },
}

/// A record that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// The channel.
    pub channel: ChannelId,
    /// Who sent it.
    pub peer: Peer,
    /// In which life.
    pub incarnation: Incarnation,
    /// 64 or 128 bytes.
    pub record: &'a [u8],
}

/// A frame that was written, without an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The channel.
    pub channel: ChannelId,
    /// Whom it is for.
    pub peer: Peer,
    /// Its length.
    pub len_bytes: usize,
}

/// What is known of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    /// The peer.
    pub peer: Peer,
    /// Its life; [`Incarnation::UNKNOWN`] before it was heard, and after it was removed.
    pub incarnation: Incarnation,
    /// Whether records can be sent.
    pub is_open: bool,
    /// Slots that `send` would take now.
    pub room_slots: u64,
    /// The smoothed round trip, with what the peer delays its acknowledgements.
    pub rtt: Option<Duration>,
}

/// One core's end of all its channels.
#[derive(Debug)]
pub struct Transport {
    shared: Shared,
    channels: Vec<Channel>,
    /// Peers and the index of their channels, in order.
    lookup: Vec<(Peer, u16)>,
    /// Channels that may have something to send, ...
    ready: ChannelSet,
    /// ... records to fetch, ...
    inbox: ChannelSet,
    /// ... and news.
    news: ChannelSet,
    /// Where the next search in `ready` and in `inbox` begins.
    next_ready: usize,
    next_inbox: usize,
    /// No timer is earlier.
    deadline: Option<Instant>,
    counters: TransportCounters,
}

impl Transport {
    /// A transport without peers, in `epoch`.
    ///
    /// # Errors
    /// A setting is out of its bounds.
    pub fn new(config: TransportConfig, epoch: Epoch) -> Result<Self, TransportConfigError> {
        config.check()?;
        let channels_max = config.channels_max;
        Ok(Self {
            channels: Vec::with_capacity(usize::from(channels_max)),
            lookup: Vec::with_capacity(usize::from(channels_max)),
            ready: ChannelSet::new(channels_max),
            inbox: ChannelSet::new(channels_max),
            news: ChannelSet::new(channels_max),
            next_ready: 0,
            next_inbox: 0,
            deadline: None,
            counters: TransportCounters::default(),
            shared: Shared {
                seal: Seal::new(crc32c::crc32c, config.key),
                epoch,
                config,
            },
        })
    }

    /// Begins to greet a peer. One that was removed is met again only in a new life (S10).
    ///
    /// # Errors
    /// [`AddPeerError`]; nothing has changed.
    pub fn add_peer(&mut self, now: Instant, peer: Peer) -> Result<ChannelId, AddPeerError> {
        let config = &self.shared.config;
        if peer.node == config.node && peer.core == config.core {
            return Err(AddPeerError::Own);
        }
        let place = self.lookup.binary_search_by_key(&peer, |(known, _)| *known);
        let index = match place {
            Ok(found) => usize::from(self.lookup[found].1),
            Err(place) => {
                if self.channels.len() == usize::from(config.channels_max) {
                    return Err(AddPeerError::Full);
                }
                let index = self.channels.len();
                self.channels.push(Channel::new(peer, &self.shared));
                self.lookup.insert(place, (peer, narrow(index)));
                index
            }
        };
        if !self.channels[index].is_removed() {
            return Err(AddPeerError::Known(peer));
        }
        self.channels[index].begin(now, &self.shared);
        self.refresh(index);
        Ok(ChannelId(narrow(index)))
    }

    /// Lets a peer go: what is under way in either direction is gone, and this life of it is not heard any more.
    pub fn remove_peer(&mut self, channel: ChannelId) {
        if let Some(found) = self.channels.get_mut(channel.index()) {
            found.remove(&self.shared);
            self.refresh(channel.index());
        }
    }

    /// The channel to a peer, removed or not.
    #[must_use]
    pub fn channel(&self, peer: Peer) -> Option<ChannelId> {
        let place = self.lookup.binary_search_by_key(&peer, |(known, _)| *known);
        Some(ChannelId(self.lookup[place.ok()?].1))
    }

    /// What is known of a channel; `None` for one that is not this transport's.
    #[must_use]
    pub fn info(&self, channel: ChannelId) -> Option<ChannelInfo> {
        let channel = self.channels.get(channel.index())?;
        Some(ChannelInfo {
            peer: channel.peer,
            incarnation: channel.remote(),
            is_open: channel.is_open(),
            room_slots: channel.room(),
            rtt: channel.smoothed(),
        })
    }

    /// The membership has a new version; `false`, and nothing changed, if it is none.
    pub fn set_epoch(&mut self, now: Instant, epoch: Epoch) -> bool {
        if epoch <= self.shared.epoch {
            return false;
        }
        self.shared.epoch = epoch;
        for index in 0..self.channels.len() {
            self.channels[index].announce();
            self.channels[index].resume(now, &self.shared);
            self.refresh(index);
        }
        true
    }

    /// The membership's version.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// Queues a record of 64 or 128 bytes. It leaves with the next [`poll_transmit`](Self::poll_transmit).
    ///
    /// # Errors
    /// [`SendError`]; nothing was queued.
    pub fn send(
        &mut self,
        now: Instant,
        channel: ChannelId,
        record: &[u8],
    ) -> Result<(), SendError> {
        if record.len() != SLOT_BYTES && record.len() != 2 * SLOT_BYTES {
            return Err(SendError::Length(record.len()));
        }
        let found = self
            .channels
            .get_mut(channel.index())
            .ok_or(SendError::NoPeer)?;
        let sent = found.send(now, record, &self.shared);
        if sent.is_ok() {
            // No timer starts before the record leaves.
            self.ready.set(channel.index(), true);
        } else {
            self.counters.waits += u64::from(sent == Err(SendError::Wait));
            self.refresh(channel.index());
        }
        sent
    }

    /// A frame that came, without its Ethernet header. It lies in one piece: no lock frame is longer than a segment.
    pub fn handle_frame(&mut self, now: Instant, bytes: &[u8]) {
        match self.accept(now, bytes) {
            Ok(index) => {
                self.counters.rx_frames += 1;
                self.refresh(index);
            }
            Err(reason) => self.counters.refuse(reason),
        }
    }

    fn accept(&mut self, now: Instant, bytes: &[u8]) -> Result<usize, FrameRefusal> {
        let frame = LockFrame::parse(bytes, &self.shared.seal)?;
        let header = frame.header();
        let config = &self.shared.config;
        if header.cluster != config.cluster {
            return Err(FrameRefusal::OtherCluster);
        }
        if header.to.node != config.node || header.to.core != config.core {
            return Err(FrameRefusal::NotForUs);
        }
        let peer = Peer {
            node: header.from.node,
            core: header.from.core,
        };
        let index = self.channel(peer).ok_or(FrameRefusal::UnknownPeer)?.index();
        let result = self.channels[index].handle(now, &frame, &self.shared, &mut self.counters);
        if result == Err(FrameRefusal::NewerEpoch) {
            self.refresh(index);
        }
        result.map(|()| index)
    }

    /// Serves the timers that are due. May be called at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|at| at > now) {
            return;
        }
        self.deadline = None;
        for index in 0..self.channels.len() {
            self.channels[index].handle_timeout(now, &self.shared, &mut self.counters);
            self.refresh(index);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest. It may find nothing to do then: timers that were
    /// put off leave their old time here.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Writes the next frame to send into `out`, which has at least [`frame_bytes_max`](Self::frame_bytes_max); `None` when
    /// there is none, or `out` is shorter.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Option<Outgoing> {
        let out = out.get_mut(..self.frame_bytes_max())?;
        loop {
            let index = self.ready.next(self.next_ready)?;
            let channel = &mut self.channels[index];
            let written = channel.transmit(now, out, &self.shared, &mut self.counters);
            let peer = channel.peer;
            self.refresh(index);
            self.next_ready = index + 1;
            if let Some(len_bytes) = written {
                return Some(Outgoing {
                    channel: ChannelId(narrow(index)),
                    peer,
                    len_bytes,
                });
            }
            self.ready.set(index, false);
        }
    }

    /// What happened, one after the other.
    pub fn poll_event(&mut self) -> Option<TransportEvent> {
        let index = self.news.next(0)?;
        let channel = ChannelId(narrow(index));
        let incarnation = self.channels[index].remote();
        let news = &mut self.channels[index].news;
        let event = if let Some((old, new)) = news.restarted.take() {
            Some(TransportEvent::Restarted { channel, old, new })
        } else if core::mem::take(&mut news.opened) {
            Some(TransportEvent::Opened {
                channel,
                incarnation,
            })
        } else if let Some(since) = news.silent.take() {
            Some(TransportEvent::Silent { channel, since })
        } else if core::mem::take(&mut news.heard) {
            Some(TransportEvent::Heard { channel })
        } else if let Some(epoch) = news.ahead.take() {
            Some(TransportEvent::EpochAhead { channel, epoch })
        } else {
            core::mem::take(&mut news.writable).then_some(TransportEvent::Writable { channel })
        };
        self.refresh(index);
        event
    }

    /// The next record; each channel's in the order in which they were sent, the channels in turns. None as long as there are
    /// events.
    pub fn poll_message(&mut self) -> Option<Received<'_>> {
        if !self.news.is_empty() {
            return None;
        }
        let index = self.inbox.next(self.next_inbox)?;
        let range = self.channels[index].fetch()?;
        self.inbox
            .set(index, self.channels[index].receive.is_ready());
        if self.channels[index].has_work() {
            self.ready.set(index, true);
        }
        self.next_inbox = index + 1;
        let channel = &self.channels[index];
        Some(Received {
            channel: ChannelId(narrow(index)),
            peer: channel.peer,
            incarnation: channel.remote(),
            record: channel.receive.bytes(range),
        })
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &TransportCounters {
        &self.counters
    }

    /// The most bytes of a frame that this transport writes.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        let longest = sandrail_wire::lock::LOCK_HEADER_BYTES
            + sandrail_wire::lock::SACK_WORDS_MAX * 8
            + FRAME_SLOTS_MAX * SLOT_BYTES
            + self.shared.seal.len_bytes();
        longest.min(self.shared.config.mtu_bytes)
    }

    /// Takes a channel into the sets that it belongs to now, and its timer into account.
    fn refresh(&mut self, index: usize) {
        let channel = &self.channels[index];
        self.ready.set(index, channel.has_work());
        self.inbox.set(index, channel.receive.is_ready());
        self.news
            .set(index, channel.news != channel::News::default());
        if let Some(at) = channel.deadline(&self.shared) {
            self.deadline = Some(self.deadline.map_or(at, |known| known.min(at)));
        }
    }
}

/// An index of a channel: there are at most [`CHANNELS_MAX`].
fn narrow(index: usize) -> u16 {
    u16::try_from(index).expect("channels are bounded")
}
