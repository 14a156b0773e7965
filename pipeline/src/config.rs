//! The configuration file: one for all stages, read strictly.
//!
//! An unknown key, a wrong type or a value out of range stops the start with file, line, column and what
//! is allowed. `--set path.to.key=value` replaces a value before it is checked.

mod duplicates;
mod duration;
mod http;
mod kafka;
mod output;

use std::path::Path;
use std::time::Duration;

use garde::Validate;
use serde::{Deserialize, Serialize};

pub use duplicates::Duplicates;
pub use duration::Span;
pub use http::{Http, Listen};
pub use kafka::{Kafka, Secret};
pub use output::{Score, Tables, Topics};

use crate::event::Kind;
use crate::pane::PaneWidth;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Rises when the logs are made anew or rescaled; part of every row's provenance.
    #[garde(range(min = 1))]
    pub epoch: u32,
    /// Partition count of every `keepwell.*` topic and of `scores`, pinned for the epoch.
    #[garde(range(min = 1, max = 1024))]
    pub partitions: i32,
    /// How to reach Kafka.
    #[garde(dive)]
    pub kafka: Kafka,
    /// Raw topics.
    #[garde(length(min = 1), dive)]
    pub sources: Vec<Source>,
    /// Names of Keepwell's own topics.
    #[serde(default)]
    #[garde(dive)]
    pub topics: Topics,
    /// Event time.
    #[serde(default)]
    #[garde(dive)]
    pub time: Time,
    /// Limits of what ingest accepts.
    #[serde(default)]
    #[garde(dive)]
    pub ingest: Ingest,
    /// What aggregate measures.
    #[serde(default)]
    #[garde(dive)]
    pub aggregate: Aggregate,
    /// What finding duplicates may cost.
    #[serde(default)]
    #[garde(dive)]
    pub duplicates: Duplicates,
    /// How accounts are scored.
    #[serde(default)]
    #[garde(dive)]
    pub score: Score,
    /// The Parquet tables; needed by sink alone.
    #[garde(dive)]
    pub tables: Option<Tables>,
    /// Where and how often state is saved.
    #[garde(dive)]
    pub snapshots: SnapshotOptions,
    /// Where each stage answers Prometheus and orchestrators.
    #[serde(default)]
    #[garde(dive)]
    pub http: Http,
    /// How much is taken at once.
    #[serde(default)]
    #[garde(dive)]
    pub batch: BatchOptions,
}

/// One raw topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Topic name.
    #[garde(length(min = 1, max = 249))]
    pub topic: String,
    /// What its records are.
    #[garde(skip)]
    pub kind: Kind,
    /// How far events may be out of order: time stands this far behind the highest event time.
    #[serde(default = "hour")]
    #[garde(skip)]
    pub bound: Span,
    /// How long after it happened an event may reach the topic: time stands this far behind the clock
    /// when the topic is read to its end. The bound, unless told.
    #[garde(skip)]
    pub delay: Option<Span>,
    /// Whether time goes on although the topic has never held an event.
    #[serde(default)]
    #[garde(skip)]
    pub optional: bool,
    /// Rises when the topic is deleted and made again.
    #[serde(default)]
    #[garde(skip)]
    pub epoch: u32,
}

impl Source {
    /// The configured delay, or the bound.
    pub fn delay(&self) -> Span {
        self.delay.unwrap_or(self.bound)
    }
}

fn hour() -> Span {
    Span::from_secs(3600)
}

/// Event time. Fixed for an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Time {
    /// Width of a pane.
    #[garde(custom(at_least_a_minute))]
    pub pane: Span,
    /// For how long an event whose pane has closed still counts in windows to come.
    #[garde(skip)]
    pub lateness: Span,
    /// Whether the clock moves sources that are read to their end. Off for backfills.
    #[garde(skip)]
    pub clock: bool,
    /// How far a source may run ahead of the one that is furthest behind before it waits: a pane, unless told.
    #[garde(skip)]
    pub max_skew: Option<Span>,
    /// How far ahead of the clock an event may claim to be; beyond it is rejected as `future`.
    #[garde(skip)]
    pub max_future: Span,
    /// Events before this time (RFC 3339) are rejected as `too_old`.
    #[garde(skip)]
    pub earliest: jiff::Timestamp,
}

