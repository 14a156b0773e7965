//! `keepwell infer`: which preset fits the records of a file, or else a mapping to begin with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Result, bail};
use keepwell_core::event::Kind;
use keepwell_ingest::mapping::presets::ALL;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::process;
use serde_json::Value;

use crate::lines::Lines;
use crate::try_input::{Becomes, becomes, limits};

/// What to look at.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: keepwell infer export.ndjson > export.yaml && keepwell try-input export.ndjson --mapping export.yaml"
)]
pub struct InferArgs {
    /// One JSON record per line, or CSV with a header line if the name ends in .csv.
    pub file: PathBuf,
    /// Number of records to look at.
    #[arg(long, default_value_t = 1000)]
    pub lines: usize,
}

/// A preset is proposed if at least this share of the records becomes events, in percent.
const FITS_PERCENT: u64 = 20;
/// Number of distinct values that are counted for a path.
const MAX_VALUES: usize = 10_000;

/// Looks at the beginning of a file and prints a proposal.
///
/// # Errors
/// When the file cannot be read or has no records.
pub fn run(args: &InferArgs) -> Result<()> {
    let mut lines = Lines::open(&args.file)?;
    let mut records = Vec::new();
    while let Some(record) = lines.take()?.filter(|_| records.len() < args.lines) {
        records.push(record);
    }
    if records.is_empty() {
        bail!("{} has no records", lines.name());
    }
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    process::print(&proposal(&records, SystemClock::start().wall_us())?);
    Ok(())
}

/// The proposal for these records, as a mapping file or as a comment that names a preset.
fn proposal(records: &[&[u8]], now_us: i64) -> Result<String> {
    let limits = limits(now_us);
    let mut fits = Vec::new();
    for preset in ALL {
        let mapping = preset.mapping()?;
        let (mut events, mut rejected) = (0, 0);
        for record in records {
            match becomes(Some(&mapping), Kind::Usage, record, &limits) {
                Becomes::Events(_) => events += 1,
                Becomes::Rejected(_) => rejected += 1,
                Becomes::Ignored(_) => {}
            }
        }
        fits.push((events, rejected, preset.name));
    }
    fits.sort_by_key(|(events, rejected, _)| (std::cmp::Reverse(*events), *rejected));
    let all = records.len() as u64;
    let by_preset = fits.first().map_or(0, |(events, _, _)| *events);
    for kind in Kind::ALL {
        let own =
            records.iter().filter(|record| matches!(becomes(None, *kind, record, &limits), Becomes::Events(_))).count()
                as u64;
        if own * 100 >= FITS_PERCENT * all && own > by_preset {
            return Ok(format!(
                "# kind: {0}\n# {own} of {1} records are in Keepwell's own form; no preset is needed.\n# Look at each: keepwell try-input FILE --kind {0}\n",
                kind.name(),
                all
            ));
        }
    }
    match fits.first() {
        Some((events, rejected, name)) if events * 100 >= FITS_PERCENT * all => Ok(format!(
            "# preset: {name}\n# Of {all} records {events} become events, {} are ignored and {rejected} are rejected.\n# Look at each: keepwell try-input FILE --preset {name}\n",
            all - events - rejected
        )),
        _ => Ok(skeleton(records)),
    }
}

/// What was found at a path.
#[derive(Debug, Default)]
struct Seen {
    num_records: usize,
    num_times: usize,
    num_numbers: usize,
    values: BTreeSet<String>,
    format: Option<&'static str>,
}

/// The roles that a path may have, with words that its last name may contain: the best first.
const ROLES: [(&str, &[&str]); 4] = [
    (
        "account_id",
        &[
            "account",
            "company",
            "organization",
            "organisation",
            "tenant",
            "workspace",
            "org",
            "group",
            "customer",
            "team",
        ],
    ),
    ("user_id", &["user", "distinct_id", "actor", "person", "email", "member", "author"]),
    ("feature", &["feature", "event", "action", "event_name", "name", "verb", "type"]),
    ("event_id", &["event_id", "message_id", "messageid", "insert_id", "uuid", "id"]),
];

