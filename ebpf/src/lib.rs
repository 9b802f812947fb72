//! The XDP program that steers SAN frames to their AF_XDP sockets, compiled, and what its loader must know of it.
//!
//! The program is `src/steer.bpf.c`. The build script compiles it with clang against a header written from
//! wire's constants and those below, so neither side repeats a number.

mod layout;

pub use layout::*;

/// The object's bytes where a loader may read them in place: ELF structures want eight-byte alignment.
#[repr(C, align(16))]
struct Aligned<Bytes: ?Sized>(Bytes);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o")));

/// The compiled program: an ELF object for the BPF target with one program ([`PROGRAM`]) and its maps.
pub static STEER: &[u8] = &OBJECT.0;

/// Where a counter of [`COUNTERS`] lies in its array; `None` for a name that is not there.
#[must_use]
pub fn counter_index(name: &str) -> Option<usize> {
    COUNTERS.iter().position(|&counter| counter == name)
}

/// The key of a socket in the map [`MAP_SOCKETS`].
#[must_use]
pub const fn socket_key(queue: u32, shard: u32) -> u32 {
    queue * SHARDS_PER_QUEUE + shard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_an_aligned_elf_with_the_names_the_loader_looks_for() {
        assert_eq!(&STEER[..4], b"\x7fELF");
        assert_eq!(STEER.as_ptr().align_offset(8), 0);
        for name in [
            PROGRAM,
            MAP_SOCKETS,
            MAP_COUNTERS,
            MAP_ALLOWED,
            GLOBAL_ALLOW_LIST,
            "xdp.frags",
            "Dual MIT/GPL",
        ] {
            let found = STEER
                .windows(name.len())
                .any(|window| window == name.as_bytes());
            assert!(found, "{name} is not in the object");
        }
    }

    #[test]
    fn keys_of_different_queues_never_meet() {
        assert_eq!(socket_key(0, SHARDS_PER_QUEUE - 1) + 1, socket_key(1, 0));
    }
}
