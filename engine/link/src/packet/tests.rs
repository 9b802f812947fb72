//! The bookkeeping apart from the kernel: a transmit ring against a model of the kernel's side, and send queues taking turns.

use std::cell::RefCell;
use std::collections::VecDeque;

use libc::{
    TP_STATUS_AVAILABLE, TP_STATUS_SEND_REQUEST, TP_STATUS_SENDING, TP_STATUS_WRONG_FORMAT,
};
use proptest::prelude::*;

use super::slots::{StatusWords, TransmitSlots};
use super::turns::Turns;

/// The kernel's side of a ring as `tpacket_snd` has it: a cursor that walks over requested slots, frames at the driver,
/// and which frame lies in which slot.
struct Kernel {
    words: RefCell<Vec<u32>>,
    cursor: usize,
    /// Slot and frame, in the order they were given to the driver.
    driver: Vec<(usize, u64)>,
    frames: Vec<Option<u64>>,
    /// Frames whose memory is free again: sent, or taken back.
    gone: Vec<bool>,
}

impl StatusWords for Kernel {
    fn load(&self, slot: usize) -> u32 {
        self.words.borrow()[slot]
    }

    fn store(&self, slot: usize, status: u32) {
        self.words.borrow_mut()[slot] = status;
    }
}

impl Kernel {
    fn new(slots: usize) -> Self {
        Self {
            words: RefCell::new(vec![TP_STATUS_AVAILABLE; slots]),
            cursor: 0,
            driver: Vec::new(),
            frames: vec![None; slots],
            gone: Vec::new(),
        }
    }

    /// Gives up to `most` requested frames to the driver.
    fn kick(&mut self, most: usize) {
        for _ in 0..most {
            if self.load(self.cursor) != TP_STATUS_SEND_REQUEST {
                return;
            }
            let frame = self.frames[self.cursor].expect("a frame was requested");
            self.store(self.cursor, TP_STATUS_SENDING);
            self.driver.push((self.cursor, frame));
            self.cursor = (self.cursor + 1) % self.frames.len();
        }
    }

    /// The driver frees one frame; drivers with several queues do not keep to an order.
    fn complete(&mut self, which: usize) {
        if self.driver.is_empty() {
            return;
        }
        let (slot, frame) = self.driver.remove(which % self.driver.len());
        self.frames[slot] = None;
        self.gone[usize::try_from(frame).unwrap()] = true;
        // Time stamps may be noted in the upper bits.
        self.store(slot, TP_STATUS_AVAILABLE | libc::TP_STATUS_TS_SOFTWARE);
    }

    /// The frame at the cursor is found to be unacceptable.
    fn reject(&mut self) {
        if self.load(self.cursor) == TP_STATUS_SEND_REQUEST {
            self.store(self.cursor, TP_STATUS_WRONG_FORMAT);
        }
    }
}

#[derive(Clone, Debug)]
enum RingOp {
    Push(usize),
    Kick(usize),
    Complete(usize),
    Reject,
    Reap,
    Discard,
}

fn ring_op() -> impl Strategy<Value = RingOp> {
    prop_oneof![
        4 => (1_usize..6).prop_map(RingOp::Push),
        4 => (1_usize..6).prop_map(RingOp::Kick),
        6 => any::<usize>().prop_map(RingOp::Complete),
        1 => Just(RingOp::Reject),
        2 => Just(RingOp::Reap),
        2 => Just(RingOp::Discard),
    ]
}

/// How many frames from the first are gone.
fn prefix(gone: &[bool]) -> u64 {
    u64::try_from(gone.iter().take_while(|gone| **gone).count()).unwrap()
}

fn push(slots: &mut TransmitSlots, kernel: &mut Kernel, taken: &mut u64) -> bool {
    let room = slots.room(kernel);
    let Some(slot) = slots.next(kernel) else {
        assert_eq!(room, 0);
        return false;
    };
    assert!(room > 0);
    assert!(kernel.frames[slot].is_none(), "slot {slot} is still in use");
    kernel.frames[slot] = Some(*taken);
    kernel.gone.push(false);
    slots.request(kernel);
    *taken += 1;
    true
}

