//! The output: topics, scores, tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use garde::Validate;
use serde::{Deserialize, Serialize};

use super::{Secret, Span};
use crate::redact::{Properties, StoreUrl};

/// Names of Keepwell's own topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// Accepted events.
    #[garde(length(min = 1, max = 249))]
    pub events: String,
    /// Window rows, live and final.
    #[garde(length(min = 1, max = 249))]
    pub windows: String,
    /// Adoption per feature and pane, final rows only.
    #[garde(length(min = 1, max = 249))]
    pub feature_days: String,
    /// Revenue of accounts by calendar period.
    #[garde(length(min = 1, max = 249))]
    pub revenue: String,
    /// Health rows, live and final.
    #[garde(length(min = 1, max = 249))]
    pub health: String,
    /// Scores of changed accounts as JSON, compacted.
    #[garde(length(min = 1, max = 249))]
    pub scores: String,
    /// Raised and cleared triggers, as JSON.
    #[garde(length(min = 1, max = 249))]
    pub alerts: String,
    /// Records that were rejected or too late.
    #[garde(length(min = 1, max = 249))]
    pub rejects: String,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            events: "keepwell.events".into(),
            windows: "keepwell.windows".into(),
            feature_days: "keepwell.feature_days".into(),
            revenue: "keepwell.revenue".into(),
            health: "keepwell.health".into(),
            scores: "scores".into(),
            alerts: "alerts".into(),
            rejects: "keepwell.rejects".into(),
        }
    }
}

impl Topics {
    /// Names of all of Keepwell's own topics.
    pub fn all(&self) -> [&str; 8] {
        let Self { events, windows, feature_days, revenue, health, scores, alerts, rejects } = self;
        [events, windows, feature_days, revenue, health, scores, alerts, rejects]
    }
}

/// How accounts are scored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Score {
    /// Path of the model file, relative to the configuration file. Default: the built-in model.
    #[garde(skip)]
    pub model: Option<PathBuf>,
}

impl Score {
    /// Makes paths relative to the folder of the configuration file.
    pub(super) fn resolve(&mut self, config: &Path) {
        if let (Some(model), Some(folder)) = (&mut self.model, config.parent()) {
            *model = folder.join(&model);
        }
    }
}

/// The Parquet tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// `file:///folder`, `s3://bucket/prefix`, `az://...`, `gs://...` or `memory:///`.
    #[garde(custom(super::not_empty))]
    pub url: StoreUrl,
    /// Settings of the object store under their usual names, e.g. `aws_region`. The environment is read, too.
    #[serde(default)]
    #[garde(skip)]
    pub options: Properties,
    /// Settings with a value from the environment or a file, e.g. `aws_secret_access_key`.
    #[serde(default)]
    #[garde(skip)]
    pub secrets: BTreeMap<String, Secret>,
    /// Once the buffered rows take this many bytes of memory in all, the partition with the most is written.
    #[serde(default = "roll_bytes")]
    #[garde(range(min = 1024))]
    pub roll_bytes: usize,
    /// Maximum time from reading a row to writing it.
    #[serde(default = "five_minutes")]
    #[garde(skip)]
    pub roll_age: Span,
}

impl Tables {
    /// Tables at this URL, written once the buffered rows take this many bytes.
    pub fn at(url: String, roll_bytes: usize, roll_age: Span) -> Self {
        Self { url: url.into(), options: Properties::default(), secrets: BTreeMap::new(), roll_bytes, roll_age }
    }

    /// All settings of the object store, including secrets.
    ///
    /// # Errors
    /// A message that names the secret, and its variable or file.
    pub fn all_options(&self) -> Result<BTreeMap<String, String>, String> {
        let mut options = self.options.0.clone();
        for (name, secret) in &self.secrets {
            options.insert(name.clone(), secret.reveal().map_err(|why| format!("tables.secrets.{name}: {why}"))?);
        }
        Ok(options)
    }
}

fn roll_bytes() -> usize {
    256 << 20
}

fn five_minutes() -> Span {
    Span::from_secs(300)
}
