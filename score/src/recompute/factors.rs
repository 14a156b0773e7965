//! Factors as plain SQL: values, points, weights, contributions.

use std::collections::BTreeSet;

use keepwell_core::pane::DAY_US;
use keepwell_core::schema::window::Layout;

use datafusion::error::{DataFusionError, Result};

use super::{Numbered, floor_of, quoted};
use crate::model::{Against, Factor, Fallback, Model, Over, Reduce, Remember, Weights, period_days};
use crate::normalise::{Normalise, Outside, Step};
use crate::rate::{LIMIT, START, nominal};

pub(super) const DRIVERS: &str = "
with moved as (
  select f.account_id, f.as_of, f.name, f.position as place, coalesce(f.contribution, 0) - coalesce(b.contribution, 0) as delta
  from factors f
  join scores s on s.account_id = f.account_id and s.as_of = f.as_of
  join scores p on p.account_id = s.account_id and p.as_of = s.previous_as_of and p.model = s.model
    and p.model_version = s.model_version
  join factors b on b.account_id = s.account_id and b.as_of = s.previous_as_of and b.name = f.name
  where f.name not like '(%'
), ranked as (
  select *, row_number() over (partition by account_id, as_of order by abs(delta) desc, place) - 1 as position
  from moved where delta <> 0
)
select account_id, as_of, position, name, delta from ranked where position < 3 order by 1, 2, 3";

