//! The table against a kernel that does what it likes: any part of a request, in any order, or refuses.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are small"
)]

use proptest::prelude::*;

use super::*;

const SECTOR: u64 = SECTOR_BYTES as u64;

fn table() -> (Table, DiskCounters) {
    (Table::new(16, 0), DiskCounters::default())
}

fn requests(table: &mut Table, counters: &mut DiskCounters) -> Vec<Request> {
    table.plan(counters);
    table.requests().to_vec()
}

fn ended(table: &mut Table) -> Vec<(u32, Result<(), DiskError>)> {
    std::iter::from_fn(|| table.next_ended()).collect()
}

#[test]
fn neighbours_of_one_kind_share_a_request() {
    let (mut table, mut counters) = table();
    table.queue(0, Kind::Read, 4096, 512);
    table.queue(1, Kind::Write, 8192, 512);
    table.queue(2, Kind::Read, 3584, 512);
    table.queue(3, Kind::Read, 4608, 1024);
    table.queue(4, Kind::Read, 6144, 512);
    table.queue(5, Kind::Write, 8704, 512);
    let requests = requests(&mut table, &mut counters);
    let shape = |request: &Request| {
        (
            request.head,
            request.offset,
            request.len,
            request.operations,
        )
    };
    let shapes: Vec<_> = requests.iter().map(shape).collect();
    assert_eq!(
        shapes,
        [(2, 3584, 2048, 3), (4, 6144, 512, 1), (1, 8192, 1024, 2)]
    );
    let chain: Vec<u32> = table.chain(2).map(|(io, _)| io).collect();
    assert_eq!(chain, [2, 0, 3]);
    assert_eq!((counters.merged_reads, counters.merged_writes), (2, 1));
}

#[test]
fn a_request_is_no_longer_than_a_device_takes() {
    let mut table = Table::new(64, 0);
    let mut counters = DiskCounters::default();
    for io in 0..40 {
        table.queue(io, Kind::Write, u64::from(io) * 512, 512);
    }
    let counts: Vec<u32> = requests(&mut table, &mut counters)
        .iter()
        .map(|request| request.operations)
        .collect();
    assert_eq!(counts, [CHAIN_OPERATIONS_MAX, 40 - CHAIN_OPERATIONS_MAX]);
    let (mut table, _) = self::table();
    for io in 0..3 {
        table.queue(io, Kind::Read, u64::from(io) * (256 << 10), 256 << 10);
    }
    assert_eq!(requests(&mut table, &mut counters).len(), 2);
}

#[test]
fn flushes_of_a_turn_are_one() {
    let (mut table, mut counters) = table();
    table.queue(3, Kind::Flush, 0, 0);
    table.queue(1, Kind::Flush, 0, 0);
    let request = requests(&mut table, &mut counters)[0];
    assert_eq!(request.operations, 2);
    table.complete(request.head, 0, &mut counters);
    let mut all = ended(&mut table);
    all.sort_by_key(|(io, _)| *io);
    assert_eq!(all, [(1, Ok(())), (3, Ok(()))]);
}

#[test]
fn a_flush_waits_for_the_one_before_and_fails_with_it() {
    let (mut table, mut counters) = table();
    table.queue(0, Kind::Flush, 0, 0);
    assert_eq!(requests(&mut table, &mut counters).len(), 1);
    table.queue(1, Kind::Flush, 0, 0);
    assert!(!table.has_queued(), "it has to wait");
    table.queue(2, Kind::Write, 0, 512);
    assert!(table.has_queued());
    let heads = |requests: Vec<Request>| requests.iter().map(|one| one.head).collect::<Vec<_>>();
    assert_eq!(heads(requests(&mut table, &mut counters)), [2]);
    table.complete(2, 512, &mut counters);
    // One that is interrupted is asked again, together with the one that waited.
    table.complete(0, -libc::EINTR, &mut counters);
    assert_eq!(ended(&mut table), [(2, Ok(()))]);
    let again = requests(&mut table, &mut counters);
    assert_eq!((again.len(), again[0].operations), (1, 2));
    table.complete(again[0].head, 0, &mut counters);
    assert_eq!(ended(&mut table).len(), 2);

    table.queue(3, Kind::Flush, 0, 0);
    assert_eq!(heads(requests(&mut table, &mut counters)), [3]);
    table.queue(4, Kind::Flush, 0, 0);
    table.queue(5, Kind::Read, 0, 512);
    let outcome = table.complete(3, -libc::EIO, &mut counters);
    assert_eq!(outcome.flush_failed, Some(libc::EIO));
    let error = Err(DiskError::Device { errno: libc::EIO });
    assert_eq!(ended(&mut table), [(3, error), (4, error)]);
    assert_eq!(heads(requests(&mut table, &mut counters)), [5]);
}

