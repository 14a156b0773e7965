//! The last message of each account on `scores`, as log compaction leaves it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use keepwell_pipeline::record::Record;
use serde::Deserialize;

/// Name of the file with one score per line. `keepwell explain --scores` reads it.
pub const SCORES: &str = "scores.ndjson";

/// What the demo shows of a record of `scores`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Score {
    /// Account id.
    pub account_id: String,
    /// End of its windows, exclusive.
    pub as_of: jiff::Timestamp,
    /// Who looks after it.
    pub owner: Option<String>,
    /// Revenue a month.
    pub mrr: Option<f64>,
    /// Currency of the revenue.
    pub currency: Option<String>,
    /// Score from 0 to 100.
    pub score: Option<f64>,
    /// Band of the score.
    pub band: Option<String>,
    /// Stage of the lifecycle.
    pub stage: Option<String>,
    /// The factors of the score.
    pub factors: Vec<Factor>,
    /// Triggers that hold.
    pub triggers: Vec<Trigger>,
}

/// One factor of a score.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Factor {
    /// Name in the model.
    pub name: String,
    /// Weight among the factors that count, in percent.
    pub effective_weight: f64,
    /// Points that it adds to the score.
    pub contribution: Option<f64>,
}

/// One trigger that holds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Trigger {
    /// Name in the model.
    pub name: String,
    /// Since when the episode goes on, or the condition holds.
    pub since: jiff::Timestamp,
}

/// The last scores, by account.
#[derive(Debug, Default)]
pub struct LastScores {
    scores: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl LastScores {
    /// Adds further records of the topic.
    pub fn take_in(&mut self, records: &[Record]) {
        for record in records {
            let key = record.key.clone().unwrap_or_default();
            match &record.value {
                Some(value) => self.scores.insert(key, value.to_vec()),
                None => self.scores.remove(&key),
            };
        }
    }

    /// Writes the scores, one per line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
        for score in self.scores.values() {
            file.write_all(score)?;
            writeln!(file)?;
        }
        file.flush().with_context(|| path.display().to_string())
    }

    /// Number of accounts.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there is no score.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// The scores, ordered by account.
    ///
    /// # Errors
    /// When a record is not a score.
    pub fn into_scores(self) -> Result<Vec<Score>> {
        self.scores.into_values().map(|score| Ok(serde_json::from_slice(&score)?)).collect()
    }
}
