//! Files of results: whatever is understood can be shown, with finite numbers only, and results are written again as they
//! were.
//!
//! The first byte says of which kind the rest is: a result, an interval log, a percentile file, or a histogram, which the
//! target encodes as the line of a log, since base64 with a right length is not to be hit upon by chance.
#![no_main]

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use sandrail_report::collection::Collection;
use sandrail_report::plot::Terminal;
use sandrail_report::{page, scripts, terminal};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    let collection = match kind % 4 {
        0 => Collection::parse(Path::new("a.json"), &text),
        1 => Collection::parse(Path::new("a.hlog"), &text),
        2 => Collection::parse(Path::new("a.hgrm"), &text),
        _ => {
            let line = format!("Tag=x,0.0,1.0,1.0,{}\n", STANDARD.encode(encoded(rest)));
            Collection::parse(Path::new("a.hlog"), &line)
        }
    };
    match collection {
        Ok(collection) => show(&collection),
        // The words must be made as well.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

/// A histogram's header with the right cookie and length; digits and payload are the fuzzer's.
fn encoded(rest: &[u8]) -> Vec<u8> {
    const COOKIE: u32 = 0x1c84_9313;
    let (digits, payload) = rest.split_first().unwrap_or((&3, &[]));
    let len_bytes = u32::try_from(payload.len()).expect("inputs are short");
    let mut bytes = COOKIE.to_be_bytes().to_vec();
    bytes.extend(len_bytes.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 0, 0, *digits]);
    bytes.extend(1_u64.to_be_bytes());
    bytes.extend((u64::MAX >> 1).to_be_bytes());
    bytes.extend(1_f64.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn show(collection: &Collection) {
    for unicode in [false, true] {
        let text = terminal::text(collection, Terminal { width: 80, unicode });
        assert!(unicode || text.is_ascii());
        assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'));
    }
    let page = page::html(collection);
    for picture in [page, page::svg(collection)] {
        for name in ["x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "points", "height"] {
            for number in ["NaN", "inf", "-inf"] {
                assert!(!picture.contains(&format!(" {name}=\"{number}")), "{picture}");
            }
        }
    }
    assert!(scripts::value(collection).is_object());
}
