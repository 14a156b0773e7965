//! Health rows as records: what one row of the `health` table says, for JSON.

use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;
use pipeline::schema::columns::{Columns, millionths, number, text};
use pipeline::schema::health::rfc3339;
use serde::{Deserialize, Serialize};

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

fn decimal(millionths: i64) -> f64 {
    // Below 2^53 millionths the shortest form of the quotient is the decimal itself.
    millionths as f64 / 1e6
}

/// The rows of a batch of the `health` table.
///
/// # Errors
/// [`ArrowError::SchemaError`] when the batch is of another form.
pub fn rows(batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    let columns = Columns::Batch(batch);
    let points = |name: &str, row| Ok::<_, ArrowError>(millionths(columns.decimal(name)?, row).map(decimal));
    let owned = |name: &str, row| Ok::<_, ArrowError>(text(columns.text(name)?, row).map(str::to_owned));
    let flag = |name: &str, row| Ok::<_, ArrowError>(columns.flag(name)?.value(row));
    let time = |name: &str, row| Ok::<_, ArrowError>(number(columns.time(name)?, row).map(rfc3339));
    let row = |row: usize| {
        let previous = time("previous_as_of", row)?.map(|as_of| {
            Ok::<_, ArrowError>(Previous {
                as_of,
                score: points("previous_score", row)?,
                band: owned("previous_band", row)?,
            })
        });
        let health = Health {
            schema: SCORE.to_owned(),
            account_id: owned("account_id", row)?.unwrap_or_default(),
            as_of: time("as_of", row)?.unwrap_or_default(),
            is_final: flag("final", row)?,
            retired: flag("retired", row)?,
            score: points("score", row)?,
            display: points("display", row)?,
            band: owned("band", row)?,
            band_since: time("band_since", row)?,
            previous: previous.transpose()?,
            delta: points("delta", row)?,
            coverage: points("coverage", row)?.unwrap_or_default(),
            baseline_score: points("baseline_score", row)?,
            factors: factors(columns, row)?,
            drivers: drivers(columns, row)?,
            triggers: triggers(columns, row)?,
            segment: owned("segment", row)?,
            stage: owned("stage", row)?,
            owner: owned("owner", row)?,
            model: ModelName {
                name: owned("model", row)?.unwrap_or_default(),
                version: columns.int("model_version")?.value(row),
            },
            provenance: Provenance {
                epoch: columns.int32("epoch")?.value(row),
                partition: columns.int32("partition")?.value(row),
                next_offset: columns.int("next_offset")?.value(row),
                ordinal: columns.int("ordinal")?.value(row),
                events_next_offset: columns.int("events_next_offset")?.value(row),
                watermark: time("watermark", row)?,
            },
        };
        Ok(Row { health, is_changed: flag("changed", row)?, is_deleted: flag("deleted", row)? })
    };
    (0..batch.num_rows()).map(row).collect()
}

fn factors(columns: Columns<'_>, row: usize) -> Result<Vec<Factor>, ArrowError> {
    let (list, items) = columns.list("factors")?;
    // An account has a dozen: their columns are looked up once a row, not once a factor.
    let (names, groups, missing) = (items.text("name")?, items.text("group")?, items.text("missing")?);
    let (values, carried_from) = (items.float("value")?, items.time("carried_from")?);
    let (normalised, contributions) = (items.decimal("normalised")?, items.decimal("contribution")?);
    let (weights, effective) = (items.decimal("weight")?, items.decimal("effective_weight")?);
    let points = |column, item| millionths(column, item).map(decimal);
    let factor = |item| Factor {
        name: names.value(item).to_owned(),
        group: text(groups, item).map(str::to_owned),
        value: number(values, item),
        normalised: points(normalised, item),
        weight: points(weights, item).unwrap_or_default(),
        effective_weight: points(effective, item).unwrap_or_default(),
        contribution: points(contributions, item),
        missing: text(missing, item).map(str::to_owned),
        carried_from: number(carried_from, item).map(rfc3339),
    };
    Ok(items_of(list, row).map(factor).collect())
}

fn drivers(columns: Columns<'_>, row: usize) -> Result<Vec<Driver>, ArrowError> {
    let (list, items) = columns.list("drivers")?;
    let driver = |item| {
        let delta = millionths(items.decimal("delta")?, item).map(decimal).unwrap_or_default();
        Ok(Driver { name: items.text("name")?.value(item).to_owned(), delta })
    };
    items_of(list, row).map(driver).collect()
}

fn triggers(columns: Columns<'_>, row: usize) -> Result<Vec<Trigger>, ArrowError> {
    let (list, items) = columns.list("triggers")?;
    let owned = |name: &str, item| Ok::<_, ArrowError>(items.text(name)?.value(item).to_owned());
    let trigger = |item| {
        Ok(Trigger {
            name: owned("name", item)?,
            state: owned("state", item)?,
            since: rfc3339(items.time("since")?.value(item)),
            is_news: items.flag("news")?.value(item),
            severity: owned("severity", item)?,
            playbook: owned("playbook", item)?,
            owner_role: owned("owner_role", item)?,
            evidence: text(items.text("evidence")?, item)
                .map_or(Ok(serde_json::Value::Null), serde_json::from_str)
                .map_err(json)?,
            outcome: text(items.text("outcome")?, item).map(str::to_owned),
        })
    };
    items_of(list, row).map(trigger).collect()
}

fn json(error: serde_json::Error) -> ArrowError {
    ArrowError::JsonError(error.to_string())
}

fn items_of(list: &arrow::array::ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    let at = |index: usize| offsets.get(index).copied().unwrap_or_default() as usize;
    if list.is_null(row) { 0..0 } else { at(row)..at(row + 1) }
}