impl Default for Time {
    fn default() -> Self {
        Self {
            pane: Span::from_secs(86_400),
            lateness: Span::from_secs(2 * 86_400),
            clock: true,
            max_skew: None,
            max_future: Span::from_secs(3600),
            earliest: jiff::Timestamp::from_second(946_684_800).unwrap_or(jiff::Timestamp::UNIX_EPOCH),
        }
    }
}

impl Time {
    /// How far a source may run ahead.
    pub fn max_skew(&self) -> Span {
        self.max_skew.unwrap_or(self.pane)
    }

    /// The pane width.
    pub fn panes(&self) -> PaneWidth {
        PaneWidth { width_us: self.pane.as_micros() }
    }
}

fn at_least_a_minute(span: &Span, _: &()) -> garde::Result {
    if span.as_duration() < Duration::from_secs(60) {
        return Err(garde::Error::new("must be at least 1m"));
    }
    Ok(())
}

/// Limits of what ingest accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Ingest {
    /// Largest raw value accepted, in bytes.
    #[garde(range(min = 100, max = 10_000_000))]
    pub max_event_bytes: usize,
    /// How often time is stated when no event arrives.
    #[garde(skip)]
    pub statement_interval: Span,
    /// If set, user ids are replaced by a keyed hash (SipHash-2-4, 128 bits); 32 hex digits.
    #[garde(skip)]
    pub user_id_key: Option<Secret>,
}

impl Default for Ingest {
    fn default() -> Self {
        Self { max_event_bytes: 262_144, statement_interval: Span::from_secs(1), user_id_key: None }
    }
}

/// What aggregate measures. Fixed for an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Aggregate {
    /// Lengths of the trailing windows, whole panes each.
    #[garde(length(min = 1, max = 8))]
    pub windows: Vec<Span>,
    /// Silence after which an account's last row is sent.
    #[garde(skip)]
    pub retire_after: Span,
    /// Features an account could use, where it has no `features` fact of its own.
    #[garde(skip)]
    pub catalogue: Vec<String>,
    /// Ticket categories that are counted by name; the rest is `other`.
    #[garde(skip)]
    pub ticket_categories: Vec<String>,
    /// Roles of people whose loss matters.
    #[garde(skip)]
    pub champion_roles: Vec<String>,
    /// Feature whose first use is the first value.
    #[garde(skip)]
    pub first_value_feature: Option<String>,
    /// Targets for the first response to a ticket, by priority.
    #[garde(skip)]
    pub first_response_target: Targets,
    /// Targets for the resolution of a ticket, by priority.
    #[garde(skip)]
    pub resolution_target: Targets,
    /// Live rows of an account are sent at most this often; a first change is told at once, or within a tenth of this.
    #[garde(skip)]
    pub live_interval: Span,
}

impl Default for Aggregate {
    fn default() -> Self {
        let hours = |n: u64| Span::from_secs(n * 3600);
        Self {
            windows: [7, 28, 90].map(|days| hours(24 * days)).to_vec(),
            retire_after: hours(24 * 180),
            catalogue: Vec::new(),
            ticket_categories: Vec::new(),
            champion_roles: vec!["champion".into()],
            first_value_feature: None,
            first_response_target: Targets { low: hours(48), normal: hours(24), high: hours(8), urgent: hours(1) },
            resolution_target: Targets { low: hours(240), normal: hours(120), high: hours(48), urgent: hours(8) },
            live_interval: Span::from_millis(100),
        }
    }
}

/// A time limit for each ticket priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// For priority low.
    pub low: Span,
    /// For priority normal, and for none.
    pub normal: Span,
    /// For priority high.
    pub high: Span,
    /// For priority urgent.
    pub urgent: Span,
}

