//! What is measured, as it is kept in JSON.
//!
//! Fields may be added within a version: readers take what they do not know as told to somebody else. Whatever
//! changes the meaning of a field makes a new version.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize as Read, Serialize};

use crate::latency::Summary;
use crate::machine::Machine;
use crate::spread::{Spread, ratios};

/// One contender's samples of one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Read)]
pub struct Row {
    /// What was measured, of whom.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// The least sample.
    pub min: f64,
    /// The middle one.
    pub median: f64,
    /// The greatest.
    pub max: f64,
    /// Whom it is compared with; `None` for the rival itself.
    pub versus: Option<String>,
    /// The least ratio within a round.
    pub ratio_min: Option<f64>,
    /// The middle one.
    pub ratio_median: Option<f64>,
    /// The greatest.
    pub ratio_max: Option<f64>,
    /// All ratios, in the order of the rounds.
    #[serde(default)]
    pub ratios: Vec<f64>,
    /// What `ratio_median` is to reach, if that is not the [`Comparison`]'s goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<f64>,
    /// What an operation cost the initiator's side, if that was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Cost>,
    /// What it cost the target's side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Cost>,
}

impl Row {
    /// A rival's row.
    ///
    /// # Panics
    /// Without samples.
    #[must_use]
    pub fn rival(metric: impl Into<String>, unit: &str, samples: &[f64]) -> Self {
        let Spread { min, median, max } = Spread::of(samples).expect("rounds were run");
        Self {
            metric: metric.into(),
            unit: unit.to_owned(),
            min,
            median,
            max,
            versus: None,
            ratio_min: None,
            ratio_median: None,
            ratio_max: None,
            ratios: Vec::new(),
            goal: None,
            initiator: None,
            target: None,
        }
    }

    /// A row compared round by round with its rival's.
    ///
    /// # Panics
    /// Without samples, or without as many of the rival.
    #[must_use]
    pub fn versus(
        metric: impl Into<String>,
        unit: &str,
        samples: &[f64],
        versus: &str,
        rival: &[f64],
    ) -> Self {
        let all = ratios(samples, rival);
        let ratio = Spread::of(&all).expect("rounds were run");
        Self {
            versus: Some(versus.to_owned()),
            ratio_min: Some(ratio.min),
            ratio_median: Some(ratio.median),
            ratio_max: Some(ratio.max),
            ratios: all,
            ..Self::rival(metric, unit, samples)
        }
    }

    /// The ratios' spread, if the row is compared with another.
    #[must_use]
    pub fn ratio(&self) -> Option<Spread> {
        Some(Spread {
            min: self.ratio_min?,
            median: self.ratio_median?,
            max: self.ratio_max?,
        })
    }
}

/// What one side spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Read)]
pub struct Cost {
    /// Processor time of all its threads, user and system, in seconds.
    pub cpu_s: f64,
    /// The same for each operation, in nanoseconds.
    pub cpu_ns_per_io: f64,
    /// System calls for each operation, if they were counted.
    #[serde(default)]
    pub syscalls_per_io: Option<f64>,
}

impl Cost {
    /// Of so many operations, which must not be none.
    #[must_use]
    pub fn of(cpu_s: f64, syscalls: Option<u64>, operations: u64) -> Self {
        let each = |sum: f64| sum / crate::number::approximate(operations.max(1));
        Self {
            cpu_s,
            cpu_ns_per_io: each(cpu_s * 1e9),
            syscalls_per_io: syscalls.map(|count| each(crate::number::approximate(count))),
        }
    }
}

/// Contenders that took turns, with all that their results depend on. Kind `comparison`.
#[derive(Clone, Debug, PartialEq, Serialize, Read)]
pub struct Comparison {
    /// What was compared.
    pub title: String,
    /// Where.
    #[serde(flatten)]
    pub machine: Machine,
    /// How frames travelled, as the links tell.
    pub link_mode: String,
    /// MTU, in bytes.
    pub mtu_bytes: u32,
    /// Which thread ran where.
    pub pinning: String,
    /// What else must be known of it.
    pub conditions: String,
    /// Rounds, each with one sample of every contender.
    pub samples: usize,
    /// Length of each sample, in milliseconds.
    pub sample_ms: u64,
    /// The ratio that is to be reached by every row that has no goal of its own, if any.
    pub goal: Option<f64>,
    /// The results.
    #[serde(deserialize_with = "checked")]
    pub rows: Vec<Row>,
}

impl Comparison {
    /// The lines that say what the numbers belong to.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = circumstances(
            &self.machine,
            &self.link_mode,
            self.mtu_bytes,
            &self.pinning,
            &self.conditions,
        );
        facts.push((
            "samples",
            format!(
                "{} interleaved rounds of {} ms each",
                self.samples, self.sample_ms
            ),
        ));
        facts
    }

    /// What a row's median ratio is to reach.
    #[must_use]
    pub fn goal_of(&self, row: &Row) -> Option<f64> {
        row.versus.as_ref()?;
        row.goal.or(self.goal)
    }
}

