//! A whole report as a page that needs nothing else, and as one picture.

use std::fmt::{self, Write};

use crate::collection::{Collection, Recording};
use crate::draw::heat::Extent;
use crate::draw::{self, Picture};
use crate::result::Comparison;
use crate::table::{Table, escape};
use crate::{tables, terminal};

const STYLE: &str = include_str!("page.css");

/// What pages look like, tables and pictures included.
#[must_use]
pub fn style() -> String {
    format!("{STYLE}{}", draw::style())
}

/// What a report is called.
#[must_use]
pub fn title(collection: &Collection) -> String {
    let comparisons = collection.comparisons.iter().map(|each| each.title.clone());
    let runs = collection.recordings.iter();
    let runs = runs.map(|recording| match &recording.run {
        Some(run) => run.title.clone(),
        None => recording.name.clone(),
    });
    let mut titles: Vec<String> = comparisons.chain(runs).collect();
    titles.dedup();
    match titles.as_slice() {
        [] => "Nothing".to_owned(),
        [only] => only.clone(),
        [first, second] => format!("{first}; {second}"),
        [first, rest @ ..] => format!("{first}, and {} others", rest.len()),
    }
}

/// The page: HTML, readable with any browser, on light or dark ground, without scripts and without a network.
#[must_use]
pub fn html(collection: &Collection) -> String {
    let mut page = String::new();
    write_page(&mut page, collection).expect("a string takes all");
    page
}

/// All pictures of a report in one SVG file.
#[must_use]
pub fn svg(collection: &Collection) -> String {
    let mut lines = Vec::new();
    let several = collection.comparisons.len() + collection.recordings.len() > 1;
    let all = collection
        .comparisons
        .iter()
        .map(|each| (each.title.clone(), each.facts()));
    let runs = collection.recordings.iter().filter_map(|recording| {
        let run = recording.run.as_ref()?;
        Some((recording.name.clone(), run.facts()))
    });
    for (name, facts) in all.chain(runs) {
        if several {
            lines.push(name);
        }
        let filled = facts.iter().filter(|(_, value)| !value.is_empty());
        lines.extend(filled.map(|(name, value)| format!("{name}: {value}")));
    }
    let mut pictures: Vec<Picture> = Vec::new();
    for comparison in &collection.comparisons {
        pictures.extend(ratios(comparison));
    }
    pictures.extend(latency_pictures(collection).into_iter().flatten());
    pictures.extend(rate_picture(collection));
    pictures.extend(
        collection
            .recordings
            .iter()
            .flat_map(|each| heat(collection, each)),
    );
    draw::sheet(&title(collection), &lines, &pictures)
}

fn ratios(comparison: &Comparison) -> Option<Picture> {
    draw::dots::picture(&format!("Ratios: {}", comparison.title), comparison)
}

/// One for each table of percentiles, where there is more than a summary.
fn latency_pictures(collection: &Collection) -> Vec<Option<Picture>> {
    let charts = terminal::charts(collection).into_iter();
    let drawn = charts.map(|(title, curves)| {
        (!curves.is_empty()).then(|| draw::curves::picture(&title, &curves))
    });
    drawn.collect()
}

fn rate_picture(collection: &Collection) -> Option<Picture> {
    let all = collection.recordings.iter();
    let rates: Vec<_> = all
        .map(|recording| (recording.name.clone(), recording.rates()))
        .filter(|(_, rates)| rates.len() > 1)
        .collect();
    (!rates.is_empty()).then(|| draw::rates::picture("Throughput over time", &rates))
}

fn heat(collection: &Collection, recording: &Recording) -> Vec<Picture> {
    let several = collection.recordings.len() > 1;
    let of = |class: &str| match several {
        true => format!("Latency over time: {}, {class}", recording.name),
        false => format!("Latency over time: {class}"),
    };
    let logged = recording
        .series
        .iter()
        .filter(|series| series.intervals.len() > 1);
    let drawn = logged.filter_map(|series| {
        // All recordings of a kind are drawn to one scale.
        let all = collection.recordings.iter();
        let alike = all.filter_map(|each| each.class(&series.class));
        let extent = Extent::of(alike)?;
        Some(draw::heat::picture(&of(&series.class), series, extent))
    });
    drawn.collect()
}

