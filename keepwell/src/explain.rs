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
#[cfg(feature = "sql")]
use keepwell_core::schema::{columns::Columns, health, json::JsonRows};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::kafka::tail::Tail;
use keepwell_pipeline::process::ConfigArgs;
use keepwell_pipeline::redact;
#[cfg(feature = "sql")]
use keepwell_score::Score;
use keepwell_score::inputs::Inputs;
#[cfg(feature = "sql")]
use keepwell_score::tables_reader::Stored;
#[cfg(feature = "sql")]
use keepwell_sink::publish::SCORE;
use serde_json::Value;

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
    let Some(Explained { mut health, inputs }) = found else {
        bail!("account {} has no score: it is not known here, or not scored yet", args.account);
    };
    match args.output {
        Output::Json => {
            if let Some(inputs) = inputs {
                health["inputs"] = serde_json::to_value(inputs)?;
            }
            Ok(serde_json::to_string_pretty(&health)? + "\n")
        }
        Output::Text => {
            escape(&mut health);
            Ok(text(&health)? + &describe(inputs.unwrap_or_default())?)
        }
    }
}

/// A score, as on the `scores` topic. If the window rows and the model are available, also the columns that its factors
/// read.
struct Explained {
    health: Value,
    inputs: Option<BTreeMap<String, Inputs>>,
}

