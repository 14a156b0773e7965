//! The score as plain SQL: computes what `health` must contain from window rows, one statement after another.
//!
//! It shares only three things with the stage: the model file, the SQL in it, and `days_between`. Everything else is
//! written again, in integers of millionths: normalisers, missing policies, weights, bands, comparisons with earlier
//! rows, and triggers. Some results depend on the previous row (bands, triggers, baselines). They are computed from the
//! published previous row, so that each row is checked on its own and, together, all rows are. The version of the model
//! file for a row comes from the published row.

pub mod audit;
mod factors;
mod items;
mod stages;
mod triggers;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Decimal128Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use keepwell_core::schema::columns::{Columns, TimeArray};
use keepwell_core::schema::window::{Layout, long_form};

pub use items::items_of;

use crate::expression::days_between;
use crate::model::{Band, BandBasis, Model, ModelFile};
use keepwell_core::points::Points;

/// The published rows. They are checked, and each row is compared with the published row before it.
#[derive(Debug)]
pub struct PublishedRows {
    /// Rows of the `health` or `scores` table.
    pub scores: RecordBatch,
    /// Triggers of these rows, one row each: account_id, as_of, name, state, since, news, severity, playbook,
    /// owner_role.
    pub triggers: RecordBatch,
}

/// The expected contents of `health`. Points are in millionths, times in microseconds.
#[derive(Debug)]
pub struct Expected {
    /// account_id, as_of, retired, deleted, score, display, band, band_since, previous_as_of, previous_score,
    /// previous_band, delta, coverage, baseline_score, segment, stage, stage_since, next_stage, next_stage_since,
    /// stage_rules, stage_owner_role, stage_action, stage_metric, stage_metric_value, owner, customer_status, customer_since,
    /// churn_reason, model, model_version.
    pub scores: Vec<RecordBatch>,
    /// account_id, as_of, position, name, group, value, normalised, weight, effective_weight, contribution, missing,
    /// carried_from.
    pub factors: Vec<RecordBatch>,
    /// account_id, as_of, position, name, delta.
    pub drivers: Vec<RecordBatch>,
    /// account_id, as_of, name, state, since, news, severity, playbook, owner_role, outcome; computed as for final
    /// rows.
    pub triggers: Vec<RecordBatch>,
}

/// A model with the version of its file. It judges the rows that were published with this version.
#[derive(Debug, Clone, Copy)]
struct Numbered<'m> {
    version: i64,
    model: &'m Model,
}

/// Computes what must be published for these window rows of this layout. `pane_us` is the width of a pane. `files` are the versions of
/// the model file for these rows, the newest last.
///
/// # Errors
/// When a statement fails.
pub async fn expected(
    windows: RecordBatch,
    published: PublishedRows,
    files: &[ModelFile],
    layout: &Layout,
    pane_us: i64,
) -> Result<Expected> {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    session.register_udf(days_between());
    let register = |name: &str, rows: RecordBatch| {
        session.register_table(name, Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?))
    };
    register("outcome", outcomes(&windows)?)?;
    register("window_rows", windows)?;
    register("published", in_millionths(&published.scores)?)?;
    register("published_trigger", in_millionths(&published.triggers)?)?;
    let long = ("windows".to_owned(), long_form(layout, "window_rows"));
    for (name, sql) in std::iter::once(long).chain(statements(files, layout, pane_us)?) {
        let named = |error: DataFusionError| error.context(format!("table {name}: {sql}"));
        let frame = session.sql(&sql).await.map_err(named)?;
        let schema = Arc::clone(frame.schema().inner());
        let batches = frame.collect().await.map_err(named)?;
        // Nullability differs between plan and batches.
        let schema = batches.first().map_or(schema, RecordBatch::schema);
        session.register_table(name.as_str(), Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    }
    let collect = async |sql: &str| session.sql(sql).await?.collect().await;
    Ok(Expected {
        scores: collect("select * from scores order by account_id, as_of").await?,
        factors: collect("select * from factors order by 1, 2, 3").await?,
        drivers: collect(factors::DRIVERS).await?,
        triggers: collect("select * from triggers order by 1, 2, 3").await?,
    })
}

