//! Health rows as records: what one row of the `health` table says, for JSON.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use columns::Scores;

mod columns;

/// Name and version of the JSON form of a score.
pub const SCORE: &str = "scores/2";

/// What is known of an account's health: the value of a record of `scores`. Points and percent are
/// decimals with at most six places; times are RFC 3339 in UTC; null means unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `scores/2`.
    pub schema: String,
    /// Account.
    pub account_id: String,
    /// End of the windows, exclusive.
    pub as_of: String,
    /// Whether the pane has closed and this stands.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Whether the account fell silent for `retire_after`.
    pub retired: bool,
    /// 0-100, the sum of the contributions.
    pub score: Option<f64>,
    /// The score as it is shown, on the model's scale.
    pub display: Option<f64>,
    /// Band.
    pub band: Option<String>,
    /// Since which final row the account is in it.
    pub band_since: Option<String>,
    /// The previous final row.
    pub previous: Option<Previous>,
    /// Score less that of the previous final row.
    pub delta: Option<f64>,
    /// Share of the weights whose value is known or carried, percent.
    pub coverage: f64,
    /// Score when the account came of age.
    pub baseline_score: Option<f64>,
    /// What the score is made of.
    pub factors: Vec<Factor>,
    /// The factors that moved it most.
    pub drivers: Vec<Driver>,
    /// Triggers that hold.
    pub triggers: Vec<Trigger>,
    /// Fact.
    pub segment: Option<String>,
    /// Fact.
    pub stage: Option<String>,
    /// Fact.
    pub owner: Option<String>,
    /// By what it was scored.
    pub model: ModelName,
    /// What it was made of.
    pub provenance: Provenance,
}

/// The previous final row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// End of its windows.
    pub as_of: String,
    /// Its score.
    pub score: Option<f64>,
    /// Its band.
    pub band: Option<String>,
}

/// One factor of a score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Factor {
    /// As the model names it.
    pub name: String,
    /// Its group, as the model names it.
    pub group: Option<String>,
    /// What its SQL gave, now or where it is carried from.
    pub value: Option<f64>,
    /// Its points.
    pub normalised: Option<f64>,
    /// Weight in the model, percent.
    pub weight: f64,
    /// Weight among the factors that count, percent.
    pub effective_weight: f64,
    /// Its part of the score.
    pub contribution: Option<f64>,
    /// What stood in for an unknown value.
    pub missing: Option<String>,
    /// Time of the final row its value is carried from.
    pub carried_from: Option<String>,
}

/// A factor that moved the score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Driver {
    /// As the model names it.
    pub name: String,
    /// Its contribution less that of the previous final row.
    pub delta: f64,
}

/// A trigger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// As the model names it.
    pub name: String,
    /// `pending`, `raised`, `active`, `closed` or `cleared`.
    pub state: String,
    /// `as_of` of the row that raised it; while it is pending, of the first row at which it held.
    pub since: String,
    /// Whether the row is the first to say so.
    #[serde(skip)]
    pub is_news: bool,
    /// `low`, `medium` or `high`.
    pub severity: String,
    /// What to do.
    pub playbook: String,
    /// Who is to do it.
    pub owner_role: String,
    /// The columns it looks at, as they are.
    pub evidence: serde_json::Value,
    /// What was last told of its playbook: `accepted`, `done` or `dismissed`.
    pub outcome: Option<String>,
}

/// By what an account was scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelName {
    /// As in the model file.
    pub name: String,
    /// Version of the file.
    pub version: i64,
}

/// What a score was made of; monotone per account, in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Provenance {
    /// Epoch of the log.
    pub epoch: i32,
    /// Partition of the windows topic.
    pub partition: i32,
    /// Window rows below this offset are in it.
    pub next_offset: i64,
    /// Order among rows with the same `next_offset`.
    pub ordinal: i64,
    /// Events below this offset are in it.
    pub events_next_offset: i64,
    /// Watermark when the window rows were made.
    pub watermark: Option<String>,
}

/// One row: the account's health, and what becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The record's value.
    pub health: Health,
    /// Whether it differs from what was last said of the account.
    pub is_changed: bool,
    /// Whether the account was deleted.
    pub is_deleted: bool,
}

/// The rows of a batch of the `health` table.
///
/// # Errors
/// [`ArrowError::SchemaError`] when the batch is of another form.
pub fn rows(batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    let scores = Scores::of(batch)?;
    (0..batch.num_rows()).map(|row| scores.row(row)).collect()
}
