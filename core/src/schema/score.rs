//! The tables `scores` and `score_factors`: final health rows for analysts, in a flat and in a long form.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;

use super::ColumnType::{Float, Int32, Int64, Points, Text, Time};
use super::{Column, health, known, maybe, schema_of};

/// Name and version of the flat table, as in the schema metadata.
pub const SCORES: &str = "scores/2";
/// Name and version of the long table, as in the schema metadata.
pub const SCORE_FACTORS: &str = "score_factors/2";

/// The columns of `score_factors`, in order. It has one row for each factor of a final score.
pub const FACTOR_COLUMNS: &[Column] = &[
    known("account_id", Text, "account"),
    known("as_of", Time, "end of the windows, exclusive; a pane end"),
    known("model", Text, "name of the model"),
    known("model_version", Int64, "version of the model"),
    known("position", Int32, "place of the factor in the model, from 0"),
    known(
        "factor",
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
    known("epoch", Int32, "epoch of the log"),
    known("partition", Int32, "partition of the windows topic"),
    known("next_offset", Int64, "window rows below this offset are in the row"),
    known("ordinal", Int64, "order among rows with the same next_offset"),
];

/// The columns of `scores`, in order: those of `health` without the factors.
pub fn columns() -> impl Iterator<Item = &'static Column> {
    health::COLUMNS.iter().filter(|column| column.name != "factors")
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(SCORES, columns()));
static FACTOR_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(SCORE_FACTORS, FACTOR_COLUMNS));

/// The Arrow schema of `scores`.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// The Arrow schema of `score_factors`.
pub fn factor_schema() -> SchemaRef {
    Arc::clone(&FACTOR_SCHEMA)
}
