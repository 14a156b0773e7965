//! `keepwell-ingest rejects`: what was set aside, why, and the way back once the fault is mended.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use pipeline::config::Config;
use pipeline::log::kafka::tail::Tail;
use pipeline::log::kafka::writer::Writer;
use pipeline::log::{Message, Record};
use pipeline::offset::TopicPartition;
use pipeline::process::say;
use pipeline::reject::{CONTEXT_HEADERS, REASON_HEADER};

/// How long a partition may take to be read.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to do with rejects.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Counts by reason; with --reason or --each one line a record.
    List(Which),
    /// Writes rejects back to the topics they came from, with their key, value and headers. Events that were
    /// accepted in the meantime are dropped again as duplicates.
    Replay(Which),
}

/// Which rejects are meant.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Only those with this reason code, e.g. not_json.
    #[arg(long)]
    pub reason: Option<String>,
    /// Only those of this raw topic.
    #[arg(long)]
    pub topic: Option<String>,
    /// One line a record: reason, where from, message, value.
    #[arg(long)]
    pub each: bool,
}

/// Where a reject came from and why it was set aside.
struct Origin {
    reason: String,
    topic: String,
    partition: i32,
    offset: String,
    message: String,
}

impl Origin {
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

/// The record that a record of the reject topic was, for the topic and partition it came from.
///
/// # Errors
/// When it is no reject of Keepwell.
pub fn original(reject: Record) -> Result<Message> {
    let origin = Origin::of(&reject)?;
    Ok(restored(reject, &origin))
}

fn restored(record: Record, origin: &Origin) -> Message {
    let is_ours = |name: &str| name == REASON_HEADER || CONTEXT_HEADERS.contains(&name);
    Message {
        topic: Arc::from(origin.topic.as_str()),
        partition: origin.partition,
        timestamp_ms: None,
        key: record.key,
        value: record.value.map(Vec::from),
        headers: record.headers.into_iter().filter(|(name, _)| !is_ours(name)).collect(),
    }
}

/// Does it, and says what came of it on standard output.
///
/// # Errors
/// When the reject topic cannot be read, or a record cannot be written back; the message says which.
pub fn run(config: &Config, action: &Action) -> Result<()> {
    let (Action::List(which) | Action::Replay(which)) = action;
    let mut writer = match action {
        Action::Replay(_) => Some(Writer::open(&config.kafka)?),
        Action::List(_) => None,
    };
    let tail = Tail::open(&config.kafka)?;
    let go_on = Arc::new(AtomicBool::new(false));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for partition in 0..config.partitions {
        let tp = TopicPartition::new(config.topics.rejects.as_str(), partition);
        // Collected before anything is written back, so that what is rejected again is not met again.
        let mut records = Vec::new();
        tail.read(&tp, PATIENCE, &go_on, |record| {
            records.push(record);
            ControlFlow::Continue(())
        })?;
        for record in records {
            let offset = record.offset.0;
            let origin =
                Origin::of(&record).with_context(|| format!("{tp} offset {offset}: not a reject of Keepwell"))?;
            if !which.fits(&origin) {
                continue;
            }
            *counts.entry(origin.reason.clone()).or_default() += 1;
            if which.each {
                let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
                let Origin { reason, topic, partition, offset, message } = &origin;
                say(&format!("{reason}\t{topic}-{partition} {offset}\t{message}\t{}\n", value.escape_debug()));
            }
            if let Some(writer) = &mut writer {
                writer.write(&restored(record, &origin))?;
            }
        }
    }
    if let Some(writer) = &mut writer {
        writer.flush()?;
    }
    for (reason, count) in counts {
        say(&format!("{reason} {count}\n"));
    }
    Ok(())
}
