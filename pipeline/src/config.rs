//! The configuration file: one for all stages, checked strictly.
//!
//! An unknown key, a wrong type or a value out of range stops the start. The message contains file, line, column and
//! what is allowed. `--set path.to.key=value` replaces a value before the check.

mod aggregate;
mod collect;
mod duplicates;
mod duration;
mod http;
mod kafka;
mod measures;
mod output;
mod places;
mod plans;
mod registry;
mod revenue;
mod source;
mod suspect;

use std::path::Path;
use std::time::Duration;

use garde::Validate;
use serde::{Deserialize, Serialize};

pub use aggregate::{Aggregate, Answers, Limits, Targets};
pub use collect::{Check, Collect, Webhook, WriteKey};
pub use duplicates::Duplicates;
pub use duration::Span;
pub use http::{Http, Listen};
pub use kafka::{Kafka, Secret, max_event_bytes};
pub use measures::Measures;
pub use output::{Score, Tables, Topics};
pub use plans::{FirstValue, PlanItem, ReachedBy, SuccessPlan};
pub use registry::{Encoding, Registry};
pub use revenue::{Late, Revenue, SeatRemoval};
pub use source::Source;
pub use suspect::Suspect;

use crate::redact::{self, StoreUrl};
use keepwell_core::pane::PaneWidth;
use keepwell_core::schema::window::Layout;
use places::Places;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Rises when the topics are made again or rescaled. Part of every row's provenance.
    #[garde(range(min = 1))]
    pub epoch: u32,
    /// Partition count of every `keepwell.*` topic and of `scores`, fixed for the epoch.
    #[garde(range(min = 1, max = 1024))]
    pub partitions: i32,
    /// How to reach Kafka.
    #[garde(dive)]
    pub kafka: Kafka,
    /// The raw topics to read.
    #[garde(length(min = 1), dive)]
    pub sources: Vec<Source>,
    /// The schema registry. Only sources with `encoding: confluent` need it.
    #[garde(dive)]
    pub schema_registry: Option<Registry>,
    /// Names of Keepwell's own topics.
    #[serde(default)]
    #[garde(dive)]
    pub topics: Topics,
    /// Event time: panes, lateness and clock.
    #[serde(default)]
    #[garde(dive)]
    pub time: Time,
    /// Limits of what ingest accepts.
    #[serde(default)]
    #[garde(dive)]
    pub ingest: Ingest,
    /// Windows, limits and targets of aggregate.
    #[serde(default)]
    #[garde(dive)]
    pub aggregate: Aggregate,
    /// Memory limit for finding duplicates.
    #[serde(default)]
    #[garde(dive)]
    pub duplicates: Duplicates,
    /// How accounts are scored.
    #[serde(default)]
    #[garde(dive)]
    pub score: Score,
    /// How revenue follows from contracts.
    #[serde(default)]
    #[garde(dive)]
    pub revenue: Revenue,
    /// When alerts are held, because a source may have died.
    #[serde(default)]
    #[garde(dive)]
    pub suspect: Suspect,
    /// The Parquet tables. Only sink needs them.
    #[garde(dive)]
    pub tables: Option<Tables>,
    /// Where and how often state is saved as snapshots.
    #[garde(dive)]
    pub snapshots: SnapshotOptions,
    /// Where each stage serves metrics and health checks.
    #[serde(default)]
    #[garde(dive)]
    pub http: Http,
    /// How much one step reads.
    #[serde(default)]
    #[garde(dive)]
    pub batch: BatchOptions,
    /// The HTTP doors into raw topics. Only collect needs them.
    #[garde(dive)]
    pub collect: Option<Collect>,
}

/// Event time. Fixed for an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Time {
    /// Width of a pane. At least one minute.
    #[garde(custom(at_least_a_minute))]
    pub pane: Span,
    /// Allowed lateness: how long an event of a closed pane still counts in future windows.
    #[garde(skip)]
    pub lateness: Span,
    /// Whether the clock advances sources that are read to their end. Off for backfills.
    #[garde(skip)]
    pub clock: bool,
    /// How far a source may be ahead of the one furthest behind, in event time, before it waits. Default: one pane.
    #[garde(skip)]
    pub max_skew: Option<Span>,
    /// How far an event time may be ahead of the clock. Events above this limit are rejected as `future`.
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
    /// How far a source may be ahead of the one furthest behind.
    pub fn max_skew(&self) -> Span {
        self.max_skew.unwrap_or(self.pane)
    }

    /// The pane width.
    pub fn panes(&self) -> PaneWidth {
        PaneWidth { width_us: self.pane.as_micros() }
    }
}

