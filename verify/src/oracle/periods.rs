//! What revenue by period needs besides SQL: the calendar as tables, and the fold of contracts under other names.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::prelude::SessionContext;
use keepwell_core::calendar::{Calendar, Period, PeriodKind};
use keepwell_pipeline::config::{Config, Late, SeatRemoval};

use super::{register, texts};

/// Amounts, as `revenue_all` and the table name them.
const AMOUNTS: [(&str, &str); 13] = [
    ("opening", "opening"),
    ("new", "new"),
    ("expansion", "expansion"),
    ("contraction", "contraction"),
    ("churned", "churned"),
    ("reactivated", "reactivated"),
    ("closing", "closing"),
    ("gross_expansion", "gross_expansion"),
    ("gross_contraction", "gross_contraction"),
    ("gross_churned", "gross_churned"),
    ("earned", "earned"),
    ("due_mrr", "renewals_due_mrr"),
    ("made_mrr", "renewals_made_mrr"),
];

/// Makes three tables: the configured periods that a close may be about, the months that they are in, and times between
/// two starts of periods.
pub fn register_calendar(session: &SessionContext, config: &Config, closes: &RecordBatch) -> Result<()> {
    let calendar = config.revenue.calendar().map_err(anyhow::Error::msg)?;
    let panes = closes.column_by_name("pane").and_then(|panes| panes.as_any().downcast_ref::<Int64Array>());
    let panes = panes.context("no panes")?;
    let width_us = config.time.pane.as_micros();
    let first_us = arrow::compute::min(panes).unwrap_or_default() * width_us - config.revenue.restate_for.as_micros();
    let last_us = (arrow::compute::max(panes).unwrap_or_default() + 2) * width_us;
    let near = |period: &Period| period.end_us >= first_us && period.start_us <= last_us;
    let kinds = config.revenue.periods.iter().copied().collect::<BTreeSet<_>>();
    let mut all: Vec<Period> = kinds.into_iter().flat_map(|kind| every(&calendar, kind)).collect();
    let bounds: BTreeSet<i64> = all.iter().flat_map(|period| [period.start_us, period.end_us]).collect();
    let bounds: Vec<i64> = bounds.into_iter().collect();
    let ints = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let shortest = RecordBatch::try_from_iter([
        ("start_us", ints(bounds.iter().rev().skip(1).rev().copied().collect())),
        ("end_us", ints(bounds.iter().skip(1).copied().collect())),
    ])?;
    register(session, "shortest_period", vec![shortest])?;
    all.retain(near);
    let months: Vec<Period> = every(&calendar, PeriodKind::Month).collect();
    for (name, periods) in [("period", all), ("month", months)] {
        let table = RecordBatch::try_from_iter([
            ("kind", texts(periods.iter().map(|period| period.kind.name()))),
            ("start_us", ints(periods.iter().map(|period| period.start_us).collect())),
            ("end_us", ints(periods.iter().map(|period| period.end_us).collect())),
        ])?;
        register(session, name, vec![table])?;
    }
    Ok(())
}

/// All periods of a kind.
fn every(calendar: &Calendar, kind: PeriodKind) -> impl Iterator<Item = Period> {
    // 1972 is the first year that has all of its periods, whenever a year begins.
    let first = calendar.period(kind, 2 * 366 * 24 * 3600 * 1_000_000);
    std::iter::successors(first, move |period| calendar.period(kind, period.end_us))
}

/// The SQL with what it repeats: the fold of contracts as booked, and amounts as money.
pub fn filled(revenue: &str, contracts: &str, config: &Config) -> String {
    let part = |from: &str, to: &str| {
        let found = contracts.find(from).zip(contracts.find(to));
        found.and_then(|(from, to)| contracts.get(from..to)).unwrap_or_default()
    };
    let layers = part("-- table contract_numbered", "-- table contract_step").replace("contract_", "layer_");
    let booked = part("-- table contract_step", "-- table customer_turn").replace("contract_", "booked_");
    let layers = layers.replace("layer_id", "contract_id");
    let booked = booked.replace("booked_id", "contract_id").replace("customer_", "booked_");
    let money =
        AMOUNTS.map(|(of, name)| format!("cast(cast(r.{of} as decimal(20, 0)) / 100 as decimal(18, 2)) as {name}"));
    let rules = &config.revenue;
    [
        ("{layers}", layers),
        ("{booked}", booked),
        ("{money}", money.join(", ")),
        ("{restates}", (rules.late == Late::Restate).to_string()),
        ("{restate_for}", rules.restate_for.as_micros().to_string()),
        ("{seats_are_churn}", (rules.seat_removal == SeatRemoval::Churn).to_string()),
    ]
    .iter()
    .fold(revenue.to_owned(), |sql, (name, value)| sql.replace(name, value))
}