fn discard(slots: &mut TransmitSlots, kernel: &mut Kernel) {
    let unsent: Vec<usize> = (0..kernel.frames.len())
        .filter(|slot| kernel.load(*slot) & (TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT) != 0)
        .collect();
    assert_eq!(slots.discard(kernel), u64::try_from(unsent.len()).unwrap());
    for slot in unsent {
        let frame = kernel.frames[slot].take().expect("a frame was requested");
        kernel.gone[usize::try_from(frame).unwrap()] = true;
        assert_eq!(kernel.load(slot), TP_STATUS_AVAILABLE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn transmit_ring_agrees_with_a_model_of_the_kernel(
        size in 1_usize..9,
        ops in prop::collection::vec(ring_op(), 1..200),
    ) {
        let (mut kernel, mut slots) = (Kernel::new(size), TransmitSlots::new(size));
        let (mut taken, mut before) = (0, 0);
        for op in ops {
            match op {
                RingOp::Push(n) => {
                    for _ in 0..n {
                        push(&mut slots, &mut kernel, &mut taken);
                    }
                }
                RingOp::Kick(n) => kernel.kick(n),
                RingOp::Complete(which) => kernel.complete(which),
                RingOp::Reject => kernel.reject(),
                RingOp::Reap => slots.reap(&kernel),
                RingOp::Discard => discard(&mut slots, &mut kernel),
            }
            let completed = slots.completed();
            prop_assert!(completed >= before, "completed() fell");
            prop_assert!(completed <= prefix(&kernel.gone), "completed() ran ahead");
            before = completed;
            // The kernel stops at the first slot that is not requested, so no request may lie behind its cursor unseen.
            let requested = (0..size).any(|slot| kernel.load(slot) == TP_STATUS_SEND_REQUEST);
            let rejected = kernel.load(kernel.cursor) == TP_STATUS_WRONG_FORMAT;
            if requested && !rejected {
                prop_assert_eq!(kernel.load(kernel.cursor), TP_STATUS_SEND_REQUEST);
            }
            let unsent = (0..size).filter(|slot| {
                kernel.load(*slot) & (TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT) != 0
            });
            prop_assert_eq!(slots.requested() - slots.sent(&kernel), u64::try_from(unsent.count()).unwrap());
        }
        // Once all is quiet, everything is told.
        discard(&mut slots, &mut kernel);
        while !kernel.driver.is_empty() {
            kernel.complete(0);
        }
        slots.reap(&kernel);
        prop_assert_eq!(slots.completed(), taken);
        prop_assert_eq!(slots.room(&kernel), size);
        prop_assert!(push(&mut slots, &mut kernel, &mut taken));
        kernel.kick(1);
        prop_assert_eq!(kernel.driver.len(), 1, "the cursors meet");
    }

    #[test]
    fn completion_by_empty_queues_never_runs_ahead_and_never_starves(
        ops in prop::collection::vec((0_u8..4, 1_u64..8), 1..200),
    ) {
        let (mut queues, mut turns) = ([VecDeque::new(), VecDeque::new()], Turns::default());
        let (mut handed, mut before, mut gone) = (0_u64, 0, Vec::new());
        for (op, n) in ops {
            match op {
                0 => {
                    for frame in handed..handed + n {
                        queues[turns.active()].push_back(frame);
                        gone.push(false);
                    }
                    handed += n;
                    turns.hand(n);
                }
                1 | 2 => {
                    for _ in 0..n {
                        let frame: Option<u64> = queues[usize::from(op - 1)].pop_front();
                        frame.into_iter().for_each(|frame| gone[usize::try_from(frame).unwrap()] = true);
                    }
                }
                _ => turns.reap(|socket| queues[socket].is_empty()),
            }
            let completed = turns.completed();
            prop_assert!(completed >= before && completed <= prefix(&gone));
            before = completed;
        }
        // Under load: each turn hands over more, so that the active queue is never empty; it goes on all the same.
        for _ in 0..4 {
            queues[turns.active()].push_back(handed);
            gone.push(false);
            handed += 1;
            turns.hand(1);
            let draining = 1 - turns.active();
            for frame in queues[draining].drain(..) {
                gone[usize::try_from(frame).unwrap()] = true;
            }
            turns.reap(|socket| queues[socket].is_empty());
        }
        prop_assert!(turns.completed() + 3 >= handed, "{} of {handed}", turns.completed());
        prop_assert!(turns.completed() <= prefix(&gone));
    }
}

#[test]
fn one_socket_alone_would_starve() {
    // The reason for two: a queue that always has the newest frame in it is never empty.
    let (mut queue, mut turns) = (VecDeque::new(), Turns::default());
    for frame in 0..100 {
        queue.push_back(frame);
        turns.hand(1);
        if queue.len() > 1 {
            queue.pop_front();
        }
        // As if both sockets were this one.
        turns.reap(|_| queue.is_empty());
    }
    assert_eq!(turns.completed(), 0);
}
