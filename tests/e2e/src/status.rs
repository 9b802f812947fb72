//! What a blade says of itself over its control socket.

use anyhow::{Context, Result, ensure};
use sandrail_lab::Blade;
use serde_json::Value;

/// Sends a request that must succeed; the answer.
///
/// # Errors
/// Nobody answers, or it was refused.
pub fn ask(blade: &Blade, request: &str) -> Result<Value> {
    let answer = blade.control(request)?;
    let answer: Value =
        serde_json::from_str(&answer).with_context(|| format!("{request}: {answer:?}"))?;
    ensure!(answer["ok"] == true, "{request}: {answer}");
    Ok(answer)
}

/// A moment of a blade.
#[derive(Clone, Debug)]
pub struct Status(Value);

impl Status {
    /// Asks for it.
    ///
    /// # Errors
    /// As for [`ask`].
    pub fn of(blade: &Blade) -> Result<Self> {
        ask(blade, r#"{"verb":"status"}"#).map(Self)
    }

    /// One target's part.
    ///
    /// # Errors
    /// It is not served.
    pub fn target(&self, addr: &str) -> Result<&Value> {
        let cores = self.0["cores"].as_array().context("no cores")?;
        let mut targets = cores
            .iter()
            .filter_map(|core| core["targets"].as_array())
            .flatten();
        targets
            .find(|target| target["target"] == addr)
            .with_context(|| format!("no {addr} in {}", self.0))
    }

    /// A counter of one target's; 0 where it is left out.
    ///
    /// # Errors
    /// The target is not served.
    pub fn count(&self, addr: &str, counter: &str) -> Result<u64> {
        let target = self.target(addr)?;
        Ok(number(&target["counters"][counter]))
    }

    /// A counter of one target's disk.
    ///
    /// # Errors
    /// The target is not served.
    pub fn disk_count(&self, addr: &str, counter: &str) -> Result<u64> {
        let target = self.target(addr)?;
        Ok(number(&target["disk"][counter]))
    }

    /// A number of every core, added up: `requests_open`, `crossing_full`.
    #[must_use]
    pub fn cores(&self, name: &str) -> u64 {
        self.sum(|core| number(&core[name]))
    }

    /// Whether no core holds anything for anybody.
    #[must_use]
    pub fn holds_nothing(&self) -> bool {
        let cores = self.0["cores"].as_array();
        let mut held = cores.into_iter().flatten().map(|core| &core["held"]);
        held.all(|held| held.as_object().is_some_and(serde_json::Map::is_empty))
    }

    /// What became of frames on all cores, by reason.
    #[must_use]
    pub fn frames(&self, reason: &str) -> u64 {
        self.sum(|core| number(&core["frames"][reason]))
    }

    /// A counter of all links'; `table` is `counters`, `faults_transmit` or `faults_receive`.
    #[must_use]
    pub fn links(&self, table: &str, counter: &str) -> u64 {
        self.sum(|core| {
            let links = core["links"].as_array();
            let links = links.into_iter().flatten();
            links.map(|link| number(&link[table][counter])).sum()
        })
    }

    fn sum(&self, of_core: impl Fn(&Value) -> u64) -> u64 {
        let cores = self.0["cores"].as_array();
        cores.into_iter().flatten().map(of_core).sum()
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
