//! A data target: a reservation list, and who is let in by it.

use std::collections::VecDeque;

use sandrail_proto::cluster::TargetKind;
use sandrail_wire::cluster::Life;

/// A set of nodes, a bit each. Zero: not reserved.
pub type NodeSet = u32;

/// What reaches a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Set the list.
    Reserve {
        /// For this epoch, which only a blade looks at.
        epoch: u64,
        /// Who is to be admitted.
        list: NodeSet,
    },
    /// Read the list.
    List,
    /// Any answer.
    Probe,
    /// A write of data.
    Write {
        /// By this life.
        life: Life,
    },
}

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The list in force.
    List(NodeSet),
    /// An answer.
    Answered,
    /// Error 6.
    Reserved,
    /// A newer epoch is in force, or another list of the same.
    StaleEpoch(u64),
    /// A write was carried out.
    Accepted,
}

/// A frame in a target's queue.
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    /// Who sent it.
    pub node: usize,
    /// Which of its requests, and in which life.
    pub request: (u64, u64),
    /// What.
    pub ask: Ask,
}

/// A data target.
#[derive(Debug)]
pub struct Target {
    /// What it is.
    pub kind: TargetKind,
    /// Who is admitted.
    pub list: NodeSet,
    epoch: u64,
    /// The life that last had a session, by node, and the greatest that was fenced.
    sessions: Vec<(u64, u64)>,
    /// It is away until then.
    pub down_until_ns: u64,
    /// It carries out nothing until then.
    pub stalled_until_ns: u64,
    /// What waits for that.
    pub queue: VecDeque<Queued>,
    /// It has lost its list, and nobody has set one since (S11).
    pub is_open: bool,
}

impl Target {
    /// One that was never reserved.
    #[must_use]
    pub fn new(kind: TargetKind, nodes: usize) -> Self {
        Self {
            kind,
            list: 0,
            epoch: 0,
            sessions: vec![(0, 0); nodes],
            down_until_ns: 0,
            stalled_until_ns: 0,
            queue: VecDeque::new(),
            is_open: false,
        }
    }

    /// Restarts: what was queued is gone, and so is the list of one that keeps none.
    pub fn restart(&mut self, forgets: bool) {
        self.queue.clear();
        self.stalled_until_ns = 0;
        if forgets {
            self.list = 0;
            self.epoch = 0;
            self.is_open = self.kind == TargetKind::Foreign;
        }
        for session in &mut self.sessions {
            session.0 = 0;
            if forgets {
                session.1 = 0;
            }
        }
    }

    /// An operator empties the list (S12).
    pub const fn force(&mut self) {
        self.list = 0;
        self.is_open = true;
    }

    const fn admits(&self, node: usize) -> bool {
        self.list == 0 || self.list >> node & 1 == 1
    }

    /// Carries out a request.
    pub fn carry_out(&mut self, node: usize, ask: Ask) -> Reply {
        match ask {
            Ask::List => Reply::List(self.list),
            Ask::Probe => Reply::Answered,
            Ask::Reserve { epoch, list } => self.reserve(node, epoch, list),
            Ask::Write { life } => {
                if !self.admits(node) || !self.has_session(node, life) {
                    return Reply::Reserved;
                }
                Reply::Accepted
            }
        }
    }

    fn reserve(&mut self, node: usize, epoch: u64, list: NodeSet) -> Reply {
        match self.kind {
            TargetKind::Epochs if epoch < self.epoch => return Reply::StaleEpoch(self.epoch),
            TargetKind::Epochs if epoch == self.epoch && list != self.list => {
                return Reply::StaleEpoch(self.epoch);
            }
            TargetKind::Foreign if !self.admits(node) => return Reply::Reserved,
            _ => {}
        }
        for (removed, session) in self.sessions.iter_mut().enumerate() {
            if list >> removed & 1 == 0 {
                session.1 = session.1.max(session.0);
                session.0 = 0;
            }
        }
        self.list = list;
        self.epoch = epoch;
        Reply::List(list)
    }

    /// On a blade a write bears a session of its life; a newer life's attach ends the older one's, and who was fenced gets none.
    fn has_session(&mut self, node: usize, life: Life) -> bool {
        if self.kind == TargetKind::Foreign {
            return true;
        }
        let (session, fenced) = &mut self.sessions[node];
        let incarnation = life.incarnation.0;
        if incarnation <= *fenced || incarnation < *session {
            return false;
        }
        *session = incarnation;
        true
    }
}
