//! What the machine counts, and what it holds at a moment.

/// Events since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Requests that were granted without any message.
    pub granted_locally: u64,
    /// Requests that this node's master granted, to whichever node.
    pub granted_by_master: u64,
    /// Locks that came straight from their former holder.
    pub handed_over: u64,
    /// Blocking notices that its master sent.
    pub notices: u64,
    /// Requests that ended as a deadlock's victim here.
    pub victims: u64,
    /// Probes that were sent or followed.
    pub probes: u64,
    /// Probes that ended because they met a transaction twice, or their path was too long.
    pub probes_ended: u64,
    /// Messages under a term that is not the slot's: of a former master, or of a former life.
    pub stale_term: u64,
    /// Messages from a node that is not a member, or not whom it would have to come from.
    pub wrong_sender: u64,
    /// Messages about nothing that is under way.
    pub stray: u64,
    /// Holds that a new master was told of and that exclude each other: never, unless somebody broke the rules.
    pub conflicts: u64,
    /// Slots that could not be rebuilt, because the table was full. They stay closed until the next epoch.
    pub unbuilt_slots: u64,
    /// Slots that were rebuilt.
    pub rebuilt_slots: u64,
}

/// What a node holds. All but the cached ones are zero when nobody holds or wants anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Its clients' locks, held or waited for.
    pub locks: usize,
    /// Those of them that wait.
    pub waiting: usize,
    /// Requests of nodes that wait at its master.
    pub queued: usize,
    /// Resources that its agent has a record of: used, wanted, or kept.
    pub resources: usize,
    /// Resources that its master has a record of.
    pub mastered: usize,
    /// Holds of nodes at its master.
    pub holds: usize,
    /// Value blocks of both.
    pub values: usize,
    /// Resources on which its master keeps the locks of the dead.
    pub retained: usize,
    /// Handoffs that its master has no confirmation of.
    pub handoffs: usize,
    /// Slots of its master that are not open yet.
    pub frozen_slots: usize,
    /// Slots whose master it does not know to be open.
    pub closed_slots: usize,
    /// Messages that wait to be polled.
    pub messages: usize,
}
