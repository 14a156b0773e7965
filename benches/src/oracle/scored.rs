//! The scores as plain SQL over final window rows: integers of millionths, one statement after another.
//!
//! It shares with `score` the model file's form and the SQL in it, nothing else: normalisers, missing
//! policies, weights, bands, comparisons with the row before and triggers are stated anew.

use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use score::model::{BandBasis, Missing, Model, ModelFile};
use score::normalise::Normalise;

/// What `health` must say of final rows. Points are millionths, times microseconds.
#[derive(Debug)]
pub struct Scored {
    /// account_id, as_of, retired, deleted, score, display, band, previous_as_of, previous_score,
    /// previous_band, delta, coverage, segment, stage, owner, model, model_version.
    pub scores: Vec<RecordBatch>,
    /// account_id, as_of, position, name, value, normalised, weight, effective_weight, contribution, missing.
    pub factors: Vec<RecordBatch>,
    /// account_id, as_of, position, name, delta.
    pub drivers: Vec<RecordBatch>,
    /// account_id, as_of, name, state, since, severity, playbook, owner_role.
    pub triggers: Vec<RecordBatch>,
}

/// Scores final window rows.
///
/// # Errors
/// When a statement fails.
pub async fn answer(windows: RecordBatch, file: &ModelFile) -> Result<Scored> {
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    session.register_table("windows", Arc::new(MemTable::try_new(windows.schema(), vec![vec![windows]])?))?;
    for (name, sql) in statements(file) {
        let frame = session.sql(&sql).await.with_context(|| format!("table {name}: {sql}"))?;
        let schema = Arc::clone(frame.schema().inner());
        let batches = frame.collect().await.with_context(|| format!("table {name}"))?;
        // Nullability differs between plan and batches.
        let schema = batches.first().map_or(schema, RecordBatch::schema);
        session.register_table(name.as_str(), Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    }
    let collect = async |sql: &str| anyhow::Ok(session.sql(sql).await?.collect().await?);
    Ok(Scored {
        scores: collect("select * from scores order by account_id, as_of").await?,
        factors: collect("select account_id, as_of, position, name, value, normalised, weight, effective_weight, contribution, missing from factors order by 1, 2, 3").await?,
        drivers: collect(DRIVERS).await?,
        triggers: collect(TRIGGERS).await?,
    })
}

const DRIVERS: &str = "
with moved as (
  select f.account_id, f.as_of, f.name, f.position as place, coalesce(f.contribution, 0) - coalesce(b.contribution, 0) as delta
  from factors f
  join scores s on s.account_id = f.account_id and s.as_of = f.as_of
  join factors b on b.account_id = s.account_id and b.as_of = s.previous_as_of and b.model = f.model and b.name = f.name
), ranked as (
  select *, row_number() over (partition by account_id, as_of order by abs(delta) desc, place) - 1 as position
  from moved where delta <> 0
)
select account_id, as_of, position, name, delta from ranked where position < 3 order by 1, 2, 3";

const TRIGGERS: &str = "
with chained as (
  select t.*, coalesce(b.holds, false) as held
  from triggers t
  join scores s on s.account_id = t.account_id and s.as_of = t.as_of
  left join triggers b on b.account_id = s.account_id and b.as_of = s.previous_as_of and b.name = t.name
), since as (
  select *, max(case when holds and not held then as_of end) over (partition by account_id, name order by as_of) as since from chained
)
select account_id, as_of, name,
  case when holds and held then 'active' when holds then 'raised' else 'cleared' end as state, since, severity, playbook, owner_role
from since where holds or held order by 1, 2, 3";

/// Name and SQL of each table, in the order in which they build on each other.
fn statements(file: &ModelFile) -> Vec<(String, String)> {
    let mut tables = vec![("cases".to_owned(), cases(file))];
    let (mut values, mut flags) = (Vec::new(), Vec::new());
    for (number, model) in file.models.iter().enumerate() {
        for (position, factor) in model.factors.iter().enumerate() {
            let missing = factor.missing.unwrap_or(model.missing);
            values.push(format!(
                "select c.account_id, c.as_of, c.model, {position} as position, '{name}' as name, w.value, {weight} as weight, '{missing}' as policy, {points} as points \
                 from cases c join (select account_id, as_of, cast(({sql}) as double) as value from windows where period = '{period}') w \
                 on w.account_id = c.account_id and w.as_of = c.as_of where c.number = {number} and not c.deleted",
                name = factor.name.value,
                weight = (factor.weight * 1e6).round() as i64,
                missing = missing.name(),
                points = points(&factor.normalise),
                sql = plain(&factor.sql.value),
                period = factor.period.as_ref().unwrap_or(&model.period).value,
            ));
        }
        for trigger in &model.triggers {
            flags.push(format!(
                "select c.account_id, c.as_of, '{name}' as name, c.number = {number} and coalesce(w.holds, false) and not c.deleted and not c.retired as holds, \
                 '{severity}' as severity, '{playbook}' as playbook, '{owner_role}' as owner_role \
                 from cases c left join (select account_id, as_of, ({sql}) as holds from windows where period = '{period}') w \
                 on w.account_id = c.account_id and w.as_of = c.as_of",
                name = trigger.name.value,
                severity = trigger.severity.name(),
                playbook = trigger.playbook,
                owner_role = trigger.owner_role,
                sql = plain(&trigger.sql.value),
                period = trigger.period.as_ref().unwrap_or(&model.period).value,
            ));
        }
    }
    if flags.is_empty() {
        flags.push("select account_id, as_of, '' as name, false as holds, '' as severity, '' as playbook, '' as owner_role from cases where false".to_owned());
    }
    tables.push(("factor_values".to_owned(), values.join(" union all ")));
    tables.push(("triggers".to_owned(), flags.join(" union all ")));
    tables.push(("normal".to_owned(), format!(
        "select *, value is not null as known, case when value is not null then cast(floor(points * 1e6 + 0.5) as bigint) when policy = '{}' then 0 when policy = '{}' then 50000000 end as normalised from factor_values",
        Missing::Zero.name(), Missing::Neutral.name())));
    tables.push((
        "summed".to_owned(),
        "select *, sum(case when normalised is not null then weight end) over (partition by account_id, as_of) as counting, \
         sum(normalised * weight) over (partition by account_id, as_of order by position rows between unbounded preceding and current row) as running from normal"
            .to_owned(),
    ));
    tables.push((
        "factors".to_owned(),
        "select account_id, as_of, model, position, name, value, known, normalised, weight, \
         case when normalised is null then 0 else (2 * 100000000 * weight + counting) / (2 * counting) end as effective_weight, \
         case when normalised is not null then (2 * running + counting) / (2 * counting) - (2 * (running - normalised * weight) + counting) / (2 * counting) end as contribution, \
         case when not known then policy end as missing from summed"
            .to_owned(),
    ));
    tables.push(("totals".to_owned(), "select account_id, as_of, sum(contribution) as score, sum(case when known then weight else 0 end) as known, sum(weight) as weights from factors group by 1, 2".to_owned()));
    tables.push((
        "rated".to_owned(),
        "select c.*, t.score, coalesce((2 * 100000000 * t.known + t.weights) / (2 * t.weights), 0) as coverage, (t.score + 500000) / 1000000 as display \
         from cases c left join totals t on t.account_id = c.account_id and t.as_of = c.as_of"
            .to_owned(),
    ));
    tables.push(("banded".to_owned(), banded(file)));
    tables.push(("scores".to_owned(), SCORES.replace("{version}", &file.version.to_string())));
    tables
}

/// A row after a retired or deleted one has no row before it.
const SCORES: &str = "
with before as (
  select *, lag(as_of) over w as last_as_of, lag(score) over w as last_score, lag(band) over w as last_band,
    coalesce(lag(retired or deleted) over w, true) as is_first
  from banded window w as (partition by account_id order by as_of)
)
select account_id, as_of, retired, deleted, score, display, band,
  case when not is_first then last_as_of end as previous_as_of, case when not is_first then last_score end as previous_score,
  case when not is_first then last_band end as previous_band, case when not is_first then score - last_score end as delta,
  coverage, segment, stage, owner, model, {version} as model_version
from before";

fn cases(file: &ModelFile) -> String {
    let quoted = |names: &[String]| names.iter().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ");
    let (mut number, mut name) = ("case".to_owned(), "case".to_owned());
    for (n, model) in file.models.iter().enumerate() {
        let mut condition = "true".to_owned();
        for (column, names) in [("segment", &model.only_for.segments), ("stage", &model.only_for.stages)] {
            if !names.is_empty() {
                condition += &format!(" and coalesce({column} in ({}), false)", quoted(names));
            }
        }
        number += &format!(" when {condition} then {n}");
        name += &format!(" when {condition} then '{}'", model.name.value);
    }
    format!(
        "select distinct account_id, as_of, retired, deleted, segment, stage, owner, {number} end as number, {name} end as model from windows"
    )
}

fn banded(file: &ModelFile) -> String {
    let mut bands = "case when deleted then null".to_owned();
    for (number, model) in file.models.iter().enumerate() {
        bands += &format!(" when number = {number} then {}", band(model));
    }
    format!("select *, {bands} end as band from rated")
}

fn band(model: &Model) -> String {
    let basis = match model.band_basis {
        BandBasis::Exact => "score",
        BandBasis::Display => "display * 1000000",
    };
    let least = (model.minimum_coverage * 1e6).round() as i64;
    let mut sql = format!("case when score is null or coverage < {least} then 'unknown'");
    for band in model.bands.iter().rev() {
        sql += &format!(" when {basis} >= {} then '{}'", (band.from * 1e6).round() as i64, band.name.value);
    }
    sql + " end"
}

/// Points of `value` as a float, 0-100.
fn points(normalise: &Normalise) -> String {
    let float = |value: f64| format!("cast({value:?} as double)");
    let sql = match normalise {
        Normalise::Linear { from, to } => {
            let (from, to) = (float(*from), float(*to));
            format!("cast(100 as double) * (value - {from}) / ({to} - {from})")
        }
        Normalise::Piecewise(pairs) => {
            let mut sql = "case".to_owned();
            if let Some([x, y]) = pairs.first() {
                sql += &format!(" when value < {} then {}", float(*x), float(*y));
            }
            for pair in pairs.windows(2) {
                if let [[x0, y0], [x1, y1]] = pair {
                    let (x0, y0, x1, y1) = (float(*x0), float(*y0), float(*x1), float(*y1));
                    sql += &format!(" when value < {x1} then {y0} + ({y1} - {y0}) * (value - {x0}) / ({x1} - {x0})");
                }
            }
            let last = pairs.last().map_or(0.0, |[_, y]| *y);
            format!("{sql} else {} end", float(last))
        }
        Normalise::Steps { steps, rest } => {
            let steps: String =
                steps.iter().map(|s| format!(" when value < {} then {}", float(s.below), float(s.points))).collect();
            format!("case{steps} else {} end", float(*rest))
        }
    };
    format!("least(greatest({sql}, cast(0 as double)), cast(100 as double))")
}

/// `days_between(a, b)` in plain SQL. Its arguments are columns.
fn plain(sql: &str) -> String {
    let mut out = String::new();
    let mut rest = sql;
    while let Some((before, after)) = rest.split_once("days_between(") {
        out += before;
        let Some((arguments, tail)) = after.split_once(')') else { break };
        let (from, to) = arguments.split_once(',').unwrap_or((arguments, arguments));
        out += &format!(
            "(cast(cast({} as bigint) - cast({} as bigint) as double) / cast(86400000000 as double))",
            to.trim(),
            from.trim()
        );
        rest = tail;
    }
    out + rest
}