/// A mapping to begin with: its fields are guessed from names and values of the paths.
fn skeleton(records: &[&[u8]]) -> String {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut num_objects = 0;
    for record in records {
        if let Ok(Value::Object(fields)) = serde_json::from_slice(record) {
            num_objects += 1;
            fields.iter().for_each(|(name, value)| look(&quoted(name), value, &mut seen));
        }
    }
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut text = format!(
        "# No preset fits these {} records, of which {num_objects} are objects. This is a guess by names and values: check each field,\n# then try it: keepwell try-input FILE --mapping THIS\nevents:\n  - kind: usage\n    fields:\n",
        records.len()
    );
    let mut write = |field: &str, guess: Option<(&String, &Seen)>, others: Vec<&String>| {
        let line = match guess {
            Some((path, seen)) => {
                // Only names of letters mean the same in YAML whatever they are.
                let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_'));
                let is_plain = is_plain && path.starts_with(|c: char| c.is_ascii_alphabetic());
                let path = if is_plain { path.clone() } else { format!("'{}'", path.replace('\'', "''")) };
                let value = seen.format.map_or(path.clone(), |format| format!("{{path: {path}, format: {format}}}"));
                let others = if others.is_empty() {
                    String::new()
                } else {
                    format!("; or {}", others.into_iter().take(3).cloned().collect::<Vec<_>>().join(", "))
                };
                format!(
                    "      {field}: {value}   # in {} of {num_objects} records, {} values{others}\n",
                    seen.num_records,
                    seen.values.len()
                )
            }
            None => format!("      {field}: UNKNOWN   # nothing in the records looks like it\n"),
        };
        // Writing to a text does not fail.
        text.write_str(&line).unwrap_or_default();
    };
    let times: Vec<(&String, &Seen)> =
        seen.iter().filter(|(_, seen)| seen.num_times > 0 && seen.num_times == seen.num_records).collect();
    let best = times.iter().max_by_key(|(path, seen)| (seen.num_records, std::cmp::Reverse(path.len()))).copied();
    let others =
        times.iter().map(|(path, _)| *path).filter(|path| best.is_none_or(|(best, _)| best != *path)).collect();
    write("occurred_at", best, others);
    taken.extend(best.map(|(path, _)| path.clone()));
    for (field, words) in ROLES {
        let candidates = candidates(&seen, words, &taken, field == "event_id");
        let best = candidates.first().copied();
        if best.is_some() || field != "user_id" {
            write(field, best, candidates.iter().skip(1).map(|(path, _)| *path).collect());
        }
        taken.extend(best.map(|(path, _)| path.clone()));
    }
    text
}

/// The paths that may have a role, the best first: those whose last name is the word, then those that contain it.
fn candidates<'s>(
    seen: &'s BTreeMap<String, Seen>,
    words: &[&str],
    taken: &BTreeSet<String>,
    is_unique: bool,
) -> Vec<(&'s String, &'s Seen)> {
    let rank = |path: &str| {
        let path = path.to_lowercase();
        let last = path.rsplit('.').next().unwrap_or(&path).trim_matches('"').trim_start_matches('$').to_owned();
        let stem = last.trim_end_matches("_id").trim_end_matches("id");
        let exact = words.iter().position(|word| last == *word || stem == *word);
        // `customer.id` is the id of a customer.
        let parent = || words.iter().position(|word| last == "id" && path.contains(&format!("{word}.")));
        let within = || words.iter().position(|word| last.contains(word)).map(|at| at + words.len());
        exact.or_else(parent).or_else(within)
    };
    let mut found: Vec<(usize, (&String, &Seen))> = seen
        .iter()
        .filter(|(path, seen)| {
            let is_id = !is_unique || seen.values.len() == seen.num_records.min(MAX_VALUES);
            !taken.contains(*path) && seen.num_times < seen.num_records.max(1) && is_id
        })
        .filter_map(|(path, seen)| Some((rank(path)?, (path, seen))))
        .collect();
    found.sort_by_key(|(rank, (path, seen))| (*rank, std::cmp::Reverse(seen.num_records), path.len()));
    found.into_iter().map(|(_, found)| found).collect()
}

/// Adds what is at a path, and below it.
fn look(path: &str, value: &Value, seen: &mut BTreeMap<String, Seen>) {
    if path.contains(char::is_control) || path.contains("\"\"") {
        return;
    }
    if let Value::Object(fields) = value {
        fields.iter().for_each(|(name, value)| look(&format!("{path}.{}", quoted(name)), value, seen));
        return;
    }
    let text = match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    let at = seen.entry(path.to_owned()).or_default();
    at.num_records += 1;
    at.num_numbers += usize::from(value.is_number());
    if let Some(format) = time_format(value) {
        at.num_times += 1;
        at.format = Some(format).filter(|format| !format.is_empty());
    }
    if at.values.len() < MAX_VALUES {
        at.values.insert(text);
    }
}

