//! Reports: what the terminal, the page in a browser and the JSON tell is the same, and is what was measured.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use sandrail_lab::may_run;
use sandrail_report::{
    ClassSummary, Comparison, Cost, Histogram, LogWriter, Machine, OpClass, Row, Run, Summary,
    Tick, latency_histogram, write_comparison, write_percentiles, write_run,
};

use crate::run::{SANDRAIL, sandrail, start};
use crate::san::Folder;

/// Set to anything but `0` or nothing, a test fails that finds no browser, instead of being skipped.
const REQUIRE_BROWSER: &str = "SANDRAIL_REQUIRE_BROWSER";

const READ_US: [u64; 3] = [50, 2_000, 40_000];
const WRITE_US: [u64; 3] = [70, 3_000, 90_000];

/// 9890 latencies of the first length, 109 of the second, one of the third: they are the median, the 99th percentile and
/// the maximum.
fn latencies([most, some, one]: [u64; 3]) -> Histogram<u64> {
    let mut histogram = latency_histogram();
    for (us, count) in [(most, 9890), (some, 109), (one, 1)] {
        histogram.record_n(us * 1_000, count).unwrap();
    }
    histogram
}

/// A run of two intervals with its log, its percentile file, and what else there may be.
fn measured(folder: &Folder, name: &str, read_us: [u64; 3]) -> String {
    let begin = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let log_path = folder.file(&format!("{name}.hlog"));
    let mut log = LogWriter::create(Path::new(&log_path), begin, "a test").unwrap();
    let mut classes = Vec::new();
    for (class, us) in [(OpClass::Read, read_us), (OpClass::Write, WRITE_US)] {
        let (each, empty) = (latencies(us), latency_histogram());
        let second = Duration::from_secs(1);
        log.interval(class.word(), Duration::ZERO, second, &each)
            .unwrap();
        log.interval(class.word(), second, second, &empty).unwrap();
        classes.push(ClassSummary {
            class: class.to_string(),
            latency: Summary::of(&each),
        });
        let file = folder.file(&format!("{name}-{class}.hgrm"));
        write_percentiles(Path::new(&file), &each).unwrap();
    }
    log.finish().unwrap();
    let tick = |start_ms, operations, errors| Tick {
        start_ms,
        operations,
        bytes: operations * 4096,
        errors,
    };
    let run = Run {
        title: format!("the <{name}> run"),
        machine: Machine::this(),
        link_mode: "packet ring".to_owned(),
        mtu_bytes: 9000,
        pinning: "none".to_owned(),
        conditions: "none".to_owned(),
        workload: "4 KiB random reads and writes".to_owned(),
        seed: 7,
        interval_ms: 1000,
        intervals: vec![tick(0, 20_000, 0), tick(1000, 0, 5)],
        classes,
        initiator: Some(Cost::of(1.0, Some(40_000), 20_000)),
        target: None,
        hlog: Some(format!("{name}.hlog")),
    };
    let path = folder.file(&format!("{name}.json"));
    write_run(Path::new(&path), &run).unwrap();
    path
}

/// The cells of a table's row: the words behind its heading, up to two spaces apart.
fn cells<'a>(text: &'a str, heading: &str) -> Vec<&'a str> {
    let line = text
        .lines()
        .find(|line| line.split_whitespace().next() == Some(heading))
        .unwrap_or_else(|| panic!("no {heading} in {text}"));
    let cells = line
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty());
    cells.skip(1).collect()
}

/// The same of a page: the cells of the first row with this heading, and the nanoseconds behind them.
fn page_cells(dom: &str, heading: &str) -> Vec<(String, u64)> {
    let begin = format!("<th scope=\"row\">{heading}</th>");
    let (_, rest) = dom
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no {heading} in {dom}"));
    let (row, _) = rest.split_once("</tr>").unwrap();
    let cells = row.split("<td data-ns=\"").skip(1).map(|cell| {
        let (ns, rest) = cell.split_once("\">").unwrap();
        let (words, _) = rest.split_once("</td>").unwrap();
        (words.to_owned(), ns.parse().unwrap())
    });
    cells.collect()
}

