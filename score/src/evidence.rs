//! Evidence: the columns that a condition uses, with their values on a row.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, WriterBuilder};

/// The selected rows as JSON objects, in their order. Unknown values are null.
///
/// # Errors
/// [`ArrowError`] when a column has no JSON form.
pub fn evidence(rows: &RecordBatch, indices: &[u32]) -> Result<Vec<String>, ArrowError> {
    if rows.num_columns() == 0 || indices.is_empty() {
        return Ok(vec!["{}".to_owned(); indices.len()]);
    }
    let mut text = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
    writer.write(&take_record_batch(rows, &UInt32Array::from(indices.to_vec()))?)?;
    writer.finish()?;
    let text = String::from_utf8(text).map_err(|error| ArrowError::JsonError(error.to_string()))?;
    Ok(text.lines().map(str::to_owned).collect())
}
