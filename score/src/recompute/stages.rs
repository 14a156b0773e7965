//! The stage of the lifecycle as plain SQL. Each row follows from the published row before it.

use datafusion::error::{DataFusionError, Result};

use super::quoted;
use crate::model::{LifecycleStage, ModelFile, period_days};

/// Name and SQL of each table. Each may use the tables before it. The last, `staged`, has each row with its stage.
///
/// # Errors
/// When the name of a window is not a duration.
pub(super) fn statements(files: &[ModelFile]) -> Result<Vec<(String, String)>> {
    let (mut rules, mut declared, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        let Some(last) = file.models.last() else { continue };
        for (place, stage) in file.stages.iter().enumerate() {
            let period = &stage.period.as_ref().unwrap_or(&last.period).value;
            let rows = rows(file.version, period)?;
            if let Some(when) = &stage.when {
                let when = &when.value;
                rules.push(format!(
                    "select account_id, as_of, {place} as place, coalesce(({when}), false) as holds from ({rows})"
                ));
            }
            declared.push(declaration(file.version, place, stage));
            metrics.push(format!(
                "select account_id, as_of, {place} as place, cast(({}) as double) as computed from ({rows})",
                stage.metric.sql.value
            ));
        }
    }
    if rules.is_empty() {
        rules.push("select account_id, as_of, 0 as place, false as holds from told where false".to_owned());
    }
    if declared.is_empty() {
        metrics.push(
            "select account_id, as_of, 0 as place, cast(null as double) as computed from told where false".to_owned(),
        );
        declared.push(format!("select * from ({NO_STAGE}) where false"));
    }
    let metric =
        "case when abs(floor(m.computed * 1e6 + 0.5)) < 1e15 then cast(floor(m.computed * 1e6 + 0.5) as bigint) end";
    let staged = format!(
        "select s.*, d.owner_role as stage_owner_role, d.action as stage_action, d.metric as stage_metric, {metric} as stage_metric_value \
         from stood s left join stages d on d.version = s.version and d.name = s.stage and s.has_stages and not s.is_out \
         left join metrics m on m.account_id = s.account_id and m.as_of = s.as_of and m.place = d.place"
    );
    Ok(vec![
        ("stages".to_owned(), declared.join(" union all ")),
        ("rules".to_owned(), rules.join(" union all ")),
        ("metrics".to_owned(), metrics.join(" union all ")),
        ("before_rules".to_owned(), BEFORE.to_owned()),
        ("ruled".to_owned(), RULED.to_owned()),
        ("ruling".to_owned(), RULING.to_owned()),
        ("stood".to_owned(), STOOD.to_owned()),
        ("staged".to_owned(), staged),
    ])
}

const NO_STAGE: &str = "select cast(0 as bigint) as version, 0 as place, '' as name, cast(0 as bigint) as lasting, '' as owner_role, '' as action, '' as metric";

fn declaration(version: i64, place: usize, stage: &LifecycleStage) -> String {
    format!(
        "select cast({version} as bigint) as version, {place} as place, {} as name, cast({} as bigint) as lasting, {} as owner_role, {} as action, {} as metric",
        quoted(&stage.name.value),
        stage.lasting.as_micros(),
        quoted(&stage.owner_role),
        quoted(&stage.action),
        quoted(&stage.metric.name),
    )
}

/// SQL for the rows of one window that a version judges, with the columns that a rule may use.
fn rows(version: i64, period: &str) -> Result<String> {
    let days = period_days(period).map_err(DataFusionError::Plan)?;
    Ok(format!(
        "select w.*, cast({days:?} as double) as period_days, days_between(t.began_at, t.as_of) as age_days, \
         greatest(cast(1 as double), least(cast({days:?} as double), days_between(t.began_at, t.as_of))) as known_days \
         from windows w join told t on t.account_id = w.account_id and t.as_of = w.as_of \
         where w.period = '{period}' and t.version = {version} and not t.deleted and not t.has_left"
    ))
}