/// Outcomes of alerts, one row each: account_id, as_of, alert_id, outcome.
fn outcomes(windows: &RecordBatch) -> Result<RecordBatch> {
    let columns = Columns::Batch(windows);
    let (accounts, as_of, maps) = (columns.text("account_id")?, columns.time("as_of")?, columns.map("outcomes")?);
    let mut published = BTreeSet::new();
    for row in 0..windows.num_rows() {
        let entries = maps.value(row);
        let (ids, outcomes) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
        let pairs = ids.iter().flatten().zip(outcomes.iter().flatten());
        published.extend(pairs.map(|(id, outcome)| {
            (accounts.value(row).to_owned(), as_of.value(row), id.to_owned(), outcome.to_owned())
        }));
    }
    let texts = |of: fn(&(String, i64, String, String)) -> &str| {
        Arc::new(StringArray::from_iter_values(published.iter().map(of))) as ArrayRef
    };
    let as_of: TimeArray = published.iter().map(|published| Some(published.1)).collect();
    Ok(RecordBatch::try_from_iter([
        ("account_id", texts(|published| &published.0)),
        ("as_of", Arc::new(as_of.with_timezone("UTC")) as ArrayRef),
        ("alert_id", texts(|published| &published.2)),
        ("outcome", texts(|published| &published.3)),
    ])?)
}

