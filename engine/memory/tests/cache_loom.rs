//! The cache's lock-free parts in every interleaving, by loom: the table, a frame's word, a pin against eviction, a reader
//! against revocation, a waiter against a waker. The very source files run, on loom's atomics; [`Bug`] makes these forget
//! one thing at a time, and the model has to notice.
#![allow(
    unsafe_code,
    dead_code,
    unreachable_pub,
    reason = "loom's cells hand out raw pointers; the library uses more of its files than the models do"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering as StdOrdering};
use std::sync::{Mutex, PoisonError};

use loom::sync::Arc;
use loom::thread;

/// What the source files see as `super::sync`: loom's atomics, which a test can make worse.
mod sync {
    use super::{Bug, is};

    pub(crate) use loom::sync::atomic::Ordering;

    /// Small buckets, so that a third page finds the first bucket full.
    pub(crate) const BUCKET_SLOTS: usize = 2;

    pub(crate) fn relax() {
        loom::thread::yield_now();
    }

    pub(crate) fn fence(ordering: Ordering) {
        let left_out = match ordering {
            Ordering::Acquire => is(Bug::NoAcquireFence),
            _ => is(Bug::NoReleaseFence),
        };
        if !left_out {
            loom::sync::atomic::fence(ordering);
        }
    }

    fn weakened(ordering: Ordering) -> Ordering {
        match ordering {
            Ordering::Acquire if is(Bug::NoAcquire) => Ordering::Relaxed,
            Ordering::Release if is(Bug::NoRelease) => Ordering::Relaxed,
            Ordering::AcqRel if is(Bug::NoAcquire) => Ordering::Release,
            Ordering::AcqRel if is(Bug::NoRelease) => Ordering::Acquire,
            ordering => ordering,
        }
    }

    macro_rules! atomic {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, ordering: Ordering) -> $value {
                    self.0.load(weakened(ordering))
                }

                pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                    self.0.store(value, weakened(ordering));
                }

                pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                    self.0.swap(value, weakened(ordering))
                }

                pub(crate) fn fetch_add(&self, value: $value, ordering: Ordering) -> $value {
                    self.0.fetch_add(value, weakened(ordering))
                }

                pub(crate) fn fetch_sub(&self, value: $value, ordering: Ordering) -> $value {
                    self.0.fetch_sub(value, weakened(ordering))
                }

                pub(crate) fn fetch_or(&self, value: $value, ordering: Ordering) -> $value {
                    self.0.fetch_or(value, weakened(ordering))
                }

                pub(crate) fn fetch_and(&self, value: $value, ordering: Ordering) -> $value {
                    self.0.fetch_and(value, weakened(ordering))
                }

                pub(crate) fn compare_exchange(
                    &self,
                    from: $value,
                    to: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    if is(Bug::TornExchange) {
                        let seen = self.0.load(weakened(success_load(success)));
                        if seen == from {
                            self.0.store(to, weakened(success_store(success)));
                            return Ok(seen);
                        }
                        return Err(seen);
                    }
                    self.0
                        .compare_exchange(from, to, weakened(success), weakened(failure))
                }
            }
        };
    }

    fn success_load(ordering: Ordering) -> Ordering {
        match ordering {
            Ordering::Acquire | Ordering::AcqRel => Ordering::Acquire,
            _ => Ordering::Relaxed,
        }
    }

    fn success_store(ordering: Ordering) -> Ordering {
        match ordering {
            Ordering::Release | Ordering::AcqRel => Ordering::Release,
            _ => Ordering::Relaxed,
        }
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);

    #[derive(Debug)]
    pub(crate) struct Cell<T>(loom::cell::UnsafeCell<T>);

    impl<T> Cell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with_mut<R>(&self, work: impl FnOnce(*mut T) -> R) -> R {
            self.0.with_mut(work)
        }
    }
}

#[path = "../src/cache/entering.rs"]
mod entering;
#[path = "../src/cache/page.rs"]
mod page;
#[path = "../src/cache/residency.rs"]
mod residency;
#[path = "../src/cache/table.rs"]
mod table;
#[path = "../src/cache/waiters.rs"]
mod waiters;
#[path = "../src/cache/word.rs"]
mod word;

