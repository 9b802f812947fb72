//! The buffer cache as `cache` measures it: hit ratios against the simulations, and the command once and short. No times are
//! judged.

use std::path::{Path, PathBuf};
use std::process::Command;

use sandrail_bench::cache::ratios;
use sandrail_lab::{BladeOptions, Lab, can_run, may_run};
use sandrail_report::{Comparison, Results, read_result};

#[test]
fn the_policies_do_as_their_simulations_and_about_as_well_as_the_best() {
    let all = ratios::compare(4).unwrap();
    assert_eq!(all.len(), 12, "six traces, two policies");
    let mut wrong = Vec::new();
    for compared in &all {
        let apart = (compared.cache - compared.simulated).abs();
        if apart > 0.01 * compared.simulated {
            wrong.push(format!("not as simulated: {compared:?}"));
        }
        if compared.is_default && compared.cache < 0.97 * compared.best.1 {
            wrong.push(format!("another is better: {compared:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(all.iter().filter(|compared| compared.is_default).count(), 6);
}

/// A folder of the test's own, gone with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn compare(test: &str, parts: &str) -> Comparison {
    let folder =
        Folder(std::env::temp_dir().join(format!("srbench-{test}-{}", std::process::id())));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (core, other) = if cores > 1 { ("1", "0") } else { ("0", "0") };
    let output = Command::new(env!("CARGO_BIN_EXE_sandrail-bench"))
        .args([
            "cache",
            "--rounds",
            "1",
            "--sample-ms",
            "5",
            "--part",
            parts,
        ])
        .args(["--core", core, "--other-core", other, "--out"])
        .arg(&folder.0)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    match read_result(&folder.0.join("cache.json")).unwrap() {
        Results::Comparison(comparison) => comparison,
        Results::Run(_) => panic!("a comparison"),
    }
}

/// How many rows have a goal.
fn goals(comparison: &Comparison) -> usize {
    let rows = comparison.rows.iter();
    rows.filter(|row| comparison.goal_of(row).is_some()).count()
}

#[test]
fn hits_and_hit_ratios_are_compared() {
    let comparison = compare("cache-hits", "resident,ratios");
    assert_eq!(goals(&comparison), 4 + 12 + 6, "{comparison:#?}");
    assert!(comparison.rows.iter().all(|row| row.median > 0.0));
}

#[test]
fn a_miss_is_compared_with_the_raw_read() {
    let test = "a_miss_is_compared_with_the_raw_read";
    if !can_run(test, Lab::supported()) {
        return;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_sandrail-bench"));
    let built = program.with_file_name("sandrail-blade").is_file() || BladeOptions::find().is_ok();
    let missing = (!built).then_some("sandrail-blade is not built");
    if !may_run(test, missing.map_or(Ok(()), Err)) {
        return;
    }
    let comparison = compare("cache-miss", "miss");
    assert_eq!(comparison.rows.len(), 2);
    assert_eq!(goals(&comparison), 1);
    assert!(comparison.rows.iter().all(|row| row.median > 0.0));
}
