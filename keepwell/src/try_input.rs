//! `keepwell try-input`: what each line of a file becomes, or why it is rejected. Needs no broker and no configuration.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use keepwell_core::event::Kind;
use keepwell_ingest::decode::{self, Decoded, Limits};
use keepwell_ingest::mapping::{self, Mapping};
use keepwell_ingest::reason::Reason;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::config::{Ingest, Time};
use keepwell_pipeline::process;
use serde_json::{Value, json};

use crate::lines::Lines;

/// What to try.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: keepwell try-input segment.ndjson --preset segment")]
pub struct TryInputArgs {
    /// One JSON record per line, or CSV with a header line if the name ends in .csv.
    pub file: PathBuf,
    /// The system whose records these are.
    #[arg(long, conflicts_with_all = ["mapping", "kind"])]
    pub preset: Option<String>,
    /// A mapping file, which says what the records mean.
    #[arg(long, conflicts_with = "kind")]
    pub mapping: Option<PathBuf>,
    /// The kind of records in Keepwell's own form.
    #[arg(long, value_parser = kind, default_value = "usage")]
    pub kind: Kind,
    /// Print one JSON object per line instead of text.
    #[arg(long)]
    pub json: bool,
}

fn kind(text: &str) -> Result<Kind, String> {
    let known = || Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    Kind::ALL.iter().find(|kind| kind.name() == text).copied().ok_or_else(|| format!("expected one of {}", known()))
}

/// What a line becomes.
#[derive(Debug)]
pub(crate) enum Becomes {
    /// Events: kind and fields.
    Events(Vec<(Kind, Value)>),
    /// Nothing that counts, and why.
    Ignored(&'static str),
    /// A reject.
    Rejected(Reason),
}

/// Tries each line and prints what it becomes, then a summary by fate.
///
/// # Errors
/// When the file cannot be read, or the mapping is refused.
pub fn run(args: &TryInputArgs) -> Result<()> {
    let mapping = match (&args.preset, &args.mapping) {
        (Some(name), _) => Some(mapping::preset(name)?),
        (None, Some(path)) => Some(mapping::read(path)?),
        (None, None) => None,
    };
    let limits = limits(SystemClock::start().wall_us());
    let mut lines = Lines::open(&args.file)?;
    let is_coloured = !args.json && std::io::stdout().is_terminal();
    let mut fates: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(record) = lines.take()? {
        let becomes = becomes(mapping.as_ref(), args.kind, &record, &limits);
        becomes.count(&mut fates);
        let text = if args.json { becomes.json(lines.line()) } else { becomes.text(lines.line(), is_coloured) };
        process::print(&text);
    }
    let summary = if args.json { json!({ "summary": fates }).to_string() } else { summary(&fates) };
    process::print(&format!("{summary}\n"));
    Ok(())
}

/// The default limits of ingest.
pub(crate) fn limits(now_us: i64) -> Limits {
    let (ingest, time) = (Ingest::default(), Time::default());
    Limits {
        max_event_bytes: ingest.max_event_bytes,
        max_facts: ingest.max_facts,
        max_fact_bytes: ingest.max_fact_bytes,
        latest_us: now_us.saturating_add(time.max_future.as_micros()),
        max_future_us: time.max_future.as_micros(),
        earliest_us: time.earliest.as_microsecond(),
    }
}

/// What a record becomes, by a mapping or in Keepwell's own form of this kind.
pub(crate) fn becomes(mapping: Option<&Mapping>, kind: Kind, record: &[u8], limits: &Limits) -> Becomes {
    let read = || match mapping {
        None => Ok(match decode::decode(kind, record, limits)? {
            Decoded::Event(_) => Becomes::Events(vec![(kind, fields(decode::text(record)?))]),
            Decoded::Ignored(call) => Becomes::Ignored(call),
        }),
        Some(mapping) => {
            decode::check_size(record.len(), limits)?;
            let flats = mapping.events(record, &Vec::new())?;
            let is_ignored = mapping.checked(&flats, limits)?.is_empty();
            let events: Vec<(Kind, Value)> =
                flats.iter().map(|flat| (flat.kind, fields(&flat.form().json()))).collect();
            Ok(if is_ignored { Becomes::Ignored("by_mapping") } else { Becomes::Events(events) })
        }
    };
    read().unwrap_or_else(Becomes::Rejected)
}

/// The fields of an event that was accepted; its text, if it has a number that no program can hold.
fn fields(json: &str) -> Value {
    let json = json.trim_start_matches('\u{feff}');
    serde_json::from_str(json).unwrap_or_else(|_| json.into())
}

impl Becomes {
    fn count(&self, fates: &mut BTreeMap<String, u64>) {
        let mut add = |fate: String| *fates.entry(fate).or_default() += 1;
        match self {
            Self::Events(events) => events.iter().for_each(|(kind, _)| add(kind.name().to_owned())),
            Self::Ignored(call) => add(format!("ignored {call}")),
            Self::Rejected(reason) => add(format!("rejected {}", reason.code.as_str())),
        }
    }

