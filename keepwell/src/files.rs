//! Merges NDJSON and CSV files of events by event time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use keepwell_core::partitioner::partition_of;
use keepwell_ingest::mapping::{self, Mapping};
use keepwell_pipeline::config::{Config, Source};
use keepwell_pipeline::record::Message;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::lines::Lines;

/// The fields of an event that are needed to order it and to find its partition. Ingest checks the rest.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Glance {
    occurred_at: Loose,
    timestamp: Loose,
    account_id: Loose,
    #[serde(rename = "groupId")]
    group_id: Loose,
    context: TrackContext,
}

/// A time or an id. Any other JSON value is accepted and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum Loose {
    Text(String),
    Signed(i64),
    Unsigned(u64),
    Fraction(f64),
    Other(IgnoredAny),
    #[default]
    Absent,
}

#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum TrackContext {
    Of {
        #[serde(rename = "groupId", default)]
        group_id: Loose,
    },
    Other(IgnoredAny),
    #[default]
    Absent,
}

impl Loose {
    fn ms(&self) -> Option<i64> {
        match self {
            Self::Signed(ms) => Some(*ms),
            Self::Text(text) => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond),
            Self::Fraction(ms) => Some(ms.round() as i64),
            Self::Unsigned(_) | Self::Other(_) | Self::Absent => None,
        }
    }

    fn id(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text).filter(|text| !text.is_empty()),
            Self::Signed(id) => Some(id.to_string()),
            Self::Unsigned(id) => Some(id.to_string()),
            Self::Fraction(_) | Self::Other(_) | Self::Absent => None,
        }
    }
}

impl Glance {
    fn of(line: &[u8]) -> Self {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line).trim_ascii_start();
        // Serde would read a list as the fields in their order, so accept objects only.
        if line.starts_with(b"{") { serde_json::from_slice(line).unwrap_or_default() } else { Self::default() }
    }

    fn ms(&self) -> Option<i64> {
        self.occurred_at.ms().or(self.timestamp.ms())
    }

    fn account(self) -> Option<String> {
        let of_context = match self.context {
            TrackContext::Of { group_id } => group_id.id(),
            TrackContext::Other(_) | TrackContext::Absent => None,
        };
        self.account_id.id().or(of_context).or(self.group_id.id())
    }
}

/// Lines of a file that are earlier than a line before them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Disorder {
    num_lines: u64,
    first_line: u64,
    most_ms: i64,
}

/// One open file and its next line.
struct Input {
    topic: Arc<str>,
    partitions: i32,
    /// Where the records are of another system: what they mean.
    mapping: Option<Mapping>,
    lines: Lines,
    /// Event time, account and bytes of the next line; `None` at the end.
    next: Option<(i64, Option<String>, Vec<u8>)>,
    serial: i32,
    num_records: u64,
    latest_ms: Option<i64>,
    disorder: Disorder,
}

impl Input {
    fn open(source: &Source, path: &Path, partitions: i32) -> Result<Self> {
        let mut input = Self {
            topic: source.topic.as_str().into(),
            partitions,
            mapping: mapping::of_source(source)?,
            lines: Lines::open(path)?,
            next: None,
            serial: 0,
            num_records: 0,
            latest_ms: None,
            disorder: Disorder::default(),
        };
        input.advance(i64::MIN)?;
        Ok(input)
    }

    /// Reads the next line. A line that is not a valid event is also loaded: ingest rejects it with the reason.
    fn advance(&mut self, before_ms: i64) -> Result<()> {
        self.next = None;
        if let Some(line) = self.lines.take()? {
            self.num_records += 1;
            let glance = self.glance(&line);
            let at_ms = glance.ms();
            self.look_at_order(at_ms);
            self.next = Some((at_ms.unwrap_or(before_ms), glance.account(), line));
        }
        Ok(())
    }

    /// Time and account of a line. Those of a mapped one are of its first event.
    fn glance(&self, line: &[u8]) -> Glance {
        let Some(mapping) = &self.mapping else { return Glance::of(line) };
        let events = mapping.events(line, &Vec::new()).unwrap_or_default();
        events.first().map(|flat| Glance::of(flat.form().json().as_bytes())).unwrap_or_default()
    }

    fn look_at_order(&mut self, at_ms: Option<i64>) {
        let Some(at_ms) = at_ms else { return };
        let latest_ms = *self.latest_ms.get_or_insert(at_ms);
        if at_ms < latest_ms {
            let Disorder { num_lines, first_line, most_ms } = &mut self.disorder;
            if *num_lines == 0 {
                *first_line = self.lines.line();
            }
            *num_lines += 1;
            *most_ms = (*most_ms).max(latest_ms.saturating_sub(at_ms));
        }
        self.latest_ms = Some(latest_ms.max(at_ms));
    }

