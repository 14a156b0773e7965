//! `keepwell explain`: the score of an account, now or at an earlier time, down to the contributions that sum to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use keepwell_core::offset::TopicPartition;
use keepwell_core::partitioner::partition_of;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::kafka::tail::Tail;
use keepwell_pipeline::process::ConfigArgs;
use keepwell_pipeline::redact;
#[cfg(feature = "sql")]
use keepwell_score::Score;
use keepwell_score::inputs::Inputs;
#[cfg(feature = "sql")]
use keepwell_score::tables_reader::Stored;
use keepwell_sink::score_json::Health;

/// What to explain.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The account to explain.
    pub account: String,
    /// Read a file with one score per line, as `keepwell demo` writes it, instead of the `scores` topic.
    #[arg(long)]
    pub scores: Option<PathBuf>,
    /// Explain the last final score at or before this time (RFC 3339), from the Parquet tables. Also shows the columns
    /// that each factor used.
    #[arg(long, conflicts_with = "scores")]
    pub as_of: Option<Timestamp>,
    /// URL of the tables for `--as-of`. Default: the configured one.
    #[arg(long, requires = "as_of")]
    pub tables: Option<String>,
    /// Format of the output.
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Text for people.
    Text,
    /// JSON, as on the `scores` topic.
    Json,
}

/// How long reading the topic may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Finds the score and returns the output.
///
/// # Errors
/// When the account has no score, or the file or topic cannot be read.
pub fn run(args: &ExplainArgs) -> Result<String> {
    let found = match (&args.scores, args.as_of) {
        (Some(path), _) => in_file(path, &args.account)?.map(Explained::of),
        (None, None) => in_topic(&args.config.read()?, &args.account)?.map(Explained::of),
        (None, Some(as_of)) => in_tables(&args.config.read()?, args, as_of)?,
    };
    let Some(Explained { health, inputs }) = found else {
        bail!("account {} has no score: it is not known here, or not scored yet", args.account);
    };
    match args.output {
        Output::Json => {
            let mut value = serde_json::to_value(&health)?;
            if let Some(inputs) = inputs {
                value["inputs"] = serde_json::to_value(inputs)?;
            }
            Ok(serde_json::to_string_pretty(&value)? + "\n")
        }
        Output::Text => Ok(text(&on_lines(health)?)? + &describe(inputs.unwrap_or_default())?),
    }
}

/// A score. If the window rows and the model are available, also the columns that its factors read.
struct Explained {
    health: Health,
    inputs: Option<BTreeMap<String, Inputs>>,
}

impl Explained {
    fn of(health: Health) -> Self {
        Self { health, inputs: None }
    }
}

/// Reads the last final row at or before a time, and the window rows that belong to it.
#[cfg(not(feature = "sql"))]
fn in_tables(_config: &Config, _args: &ExplainArgs, _as_of: Timestamp) -> Result<Option<Explained>> {
    bail!(crate::audit::NO_SQL)
}

/// Reads the last final row at or before a time, and the window rows that belong to it.
#[cfg(feature = "sql")]
fn in_tables(config: &Config, args: &ExplainArgs, as_of: Timestamp) -> Result<Option<Explained>> {
    let stored = Stored::of_config(config, args.tables.as_deref())?;
    let Some((row, windows)) = stored.at(&args.account, as_of.as_microsecond())? else { return Ok(None) };
    let health =
        keepwell_sink::score_json::rows(&row)?.into_iter().next().filter(|row| !row.is_deleted).map(|row| row.health);
    let explained = health.map(|health| {
        let inputs = Score::new(config)?.inputs(&health.model.name, health.model.version, &windows)?;
        Ok(Explained { health, inputs })
    });
    explained.transpose()
}

fn describe(inputs: BTreeMap<String, Inputs>) -> Result<String> {
    let mut out = String::new();
    for (factor, Inputs { period, columns }) in inputs {
        writeln!(out, "{factor} saw {} over {period}", redact::line(&columns.to_string()))?;
    }
    Ok(out)
}

fn in_file(path: &Path, account: &str) -> Result<Option<Health>> {
    let content = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut found = None;
    for (number, line) in (1..).zip(content.lines()) {
        let health: Health = serde_json::from_str(line).with_context(|| format!("{}:{number}", path.display()))?;
        if health.account_id == account {
            found = Some(health);
        }
    }
    Ok(found)
}

/// Reads the account's partition and returns the last record of its key.
fn in_topic(config: &Config, account: &str) -> Result<Option<Health>> {
    let partition = partition_of(account, config.partitions);
    let tp = TopicPartition::new(config.topics.scores.as_str(), partition);
    let mut found = None;
    Tail::open(&config.kafka)?.read(&tp, PATIENCE, &Arc::new(AtomicBool::new(false)), |record| {
        if record.key.as_deref() == Some(account.as_bytes()) {
            found = Some(record.value);
        }
        ControlFlow::Continue(())
    })?;
    let is_deleted = found == Some(None);
    ensure!(!is_deleted, "account {account} was deleted: its last record on {} is a tombstone", tp.topic);
    Ok(found.flatten().map(|value| serde_json::from_slice(&value)).transpose()?)
}