/// Converts decimals to integers of millionths, and drops nested columns.
fn in_millionths(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = rows.schema();
    let flat = schema.fields().iter().zip(rows.columns()).filter(|(field, _)| !field.data_type().is_nested());
    let columns = flat.map(|(field, column)| {
        let column: ArrayRef = match field.data_type() {
            DataType::Decimal128(_, _) => {
                let decimals = column.as_primitive::<Decimal128Type>().iter();
                Arc::new(decimals.map(|value| value.map(|value| value as i64)).collect::<Int64Array>())
            }
            _ => Arc::clone(column),
        };
        (field.name().as_str(), column, true)
    });
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

/// Name and SQL of each table. Each may use the tables before it.
fn statements(files: &[ModelFile], layout: &Layout, pane_us: i64) -> Result<Vec<(String, String)>> {
    let of = |file: &'_ ModelFile| file.version;
    let numbered = files.iter().flat_map(|file| file.models.iter().map(|model| Numbered { version: of(file), model }));
    let models: Vec<Numbered<'_>> = numbered.collect();
    let newest = files.last().map_or(0, of);
    let mut tables = vec![("told".to_owned(), told(newest))];
    tables.extend(stages::statements(files)?);
    tables.extend([("judged".to_owned(), judged(&models)), ("cases".to_owned(), CASES.to_owned())]);
    tables.extend(factors::statements(&models, layout)?);
    tables.push(("rated".to_owned(), rated(&models)));
    tables.push(("banded".to_owned(), banded(&models, pane_us)));
    tables.push(("scores".to_owned(), SCORES.to_owned()));
    tables.extend(triggers::statements(&models));
    Ok(tables)
}

/// SQL for each account at each time, and its published row. Without a published row the newest version counts.
fn told(newest: i64) -> String {
    format!(
        "with w as (select distinct account_id, as_of, retired, deleted, segment, stage, owner, customer_status, customer_since, churn_reason, \
         coalesce(customer_status in ('churned', 'expired'), false) as has_left, \
         coalesce(started_at, first_seen_at) as began_at from windows) \
         select w.*, cast(w.as_of as bigint) as us, t.score as published_score, t.band as published_band, \
         cast(t.band_since as bigint) as published_since, t.baseline_score as published_baseline, \
         t.stage as published_stage, cast(t.stage_since as bigint) as published_stage_since, \
         t.stage_rules as published_rules, \
         coalesce(t.model_version, {newest}) as version, coalesce(t.final, true) as is_final \
         from w left join published t on t.account_id = w.account_id and t.as_of = w.as_of"
    )
}

/// SQL for each account at each time with its model.
fn judged(models: &[Numbered<'_>]) -> String {
    let (mut number, mut name) = ("case".to_owned(), "case".to_owned());
    for (n, Numbered { version, model }) in models.iter().enumerate() {
        let mut condition = format!("version = {version}");
        for (column, names) in [("segment", &model.only_for.segments), ("stage", &model.only_for.stages)] {
            if !names.is_empty() {
                let names: Vec<String> = names.iter().map(|name| quoted(&name.value)).collect();
                condition += &format!(" and coalesce({column} in ({}), false)", names.join(", "));
            }
        }
        number += &format!(" when {condition} then {n}");
        name += &format!(" when {condition} then {}", quoted(&model.name.value));
    }
    format!("select *, {number} end as number, {name} end as model from staged")
}

/// Adds the row before. The row after a retired or deleted one begins a life. A row of another model begins a run, and so
/// does that of a customer that has left.
const CASES: &str = "
with before as (
  select *, lag(as_of) over w as last_as_of, lag(published_score) over w as last_score, lag(published_band) over w as last_band,
    lag(published_since) over w as last_since, lag(published_baseline) over w as last_baseline, lag(model) over w as last_model,
    coalesce(lag(retired or deleted) over w, true) as is_first
  from judged window w as (partition by account_id order by as_of)
)
select account_id, as_of, us, retired, deleted, has_left, segment, stage, stage_since, next_stage, next_stage_since, stage_rules,
  stage_owner_role, stage_action, stage_metric, stage_metric_value, owner, customer_status, customer_since, churn_reason,
  began_at, number, model, version,
  case when not is_first then last_as_of end as previous_as_of, case when not is_first then last_score end as previous_score,
  case when not is_first then last_band end as previous_band, case when not is_first then last_since end as previous_since,
  case when not is_first then last_baseline end as previous_baseline,
  sum(case when is_first then 1 else 0 end) over (partition by account_id order by as_of) as life,
  sum(case when is_first or has_left or model <> last_model then 1 else 0 end) over (partition by account_id order by as_of) as run
from before";

/// SQL for scores, coverage and displayed scores.
fn rated(models: &[Numbered<'_>]) -> String {
    let mut shown = "case".to_owned();
    for (number, Numbered { model, .. }) in models.iter().enumerate() {
        let step = 10_i64.pow(6 - model.display.decimals.min(6));
        let divisor = 100 / model.display.out_of * step;
        shown += &format!(" when c.number = {number} then (2 * t.score + {divisor}) / (2 * {divisor}) * {step}");
    }
    format!(
        "select c.*, t.score, t.coverage, {shown} end as display from cases c \
         left join totals t on t.account_id = c.account_id and t.as_of = c.as_of"
    )
}

fn banded(models: &[Numbered<'_>], pane_us: i64) -> String {
    let (mut bands, mut baselines) =
        ("case when deleted then null when has_left then customer_status".to_owned(), "case".to_owned());
    for (number, Numbered { model, .. }) in models.iter().enumerate() {
        bands += &format!(" when number = {number} then {}", band(model, pane_us));
        baselines += &format!(
            " when number = {number} then coalesce(previous_baseline, case when not deleted and days_between(began_at, as_of) >= cast({:?} as double) then score end)",
            model.baseline_day
        );
    }
    format!("select *, {bands} end as band, {baselines} end as baseline from rated")
}

/// SQL for the band: the one that is kept, otherwise the highest that is reached.
fn band(model: &Model, pane_us: i64) -> String {
    let basis = match model.band_basis {
        BandBasis::Exact => "score".to_owned(),
        BandBasis::Display => format!("display * {}", 100 / model.display.out_of),
    };
    let least = (model.minimum_coverage * 1e6).round() as i64;
    let reached = |band: &Band| {
        let sign = if band.above.is_some() { ">" } else { ">=" };
        format!("{basis} {sign} {}", band.start().millionths())
    };
    let mut sql = format!("case when score is null or coverage < {least} then 'unknown'");
    for (index, band) in model.bands.iter().enumerate() {
        let name = quoted(&band.name.value);
        let dwell_us = i64::from(band.dwell_panes) * pane_us;
        sql += &format!(" when previous_band = {name} and us - previous_since < {dwell_us} then {name}");
        if let Some(kept) = band.leave_below.and_then(Points::round) {
            let higher =
                model.bands.get(index..).unwrap_or_default().iter().map(reached).collect::<Vec<_>>().join(" or ");
            sql += &format!(
                " when previous_band = {name} and {basis} >= {} and not ({higher}) then {name}",
                kept.millionths()
            );
        }
    }
    for band in model.bands.iter().rev() {
        sql += &format!(" when {} then {}", reached(band), quoted(&band.name.value));
    }
    sql + " end"
}

const SCORES: &str = "
select account_id, as_of, retired, deleted, score, display, band,
  case when deleted then null when band = previous_band then previous_since else us end as band_since,
  previous_as_of, previous_score, previous_band, score - previous_score as delta, coalesce(coverage, 0) as coverage,
  case when not deleted then baseline end as baseline_score, segment, stage, stage_since, next_stage, next_stage_since, stage_rules,
  stage_owner_role, stage_action, stage_metric, stage_metric_value, owner, customer_status, customer_since, churn_reason, model, version as model_version
from banded";

/// A text of a model file as SQL has it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// SQL for the floor of an integer quotient. The divisor must be above 0.
fn floor_of(dividend: &str, divisor: &str) -> String {
    format!("((({dividend}) - ((({dividend}) % ({divisor})) + ({divisor})) % ({divisor})) / ({divisor}))")
}
