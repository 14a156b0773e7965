//! NDJSON files of events, merged by event time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use pipeline::config::Config;
use pipeline::log::Message;
use pipeline::partitioner::partition_of;
use serde::Deserialize;

/// What must be known of an event to order and to place it; the rest is ingest's business.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Glance {
    occurred_at: Option<Time>,
    timestamp: Option<Time>,
    account_id: Option<String>,
    #[serde(rename = "groupId")]
    group_id: Option<String>,
    context: Option<TrackContext>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TrackContext {
    #[serde(rename = "groupId")]
    group_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Time {
    Milliseconds(i64),
    Text(String),
}

impl Time {
    fn ms(&self) -> Option<i64> {
        match self {
            Self::Milliseconds(ms) => Some(*ms),
            Self::Text(text) => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond),
        }
    }
}

/// One file, at its next line.
struct Input {
    topic: Arc<str>,
    partitions: i32,
    lines: BufReader<File>,
    /// Time of the next line, its account and its bytes; none at the end.
    next: Option<(i64, Option<String>, Vec<u8>)>,
    /// Bytes read.
    bytes: u64,
    serial: i32,
}

impl Input {
    fn open(topic: &str, path: &Path, partitions: i32) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let lines = BufReader::with_capacity(1 << 20, file);
        let mut input = Self { topic: topic.into(), partitions, lines, next: None, bytes: 0, serial: 0 };
        input.advance(i64::MIN).with_context(|| path.display().to_string())?;
        Ok(input)
    }

    /// Reads the next line. What cannot be read as an event is loaded all the same: ingest says why not.
    fn advance(&mut self, before_ms: i64) -> Result<()> {
        loop {
            let mut line = Vec::new();
            let num_bytes = self.lines.read_until(b'\n', &mut line)?;
            self.bytes += num_bytes as u64;
            while line.last().is_some_and(|byte| *byte == b'\n' || *byte == b'\r') {
                line.pop();
            }
            if num_bytes == 0 {
                self.next = None;
                return Ok(());
            }
            if line.is_empty() {
                continue;
            }
            let glance: Glance = serde_json::from_slice(&line).unwrap_or_default();
            let time = glance.occurred_at.or(glance.timestamp);
            let at_ms = time.and_then(|time| time.ms()).unwrap_or(before_ms);
            let account = glance.account_id.or(glance.context.and_then(|c| c.group_id)).or(glance.group_id);
            self.next = Some((at_ms, account, line));
            return Ok(());
        }
    }

    /// The next line as a record, in the partition of its account; without one, each in turn.
    fn take(&mut self) -> Result<Option<Message>> {
        let Some((at_ms, account, line)) = self.next.take() else { return Ok(None) };
        self.serial = (self.serial + 1) % self.partitions;
        let partition = account.map_or(self.serial, |account| partition_of(&account, self.partitions));
        self.advance(at_ms)?;
        Ok(Some(Message {
            topic: Arc::clone(&self.topic),
            partition,
            timestamp_ms: (at_ms > i64::MIN).then_some(at_ms),
            key: None,
            value: Some(line),
            headers: Vec::new(),
        }))
    }
}

/// Files of raw topics, read as one stream in the order of event time.
pub struct Files {
    inputs: Vec<Input>,
    total_bytes: u64,
}

impl Files {
    /// Opens what `TOPIC=FILE` arguments name. `partitions` gives the partition count of a topic.
    ///
    /// # Errors
    /// When a file cannot be read or a topic is no source; it names which.
    pub fn open(files: &[String], config: &Config, mut partitions: impl FnMut(&str) -> Result<i32>) -> Result<Self> {
        let mut opened = Self { inputs: Vec::new(), total_bytes: 0 };
        for file in files {
            let (topic, path) = file.split_once('=').with_context(|| format!("{file}: expected TOPIC=FILE"))?;
            let path = Path::new(path);
            if !config.sources.iter().any(|source| source.topic == topic) {
                let known: Vec<&str> = config.sources.iter().map(|source| source.topic.as_str()).collect();
                bail!("{topic} is not among the configured sources: {}", known.join(", "));
            }
            opened.total_bytes += std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
            opened.inputs.push(Input::open(topic, path, partitions(topic)?)?);
        }
        Ok(opened)
    }

    /// The next record: the earliest of the files' next lines. None at the end of all.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn take(&mut self) -> Result<Option<Message>> {
        let time_of = |input: &Input| input.next.as_ref().map(|(at_ms, _, _)| *at_ms);
        let first = self.inputs.iter_mut().filter(|input| input.next.is_some()).min_by_key(|input| time_of(input));
        first.map_or(Ok(None), Input::take)
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.bytes).sum()
    }

    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}
