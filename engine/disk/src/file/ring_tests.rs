//! What of an operation is left goes on where it stopped: the table is told of parts that a kernel seldom does.

use std::fs::File;
use std::os::unix::fs::FileExt;

use sandrail_memory::HugePages;

use super::*;
use crate::counters::DiskCounters;

/// A file without a name, of sectors that are each filled with their number.
fn numbered() -> File {
    let path = std::env::temp_dir().join(format!("sandrail-ring-{}", std::process::id()));
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    for sector in 0..8_u8 {
        file.write_all_at(&[sector; 512], u64::from(sector) * 512)
            .unwrap();
    }
    file
}

fn go(ring: &mut Ring, table: &mut Table, slots: &Slots, counters: &mut DiskCounters) {
    table.plan(counters);
    // SAFETY: nothing touches the slots until all requests are complete, below.
    unsafe { ring.push(table, slots, false) };
    ring.submit();
    while table.submitted() > 0 {
        ring.wait(Duration::from_secs(5));
        while let Some((head, result)) = ring.reap() {
            table.complete(head, result, counters);
        }
    }
}

#[test]
fn the_rest_of_an_operation_goes_where_it_belongs() {
    let file = numbered();
    let (mut slots, _) = Slots::new(4, 2048, HugePages::Never).unwrap();
    let mut ring = Ring::new(4, &file, &slots, false).unwrap();
    let (mut table, mut counters) = (Table::new(4, 0), DiskCounters::default());
    for (io, kind, offset) in [
        (0, Kind::Read, 0),
        (1, Kind::Read, 1024),
        (2, Kind::Write, 2048),
    ] {
        // SAFETY: the ring has nothing under way.
        unsafe { slots.copy_in(2, &[&[9; 512], &[10; 512]]) };
        table.queue(io, kind, offset, 1024);
    }
    table.plan(&mut counters);
    // As if the kernel had done a sector of each: nothing was handed to it so far.
    assert_eq!(table.requests().len(), 2);
    table.complete(0, 512, &mut counters);
    table.complete(2, 512, &mut counters);
    go(&mut ring, &mut table, &slots, &mut counters);
    let bytes = |slot| {
        // SAFETY: the ring has nothing under way.
        unsafe { slots.bytes(slot, 1024) }
    };
    assert_eq!(bytes(0)[..512], [0; 512], "done, as the table was told");
    assert_eq!(bytes(0)[512..], [1; 512]);
    assert_eq!(bytes(1), [[2; 512], [3; 512]].concat());
    let mut got = [0; 1024];
    file.read_exact_at(&mut got, 2048).unwrap();
    assert_eq!(got[..512], [4; 512], "done, as the table was told");
    assert_eq!(got[512..], [10; 512]);
}