/// Where and how often state is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct SnapshotOptions {
    /// `file:///folder` or `memory:///`.
    #[garde(length(min = 1))]
    pub url: String,
    /// Time between snapshots of a partition.
    #[serde(default = "minute")]
    #[garde(skip)]
    pub interval: Span,
    /// How many are kept of each partition.
    #[serde(default = "three")]
    #[garde(range(min = 2))]
    pub keep: usize,
}

fn minute() -> Span {
    Span::from_secs(60)
}

fn three() -> usize {
    3
}

/// How much is taken at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct BatchOptions {
    /// Records of a raw topic taken into one step.
    #[garde(range(min = 1, max = 1_000_000))]
    pub max_records: usize,
    /// Bytes taken into one step.
    #[garde(range(min = 1024))]
    pub max_bytes: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { max_records: 20_000, max_bytes: 16 << 20 }
    }
}

/// Why a configuration is refused. The message holds file, line, column and a snippet.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {why}")]
    Unreadable {
        /// Path as given.
        path: String,
        /// The system's words.
        why: String,
    },
    /// The content is not allowed.
    #[error("{path}: {why}")]
    Refused {
        /// Path as given.
        path: String,
        /// Line, column and what is allowed.
        why: String,
    },
    /// Single values are allowed but do not fit each other.
    #[error("{path}: {key}: {why}")]
    Contradiction {
        /// Path as given.
        path: String,
        /// The key to change.
        key: String,
        /// What it must fit.
        why: String,
    },
    /// `--set` is not of the form `path.to.key=value`.
    #[error("--set {0:?}: expected path.to.key=value")]
    Set(String),
}

impl Config {
    /// Reads and checks the file at `path`, with `set` (`path.to.key=value`) applied.
    ///
    /// # Errors
    /// [`ConfigError`] naming file, line and column.
    pub fn read(path: &Path, set: &[String]) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Unreadable { path: name.clone(), why: e.to_string() })?;
        let mut config = Self::parse(&name, &text, set)?;
        config.score.resolve(path);
        Ok(config)
    }

    /// Checks `text` as the content of file `name`.
    ///
    /// # Errors
    /// [`ConfigError`] naming file, line and column.
    pub fn parse(name: &str, text: &str, set: &[String]) -> Result<Self, ConfigError> {
        let refused = |why: String| ConfigError::Refused { path: name.to_owned(), why };
        let mut config: Self = serde_saphyr::from_str_valid(text).map_err(|e| refused(e.to_string()))?;
        if !set.is_empty() {
            let mut value = serde_json::to_value(&config).map_err(|e| refused(e.to_string()))?;
            for assignment in set {
                assign(&mut value, assignment)?;
            }
            config = serde_json::from_value(value).map_err(|e| refused(format!("after --set: {e}")))?;
            config.validate().map_err(|e| refused(format!("after --set: {e}")))?;
        }
        config.check_fit(name)?;
        Ok(config)
    }

    /// What single values cannot tell.
    fn check_fit(&self, name: &str) -> Result<(), ConfigError> {
        let contradiction =
            |key: &str, why: String| ConfigError::Contradiction { path: name.to_owned(), key: key.to_owned(), why };
        let pane_us = self.time.pane.as_micros();
        for window in &self.aggregate.windows {
            if window.as_micros() == 0 || window.as_micros() % pane_us != 0 {
                let why = format!("{window} is not a whole number of panes of {}", self.time.pane);
                return Err(contradiction("aggregate.windows", why));
            }
        }
        let longest = self.aggregate.windows.iter().max().copied().unwrap_or(self.time.pane);
        if self.aggregate.retire_after.as_micros() < longest.as_micros() {
            let why = format!("must be at least the longest window, {longest}");
            return Err(contradiction("aggregate.retire_after", why));
        }
        if self.time.lateness.as_micros() > 2 * longest.as_micros() {
            let why = format!("must not exceed two of the longest window, {longest}: nothing older is kept");
            return Err(contradiction("time.lateness", why));
        }
        for (i, source) in self.sources.iter().enumerate() {
            if self.sources.iter().skip(i + 1).any(|other| other.topic == source.topic) {
                return Err(contradiction("sources", format!("topic {} is listed twice", source.topic)));
            }
        }
        Ok(())
    }
}

