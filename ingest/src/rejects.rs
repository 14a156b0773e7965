//! `keepwell-ingest rejects`: shows rejected records and their reasons, and writes them back once the cause is fixed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::kafka::tail::Tail;
use keepwell_pipeline::log::kafka::writer::Writer;
use keepwell_pipeline::process::print;
use keepwell_pipeline::record::{Message, Record};
use keepwell_pipeline::redact;
use keepwell_pipeline::reject::{CONTEXT_HEADERS, CUT_HEADER, REASON_HEADER, STAGE_HEADER};

use crate::reason::Code;

/// The longest time that reading one partition may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The commands for rejects.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Show how many rejects there are by reason. With --each, also print one line per record.
    List(Which),
    /// Write rejects back to the raw topics they came from, with their key, value and headers. Events that were
    /// accepted in the meantime are dropped as duplicates. Rejects that do not contain the whole record are not written
    /// back, only counted.
    Replay(Which),
}

/// Which rejects to select.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Select only rejects with this reason code, e.g. not_json.
    #[arg(long)]
    pub reason: Option<String>,
    /// Select only rejects from this raw topic.
    #[arg(long)]
    pub topic: Option<String>,
    /// Print one line per record: reason, origin, message, value.
    #[arg(long)]
    pub each: bool,
}

/// The origin of a reject, and why it was rejected.
struct Origin {
    reason: String,
    topic: String,
    partition: i32,
    offset: String,
    message: String,
}

impl Origin {
    /// The origin from the record's headers. Do not trust it: anyone with the right to write to the reject topic can
    /// forge it.
    fn of(record: &Record) -> Result<Self> {
        let header = |name: &str| {
            let value = record.header(name).with_context(|| format!("header {name} is missing"))?;
            anyhow::Ok(String::from_utf8_lossy(value).into_owned())
        };
        Ok(Self {
            reason: header(REASON_HEADER)?,
            topic: header("__connect.errors.topic")?,
            partition: header("__connect.errors.partition")?.parse()?,
            offset: header("__connect.errors.offset")?,
            message: header("__connect.errors.exception.message")?,
        })
    }
}

impl Which {
    fn fits(&self, origin: &Origin) -> bool {
        self.reason.as_ref().is_none_or(|reason| *reason == origin.reason)
            && self.topic.as_ref().is_none_or(|topic| *topic == origin.topic)
    }
}

/// Rebuilds the raw record from a record of the reject topic, for the topic and partition it came from.
///
/// # Errors
/// When the record is not a reject of Keepwell.
pub fn original(reject: Record) -> Result<Message> {
    let origin = Origin::of(&reject)?;
    Ok(restored(reject, &origin))
}

fn restored(record: Record, origin: &Origin) -> Message {
    let is_ours = |name: &str| name == REASON_HEADER || name == CUT_HEADER || CONTEXT_HEADERS.contains(&name);
    Message {
        topic: Arc::from(origin.topic.as_str()),
        partition: origin.partition,
        timestamp_ms: None,
        key: record.key,
        value: record.value.map(Vec::from),
        headers: record.headers.into_iter().filter(|(name, _)| !is_ours(name)).collect(),
    }
}

/// What happens to a record of the reject topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The record was selected. It has this reason.
    Meant(String),
    /// The record was selected, but is not written back: it does not contain the whole value. Its raw topic may still
    /// have it.
    NotWhole,
    /// The record was selected, but is not written back: its topic is not a source of this configuration, or does not
    /// have its partition.
    NoSource(String),
    /// Keepwell did not write the record.
    Foreign,
}

impl Fate {
    fn words(&self, is_replay: bool) -> String {
        match self {
            Self::Meant(reason) => reason.clone(),
            Self::NotWhole if is_replay => "not written back: cut, read them at their origin".to_owned(),
            Self::NotWhole => "cut".to_owned(),
            Self::NoSource(topic) => format!("not written back: {topic} is no source, or has no such partition"),
            Self::Foreign => "passed over: no reject of Keepwell".to_owned(),
        }
    }
}

/// Checks that a record may be written back: it is whole, and its origin is a partition of a configured source.
fn may_return(record: &Record, origin: &Origin, sources: &BTreeMap<String, i32>) -> Result<(), Fate> {
    match sources.get(&origin.topic) {
        Some(count) if (0..*count).contains(&origin.partition) => {}
        _ => return Err(Fate::NoSource(origin.topic.clone())),
    }
    // A raw record without a value is rejected by ingest. Other stages have the value of an event, or have not kept it.
    let has_value = record.value.is_some() || record.header(STAGE_HEADER) == Some(b"ingest");
    let is_cut = record.header(CUT_HEADER).is_some() || origin.reason == Code::Unreadable.as_str();
    let is_whole = has_value && !is_cut;
    if is_whole { Ok(()) } else { Err(Fate::NotWhole) }
}

fn print_each(record: &Record, origin: &Origin) {
    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
    let Origin { reason, topic, partition, offset, message } = origin;
    let [reason, topic, offset, message] = [reason, topic, offset, message].map(|text| redact::line(text));
    print(&format!("{reason}\t{topic}-{partition} {offset}\t{message}\t{}\n", value.escape_debug()));
}