fn circumstances(
    machine: &Machine,
    link_mode: &str,
    mtu_bytes: u32,
    pinning: &str,
    conditions: &str,
) -> Vec<(&'static str, String)> {
    vec![
        ("machine", format!("{}; {}", machine.machine, machine.cpu)),
        ("kernel", machine.kernel.clone()),
        ("links", format!("{link_mode}; MTU {mtu_bytes}")),
        ("pinning", pinning.to_owned()),
        ("scheduling", machine.scheduling_class.clone()),
        ("conditions", conditions.to_owned()),
    ]
}

/// What an operation does. Its word is the tag of its histograms in an interval log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OpClass {
    /// Reads sectors.
    Read,
    /// Writes sectors.
    Write,
    /// Makes what was written durable.
    Flush,
}

impl OpClass {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Flush];

    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

impl fmt::Display for OpClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What was done in one interval of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Read)]
pub struct Tick {
    /// Its begin, in milliseconds since the run's.
    pub start_ms: u64,
    /// Operations that ended in it, without error.
    pub operations: u64,
    /// Bytes that these read and wrote.
    pub bytes: u64,
    /// Operations that ended in it with an error.
    pub errors: u64,
}

/// The latencies of one kind of operation over a whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Read)]
pub struct ClassSummary {
    /// The kind: [`OpClass::word`].
    pub class: String,
    /// Its latencies.
    #[serde(flatten)]
    pub latency: Summary,
}

/// One load, from its begin to its end, with all that it depends on. Kind `run`.
#[derive(Clone, Debug, PartialEq, Serialize, Read)]
pub struct Run {
    /// What was run.
    pub title: String,
    /// Where.
    #[serde(flatten)]
    pub machine: Machine,
    /// How frames travelled, as the link tells.
    pub link_mode: String,
    /// MTU, in bytes.
    pub mtu_bytes: u32,
    /// Which thread ran where.
    pub pinning: String,
    /// What else must be known of it.
    pub conditions: String,
    /// The load: mix, sizes, depth or rate, working set, target.
    pub workload: String,
    /// Seed of the load.
    pub seed: u64,
    /// Length of each interval, in milliseconds. The last one may be shorter.
    pub interval_ms: u64,
    /// What was done in each of them.
    #[serde(deserialize_with = "checked")]
    pub intervals: Vec<Tick>,
    /// Latencies by kind of operation.
    #[serde(deserialize_with = "checked")]
    pub classes: Vec<ClassSummary>,
    /// What the initiator's side spent.
    #[serde(default)]
    pub initiator: Option<Cost>,
    /// What the target's side spent.
    #[serde(default)]
    pub target: Option<Cost>,
    /// Name of the interval log that belongs to it and lies in the same folder.
    #[serde(default)]
    pub hlog: Option<String>,
}

impl Run {
    /// The lines that say what the numbers belong to.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![("load", format!("{}; seed {}", self.workload, self.seed))];
        facts.extend(circumstances(
            &self.machine,
            &self.link_mode,
            self.mtu_bytes,
            &self.pinning,
            &self.conditions,
        ));
        for (side, cost) in [("initiator", self.initiator), ("target", self.target)] {
            facts.extend(cost.map(|cost| (side, cost.to_string())));
        }
        facts
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = crate::number::duration(crate::number::whole(self.cpu_ns_per_io));
        write!(f, "{:.2} CPU seconds, {each} an operation", self.cpu_s)?;
        match self.syscalls_per_io {
            Some(calls) => write!(f, "; {calls:.2} system calls an operation"),
            None => Ok(()),
        }
    }
}

/// What can be told to be impossible.
pub(crate) trait Check {
    /// Says what cannot be true.
    fn check(&self) -> Result<(), String>;
}

impl Check for Row {
    fn check(&self) -> Result<(), String> {
        let spread = |what: &str, Spread { min, median, max }: Spread| {
            let finite = [min, median, max].iter().all(|number| number.is_finite());
            if finite && min <= median && median <= max {
                return Ok(());
            }
            Err(format!(
                "`{}`: {what} is {min} at least, {median} in the middle and {max} at most",
                self.metric
            ))
        };
        let Self {
            min, median, max, ..
        } = *self;
        spread("a sample", Spread { min, median, max })?;
        let given = [self.ratio_min, self.ratio_median, self.ratio_max];
        match (given.iter().flatten().count(), self.ratio()) {
            (_, Some(ratio)) => spread("a ratio", ratio)?,
            (0, None) => {}
            _ => {
                return Err(format!(
                    "`{}`: a ratio wants its minimum, median and maximum",
                    self.metric
                ));
            }
        }
        let numbers = self
            .ratios
            .iter()
            .chain(&self.goal)
            .chain(given.iter().flatten());
        match numbers
            .into_iter()
            .find(|number| !number.is_finite() || **number < 0.0)
        {
            Some(number) => Err(format!("`{}`: {number} is no ratio", self.metric)),
            None => [self.initiator, self.target]
                .iter()
                .flatten()
                .try_for_each(Check::check),
        }
    }
}

