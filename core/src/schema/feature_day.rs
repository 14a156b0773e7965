//! The `feature_days` table: adoption per feature and pane. It contains final rows only.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;

use super::ColumnType::{Int32, Int64, Text, Time};
use super::{Column, RowBuilder, known, maybe, schema_of};

/// Name and version of the table, as in the schema metadata.
pub const TABLE: &str = "feature_days/1";

/// The columns of the table, in order.
pub const COLUMNS: &[Column] = &[
    known("account_id", Text, "account"),
    known("as_of", Time, "end of the pane, exclusive"),
    known("feature", Text, "feature used"),
    known("events", Int64, "usage events"),
    known("uses", Int64, "sum of count"),
    known("users", Int64, "distinct users"),
    maybe("duration_ms", Int64, "sum of duration_ms; null where no event tells"),
    maybe("errors", Int64, "sum of errors; null where no event tells"),
    known("epoch", Int32, "epoch of the log"),
    known("partition", Int32, "partition of the events topic"),
    known("next_offset", Int64, "events below this offset are in the row"),
    known("ordinal", Int64, "order among rows with the same next_offset"),
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(TABLE, COLUMNS));

/// The Arrow schema of the table.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// A builder for rows of the table.
pub fn builder() -> RowBuilder {
    RowBuilder::new(schema(), COLUMNS.iter())
}
