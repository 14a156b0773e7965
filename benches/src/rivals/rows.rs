//! The rows of the job from any system. They must be equal; otherwise the comparison is void.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use keepwell_core::codec;
use keepwell_core::schema::window::Layout;
use keepwell_pipeline::config::{Aggregate, Span};

use crate::load::{Load, Shape};

const DAY_MS: i64 = 86_400_000;
/// Trailing windows, in days.
pub const WINDOWS: [i64; 3] = [1, 7, 28];

/// Final rows as a count and a sum of hashes. It is equal for equal rows with equal multiplicity, in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    /// Number of rows.
    pub count: u64,
    sum: u64,
}

/// One final row: events, users, features and duration of an account in the days before a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row<'r> {
    /// Account id.
    pub account: &'r str,
    /// End of the window, UTC milliseconds.
    pub end_ms: i64,
    /// Length of the window in days.
    pub window: i64,
    /// Events, distinct users, distinct features, duration in milliseconds.
    pub measures: [i64; 4],
}

impl Rows {
    /// Adds a row if its window ends by `last_end_ms`. Systems close the last days at different times.
    pub fn add(&mut self, row: Row<'_>, last_end_ms: i64) {
        if row.end_ms <= last_end_ms {
            self.count += 1;
            self.sum = self.sum.wrapping_add(foldhash::fast::FixedState::default().hash_one(row));
        }
    }

    /// Adds the row of a peer's record, which is one row as text, if it is final.
    ///
    /// # Errors
    /// When the record is not a row.
    pub fn add_text(&mut self, text: &[u8], last_end_ms: i64) -> Result<()> {
        let text = std::str::from_utf8(text)?;
        let cells: Vec<&str> = text.split(',').collect();
        let [account, numbers @ .., kind] = cells.as_slice() else { anyhow::bail!("no row: {text}") };
        let numbers: Vec<i64> = numbers.iter().map(|number| number.parse()).collect::<Result<_, _>>()?;
        let [end_ms, window, measures @ ..] = numbers.as_slice() else { anyhow::bail!("no row: {text}") };
        let measures = measures.try_into().with_context(|| format!("no row: {text}"))?;
        if *kind == "final" {
            self.add(Row { account, end_ms: *end_ms, window: *window, measures }, last_end_ms);
        }
        Ok(())
    }

    /// Adds the final rows of a record of Keepwell's `windows`, which have this layout.
    ///
    /// # Errors
    /// When the record is not a batch of `windows`.
    pub fn add_windows(&mut self, value: &[u8], layout: &Layout, last_end_ms: i64) -> Result<()> {
        let batch = codec::decode(value, &layout.schema())?;
        let column = |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name}"));
        let accounts = column("account_id")?.as_string::<i32>();
        let (is_final, as_of) =
            (column("final")?.as_boolean(), column("as_of")?.as_primitive::<TimestampMicrosecondType>());
        for period in layout.windows() {
            let measures = ["events", "active_users", "features_used", "duration_ms"];
            let of_window = |name: &str| Ok(column(&format!("{name}_{period}"))?.as_primitive::<Int64Type>());
            let measures: Vec<_> = measures.into_iter().map(of_window).collect::<Result<_>>()?;
            let window = period.trim_end_matches('d').parse()?;
            for row in (0..batch.num_rows()).filter(|row| is_final.value(*row)) {
                // The duration is null if no event has one.
                let cell = |n: usize| if measures[n].is_valid(row) { measures[n].value(row) } else { 0 };
                let measures = [cell(0), cell(1), cell(2), cell(3)];
                let of_row = Row { account: accounts.value(row), end_ms: as_of.value(row) / 1000, window, measures };
                self.add(of_row, last_end_ms);
            }
        }
        Ok(())
    }
}

/// The layout of Keepwell's rows with these windows, in days, and the default measures.
pub fn layout(windows: &[i64]) -> Layout {
    let windows = windows.iter().map(|days| Span::from_secs(days.unsigned_abs() * 86_400)).collect();
    Aggregate { windows, ..Aggregate::default() }.layout()
}