fn write_page(page: &mut String, collection: &Collection) -> fmt::Result {
    let title = escape(&title(collection));
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n\
         <body>\n<main>\n<h1>{title}</h1>",
        style()
    )?;
    for (number, comparison) in collection.comparisons.iter().enumerate() {
        let mut table = tables::comparison(comparison);
        let caption = std::mem::take(&mut table.caption);
        writeln!(page, "<section id=\"comparison-{number}\">")?;
        if collection.comparisons.len() > 1 || !collection.recordings.is_empty() {
            writeln!(page, "<h2>{}</h2>", escape(&caption))?;
        }
        "Results of every contender".clone_into(&mut table.caption);
        figure(page, ratios(comparison).as_ref())?;
        page.push_str(&table.to_html());
        write_facts(page, &comparison.facts())?;
        writeln!(page, "</section>")?;
    }
    if !collection.recordings.is_empty() {
        write_recordings(page, collection)?;
    }
    writeln!(
        page,
        "</main>\n<footer class=\"soft\">Made by sandrail report {}.</footer>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION")
    )
}

fn write_recordings(page: &mut String, collection: &Collection) -> fmt::Result {
    writeln!(page, "<section id=\"latency\">\n<h2>Latency</h2>")?;
    // Both are by kind of operation, or both of one recording.
    let pairs = tables::percentiles(collection)
        .into_iter()
        .zip(latency_pictures(collection));
    for (table, picture) in pairs {
        beside(page, Some(&table), picture.as_ref())?;
    }
    writeln!(page, "</section>")?;
    let (table, picture) = (tables::throughput(collection), rate_picture(collection));
    if table.is_some() || picture.is_some() {
        writeln!(page, "<section id=\"throughput\">\n<h2>Throughput</h2>")?;
        beside(page, table.as_ref(), picture.as_ref())?;
        writeln!(page, "</section>")?;
    }
    let heat: Vec<Picture> = collection
        .recordings
        .iter()
        .flat_map(|recording| heat(collection, recording))
        .collect();
    if !heat.is_empty() {
        writeln!(page, "<section id=\"time\">\n<h2>Latency over time</h2>")?;
        for picture in &heat {
            figure(page, Some(picture))?;
        }
        writeln!(page, "</section>")?;
    }
    for recording in &collection.recordings {
        if let Some(run) = &recording.run {
            let name = match collection.recordings.len() {
                1 => "Machine and load".to_owned(),
                _ => format!("Machine and load: {}", recording.name),
            };
            writeln!(page, "<section>\n<h2>{}</h2>", escape(&name))?;
            write_facts(page, &run.facts())?;
            writeln!(page, "</section>")?;
        }
    }
    Ok(())
}

/// A table and a picture of the same, side by side where there is room.
fn beside(page: &mut String, table: Option<&Table>, picture: Option<&Picture>) -> fmt::Result {
    writeln!(page, "<div class=\"beside\">")?;
    page.push_str(&table.map(Table::to_html).unwrap_or_default());
    figure(page, picture)?;
    writeln!(page, "</div>")
}

fn figure(page: &mut String, picture: Option<&Picture>) -> fmt::Result {
    let Some(picture) = picture else {
        return Ok(());
    };
    writeln!(
        page,
        "<figure>\n<figcaption>{0}</figcaption>\n\
         <div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{0}\">\n{1}</div>\n</figure>",
        escape(&picture.title),
        picture.to_svg()
    )
}

fn write_facts(page: &mut String, facts: &[(&'static str, String)]) -> fmt::Result {
    writeln!(page, "<dl>")?;
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escape(value))?;
    }
    writeln!(page, "</dl>")
}
