//! What was seen, a line each, appended to a file; and the sum of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

/// A cycle of load and a fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cycle {
    /// Commit of the programs.
    pub build: String,
    /// Seed of the run.
    pub run: u64,
    /// From 1.
    pub number: usize,
    /// What struck.
    pub fault: String,
    /// The stage of which a process was ended.
    pub is_kill_of: Option<String>,
    /// Whether the broker was ended.
    pub is_of_broker: bool,
    /// Whether it struck: a process may not come to a place in time.
    pub did_strike: bool,
    /// How long the fault lasted, where it lasts.
    pub outage_ms: u64,
    /// From the kill, or the end of an outage, until all that was sent is through `publish`.
    pub caught_up_ms: u64,
}

/// The judgement on a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verified {
    /// Commit of the programs.
    pub build: String,
    /// Seed of the run.
    pub run: u64,
    /// Its cycles.
    pub cycles: usize,
    /// Final window rows equal to the oracle's.
    pub finals: usize,
    /// Scores equal to plain SQL.
    pub scores: usize,
    /// Records of `scores` and `alerts`.
    pub published: usize,
    /// Claims of tables without gap or overlap.
    pub claims: usize,
    /// Processes that ended although nobody ended them.
    pub surprises: Vec<String>,
    /// Hostile records by kind: how many, and the fate that each of them had.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hostile: BTreeMap<String, String>,
    /// What was lost, doubled, inverted.
    pub ledger: Ledger,
}

/// What a neighbour's absence did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Away {
    /// Who was away.
    pub neighbour: String,
    /// For how long.
    pub minutes: u64,
    /// Resident memory of the largest process of each stage before, kilobytes.
    pub before_kb: BTreeMap<String, u64>,
    /// The same meanwhile, at most.
    pub peak_kb: BTreeMap<String, u64>,
    /// How often `/livez` was asked, and how often it was not well.
    pub asked: usize,
    /// See above.
    pub not_alive: usize,
    /// What `/readyz` said is waited for.
    pub said: BTreeSet<String>,
    /// Processes that ended by themselves.
    pub restarts: usize,
    /// From the return until all that was sent is through.
    pub caught_up_ms: u64,
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A cycle.
    Cycle(Cycle),
    /// A judgement.
    Verified(Verified),
    /// An absence.
    Away(Away),
}

/// Appends a line.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, line: &Line) -> Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    Ok(writeln!(file, "{}", serde_json::to_string(line)?)?)
}

/// The sum of a file, as Markdown. Cycles of a run that was not judged are left out.
///
/// # Errors
/// When the file cannot be read.
pub fn report(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines: Vec<Line> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let verified: Vec<&Verified> = lines
        .iter()
        .filter_map(|line| if let Line::Verified(verified) = line { Some(verified) } else { None })
        .collect();
    let judged: BTreeSet<(&str, u64)> = verified.iter().map(|v| (v.build.as_str(), v.run)).collect();
    let cycles: Vec<&Cycle> =
        lines.iter().filter_map(|line| if let Line::Cycle(cycle) = line { Some(cycle) } else { None }).collect();
    let (counted, left_out): (Vec<&Cycle>, Vec<&Cycle>) =
        cycles.into_iter().partition(|cycle| judged.contains(&(cycle.build.as_str(), cycle.run)));
    let sum = |of: fn(&Verified) -> usize| verified.iter().map(|v| of(v)).sum::<usize>();
    let builds: BTreeSet<&str> = verified.iter().map(|v| v.build.as_str()).collect();
    let mut out = format!(
        "{} runs judged, builds {}; {} cycles ({} more in runs that were not judged)\n\n\
         | sent | lost | doubled | inverted | final rows | scores | records of scores and alerts | claims |\n|---|---|---|---|---|---|---|---|\n\
         | {} | {} | {} | {} | {} | {} | {} | {} |\n\n",
        verified.len(),
        builds.into_iter().collect::<Vec<_>>().join(", "),
        counted.len(),
        left_out.len(),
        sum(|v| v.ledger.sent),
        sum(|v| v.ledger.lost),
        sum(|v| v.ledger.doubled),
        sum(|v| v.ledger.inverted),
        sum(|v| v.finals),
        sum(|v| v.scores),
        sum(|v| v.published),
        sum(|v| v.claims),
    );
    out += "| fault | cycles | struck | outage, longest | caught up p50 | p99 | max |\n|---|---|---|---|---|---|---|\n";
    let mut groups: BTreeMap<String, Vec<&Cycle>> = BTreeMap::new();
    for cycle in &counted {
        groups.entry(cycle.fault.clone()).or_default().push(cycle);
        if let Some(stage) = &cycle.is_kill_of {
            groups.entry(format!("all kills of {stage}")).or_default().push(cycle);
        }
        if cycle.is_of_broker {
            groups.entry("all of the broker".to_owned()).or_default().push(cycle);
        }
        groups.entry("all".to_owned()).or_default().push(cycle);
    }
    for (name, cycles) in groups {
        let mut times: Vec<u64> = cycles.iter().filter(|c| c.did_strike).map(|c| c.caught_up_ms).collect();
        times.sort_unstable();
        // The nearest rank.
        let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        let shown = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3));
        let outage = cycles.iter().map(|cycle| cycle.outage_ms).max().filter(|ms| *ms > 0);
        out += &format!(
            "| {name} | {} | {} | {} | {} | {} | {} |\n",
            cycles.len(),
            times.len(),
            shown(outage),
            shown(rank(50)),
            shown(rank(99)),
            shown(times.last().copied())
        );
    }
    let surprises: Vec<&String> = verified.iter().flat_map(|v| &v.surprises).collect();
    out += &format!("\n{} processes ended by themselves and were started again.\n", surprises.len());
    for surprise in surprises.iter().take(10) {
        out += &format!("- {surprise}\n");
    }
    let aways = lines.iter().filter_map(|line| if let Line::Away(away) = line { Some(away) } else { None });
    for away in aways {
        let mb = |kb: &BTreeMap<String, u64>| {
            kb.iter().map(|(stage, kb)| format!("{stage} {} MB", kb / 1000)).collect::<Vec<_>>().join(", ")
        };
        out += &format!(
            "\n{} away for {} minutes: memory before {}; at most {}; /livez well in {} of {} answers; {} restarts; caught up in {:.1} s; /readyz: {}\n",
            away.neighbour,
            away.minutes,
            mb(&away.before_kb),
            mb(&away.peak_kb),
            away.asked - away.not_alive,
            away.asked,
            away.restarts,
            away.caught_up_ms as f64 / 1e3,
            away.said.iter().cloned().collect::<Vec<_>>().join("; ")
        );
    }
    for verified in verified.iter().filter(|v| !v.hostile.is_empty()) {
        out += &format!(
            "\nRun {} held records of {} hostile kinds:\n\n| kind | fate |\n|---|---|\n",
            verified.run,
            verified.hostile.len()
        );
        verified.hostile.iter().for_each(|(kind, fate)| out += &format!("| {kind} | {fate} |\n"));
    }
    for verified in verified.iter().filter(|v| !v.ledger.is_clean()) {
        out += &format!("run {}: {:?}\n", verified.run, verified.ledger.example);
    }
    Ok(out)
}
