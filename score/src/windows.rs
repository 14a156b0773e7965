//! Window rows: each is one account at one time.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, MapArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::columns::{Columns, TimeArray, number, text};
use keepwell_core::schema::window::Layout;

/// The rows of one record.
#[derive(Debug)]
pub struct Windows<'b> {
    batch: &'b RecordBatch,
    layout: &'b Layout,
    accounts: &'b StringArray,
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
    /// Its row in the batch.
    pub row: usize,
    /// Account id.
    pub account_id: &'b str,
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// Whether the row is final.
    pub is_final: bool,
    /// Whether this is the account's last row because of its silence.
    pub is_retired: bool,
    /// Whether the account was deleted.
    pub is_deleted: bool,
    /// The row contains the events below this offset.
    pub events_next_offset: i64,
    /// Watermark when the row was made, UTC microseconds.
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
    /// Finds the columns in a batch of the `windows` table that has this layout.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] when a column is missing.
    pub fn of(batch: &'b RecordBatch, layout: &'b Layout) -> Result<Self, ArrowError> {
        let columns = Columns::Batch(batch);
        Ok(Self {
            batch,
            layout,
            accounts: columns.text("account_id")?,
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
        let case = |row: usize| Case {
            row,
            account_id: self.accounts.value(row),
            as_of_us: self.as_of.value(row),
            is_final: self.is_final.value(row),
            is_retired: self.is_retired.value(row),
            is_deleted: self.is_deleted.value(row),
            events_next_offset: self.next_offset.value(row),
            watermark_us: number(self.watermark, row),
            segment: text(self.segment, row),
            stage: text(self.stage, row),
            owner: text(self.owner, row),
            began_us: number(self.started, row).or(number(self.first_seen, row)),
            outcomes: self.outcomes_of(row),
        };
        (0..self.batch.num_rows()).map(case).collect()
    }

    fn outcomes_of(&self, row: usize) -> BTreeMap<&'b str, &'b str> {
        let ends = self.outcomes.value_offsets();
        let (Some(from), Some(to)) = (ends.get(row), ends.get(row + 1)) else { return BTreeMap::new() };
        let (ids, outcomes) =
            (self.outcomes.keys().as_string_opt::<i32>(), self.outcomes.values().as_string_opt::<i32>());
        let (Some(ids), Some(outcomes)) = (ids, outcomes) else { return BTreeMap::new() };
        (*from as usize..*to as usize).map(|entry| (ids.value(entry), outcomes.value(entry))).collect()
    }

    /// The columns that SQL over a window uses, by window and name, each with one value for each of `cases`. Names that
    /// are no columns of a window row are left out.
    ///
    /// # Errors
    /// [`ArrowError`] when rows cannot be taken.
    pub fn columns<'m>(
        &self,
        used: impl Iterator<Item = (&'m str, &'m str)>,
        cases: &[&Case<'_>],
    ) -> Result<BTreeMap<(&'m str, &'m str), ArrayRef>, ArrowError> {
        // The usual case: all rows of a close, in their order.
        let is_whole =
            cases.len() == self.batch.num_rows() && cases.iter().enumerate().all(|(at, case)| case.row == at);
        let rows: UInt32Array = cases.iter().map(|case| case.row as u32).collect();
        let mut columns = BTreeMap::new();
        for (period, name) in used {
            let Some(index) = self.layout.index_of(name, period).filter(|_| !columns.contains_key(&(period, name)))
            else {
                continue;
            };
            let column = self.batch.column(index);
            columns.insert((period, name), if is_whole { ArrayRef::clone(column) } else { take(column, &rows, None)? });
        }
        Ok(columns)
    }
}
