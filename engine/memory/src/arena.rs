//! One anonymous mapping, prefaulted, from which regions are carved and never given back singly.
#![allow(
    unsafe_code,
    reason = "regions are disjoint pieces of one mapping, which references with lifetimes can't express"
)]

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

/// Size of a hugepage as asked for: x86-64's and AArch64's PMD size with 4 KiB base pages.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;
/// The alignment that every region has at least, and the size of a base page as assumed.
pub const PAGE_BYTES: usize = 4096;

const HUGE_PAGE_BITS: u8 = 21;
const GIANT_PAGE_BITS: u8 = 30;
/// Size of the largest hugepages of x86-64, and of AArch64 with 4 KiB base pages.
pub const GIANT_PAGE_BYTES: usize = 1 << GIANT_PAGE_BITS;

/// Whether an arena asks for hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Taken when the machine has enough of them, base pages otherwise; [`Arena::backing`] says which it was.
    #[default]
    Prefer,
    /// Without them there is no arena.
    Require,
    /// Not asked for.
    Never,
}

/// What an arena's memory is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 1 GiB pages (hugetlbfs).
    Huge1GiB,
    /// Reserved 2 MiB pages (hugetlbfs): they are never swapped nor split.
    Huge2MiB,
    /// 4 KiB pages. Transparent hugepages were asked for with madvise(2), without a promise.
    Base4KiB {
        /// Why they are not 2 MiB pages, in words fit for a report.
        reason: String,
    },
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Huge1GiB => f.write_str("1 GiB pages"),
            Self::Huge2MiB => f.write_str("2 MiB pages"),
            Self::Base4KiB { reason } => write!(f, "4 KiB pages ({reason})"),
        }
    }
}

/// What else an arena asks for. None of it is a condition: [`Arena::placement`] says what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaOptions {
    /// Hugepages of 2 MiB.
    pub huge: HugePages,
    /// Whether hugepages of 1 GiB are tried before those of 2 MiB; the length is rounded up to them then. Not with
    /// [`HugePages::Never`].
    pub giant: bool,
    /// Whether the memory is locked (mlock(2)), so that base pages are not swapped either.
    pub lock: bool,
    /// The NUMA node whose memory is preferred.
    pub node: Option<u32>,
}

/// What became of a wish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// It was not made.
    #[default]
    NotMade,
    /// Granted.
    Granted,
    /// Not granted; the arena does without.
    Refused {
        /// The kernel's word.
        reason: String,
    },
}

impl Wish {
    fn of(result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Granted,
            Err(error) => Self::Refused {
                reason: error.to_string(),
            },
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMade => f.write_str("not asked for"),
            Self::Granted => f.write_str("yes"),
            Self::Refused { reason } => write!(f, "no ({reason})"),
        }
    }
}

/// Where an arena's memory is, and whether it stays there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Pages of 1 GiB. Refused: see [`Arena::backing`] for what it is instead.
    pub giant: Wish,
    /// Locked into memory.
    pub locked: Wish,
    /// The NUMA node preferred. That is advice: the kernel takes another node's memory when that one has none left.
    pub node: Wish,
}

/// Why there is no arena, or no region in it.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel would not map the memory.
    #[error("cannot map {len_bytes} bytes: {source}")]
    Map {
        /// Length asked for.
        len_bytes: usize,
        /// The kernel's word.
        source: io::Error,
    },
    /// Hugepages were required, and there are not enough.
    #[error(
        "{pages} free 2 MiB pages are required (try: echo {pages} > /proc/sys/vm/nr_hugepages): {source}"
    )]
    NoHugePages {
        /// Pages needed.
        pages: usize,
        /// The kernel's word.
        source: io::Error,
    },
    /// An arena of no bytes, or of more than the address space.
    #[error("an arena of {len_bytes} bytes makes no sense")]
    Length {
        /// Length asked for.
        len_bytes: usize,
    },
    /// The arena has not that much left.
    #[error("{need_bytes} bytes are wanted, {left_bytes} are left in the arena")]
    Exhausted {
        /// Length asked for, with what its alignment takes.
        need_bytes: usize,
        /// Length left.
        left_bytes: usize,
    },
}

