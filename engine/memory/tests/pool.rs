//! The pool against an oracle that keeps its own books, on one thread and on several.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::prelude::*;
use sandrail_memory::{Arena, ArenaError, Buffer, BufferPool, HugePages, PoolError};

fn pool(buffer_bytes: usize, count: usize) -> BufferPool {
    let mut arena = Arena::new(
        BufferPool::arena_bytes(buffer_bytes, count),
        HugePages::Prefer,
    )
    .unwrap();
    BufferPool::new(&mut arena, buffer_bytes, count).unwrap()
}

fn address(buffer: &Buffer) -> usize {
    buffer.as_ref().as_ptr().addr()
}

#[derive(Clone, Debug)]
enum Op {
    Get { stamp: u8 },
    Drop { which: usize },
    Resize { which: usize, len: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<u8>().prop_map(|stamp| Op::Get { stamp }),
        2 => any::<usize>().prop_map(|which| Op::Drop { which }),
        1 => (any::<usize>(), 0_usize..=1024).prop_map(|(which, len)| Op::Resize { which, len }),
    ]
}

proptest! {
    #[test]
    fn held_buffers_never_overlap_and_keep_their_bytes(ops in prop::collection::vec(op(), 1..400)) {
        const COUNT: usize = 7;
        const BYTES: usize = 1024;
        let pool = pool(BYTES, COUNT);
        // The oracle: what each held buffer must contain, at full length.
        let mut held: Vec<(Buffer, u8)> = Vec::new();
        for op in ops {
            match op {
                Op::Get { stamp } => match pool.get() {
                    Some(mut buffer) => {
                        prop_assert!(held.len() < COUNT);
                        prop_assert_eq!(buffer.len(), BYTES);
                        buffer.as_mut().fill(stamp);
                        held.push((buffer, stamp));
                    }
                    None => prop_assert_eq!(held.len(), COUNT),
                },
                Op::Drop { which } if !held.is_empty() => {
                    held.swap_remove(which % held.len());
                }
                Op::Resize { which, len } if !held.is_empty() => {
                    let at = which % held.len();
                    held[at].0.set_len(len);
                    prop_assert_eq!(held[at].0.as_ref().len(), len);
                }
                Op::Drop { .. } | Op::Resize { .. } => {}
            }
            prop_assert_eq!(pool.free(), COUNT - held.len());
            for (buffer, stamp) in &held {
                prop_assert!(buffer.as_ref().iter().all(|byte| byte == stamp));
            }
        }
        let mut starts: Vec<usize> = held.iter().map(|(buffer, _)| address(buffer)).collect();
        starts.sort_unstable();
        prop_assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= BYTES));
    }
}

#[test]
fn an_exhausted_pool_says_so_and_recovers() {
    let pool = pool(4096, 3);
    let mut held: Vec<Buffer> = std::iter::from_fn(|| pool.get()).collect();
    assert_eq!(held.len(), 3);
    assert!(pool.get().is_none());
    held.pop();
    assert!(pool.get().is_some());
}

#[test]
fn buffers_are_aligned_to_pages_or_sectors() {
    for (bytes, alignment) in [
        (4096, 4096),
        (65536, 4096),
        (4608, 4096),
        (512, 512),
        (1536, 512),
    ] {
        let pool = pool(bytes, 5);
        let held: Vec<Buffer> = std::iter::from_fn(|| pool.get()).collect();
        assert_eq!(held.len(), 5);
        for buffer in &held {
            assert_eq!(address(buffer) % alignment, 0, "{bytes}");
            assert_eq!(buffer.capacity(), bytes);
        }
    }
}

#[test]
fn a_returned_buffer_comes_back_at_full_length() {
    let pool = pool(1024, 1);
    let mut buffer = pool.get().unwrap();
    buffer.truncate(512);
    buffer.truncate(900);
    assert_eq!(buffer.len(), 512);
    drop(buffer);
    assert_eq!(pool.get().unwrap().len(), 1024);
}

#[test]
#[should_panic(expected = "exceeds the buffer's 512")]
fn no_length_beyond_the_capacity() {
    pool(512, 1).get().unwrap().set_len(513);
}

#[test]
fn the_empty_buffer_needs_no_pool() {
    let mut buffer = Buffer::empty();
    assert!(buffer.is_empty() && buffer.as_mut().is_empty());
    assert_eq!(buffer.capacity(), 0);
}

#[test]
fn a_buffer_outlives_its_pool() {
    let pool = pool(512, 2);
    let mut buffer = pool.get().unwrap();
    drop(pool);
    buffer.as_mut().fill(9);
    assert!(buffer.as_ref().iter().all(|byte| *byte == 9));
}

#[test]
fn senseless_pools_are_errors() {
    let mut arena = Arena::new(1 << 20, HugePages::Never).unwrap();
    for bytes in [0, 100, 513] {
        assert!(matches!(
            BufferPool::new(&mut arena, bytes, 1),
            Err(PoolError::BufferLength { .. })
        ));
    }
    assert!(matches!(
        BufferPool::new(&mut arena, 512, 0),
        Err(PoolError::Count { .. })
    ));
    assert!(matches!(
        BufferPool::new(&mut arena, 4096, 1 << 20),
        Err(PoolError::Arena(ArenaError::Exhausted { .. }))
    ));
}

#[test]
fn threads_never_hold_the_same_buffer() {
    const THREADS: usize = 4;
    const COUNT: usize = 8;
    let pool = pool(512, COUNT);
    // One flag a buffer: set while held. A second holder would find it set.
    let mut flags = HashMap::new();
    {
        let held: Vec<Buffer> = std::iter::from_fn(|| pool.get()).collect();
        for buffer in &held {
            flags.insert(address(buffer), AtomicBool::new(false));
        }
    }
    assert_eq!(flags.len(), COUNT);
    thread::scope(|scope| {
        for seed in 0..THREADS {
            let (pool, flags) = (pool.clone(), &flags);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::try_from(seed).unwrap());
                let mut held: Vec<Buffer> = Vec::new();
                for _ in 0..20_000 {
                    if random.bool() {
                        if let Some(mut buffer) = pool.get() {
                            let before = flags[&address(&buffer)].swap(true, Ordering::Relaxed);
                            assert!(!before, "two holders of one buffer");
                            buffer.as_mut().fill(u8::try_from(seed).unwrap());
                            held.push(buffer);
                        }
                    } else if !held.is_empty() {
                        let buffer = held.swap_remove(random.usize(..held.len()));
                        assert!(buffer.as_ref().iter().all(|b| usize::from(*b) == seed));
                        flags[&address(&buffer)].store(false, Ordering::Relaxed);
                    }
                }
                for buffer in held {
                    flags[&address(&buffer)].store(false, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(pool.free(), COUNT);
}
