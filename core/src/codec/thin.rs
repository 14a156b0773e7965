//! Rows without what makes them too large for a record.

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// Texts of at most this size are never what makes a row too large.
const SHORT_BYTES: usize = 1024;

/// The rows with their nullable long texts, lists and maps set to null.
pub(super) fn thin(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let fields = rows.schema_ref().fields();
    let columns = fields.iter().zip(rows.columns()).map(|(field, column)| {
        let kind = field.data_type();
        let has_long = |texts: &StringArray| texts.iter().flatten().any(|text| text.len() > SHORT_BYTES);
        let is_long = match kind {
            DataType::Utf8 => column.as_string_opt().is_some_and(has_long),
            kind => kind.is_nested() || *kind == DataType::Binary,
        };
        if is_long && field.is_nullable() { new_null_array(kind, rows.num_rows()) } else { ArrayRef::clone(column) }
    });
    RecordBatch::try_new(rows.schema(), columns.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn a_thin_row_keeps_its_short_texts() {
        let schema = Schema::new(["short", "long"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec());
        let texts = |text: String| Arc::new(StringArray::from(vec![Some(text)])) as ArrayRef;
        let [short, long] = [SHORT_BYTES, SHORT_BYTES + 1].map(|size| texts("x".repeat(size)));
        let thin = thin(&RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&short), long]).unwrap()).unwrap();
        assert_eq!((thin.column(0), thin.column(1).null_count()), (&short, 1));
    }
}