fn assign(root: &mut serde_json::Value, assignment: &str) -> Result<(), ConfigError> {
    let wrong = || ConfigError::Set(assignment.to_owned());
    let (path, text) = assignment.split_once('=').ok_or_else(wrong)?;
    // librdkafka's own names have dots.
    if let Some(name) = path.strip_prefix("kafka.properties.") {
        root["kafka"]["properties"][name] = serde_json::Value::String(text.to_owned());
        return Ok(());
    }
    let mut place = root;
    for key in path.split('.') {
        place = match place {
            serde_json::Value::Array(items) => {
                key.parse::<usize>().ok().and_then(|index| items.get_mut(index)).ok_or_else(wrong)?
            }
            serde_json::Value::Object(map) => map.entry(key).or_insert(serde_json::Value::Null),
            serde_json::Value::Null => {
                *place = serde_json::json!({ key: null });
                place.get_mut(key).ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
    }
    *place = serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::String(text.to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "epoch: 1\npartitions: 4\nkafka: {bootstrap_servers: 'localhost:9092'}\nsources:\n  - {topic: usage, kind: usage}\nsnapshots: {url: 'memory:///'}\n";

    #[test]
    fn a_small_file_is_enough_and_the_rest_has_defaults() {
        let config = Config::parse("k.yaml", GOOD, &[]).unwrap();
        assert_eq!(config.aggregate.windows.len(), 3);
        assert_eq!(config.sources[0].delay(), Span::from_secs(3600));
    }

    #[test]
    fn the_example_is_valid_and_shows_the_defaults() {
        let text = include_str!("../../deploy/keepwell.yaml");
        let example = Config::parse("deploy/keepwell.yaml", text, &[]).unwrap();
        let defaults = Config::parse("k.yaml", GOOD, &[]).unwrap();
        assert_eq!(
            (&example.time, &example.ingest, &example.batch, &example.duplicates),
            (&defaults.time, &defaults.ingest, &defaults.batch, &defaults.duplicates)
        );
        assert_eq!(example.topics, defaults.topics);
        assert_eq!(example.kafka, Kafka { bootstrap_servers: "localhost:19092".into(), ..defaults.kafka });
        assert_eq!(example.sources.len(), Kind::ALL.len());
        let Aggregate { catalogue, ticket_categories, first_value_feature, .. } = example.aggregate.clone();
        let expected = Aggregate { catalogue, ticket_categories, first_value_feature, ..defaults.aggregate };
        assert_eq!(example.aggregate, expected);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        // text to replace, replacement, words the message must hold
        let cases: [(&str, &str, &[&str]); 6] = [
            ("epoch: 1", "epoch: 1\nepock: 2", &["epock", "line 2"]),
            ("partitions: 4", "partitions: four", &["line 2"]),
            ("partitions: 4", "partitions: 0", &["partitions", "line 2"]),
            ("kind: usage}", "kind: usage, bound: soon}", &["soon", "line 5"]),
            ("kind: usage}", "kind: clicks}", &["clicks", "line 5"]),
            ("snapshots:", "aggregate: {windows: [36h]}\nsnapshots:", &["36h", "1d", "aggregate.windows"]),
        ];
        for (from, to, words) in cases {
            let message = Config::parse("k.yaml", &GOOD.replace(from, to), &[]).unwrap_err().to_string();
            for word in words.iter().chain(&["k.yaml"]) {
                assert!(message.contains(word), "{word:?} is not in: {message}");
            }
        }
    }

    #[test]
    fn set_replaces_a_value_and_is_checked_too() {
        let set = |assignment: &str| Config::parse("k.yaml", GOOD, &[assignment.to_owned()]);
        assert_eq!(set("partitions=7").unwrap().partitions, 7);
        assert_eq!(set("sources.0.bound=2h").unwrap().sources[0].bound, Span::from_secs(7200));
        assert_eq!(set("kafka.properties.linger.ms=5").unwrap().kafka.properties["linger.ms"], "5");
        assert!(set("partitions=0").is_err());
        assert!(set("partition=3").is_err());
        assert!(set("partitions").is_err());
    }
}
