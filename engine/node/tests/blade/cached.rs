//! A node with a cache over the blade, and pages that name themselves.

use std::sync::Arc;

use sandrail_memory::cache::{Checksum, PageId};
use sandrail_node::{CacheSettings, NodeCache, NodeConfig, TargetHandle, Volume};
use sandrail_wire::Lba;

use super::Blade;
use super::bed::{Bed, SECTORS, bed_with, config};

pub(crate) const PAGE_BYTES: usize = 4096;
pub(crate) const CHECKSUM: Checksum = match Checksum::at(0) {
    Some(checksum) => checksum,
    None => panic!("0 is aligned"),
};

/// Without read-ahead, so that requests can be counted.
pub(crate) fn settings(frames: u32) -> CacheSettings {
    CacheSettings {
        ahead_pages_max: 0,
        ..CacheSettings::new(frames)
    }
}

/// The same, for pages with a checksum.
pub(crate) fn checked(frames: u32) -> CacheSettings {
    CacheSettings {
        rules: Arc::new(CHECKSUM),
        ..settings(frames)
    }
}

pub(crate) fn with_cache(settings: CacheSettings) -> NodeConfig {
    NodeConfig {
        cache: Some(settings),
        ..config()
    }
}

/// All of the target as volume 1.
pub(crate) fn whole(target: TargetHandle) -> Volume {
    Volume {
        number: 1,
        target,
        first: Lba(0),
        sectors: u64::try_from(SECTORS).unwrap(),
        writable: true,
    }
}

pub(crate) fn page(number: u64) -> PageId {
    PageId::new(1, number).unwrap()
}

/// A node with a cache and volume 1.
pub(crate) fn cached(shards: usize, settings: CacheSettings) -> (Bed, NodeCache) {
    let bed = bed_with(shards, &with_cache(settings));
    let cache = bed.node.cache().unwrap().clone();
    cache.bind(whole(bed.target)).unwrap();
    (bed, cache)
}

/// A page's bytes with its name, a version, and the version all over, sealed.
pub(crate) fn content(number: u64, version: u64) -> Vec<u8> {
    let mut bytes = version.to_le_bytes().repeat(PAGE_BYTES / 8);
    bytes[..8].fill(0);
    bytes[8..16].copy_from_slice(&page(number).to_bits().to_le_bytes());
    let (place, seal) = CHECKSUM.seal(&bytes);
    bytes[place..place + 8].copy_from_slice(&seal);
    bytes
}

/// Whether the bytes are the page's, and whole: their version.
pub(crate) fn version_of(number: u64, bytes: &[u8]) -> u64 {
    let word = |index: usize| u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
    assert_eq!(word(1), page(number).to_bits(), "another page's bytes");
    let version = word(2);
    for index in 2..PAGE_BYTES / 8 {
        assert_eq!(word(index), version, "page {number}: torn at word {index}");
    }
    version
}

/// Puts version 0 of these pages on the disk.
pub(crate) fn format(blade: &Blade, pages: u64) {
    for number in 0..pages {
        blade.poke(at(number), &content(number, 0));
    }
}

/// What of the page is on the disk: its version.
pub(crate) fn on_disk(blade: &Blade, number: u64) -> u64 {
    let bytes = blade.peek(at(number), 8);
    CHECKSUM.verify(&bytes).unwrap();
    version_of(number, &bytes)
}

/// A page's first sector.
pub(crate) fn at(number: u64) -> usize {
    usize::try_from(number).unwrap() * 8
}

/// Changes a page to a version, wherever it is.
pub(crate) fn change(handle: &sandrail_memory::cache::Handle, number: u64, version: u64) {
    let mut latch = handle.exclusive(page(number)).wait().unwrap();
    latch.write(0, &content(number, version));
}
