//! Who waits for what, in memory that is all there from the start.
//!
//! Each frame, and each shard for those who wait for any frame, has a list: a stack to which waiters add themselves and
//! that a waker takes as a whole. Both are one exchange of its head, so nobody waits here for anybody. A waiter is
//! a node of a fixed number; when there are none left the waiter polls instead.
//!
//! A node has two owners, the waiter and the list. Each says when it is done; the second one frees the node. So a
//! waiter may give up at any time and leave its node behind for the next waker.
#![allow(
    unsafe_code,
    reason = "a node is handed over between threads with the list that it is in"
)]

use std::task::Waker;

use super::sync::{AtomicU32, AtomicU64, Cell, Ordering};

/// No node.
const NIL: u32 = u32::MAX;
/// The list has let go of the node: the waiter has been woken.
const WOKEN: u32 = 1;
/// The waiter has let go of the node.
const LEFT: u32 = 2;

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Something has changed: look again.
    Look,
    /// The page was revoked.
    Revoked,
    /// The volume did not deliver the page, with its code.
    Volume(u32),
    /// The page's check failed: expected, found.
    Check(u32, u32),
}

impl News {
    fn pack(self) -> (u32, u64) {
        match self {
            Self::Look => (0, 0),
            Self::Revoked => (1, 0),
            Self::Volume(code) => (2, u64::from(code)),
            Self::Check(expected, found) => (3, u64::from(expected) << 32 | u64::from(found)),
        }
    }

    fn unpack(kind: u32, detail: u64) -> Self {
        let half = |shift: u32| u32::try_from((detail >> shift) & 0xffff_ffff).unwrap_or(0);
        match kind {
            1 => Self::Revoked,
            2 => Self::Volume(half(0)),
            3 => Self::Check(half(32), half(0)),
            _ => Self::Look,
        }
    }
}

#[derive(Debug)]
struct Node {
    next: AtomicU32,
    done: AtomicU32,
    kind: AtomicU32,
    detail: AtomicU64,
    /// What the news are about: a frame may have had another page in the meantime.
    about: AtomicU64,
    /// Written by the waiter before the node is in a list, taken by the waker that has taken the list.
    waker: Cell<Option<Waker>>,
}

// SAFETY: the cell is handed over with the node: by the release that puts it into a list, and the acquire that takes
// the list (tests/cache_loom.rs checks it).
unsafe impl Sync for Node {}
// SAFETY: a waker may be sent between threads.
unsafe impl Send for Node {}

/// A waiter's place in a list. Whoever has it must give it to [`Waiters::news`] or [`Waiters::leave`].
#[derive(Debug)]
pub(crate) struct Place(u32);

#[derive(Debug)]
pub(crate) struct Waiters {
    heads: Box<[AtomicU32]>,
    nodes: Box<[Node]>,
    /// The free nodes: a stack with a count in the upper half that moves with each change, so that a head which comes back
    /// is not mistaken for one that never went.
    free: AtomicU64,
}

fn low(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(NIL)
}

fn counted(word: u64, node: u32) -> u64 {
    ((word >> 32).wrapping_add(1) << 32) | u64::from(node)
}

impl Waiters {
    pub(crate) fn new(lists: u32, nodes: u32) -> Self {
        let next = |n: u32| if n + 1 < nodes { n + 1 } else { NIL };
        Self {
            heads: (0..lists).map(|_| AtomicU32::new(NIL)).collect(),
            nodes: (0..nodes)
                .map(|n| Node {
                    next: AtomicU32::new(next(n)),
                    done: AtomicU32::new(0),
                    kind: AtomicU32::new(0),
                    detail: AtomicU64::new(0),
                    about: AtomicU64::new(0),
                    waker: Cell::new(None),
                })
                .collect(),
            free: AtomicU64::new(if nodes == 0 { u64::from(NIL) } else { 0 }),
        }
    }