use entering::{Entering, Queued};
use page::PageId;
use residency::{Going, Head, Kept, Obstacle, Residency};
use table::Table;
use waiters::{News, Waiters};
use word::{DIRTY, REVOKED, WAITERS};

/// What is broken, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Bug {
    None,
    /// An exchange is a load, a comparison and a store.
    TornExchange,
    NoAcquire,
    NoRelease,
    /// The optimistic reader's fence before its second look.
    NoAcquireFence,
    /// The writer's fence after its latch.
    NoReleaseFence,
    /// Eviction looks for pins before its claim only.
    PinsOverlooked,
    /// Revoking does not mark the word.
    NotMarked,
    /// A waiter does not look again after joining.
    NoSecondLook,
    /// Where a page went is looked up before its image's write has ended.
    LookedTooEarly,
    /// A flush does not ask whether somebody is just entering a frame.
    EnteringOverlooked,
}

static SEEDED_BUG: AtomicU8 = AtomicU8::new(0);

/// Tests take turns: the seeded bug is for all of the process.
static TURN: Mutex<()> = Mutex::new(());

fn is(bug: Bug) -> bool {
    SEEDED_BUG.load(StdOrdering::Relaxed) == bug as u8
}

/// Whether the model holds with this bug.
fn holds(bug: Bug, model: fn()) -> bool {
    holds_within(bug, model, 2)
}

fn holds_within(bug: Bug, model: fn(), preemptions: usize) -> bool {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    SEEDED_BUG.store(bug as u8, StdOrdering::Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(model);
    }));
    SEEDED_BUG.store(Bug::None as u8, StdOrdering::Relaxed);
    outcome.is_ok()
}

fn proven(model: fn(), noticed: &[Bug]) {
    assert!(holds(Bug::None, model), "the code is wrong");
    for bug in noticed {
        assert!(!holds(*bug, model), "{bug:?} goes unnoticed");
    }
}

fn page(number: u64) -> PageId {
    PageId::new(0, number).expect("a small number")
}

/// Frames' bytes: one word each, as the cache has many.
struct Frames {
    residency: Residency<Box<[Head]>>,
    bytes: Vec<sync::AtomicU64>,
}

impl Frames {
    /// Frame `n` holds page `n`, whose byte is ten times that.
    fn new(frames: u32, filled: u32) -> Self {
        let this = Self {
            residency: Residency::new(frames, (0..frames).map(|_| Head::new()).collect()),
            bytes: (0..frames).map(|_| sync::AtomicU64::new(999)).collect(),
        };
        for frame in 0..filled {
            this.fill(page(u64::from(frame)), frame);
        }
        this
    }

    fn byte(&self, frame: u32) -> &sync::AtomicU64 {
        &self.bytes[frame as usize]
    }

    fn fill(&self, page: PageId, frame: u32) {
        let installed = self.residency.install(page, page.hash(), frame, true);
        assert_eq!(installed, Ok(()));
        self.byte(frame)
            .store(page.number() * 10, sync::Ordering::Relaxed);
        self.residency.publish(frame);
    }

    fn read(&self, frame: u32) -> u64 {
        self.byte(frame).load(sync::Ordering::Relaxed)
    }
}

fn table_inserts_once() {
    let table = Arc::new(Frames::new(3, 0));
    let threads = [0_u32, 1].map(|frame| {
        let table = Arc::clone(&table);
        thread::spawn(move || {
            let page = page(1);
            table
                .residency
                .install(page, page.hash(), frame, true)
                .is_ok()
        })
    });
    let done = threads.map(|thread| thread.join().unwrap());
    assert!(done[0] != done[1], "one of them enters the page: {done:?}");
    let winner = u32::from(!done[0]);
    let (found, _) = table
        .residency
        .locate(page(1), page(1).hash())
        .expect("the page is there");
    assert_eq!(found, winner);
}

#[test]
fn a_page_is_entered_once() {
    proven(table_inserts_once, &[Bug::TornExchange]);
}