fn not_empty(url: &StoreUrl, _: &()) -> garde::Result {
    if url.is_empty() { Err(garde::Error::new("must not be empty")) } else { Ok(()) }
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
    /// Largest raw value that is accepted, in bytes.
    #[garde(range(min = 100, max = 10_000_000))]
    pub max_event_bytes: usize,
    /// Maximum number of facts in one event.
    #[garde(range(min = 1, max = 100_000))]
    pub max_facts: usize,
    /// Longest JSON text of one fact, in bytes.
    #[garde(range(min = 16, max = 1_000_000))]
    pub max_fact_bytes: usize,
    /// How often a statement is published while no event arrives.
    #[garde(skip)]
    pub statement_interval: Span,
    /// If set, user ids are replaced by a keyed hash (SipHash-2-4, 128 bits). The key has 32 hex digits.
    #[garde(skip)]
    pub user_id_key: Option<Secret>,
}

impl Default for Ingest {
    fn default() -> Self {
        Self {
            max_event_bytes: 262_144,
            max_facts: 1000,
            max_fact_bytes: 16_384,
            statement_interval: Span::from_secs(1),
            user_id_key: None,
        }
    }
}

/// Where and how often state is saved as snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct SnapshotOptions {
    /// `file:///folder` or `memory:///`.
    #[garde(custom(not_empty))]
    pub url: StoreUrl,
    /// Time between snapshots of a partition.
    #[serde(default = "minute")]
    #[garde(skip)]
    pub interval: Span,
    /// How many snapshots of each partition are kept.
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

/// How much one step reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct BatchOptions {
    /// Maximum number of records of a raw topic in one step.
    #[garde(range(min = 1, max = 1_000_000))]
    pub max_records: usize,
    /// Maximum number of bytes in one step.
    #[garde(range(min = 1024))]
    pub max_bytes: usize,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { max_records: 20_000, max_bytes: 16 << 20 }
    }
}

/// Why a configuration is rejected. The message contains file, line and column. It contains no lines of the file, which
/// may include secrets.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "{path}: {why}; name the configuration with --config or KEEPWELL_CONFIG (deploy/keepwell.yaml is a commented example)"
    )]
    Unreadable {
        /// Path as given by the user.
        path: String,
        /// The message of the operating system.
        why: String,
    },
    /// The content is not valid.
    #[error("{path}: {why}")]
    Refused {
        /// Path as given by the user.
        path: String,
        /// Line, column and what is allowed.
        why: String,
    },
    /// Each value is valid, but two values do not fit each other.
    #[error("{path}: {place}{key}: {why}")]
    Contradiction {
        /// Path as given by the user.
        path: String,
        /// Line and column of the key in the file.
        place: String,
        /// The key to change.
        key: String,
        /// The rule that it violates.
        why: String,
    },
    /// `--set` does not have the form `path.to.key=value`. The value may be a secret, so it is not shown.
    #[error("--set {0:?}: expected path.to.key=value")]
    Set(String),
}

