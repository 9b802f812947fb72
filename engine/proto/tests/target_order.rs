//! The order in which a target lets requests reach its disk, and what it does when there is no room.
#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are small numbers"
)]

mod target_bed;

use core::time::Duration;
use std::collections::HashMap;

use sandrail_proto::aoe::target::*;
use sandrail_proto::time::Instant;
use sandrail_wire::MacAddr;
use target_bed::*;

#[test]
fn what_overlaps_a_write_waits_for_it_and_what_does_not_goes_on() {
    let mut bed = Bed::new(Pace::Held);
    bed.give(&Ata::write(1, 10, 8).filled(1));
    bed.give(&Ata::read(2, 17, 1).bare());
    bed.give(&Ata::write(3, 4, 7).filled(3));
    bed.give(&Ata::read(4, 18, 8).bare());
    bed.give(&Ata::read(5, 0, 4).bare());
    bed.give(&Ata::read(6, 0, 5).bare());
    let begun = [("write", 10, 8), ("read", 18, 8), ("read", 0, 4)];
    assert_eq!(bed.disk().log, begun);
    assert_eq!(bed.counters().waits, 3);
    assert_eq!(
        bed.blade.held().stash_pieces,
        1,
        "the data of the second write"
    );
    // The read of 18 and on ends, which sets nobody free.
    bed.disk().end(1);
    bed.turn();
    assert_eq!(bed.disk().log.len(), 3);
    // The write does: the read of 17 and the write of 4..11 follow, but not the read that waits for that one.
    bed.disk().end(0);
    bed.turn();
    bed.disk().log[3..].sort_unstable();
    assert_eq!(bed.disk().log[3..], [("read", 17, 1), ("write", 4, 7)]);
    bed.finish();
    assert_eq!(bed.disk().log[5..], [("read", 0, 5)]);
    let replies = bed.replies();
    let read_17 = replies.iter().find(|reply| reply[23] == 2).unwrap();
    assert_eq!(read_17[36..], [1; 512]);
    let read_0 = replies.iter().find(|reply| reply[23] == 6).unwrap();
    assert_eq!(
        (read_0[36], read_0[36 + 4 * 512]),
        (0, 3),
        "before and behind 4"
    );
    bed.assert_idle();
}

#[test]
fn reads_share_and_a_write_waits_for_all_of_them() {
    let mut bed = Bed::new(Pace::Held);
    for tag in 1..4 {
        bed.give(&Ata::read(tag, 0, 4).bare());
    }
    bed.give(&Ata::write(4, 3, 1).filled(4));
    assert_eq!(bed.disk().log.len(), 3);
    for left in [2, 1] {
        bed.disk().end(left);
        bed.turn();
        assert_eq!(bed.disk().log.len(), 3, "{left} reads are left");
    }
    bed.disk().end(0);
    bed.turn();
    assert_eq!(bed.disk().log[3], ("write", 3, 1));
    bed.finish();
    assert!(
        bed.replies()[..3]
            .iter()
            .all(|reply| reply[36 + 3 * 512] == 0)
    );
    bed.assert_idle();
}

#[test]
fn a_flush_waits_for_nobody_and_nobody_for_it() {
    let mut bed = Bed::new(Pace::Held);
    bed.give(&Ata::write(1, 0, 1).filled(1));
    bed.give(&Ata::flush(2).bare());
    bed.give(&Ata::write(3, 1, 1).filled(1));
    let begun = [("write", 0, 1), ("flush", 0, 0), ("write", 1, 1)];
    assert_eq!(bed.disk().log, begun);
    bed.disk().end(1);
    bed.turn();
    assert_eq!(bed.replies()[0][23], 2);
    bed.finish();
    assert_eq!(bed.replies().len(), 2);
}

