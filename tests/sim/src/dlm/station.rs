//! What the simulation asks of a lock manager's node, whichever it is.

use core::fmt::Debug;

use sandrail_proto::time::Instant;

use super::call::{Call, Life, LockId, Told};

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Begin {
    /// Who it is, in which life.
    pub me: Life,
    /// Nodes that there can be, numbered from 0.
    pub nodes: u8,
    /// Resources that there can be.
    pub resources: u16,
    /// Locks that clients may have at once on one node.
    pub locks: u16,
    /// Its chance.
    pub seed: u64,
    /// Now.
    pub now: Instant,
}

/// What a node still holds; all but `cached` is to be zero when all is quiet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Locks that clients hold, as the node sees it.
    pub locks: usize,
    /// Requests under way.
    pub requests: usize,
    /// Entries in queues.
    pub queued: usize,
    /// Messages that wait to be sent.
    pub messages: usize,
    /// Slots under recovery.
    pub frozen: usize,
    /// Locks of the dead.
    pub retained: usize,
    /// Handoffs that nobody has confirmed.
    pub handoffs: usize,
    /// Records of locks that are kept in case that they are wanted again, and of resources.
    pub cached: usize,
}

impl Held {
    /// Whether nothing is under way.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let cached = self.cached;
        *self
            == Self {
                cached,
                ..Self::default()
            }
    }
}

/// The caller asked for what can't be: no such lock, or no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no room; the request has not begun.
    Full,
    /// Anything else, which a client of the simulation does not do.
    Wrong(String),
}

/// A node of a lock manager.
pub trait Station: Sized {
    /// What nodes say to each other.
    type Message: Clone + Debug;
    /// How it was made to misbehave.
    type Flaw: Copy + Default + Debug + PartialEq;

    /// The name of its family.
    const FAMILY: &'static str;
    /// Whether a central server is needed besides, which never fails.
    const CENTRAL: bool;
    /// Whether messages may be lost, doubled and overtaken; otherwise the channel between two lives is perfect.
    const LOSSY: bool;
    /// Readers in CR, CW and NL may find a value older than the last, or none.
    const WEAK_VALUES: bool;

    /// Starts a node.
    fn start(begin: &Begin, flaw: Self::Flaw) -> Self;
    /// These are the members now, and the logs of the dead `unreplayed` are not replayed.
    fn set_members(&mut self, now: Instant, epoch: u32, members: &[Life], unreplayed: &[Life]);
    /// Who left up to this epoch has no lease any more.
    fn fenced(&mut self, now: Instant, epoch: u32);
    /// The log of a dead life has been replayed: what it held is free.
    fn replayed(&mut self, now: Instant, dead: Life);
    /// A client calls.
    ///
    /// # Errors
    /// If it can't be begun.
    fn call(&mut self, now: Instant, call: &Call) -> Result<(), Refused>;
    /// A message arrives.
    fn handle_message(&mut self, now: Instant, from: Life, message: &Self::Message);
    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);
    /// The next message to send.
    fn poll_message(&mut self, now: Instant) -> Option<(u8, Self::Message)>;
    /// The next thing to tell a client.
    fn poll_told(&mut self) -> Option<Told>;
    /// When to call [`handle_timeout`](Self::handle_timeout).
    fn poll_timeout(&self) -> Option<Instant>;
    /// What it holds.
    fn held(&self) -> Held;
    /// Whether what it holds is as bounded as was agreed.
    ///
    /// # Errors
    /// What is not.
    fn check_bounds(&self) -> Result<(), String>;
    /// Whether it still knows a lock of a client's.
    fn knows(&self, lock: LockId) -> bool;
}