/// Memory of a fixed size, present from the start on.
#[derive(Debug)]
pub struct Arena {
    map: Arc<MmapRaw>,
    backing: Backing,
    placement: Placement,
    used_bytes: usize,
}

impl Arena {
    /// Maps at least `len_bytes`, rounded up to whole pages, and touches every page, so that no access faults later.
    ///
    /// # Errors
    /// [`ArenaError`] when the length makes no sense or the kernel refuses.
    pub fn new(len_bytes: usize, huge: HugePages) -> Result<Self, ArenaError> {
        let options = ArenaOptions {
            huge,
            ..ArenaOptions::default()
        };
        Self::with_options(len_bytes, &options)
    }

    /// As [`Arena::new`], with more to wish for.
    ///
    /// # Errors
    /// [`ArenaError`], as [`Arena::new`]: wishes that are not granted are none.
    pub fn with_options(len_bytes: usize, options: &ArenaOptions) -> Result<Self, ArenaError> {
        let rounded = |page_bytes: usize| {
            Some(len_bytes)
                .filter(|len| *len > 0)
                .and_then(|len| len.checked_next_multiple_of(page_bytes))
                .ok_or(ArenaError::Length { len_bytes })
        };
        let base_bytes = rounded(PAGE_BYTES)?;
        let mut placement = Placement::default();
        if options.giant && options.huge != HugePages::Never {
            let giant_bytes = rounded(GIANT_PAGE_BYTES)?;
            match map_pages(giant_bytes, Some(GIANT_PAGE_BITS), options.node) {
                Ok((map, node)) => {
                    placement.giant = Wish::Granted;
                    placement.node = node;
                    return Ok(Self::of(map, Backing::Huge1GiB, placement, options));
                }
                Err(error) => placement.giant = Wish::of(Err(error)),
            }
        }
        let reason = if options.huge == HugePages::Never {
            "hugepages not asked for".to_owned()
        } else {
            let huge_bytes = rounded(HUGE_PAGE_BYTES)?;
            let pages = huge_bytes / HUGE_PAGE_BYTES;
            match map_pages(huge_bytes, Some(HUGE_PAGE_BITS), options.node) {
                Ok((map, node)) => {
                    placement.node = node;
                    return Ok(Self::of(map, Backing::Huge2MiB, placement, options));
                }
                Err(source) if options.huge == HugePages::Require => {
                    return Err(ArenaError::NoHugePages { pages, source });
                }
                Err(source) => format!("{pages} free 2 MiB pages were wanted: {source}"),
            }
        };
        let (map, node) =
            map_pages(base_bytes, None, options.node).map_err(|source| ArenaError::Map {
                len_bytes: base_bytes,
                source,
            })?;
        placement.node = node;
        Ok(Self::of(
            map,
            Backing::Base4KiB { reason },
            placement,
            options,
        ))
    }

    fn of(
        map: MmapMut,
        backing: Backing,
        mut placement: Placement,
        options: &ArenaOptions,
    ) -> Self {
        if options.lock {
            placement.locked = Wish::of(map.lock());
        }
        Self {
            map: Arc::new(map.into()),
            backing,
            placement,
            used_bytes: 0,
        }
    }

    /// What became of the wishes beside hugepages of 2 MiB.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What the memory is made of.
    #[must_use]
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Size of the whole, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.map.len()
    }

    /// Bytes not carved yet.
    #[must_use]
    pub fn left_bytes(&self) -> usize {
        self.map.len() - self.used_bytes
    }

    /// Cuts the next region off, page-aligned; it lives on its own and keeps the mapping alive.
    ///
    /// # Errors
    /// [`ArenaError::Exhausted`] when not enough is left, [`ArenaError::Length`] for no bytes.
    pub fn carve(&mut self, len_bytes: NonZeroUsize) -> Result<Region, ArenaError> {
        let left_bytes = self.left_bytes();
        let need_bytes = len_bytes
            .get()
            .checked_next_multiple_of(PAGE_BYTES)
            .filter(|need| *need <= left_bytes)
            .ok_or(ArenaError::Exhausted {
                need_bytes: len_bytes.get(),
                left_bytes,
            })?;
        // SAFETY: used_bytes + need_bytes <= map.len() by the check above, so the result stays in the mapping.
        let start = unsafe { self.map.as_mut_ptr().add(self.used_bytes) };
        self.used_bytes += need_bytes;
        let start = NonNull::new(start).expect("mmap never returns address zero without MAP_FIXED");
        Ok(Region {
            start,
            len_bytes: len_bytes.get(),
            _map: Arc::clone(&self.map),
        })
    }
}