#[test]
fn a_trim_keeps_its_sectors_from_first_to_last_range() {
    let mut bed = Bed::new(Pace::Held);
    bed.disk().memory.fill(9);
    bed.give(&Ata::trim(1).with(&ranges(&[(700, 2), (100, 1)])));
    bed.give(&Ata::write(2, 701, 1).filled(2));
    bed.give(&Ata::write(3, 300, 1).filled(3));
    bed.give(&Ata::read(4, 702, 1).bare());
    assert_eq!(bed.disk().log, [("trim", 700, 2), ("read", 702, 1)]);
    bed.disk().end(0);
    bed.turn();
    assert_eq!(
        bed.disk().log[2..],
        [("trim", 100, 1)],
        "no write in between"
    );
    bed.finish();
    assert_eq!(bed.disk().log[3..], [("write", 701, 1), ("write", 300, 1)]);
    let at = |bed: &mut Bed, sector: usize| bed.disk().memory[sector * 512];
    assert_eq!(
        [700, 701, 100, 300].map(|sector| at(&mut bed, sector)),
        [0, 2, 0, 3]
    );
    assert_eq!(bed.replies().len(), 4);
    bed.assert_idle();
}

#[test]
fn a_trim_keeps_its_sectors_although_its_first_range_was_done_at_once() {
    let mut bed = Bed::new(Pace::Held);
    bed.disk().inline_left = 1;
    bed.give(&Ata::trim(1).with(&ranges(&[(10, 2), (20, 1)])));
    bed.give(&Ata::write(2, 9, 12).filled(2));
    assert_eq!(bed.disk().log, [("trim", 10, 2), ("trim", 20, 1)]);
    bed.finish();
    assert_eq!(bed.disk().memory[20 * 512], 2, "the later one's");
    assert_eq!(bed.replies().len(), 2);
    bed.assert_idle();
}

#[test]
fn what_the_disk_has_no_room_for_waits_in_order() {
    let mut disk = TestDisk::new(SECTORS, Pace::Held);
    disk.room = 2;
    let mut bed = Bed::with(disk, |_, _| {});
    for tag in 1..7 {
        bed.give(&Ata::write(tag, u64::from(tag) * 10, 1).filled(tag as u8));
    }
    bed.give(&Ata::flush(7).bare());
    assert_eq!(bed.disk().log.len(), 2);
    assert_eq!((bed.counters().disk_waits, bed.counters().waits), (5, 0));
    bed.disk().end(1);
    bed.turn();
    assert_eq!(
        bed.disk().log.len(),
        3,
        "one came in for the one that ended"
    );
    bed.finish();
    let order: Vec<_> = bed.disk().log.iter().map(|(_, lba, _)| *lba / 10).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 0]);
    assert_eq!(bed.disk().memory[60 * 512], 6, "its data were kept");
    assert_eq!(bed.replies().len(), 7);
    bed.assert_idle();
}

#[test]
fn a_disk_that_is_busy_until_its_kick_needs_no_further_turn() {
    let mut disk = TestDisk::new(SECTORS, Pace::Inline);
    disk.per_kick = 2;
    let mut bed = Bed::with(disk, |_, _| {});
    for tag in 1..=7 {
        bed.give(&Ata::write(tag, u64::from(tag), 1).filled(1));
    }
    assert_eq!(bed.disk().log.len(), 2);
    bed.turn();
    assert_eq!(bed.disk().log.len(), 7);
    assert_eq!(bed.replies().len(), 7);
    bed.assert_idle();
}

#[test]
fn nobody_has_more_buffers_than_it_was_told() {
    let mut bed = Bed::new(Pace::Held);
    for tag in 0..20 {
        bed.give(&Ata::read(tag, u64::from(tag), 1).bare());
    }
    assert_eq!(bed.blade.counters().rx_buffers_full, 4);
    // Others go on, and so do questions.
    bed.give(&Ata::read(77, 0, 1).from(B).bare());
    assert_eq!(bed.blade.counters().rx_buffers_full, 4);
    assert_eq!(bed.ask(&config(A, 1, 0, b"")).len(), 32);
    // With an answer handed out there is room for the next request at once.
    bed.disk().end(0);
    bed.turn();
    assert!(bed.blade.poll_transmit(bed.now, InterfaceId(0)).is_some());
    bed.give(&Ata::read(21, 21, 1).bare());
    assert_eq!(bed.blade.counters().rx_buffers_full, 4);
    bed.finish();
    assert_eq!(bed.replies().len(), 17);
    bed.assert_idle();
}