/// Pages of one bucket, of which all but one pass it by, while look-ups go on and one of them leaves.
fn table_finds_what_stays() {
    let table = Arc::new(Table::new(2));
    let hash = 0x5000_0000_0000_0000;
    let other = 0x7000_0000_0000_0000;
    table.lock(hash).insert(1);
    table.lock(other).insert(4);
    let remover = {
        let table = Arc::clone(&table);
        thread::spawn(move || {
            let home = table.lock(hash);
            home.insert(2);
            home.remove(1);
        })
    };
    let inserter = {
        let table = Arc::clone(&table);
        thread::spawn(move || table.lock(other).insert(3))
    };
    let wrong = table.find(hash, |frame| (frame == 3).then_some(()));
    assert!(wrong.is_none(), "another page's frame under this tag");
    remover.join().unwrap();
    inserter.join().unwrap();
    let find = |hash, wanted| table.find(hash, |frame| (frame == wanted).then_some(()));
    assert!(find(hash, 1).is_none(), "what was removed is gone");
    assert!(find(hash, 2).is_some(), "what stays is found");
    assert!(find(other, 3).is_some(), "in whatever bucket it is");
    assert!(find(other, 4).is_some(), "where it always was");
}

#[test]
fn pages_in_passed_buckets_are_found_and_removed() {
    proven(table_finds_what_stays, &[Bug::TornExchange]);
}

/// One changes two words, one reads them without a latch, one with.
fn word_readers_and_writer() {
    let frames = Arc::new(Frames::new(2, 1));
    let second = Arc::new(sync::AtomicU64::new(0));
    let writer = {
        let (frames, second) = (Arc::clone(&frames), Arc::clone(&second));
        thread::spawn(move || {
            if let Ok((frame, _)) = frames.residency.exclude(page(0), page(0).hash()) {
                frames.byte(frame).store(1, sync::Ordering::Relaxed);
                second.store(1, sync::Ordering::Relaxed);
                frames.residency.unexclude(frame, true);
            }
        })
    };
    let latched = {
        let (frames, second) = (Arc::clone(&frames), Arc::clone(&second));
        thread::spawn(move || {
            if let Ok((frame, _)) = frames.residency.share(page(0), page(0).hash()) {
                let read = (frames.read(frame), second.load(sync::Ordering::Relaxed));
                assert_eq!(read.0, read.1, "torn under a shared latch");
                frames.residency.unshare(frame);
            }
        })
    };
    if let Ok((frame, _, seen)) = frames.residency.peek(page(0), page(0).hash()) {
        let read = (frames.read(frame), second.load(sync::Ordering::Relaxed));
        if frames.residency.word(frame).unchanged(seen) {
            assert_eq!(read.0, read.1, "torn and not noticed");
        }
    }
    writer.join().unwrap();
    latched.join().unwrap();
}

#[test]
fn readers_never_count_a_torn_page() {
    proven(
        word_readers_and_writer,
        &[
            Bug::TornExchange,
            Bug::NoAcquire,
            Bug::NoRelease,
            Bug::NoAcquireFence,
            Bug::NoReleaseFence,
        ],
    );
}

/// One pins a page and reads it; another evicts the frame and fills it with another page; a third one reads without a
/// latch.
fn pin_against_evict() {
    let frames = Arc::new(Frames::new(1, 1));
    let evictor = {
        let frames = Arc::clone(&frames);
        thread::spawn(move || {
            if is(Bug::PinsOverlooked) {
                // An eviction that looks for pins, and then claims the frame whatever has come since.
                let word = frames.residency.word(0);
                if word.load().pins() == 0 {
                    word.change(0, word::EXCLUSIVE, true);
                    frames.byte(0).store(70, sync::Ordering::Relaxed);
                }
                return;
            }
            match frames.residency.evict(0) {
                Ok(evicted) => {
                    assert_eq!(evicted.page, Some(page(0)));
                    frames.fill(page(7), 0);
                }
                Err(Kept::InUse | Kept::TableBusy { .. }) => {}
            }
        })
    };
    let reader = {
        let frames = Arc::clone(&frames);
        thread::spawn(move || {
            if let Ok((frame, _, seen)) = frames.residency.peek(page(0), page(0).hash()) {
                let byte = frames.read(frame);
                if frames.residency.word(frame).unchanged(seen) {
                    assert_eq!(byte, 0, "another page's byte, and not noticed");
                }
            }
        })
    };
    match frames.residency.pin(page(0), page(0).hash()) {
        Ok((frame, _)) => {
            assert_eq!(frames.read(frame), 0, "a pinned page was evicted");
            frames.residency.unpin(frame, page(0), page(0).hash());
        }
        Err(Obstacle::Absent | Obstacle::Busy(..)) => {}
        Err(other) => panic!("{other:?}"),
    }
    evictor.join().unwrap();
    reader.join().unwrap();
}

