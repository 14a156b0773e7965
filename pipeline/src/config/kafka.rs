//! How to reach Kafka. Everything not named here passes through to librdkafka.

use std::collections::BTreeMap;
use std::fmt;

use garde::Validate;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::Span;
use crate::shown::{Properties, Scalar};

/// How to reach Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several with commas.
    #[garde(length(min = 3))]
    pub bootstrap_servers: String,
    /// Further librdkafka settings, e.g. `security.protocol: SASL_SSL`. Secrets belong into `secrets`.
    #[serde(default)]
    #[garde(skip)]
    pub properties: Properties,
    /// librdkafka settings whose value is read from the environment or a file, e.g. `sasl.password`.
    #[serde(default)]
    #[garde(skip)]
    pub secrets: BTreeMap<String, Secret>,
    /// Prefix of consumer groups and transactional ids.
    #[serde(default = "keepwell")]
    #[garde(length(min = 1, max = 100))]
    pub group_prefix: String,
    /// Largest record written, in bytes; below the topics' `max.message.bytes`.
    #[serde(default = "record_bytes")]
    #[garde(range(min = 100_000, max = 100_000_000))]
    pub max_record_bytes: usize,
    /// The broker aborts a transaction that is open for longer. Above the longest step.
    #[serde(default = "ten_seconds")]
    #[garde(skip)]
    pub transaction_timeout: Span,
    /// A member that is silent for longer loses its partitions.
    #[serde(default = "ten_seconds")]
    #[garde(skip)]
    pub session_timeout: Span,
}

/// What a record of one event takes beside the value and what was read from it: the names and types of the columns.
const EVENT_OVERHEAD_BYTES: usize = 32 * 1024;

/// The largest value of a raw record whose event fits into a record of so many bytes, whole and as columns.
pub fn max_event_bytes(max_record_bytes: usize) -> usize {
    max_record_bytes.saturating_sub(EVENT_OVERHEAD_BYTES) / 2
}

impl Kafka {
    /// The largest value of a raw record that can be accepted, in bytes.
    pub fn max_event_bytes(&self) -> usize {
        max_event_bytes(self.max_record_bytes)
    }

    /// A broker at `host:port`, everything else as by default.
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

/// A value that stands in the environment or in a file, never in the configuration.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Secret {
    /// Name of an environment variable.
    Env(String),
    /// Path of a file; a line end at its end does not count.
    File(String),
}

/// By hand: a message must not repeat what was found, which may be the secret itself.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || D::Error::custom("a secret stands outside of this file: write {env: NAME} or {file: PATH}");
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
    /// The value as a key of 128 bits, written as 32 hex digits.
    ///
    /// # Errors
    /// A message that names the variable or file, or says what is expected.
    pub fn reveal_key(&self) -> Result<[u8; 16], String> {
        let text = self.reveal()?;
        let is_hex = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let key = u128::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        key.map(u128::to_be_bytes)
            .ok_or_else(|| format!("expected 32 hex digits, found {} characters", text.chars().count()))
    }

    /// The value.
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
