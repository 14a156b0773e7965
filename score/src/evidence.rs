//! Evidence: the columns that a condition looks at, as they are on a row.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::json::writer::{JsonArray, WriterBuilder};

/// A row as a JSON object; what is unknown is null.
///
/// # Errors
/// [`ArrowError`] when a column has no JSON form.
pub fn evidence(rows: &RecordBatch, row: usize) -> Result<String, ArrowError> {
    if rows.num_columns() == 0 {
        return Ok("{}".to_owned());
    }
    let mut text = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut text);
    writer.write(&rows.slice(row, 1))?;
    writer.finish()?;
    let text = String::from_utf8(text).map_err(|error| ArrowError::JsonError(error.to_string()))?;
    Ok(text.trim_start_matches('[').trim_end_matches(']').to_owned())
}