/// Each row with what was published of the stage before it, if the account goes on from there.
const BEFORE: &str = "
with before as (
  select t.*, t.deleted or t.has_left as is_out, t.stage as fact, v.version is not null as has_stages,
    lag(t.published_stage) over w as last_stage, lag(t.published_stage_since) over w as last_since,
    lag(t.published_rules) over w as last_rules,
    coalesce(lag(t.retired or t.deleted or t.has_left) over w, true) as is_first
  from told t left join (select distinct version from stages) v on v.version = t.version
  window w as (partition by t.account_id order by t.as_of)
)
select *, case when not is_first and last_since is not null then last_stage end as known_stage,
  case when not is_first then last_since end as known_since, case when not is_first then last_rules end as known_rules
from before";

/// Each rule on each row: whether it counts as true, and since when the contrary holds. A live row changes neither.
const RULED: &str = "
with known as (
  select r.account_id, r.as_of, r.place, r.holds, d.name, d.lasting, b.us, b.is_final, b.is_final or b.known_since is null as places,
    nullif(split_part(split_part(';' || b.known_rules, ';' || d.name || '=', 2), ';', 1), '') as known
  from rules r join before_rules b on b.account_id = r.account_id and b.as_of = r.as_of
  join stages d on d.version = b.version and d.place = r.place
), parted as (
  select *, known like '+%' as counted, cast(nullif(replace(replace(known, '+', ''), '-', ''), '') as bigint) as contrary_since from known
)
select account_id, as_of, place, name,
  case when known is null then holds and places when not is_final or holds = counted then counted
    when us - coalesce(contrary_since, us) >= lasting then holds else counted end as counts,
  case when known is null then null when not is_final then contrary_since when holds = counted then null
    when us - coalesce(contrary_since, us) >= lasting then null else coalesce(contrary_since, us) end as contrary_since
from parted";

/// All rules of a row: the place of the stage by what counts and by what holds, and their text.
const RULING: &str = "
select account_id, as_of, max(case when counts then place end) as counting, max(case when counts <> (contrary_since is not null) then place end) as holding,
  string_agg(name || '=' || case when counts then '+' else '-' end || coalesce(cast(contrary_since as varchar), ''), ';' order by place) as rules
from ruled group by 1, 2";

/// The stage of each row.
const STOOD: &str = "
with placed as (
  select b.*, coalesce(b.fact, d.name) as now_stage, r.rules as now_rules,
    case when b.fact is null and coalesce(r.counting, 0) <> coalesce(r.holding, 0) then coalesce(r.holding, 0) end as next_place,
    greatest(coalesce(r.counting, 0), coalesce(r.holding, 0)) as why_place
  from before_rules b left join ruling r on r.account_id = b.account_id and r.as_of = b.as_of
  left join stages d on d.version = b.version and d.place = coalesce(r.counting, 0)
)
select p.account_id, p.as_of, p.us, p.retired, p.deleted, p.segment, p.owner, p.customer_status, p.customer_since, p.churn_reason, p.has_left, p.began_at,
  p.published_score, p.published_band, p.published_since, p.published_baseline, p.version, p.has_stages, p.is_out,
  case when p.has_stages and not p.is_out then p.now_stage else p.fact end as stage,
  case when p.has_stages and not p.is_out then case when p.now_stage = p.known_stage then p.known_since else p.us end end as stage_since,
  case when p.has_stages and not p.is_out then n.name end as next_stage,
  case when p.has_stages and not p.is_out and p.next_place is not null then y.contrary_since end as next_stage_since,
  case when p.has_stages and not p.is_out then p.now_rules end as stage_rules
from placed p left join stages n on n.version = p.version and n.place = p.next_place
left join ruled y on y.account_id = p.account_id and y.as_of = p.as_of and y.place = p.why_place";
