//! `keepwell load`: NDJSON files into raw topics, merged by event time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use pipeline::config::Config;
use pipeline::log::Message;
use pipeline::log::kafka::writer::Writer;
use pipeline::partitioner::partition_of;
use serde::Deserialize;

/// What is to be loaded.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: keepwell load product-usage=usage.ndjson support-tickets=tickets.ndjson")]
pub struct LoadArgs {
    /// TOPIC=FILE, one JSON event a line, in the order of event time. A line without a time goes with the one before it.
    #[arg(required = true, value_name = "TOPIC=FILE")]
    pub files: Vec<String>,
    /// The configuration file.
    #[arg(long, short, env = "KEEPWELL_CONFIG", default_value = "keepwell.yaml")]
    pub config: PathBuf,
    /// Replaces a value of the configuration: path.to.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// What load must know of an event; the rest is none of its business.
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

/// Loads the files and says how many records that were.
///
/// # Errors
/// When a file cannot be read, a topic is no source, or a record cannot be delivered; it names which.
pub fn run(args: &LoadArgs) -> Result<u64> {
    let config = Config::read(&args.config, &args.set)?;
    let mut writer = Writer::open(&config.kafka)?;
    let mut inputs = Vec::new();
    let mut total = 0;
    for file in &args.files {
        let (topic, path) = file.split_once('=').with_context(|| format!("{file}: expected TOPIC=FILE"))?;
        let path = Path::new(path);
        if !config.sources.iter().any(|source| source.topic == topic) {
            let known: Vec<&str> = config.sources.iter().map(|source| source.topic.as_str()).collect();
            bail!("{topic} is not among the configured sources: {}", known.join(", "));
        }
        total += std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
        inputs.push(Input::open(topic, path, writer.partitions(topic)?)?);
    }
    let style = "{bytes}/{total_bytes} [{bar:40}] {msg} records, {elapsed}, {eta} to go";
    let progress = ProgressBar::new(total).with_style(ProgressStyle::with_template(style)?);
    let mut count = 0_u64;
    let time_of = |input: &Input| input.next.as_ref().map(|(at_ms, _, _)| *at_ms);
    while let Some(first) = inputs.iter_mut().filter(|i| i.next.is_some()).min_by_key(|input| time_of(input)) {
        if let Some(message) = first.take()? {
            writer.write(&message)?;
            count += 1;
        }
        if count.is_multiple_of(10_000) {
            progress.set_position(inputs.iter().map(|input| input.bytes).sum());
            progress.set_message(count.to_string());
        }
    }
    writer.flush()?;
    progress.finish_and_clear();
    Ok(count)
}