fn chromium() -> Option<&'static str> {
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&folders).any(|folder| folder.join(name).is_file())
        });
    let required =
        std::env::var_os(REQUIRE_BROWSER).is_some_and(|value| !value.is_empty() && value != "0");
    assert!(
        found.is_some() || !required,
        "a browser is required here ({REQUIRE_BROWSER} is set), and there is no chromium"
    );
    let support = found.map(drop).ok_or("there is no chromium");
    may_run("a_browser_shows_what_the_terminal_tells", support);
    found
}

/// What a browser made of a file, which it cannot have fetched anything for.
fn dom(browser: &str, folder: &Folder, path: &str) -> String {
    let profile = format!("--user-data-dir={}", folder.file("profile"));
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
    ]);
    command.args([
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--dump-dom",
        &profile,
    ]);
    command.arg(format!("file://{path}"));
    start(&mut command, false).wait().exits(0).text()
}

#[test]
fn a_browser_shows_what_the_terminal_tells() {
    let Some(browser) = chromium() else { return };
    let folder = Folder::new();
    let (page, picture) = (folder.file("out/a.html"), folder.file("out/a.svg"));
    let run = measured(&folder, "one", READ_US);
    let text = sandrail(&["report", &run, "--html", &page, "--svg", &picture])
        .exits(0)
        .text();
    let dom = dom_of_page(browser, &folder, &page);
    for (place, heading) in ["p50", "p99", "max"].into_iter().enumerate() {
        let terminal = cells(&text, heading);
        let shown = page_cells(&dom, heading);
        let words: Vec<&str> = shown.iter().map(|(words, _)| words.as_str()).collect();
        assert_eq!(
            words, terminal,
            "{heading} in the browser and in the terminal"
        );
        for ((words, ns), us) in shown.iter().zip([READ_US[place], WRITE_US[place]]) {
            let known = us * 1_000;
            // Three digits are kept.
            assert!(
                ns.abs_diff(known) * 1000 <= known,
                "{heading}: {ns} ns, recorded {known}"
            );
            assert_eq!(*words, sandrail_report::number::duration(*ns));
        }
    }
    let shown = dom_of_page(browser, &folder, &picture);
    assert!(
        shown.contains("<svg") && !shown.contains("parsererror"),
        "{shown}"
    );
    assert_eq!(
        shown.matches("<polyline class=\"curve").count(),
        3,
        "two of latency, one of throughput"
    );
}

fn dom_of_page(browser: &str, folder: &Folder, path: &str) -> String {
    let dom = dom(browser, folder, path);
    assert!(dom.contains("the &lt;one&gt; run"), "{dom}");
    dom
}