/// Name and SQL of each table. Each may use the tables before it.
///
/// # Errors
/// When the name of a window is not a duration.
pub(super) fn statements(models: &[Numbered<'_>], layout: &Layout) -> Result<Vec<(String, String)>> {
    let mut tables = Vec::new();
    for (number, Numbered { model, .. }) in models.iter().enumerate() {
        for period in periods(model) {
            tables.push((format!("seen_{number}_{period}"), window_rows(number, period)?));
        }
    }
    let mut values = Vec::new();
    for (number, Numbered { model, .. }) in models.iter().enumerate() {
        let mut columns = String::new();
        let mut joins = String::new();
        for (index, remember) in model.remember.iter().enumerate() {
            let name = format!("remembered_{number}_{index}");
            tables.push((format!("{name}_of"), remembered_of(models, &model.name.value, &remember.name.value)));
            tables.push((name.clone(), remembered(number, &name, remember)));
            columns += &format!(", cast({name}.value as double) / cast(1000000 as double) as {}", remember.name.value);
            joins += &format!(" left join {name} on {name}.account_id = s.account_id and {name}.as_of = s.as_of");
        }
        for period in periods(model) {
            let sql = format!("select s.*{columns} from \"seen_{number}_{period}\" s{joins}");
            tables.push((format!("row_{number}_{period}"), sql));
        }
        values.extend(model.factors.iter().enumerate().map(|(at, factor)| value((number, model), at, factor, layout)));
    }
    // A value that is not a finite number, such as 0 / 0, is unknown.
    let values = format!(
        "select *, case when computed - computed = 0 then computed end as value from ({})",
        values.join(" union all ")
    );
    tables.push(("factor_values".to_owned(), values));
    tables.push(("carried".to_owned(), CARRIED.to_owned()));
    tables.push(("normal".to_owned(), normal(models)));
    tables.extend(WEIGHED.map(|(name, sql)| (name.to_owned(), sql.to_owned())));
    let running = floor_of("2 * running + 100000000", "200000000");
    let before = floor_of("2 * (running - normalised * effective) + 100000000", "200000000");
    tables.push((
        "contributed".to_owned(),
        format!(
            "select *, case when normalised is not null then {running} - {before} end as contribution from running"
        ),
    ));
    tables.push(("sums".to_owned(), sums(models)));
    tables.push(("totals".to_owned(), "select account_id, as_of, coverage, case when additive then greatest(0, least(100000000, sum + start)) else sum end as score, sum, start, additive, num_factors from sums".to_owned()));
    tables.push(("factors".to_owned(), FACTORS.replace("{start}", START).replace("{limit}", LIMIT)));
    Ok(tables)
}

/// SQL for the rows of one window, with all columns that a factor's SQL may use, except remembered values.
fn window_rows(number: usize, period: &str) -> Result<String> {
    let days = period_days(period).map_err(DataFusionError::Plan)?;
    Ok(format!(
        "select w.*, c.previous_as_of, cast(c.previous_score as double) / cast(1000000 as double) as previous_score, c.previous_band, \
         cast(c.previous_baseline as double) / cast(1000000 as double) as baseline_score, cast({days:?} as double) as period_days, \
         days_between(c.began_at, c.as_of) as age_days, greatest(cast(1 as double), least(cast({days:?} as double), days_between(c.began_at, c.as_of))) as known_days, \
         c.us, c.life, c.run, c.has_left \
         from windows w join cases c on c.account_id = w.account_id and c.as_of = w.as_of where w.period = '{period}' and c.number = {number}"
    ))
}

/// The windows that a model uses.
fn periods(model: &Model) -> BTreeSet<&str> {
    let of_factors = model.factors.iter().map(|factor| &factor.period);
    let others = model.triggers.iter().map(|t| &t.period).chain(model.remember.iter().map(|r| &r.period));
    of_factors.chain(others).map(|period| period.as_ref().unwrap_or(&model.period).value.as_str()).collect()
}

/// SQL for what all versions of a model remember under a name, and for the time up to which all of it is forgotten.
/// Each row forgets what is too old for its own version. If its version does not know the name, it forgets everything.
fn remembered_of(models: &[Numbered<'_>], model_name: &str, name: &str) -> String {
    let versions = models.iter().enumerate().filter(|(_, numbered)| *numbered.model.name.value == *model_name);
    let rows = versions.map(|(number, Numbered { model, .. })| {
        let Some(remember) = model.remember.iter().find(|remember| *remember.name.value == *name) else {
            return format!("select account_id, as_of, us, run, {number} as number, cast(null as bigint) as value, us as gone from cases where number = {number}");
        };
        format!(
            "select account_id, as_of, us, run, {number} as number, cast(floor(cast(({}) as double) * 1e6 + 0.5) as bigint) as value, us - {} as gone from \"seen_{number}_{}\" where not has_left",
            remember.sql.value,
            remember.over.as_micros(),
            remember.period.as_ref().unwrap_or(&model.period).value
        )
    });
    format!(
        "select account_id, as_of, us, run, number, value, max(gone) over (partition by account_id, run order by us) as gone from ({})",
        rows.collect::<Vec<_>>().join(" union all ")
    )
}

fn remembered(number: usize, name: &str, remember: &Remember) -> String {
    let mean = floor_of("2 * sum(b.value) + count(b.value)", "2 * count(b.value)");
    let by = match remember.by {
        Over::Mean => mean.as_str(),
        Over::Min => "min(b.value)",
        Over::Max => "max(b.value)",
        Over::First => "first_value(b.value order by b.us)",
        Over::Last => "first_value(b.value order by b.us desc)",
    };
    format!(
        "select a.account_id, a.as_of, {by} as value from {name}_of a join {name}_of b on b.account_id = a.account_id and b.run = a.run \
         where a.number = {number} and b.us < a.us and b.us > a.gone and b.value is not null group by 1, 2"
    )
}

fn value((number, model): (usize, &Model), position: usize, factor: &Factor, layout: &Layout) -> String {
    let sql = &factor.sql.value;
    let mut value = format!("({sql})");
    if factor.against == Some(Against::PreviousWindow) {
        let before = of_previous_window(sql, layout);
        value = format!("case when ({before}) <> 0 then cast(({sql}) as double) / cast(({before}) as double) end");
    }
    if let Some(expires) = &factor.expires {
        let most = expires.after.as_micros() as f64 / DAY_US as f64;
        value = format!(
            "case when days_between({}, as_of) <= cast({most:?} as double) then {value} end",
            expires.dated_by.value
        );
    }
    let groups = &model.groups;
    let place = factor.group.as_ref().and_then(|name| groups.iter().position(|group| group.name.value == name.value));
    let group = place.and_then(|place| groups.get(place));
    let policy = factor.missing.unwrap_or(model.missing);
    let is_additive = model.weights == Weights::Additive;
    let reduce = match group.map(|group| group.by).unwrap_or_default() {
        _ if is_additive => "add",
        Reduce::Weighted => "weighted",
        Reduce::Mean => "mean",
        Reduce::Min => "min",
        Reduce::Max => "max",
    };
    let neutral = if is_additive { 0 } else { 50_000_000 };
    let (fallback, name) = match policy.fallback() {
        Fallback::Reweight => ("null".to_owned(), "reweight"),
        Fallback::Zero => ("0".to_owned(), "zero"),
        Fallback::Neutral => (neutral.to_string(), "neutral"),
    };
    format!(
        "select account_id, as_of, us, run, deleted, {number} as number, {position} as position, {factor} as name, {group_name} as \"group\", {place} as place, \
         cast({group_weight} as bigint) as group_weight, '{reduce}' as reduce, cast({weight} as bigint) as weight, cast({nominal} as bigint) as nominal, cast({ttl} as bigint) as ttl, \
         cast({fallback} as bigint) as fallback, '{name}' as policy, cast({value} as double) as computed from \"row_{number}_{period}\" where not has_left",
        factor = quoted(&factor.name.value),
        group_name = group.map_or("cast(null as varchar)".to_owned(), |group| quoted(&group.name.value)),
        place = place.unwrap_or_default(),
        group_weight = group.map_or(100_000_000, |group| (group.weight * 1e6).round() as i64),
        weight = (factor.weight.unwrap_or(100.0) * 1e6).round() as i64,
        nominal = nominal(model).get(position).map_or(0, |points| points.millionths()),
        ttl = policy.ttl_us().map_or("null".to_owned(), |ttl| ttl.to_string()),
        period = factor.period.as_ref().unwrap_or(&model.period).value,
    )
}

/// SQL over the window before: every measure gets the prefix `previous_`.
fn of_previous_window(sql: &str, layout: &Layout) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in sql.chars().chain([' ']) {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if layout.is_measure(&word) {
            out += "previous_";
        }
        out += &word;
        word.clear();
        out.push(c);
    }
    out
}

/// The last known value of the same run before each row. A version that does not carry the factor forgets it.
const CARRIED: &str = "
with known as (
  select *, last_value(case when value is not null and ttl is not null then us end) ignore nulls over w as known_us,
    last_value(value) ignore nulls over w as known_value, coalesce(max(case when ttl is null then us end) over w, 0) as gone
  from factor_values where not deleted
  window w as (partition by account_id, run, name order by us rows between unbounded preceding and 1 preceding)
)
select *, case when value is null and us - known_us <= ttl and known_us > gone then known_us end as carried_us,
  coalesce(value, case when us - known_us <= ttl and known_us > gone then known_value end) as found
from known";

fn normal(models: &[Numbered<'_>]) -> String {
    let mut points = "case".to_owned();
    for (number, Numbered { model, .. }) in models.iter().enumerate() {
        for (position, factor) in model.factors.iter().enumerate() {
            points += &format!(" when number = {number} and position = {position} then {}", of(&factor.normalise));
        }
    }
    format!(
        "with points as (select *, {points} end as points from carried) \
         select *, case when found is not null then cast(floor(points * 1e6 + 0.5) as bigint) else fallback end as normalised, found is not null as known, \
         case when carried_us is not null then 'carry' when found is null then policy end as missing from points"
    )
}

/// Effective weights: 100 percent are divided among the groups that count, and the part of each group among its members
/// that count.
const WEIGHED: [(&str, &str); 4] = [
    (
        "parts",
        "with g as (select distinct account_id, as_of, place, group_weight from normal where normalised is not null), \
         s as (select *, sum(group_weight) over (partition by account_id, as_of) as total, \
           sum(group_weight) over (partition by account_id, as_of order by place) as upto from g) \
         select account_id, as_of, place, (2 * 100000000 * upto + total) / (2 * total) - (2 * 100000000 * (upto - group_weight) + total) / (2 * total) as part from s",
    ),
    (
        "members",
        "select n.*, p.part, case when n.normalised is null then 0 when n.reduce = 'weighted' then n.weight when n.reduce = 'mean' then 1 \
           when n.reduce = 'min' then case when row_number() over (partition by n.account_id, n.as_of, n.place, n.normalised is null order by n.normalised, n.position) = 1 then 1 else 0 end \
           when n.reduce = 'max' then case when row_number() over (partition by n.account_id, n.as_of, n.place, n.normalised is null order by n.normalised desc, n.position) = 1 then 1 else 0 end \
           else 0 end as share \
         from normal n left join parts p on p.account_id = n.account_id and p.as_of = n.as_of and p.place = n.place",
    ),
    (
        "effective",
        "with s as (select *, sum(share) over (partition by account_id, as_of, place) as shares, \
           sum(share) over (partition by account_id, as_of, place order by position) as upto from members) \
         select *, case when reduce = 'add' then case when normalised is not null then weight else 0 end when normalised is null then 0 \
           else (2 * part * upto + shares) / (2 * shares) - (2 * part * (upto - share) + shares) / (2 * shares) end as effective from s",
    ),
    (
        "running",
        "select *, sum(coalesce(normalised, 0) * effective) over (partition by account_id, as_of order by position) as running from effective",
    ),
];

fn sums(models: &[Numbered<'_>]) -> String {
    let mut starts = "case".to_owned();
    for (number, Numbered { model, .. }) in models.iter().enumerate() {
        starts += &format!(" when number = {number} then {}", (model.start * 1e6).round() as i64);
    }
    format!(
        "with s as (select account_id, as_of, number, sum(contribution) as sum, sum(case when known then nominal else 0 end) as known, sum(nominal) as nominal, \
         max(case when reduce = 'add' then 1 else 0 end) = 1 as additive, count(*) as num_factors from contributed group by 1, 2, 3) \
         select *, case when additive then (2 * 100000000 * known + nominal) / (2 * nominal) else known end as coverage, {starts} end as start from s"
    )
}

const FACTORS: &str = "
select account_id, as_of, cast(position as bigint) as position, name, \"group\", found as value, normalised, nominal as weight, effective as effective_weight, contribution, missing, carried_us as carried_from
from contributed
union all
select account_id, as_of, num_factors, '{start}', null, null, null, 0, 0, start, null, null from totals where additive and sum is not null
union all
select account_id, as_of, num_factors + 1, '{limit}', null, null, null, 0, 0, score - sum - start, null, null from totals where additive and sum is not null";

/// SQL for the points of the column `found`, as a float.
fn of(normalise: &Normalise) -> String {
    let float = |value: f64| format!("cast({value:?} as double)");
    if let Some(line) = normalise.line() {
        let [first, last] = line.points;
        let (low, high) = (float(first.min(last)), float(first.max(last)));
        let slope = format!("({} - {})", float(last), float(first));
        let on_the_line = format!(
            "least(greatest({0} + {slope} * (found - {1}) / ({2} - {1}), {low}), {high})",
            float(first),
            float(line.from),
            float(line.to)
        );
        let (from, to) = (float(line.from.min(line.to)), float(line.from.max(line.to)));
        return match line.outside {
            Outside::Clamp => on_the_line,
            Outside::Zero => {
                format!("case when found < {from} or found > {to} then cast(0 as double) else {on_the_line} end")
            }
        };
    }
    match normalise {
        Normalise::Piecewise(pairs) => {
            let mut sql = "case".to_owned();
            if let Some([x, y]) = pairs.first() {
                sql += &format!(" when found < {} then {}", float(*x), float(*y));
            }
            for pair in pairs.windows(2) {
                if let [[x0, y0], [x1, y1]] = pair {
                    let (x0, y0, x1, y1) = (float(*x0), float(*y0), float(*x1), float(*y1));
                    sql += &format!(" when found < {x1} then {y0} + ({y1} - {y0}) * (found - {x0}) / ({x1} - {x0})");
                }
            }
            let last = pairs.last().map_or(0.0, |[_, y]| *y);
            format!("{sql} else {} end", float(last))
        }
        Normalise::Steps(steps) => {
            let upper = |Step { range, points }: &Step| match (range.high.is_finite(), range.has_high) {
                (false, _) => format!(" else {}", float(*points)),
                (true, true) => format!(" when found <= {} then {}", float(range.high), float(*points)),
                (true, false) => format!(" when found < {} then {}", float(range.high), float(*points)),
            };
            format!("case{} end", steps.iter().map(upper).collect::<String>())
        }
        _ => "null".to_owned(),
    }
}