impl Explained {
    fn of(health: Value) -> Self {
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
    let columns = Columns::Batch(&row);
    let last = health::Reader::of(columns)?.row(0);
    if last.is_deleted {
        return Ok(None);
    }
    let mut json = Vec::new();
    JsonRows::of(columns, health::COLUMNS, SCORE)?.write(0, &[], &mut json)?;
    // Of a customer that has left nothing was read.
    let inputs = match last.factors.is_empty() {
        true => None,
        false => Score::new(config)?.inputs(last.model, last.model_version, &windows)?,
    };
    Ok(Some(Explained { health: serde_json::from_slice(&json)?, inputs }))
}

fn describe(inputs: BTreeMap<String, Inputs>) -> Result<String> {
    let mut out = String::new();
    for (factor, Inputs { period, columns }) in inputs {
        writeln!(out, "{factor} saw {} over {period}", redact::line(&columns.to_string()))?;
    }
    Ok(out)
}

fn in_file(path: &Path, account: &str) -> Result<Option<Value>> {
    let content = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut found = None;
    for (number, line) in (1..).zip(content.lines()) {
        let score: Value = serde_json::from_str(line).with_context(|| format!("{}:{number}", path.display()))?;
        if score["account_id"] == account {
            found = Some(score);
        }
    }
    Ok(found)
}

/// Reads the account's partition and returns the last record of its key.
fn in_topic(config: &Config, account: &str) -> Result<Option<Value>> {
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

/// Escapes line breaks and control characters in every text. A stranger who chooses the name of an account or owner must
/// not write extra lines.
fn escape(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact::line(text).into_owned(),
        Value::Array(items) => items.iter_mut().for_each(escape),
        Value::Object(fields) => fields.values_mut().for_each(escape),
        _ => {}
    }
}

/// A number or text for people; `none` where it is unknown.
fn shown(value: &Value, none: &str) -> String {
    match value {
        Value::Null => none.to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        other => other.to_string(),
    }
}

/// A known value after some words, else nothing.
fn after(words: &str, value: &Value) -> String {
    if value.is_null() { String::new() } else { format!("{words}{}", shown(value, "")) }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(health: &Value) -> Result<String> {
    let mut out = String::new();
    writeln!(
        out,
        "{}: {} ({}), {} as of {}, {}",
        shown(&health["account_id"], ""),
        shown(&health["display"], "no score"),
        shown(&health["score"], "-"),
        shown(&health["band"], "no band"),
        shown(&health["as_of"], "-"),
        if health["final"] == true { "final" } else { "live" }
    )?;
    if health["retired"] == true {
        writeln!(out, "retired: silent for aggregate.retire_after, so this is the last row until an event comes")?;
    }
    let previous = &health["previous"];
    if !previous.is_null() {
        writeln!(
            out,
            "before: {} {} as of {}, change {}",
            shown(&previous["score"], "-"),
            shown(&previous["band"], "no band"),
            shown(&previous["as_of"], "-"),
            shown(&health["delta"], "-")
        )?;
    }
    for name in ["segment", "owner", "stage"] {
        if !health[name].is_null() {
            writeln!(out, "{name}: {}", shown(&health[name], ""))?;
        }
    }
    let lifecycle = &health["lifecycle"];
    if !lifecycle.is_null() {
        let (action, value) = (shown(&lifecycle["action"], ""), shown(&lifecycle["value"], "unknown"));
        writeln!(out, "  since {}{}", shown(&lifecycle["since"], "-"), after(", for the ", &lifecycle["owner_role"]))?;
        // A fact may name a stage that the model file does not have.
        if !lifecycle["metric"].is_null() {
            writeln!(out, "  {action}; {}: {value}", shown(&lifecycle["metric"], ""))?;
        }
        if !lifecycle["next"].is_null() {
            let (next, since) = (shown(&lifecycle["next"], ""), shown(&lifecycle["next_since"], "-"));
            writeln!(out, "  about to move to {next}: its rules say so since {since}")?;
        }
    }
    let customer = &health["customer"];
    if !customer.is_null() {
        let (status, since) = (shown(&customer["status"], "-"), shown(&customer["since"], "-"));
        writeln!(out, "customer: {status} since {since}{}", after(", reason ", &customer["churn_reason"]))?;
    }
    let (model, coverage) = (&health["model"], shown(&health["coverage"], "-"));
    writeln!(out, "model {} version {}, coverage {coverage} %\n", shown(&model["name"], ""), model["version"])?;
    factors(&mut out, health)?;
    drivers_and_triggers(&mut out, health)?;
    let from = &health["provenance"];
    writeln!(
        out,
        "made of epoch {} partition {}: window rows below offset {}, events below offset {}",
        from["epoch"], from["partition"], from["next_offset"], from["events_next_offset"]
    )?;
    Ok(out)
}

/// The factors, one a line, and their sum.
fn factors(out: &mut String, health: &Value) -> Result<()> {
    writeln!(
        out,
        "  {:<16} {:>14} {:>12} {:>10} {:>10} {:>12}",
        "factor", "value", "normalised", "weight", "effective", "contribution"
    )?;
    for factor in items(&health["factors"]) {
        writeln!(
            out,
            "  {:<16} {:>14} {:>12} {:>10} {:>10} {:>12}{}{}{}",
            shown(&factor["name"], ""),
            factor["value"].as_f64().map_or("-".to_owned(), |value| format!("{value:.4}")),
            shown(&factor["normalised"], "-"),
            shown(&factor["weight"], "-"),
            shown(&factor["effective_weight"], "-"),
            shown(&factor["contribution"], "-"),
            after("  unknown: ", &factor["missing"]),
            after(" from ", &factor["carried_from"]),
            after("  in ", &factor["group"])
        )?;
    }
    writeln!(out, "  {:<16} {:>66}", "score", shown(&health["score"], "-"))?;
    Ok(())
}

fn drivers_and_triggers(out: &mut String, health: &Value) -> Result<()> {
    for driver in items(&health["drivers"]) {
        writeln!(out, "moved by {}: {:+}", shown(&driver["name"], ""), driver["delta"].as_f64().unwrap_or_default())?;
    }
    for trigger in items(&health["triggers"]) {
        let outcome =
            if trigger["outcome"].is_null() { String::new() } else { format!(" ({})", shown(&trigger["outcome"], "")) };
        writeln!(
            out,
            "trigger {} since {}, severity {}: playbook {} for {}{outcome}; {}",
            shown(&trigger["name"], ""),
            shown(&trigger["since"], "-"),
            shown(&trigger["severity"], "-"),
            shown(&trigger["playbook"], "-"),
            shown(&trigger["owner_role"], "-"),
            trigger["evidence"]
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_left_is_told_with_time_and_reason() {
        let mut health: Value = serde_json::from_str(
            r#"{"account_id": "acme", "band": "churned", "factors": [], "customer": {"status": "churned",
                "since": "2026-08-31T00:00:00Z", "churn_reason": "price"}}"#,
        )
        .unwrap();
        let line = "customer: churned since 2026-08-31T00:00:00Z, reason price\n";
        assert!(text(&health).unwrap().contains(line), "{}", text(&health).unwrap());
        health["customer"] = Value::Null;
        assert!(!text(&health).unwrap().contains("customer"));
    }

    #[test]
    fn a_stage_is_told_with_its_owner_and_metric_and_one_that_the_model_does_not_know_without() {
        let mut health: Value = serde_json::from_str(
            r#"{"account_id": "acme", "factors": [], "stage": "adoption", "lifecycle": {"since": "2026-07-11T00:00:00Z",
                "next": "value", "next_since": "2026-07-12T00:00:00Z", "owner_role": "csm", "action": "Widen it",
                "metric": "adoption_rate", "value": 0.42}}"#,
        )
        .unwrap();
        let lines = "stage: adoption\n  since 2026-07-11T00:00:00Z, for the csm\n  Widen it; adoption_rate: 0.42\n  \
                     about to move to value: its rules say so since 2026-07-12T00:00:00Z\n";
        assert!(text(&health).unwrap().contains(lines), "{}", text(&health).unwrap());
        health["lifecycle"] = serde_json::json!({"since": "2026-07-11T00:00:00Z"});
        let line = "stage: adoption\n  since 2026-07-11T00:00:00Z\nmodel";
        assert!(text(&health).unwrap().contains(line), "{}", text(&health).unwrap());
    }

    /// An account and an owner with characters that clear the screen and start new lines.
    #[test]
    fn names_of_strangers_stay_on_their_line() {
        let json = r#"{"schema":"scores/2","account_id":"acme\u001b]0;x\u0007\nFAKE LOG LINE","as_of":"2026-09-29T00:00:00Z","final":true,
            "retired":false,"score":74.75,"display":75,"band":"yellow","band_since":"2026-09-29T00:00:00Z","previous":null,"delta":null,
            "coverage":100,"baseline_score":null,"factors":[],"drivers":[],"triggers":[],"segment":null,"stage":null,
            "owner":"\u001b[2J\u001b[31mEVIL","model":{"name":"default","version":2},"provenance":{"epoch":1,"partition":3,
            "next_offset":812,"ordinal":4,"events_next_offset":5120,"watermark":null}}"#;
        let mut health: Value = serde_json::from_str(json).unwrap();
        escape(&mut health);
        let text = text(&health).unwrap();
        assert!(!text.contains('\u{1b}') && text.starts_with("acme\\u{1b}]0;x\\u{7}\\nFAKE LOG LINE: 75"), "{text}");
        assert!(text.contains("owner: \\u{1b}[2J"), "{text}");
    }
}
