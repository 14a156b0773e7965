//! Window rows: each is one account at one time.

use std::collections::BTreeMap;
use std::hash::Hasher;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, MapArray, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute::take;
use arrow::error::ArrowError;
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::columns::{Columns, TimeArray, number, text};
use keepwell_core::schema::window::Layout;
use keepwell_core::schema::window::customer::Status;

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
    customer: CustomerColumns<'b>,
    started: &'b TimeArray,
    first_seen: &'b TimeArray,
    outcomes: &'b MapArray,
}

/// The columns about an account as a customer.
#[derive(Debug)]
struct CustomerColumns<'b> {
    status: &'b StringArray,
    since: &'b TimeArray,
    churn_reason: &'b StringArray,
    plan: &'b StringArray,
    mrr: &'b Decimal128Array,
    currency: &'b StringArray,
    renews: &'b TimeArray,
}

/// An account as a customer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Customer<'b> {
    /// Its status, if any contract is known.
    pub status: Option<&'b str>,
    /// Since when it has it, UTC microseconds.
    pub since_us: Option<i64>,
    /// Why it churned.
    pub churn_reason: Option<&'b str>,
    /// The fact `plan`.
    pub plan: Option<&'b str>,
    /// Monthly recurring revenue, in hundredths.
    pub mrr_hundredths: Option<i128>,
    /// Its currency.
    pub currency: Option<&'b str>,
    /// First end of a term, UTC microseconds.
    pub renews_us: Option<i64>,
}

impl Customer<'_> {
    /// Adds all of it to a digest.
    pub fn hash_into(&self, hasher: &mut impl Hasher) {
        let Self { status, since_us, churn_reason, plan, mrr_hundredths, currency, renews_us } = self;
        for text in [status, churn_reason, plan, currency] {
            hasher.write(text.unwrap_or_default().as_bytes());
            hasher.write_u8(u8::from(text.is_some()));
        }
        for us in [since_us, renews_us] {
            hasher.write_i64(us.unwrap_or(i64::MIN));
        }
        hasher.write_i128(mrr_hundredths.unwrap_or(-1));
    }
}

impl<'b> CustomerColumns<'b> {
    fn of(columns: Columns<'b>) -> Result<Self, ArrowError> {
        Ok(Self {
            status: columns.text("customer_status")?,
            since: columns.time("customer_since")?,
            churn_reason: columns.text("churn_reason")?,
            plan: columns.text("plan")?,
            mrr: columns.decimal("mrr")?,
            currency: columns.text("currency")?,
            renews: columns.time("renews_at")?,
        })
    }

    fn row(&self, row: usize) -> Customer<'b> {
        Customer {
            status: text(self.status, row),
            since_us: number(self.since, row),
            churn_reason: text(self.churn_reason, row),
            plan: text(self.plan, row),
            mrr_hundredths: number(self.mrr, row),
            currency: text(self.currency, row),
            renews_us: number(self.renews, row),
        }
    }
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
    /// The account as a customer.
    pub customer: Customer<'b>,
    /// Its `started_at`, otherwise start of the first event's pane, UTC microseconds.
    pub began_us: Option<i64>,
    /// The last outcome of each alert, by alert id.
    pub outcomes: BTreeMap<&'b str, &'b str>,
}

impl<'b> Case<'b> {
    /// The status of a customer that has left. Its row has no score and raises nothing.
    pub fn left(&self) -> Option<&'b str> {
        self.customer.status.filter(|status| Status::has_left(status))
    }

    /// Whether its row has a score, if enough is known.
    pub fn is_scored(&self) -> bool {
        !self.is_deleted && self.left().is_none()
    }

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
            customer: CustomerColumns::of(columns)?,
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
            customer: self.customer.row(row),
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
