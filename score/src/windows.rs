//! Window rows, account by account. All windows of an account at one time are next to each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BooleanArray, Int64Array, MapArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::columns::{Columns, TimeArray, number, text};
use keepwell_core::schema::window::ONCE;

/// Copies the columns that are only on one row per account and time to all of its rows. The SQL of a factor needs them
/// there.
///
/// # Errors
/// [`ArrowError`] when the rows do not belong to the `windows` table.
pub fn with_facts(windows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = Columns::Batch(windows);
    let (accounts, as_of) = (columns.text("account_id")?, columns.time("as_of")?);
    let is_final = columns.flag("final")?;
    let mut arrays = windows.columns().to_vec();
    for name in ONCE {
        let map = columns.map(name)?;
        let key = |row: usize| (accounts.value(row), as_of.value(row), is_final.value(row));
        let holds = |row: &usize| map.is_valid(*row) && map.value_length(*row) > 0;
        let holders: HashMap<_, usize> = (0..windows.num_rows()).filter(holds).map(|row| (key(row), row)).collect();
        let rows: UInt32Array =
            (0..windows.num_rows()).map(|row| Some(holders.get(&key(row)).copied().unwrap_or(row) as u32)).collect();
        let at = windows.schema().index_of(name)?;
        arrays[at] = take(&arrays[at], &rows, None)?;
    }
    RecordBatch::try_new(windows.schema(), arrays)
}

/// The rows of one record.
#[derive(Debug)]
pub struct Windows<'b> {
    batch: &'b RecordBatch,
    accounts: &'b StringArray,
    periods: &'b StringArray,
    as_of: &'b TimeArray,
    is_final: &'b BooleanArray,
    is_retired: &'b BooleanArray,
    is_deleted: &'b BooleanArray,
    next_offset: &'b Int64Array,
    watermark: &'b TimeArray,
    segment: &'b StringArray,
    stage: &'b StringArray,
    owner: &'b StringArray,
    started: &'b TimeArray,
    first_seen: &'b TimeArray,
    outcomes: &'b MapArray,
}

/// One account at one time.
#[derive(Debug, Clone)]
pub struct Case<'b> {
    /// Its rows in the batch, one per window.
    pub rows: Range<usize>,
    /// Account id.
    pub account_id: &'b str,
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// Whether the rows are final.
    pub is_final: bool,
    /// Whether these are the account's last rows because of its silence.
    pub is_retired: bool,
    /// Whether the account was deleted.
    pub is_deleted: bool,
    /// The rows contain the events below this offset.
    pub events_next_offset: i64,
    /// Watermark when the rows were made, UTC microseconds.
    pub watermark_us: Option<i64>,
    /// The fact `segment`.
    pub segment: Option<&'b str>,
    /// The fact `stage`.
    pub stage: Option<&'b str>,
    /// The fact `owner`.
    pub owner: Option<&'b str>,
    /// Time of the fact `started_at`, otherwise start of the first event's pane, UTC microseconds.
    pub began_us: Option<i64>,
    /// The last outcome of each alert, by alert id.
    pub outcomes: BTreeMap<&'b str, &'b str>,
}

impl Case<'_> {
    /// Age of the account at the end of the windows, in days with decimals.
    pub fn age_days(&self) -> Option<f64> {
        self.began_us.map(|began_us| self.as_of_us.saturating_sub(began_us) as f64 / DAY_US as f64)
    }
}

impl<'b> Windows<'b> {
    /// Finds the columns in a batch of the `windows` table.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] when a column is missing.
    pub fn of(batch: &'b RecordBatch) -> Result<Self, ArrowError> {
        let columns = Columns::Batch(batch);
        Ok(Self {
            batch,
            accounts: columns.text("account_id")?,
            periods: columns.text("period")?,
            as_of: columns.time("as_of")?,
            is_final: columns.flag("final")?,
            is_retired: columns.flag("retired")?,
            is_deleted: columns.flag("deleted")?,
            next_offset: columns.int("next_offset")?,
            watermark: columns.time("watermark")?,
            segment: columns.text("segment")?,
            stage: columns.text("stage")?,
            owner: columns.text("owner")?,
            started: columns.time("started_at")?,
            first_seen: columns.time("first_seen_at")?,
            outcomes: columns.map("outcomes")?,
        })
    }

    /// The accounts in the order of the rows.
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
                    watermark_us: number(self.watermark, row),
                    segment: text(self.segment, row),
                    stage: text(self.stage, row),
                    owner: text(self.owner, row),
                    began_us: number(self.started, row).or(number(self.first_seen, row)),
                    outcomes: self.outcomes_of(row),
                }),
            }
        }
        cases
    }

    fn outcomes_of(&self, row: usize) -> BTreeMap<&'b str, &'b str> {
        let ends = self.outcomes.value_offsets();
        let (Some(from), Some(to)) = (ends.get(row), ends.get(row + 1)) else { return BTreeMap::new() };
        let (ids, outcomes) =
            (self.outcomes.keys().as_string_opt::<i32>(), self.outcomes.values().as_string_opt::<i32>());
        let (Some(ids), Some(outcomes)) = (ids, outcomes) else { return BTreeMap::new() };
        (*from as usize..*to as usize).map(|entry| (ids.value(entry), outcomes.value(entry))).collect()
    }

    /// The rows of one window, one for each of `cases`, with only these columns. If an account has no row of this
    /// window, its row is null.
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
        // These columns are only on the first row of an account and time.
        let firsts: UInt32Array = cases.iter().map(|case| Some(case.rows.start as u32)).collect();
        let mut fields = Vec::new();
        let mut arrays = Vec::new();
        for (field, array) in self.batch.schema().fields().iter().zip(self.batch.columns()) {
            if columns.contains(field.name().as_str()) {
                fields.push(field.as_ref().clone().with_nullable(true));
                let rows = if ONCE.contains(&field.name().as_str()) { &firsts } else { &rows };
                arrays.push(take(array, rows, None)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(cases.len()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
    }
}
