//! Tests that a machine cannot run say so, and fail where they are required.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Set to anything but `0` or nothing, a test that cannot run fails instead of being skipped.
pub const REQUIRE_VARIABLE: &str = "SANDRAIL_REQUIRE_XDP";
/// Names a file to which skipped tests are appended, one a line, so that `./run test` can tell at its end.
pub const SKIPPED_VARIABLE: &str = "SANDRAIL_SKIPPED_FILE";

/// Whether `support` allows `test` to run. If not, it is noted as skipped ([`may_run`]).
///
/// # Panics
/// If `test` cannot run and `SANDRAIL_REQUIRE_XDP` requires it.
pub fn can_run<E: Display>(test: &str, support: Result<(), E>) -> bool {
    let required =
        std::env::var_os(REQUIRE_VARIABLE).is_some_and(|value| !value.is_empty() && value != "0");
    match support {
        Err(reason) if required => {
            panic!("{test} is required here ({REQUIRE_VARIABLE} is set) and cannot run: {reason}")
        }
        support => may_run(test, support),
    }
}

/// Whether `support` allows `test` to run, for what ordinary machines may lack (VLAN devices, say), so that it is
/// required nowhere. If not, it is noted as skipped, on the error stream and in the file that `SANDRAIL_SKIPPED_FILE`
/// names.
pub fn may_run<E: Display>(test: &str, support: Result<(), E>) -> bool {
    let Err(reason) = support else { return true };
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os(SKIPPED_VARIABLE) {
        // One write, so that lines of tests that end at the same time do not mix. The notice above has been given anyway.
        let line = format!("{test}: {reason}\n");
        let _ = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
    }
    false
}