/// Counts of one account.
#[derive(Default)]
struct Account {
    first: i64,
    /// Number of events and duration in milliseconds, by day.
    days: HashMap<i64, (i64, i64)>,
    /// The days of each user and feature, as bits.
    users: HashMap<String, u64>,
    features: HashMap<String, u64>,
}

/// The rows of a load, counted in the simplest way. Each account and window (in days) has one row at the end of each
/// day, from its first day to the last that ends by `last_end_ms`.
///
/// # Errors
/// When a call cannot be parsed, or the load has more than 64 days.
pub fn truth(shape: Shape, windows: &[i64], last_end_ms: i64) -> Result<Rows> {
    let mut accounts: HashMap<String, Account> = HashMap::new();
    let mut ids: HashSet<String> = HashSet::new();
    let start = shape.start_ms / DAY_MS;
    for call in Load::new(shape) {
        let json: serde_json::Value = serde_json::from_str(&call.text)?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("no text");
        if !ids.insert(text(&json["messageId"])?) {
            continue;
        }
        let time: jiff::Timestamp = text(&json["timestamp"])?.parse()?;
        let day = time.as_millisecond().div_euclid(DAY_MS) - start;
        ensure!((0..64).contains(&day), "more than 64 days");
        let account = accounts.entry(call.account_id).or_insert_with(|| Account { first: day, ..Account::default() });
        account.first = account.first.min(day);
        let sums = account.days.entry(day).or_default();
        *sums = (sums.0 + 1, sums.1 + json["properties"]["duration_ms"].as_i64().context("no duration")?);
        *account.users.entry(text(&json["userId"])?).or_default() |= 1 << day;
        *account.features.entry(text(&json["event"])?).or_default() |= 1 << day;
    }
    let mut rows = Rows::default();
    let num_days = last_end_ms / DAY_MS - start;
    for (name, account) in &accounts {
        for day in account.first..num_days {
            for window in windows {
                let from = (day + 1 - window).max(0);
                let mask = ((1_u64 << (day + 1 - from)) - 1) << from;
                let distinct =
                    |names: &HashMap<String, u64>| names.values().filter(|days| **days & mask != 0).count() as i64;
                let of_days = (from..=day).filter_map(|day| account.days.get(&day));
                let (events, duration_ms) = of_days.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
                let measures = [events, distinct(&account.users), distinct(&account.features), duration_ms];
                rows.add(
                    Row { account: name, end_ms: (start + day + 1) * DAY_MS, window: *window, measures },
                    last_end_ms,
                );
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    #[test]
    fn rows_are_equal_in_any_order_and_only_as_often_as_they_come() {
        let of = |texts: &[&str]| {
            let mut rows = Rows::default();
            texts.iter().for_each(|text| rows.add_text(text.as_bytes(), 200).unwrap());
            rows
        };
        let (a, b) = ("acme,100,7,3,2,1,55,final", "acme,200,7,3,2,1,55,final");
        assert_eq!(of(&[a, b]), of(&[b, "acme,100,7,9,9,9,9,live", a, "acme,300,7,3,2,1,55,final"]));
        for other in [&[a][..], &[a, a], &[a, b, b], &[a, "acme,200,7,3,2,1,56,final"]] {
            assert_ne!(of(&[a, b]), of(other), "{other:?}");
        }
    }

    #[test]
    fn what_a_plain_program_counts_is_what_comes_through_ingest_and_aggregate() {
        let shape = Shape {
            seed: 3,
            accounts: 50,
            events: 4000,
            span_ms: 10 * DAY_MS,
            start_ms: 1_704_067_200_000,
            every_account: false,
        };
        let fixture = Fixture::of(shape).unwrap();
        for days in [7, 9] {
            let end_ms = shape.start_ms + days * DAY_MS;
            let mut rows = Rows::default();
            fixture
                .windows
                .iter()
                .filter_map(|record| record.value.as_ref())
                .for_each(|value| rows.add_windows(value, &layout(&[7, 28, 90]), end_ms).unwrap());
            // The windows of the default configuration.
            assert_eq!(rows, truth(shape, &[7, 28, 90], end_ms).unwrap());
            assert!(rows.count > 0);
        }
    }
}
