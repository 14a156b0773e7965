//! How to reach Kafka. Further settings pass through to librdkafka.

use std::collections::BTreeMap;
use std::fmt;

use garde::Validate;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::Span;
use crate::redact::{Properties, Scalar};

/// How to reach Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// One or more `host:port`, separated by commas.
    #[garde(length(min = 3))]
    pub bootstrap_servers: String,
    /// Further librdkafka settings, e.g. `security.protocol: SASL_SSL`. Secrets belong in `secrets`.
    #[serde(default)]
    #[garde(skip)]
    pub properties: Properties,
    /// librdkafka settings with a value from the environment or a file, e.g. `sasl.password`.
    #[serde(default)]
    #[garde(skip)]
    pub secrets: BTreeMap<String, Secret>,
    /// Prefix of consumer groups and transactional ids.
    #[serde(default = "keepwell")]
    #[garde(length(min = 1, max = 100))]
    pub group_prefix: String,
    /// Largest record that is written, in bytes. It must be below the topics' `max.message.bytes`.
    #[serde(default = "record_bytes")]
    #[garde(range(min = 100_000, max = 100_000_000))]
    pub max_record_bytes: usize,
    /// The broker aborts a transaction that is open for longer. Set it above the longest step.
    #[serde(default = "ten_seconds")]
    #[garde(skip)]
    pub transaction_timeout: Span,
    /// A member that is silent for longer loses its partitions.
    #[serde(default = "ten_seconds")]
    #[garde(skip)]
    pub session_timeout: Span,
}

/// Extra size of an event's record, besides the raw value and the decoded columns: names and types of the columns.
const EVENT_OVERHEAD_BYTES: usize = 32 * 1024;

/// Size of a fact in a record besides its texts, in bytes: where name and value end, and whether they are known.
const FACT_OVERHEAD_BYTES: usize = 12;

/// The largest raw value for a given record size, in bytes: the record contains the value both as it is and as columns.
/// Each of at most `max_facts` facts takes more than its texts. In the value it takes at least six bytes, as `"a":1,`.
pub fn max_event_bytes(max_record_bytes: usize, max_facts: usize) -> usize {
    let room = max_record_bytes.saturating_sub(EVENT_OVERHEAD_BYTES.min(max_record_bytes / 2));
    (room / 4).max(room.saturating_sub(FACT_OVERHEAD_BYTES.saturating_mul(max_facts)) / 2)
}

impl Kafka {
    /// The largest value of a raw record that can be accepted, in bytes.
    pub fn max_event_bytes(&self, max_facts: usize) -> usize {
        max_event_bytes(self.max_record_bytes, max_facts)
    }

    /// A broker at `host:port`, with default settings.
    pub fn at(bootstrap_servers: &str) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.to_owned(),
            properties: Properties::default(),
            secrets: BTreeMap::new(),
            group_prefix: keepwell(),
            max_record_bytes: record_bytes(),
            transaction_timeout: ten_seconds(),
            session_timeout: ten_seconds(),
        }
    }
}

fn keepwell() -> String {
    "keepwell".into()
}

fn record_bytes() -> usize {
    900_000
}

fn ten_seconds() -> Span {
    Span::from_secs(10)
}

/// A value from the environment or a file. It is never in the configuration itself.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// Name of an environment variable.
    Env(String),
    /// Path of a file. Line ends at its end are removed.
    File(String),
}

/// Written by hand: a message must not repeat the input, which may be the secret itself.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom("a secret must be outside of this file: write {env: NAME} or {file: PATH}");
        let names = BTreeMap::<Scalar, Scalar>::deserialize(deserializer).map_err(|_| wrong())?;
        let mut names = names.into_iter();
        match (names.next(), names.next()) {
            (Some((Scalar(kind), Scalar(name))), None) if kind == "env" => Ok(Self::Env(name)),
            (Some((Scalar(kind), Scalar(path))), None) if kind == "file" => Ok(Self::File(path)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {path}"),
        }
    }
}

impl Secret {
    /// The value as a key of 128 bits, from 32 hex digits.
    ///
    /// # Errors
    /// A message that names the variable or file, or states what is expected.
    pub fn reveal_key(&self) -> Result<[u8; 16], String> {
        let text = self.reveal()?;
        let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let key = u128::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        key.map(u128::to_be_bytes)
            .ok_or_else(|| format!("expected 32 hex digits, found {} characters", text.chars().count()))
    }

    /// The value of the secret.
    ///
    /// # Errors
    /// A message that names the variable or file.
    pub fn reveal(&self) -> Result<String, String> {
        match self {
            Self::Env(name) => std::env::var(name).map_err(|e| format!("environment variable {name}: {e}")),
            Self::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("file {path}: {e}"))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        }
    }
}