/// The same score, but with line breaks and control characters escaped. A stranger who chooses the name of an account
/// or owner must not write extra lines.
fn on_lines(health: Health) -> Result<Health> {
    fn escape(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => *text = redact::line(text).into_owned(),
            serde_json::Value::Array(items) => items.iter_mut().for_each(escape),
            serde_json::Value::Object(fields) => fields.values_mut().for_each(escape),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(health)?;
    escape(&mut value);
    Ok(serde_json::from_value(value)?)
}

fn points(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn text(health: &Health) -> Result<String> {
    let mut out = String::new();
    let kind = if health.is_final { "final" } else { "live" };
    writeln!(
        out,
        "{}: {} ({}), {} as of {}, {kind}",
        health.account_id,
        health.display.map_or("no score".to_owned(), |display| display.to_string()),
        points(health.score),
        health.band.as_deref().unwrap_or("no band"),
        health.as_of,
    )?;
    if health.retired {
        writeln!(out, "retired: silent for aggregate.retire_after, so this is the last row until an event comes")?;
    }
    if let Some(previous) = &health.previous {
        writeln!(
            out,
            "before: {} {} as of {}, change {}",
            points(previous.score),
            previous.band.as_deref().unwrap_or("no band"),
            previous.as_of,
            points(health.delta)
        )?;
    }
    for (name, fact) in [("segment", &health.segment), ("stage", &health.stage), ("owner", &health.owner)] {
        if let Some(fact) = fact {
            writeln!(out, "{name}: {fact}")?;
        }
    }
    let model = &health.model;
    writeln!(out, "model {} version {}, coverage {} %\n", model.name, model.version, health.coverage)?;
    writeln!(
        out,
        "  {:<16} {:>14} {:>12} {:>10} {:>10} {:>12}",
        "factor", "value", "normalised", "weight", "effective", "contribution"
    )?;
    for factor in &health.factors {
        let missing = factor.missing.as_deref().map(|missing| format!("  unknown: {missing}")).unwrap_or_default();
        let from = factor.carried_from.as_deref().map(|from| format!(" from {from}")).unwrap_or_default();
        let group = factor.group.as_deref().map(|group| format!("  in {group}")).unwrap_or_default();
        writeln!(
            out,
            "  {:<16} {:>14} {:>12} {:>10} {:>10} {:>12}{missing}{from}{group}",
            factor.name,
            factor.value.map_or("-".to_owned(), |value| format!("{value:.4}")),
            points(factor.normalised),
            factor.weight,
            factor.effective_weight,
            points(factor.contribution)
        )?;
    }
    writeln!(out, "  {:<16} {:>66}", "score", points(health.score))?;
    for driver in &health.drivers {
        writeln!(out, "moved by {}: {:+}", driver.name, driver.delta)?;
    }
    for trigger in &health.triggers {
        writeln!(
            out,
            "trigger {} since {}, severity {}: playbook {} for {}{}; {}",
            trigger.name,
            trigger.since,
            trigger.severity,
            trigger.playbook,
            trigger.owner_role,
            trigger.outcome.as_deref().map(|outcome| format!(" ({outcome})")).unwrap_or_default(),
            trigger.evidence
        )?;
    }
    let from = &health.provenance;
    writeln!(
        out,
        "made of epoch {} partition {}: window rows below offset {}, events below offset {}",
        from.epoch, from.partition, from.next_offset, from.events_next_offset
    )?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account and an owner with characters that clear the screen and start new lines.
    #[test]
    fn names_of_strangers_stay_on_their_line() {
        let json = r#"{"schema":"scores/2","account_id":"acme\u001b]0;x\u0007\nFAKE LOG LINE","as_of":"2026-09-29T00:00:00Z","final":true,
            "retired":false,"score":74.75,"display":75,"band":"yellow","band_since":"2026-09-29T00:00:00Z","previous":null,"delta":null,
            "coverage":100,"baseline_score":null,"factors":[],"drivers":[],"triggers":[],"segment":null,"stage":null,
            "owner":"\u001b[2J\u001b[31mEVIL","model":{"name":"default","version":2},"provenance":{"epoch":1,"partition":3,
            "next_offset":812,"ordinal":4,"events_next_offset":5120,"watermark":null}}"#;
        let health: Health = serde_json::from_str(json).unwrap();
        let text = text(&on_lines(health).unwrap()).unwrap();
        assert!(!text.contains('\u{1b}') && text.starts_with("acme\\u{1b}]0;x\\u{7}\\nFAKE LOG LINE: 75"), "{text}");
        assert!(text.contains("owner: \\u{1b}[2J"), "{text}");
    }
}
