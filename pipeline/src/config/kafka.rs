//! How to reach Kafka. Everything not named here passes through to librdkafka.

use std::collections::BTreeMap;
use std::fmt;

use garde::Validate;
use serde::{Deserialize, Serialize};

use super::Span;

/// How to reach Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several with commas.
    #[garde(length(min = 3))]
    pub bootstrap_servers: String,
    /// Further librdkafka settings, e.g. `security.protocol: SASL_SSL`. Secrets do not belong here.
    #[serde(default)]
    #[garde(skip)]
    pub properties: BTreeMap<String, String>,
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
    #[garde(range(min = 10_000, max = 100_000_000))]
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

impl Kafka {
    /// A broker at `host:port`, everything else as by default.
    pub fn at(bootstrap_servers: &str) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.to_owned(),
            properties: BTreeMap::new(),
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
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Secret {
    /// Name of an environment variable.
    Env(String),
    /// Path of a file; a line end at its end does not count.
    File(String),
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