/// Lists or replays the selected rejects, and prints the counts on standard output.
///
/// # Errors
/// When the reject topic cannot be read, or a record cannot be written back. The message names what failed.
pub fn run(config: &Config, action: &Action) -> Result<()> {
    let (Action::List(which) | Action::Replay(which)) = action;
    let mut writer = match action {
        Action::Replay(_) => Some(Writer::open(&config.kafka)?),
        Action::List(_) => None,
    };
    let mut sources = BTreeMap::new();
    if let Some(writer) = &writer {
        for source in &config.sources {
            sources.insert(source.topic.clone(), writer.partitions(&source.topic)?);
        }
    }
    let tail = Tail::open(&config.kafka)?;
    let go_on = Arc::new(AtomicBool::new(false));
    let mut counts: BTreeMap<Fate, u64> = BTreeMap::new();
    for partition in 0..config.partitions {
        let tp = TopicPartition::new(config.topics.rejects.as_str(), partition);
        let mut failed = None;
        // Reading stops at the present end of the partition. So a record that is rejected again is not read again.
        tail.read(&tp, PATIENCE, &go_on, |record| {
            match take(record, which, writer.as_mut(), &sources) {
                Ok(fate) => fate.into_iter().for_each(|fate| *counts.entry(fate).or_default() += 1),
                Err(error) => failed = Some(error),
            }
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(()), Err)?;
    }
    if let Some(writer) = &mut writer {
        writer.flush()?;
    }
    for (fate, count) in counts {
        print(&format!("{} {count}\n", redact::line(&fate.words(writer.is_some()))));
    }
    Ok(())
}

/// Prints or writes back one record, if it is selected.
fn take(
    record: Record,
    which: &Which,
    writer: Option<&mut Writer>,
    sources: &BTreeMap<String, i32>,
) -> Result<Option<Fate>> {
    let Ok(origin) = Origin::of(&record) else { return Ok(Some(Fate::Foreign)) };
    if !which.fits(&origin) {
        return Ok(None);
    }
    if which.each {
        print_each(&record, &origin);
    }
    if let Some(writer) = writer {
        if let Err(fate) = may_return(&record, &origin, sources) {
            return Ok(Some(fate));
        }
        writer.write(&restored(record, &origin))?;
    }
    Ok(Some(Fate::Meant(origin.reason)))
}

#[cfg(test)]
mod tests {
    use keepwell_core::offset::Offset;

    use super::*;

    fn reject(topic: &str, partition: &str, more: Option<&str>) -> Record {
        let mut record = Record::at(TopicPartition::new("rejects", 0), Offset(0));
        let values = [topic, partition, "7", "keepwell", "ingest", "why"];
        record.headers = CONTEXT_HEADERS.iter().zip(values).map(|(n, v)| ((*n).to_owned(), Some(v.into()))).collect();
        record.headers.push((REASON_HEADER.to_owned(), Some("not_json".into())));
        record.headers.extend(more.map(|name| (name.to_owned(), Some(b"{}".to_vec()))));
        record
    }

    fn of_aggregate(value: Option<&str>) -> Record {
        let mut record = reject("usage", "1", None);
        record.value = value.map(|value| bytes::Bytes::copy_from_slice(value.as_bytes()));
        record
            .headers
            .iter_mut()
            .filter(|(name, _)| name == STAGE_HEADER)
            .for_each(|(_, stage)| *stage = Some("aggregate".into()));
        record
    }

    /// Once a forged reject was replayed into `keepwell.windows`, and score stopped at it.
    #[test]
    fn only_whole_records_return_and_only_to_partitions_of_the_configured_sources() {
        let sources = BTreeMap::from([("usage".to_owned(), 2)]);
        let no_source = |topic: &str| Err(Fate::NoSource(topic.to_owned()));
        let cases = [
            (reject("usage", "1", None), Ok(())),
            (reject("usage", "2", None), no_source("usage")),
            (reject("usage", "-1", None), no_source("usage")),
            (reject("keepwell.windows", "0", None), no_source("keepwell.windows")),
            (reject("usage", "0", Some(CUT_HEADER)), Err(Fate::NotWhole)),
            // Aggregate keeps the value of an old event only: without it the reject names the origin, no more.
            (of_aggregate(None), Err(Fate::NotWhole)),
            (of_aggregate(Some("{}")), Ok(())),
        ];
        for (record, expected) in cases {
            let origin = Origin::of(&record).unwrap();
            assert_eq!(may_return(&record, &origin, &sources), expected, "{}-{}", origin.topic, origin.partition);
        }
    }

    #[test]
    fn a_foreign_record_in_the_reject_topic_is_counted_and_passed_over() {
        let which = Which { reason: None, topic: None, each: false };
        for foreign in [Record::at(TopicPartition::new("rejects", 0), Offset(0)), reject("usage", "x", None)] {
            assert_eq!(take(foreign, &which, None, &BTreeMap::new()).unwrap(), Some(Fate::Foreign));
        }
        let meant = take(reject("usage", "1", None), &which, None, &BTreeMap::new()).unwrap();
        assert_eq!(meant, Some(Fate::Meant("not_json".to_owned())));
        let other = Which { reason: Some("future".to_owned()), topic: None, each: false };
        assert_eq!(take(reject("usage", "1", None), &other, None, &BTreeMap::new()).unwrap(), None);
    }
}