/// Maps memory of one page size (base pages: `None`), near a node, with every page present.
fn map_pages(
    len_bytes: usize,
    page_bits: Option<u8>,
    node: Option<u32>,
) -> io::Result<(MmapMut, Wish)> {
    let mut options = MmapOptions::new();
    options.len(len_bytes);
    if page_bits.is_some() {
        // A hugetlb mapping reserves its pages in mmap(2): it fails here rather than with SIGBUS at the first touch
        // (Documentation/admin-guide/mm/hugetlbpage.rst).
        options.huge(page_bits);
    }
    let mut map = options.map_anon()?;
    if page_bits.is_none() {
        // Advice only: a kernel without transparent hugepages refuses it, and nothing depends on it.
        let _ = map.advise(Advice::HugePage);
    }
    let wish = node.map_or(Wish::NotMade, |node| Wish::of(prefer_node(&map, node)));
    // Faults all pages in, and says so when one can't be had. Linux 5.14; before, they are touched one by one.
    match map.advise(Advice::PopulateWrite) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => touch(&mut map),
        Err(error) => return Err(error),
    }
    Ok((map, wish))
}

fn touch(map: &mut MmapMut) {
    for page in map.chunks_mut(PAGE_BYTES) {
        // The mapping is zero already; a volatile write would need unsafe, and a plain one of a value that the optimiser
        // can't know to be there does the same.
        page[0] = std::hint::black_box(0);
    }
}

/// Has the pages that are faulted in from now on come from a node if it has any (mbind(2), MPOL_PREFERRED).
fn prefer_node(map: &MmapMut, node: u32) -> io::Result<()> {
    const WORD_BITS: u32 = u64::BITS;
    let mut mask = [0_u64; 16];
    let no_such = || io::Error::from(io::ErrorKind::InvalidInput);
    let word = usize::try_from(node / WORD_BITS).map_err(|_| no_such())?;
    *mask.get_mut(word).ok_or_else(no_such)? = 1 << (node % WORD_BITS);
    // SAFETY: the range is the mapping's, the mask is as long as told, and the call changes only where pages come from.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            map.as_ptr(),
            map.len(),
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            mask.len() * 64,
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A piece of an arena that belongs to its holder alone.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len_bytes: usize,
    _map: Arc<MmapRaw>,
}

// SAFETY: a region is the only way to its bytes (carve never hands out a byte twice), like a Box<[u8]>.
unsafe impl Send for Region {}
// SAFETY: a shared region gives out its address and length only, no access to the bytes.
unsafe impl Sync for Region {}