#[test]
fn a_pinned_page_stays_and_a_reader_notices_eviction() {
    proven(
        pin_against_evict,
        &[
            Bug::PinsOverlooked,
            Bug::TornExchange,
            Bug::NoAcquireFence,
            Bug::NoReleaseFence,
        ],
    );
}

/// A page is revoked and its frame used again while one reads it without a latch, and one holds a shared latch. After
/// the revocation is done, nobody counts what he reads.
fn revoke_against_read() {
    let frames = Arc::new(Frames::new(1, 1));
    // The other party's right to the page: whoever counts a read while it is set, has read what he must not.
    let taken = Arc::new(sync::AtomicU64::new(0));
    let revoker = {
        let (frames, taken) = (Arc::clone(&frames), Arc::clone(&taken));
        thread::spawn(move || {
            let hash = page(0).hash();
            if is(Bug::NotMarked) {
                taken.store(1, sync::Ordering::Relaxed);
                return;
            }
            if let Some((frame, _)) = frames.residency.mark_revoked(page(0), hash, |_| false) {
                // From here on no new read may begin; what the other party writes is newer.
                if frames.residency.finish_revoke(page(0), hash, frame) != (Going::Held(frame)) {
                    taken.store(1, sync::Ordering::Relaxed);
                    // Not filled to the end: loom lets a load see the latest seven stores only.
                    if frames.residency.evict(frame).is_ok() {
                        frames.byte(frame).store(70, sync::Ordering::Relaxed);
                    }
                }
            }
        })
    };
    let latched = {
        let (frames, taken) = (Arc::clone(&frames), Arc::clone(&taken));
        thread::spawn(move || {
            let hash = page(0).hash();
            if let Ok((frame, _)) = frames.residency.share(page(0), hash) {
                assert_eq!(frames.read(frame), 0, "gone under a shared latch");
                let late = taken.load(sync::Ordering::Relaxed);
                assert_eq!(late, 0, "taken under a shared latch");
                let (before, _) = frames.residency.unshare(frame);
                if before.has(REVOKED)
                    && before.shared() == 1
                    && frames.residency.finish_revoke(page(0), hash, frame) == Going::Held(frame)
                {
                    panic!("the last holder removes the page");
                }
            }
        })
    };
    if let Ok((frame, _, seen)) = frames.residency.peek(page(0), page(0).hash()) {
        let byte = frames.read(frame);
        if frames.residency.word(frame).unchanged(seen) {
            assert_eq!(byte, 0, "another page's byte, and not noticed");
        }
    }
    revoker.join().unwrap();
    latched.join().unwrap();
    if !is(Bug::NotMarked) {
        let left = frames.residency.locate(page(0), page(0).hash());
        assert!(left.is_none(), "the revoked page is still there");
    }
}

#[test]
fn a_revoked_page_goes_with_its_last_holder_and_readers_notice() {
    proven(
        revoke_against_read,
        &[
            Bug::NotMarked,
            Bug::TornExchange,
            Bug::NoAcquireFence,
            Bug::NoReleaseFence,
        ],
    );
}

