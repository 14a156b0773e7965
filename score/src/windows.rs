//! Window rows, account by account: all windows of an account at one time stand side by side.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BooleanArray, Int64Array, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{ArrowPrimitiveType, Int64Type, Schema, TimestampMicrosecondType};
use arrow::error::ArrowError;

/// The rows of one record.
#[derive(Debug)]
pub struct Windows<'b> {
    batch: &'b RecordBatch,
    accounts: &'b StringArray,
    periods: &'b StringArray,
    as_of: &'b PrimitiveArray<TimestampMicrosecondType>,
    is_final: &'b BooleanArray,
    is_retired: &'b BooleanArray,
    is_deleted: &'b BooleanArray,
    next_offset: &'b Int64Array,
    watermark: &'b PrimitiveArray<TimestampMicrosecondType>,
    segment: &'b StringArray,
    stage: &'b StringArray,
    owner: &'b StringArray,
}

/// One account at one time.
#[derive(Debug, Clone)]
pub struct Case<'b> {
    /// Its rows, one for each window.
    pub rows: Range<usize>,
    /// Account id.
    pub account_id: &'b str,
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// Whether the row stands.
    pub is_final: bool,
    /// Whether it is the account's last row before silence.
    pub is_retired: bool,
    /// Whether the account was deleted.
    pub is_deleted: bool,
    /// Events below this offset are in the row.
    pub events_next_offset: i64,
    /// Watermark when the row was made, UTC microseconds.
    pub watermark_us: Option<i64>,
    /// Fact.
    pub segment: Option<&'b str>,
    /// Fact.
    pub stage: Option<&'b str>,
    /// Fact.
    pub owner: Option<&'b str>,
}

impl<'b> Windows<'b> {
    /// Looks at a batch of the `windows` table.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] when a column is missing.
    pub fn of(batch: &'b RecordBatch) -> Result<Self, ArrowError> {
        Ok(Self {
            batch,
            accounts: text(batch, "account_id")?,
            periods: text(batch, "period")?,
            as_of: primitive(batch, "as_of")?,
            is_final: flag(batch, "final")?,
            is_retired: flag(batch, "retired")?,
            is_deleted: flag(batch, "deleted")?,
            next_offset: primitive::<Int64Type>(batch, "next_offset")?,
            watermark: primitive(batch, "watermark")?,
            segment: text(batch, "segment")?,
            stage: text(batch, "stage")?,
            owner: text(batch, "owner")?,
        })
    }

    /// The accounts, in order.
    pub fn cases(&self) -> Vec<Case<'b>> {
        let mut cases: Vec<Case<'b>> = Vec::new();
        for row in 0..self.batch.num_rows() {
            let (account_id, as_of_us) = (self.accounts.value(row), self.as_of.value(row));
            let is_final = self.is_final.value(row);
            match cases.last_mut() {
                Some(case) if (case.account_id, case.as_of_us, case.is_final) == (account_id, as_of_us, is_final) => {
                    case.rows.end = row + 1;
                }
                _ => cases.push(Case {
                    rows: row..row + 1,
                    account_id,
                    as_of_us,
                    is_final,
                    is_retired: self.is_retired.value(row),
                    is_deleted: self.is_deleted.value(row),
                    events_next_offset: self.next_offset.value(row),
                    watermark_us: self.watermark.is_valid(row).then(|| self.watermark.value(row)),
                    segment: self.segment.is_valid(row).then(|| self.segment.value(row)),
                    stage: self.stage.is_valid(row).then(|| self.stage.value(row)),
                    owner: self.owner.is_valid(row).then(|| self.owner.value(row)),
                }),
            }
        }
        cases
    }

    /// The rows of one window, one for each of `cases`, with these columns only; all null where an
    /// account has none.
    ///
    /// # Errors
    /// [`ArrowError`] when rows cannot be taken.
    pub fn rows_of(
        &self,
        period: &str,
        cases: &[&Case<'_>],
        columns: &BTreeSet<&str>,
    ) -> Result<RecordBatch, ArrowError> {
        let row =
            |case: &&Case<'_>| case.rows.clone().find(|row| self.periods.value(*row) == period).map(|row| row as u32);
        let rows: UInt32Array = cases.iter().map(row).collect();
        let mut fields = Vec::new();
        let mut arrays = Vec::new();
        for (field, array) in self.batch.schema().fields().iter().zip(self.batch.columns()) {
            if columns.contains(field.name().as_str()) {
                fields.push(field.as_ref().clone().with_nullable(true));
                arrays.push(take(array, &rows, None)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(cases.len()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
    }
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b dyn Array, ArrowError> {
    let column = batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))?;
    Ok(column.as_ref())
}

fn text<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b StringArray, ArrowError> {
    Ok(column(batch, name)?.as_string())
}

fn flag<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b BooleanArray, ArrowError> {
    Ok(column(batch, name)?.as_boolean())
}

fn primitive<'b, T: ArrowPrimitiveType>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b PrimitiveArray<T>, ArrowError> {
    Ok(column(batch, name)?.as_primitive())
}
