//! The rows in a list column, as rows of their own.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;

/// The rows in a list column, one each: account_id, as_of, position, and the columns of the list's rows. Account and
/// time are those of the row that contains the list.
///
/// # Errors
/// [`ArrowError::SchemaError`] when `rows` has no such column.
pub fn items_of(rows: &RecordBatch, list: &str) -> Result<RecordBatch, ArrowError> {
    let column =
        |name: &str| rows.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")));
    let lists = column(list)?.as_list::<i32>();
    let items = lists.values().as_struct();
    let (mut of_row, mut of_item, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for (row, ends) in (0..).zip(lists.value_offsets().windows(2)) {
        let &[first, end] = ends else { continue };
        for (item, position) in (first..end).zip(0_i64..) {
            of_row.push(row);
            of_item.push(item as u32);
            positions.push(position);
        }
    }
    let (of_row, of_item) = (UInt32Array::from(of_row), UInt32Array::from(of_item));
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    for key in ["account_id", "as_of"] {
        columns.push((key, take(column(key)?, &of_row, None)?));
    }
    columns.push(("position", Arc::new(Int64Array::from(positions))));
    for (field, values) in items.fields().iter().zip(items.columns()) {
        columns.push((field.name(), take(values, &of_item, None)?));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
}
