//! A report as one JSON object, for scripts.

use serde_json::{Map, Value, json};

use crate::collection::{Collection, Recording, Series};
use crate::tables::ratio;

/// Everything that the tables tell, unrounded: latencies in nanoseconds, ratios of a recording to the first one.
#[must_use]
pub fn value(collection: &Collection) -> Value {
    let recordings = collection.recordings.iter().map(recording);
    json!({
        "recordings": recordings.collect::<Vec<_>>(),
        "differences": differences(collection),
        "comparisons": collection.comparisons,
    })
}

fn recording(recording: &Recording) -> Value {
    let classes = recording.series.iter().map(|series| {
        let mut class = json!(series.latency);
        class["class"] = json!(series.class);
        class
    });
    let throughput = recording.throughput().map(|sum| {
        json!({
            "operations_per_s": sum.operations_per_s,
            "mb_per_s": sum.mb_per_s,
            "errors": sum.errors,
        })
    });
    let run = recording.run.as_ref();
    json!({
        "name": recording.name,
        "path": recording.path.display().to_string(),
        "title": run.map(|run| &run.title),
        "classes": classes.collect::<Vec<_>>(),
        "throughput": throughput,
        "initiator": run.map(|run| run.initiator),
        "target": run.map(|run| run.target),
    })
}

fn differences(collection: &Collection) -> Vec<Value> {
    let Some((base, others)) = collection.recordings.split_first() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for other in others {
        for from in &base.series {
            let Some(to) = other.class(&from.class) else {
                continue;
            };
            all.push(json!({
                "class": from.class,
                "from": base.name,
                "to": other.name,
                "from_count": from.latency.count,
                "to_count": to.latency.count,
                "percentiles": percentiles(from, to),
            }));
        }
    }
    all
}

fn percentiles(from: &Series, to: &Series) -> Value {
    let pairs = from
        .latency
        .percentiles()
        .into_iter()
        .zip(to.latency.percentiles());
    let all: Map<String, Value> = pairs
        .map(|((name, from_ns), (_, to_ns))| {
            let ratio = ratio(from_ns, to_ns);
            (
                name.to_owned(),
                json!({ "from_ns": from_ns, "to_ns": to_ns, "ratio": ratio }),
            )
        })
        .collect();
    Value::Object(all)
}