/// A page moves to another frame with a pin on it, which is given back meanwhile; the old frame stays an image until its
/// write ends, which it does meanwhile, too.
fn move_against_unpin_and_write() {
    let frames = Arc::new(Frames::new(2, 1));
    // Where the page went, for whoever ends the write of its image.
    let moved_to = Arc::new(sync::AtomicU64::new(99));
    let hash = page(0).hash();
    let (frame, _) = frames.residency.exclude(page(0), hash).unwrap();
    frames.residency.unexclude(frame, true);
    frames.residency.pin(page(0), hash).unwrap();
    frames.residency.claim_write(page(0), frame).unwrap();
    frames.residency.begin_write(frame, false);
    let writer = {
        let frames = Arc::clone(&frames);
        let moved_to = Arc::clone(&moved_to);
        thread::spawn(move || {
            let load = || moved_to.load(sync::Ordering::Relaxed);
            let early = load();
            let image = frames.residency.end_write(0, true).has(word::IMAGE);
            let place = if is(Bug::LookedTooEarly) {
                early
            } else {
                load()
            };
            assert!(!image || place == 1, "an image whose page is not known");
            image
        })
    };
    let unpinner = {
        let frames = Arc::clone(&frames);
        thread::spawn(move || frames.residency.unpin(0, page(0), page(0).hash()).0)
    };
    let (frame, seen) = frames.residency.exclude(page(0), hash).unwrap();
    let given_back = if seen.has(word::WRITING) {
        frames.byte(1).store(1, sync::Ordering::Relaxed);
        moved_to.store(1, sync::Ordering::Relaxed);
        let seen = frames.residency.relocate(page(0), hash, frame, 1);
        frames.residency.unexclude(1, true);
        !seen.has(word::WRITING)
    } else {
        frames.residency.unexclude(frame, true);
        false
    };
    let image = writer.join().unwrap();
    unpinner.join().unwrap();
    let (now, seen) = frames.residency.locate(page(0), hash).expect("resident");
    assert_eq!(seen.pins(), 0, "the pin went with the page");
    assert!(seen.has(DIRTY) && !seen.has(word::WRITING | word::IMAGE));
    // Where the page moved, exactly one of the two has the old frame back.
    assert_eq!(
        now == 1,
        image != given_back,
        "the old frame is lost, or has two owners"
    );
}

#[test]
fn a_page_moves_with_its_pins_and_its_old_frame_has_one_owner() {
    proven(
        move_against_unpin_and_write,
        &[Bug::TornExchange, Bug::LookedTooEarly],
    );
}

/// A waiter for a latch, against its release: it is woken, or finds the latch free.
fn wait_against_release() {
    let frames = Arc::new(Frames::new(1, 1));
    let waiters = Arc::new(Waiters::new(1, 2));
    let hash = page(0).hash();
    let (frame, _) = frames.residency.exclude(page(0), hash).unwrap();
    let holder = {
        let (frames, waiters) = (Arc::clone(&frames), Arc::clone(&waiters));
        thread::spawn(move || {
            if frames.residency.unexclude(frame, true).has(WAITERS) {
                waiters.wake(frame, News::Look, 0);
            }
        })
    };
    let place = waiters
        .join(frame, futures_waker())
        .expect("there are nodes");
    let parks = is(Bug::NoSecondLook)
        || frames
            .residency
            .will_wake(page(0), frame, word::EXCLUSIVE | word::SHARED);
    holder.join().unwrap();
    if parks {
        assert!(waiters.news(place).is_ok(), "asleep with a free latch");
    } else {
        waiters.leave(place);
        waiters.wake(frame, News::Look, 0);
    }
    assert!(frames.residency.share(page(0), hash).is_ok());
}

#[test]
fn no_wake_up_is_lost_between_a_latch_and_its_waiter() {
    proven(
        wait_against_release,
        &[Bug::NoSecondLook, Bug::TornExchange],
    );
}

