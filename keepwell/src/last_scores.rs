//! The last message of each account on `scores`, as log compaction leaves it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use keepwell_pipeline::record::Record;
use keepwell_sink::score_json::Health;

/// Name of the file with one score per line. `keepwell explain --scores` reads it.
pub const SCORES: &str = "scores.ndjson";

/// The last scores, by account.
#[derive(Debug, Default)]
pub struct LastScores {
    scores: BTreeMap<Vec<u8>, Health>,
}

impl LastScores {
    /// Adds further records of the topic.
    ///
    /// # Errors
    /// When a record is not a score.
    pub fn take_in(&mut self, records: &[Record]) -> Result<()> {
        for record in records {
            let key = record.key.clone().unwrap_or_default();
            match &record.value {
                Some(value) => self.scores.insert(key, serde_json::from_slice(value)?),
                None => self.scores.remove(&key),
            };
        }
        Ok(())
    }

    /// Writes the scores, one per line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
        for health in self.scores.values() {
            serde_json::to_writer(&mut file, health)?;
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
    pub fn into_scores(self) -> Vec<Health> {
        self.scores.into_values().collect()
    }
}