impl Check for Cost {
    fn check(&self) -> Result<(), String> {
        let numbers = [
            Some(self.cpu_s),
            Some(self.cpu_ns_per_io),
            self.syscalls_per_io,
        ];
        match numbers
            .iter()
            .flatten()
            .find(|number| !number.is_finite() || **number < 0.0)
        {
            Some(number) => Err(format!("{number} is no cost")),
            None => Ok(()),
        }
    }
}

impl Check for Tick {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Check for ClassSummary {
    fn check(&self) -> Result<(), String> {
        self.latency
            .check()
            .map_err(|problem| format!("class `{}`: {problem}", self.class))
    }
}

impl Check for Comparison {
    fn check(&self) -> Result<(), String> {
        self.rows.iter().try_for_each(Check::check)?;
        match self.goal {
            Some(goal) if !goal.is_finite() || goal < 0.0 => Err(format!("{goal} is no goal")),
            _ => Ok(()),
        }
    }
}

impl Check for Run {
    fn check(&self) -> Result<(), String> {
        self.classes.iter().try_for_each(Check::check)?;
        [self.initiator, self.target]
            .iter()
            .flatten()
            .try_for_each(Check::check)?;
        let starts = self.intervals.iter().map(|tick| tick.start_ms);
        if !starts.is_sorted_by(|one, other| one < other) {
            return Err("the intervals are out of order".to_owned());
        }
        if self.interval_ms == 0 && !self.intervals.is_empty() {
            return Err("intervals of 0 ms".to_owned());
        }
        match &self.hlog {
            // The name of a file beside it, and not a way out of the folder.
            Some(name) if name.is_empty() || name.contains('/') => {
                Err(format!("`{name}` is not the name of a file in its folder"))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a list and checks each member where it stands, so that the error has its line.
fn checked<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Check,
{
    struct Members<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de> + Check> Visitor<'de> for Members<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = seq.next_element::<T>()? {
                member.check().map_err(A::Error::custom)?;
                members.push(member);
            }
            Ok(members)
        }
    }

    deserializer.deserialize_seq(Members(std::marker::PhantomData))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn comparison() -> Comparison {
        Comparison {
            title: "one <against> another".to_owned(),
            machine: Machine::this(),
            link_mode: "memory".to_owned(),
            mtu_bytes: 9000,
            pinning: "none".to_owned(),
            conditions: "none".to_owned(),
            samples: 2,
            sample_ms: 1,
            goal: Some(0.9),
            rows: vec![
                Row::rival("depth 1: rival", "I/O/s", &[10.0, 20.0]),
                Row {
                    initiator: Some(Cost::of(1.0, Some(10), 20)),
                    ..Row::versus(
                        "depth 1: ours",
                        "I/O/s",
                        &[9.0, 19.0],
                        "rival",
                        &[10.0, 20.0],
                    )
                },
            ],
        }
    }

    pub(crate) fn run() -> Run {
        Run {
            title: "random reads".to_owned(),
            machine: Machine::this(),
            link_mode: "memory".to_owned(),
            mtu_bytes: 9000,
            pinning: "none".to_owned(),
            conditions: "none".to_owned(),
            workload: "4 KiB random reads, depth 32".to_owned(),
            seed: 7,
            interval_ms: 100,
            intervals: vec![
                Tick {
                    start_ms: 0,
                    operations: 3,
                    bytes: 3 * 4096,
                    errors: 0,
                },
                Tick {
                    start_ms: 100,
                    operations: 1,
                    bytes: 4096,
                    errors: 1,
                },
            ],
            classes: vec![ClassSummary {
                class: OpClass::Read.to_string(),
                latency: Summary {
                    count: 4,
                    min_ns: 10,
                    mean_ns: 15.0,
                    p50_ns: 12,
                    p90_ns: 20,
                    p99_ns: 20,
                    p999_ns: 20,
                    p9999_ns: 20,
                    max_ns: 20,
                },
            }],
            initiator: Some(Cost::of(0.5, None, 4)),
            target: None,
            hlog: None,
        }
    }

    #[test]
    fn costs_are_those_of_an_operation() {
        let cost = Cost::of(2.0, Some(30), 10);
        assert_eq!((cost.cpu_ns_per_io, cost.syscalls_per_io), (2e8, Some(3.0)));
        assert_eq!(
            cost.to_string(),
            "2.00 CPU seconds, 200 ms an operation; 3.00 system calls an operation"
        );
    }

    #[test]
    fn a_goal_is_that_of_the_row_or_of_all_and_never_the_rivals() {
        let mut all = comparison();
        assert_eq!(all.goal_of(&all.rows[0]), None);
        assert_eq!(all.goal_of(&all.rows[1]), Some(0.9));
        all.rows[1].goal = Some(2.2);
        assert_eq!(all.goal_of(&all.rows[1]), Some(2.2));
    }
}