#[test]
fn more_initiators_than_places_and_more_questions_than_answers() {
    let mut bed = Bed::new(Pace::Held);
    for last in 1..=5 {
        let src = MacAddr([2, 0, 0, 0, 1, last]);
        bed.give(&Ata::read(1, 0, 1).from(src).bare());
    }
    assert_eq!(bed.blade.counters().rx_no_station, 1);
    bed.finish();
    assert_eq!(bed.replies().len(), 4);
    for _ in 0..20 {
        bed.give(&config(A, 1, 0, b""));
    }
    assert_eq!(
        bed.blade.counters().rx_buffers_full,
        3,
        "one for each target and 16 more"
    );
    assert_eq!(bed.replies().len(), 17);
    bed.assert_idle();
}

#[test]
fn without_memory_for_its_data_a_write_is_dropped_whole() {
    let mut bed = Bed::with(TestDisk::new(SECTORS, Pace::Held), |config, _| {
        config.stash_bytes = 1 << 16;
        config.buffer_count = 64;
    });
    let session = bed.session(A, 7, 0);
    // 64 KiB hold the data of seven frames of 17 sectors.
    for tag in 0..10 {
        bed.give(&Ata::write(tag << 4, 0, 17).under(session).filled(tag as u8));
    }
    assert_eq!(bed.blade.counters().rx_stash_full, 2);
    assert_eq!(bed.blade.held().operations, 8);
    bed.finish();
    assert_eq!(bed.replies().len(), 8);
    // What was dropped is not remembered: sent again, it is executed.
    bed.give(&Ata::write(9 << 4, 0, 17).under(session).filled(9));
    bed.finish();
    assert_eq!(bed.disk().memory[0], 9);
    assert_eq!(bed.replies().len(), 1);
    bed.assert_idle();
}

#[test]
fn more_requests_than_the_disk_has_operations() {
    let mut disk = TestDisk::new(SECTORS, Pace::Held);
    disk.operations_max = 3;
    let mut bed = Bed::with(disk, |_, _| {});
    for tag in 0..5 {
        bed.give(&Ata::read(tag, u64::from(tag), 1).bare());
    }
    assert_eq!(bed.blade.counters().rx_target_full, 2);
    bed.finish();
    assert_eq!(bed.replies().len(), 3);
    bed.assert_idle();
}

#[test]
fn answers_for_an_interface_that_is_gone_are_counted() {
    let mut bed = Bed::new(Pace::Inline);
    bed.give(&Ata::read(1, 0, 8).bare());
    bed.give(&config(A, 2, 0, b""));
    let before = bed.blade.counters();
    bed.blade.drop_answers(bed.now, InterfaceId(0));
    let after = bed.blade.counters();
    assert_eq!(after.tx_dropped, 2);
    assert_eq!(after.tx_frames, before.tx_frames);
    bed.assert_idle();
}

#[test]
fn a_slow_disk_asks_for_its_turns() {
    let mut bed = Bed::new(Pace::Held);
    assert_eq!(bed.blade.poll_timeout(), None);
    let due = bed.now + Duration::from_millis(3);
    bed.disk().timeout = Some(due);
    assert_eq!(bed.blade.poll_timeout(), Some(due));
    let kicks = bed.disk().kicks;
    bed.advance(Duration::from_millis(2));
    assert_eq!(bed.disk().kicks, kicks);
    bed.advance(Duration::from_millis(1));
    assert_eq!(bed.disk().kicks, kicks + 1);
}

#[test]
fn a_waiting_request_past_a_shrunken_end_is_not_started() {
    let mut bed = Bed::new(Pace::Held);
    bed.give(&Ata::write(1, 1000, 8).filled(1));
    bed.give(&Ata::read(2, 1007, 4).bare());
    bed.disk().end(0);
    bed.disk().memory.truncate(1010 * 512);
    bed.turn();
    let replies = bed.replies();
    assert_eq!(outcome(&replies[2]), "1800 40100441ef03000000000000");
    assert_eq!(replies.len(), 3, "an advertisement of the new size, too");
    bed.assert_idle();
}

/// What the random load expects of an answer, by tag.
enum Expected {
    Data(Vec<u8>),
    Done,
}