    /// Describes what is wrong with the order of the lines read so far.
    fn describe(&self) -> Option<String> {
        let Disorder { num_lines, first_line, most_ms } = self.disorder;
        let most = Duration::from_millis(most_ms.unsigned_abs());
        (num_lines > 0).then(|| {
            format!(
                "{}: {num_lines} of {} lines are earlier than a line before them, by up to {}; the first is line {first_line}. What is \
                 further behind than `bound` of its source may be late: sort the file by event time",
                self.lines.name(),
                self.num_records,
                humantime::format_duration(Duration::from_secs(most.as_secs().max(1))),
            )
        })
    }

    /// The next line as a record in the partition of its account. Lines without an account go to each partition in
    /// turn.
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
    /// Opens the files that `TOPIC=FILE` arguments name. `partitions` returns the partition count of a topic.
    ///
    /// # Errors
    /// When a file cannot be read or a topic is not a configured source. The error names it.
    pub fn open(files: &[String], config: &Config, mut partitions: impl FnMut(&str) -> Result<i32>) -> Result<Self> {
        let mut opened = Self { inputs: Vec::new(), total_bytes: 0 };
        for file in files {
            let (topic, path) = file.split_once('=').with_context(|| format!("{file}: expected TOPIC=FILE"))?;
            let path = Path::new(path);
            let Some(source) = config.sources.iter().find(|source| source.topic == topic) else {
                let known: Vec<&str> = config.sources.iter().map(|source| source.topic.as_str()).collect();
                bail!("{topic} is not among the configured sources: {}", known.join(", "));
            };
            opened.total_bytes += std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
            opened.inputs.push(Input::open(source, path, partitions(topic)?)?);
        }
        Ok(opened)
    }

    /// The next record: the earliest of the files' next lines; `None` at the end of all files.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn take(&mut self) -> Result<Option<Message>> {
        let time_of = |input: &Input| input.next.as_ref().map(|(at_ms, _, _)| *at_ms);
        let first = self.inputs.iter_mut().filter(|input| input.next.is_some()).min_by_key(|input| time_of(input));
        first.map_or(Ok(None), Input::take)
    }

    /// One line for each file that is not in the order of event time, for the lines read so far.
    pub fn disorder(&self) -> Vec<String> {
        self.inputs.iter().filter_map(Input::describe).collect()
    }

    /// Number of bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.lines.num_bytes()).sum()
    }

    /// Size of all files in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(lines: &str) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("usage.ndjson");
        std::fs::write(&path, lines).unwrap();
        let config = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: usage, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";
        let config = Config::parse("test", config, &[]).unwrap();
        let mut files = Files::open(&[format!("usage={}", path.display())], &config, |_| Ok(1)).unwrap();
        let mut count = 0;
        while files.take().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, lines.lines().count());
        files
    }

    #[test]
    fn lines_that_are_earlier_than_one_before_are_counted_with_the_first_and_the_furthest() {
        let line = |day: &str| format!("{{\"account_id\": 7, \"occurred_at\": \"2026-03-{day}T00:00:00Z\"}}\n");
        assert!(files(&["01", "01", "02", "04"].map(line).concat()).disorder().is_empty());
        let warnings = files(&["05", "02", "06", "01"].map(line).concat()).disorder();
        let [warnings] = warnings.as_slice() else { panic!("{warnings:?}") };
        for word in ["usage.ndjson", "2 of 4 lines", "5days", "line 2"] {
            assert!(warnings.contains(word), "{word}: {warnings}");
        }
        // Lines without a time do not count for the order.
        assert!(files("no json\n{\"timestamp\": \"soon\"}\n").disorder().is_empty());
    }

    #[test]
    fn time_and_account_are_found_in_what_ingest_reads() {
        let cases = [
            ("{\"account_id\":42,\"occurred_at\":5}", Some("42"), Some(5)),
            ("\u{feff}{\"account_id\":\"a\",\"occurred_at\":\"1970-01-01T00:00:01Z\"}", Some("a"), Some(1000)),
            ("{\"groupId\":\"\",\"context\":{\"groupId\":\"g\"},\"timestamp\":9}", Some("g"), Some(9)),
            ("{\"context\":{\"groupId\":\"\"},\"groupId\":18446744073709551615}", Some("18446744073709551615"), None),
            ("{\"account_id\":\"a\",\"context\":\"web\",\"occurred_at\":1}", Some("a"), Some(1)),
            ("{\"account_id\":\"a\",\"context\":[],\"timestamp\":{},\"occurred_at\":1.5}", Some("a"), Some(2)),
            ("[1]", None, None),
        ];
        for (line, account, ms) in cases {
            let glance = Glance::of(line.as_bytes());
            assert_eq!((glance.ms(), glance.account().as_deref()), (ms, account), "{line}");
        }
    }
}
