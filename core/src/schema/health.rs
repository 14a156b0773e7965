//! The `health` table: the score of an account, its factors and its triggers. It contains live and final rows.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;

use super::ColumnType::{Flag, Float, Int32, Int64, List, Points, Text, Time};
use super::{Column, RowBuilder, known, maybe, schema_of};

/// Name and version of the table, as in the schema metadata.
pub const TABLE: &str = "health/2";

/// Columns of one factor of a score.
pub const FACTORS: &[Column] = &[
    known(
        "name",
        Text,
        "factor, as the model names it; (start) and (limit): where an additive model begins, and what lay beyond 0 or 100",
    ),
    maybe("group", Text, "its group, as the model names it"),
    maybe("value", Float, "what its SQL gave, now or where it is carried from; null: unknown"),
    maybe("normalised", Points, "its points, rounded half-up to 6 decimals; null: left out of the score"),
    known("weight", Points, "weight in the model, percent, to 6 decimals"),
    known(
        "effective_weight",
        Points,
        "weight among the factors that count, percent, to 6 decimals; they sum to 100, but for additive models",
    ),
    maybe(
        "contribution",
        Points,
        "its part of the score: normalised * effective_weight / 100, to 6 decimals; the parts sum to the score",
    ),
    maybe("missing", Text, "what stood in for an unknown value: reweight, zero, neutral or carry"),
    maybe("carried_from", Time, "as_of of the final row its value is carried from"),
];

/// Columns of one driver: a factor that moved the score.
pub const DRIVERS: &[Column] = &[
    known("name", Text, "factor, as the model names it"),
    known("delta", Points, "its contribution less that of the previous final row"),
];

/// Columns of one trigger that is active or has just ended.
pub const TRIGGERS: &[Column] = &[
    known("name", Text, "trigger, as the model names it"),
    known(
        "state",
        Text,
        "pending: holds, not for long enough or too soon after the last episode; raised: an episode begins; active: it goes on; closed: an outcome ended it, it still holds; cleared: it is over",
    ),
    known(
        "since",
        Time,
        "as_of of the final row since which it holds (pending) or at which it was raised; on live rows of a new one, of this row",
    ),
    known("news", Flag, "true: this row is the first to say raised, closed or cleared; an alert goes out"),
    known("severity", Text, "from the model: low, medium or high"),
    known("playbook", Text, "what to do, from the model"),
    known("owner_role", Text, "role that acts, from the model"),
    maybe("evidence", Text, "JSON object: the columns its SQL looks at, as they are on this row"),
    maybe("outcome", Text, "last outcome of its playbook: accepted, done or dismissed"),
];

/// The columns of the table, in order.
pub const COLUMNS: &[Column] = &[
    known("account_id", Text, "account"),
    known("as_of", Time, "end of the windows, exclusive; a pane end"),
    known("final", Flag, "true: the pane has closed and this row never changes; false: live"),
    known("retired", Flag, "true: silent for retire_after; the account's last row"),
    known("deleted", Flag, "true: the account was deleted; there is no score"),
    maybe("score", Points, "0-100, the sum of the contributions; null: no factor is known"),
    maybe("display", Points, "the score as it is shown: on the model's scale, rounded half-up once"),
    maybe("band", Text, "band; unknown where coverage is below the model's minimum"),
    maybe(
        "band_since",
        Time,
        "as_of of the final row since which the account is in its band; on live rows of a new one, of this row",
    ),
    maybe("previous_as_of", Time, "as_of of the previous final row"),
    maybe("previous_score", Points, "score of the previous final row"),
    maybe("previous_band", Text, "band of the previous final row"),
    maybe("delta", Points, "score less previous_score"),
    known("coverage", Points, "share of the weights whose value is known or carried, percent"),
    maybe(
        "baseline_score",
        Points,
        "score of the first final row at which the account was as old as the model's baseline_day",
    ),
    known("factors", List(FACTORS), "what the score is made of, in the order of the model"),
    known("drivers", List(DRIVERS), "the factors that moved the score most since the previous final row, at most 3"),
    known("triggers", List(TRIGGERS), "what the model's triggers say; they are raised and cleared by final rows"),
    maybe("segment", Text, "fact"),
    maybe("stage", Text, "fact: lifecycle stage"),
    maybe("owner", Text, "fact: who looks after the account"),
    known("model", Text, "name of the model"),
    known("model_version", Int64, "version of the model"),
    known("changed", Flag, "true: differs from what was last published for the account, and is not older"),
    known("epoch", Int32, "epoch of the log"),
    known("partition", Int32, "partition of the windows topic"),
    known("next_offset", Int64, "window rows below this offset are in the row"),
    known("ordinal", Int64, "order among rows with the same next_offset"),
    known("events_next_offset", Int64, "events below this offset are in the row"),
    maybe("watermark", Time, "watermark when the window rows were made"),
];

/// A time in UTC microseconds as RFC 3339. A time out of range is written as a number.
pub fn rfc3339(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |time| time.to_string())
}

/// Id of an episode of a trigger, from its raise to its end. It consists of the account, the trigger and the time of
/// the raise. `since` is RFC 3339, as [`rfc3339`] writes it.
pub fn alert_id(account_id: &str, trigger: &str, since: &str) -> String {
    format!("{account_id}/{trigger}/{since}")
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(TABLE, COLUMNS));

/// The Arrow schema of the table.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// A builder for rows of the table.
pub fn builder() -> RowBuilder {
    RowBuilder::new(schema(), COLUMNS.iter())
}