/// A waiter for a page, against its eviction and the frame's use for another page.
fn wait_against_evict() {
    let frames = Arc::new(Frames::new(1, 1));
    let waiters = Arc::new(Waiters::new(1, 2));
    let evictor = {
        let (frames, waiters) = (Arc::clone(&frames), Arc::clone(&waiters));
        thread::spawn(move || {
            // The frame is not used again: who waits for it now would wait for ever.
            if frames.residency.evict(0).is_ok_and(|evicted| evicted.wake) {
                waiters.wake(0, News::Look, 0);
            }
        })
    };
    let mut parked = None;
    match frames.residency.share(page(0), page(0).hash()) {
        Ok((frame, _)) => {
            frames.residency.unshare(frame);
        }
        Err(Obstacle::Busy(frame, bits)) => {
            let place = waiters.join(frame, futures_waker()).expect("a node");
            if is(Bug::NoSecondLook) || frames.residency.will_wake(page(0), frame, bits) {
                parked = Some(place);
            } else {
                waiters.leave(place);
            }
        }
        Err(_) => {}
    }
    evictor.join().unwrap();
    if let Some(place) = parked {
        assert!(
            waiters.news(place).is_ok(),
            "asleep at a frame without its page"
        );
    }
}

#[test]
fn who_waits_for_an_evicted_page_looks_elsewhere() {
    proven(wait_against_evict, &[Bug::NoSecondLook]);
}

/// Two join and one wakes, with one node short; nodes come back and are used again.
fn nodes_are_one_owners() {
    let waiters = Arc::new(Waiters::new(1, 1));
    let other = {
        let waiters = Arc::clone(&waiters);
        thread::spawn(move || {
            if let Some(place) = waiters.join(0, futures_waker()) {
                match waiters.news(place) {
                    Ok(_) => {}
                    Err(place) => waiters.leave(place),
                }
            }
        })
    };
    waiters.wake(0, News::Check(3, 4), 5);
    if let Some(place) = waiters.join(0, futures_waker()) {
        waiters.wake(0, News::Check(1, 2), 6);
        match waiters.news(place) {
            Ok((news, about)) => assert_eq!((news, about), (News::Check(1, 2), 6)),
            Err(_) => panic!("the list was woken"),
        }
    }
    other.join().unwrap();
    waiters.wake(0, News::Look, 0);
    assert!(
        waiters.join(0, futures_waker()).is_some(),
        "the node came back"
    );
    assert!(waiters.join(0, futures_waker()).is_none(), "and only once");
}

#[test]
fn a_node_has_one_user_and_comes_back() {
    proven(nodes_are_one_owners, &[Bug::TornExchange, Bug::NoRelease]);
}

/// Two change the same page, and one of them asks for a flush then.
fn flush_against_entering() {
    let [dirty, queue] = [0, 0].map(|_| Arc::new(sync::AtomicU32::new(0)));
    let shared = Arc::new((Queued::new(), Entering::new()));
    let change = |dirty: &sync::AtomicU32, queue: &sync::AtomicU32, shared: &(Queued, Entering)| {
        dirty.swap(1, sync::Ordering::AcqRel);
        let push = || queue.store(1, sync::Ordering::Relaxed);
        shared.1.enter(&shared.0, push);
    };
    let other = {
        let (dirty, queue) = (Arc::clone(&dirty), Arc::clone(&queue));
        let shared = Arc::clone(&shared);
        thread::spawn(move || change(&dirty, &queue, &shared))
    };
    change(&dirty, &queue, &shared);
    let is_over = shared.1.is_over() || is(Bug::EnteringOverlooked);
    let in_queue = queue.load(sync::Ordering::Relaxed) == 1;
    let seen = !is_over && dirty.load(sync::Ordering::Acquire) == 1;
    assert!(in_queue || seen, "the flush misses a page");
    other.join().unwrap();
    assert_eq!(queue.load(sync::Ordering::Relaxed), 1);
    assert!(shared.1.is_over() && shared.0.leave());
}

#[test]
fn a_flush_finds_what_is_just_entering_the_order() {
    let noticed = [Bug::EnteringOverlooked, Bug::NoAcquire, Bug::NoRelease];
    proven(flush_against_entering, &noticed);
}

/// A waker that does nothing: the models look at the news.
fn futures_waker() -> std::task::Waker {
    std::task::Waker::noop().clone()
}