struct Random {
    bed: Bed,
    rng: fastrand::Rng,
    /// The disk as it is when everything accepted so far has been executed in its order of arrival.
    model: Vec<u8>,
    expected: HashMap<u32, Expected>,
    sent: Vec<(u32, Vec<u8>)>,
    sessions: [(MacAddr, u16); 3],
    next: u32,
    checked: usize,
    copies: usize,
}

impl Random {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut disk = TestDisk::new(256, Pace::Held);
        disk.room = rng.usize(1..40);
        disk.operations_max = 48;
        disk.sectors_per_operation_max = 20;
        let mut bed = Bed::with(disk, |config, _| {
            config.duplicates_max = 4096;
            config.stash_bytes = 1 << 17;
        });
        let sessions = [(A, bed.session(A, 1, 0)), (B, bed.session(B, 2, 0)), (C, 0)];
        Self {
            bed,
            rng,
            model: vec![0; 256 * 512],
            expected: HashMap::new(),
            sent: Vec::new(),
            sessions,
            next: 1,
            checked: 0,
            copies: 0,
        }
    }

    fn request(&mut self) {
        let (src, session) = self.sessions[self.rng.usize(..3)];
        let tag = self.next << 4;
        self.next += 1;
        let spread = [20, 120, 230][self.rng.usize(..3)];
        let (lba, count) = (self.rng.u64(..spread), self.rng.u8(1..=17));
        let (from, len) = (lba as usize * 512, usize::from(count) * 512);
        let byte = self.rng.u8(1..);
        let mut model = self.model.clone();
        let (frame, expected) = match self.rng.u8(..10) {
            0..=3 => {
                let data = self.model[from..from + len].to_vec();
                (
                    Ata::read(tag, lba, count).from(src).bare(),
                    Expected::Data(data),
                )
            }
            4..=7 => {
                model[from..from + len].fill(byte);
                let write = Ata::write(tag, lba, count).from(src).under(session);
                (write.filled(byte), Expected::Done)
            }
            8 => (
                Ata::flush(tag).from(src).under(session).bare(),
                Expected::Done,
            ),
            _ => {
                let list = [(lba, 3), (200, self.rng.u16(0..50)), (lba + 5, 1)];
                for (lba, sectors) in list {
                    let from = lba as usize * 512;
                    model[from..from + usize::from(sectors) * 512].fill(0);
                }
                let trim = Ata::trim(tag).from(src).under(session);
                (trim.with(&ranges(&list)), Expected::Done)
            }
        };
        let used = self.bed.blade.counters().rx_used;
        self.bed.give(&frame);
        if self.bed.blade.counters().rx_used == used {
            return;
        }
        self.model = model;
        self.expected.insert(tag, expected);
        let is_remembered = session != 0 && frame[27] != 0x24;
        if is_remembered {
            self.sent.push((tag, frame));
        }
    }

    /// A copy of an earlier WRITE, FLUSH or TRIM: whatever it is answered, it changes nothing.
    fn copy(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let recent = self.sent.len().min(30);
        let (tag, frame) = &self.sent[self.sent.len() - 1 - self.rng.usize(..recent)];
        let (tag, mut frame) = (*tag, frame.clone());
        frame[23] |= self.rng.u8(1..16);
        let before = self.bed.blade.counters();
        self.bed.give(&frame);
        let after = self.bed.blade.counters();
        self.copies += 1;
        if self.expected.contains_key(&tag) && after.rx_buffers_full == before.rx_buffers_full {
            // It may be over and its answer on the way; if it is not over, there is no second answer.
            let is_over = after.rx_used > before.rx_used;
            assert!(
                is_over
                    || after.rx_copy_executing > before.rx_copy_executing
                    || after.rx_target_full > before.rx_target_full
            );
        }
    }

    fn check_replies(&mut self) {
        for reply in self.bed.replies() {
            assert_eq!(reply[14..16], [0x18, 0], "{}", outcome(&reply));
            assert_eq!(reply[26..28], [0, 0x40], "{}", outcome(&reply));
            let tag = u32::from_be_bytes(reply[20..24].try_into().unwrap());
            if tag & 15 != 0 {
                continue;
            }
            match self
                .expected
                .remove(&tag)
                .expect("one answer to each request")
            {
                Expected::Data(data) => assert!(reply[36..] == data, "tag {tag:#x}: other data"),
                Expected::Done => assert_eq!(reply.len(), 36),
            }
            self.checked += 1;
        }
    }

    fn step(&mut self) {
        match self.rng.u8(..12) {
            0..=5 => self.request(),
            6 => self.copy(),
            7..=9 => {
                let held = self.bed.disk().held.len();
                if held > 0 {
                    let place = self.rng.usize(..held);
                    self.bed.disk().end(place);
                }
            }
            10 => self.bed.turn(),
            _ => self.check_replies(),
        }
        if self.rng.u8(..50) == 0 {
            self.bed.disk().pace = if self.rng.bool() {
                Pace::Held
            } else {
                Pace::Inline
            };
        }
    }
}

