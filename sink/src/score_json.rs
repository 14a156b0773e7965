//! The JSON form of health rows: the values of `scores` records.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use columns::Scores;

mod columns;

/// Name and version of the JSON form of a score.
pub const SCORE: &str = "scores/2";

/// The last known health of an account: the value of a record of `scores`. Points and percentages are decimals with at
/// most six decimal places. Times are RFC 3339 in UTC. Null means unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Always `scores/2`.
    pub schema: String,
    /// Account id.
    pub account_id: String,
    /// End of the windows, exclusive.
    pub as_of: String,
    /// Whether the pane has closed, so that this row will not change.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Whether the account was silent for `retire_after`.
    pub retired: bool,
    /// Score from 0 to 100: the sum of the contributions.
    pub score: Option<f64>,
    /// The score as users see it, on the model's scale.
    pub display: Option<f64>,
    /// Band of the score.
    pub band: Option<String>,
    /// `as_of` of the final row since which the account is in this band.
    pub band_since: Option<String>,
    /// The previous final row.
    pub previous: Option<Previous>,
    /// Score minus the score of the previous final row.
    pub delta: Option<f64>,
    /// Share of the weights with a known or carried value, in percent.
    pub coverage: f64,
    /// Score when the account reached the model's `baseline_day`.
    pub baseline_score: Option<f64>,
    /// The factors of the score.
    pub factors: Vec<Factor>,
    /// The factors that moved the score most.
    pub drivers: Vec<Driver>,
    /// Triggers that hold.
    pub triggers: Vec<Trigger>,
    /// The account's fact `segment`.
    pub segment: Option<String>,
    /// The account's fact `stage`.
    pub stage: Option<String>,
    /// The account's fact `owner`.
    pub owner: Option<String>,
    /// The model that made the score.
    pub model: ModelName,
    /// Position of the input from which the score was made.
    pub provenance: Provenance,
}

/// The previous final row of an account.
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
    /// Name of the factor in the model.
    pub name: String,
    /// Name of its group in the model.
    pub group: Option<String>,
    /// Result of the factor's SQL, from this row or from the row it is carried from.
    pub value: Option<f64>,
    /// The value as points, before the weight. Null: left out of the score.
    pub normalised: Option<f64>,
    /// Weight in the model, in percent.
    pub weight: f64,
    /// Weight among the factors that count, in percent.
    pub effective_weight: f64,
    /// Points that the factor adds to the score.
    pub contribution: Option<f64>,
    /// What replaced an unknown value: `reweight`, `zero`, `neutral` or `carry`.
    pub missing: Option<String>,
    /// `as_of` of the final row from which the value is carried.
    pub carried_from: Option<String>,
}

/// A factor that moved the score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Driver {
    /// Name of the factor in the model.
    pub name: String,
    /// Contribution minus the contribution of the previous final row.
    pub delta: f64,
}

/// A trigger of the model and its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    /// Name of the trigger in the model.
    pub name: String,
    /// `pending`, `raised`, `active`, `closed` or `cleared`.
    pub state: String,
    /// `as_of` of the row that raised the trigger. While it is pending: of the first row at which it held.
    pub since: String,
    /// Whether this row is the first with this state.
    #[serde(skip)]
    pub is_news: bool,
    /// `low`, `medium` or `high`.
    pub severity: String,
    /// Name of the playbook: what to do.
    pub playbook: String,
    /// Role of the person who must act.
    pub owner_role: String,
    /// The columns that the trigger reads, with their values on this row.
    pub evidence: serde_json::Value,
    /// Last reported outcome of the playbook: `accepted`, `done` or `dismissed`.
    pub outcome: Option<String>,
}

/// The model that scored an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelName {
    /// Name in the model file.
    pub name: String,
    /// Version of the model file.
    pub version: i64,
}

/// Position of the input from which a score was made. It never falls for an account; compare the fields in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Provenance {
    /// Epoch of the log.
    pub epoch: i32,
    /// Partition of the windows topic.
    pub partition: i32,
    /// The score includes the window rows below this offset.
    pub next_offset: i64,
    /// Order among rows with the same `next_offset`.
    pub ordinal: i64,
    /// The score includes the events below this offset.
    pub events_next_offset: i64,
    /// Watermark when the window rows were made.
    pub watermark: Option<String>,
}

/// One health row, and what to do with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Value of the `scores` record.
    pub health: Health,
    /// Whether the row differs from what was last published for the account.
    pub is_changed: bool,
    /// Whether the account was deleted.
    pub is_deleted: bool,
}

/// The rows of a batch of the `health` table.
///
/// # Errors
/// [`ArrowError::SchemaError`] when the batch has another schema.
pub fn rows(batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    let scores = Scores::of(batch)?;
    (0..batch.num_rows()).map(|row| scores.row(row)).collect()
}