/// How a value is a time, as a mapping names it; empty for a form that needs no name. None if it is no time.
fn time_format(value: &Value) -> Option<&'static str> {
    match value {
        Value::Number(number) => match number.as_i64()? {
            946_684_800..=4_102_444_800 => Some("seconds"),
            946_684_800_000..=4_102_444_800_000 => Some(""),
            946_684_800_000_000..=4_102_444_800_000_000 => Some("microseconds"),
            _ => None,
        },
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => Some(""),
        Value::String(text) if text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok() => Some("date"),
        Value::String(text)
            if text.len() > 10 && text.replacen(' ', "T", 1).parse::<jiff::civil::DateTime>().is_ok() =>
        {
            Some("date_time")
        }
        _ => None,
    }
}

/// A name in a path; in quotes if it contains a point.
fn quoted(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use keepwell_ingest::mapping::parse;

    use super::*;

    const NOW_US: i64 = 1_800_000_000_000_000;

    fn proposed(records: &[&str]) -> String {
        let records: Vec<&[u8]> = records.iter().map(|record| record.as_bytes()).collect();
        proposal(&records, NOW_US).unwrap()
    }

    #[test]
    fn records_of_a_known_system_are_named() {
        let text = proposed(&[
            r#"{"type":"track","messageId":"m","event":"x","context":{"groupId":"a"},"timestamp":"2026-03-01T10:00:00Z"}"#,
            r#"{"type":"page","messageId":"p"}"#,
        ]);
        assert!(text.contains("preset: segment") && text.contains("1 become events, 1 are ignored"), "{text}");
        let text = proposed(&[
            r#"{"detail":{"id":"1","organization_id":"2"},"id":"e","time":"2026-03-01T10:00:00Z","type":"zen:event-type:ticket.created"}"#,
        ]);
        assert!(text.contains("preset: zendesk"), "{text}");
    }

    #[test]
    fn records_of_an_unknown_system_get_a_mapping_that_reads_them() {
        let records = [
            r#"{"id":"e-1","at":1772359200,"who":{"user_id":"u1","email":"a@b.c"},"customer":{"id":"acme","plan":"pro"},"action":"export","n":3}"#,
            r#"{"id":"e-2","at":1772359260,"who":{"user_id":"u2","email":"b@b.c"},"customer":{"id":"acme","plan":"pro"},"action":"import","n":4}"#,
        ];
        let text = proposed(&records);
        for line in [
            "event_id: id   # in 2 of 2 records, 2 values",
            "account_id: customer.id   # in 2 of 2 records, 1 values",
            "occurred_at: {path: at, format: seconds}",
            "feature: action",
            "user_id: who.user_id",
            "; or who.email",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
        let mapping = parse("proposed.yaml", &text).unwrap();
        for record in records {
            let becomes = becomes(Some(&mapping), Kind::Usage, record.as_bytes(), &limits(NOW_US));
            assert!(matches!(becomes, Becomes::Events(_)), "{becomes:?}");
        }
    }

    #[test]
    fn names_that_mean_something_in_yaml_are_quoted_and_own_records_need_no_mapping() {
        let record = r#"{"@user":"u","t, x":1772359200,"- id":"i","customer's":{"account":"a"},"*event":"e"}"#;
        let text = proposed(&[record]);
        assert!(parse("proposed.yaml", &text).is_ok(), "{text}");
        let own = r#"{"event_id":"e","account_id":"a","feature":"f","occurred_at":1772359200000}"#;
        assert!(proposed(&[own]).contains("kind: usage"), "{}", proposed(&[own]));
    }

    #[test]
    fn what_is_not_found_is_said_to_be_unknown() {
        let text = proposed(&[r#"{"x": 1}"#, "no json", "[1]"]);
        assert!(text.contains("3 records, of which 1 are objects"), "{text}");
        for field in ["event_id", "account_id", "occurred_at", "feature"] {
            assert!(text.contains(&format!("{field}: UNKNOWN")), "{field} in:\n{text}");
        }
    }
}
