//! Each benchmark of the program, once and short: it ends well, and its files can be read and are complete. No times are judged.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sandrail_bench::{contest, nbd};
use sandrail_lab::{BladeOptions, Lab, can_run, may_run};
use sandrail_report::{Comparison, Results, Run, read_log, read_percentiles, read_result};

/// A folder of the test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("srbench-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(line: &str, out: Option<&Folder>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandrail-bench"));
    command.args(line.split_whitespace());
    if let Some(out) = out {
        command.arg("--out").arg(out.path());
    }
    command.output().unwrap()
}

/// What it printed; it must have ended well.
fn ends_well(line: &str, out: Option<&Folder>) -> String {
    let output = bench(line, out);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{line}: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

fn comparison(folder: &Folder, name: &str) -> Comparison {
    match read_result(&folder.path().join(format!("{name}.json"))).unwrap() {
        Results::Comparison(comparison) => comparison,
        Results::Run(_) => panic!("a comparison"),
    }
}

fn load_run(folder: &Folder) -> Run {
    match read_result(&folder.path().join("load.json")).unwrap() {
        Results::Run(run) => run,
        Results::Comparison(_) => panic!("a run"),
    }
}

/// Whether our target is built, which `cargo test` of the whole workspace sees to.
fn blade_is_built() -> bool {
    let program = Path::new(env!("CARGO_BIN_EXE_sandrail-bench"));
    program.with_file_name("sandrail-blade").is_file() || BladeOptions::find().is_ok()
}

#[test]
fn block_compares_everybody() {
    if !can_run("block_compares_everybody", Lab::supported()) {
        return;
    }
    let blade = blade_is_built();
    let missing = (!blade).then_some("sandrail-blade is not built");
    may_run(
        "block_compares_everybody, blade",
        missing.map_or(Ok(()), Err),
    );
    let nbd = may_run("block_compares_everybody, NBD", nbd::supported());
    let here: Vec<&contest::Entry> = contest::CONTENDERS
        .iter()
        .filter(|entry| match entry.key {
            "nbd" => nbd,
            contest::OURS | "packet" | "packet-mmsg" => blade,
            _ => true,
        })
        .collect();
    let keys: Vec<&str> = here.iter().map(|entry| entry.key).collect();
    let folder = Folder::new("block");
    let line = format!(
        "block --rounds 2 --sample-ms 20 --warmup-ms 10 --depth 2 --blade-idle yield --contender {}",
        keys.join(",")
    );
    let printed = ends_well(&line, Some(&folder));
    let result = comparison(&folder, "block");
    assert_eq!((result.samples, result.sample_ms), (2, 20));
    for direction in ["read", "write"] {
        for entry in &here {
            assert!(printed.contains(entry.name), "{printed}");
            let metric = format!("{direction}, depth 2: {}", entry.name);
            let row = result.rows.iter().find(|row| row.metric == metric);
            let row = row.unwrap_or_else(|| panic!("no row {metric}"));
            assert!(row.min > 0.0 && row.unit == "I/O/s", "{row:?}");
            for cost in [row.initiator, row.target] {
                assert!(cost.is_some(), "{metric}: both sides' costs");
            }
            let stem = format!("block-{direction}-2-{}", entry.key);
            let log = read_log(&folder.path().join(format!("{stem}.hlog"))).unwrap();
            assert_eq!(log.classes[direction].len(), 2, "an interval a sample");
            let counts = read_percentiles(&folder.path().join(format!("{stem}.hgrm"))).unwrap();
            assert!(!counts.is_empty(), "{stem}");
        }
    }
    if blade {
        let compared = result.rows.iter().filter(|row| row.versus.is_some());
        assert_eq!(compared.count(), 2 * (here.len() - 1));
    }
    // Of AF_PACKET's two ways one is the faster, in each combination.
    for words in ["faster of both", "slower of both"] {
        let pairs = if blade { 2 } else { 1 };
        assert_eq!(printed.matches(words).count(), 2 * pairs, "{printed}");
    }
}

#[test]
fn a_goal_that_cannot_be_measured_fails() {
    if !can_run("a_goal_that_cannot_be_measured_fails", Lab::supported()) {
        return;
    }
    // The far core does not exist: nobody can be put there.
    let line = "block --rounds 1 --sample-ms 5 --depth 1 --contender vblade,echo --target-core 4096 --goal";
    let folder = Folder::new("goal");
    assert!(!bench(line, Some(&folder)).status.success());
}

#[test]
fn load_verifies_what_it_wrote() {
    if !can_run("load_verifies_what_it_wrote", Lab::supported()) {
        return;
    }
    let folder = Folder::new("load");
    let common = "load --lab vblade --verify --working-set 1M --seconds 0.2 --warmup-ms 20";
    for line in [
        "--read 50 --depth 8",
        "--read 70 --depth 4 --block 512 --pattern zipf --link packet",
        "--read 0 --depth 4 --block 64K --pattern sequential --clients 2 --shards 2",
        "--read 50 --rate 2000 --arrivals fixed --depth 16",
        "--read 50 --ios 100",
    ] {
        let printed = ends_well(&format!("{common} {line}"), Some(&folder));
        assert!(
            printed.contains("blocks were what they should be"),
            "{printed}"
        );
        let run = load_run(&folder);
        assert!(run.classes.iter().all(|class| class.latency.count > 0));
        let operations: u64 = run.intervals.iter().map(|tick| tick.operations).sum();
        let counted: u64 = run.classes.iter().map(|class| class.latency.count).sum();
        assert_eq!(operations, counted);
        let log = read_log(&folder.path().join(run.hlog.unwrap())).unwrap();
        for class in &run.classes {
            let logged = log.total(&class.class).unwrap();
            assert_eq!(logged.len(), class.latency.count, "{line}: {}", class.class);
        }
    }
}

#[test]
fn load_does_not_overwrite_a_strangers_disk_unasked() {
    // Refused before anything is opened: no root, no interface needed.
    for line in ["--read 99", "--verify", "--read 0"] {
        let output = bench(
            &format!("load --interface no-such-interface --target e7.3 {line}"),
            None,
        );
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && complaint.contains("--overwrite"),
            "{complaint}"
        );
    }
}

#[test]
fn the_other_benches_end_well() {
    if !can_run("the_other_benches_end_well", Lab::supported()) {
        return;
    }
    let folder = Folder::new("others");
    ends_well(
        "initiator --rounds 1 --sample-ms 20 --warmup-ms 10 --link xdp-generic,packet --depth 2 --no-thread",
        Some(&folder),
    );
    assert!(comparison(&folder, "initiator").rows.len() >= 4);
    ends_well(
        "packet --rounds 1 --sample-ms 20 --depth 2 --answer-bytes 60",
        Some(&folder),
    );
    assert_eq!(comparison(&folder, "packet").rows.len(), 2);
    for side in ["rival", "shard"] {
        ends_well(&format!("solo --side {side} --seconds 1 --depth 2"), None);
    }
}
