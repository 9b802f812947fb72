//! The demo's report: one HTML page that needs nothing else, for a light or a dark screen.

use std::fmt::{self, Write};

use sandrail_report::collection::Curve;
use sandrail_report::draw::{Picture, curves};
use sandrail_report::page::style;
use sandrail_report::table::{Cell, Table, escape};

use crate::demo::job::{JobReport, Side};
use crate::demo::{Run, Story};
use crate::measure::duration;

/// What this page needs beyond a report's.
const STYLE: &str = "\
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 0 1.5rem }
";

/// The whole page.
pub(super) fn page(story: &Story) -> String {
    let mut page = String::new();
    write_page(&mut page, story).expect("a string takes all");
    page
}

fn write_page(page: &mut String, story: &Story) -> fmt::Result {
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">"
    )?;
    writeln!(
        page,
        "<meta name=\"viewport\" content=\"width=device-width\">"
    )?;
    writeln!(
        page,
        "<title>Sandrail demo: latencies</title>\n<style>\n{}{STYLE}</style>\n</head>\n<body>\n<main>",
        style()
    )?;
    writeln!(page, "<h1>{}</h1>", escape(&headline(story)))?;
    writeln!(
        page,
        "<p class=\"soft\">{}, seed {}; requests of {}, {} under way; Linux {}, {} cores. On {}. One run each: a \
         demonstration, not a benchmark.</p>",
        escape(&story.size.to_string()),
        story.seed,
        escape(&story.block.to_string()),
        story.depth,
        escape(&story.kernel),
        story.cores,
        escape(&story.place)
    )?;
    writeln!(page, "<div class=\"charts\">")?;
    for (title, side) in sides() {
        let picture = chart_of(story, title, side);
        writeln!(
            page,
            "<figure>\n<figcaption>{title}</figcaption>\n<div class=\"scroll\" role=\"region\" tabindex=\"0\" \
             aria-label=\"{title}\">\n{}</div>\n</figure>",
            picture.to_svg()
        )?;
    }
    writeln!(page, "</div>")?;
    page.push_str(&table(story).to_html());
    write_notes(page, story)?;
    writeln!(page, "</main>\n</body>\n</html>")
}

type OfReport = fn(&JobReport) -> &Side;

fn sides() -> [(&'static str, OfReport); 2] {
    [
        ("Writes", |report| &report.write),
        ("Reads", |report| &report.read),
    ]
}

fn reports(story: &Story) -> impl Iterator<Item = (&Run, &JobReport)> {
    story
        .runs
        .iter()
        .filter_map(|run| Some((run, run.outcome.as_ref().ok()?)))
}

fn headline(story: &Story) -> String {
    let done = reports(story).count();
    if done == story.runs.len() {
        "All data came back bit for bit".to_owned()
    } else {
        format!(
            "{done} of {} runs brought all data back bit for bit",
            story.runs.len()
        )
    }
}

fn chart_of(story: &Story, title: &str, side: OfReport) -> Picture {
    let curves: Vec<Curve> = reports(story)
        .map(|(run, report)| {
            let name = format!("{} ({})", run.link, report.mode);
            (name, side(report).curve.clone())
        })
        .collect();
    curves::picture(title, &curves)
}

fn table(story: &Story) -> Table {
    let head = [
        "", "link", "mode", "p50", "p90", "p99", "p99.9", "max", "samples", "IOPS", "MB/s", "MTU",
    ];
    let mut table = Table {
        caption: "Percentiles".to_owned(),
        head: head.map(str::to_owned).to_vec(),
        ..Table::default()
    };
    for (title, side) in sides() {
        for (run, report) in reports(story) {
            let Side { pace, latency, .. } = side(report);
            let cells = [
                run.link.clone(),
                report.mode.clone(),
                duration(latency.p50_ns),
                duration(latency.p90_ns),
                duration(latency.p99_ns),
                duration(latency.p999_ns),
                duration(latency.max_ns),
                latency.samples.to_string(),
                format!("{:.0}", pace.requests_per_s),
                format!("{:.1}", pace.mb_per_s),
                report.mtu_bytes.to_string(),
            ];
            let cells = cells.map(Cell::text).to_vec();
            table.rows.push((title.to_owned(), cells));
        }
    }
    table
}

fn write_notes(page: &mut String, story: &Story) -> fmt::Result {
    for run in &story.runs {
        writeln!(page, "<h2>{}</h2>", escape(&run.link))?;
        match &run.outcome {
            Ok(report) => {
                writeln!(
                    page,
                    "<p>{} sectors verified. {}.</p><p class=\"soft\">{}</p><p class=\"soft\">{}</p>",
                    report.sectors,
                    escape(&report.pinning),
                    escape(&report.flush),
                    escape(&report.wire.line())
                )?;
            }
            Err(error) => writeln!(page, "<p class=\"bad\">{}</p>", escape(error))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Size;

    fn story(runs: Vec<Run>) -> Story {
        Story {
            place: "a <test>".to_owned(),
            seed: 1,
            size: Size(1 << 20),
            block: Size(4096),
            depth: 16,
            kernel: "6".to_owned(),
            cores: 2,
            runs,
        }
    }

    fn good(link: &str) -> Run {
        let side = || Side {
            curve: vec![
                (1.0, 40_000),
                (0.5, 80_000),
                (0.01, 900_000),
                (0.001, 4_000_000),
            ],
            ..Side::default()
        };
        Run {
            link: link.to_owned(),
            outcome: Ok(JobReport {
                mode: "packet ring".to_owned(),
                write: side(),
                read: side(),
                ..JobReport::default()
            }),
            unavailable: false,
        }
    }

    #[test]
    fn a_page_shows_both_runs_and_no_foreign_markup() {
        let page = page(&story(vec![good("xdp"), good("packet")]));
        assert!(page.contains("All data came back") && page.contains("a &lt;test&gt;"));
        assert_eq!(page.matches("<svg").count(), 2);
        assert_eq!(page.matches("<polyline").count(), 4);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        // Nothing is fetched from anywhere.
        assert!(!page.contains("src=") && !page.contains("href="));
    }

    #[test]
    fn a_failed_run_is_told_in_the_headline() {
        let failed = Run {
            link: "xdp".to_owned(),
            outcome: Err("sector 7 differs".to_owned()),
            unavailable: false,
        };
        let page = page(&story(vec![failed, good("packet")]));
        assert!(page.contains("1 of 2 runs") && page.contains("sector 7 differs"));
    }
}