    fn node(&self, index: u32) -> &Node {
        &self.nodes[index as usize]
    }

    fn allocate(&self) -> Option<u32> {
        let mut seen = self.free.load(Ordering::Acquire);
        loop {
            let index = low(seen);
            if index == NIL {
                return None;
            }
            // Relaxed: if the node has been taken in the meantime the exchange fails.
            let next = self.node(index).next.load(Ordering::Relaxed);
            // Acquire: partner is the release in `free`.
            match self.free.compare_exchange(
                seen,
                counted(seen, next),
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(index),
                Err(now) => seen = now,
            }
        }
    }

    fn free(&self, index: u32) {
        let mut seen = self.free.load(Ordering::Relaxed);
        loop {
            self.node(index).next.store(low(seen), Ordering::Relaxed);
            // Release: partner is the acquire in `allocate`.
            match self.free.compare_exchange(
                seen,
                counted(seen, index),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Joins a list. Afterwards the waiter looks once more whether it has to wait at all. `None`: no node is left.
    pub(crate) fn join(&self, list: u32, waker: Waker) -> Option<Place> {
        let index = self.allocate()?;
        let node = self.node(index);
        node.waker.with_mut(|place| {
            // SAFETY: the node is in no list, and `allocate` gave it to this thread alone.
            unsafe { *place = Some(waker) };
        });
        node.done.store(0, Ordering::Relaxed);
        let head = &self.heads[list as usize];
        let mut seen = head.load(Ordering::Relaxed);
        loop {
            node.next.store(seen, Ordering::Relaxed);
            // AcqRel: a waker that takes the list sees the node (its swap acquires); and after a swap by a waker, the
            // waiter's second look sees what that waker had done before.
            match head.compare_exchange(seen, index, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(Place(index)),
                Err(now) => seen = now,
            }
        }
    }

    /// The waiter's news and what they are about, if it was woken: then its place is gone.
    pub(crate) fn news(&self, place: Place) -> Result<(News, u64), Place> {
        let node = self.node(place.0);
        // Acquire: partner is the waker's `fetch_or`.
        if node.done.load(Ordering::Acquire) & WOKEN == 0 {
            return Err(place);
        }
        let news = News::unpack(
            node.kind.load(Ordering::Relaxed),
            node.detail.load(Ordering::Relaxed),
        );
        let about = node.about.load(Ordering::Relaxed);
        self.free(place.0);
        Ok((news, about))
    }

    /// The waiter gives up.
    pub(crate) fn leave(&self, place: Place) {
        // AcqRel: whoever comes second has seen all that the first one did with the node.
        if self.node(place.0).done.fetch_or(LEFT, Ordering::AcqRel) & WOKEN != 0 {
            self.free(place.0);
        }
    }

    /// Wakes all of a list with news about something; how many.
    pub(crate) fn wake(&self, list: u32, news: News, about: u64) -> usize {
        let head = &self.heads[list as usize];
        // AcqRel, also where nobody is there: who joins after this sees with its second look what it was to be woken for.
        let mut index = head.swap(NIL, Ordering::AcqRel);
        let mut woken = 0;
        let (kind, detail) = news.pack();
        while index != NIL {
            let node = self.node(index);
            let next = node.next.load(Ordering::Relaxed);
            node.kind.store(kind, Ordering::Relaxed);
            node.detail.store(detail, Ordering::Relaxed);
            node.about.store(about, Ordering::Relaxed);
            // SAFETY: whoever has taken the list is alone with its nodes' wakers until it says WOKEN.
            let waker = node.waker.with_mut(|place| unsafe { (*place).take() });
            // AcqRel: the waiter reads the news; whoever comes second frees.
            if node.done.fetch_or(WOKEN, Ordering::AcqRel) & LEFT == 0 {
                woken += 1;
                if let Some(waker) = waker {
                    waker.wake();
                }
            } else {
                self.free(index);
            }
            index = next;
        }
        woken
    }
}