#[test]
fn what_is_left_of_a_request_goes_on_at_a_sector() {
    let (mut table, mut counters) = table();
    table.queue(0, Kind::Read, 0, 1024);
    table.queue(1, Kind::Read, 1024, 1024);
    let request = requests(&mut table, &mut counters)[0];
    // A sector and a half of the second operation is half a sector too many to go on from.
    table.complete(request.head, 1024 + 700, &mut counters);
    assert_eq!(ended(&mut table), [(0, Ok(()))]);
    assert_eq!(table.read_bytes(0), Some(1024));
    assert_eq!(table.read_bytes(1), None);
    let rest = requests(&mut table, &mut counters);
    assert_eq!((rest[0].head, rest[0].offset, rest[0].len), (1, 1536, 512));
    assert_eq!(table.chain(1).next().unwrap().1.done(), 512);
    table.complete(1, 512, &mut counters);
    assert_eq!(ended(&mut table), [(1, Ok(()))]);
    assert_eq!(counters.resumed, 1);
}

#[test]
fn a_file_that_ends_fails_the_sector_that_is_missing() {
    let (mut table, mut counters) = table();
    table.base = 512;
    table.queue(0, Kind::Read, 512, 1024);
    let mut outcome = Outcome::default();
    let mut results = vec![512, 0, 0, 0].into_iter();
    while ended(&mut table).is_empty() {
        let head = requests(&mut table, &mut counters)[0].head;
        outcome = table.complete(head, results.next().unwrap(), &mut counters);
        if !table.has_queued() {
            break;
        }
    }
    assert!(outcome.ended_early);
    assert_eq!(ended(&mut table), [(0, Err(DiskError::Medium { lba: 1 }))]);
    assert_eq!(results.next(), None);
}

#[test]
fn one_bad_sector_fails_one_operation() {
    let (mut table, mut counters) = table();
    for io in 0..3 {
        table.queue(io, Kind::Write, u64::from(io) * 512, 512);
    }
    let request = requests(&mut table, &mut counters)[0];
    table.complete(request.head, -libc::EIO, &mut counters);
    assert_eq!(ended(&mut table), []);
    let alone = requests(&mut table, &mut counters);
    assert_eq!(alone.len(), 3, "they must not meet again");
    for request in alone {
        let result = if request.offset == 512 {
            -libc::EIO
        } else {
            512
        };
        table.complete(request.head, result, &mut counters);
    }
    let bad = Err(DiskError::Medium { lba: 1 });
    assert_eq!(ended(&mut table), [(0, Ok(())), (1, bad), (2, Ok(()))]);
    assert_eq!(counters.split, 3);
}

#[test]
fn error_numbers_have_their_meaning() {
    let cases = [
        (libc::EIO, DiskError::Medium { lba: 4 }),
        (libc::ENODATA, DiskError::Medium { lba: 4 }),
        (libc::ENOSPC, DiskError::NoSpace),
        (libc::EDQUOT, DiskError::NoSpace),
        (libc::EFBIG, DiskError::NoSpace),
        (
            libc::ENODEV,
            DiskError::Device {
                errno: libc::ENODEV,
            },
        ),
    ];
    for (errno, expected) in cases {
        let (mut table, mut counters) = table();
        table.queue(0, Kind::Write, 4 * 512, 512);
        requests(&mut table, &mut counters);
        table.complete(0, -errno, &mut counters);
        assert_eq!(ended(&mut table), [(0, Err(expected))]);
    }
}

#[test]
fn interruptions_are_no_errors() {
    for errno in [libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
        let (mut table, mut counters) = table();
        table.queue(0, Kind::Flush, 0, 0);
        requests(&mut table, &mut counters);
        assert_eq!(table.complete(0, -errno, &mut counters), Outcome::default());
        requests(&mut table, &mut counters);
        table.complete(0, 0, &mut counters);
        assert_eq!(ended(&mut table), [(0, Ok(()))]);
        assert_eq!(counters.retried, 1);
    }
}