impl Region {
    /// First byte; page-aligned. Valid for reads and writes of [`Region::len_bytes`] while the region lives.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Length in bytes, as asked for.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> NonZeroUsize {
        NonZeroUsize::new(len).unwrap()
    }

    #[test]
    fn regions_are_disjoint_aligned_and_end_with_the_arena() {
        let mut arena = Arena::new(10 * PAGE_BYTES, HugePages::Never).unwrap();
        let first = arena.carve(bytes(1)).unwrap();
        let second = arena.carve(bytes(PAGE_BYTES + 1)).unwrap();
        assert_eq!(first.start().as_ptr().addr() % PAGE_BYTES, 0);
        assert_eq!(
            second.start().as_ptr().addr() - first.start().as_ptr().addr(),
            PAGE_BYTES
        );
        assert_eq!(arena.left_bytes(), 7 * PAGE_BYTES);
        assert!(matches!(
            arena.carve(bytes(7 * PAGE_BYTES + 1)),
            Err(ArenaError::Exhausted { .. })
        ));
        arena.carve(bytes(7 * PAGE_BYTES)).unwrap();
        assert_eq!(arena.left_bytes(), 0);
    }

    #[test]
    fn a_region_outlives_its_arena() {
        let mut arena = Arena::new(PAGE_BYTES, HugePages::Never).unwrap();
        let region = arena.carve(bytes(PAGE_BYTES)).unwrap();
        drop(arena);
        // SAFETY: the region is alive and PAGE_BYTES long.
        unsafe { region.start().write(7) };
        // SAFETY: as above, and the byte was just written.
        assert_eq!(unsafe { region.start().read() }, 7);
    }

    #[test]
    fn the_fallback_is_reported_with_its_reason() {
        let arena = Arena::new(HUGE_PAGE_BYTES, HugePages::Prefer).unwrap();
        match arena.backing() {
            Backing::Huge2MiB => assert_eq!(arena.len_bytes() % HUGE_PAGE_BYTES, 0),
            Backing::Base4KiB { reason } => {
                assert!(reason.contains("1 free 2 MiB pages"), "{reason}");
            }
            Backing::Huge1GiB => panic!("nobody asked for them"),
        }
        let never = Arena::new(1, HugePages::Never).unwrap();
        assert_eq!(
            never.backing().to_string(),
            "4 KiB pages (hugepages not asked for)"
        );
    }

    #[test]
    fn senseless_lengths_and_missing_hugepages_are_errors() {
        assert!(matches!(
            Arena::new(0, HugePages::Never),
            Err(ArenaError::Length { .. })
        ));
        assert!(matches!(
            Arena::new(usize::MAX, HugePages::Prefer),
            Err(ArenaError::Length { .. })
        ));
        // No machine has 2^40 hugepages (2^61 bytes exceed every address space).
        let error = Arena::new(1 << 61, HugePages::Require).unwrap_err();
        assert!(matches!(error, ArenaError::NoHugePages { .. }), "{error}");
    }

    #[test]
    fn wishes_are_granted_or_the_reason_is_told() {
        let wishes = ArenaOptions {
            giant: true,
            lock: true,
            node: Some(0),
            ..ArenaOptions::default()
        };
        let arena = Arena::with_options(PAGE_BYTES, &wishes).unwrap();
        let placement = arena.placement();
        match (arena.backing(), &placement.giant) {
            (Backing::Huge1GiB, Wish::Granted) => assert_eq!(arena.len_bytes(), GIANT_PAGE_BYTES),
            (_, Wish::Refused { reason }) => assert!(!reason.is_empty()),
            other => panic!("{other:?}"),
        }
        assert_ne!(placement.locked, Wish::NotMade);
        assert_ne!(placement.node, Wish::NotMade);
        let nowhere = ArenaOptions {
            node: Some(1000),
            huge: HugePages::Never,
            ..ArenaOptions::default()
        };
        let arena = Arena::with_options(PAGE_BYTES, &nowhere).unwrap();
        let Wish::Refused { reason } = &arena.placement().node else {
            panic!("no machine has a thousand nodes");
        };
        assert!(!reason.is_empty());
        assert_eq!(arena.placement().locked.to_string(), "not asked for");
    }

    #[test]
    fn every_page_is_present_from_the_start() {
        let arena = Arena::new(64 * PAGE_BYTES, HugePages::Prefer).unwrap();
        let mut present = vec![0_u8; arena.len_bytes() / PAGE_BYTES];
        let start = arena.map.as_mut_ptr().cast::<libc::c_void>();
        // SAFETY: the mapping is alive, page-aligned, and `present` has a byte for each of its pages.
        let result = unsafe { libc::mincore(start, arena.len_bytes(), present.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        assert!(present.iter().all(|page| page & 1 == 1), "{present:?}");
    }
}
