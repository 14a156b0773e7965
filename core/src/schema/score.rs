//! The tables `scores` and `score_factors`: final health rows for analysts, in a flat and in a long form.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;

use super::{Column, ColumnType, health, known, position, schema_of};

/// Name and version of the flat table, as in the schema metadata.
pub const SCORES: &str = "scores/2";
/// Name and version of the long table, as in the schema metadata.
pub const SCORE_FACTORS: &str = "score_factors/2";

/// A column of `health`.
const fn of_health(name: &str) -> Column {
    health::COLUMNS[position(health::COLUMNS, name)]
}

/// Columns of `score_factors` before and after those of the factor.
const BEFORE: &[Column] = &[
    of_health("account_id"),
    of_health("as_of"),
    of_health("model"),
    of_health("model_version"),
    known("position", ColumnType::Int32, "place of the factor in the model, from 0"),
];
const AFTER: &[Column] = &[of_health("epoch"), of_health("partition"), of_health("next_offset"), of_health("ordinal")];

/// The columns of `score_factors`, in order. It has one row for each factor of a final score.
pub fn factor_columns() -> impl Iterator<Item = Column> {
    let factor = health::factor::COLUMNS.iter().map(|column| match column.name {
        "name" => Column { name: "factor", ..*column },
        _ => *column,
    });
    BEFORE.iter().copied().chain(factor).chain(AFTER.iter().copied())
}

/// The columns of `scores`, in order: those of `health` without the factors.
pub fn columns() -> impl Iterator<Item = &'static Column> {
    health::COLUMNS.iter().filter(|column| column.name != "factors")
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(SCORES, columns()));
static FACTOR_SCHEMA: LazyLock<SchemaRef> =
    LazyLock::new(|| schema_of(SCORE_FACTORS, &factor_columns().collect::<Vec<_>>()));

/// The Arrow schema of `scores`.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// The Arrow schema of `score_factors`.
pub fn factor_schema() -> SchemaRef {
    Arc::clone(&FACTOR_SCHEMA)
}
