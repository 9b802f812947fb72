//! The target's answers, byte by byte: what every command, known or not, and every odd input comes to.
#![allow(
    clippy::cast_possible_truncation,
    reason = "test data are small numbers"
)]

mod target_bed;

use target_bed::*;

#[test]
fn a_read_returns_what_was_written() {
    let mut bed = Bed::new(Pace::Inline);
    let reply = bed.ask(&Ata::write(0x1230, 8, 8).filled(0x5a));
    assert_eq!(
        text(&reply),
        text(&hex(
            "02000000000c 02000000000a 88a2 18 00 0007 03 00 00001230 \
                   41 00 00 40 080000000000 0000"
        ))
    );
    let reply = bed.ask(&Ata::read(0x1240, 7, 10).bare());
    assert_eq!(outcome(&reply), "1800 400000400700000000000000");
    assert_eq!(reply.len(), 36 + 10 * 512);
    assert!(reply[36..548].iter().all(|byte| *byte == 0));
    assert!(reply[548..548 + 4096].iter().all(|byte| *byte == 0x5a));
    bed.assert_idle();
}
