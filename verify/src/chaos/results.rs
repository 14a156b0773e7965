//! Results of runs, appended to a file with one line each; and their totals.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;

/// A cycle of load and one fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cycle {
    /// Commit of the programs.
    pub build: String,
    /// Seed of the run.
    pub run: u64,
    /// Number of the cycle in the run, from 1.
    pub number: usize,
    /// Name of the fault.
    pub fault: String,
    /// The stage of the killed process, if the fault kills one.
    pub is_kill_of: Option<String>,
    /// Whether the fault ended the broker.
    pub is_of_broker: bool,
    /// Whether the fault struck. A process may not reach its crash point in time.
    pub did_strike: bool,
    /// Duration of the fault in milliseconds; 0 for a fault at a point in time.
    pub outage_ms: u64,
    /// Milliseconds from the kill, or from the end of an outage, until `publish` has processed everything that was
    /// sent.
    pub caught_up_ms: u64,
}

/// The judgement on a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verified {
    /// Commit of the programs.
    pub build: String,
    /// Seed of the run.
    pub run: u64,
    /// Number of cycles of the run.
    pub cycles: usize,
    /// Number of final window rows that equal the oracle's.
    pub finals: usize,
    /// Number of scores that equal plain SQL.
    pub scores: usize,
    /// Number of records of `scores` and `alerts`.
    pub published: usize,
    /// Number of claims of tables, without gap or overlap.
    pub claims: usize,
    /// Processes that ended although the run did not end them.
    pub surprises: Vec<String>,
    /// Hostile records by kind: the number of records and the fate of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hostile: BTreeMap<String, String>,
    /// Number of lost, doubled and inverted records.
    pub ledger: Ledger,
}

/// What happened while a neighbour was away.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Away {
    /// Name of the neighbour.
    pub neighbour: String,
    /// How many minutes it was away.
    pub minutes: u64,
    /// Resident memory in kilobytes, by stage, before the absence: that of the largest process.
    pub before_kb: BTreeMap<String, u64>,
    /// The same during the absence: the largest value.
    pub peak_kb: BTreeMap<String, u64>,
    /// Number of requests to `/livez`.
    pub asked: usize,
    /// Number of requests to `/livez` without the status 200.
    pub not_alive: usize,
    /// What `/readyz` reported as the reason for waiting, and errors of `/livez`.
    pub answers: BTreeSet<String>,
    /// Number of processes that ended by themselves.
    pub restarts: usize,
    /// Milliseconds from the return of the neighbour until everything that was sent is processed.
    pub caught_up_ms: u64,
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// One cycle.
    Cycle(Cycle),
    /// The judgement on a run.
    Verified(Verified),
    /// The result of an absence.
    Away(Away),
}

/// Appends a line to the file.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, line: &Line) -> Result<()> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).with_context(|| path.display().to_string())?;
    Ok(writeln!(file, "{}", serde_json::to_string(line)?)?)
}

/// The totals of a file, as Markdown. Cycles of a run without a judgement are left out.
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
    out += &fault_table(&counted);
    let surprises: Vec<&String> = verified.iter().flat_map(|v| &v.surprises).collect();
    out += &format!("\n{} processes ended by themselves and were started again.\n", surprises.len());
    for surprise in surprises.iter().take(10) {
        out += &format!("- {surprise}\n");
    }
    let aways = lines.iter().filter_map(|line| if let Line::Away(away) = line { Some(away) } else { None });
    aways.for_each(|away| out += &away_line(away));
    verified.iter().filter(|v| !v.hostile.is_empty()).for_each(|verified| out += &hostile_table(verified));
    for verified in verified.iter().filter(|v| !v.ledger.is_clean()) {
        out += &format!("run {}: {:?}\n", verified.run, verified.ledger.example);
    }
    Ok(out)
}

/// How long each fault took, from the strike until everything was caught up.
fn fault_table(counted: &[&Cycle]) -> String {
    let mut out =
        "| fault | cycles | struck | outage, longest | caught up p50 | p99 | max |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
    let mut groups: BTreeMap<String, Vec<&Cycle>> = BTreeMap::new();
    for cycle in counted {
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
        // The percentile by nearest rank.
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
    out
}

/// What an outage of a neighbour did.
fn away_line(away: &Away) -> String {
    let mb = |kb: &BTreeMap<String, u64>| {
        kb.iter().map(|(stage, kb)| format!("{stage} {} MB", kb / 1000)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "\n{} away for {} minutes: memory before {}; at most {}; /livez well in {} of {} answers; {} restarts; caught up in {:.1} s; /readyz: {}\n",
        away.neighbour,
        away.minutes,
        mb(&away.before_kb),
        mb(&away.peak_kb),
        away.asked - away.not_alive,
        away.asked,
        away.restarts,
        away.caught_up_ms as f64 / 1e3,
        away.answers.iter().cloned().collect::<Vec<_>>().join("; ")
    )
}

/// The hostile kinds of a run, each with its fate.
fn hostile_table(verified: &Verified) -> String {
    let mut out = format!(
        "\nRun {} held records of {} hostile kinds:\n\n| kind | fate |\n|---|---|\n",
        verified.run,
        verified.hostile.len()
    );
    verified.hostile.iter().for_each(|(kind, fate)| out += &format!("| {kind} | {fate} |\n"));
    out
}