#[test]
fn a_failed_flush_and_a_refused_discard_are_told() {
    let (mut table, mut counters) = table();
    table.queue(0, Kind::Flush, 0, 0);
    table.queue(1, Kind::Discard, 4096, 4096);
    requests(&mut table, &mut counters);
    let outcome = table.complete(0, -libc::EIO, &mut counters);
    assert_eq!(outcome.flush_failed, Some(libc::EIO));
    let outcome = table.complete(1, -libc::EOPNOTSUPP, &mut counters);
    assert!(outcome.no_discard);
    let failed = Err(DiskError::Device { errno: libc::EIO });
    assert_eq!(ended(&mut table), [(0, failed), (1, Ok(()))]);
}

#[test]
#[should_panic(expected = "released before its end")]
fn a_place_is_not_released_before_its_end() {
    let (mut table, mut counters) = table();
    table.queue(0, Kind::Read, 0, 512);
    requests(&mut table, &mut counters);
    table.release(0);
}

#[test]
#[should_panic(expected = "while it is under way")]
fn a_place_is_not_used_twice() {
    let (mut table, _) = table();
    table.queue(0, Kind::Read, 0, 512);
    table.queue(0, Kind::Read, 0, 512);
}

/// A request as the kernel has it: the pieces of memory it was given, by place and offset.
struct Taken {
    request: Request,
    pieces: Vec<(u32, u64, u64)>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the kernel answers, each operation ends once; a read that ends well has had each of its bytes from its place
    /// in the file, and a write that ends well has had each of its bytes written there.
    #[test]
    fn every_byte_goes_where_it_belongs(
        lens in prop::collection::vec((0_u64..3, 1_u64..5, any::<bool>()), 1..12),
        answers in prop::collection::vec((any::<prop::sample::Index>(), 0_u32..16, any::<u16>()), 0..200),
    ) {
        let (mut table, mut counters) = table();
        let mut at = 0;
        let mut operations = Vec::new();
        for (io, (gap, sectors, is_read)) in lens.iter().enumerate() {
            at += gap / 2 * SECTOR;
            let (io, len) = (io as u32, sectors * SECTOR);
            let kind = if *is_read { Kind::Read } else { Kind::Write };
            table.queue(io, kind, at, len);
            // Which bytes of the slot were moved from or to their place.
            operations.push((at, vec![false; len as usize], None));
            at += len;
        }
        let mut taken: Vec<Taken> = Vec::new();
        let mut answers = answers.into_iter();
        for _ in 0..10_000 {
            table.plan(&mut counters);
            for request in table.requests() {
                let pieces: Vec<_> = table
                    .chain(request.head)
                    .map(|(io, operation)| (io, operation.done(), operation.left()))
                    .collect();
                let whole: u64 = pieces.iter().map(|(_, _, len)| len).sum();
                prop_assert_eq!((request.len, request.operations as usize), (whole, pieces.len()));
                taken.push(Taken { request: *request, pieces });
            }
            while let Some((io, result)) = table.next_ended() {
                let (_, moved, end) = &mut operations[io as usize];
                prop_assert!(end.is_none(), "operation {} ends twice", io);
                prop_assert!(result.is_err() || moved.iter().all(|byte| *byte), "operation {} is not done", io);
                *end = Some(result);
            }
            if taken.is_empty() {
                break;
            }
            let (which, how, part) = answers
                .next()
                .map_or((0, 15, 0), |(which, how, part)| (which.index(taken.len()), how, part));
            let Taken { request, pieces } = taken.swap_remove(which);
            let result = match how {
                0 => -libc::EINTR,
                1 => -libc::EIO,
                2..=8 => i32::from(part) % (request.len as i32 + 1),
                _ => request.len as i32,
            };
            let mut left = u64::try_from(result).unwrap_or(0);
            let mut place = request.offset;
            for (io, offset, len) in pieces {
                let (start, moved, _) = &mut operations[io as usize];
                prop_assert_eq!(*start + offset, place, "a piece lies elsewhere than the file's bytes");
                let got = left.min(len);
                moved[offset as usize..(offset + got) as usize].fill(true);
                left -= got;
                place += len;
            }
            table.complete(request.head, result, &mut counters);
        }
        prop_assert!(operations.iter().all(|(_, _, end)| end.is_some()), "something never ends");
        prop_assert_eq!(table.submitted(), 0);
    }
}
