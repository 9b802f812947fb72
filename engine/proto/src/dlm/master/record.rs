//! The master's records: resources, and what nodes hold and want of them.

use sandrail_wire::lock::{
    Epoch, GrantNumber, Mode, NodeId, RequestFlags, RequestId, ResourceName, Transaction,
};

use crate::dlm::table::{Linked, Links, NIL, Named, Queue};

/// In which queue an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What a node holds.
    Holder,
    /// A conversion that waits.
    Convert,
    /// A new request that waits.
    Wait,
}

/// What a node holds or wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    queue: Links,
    pub(super) request: RequestId,
    /// Of a holder the grant number, of a request the transaction.
    tag: u64,
    pub(super) node: NodeId,
    pub(super) flags: RequestFlags,
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    /// Of a request: what its node keeps meanwhile. Of a holder: what it was told to go down to, EX if nothing.
    pub(super) other: Mode,
    /// Of a request: the node wants it no more, and a handoff for it is under way. Or, of one that must not wait, that all
    /// holders were asked.
    pub(super) is_marked: bool,
    /// A conversion that came during a handoff, and that could have been granted in place otherwise.
    pub(super) is_in_place: bool,
    /// Its node died with it.
    pub(super) is_dead: bool,
}

const _: () = assert!(size_of::<Entry>() <= 40, "an entry's record");
const _: () = assert!(
    size_of::<Resource>() + size_of::<Entry>() <= 128,
    "what a lock takes at its master"
);

impl Entry {
    pub(super) const fn holder(node: NodeId, mode: Mode, grant: GrantNumber) -> Self {
        Self {
            queue: Links::NONE,
            request: RequestId(0),
            tag: grant.0,
            node,
            flags: RequestFlags::NONE,
            kind: Kind::Holder,
            mode,
            other: Mode::Ex,
            is_marked: false,
            is_in_place: false,
            is_dead: false,
        }
    }

    pub(super) const fn request(node: NodeId, wanted: &sandrail_wire::lock::Wanted) -> Self {
        let is_conversion = wanted.flags.contains(RequestFlags::CONVERT);
        Self {
            queue: Links::NONE,
            request: wanted.request,
            tag: wanted.transaction.0,
            node,
            flags: wanted.flags,
            kind: if is_conversion {
                Kind::Convert
            } else {
                Kind::Wait
            },
            mode: wanted.mode,
            other: wanted.floor,
            is_marked: false,
            is_in_place: false,
            is_dead: false,
        }
    }

    /// A holder's grant number.
    pub(super) const fn grant(&self) -> GrantNumber {
        GrantNumber(self.tag)
    }

    pub(super) const fn set_grant(&mut self, grant: GrantNumber) {
        self.tag = grant.0;
    }

    /// A request's transaction.
    pub(super) const fn transaction(&self) -> Transaction {
        Transaction(self.tag)
    }

    pub(super) const fn next_in_queue(&self) -> Option<u32> {
        let next = self.queue.next();
        if next == NIL { None } else { Some(next) }
    }

    pub(super) const fn is_try(&self) -> bool {
        self.flags.contains(RequestFlags::TRY)
    }
}

impl Linked<0> for Entry {
    fn links(&mut self) -> &mut Links {
        &mut self.queue
    }
    fn links_of(&self) -> Links {
        self.queue
    }
}

/// What becomes of a lock between a holder and the successor that was named to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handoff {
    /// None is under way.
    None,
    /// The holder was told the successor.
    Named,
    /// And one end was asked whether it has happened, since the other died or wants it no more.
    Asked,
    /// While the slot is rebuilt: the holder has handed over, and nobody has said yet that it arrived. The number is that
    /// of the request.
    Told,
}

/// A resource of which this node is the master.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resource {
    pub(super) name: ResourceName,
    slot_links: Links,
    pub(super) holders: Queue<0>,
    pub(super) convert: Queue<0>,
    pub(super) wait: Queue<0>,
    /// The dead who hold it, a bit for each, in modes that `retained` covers.
    pub(super) dead: u64,
    /// The number that the successor of a handoff gets.
    pub(super) handoff_number: u64,
    /// Where the value block is.
    pub(super) value: u32,
    pub(super) handoff_from: NodeId,
    pub(super) handoff_to: NodeId,
    /// Requests that passed the one at the head of the queue.
    pub(super) overtakes: u16,
    pub(super) handoff: Handoff,
    pub(super) retained: Mode,
    /// Of a handoff under way: bit 0, the holder is dead; bit 1, the successor is.
    pub(super) dead_ends: u8,
    /// Whether the place is in use.
    pub(super) is_used: bool,
}

impl Resource {
    pub(super) const fn new(name: ResourceName) -> Self {
        Self {
            name,
            slot_links: Links::NONE,
            holders: Queue::EMPTY,
            convert: Queue::EMPTY,
            wait: Queue::EMPTY,
            dead: 0,
            handoff_number: 0,
            value: NIL,
            handoff_from: NodeId(0),
            handoff_to: NodeId(0),
            overtakes: 0,
            handoff: Handoff::None,
            retained: Mode::Nl,
            dead_ends: 0,
            is_used: true,
        }
    }

    pub(super) const fn is_idle(&self) -> bool {
        self.holders.is_empty()
            && self.convert.is_empty()
            && self.wait.is_empty()
            && self.dead == 0
            && matches!(self.handoff, Handoff::None)
    }
}

impl Named for Resource {
    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl Linked<2> for Resource {
    fn links(&mut self) -> &mut Links {
        &mut self.slot_links
    }
    fn links_of(&self) -> Links {
        self.slot_links
    }
}

/// How far a slot is on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Somebody else's.
    Foreign,
    /// Somebody else's now; what is known here is told when the new master asks.
    Former,
    /// This node's, and not all have said what they hold.
    Collecting,
    /// This node's.
    Open,
}

/// A slot, as its master sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) resources: Queue<2>,
    pub(super) term: Epoch,
    /// Numbers given under this term.
    pub(super) counter: u64,
    /// Nodes that have not said what they hold.
    pub(super) awaited: u64,
    /// Dead nodes that may hold, of any resource without a record, whatever nobody else holds.
    pub(super) doubt: u64,
    pub(super) stage: Stage,
    /// Whether the former master told what it knew, so that nothing is in doubt but what it said.
    pub(super) is_inherited: bool,
    /// Whether somebody's report found no room.
    pub(super) is_overflown: bool,
}

impl Slot {
    pub(super) const NEW: Self = Self {
        resources: Queue::EMPTY,
        term: Epoch(0),
        counter: 0,
        awaited: 0,
        doubt: 0,
        stage: Stage::Foreign,
        is_inherited: false,
        is_overflown: false,
    };

    /// The next `count` numbers; none if the term has no more.
    pub(super) fn draw(&mut self, count: u32) -> Option<GrantNumber> {
        let first = self.counter + 1;
        let last = self.counter.checked_add(u64::from(count))?;
        if last > COUNTER_MAX {
            return None;
        }
        self.counter = last;
        Some(GrantNumber(self.term.0 << COUNTER_BITS | first))
    }
}

/// Bits of a grant number that count; the others are the term.
pub(in crate::dlm) const COUNTER_BITS: u32 = 40;
const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;

/// A value block that is valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub(super) sequence: u64,
    pub(super) bytes: [u8; sandrail_wire::lock::VALUE_BYTES],
}