#[test]
fn the_terminal_the_json_and_the_log_agree() {
    let folder = Folder::new();
    let run = measured(&folder, "one", READ_US);
    let log = folder.file("one.hlog");
    let text = sandrail(&["report", "--ascii", &run]).exits(0).text();
    assert_eq!(cells(&text, "p50"), ["50.0 us", "70.0 us"]);
    assert_eq!(cells(&text, "p99"), ["2.00 ms", "3.00 ms"]);
    assert_eq!(cells(&text, "max"), ["40.0 ms", "90.0 ms"]);
    assert_eq!(cells(&text, "samples"), ["10 000", "10 000"]);
    // One of ten thousand lies beyond: said, since it is no more than that.
    assert_eq!(cells(&text, "p99.99"), ["2.00 ms*", "3.00 ms*"]);
    assert_eq!(cells(&text, "errors"), ["5"]);
    assert!(
        text.contains("fewer than ten samples") && text.is_ascii(),
        "{text}"
    );
    assert!(
        text.contains("the <one> run") && text.contains("2.00 system calls"),
        "{text}"
    );
    let value = sandrail(&["report", "--json", &run]).exits(0).json();
    let recording = &value["recordings"][0];
    assert_eq!(recording["classes"][0]["class"], "read");
    assert_eq!(recording["classes"][0]["count"], 10_000);
    assert_eq!(recording["throughput"]["operations_per_s"], 10_000.0);
    assert_eq!(recording["throughput"]["errors"], 5);
    let alone = sandrail(&["report", "--ascii", &log]).exits(0).text();
    assert_eq!(cells(&alone, "p99"), cells(&text, "p99"));
    // The log is the run's: named as well, it is not shown twice.
    let both = sandrail(&["report", "--json", &log, &run]).exits(0).json();
    assert_eq!(both["recordings"].as_array().unwrap().len(), 1);
    let percentiles = folder.file("one-read.hgrm");
    let read = sandrail(&["report", "--ascii", &percentiles])
        .exits(0)
        .text();
    assert_eq!(cells(&read, "p99"), ["2.00 ms"]);
}

#[test]
fn two_runs_are_compared() {
    let folder = Folder::new();
    let before = measured(&folder, "before", READ_US);
    let after = measured(&folder, "after", [40, 1_000, 40_000]);
    let text = sandrail(&["report", "--ascii", &before, &after])
        .exits(0)
        .text();
    assert_eq!(
        cells(&text, "p50"),
        ["50.0 us", "40.0 us", "-9.98 us", "0.80"],
        "a percentile is the upper end of its bucket, of which a thousand make a decade"
    );
    assert_eq!(
        cells(&text, "p99"),
        ["2.00 ms", "1.00 ms", "-1.00 ms", "0.50"]
    );
    assert_eq!(cells(&text, "max"), ["40.0 ms", "40.0 ms", "0 ns", "1.00"]);
    assert_eq!(cells(&text, "samples"), ["10 000", "10 000"]);
    let value = sandrail(&["report", "--json", &before, &after])
        .exits(0)
        .json();
    let difference = &value["differences"][0];
    assert_eq!(
        (&difference["from"], &difference["to"]),
        (&"before".into(), &"after".into())
    );
    let ratio = difference["percentiles"]["p50"]["ratio"].as_f64().unwrap();
    assert!((ratio - 0.8).abs() < 0.001, "{ratio}");
}

#[test]
fn a_comparison_tells_its_goals() {
    let folder = Folder::new();
    let rival = [100.0, 110.0, 120.0];
    let row = |name: &str, samples: &[f64], goal| Row {
        goal: Some(goal),
        ..Row::versus(name, "I/O/s", samples, "echo", &rival)
    };
    let comparison = Comparison {
        title: "two against an echo".to_owned(),
        machine: Machine::this(),
        link_mode: "memory".to_owned(),
        mtu_bytes: 9000,
        pinning: "none".to_owned(),
        conditions: "none".to_owned(),
        samples: 3,
        sample_ms: 10,
        goal: None,
        rows: vec![
            Row::rival("echo", "I/O/s", &rival),
            row("fast", &[95.0, 99.0, 100.0], 0.8),
            row("slow", &[50.0, 55.0, 60.0], 0.8),
        ],
    };
    let path = folder.file("two.json");
    write_comparison(Path::new(&path), &comparison).unwrap();
    let page = folder.file("two.html");
    let text = sandrail(&["report", "--ascii", &path, "--html", &page])
        .exits(0)
        .text();
    assert_eq!(cells(&text, "fast")[3..5], ["0.90", "0.80 reached"]);
    assert_eq!(cells(&text, "slow")[3..5], ["0.50", "0.80 missed"]);
    let page = std::fs::read_to_string(&page).unwrap();
    assert_eq!(
        page.matches("<circle").count(),
        6,
        "every round of both is a dot"
    );
    assert!(page.contains("0.50 missed"));
}