impl Config {
    /// Reads and checks the file at `path`, with `set` (`path.to.key=value`) applied.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and column.
    pub fn read(path: &Path, set: &[String]) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Unreadable { path: name.clone(), why: e.to_string() })?;
        let mut config = Self::parse(&name, &text, set)?;
        config.score.resolve(path);
        config.sources.iter_mut().for_each(|source| source.resolve(path));
        Ok(config)
    }

    /// Checks `text` as the content of file `name`.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and column.
    pub fn parse(name: &str, text: &str, set: &[String]) -> Result<Self, ConfigError> {
        let refused = |why: String| ConfigError::Refused { path: name.to_owned(), why };
        let mut config: Self =
            serde_saphyr::from_str_valid(text).map_err(|e| refused(e.without_snippet().to_string()))?;
        if !set.is_empty() {
            let mut value = serde_json::to_value(&config).map_err(|e| refused(e.to_string()))?;
            for assignment in set {
                assign(&mut value, assignment)?;
            }
            let after_set = |error: String| refused(format!("after --set: {}", without_values(&error, set)));
            config = serde_json::from_value(value).map_err(|e| after_set(e.to_string()))?;
            config.validate().map_err(|e| after_set(e.to_string()))?;
        }
        config.check_fit(name, &if set.is_empty() { Places::of(text) } else { Places::of("") })?;
        Ok(config)
    }

    /// Checks rules between several values.
    fn check_fit(&self, name: &str, places: &Places) -> Result<(), ConfigError> {
        let contradicted = |place: String, key: &str, why: String| contradiction(name, place, key, why);
        let contradiction =
            |keys: &[&str], why: String| contradicted(places.first(keys), keys.first().unwrap_or(&""), why);
        let pane_us = self.time.pane.as_micros();
        for window in &self.aggregate.windows {
            if window.as_micros() == 0 || window.as_micros() % pane_us != 0 {
                let why = format!("{window} is not a whole number of panes of {}", self.time.pane);
                return Err(contradiction(&["aggregate.windows", "time.pane"], why));
            }
        }
        let aggregate = &self.aggregate;
        if let Err(why) = Layout::check(&aggregate.periods(), &aggregate.groups(), &aggregate.wanted()) {
            let keys = ["aggregate.measures", "aggregate.feature_groups", "aggregate.windows"];
            return Err(contradiction(&keys, why));
        }
        let is_empty = |patterns: &Vec<String>| patterns.is_empty() || patterns.iter().any(String::is_empty);
        if let Some((group, _)) = aggregate.feature_groups.iter().find(|(_, patterns)| is_empty(patterns)) {
            let why = format!("feature group {group}: it has no pattern, or an empty one");
            return Err(contradiction(&["aggregate.feature_groups"], why));
        }
        if let Some(why) = plans::misfit(&aggregate.success_plans) {
            return Err(contradiction(&["aggregate.success_plans"], why));
        }
        let longest = self.aggregate.windows.iter().max().copied().unwrap_or(self.time.pane);
        if self.aggregate.retire_after.as_micros() < longest.as_micros() {
            let why = format!("must be at least the longest window, {longest}");
            return Err(contradiction(&["aggregate.retire_after", "aggregate.windows"], why));
        }
        if self.time.lateness.as_micros() >= 2 * longest.as_micros() {
            let why = format!("must be less than two of the longest window, {longest}: nothing older is kept");
            return Err(contradiction(&["time.lateness", "aggregate.windows"], why));
        }
        let most = self.kafka.max_event_bytes(self.ingest.max_facts);
        if self.ingest.max_event_bytes > most {
            let why = format!(
                "{} bytes do not fit: a record holds the value and what was read from it, so with kafka.max_record_bytes: {} and ingest.max_facts: {} it must not exceed {most}",
                self.ingest.max_event_bytes, self.kafka.max_record_bytes, self.ingest.max_facts
            );
            return Err(contradiction(&["ingest.max_event_bytes", "kafka.max_record_bytes"], why));
        }
        self.check_topics(name, places)?;
        let misfit = self.collect.as_ref().and_then(|collect| collect.misfit(&self.sources, &self.kafka));
        misfit.map_or(Ok(()), |misfit| {
            let place = places.of_collect(misfit.place, misfit.key);
            Err(contradicted(place, misfit.key, misfit.why))
        })
    }

    /// Checks that no topic is named twice, and that each source says what its records are.
    fn check_topics(&self, name: &str, places: &Places) -> Result<(), ConfigError> {
        let contradicted = |place: String, key: &str, why: String| contradiction(name, place, key, why);
        let own = self.topics.all();
        if let Some((_, twice)) =
            own.iter().enumerate().find(|(i, topic)| own.iter().take(*i).any(|other| other == *topic))
        {
            return Err(contradicted(String::new(), "topics", format!("{twice} is the name of two of them")));
        }
        for (i, source) in self.sources.iter().enumerate() {
            if self.sources.iter().take(i).any(|other| other.topic == source.topic) {
                let why = format!("topic {} is listed twice", source.topic);
                return Err(contradicted(places.of_source(i), "sources", why));
            }
            if self.topics.all().contains(&source.topic.as_str()) {
                let why = format!("topic {} is among `topics`: what is written would be read again", source.topic);
                return Err(contradicted(places.of_source(i), "sources", why));
            }
            if source.encoding == Encoding::Confluent && self.schema_registry.is_none() {
                let why = format!("topic {}: encoding confluent needs `schema_registry`, with its url", source.topic);
                return Err(contradicted(places.of_source(i), "sources", why));
            }
            if source.num_forms() != 1 {
                let why = format!(
                    "topic {} needs one of kind, preset and mapping: what its records contain, whose they are, or a file that says it",
                    source.topic
                );
                return Err(contradicted(places.of_source(i), "sources", why));
            }
        }
        Ok(())
    }
}

fn contradiction(path: &str, place: String, key: &str, why: String) -> ConfigError {
    ConfigError::Contradiction { path: path.to_owned(), place, key: key.to_owned(), why }
}

/// A message without the values of `--set` that may be secrets.
fn without_values(message: &str, set: &[String]) -> String {
    let may_be_secret = |path: &str| {
        ["kafka.properties", "kafka.secrets", "tables.options", "tables.secrets"]
            .iter()
            .any(|place| path.starts_with(place))
            || path.split('.').any(|key| key == "url" || redact::is_secret(key))
    };
    let values = set.iter().filter_map(|assignment| assignment.split_once('='));
    let secret = values.filter(|(path, value)| may_be_secret(path) && !value.is_empty());
    secret.fold(message.to_owned(), |message, (_, value)| message.replace(value, "(hidden)"))
}

fn assign(root: &mut serde_json::Value, assignment: &str) -> Result<(), ConfigError> {
    let shown = match assignment.split_once('=') {
        Some((path, _)) => format!("{path}=..."),
        None => assignment.to_owned(),
    };
    let wrong = || ConfigError::Set(shown.clone());
    let (path, text) = assignment.split_once('=').ok_or_else(wrong)?;
    // Names of librdkafka settings contain dots.
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
mod tests;
