//! IDENTIFY data: whatever is understood, is written again with the same meaning.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use sandrail_wire::ata::{Identify, IdentifyError, SECTOR_BYTES};

fuzz_target!(|bytes: &[u8]| {
    let Some(data) = bytes.first_chunk::<SECTOR_BYTES>() else {
        return;
    };
    let _ = check(data);
    // A right checksum is not to be hit upon by chance: look behind it, too.
    let mut unsigned = *data;
    unsigned[510] = 0;
    assert_ne!(check(&unsigned), Err(IdentifyError::Checksum));
});

fn check(data: &[u8; SECTOR_BYTES]) -> Result<Identify, IdentifyError> {
    let disk = Identify::parse(data)?;
    let mut out = [0xaa; SECTOR_BYTES];
    disk.emit(&mut out);
    assert_eq!(Identify::parse(&out), Ok(disk));
    assert!(disk.sectors <= 1 << 48);
    let mut shown = Vec::new();
    write!(shown, "{}{}{}", disk.model, disk.serial, disk.firmware).expect("memory");
    assert!(shown.iter().all(|byte| matches!(byte, b' '..=b'~')));
    Ok(disk)
}