/// Requests of three initiators, two with sessions, on a disk that ends operations in any order: each READ returns what a
/// disk that executed everything one by one in order of arrival would have, copies or not.
#[test]
fn any_load_is_as_if_executed_one_by_one() {
    let (mut checked, mut copies, mut waits, mut busy, mut again) = (0, 0, 0, 0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        for _ in 0..2000 {
            random.step();
        }
        random.bed.finish();
        random.check_replies();
        assert!(
            random.expected.is_empty(),
            "seed {seed}: requests that were not answered"
        );
        assert!(
            random.bed.disk().memory == random.model,
            "seed {seed}: other sectors"
        );
        random.bed.assert_idle();
        let counters = random.bed.counters();
        (checked, copies) = (checked + random.checked, copies + random.copies);
        waits += counters.waits;
        busy += counters.disk_waits;
        again += counters.copies_answered;
    }
    assert!(
        checked > 20_000 && copies > 2000,
        "{checked} answers, {copies} copies"
    );
    assert!(
        waits > 2000 && busy > 500 && again > 500,
        "{waits} {busy} {again}"
    );
}

/// Frames made of plausible pieces: nothing panics, nothing is executed twice, nothing stays behind.
#[test]
fn no_frame_is_too_odd() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bed = Bed::new(if rng.bool() { Pace::Inline } else { Pace::Held });
        bed.session(A, 1, 0);
        for _ in 0..300 {
            let len = rng.usize(..120);
            let mut bytes: Vec<u8> = core::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            let templates = [
                Ata::read(1, 0, 2).bare(),
                Ata::write(1, 0, 2).under(0x100).filled(3),
                Ata::trim(1).with(&ranges(&[(1, 2)])),
                config(A, 1, 3, b"x"),
                mask_edit(A, 1, &[(1, A), (1, B)]),
                reserve(A, 1, 1, &[A, B]),
                reserve_epoch(A, 1, 5, &[A]),
                attach(A, 1, 1, 0),
            ];
            if rng.u8(..4) > 0 {
                let mut frame = templates[rng.usize(..templates.len())].clone();
                for _ in 0..rng.usize(..4) {
                    let at = rng.usize(12..frame.len().min(80));
                    frame[at] = [rng.u8(..), frame[at] ^ 1, 0xff, 0][rng.usize(..4)];
                }
                frame.truncate(rng.usize(..=frame.len() + 40));
                bytes = frame;
            }
            if bytes.is_empty() {
                continue;
            }
            bed.give(&bytes);
            match rng.u8(..4) {
                0 => bed.finish(),
                1 => {
                    bed.persist(rng.bool());
                }
                2 => {
                    bed.replies();
                }
                _ => bed.advance(Duration::from_millis(rng.u64(..50))),
            }
        }
        bed.finish();
        while bed.persist(true) > 0 {}
        bed.replies();
        bed.finish();
        bed.assert_idle();
        let rx: u64 = bed
            .blade
            .counters()
            .iter()
            .filter(|(name, _)| name.starts_with("rx_"))
            .map(|(_, n)| n)
            .sum();
        assert!(rx >= 200);
    }
}

#[test]
fn instants_may_be_anything() {
    let mut bed = Bed::new(Pace::Inline);
    let session = bed.session(A, 1, 0);
    for ns in [u64::MAX, 0, u64::MAX, 1] {
        bed.now = Instant::from_nanos(ns);
        bed.ask(&Ata::write(0x10, 0, 1).under(session).filled(1));
        bed.ask(&attach(A, 1, ns | 1, 0));
        bed.turn();
    }
}