#[test]
fn the_terminal_is_asked_what_it_can_show() {
    let folder = Folder::new();
    let run = measured(&folder, "one", READ_US);
    let with = |locale: &str, columns: &str| {
        let mut command = Command::new(SANDRAIL);
        command
            .args(["report", &run])
            .env("LC_ALL", locale)
            .env("COLUMNS", columns);
        start(&mut command, false).wait().exits(0).text()
    };
    for columns in [40, 60, 132] {
        let (plain, rich) = (
            with("C", &columns.to_string()),
            with("C.UTF-8", &columns.to_string()),
        );
        assert!(plain.is_ascii() && !rich.is_ascii(), "{rich}");
        for line in plain.lines().chain(rich.lines()) {
            assert!(
                line.chars().count() <= columns,
                "wider than {columns}: {line}"
            );
        }
    }
}

#[test]
fn files_that_are_no_results_are_refused_with_their_place() {
    let folder = Folder::new();
    let run = measured(&folder, "one", READ_US);
    let good = std::fs::read_to_string(&run).unwrap();
    let log = std::fs::read_to_string(folder.file("one.hlog")).unwrap();
    let lines = log.lines().count();
    let cut = &log[..log.len() - 10];
    let two = good.replacen("\"version\": 1", "\"version\": 2", 1);
    let nan = good.replacen("\"seed\": 7", "\"seed\": NaN", 1);
    let nan_line = 1 + nan.lines().position(|line| line.contains("NaN")).unwrap();
    let nowhere = good.replacen("one.hlog", "nosuch.hlog", 1);
    let fewer = good.replacen("\"count\": 10000", "\"count\": 10001", 1);
    let cases: [(&str, &[u8], i32, &str); 11] = [
        (
            "cut.hlog",
            cut.as_bytes(),
            1,
            &format!("cut.hlog, line {lines}: the log is cut off"),
        ),
        (
            "text.json",
            b"hello\n",
            1,
            "text.json, line 1: expected value",
        ),
        (
            "nan.json",
            nan.as_bytes(),
            1,
            &format!("nan.json, line {nan_line}: "),
        ),
        ("empty.json", b"", 1, "empty.json: the file is empty"),
        ("empty.hlog", b"\n", 1, "empty.hlog: the file is empty"),
        (
            "two.json",
            two.as_bytes(),
            1,
            "version 2; this program reads version 1",
        ),
        (
            "noise.hlog",
            &[0x80, 0xff, 0, 10, 7],
            1,
            "noise.hlog, line 1: not a text file",
        ),
        (
            "noise.hgrm",
            b"\x00\x01\x02\n",
            1,
            "noise.hgrm, line 1: no value",
        ),
        ("other.json", b"{\"rows\": []}", 1, "no `kind`"),
        ("nolog.json", nowhere.as_bytes(), 2, "nosuch.hlog"),
        ("fewer.json", fewer.as_bytes(), 1, "not of one run"),
    ];
    for (name, content, code, words) in cases {
        let path = folder.with(name, content);
        let ended = sandrail(&["report", &path]).exits(code).says(&[words]);
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
    }
    sandrail(&["report", "/nosuch.hlog"])
        .exits(2)
        .says(&["/nosuch.hlog", "No such file"]);
    sandrail(&["report", "/nosuch"])
        .exits(2)
        .says(&["/nosuch", "No such file"]);
    sandrail(&["report", "/etc/hostname"])
        .exits(2)
        .says(&["ends in .json, .hlog or .hgrm"]);
    sandrail(&["report"]).exits(2).says(&["FILE"]);
    let page = folder.file("one.json/page.html");
    sandrail(&["report", &run, "--html", &page])
        .exits(2)
        .says(&["can't be written"]);
    let value = sandrail(&["report", "--json", "/nosuch.hlog"])
        .exits(2)
        .json();
    assert_eq!(value["exit_code"], 2);
}