    fn json(&self, line: u64) -> String {
        let object = match self {
            Self::Events(events) => {
                let events = events.iter().map(|(kind, fields)| json!({"kind": kind.name(), "fields": fields}));
                json!({"line": line, "events": events.collect::<Vec<_>>()})
            }
            Self::Ignored(call) => json!({"line": line, "ignored": call}),
            Self::Rejected(reason) => {
                json!({"line": line, "rejected": {"reason": reason.code.as_str(), "message": reason.detail}})
            }
        };
        format!("{object}\n")
    }

    fn text(&self, line: u64, is_coloured: bool) -> String {
        let paint = |colour: u8, word: &str| {
            if is_coloured { format!("\x1b[{colour}m{word:<8}\x1b[0m") } else { format!("{word:<8}") }
        };
        let mut text = String::new();
        let mut push = |colour: u8, word: &str, rest: String| {
            // Control characters of a record must not reach the terminal. Writing to a text does not fail.
            writeln!(text, "line {line:<5} {} {}", paint(colour, word), rest.escape_debug()).unwrap_or_default();
        };
        match self {
            Self::Events(events) => events.iter().for_each(|(kind, fields)| push(32, kind.name(), shown(fields))),
            Self::Ignored(call) => push(33, "ignored", (*call).to_owned()),
            Self::Rejected(reason) => push(31, "rejected", reason.to_string()),
        }
        text.replace("\\\"", "\"")
    }
}

/// The fields as `name=value`.
fn shown(fields: &Value) -> String {
    let field = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    match fields {
        Value::Object(fields) => fields.iter().map(field).collect::<Vec<_>>().join("  "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn summary(fates: &BTreeMap<String, u64>) -> String {
    let fates: Vec<String> = fates.iter().map(|(fate, count)| format!("{count} {fate}")).collect();
    if fates.is_empty() { "the file has no records".to_owned() } else { fates.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(preset: &str, record: &str) -> Becomes {
        let mapping = mapping::preset(preset).unwrap();
        becomes(Some(&mapping), Kind::Usage, record.as_bytes(), &limits(1_800_000_000_000_000))
    }

    #[test]
    fn each_line_says_what_it_becomes_or_why_not() {
        // record, words of the line
        let cases: [(&str, &[&str]); 4] = [
            (
                r#"{"type":"group","messageId":"g","groupId":"acme","traits":{"plan":"pro"},"timestamp":"2026-03-01T10:00:00Z"}"#,
                &["account", "account_id=acme", r#"facts={"plan":"pro"}"#],
            ),
            (r#"{"type":"page","messageId":"p"}"#, &["ignored", "by_mapping"]),
            (
                r#"{"type":"group","messageId":"g","traits":{"plan":"pro"},"timestamp":"2026-03-01T10:00:00Z"}"#,
                &["rejected", "no_account", "groupId"],
            ),
            (
                "{\"type\":\"group\",\"messageId\":\"g\",\"groupId\":\"\\u001b[2J\",\"traits\":{\"plan\":\"pro\"},\"timestamp\":0}",
                &["rejected", "too_old"],
            ),
        ];
        let mut fates = BTreeMap::new();
        for (record, words) in cases {
            let becomes = tried("segment", record);
            becomes.count(&mut fates);
            let text = becomes.text(7, false);
            assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not all in: {text}");
            assert!(text.starts_with("line 7 ") && !text.contains('\x1b'), "{text}");
            serde_json::from_str::<Value>(&becomes.json(7)).unwrap();
        }
        assert_eq!(summary(&fates), "1 account, 1 ignored by_mapping, 1 rejected no_account, 1 rejected too_old");
    }

    #[test]
    fn control_characters_of_a_record_do_not_reach_the_terminal() {
        let record = "{\"type\":\"group\",\"messageId\":\"g\",\"groupId\":\"\\u001b[2J\",\"traits\":{\"a\":1},\"timestamp\":\"2026-03-01T10:00:00Z\"}";
        let text = tried("segment", record).text(1, true);
        assert!(text.contains("\\u{1b}[2J"), "{text}");
    }
}
