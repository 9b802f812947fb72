//! The agent's records: resources, its clients' locks, value blocks.

use sandrail_wire::lock::{
    GrantNumber, Mode, RequestFlags, RequestId, ResourceName, Successor, Transaction, VALUE_BYTES,
    Wanted,
};

use crate::dlm::api::Flags;
use crate::dlm::table::{Linked, Links, NIL, Named, Queue};
use crate::time::Instant;

/// In which queue a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In none.
    Free,
    /// Held.
    Granted,
    /// Held, and wanted in another mode.
    Converting,
    /// Wanted.
    Waiting,
}

/// A client's lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lock {
    queue: Links,
    waiting: Links,
    pub(super) client: u64,
    pub(super) transaction: Transaction,
    /// When the request ends; `u64::MAX` if it does not by itself.
    pub(super) deadline_ns: u64,
    /// When a deadlock is looked for.
    pub(super) probe_at_ns: u64,
    /// The probe that passed here during this wait, by its origin and round.
    pub(super) seen: (Transaction, u32),
    /// The probe that it sent last.
    pub(super) own_round: u32,
    pub(super) resource: u32,
    /// Tells the lives of the place apart.
    pub(super) generation: u32,
    /// Tells its waits apart.
    pub(super) wait: u32,
    pub(super) flags: Flags,
    pub(super) granted: Mode,
    pub(super) wanted: Mode,
    /// The modes that its holder was told to go down to; EX if it was told nothing.
    pub(super) noticed: Mode,
    pub(super) state: State,
    /// Whether it lost its mode to a deadlock while it converts.
    pub(super) demoted: bool,
}

const _: () = assert!(size_of::<Lock>() <= 128, "a lock's record");
const _: () = assert!(size_of::<Resource>() <= 128, "a resource's record");

impl Lock {
    pub(super) const fn new(resource: u32, client: u64, transaction: Transaction) -> Self {
        Self {
            queue: Links::NONE,
            waiting: Links::NONE,
            client,
            transaction,
            deadline_ns: u64::MAX,
            probe_at_ns: 0,
            seen: (Transaction::NONE, 0),
            own_round: 0,
            resource,
            generation: 0,
            wait: 0,
            flags: Flags::NONE,
            granted: Mode::Nl,
            wanted: Mode::Nl,
            noticed: Mode::Ex,
            state: State::Free,
            demoted: false,
        }
    }

    pub(super) const fn is_conversion(&self) -> bool {
        matches!(self.state, State::Converting)
    }

    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Converting | State::Waiting)
    }

    /// Whether it waits, and it is that wait.
    pub(super) const fn waits_as(&self, wait: u32) -> bool {
        self.is_waiting() && self.wait == wait
    }

    pub(super) const fn next_in_queue(&self) -> Option<u32> {
        let next = self.queue.next();
        if next == NIL { None } else { Some(next) }
    }

    pub(super) const fn next_waiting(&self) -> Option<u32> {
        let next = self.waiting.next();
        if next == NIL { None } else { Some(next) }
    }
}

impl Linked<0> for Lock {
    fn links(&mut self) -> &mut Links {
        &mut self.queue
    }
    fn links_of(&self) -> Links {
        self.queue
    }
}

impl Linked<1> for Lock {
    fn links(&mut self) -> &mut Links {
        &mut self.waiting
    }
    fn links_of(&self) -> Links {
        self.waiting
    }
}

/// A request that the master has not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) request: RequestId,
    /// The lock for whose sake it was sent, and which wait of it.
    pub(super) lock: u32,
    pub(super) wait: u32,
    pub(super) flags: RequestFlags,
    pub(super) mode: Mode,
    pub(super) floor: Mode,
    pub(super) is_cancelling: bool,
}

impl Pending {
    pub(super) const fn new(wanted: &Wanted, lock: u32, wait: u32) -> Self {
        Self {
            request: wanted.request,
            lock,
            wait,
            flags: wanted.flags,
            mode: wanted.mode,
            floor: wanted.floor,
            is_cancelling: false,
        }
    }
}

/// A handoff: to whom, for which request, in which mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handoff {
    pub(super) successor: Successor,
    pub(super) request: RequestId,
    pub(super) mode: Mode,
    /// Whether it was done, and only its confirmation is missing; otherwise it is to be done.
    pub(super) is_done: bool,
}

/// A resource that this node uses, wants, or keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource {
    pub(super) name: ResourceName,
    pub(super) granted: Queue<0>,
    pub(super) convert: Queue<0>,
    pub(super) wait: Queue<0>,
    /// The hold's number.
    pub(super) grant: GrantNumber,
    /// When a notice made the ceiling.
    pub(super) notice_at: Instant,
    pub(super) handoff: Option<Handoff>,
    pub(super) pending: Option<Pending>,
    /// A handoff with this number is refused: the master was told that it did not happen.
    pub(super) refused: GrantNumber,
    /// Where the copy of the value block is.
    pub(super) value: u32,
    /// Locks granted above the ceiling since the notice.
    pub(super) turns: u16,
    /// Writes under way: the hold must not go down before they are over.
    pub(super) writes: u16,
    pub(super) held: Mode,
    /// What the hold is to go down to; EX if nobody waits.
    pub(super) ceiling: Mode,
    /// The value block was written since the master knew it.
    pub(super) is_dirty: bool,
    /// The copy was sent to the master while a request was under way: whether the grant knows of it is told by the grant.
    pub(super) keeps_value: bool,
    /// Whether the place is in use.
    pub(super) is_used: bool,
}

impl Resource {
    pub(super) const fn new(name: ResourceName) -> Self {
        Self {
            name,
            granted: Queue::EMPTY,
            convert: Queue::EMPTY,
            wait: Queue::EMPTY,
            grant: GrantNumber(0),
            notice_at: Instant::ZERO,
            handoff: None,
            pending: None,
            refused: GrantNumber(0),
            value: NIL,
            turns: 0,
            writes: 0,
            held: Mode::Nl,
            ceiling: Mode::Ex,
            is_dirty: false,
            keeps_value: false,
            is_used: true,
        }
    }

    /// Whether nothing is held, wanted or awaited.
    pub(super) fn is_idle(&self) -> bool {
        self.granted.is_empty()
            && self.convert.is_empty()
            && self.wait.is_empty()
            && matches!(self.held, Mode::Nl)
            && self.pending.is_none()
            && self.handoff.is_none()
            && self.writes == 0
    }

    /// Whether a handoff was done and nobody told that it arrived.
    pub(super) fn is_handing(&self) -> bool {
        self.handoff.is_some_and(|handoff| handoff.is_done)
    }

    /// The master names somebody else, or nobody, or is another one.
    pub(super) fn drop_successor(&mut self) {
        if !self.is_handing() {
            self.handoff = None;
        }
    }
}

impl Named for Resource {
    fn name(&self) -> &ResourceName {
        &self.name
    }
}

/// A copy of a value block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) sequence: u64,
    pub(super) bytes: [u8; VALUE_BYTES],
}
