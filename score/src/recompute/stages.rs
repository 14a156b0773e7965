//! The stage of the lifecycle as plain SQL. Each row follows from the published row before it.

use datafusion::error::{DataFusionError, Result};

use crate::model::{LifecycleStage, ModelFile, period_days};

/// Name and SQL of each table. Each may use the tables before it. The last is `judged`, without number and model.
///
/// # Errors
/// When the name of a window is not a duration.
pub(super) fn statements(files: &[ModelFile]) -> Result<Vec<(String, String)>> {
    let (mut belongs, mut declared, mut metrics) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        let Some(last) = file.models.last() else { continue };
        for (place, stage) in file.stages.iter().enumerate() {
            let period = &stage.period.as_ref().unwrap_or(&last.period).value;
            let rows = rows(file.version, period)?;
            let when = stage.when.as_ref().map_or("true", |when| when.value.as_str());
            belongs.push(format!(
                "select account_id, as_of, {place} as place from ({rows}) where coalesce(({when}), false)"
            ));
            declared.push(declaration(file.version, place, stage));
            metrics.push(format!(
                "select account_id, as_of, {place} as place, cast(({}) as double) as computed from ({rows})",
                stage.metric.sql.value
            ));
        }
    }
    if declared.is_empty() {
        belongs.push("select account_id, as_of, 0 as place from told where false".to_owned());
        metrics.push(
            "select account_id, as_of, 0 as place, cast(null as double) as computed from told where false".to_owned(),
        );
        declared.push(format!("select * from ({NO_STAGE}) where false"));
    }
    let metric =
        "case when abs(floor(m.computed * 1e6 + 0.5)) < 1e15 then cast(floor(m.computed * 1e6 + 0.5) as bigint) end";
    Ok(vec![
        ("stages".to_owned(), declared.join(" union all ")),
        (
            "belongs".to_owned(),
            format!(
                "select account_id, as_of, max(place) as place from ({}) group by 1, 2",
                belongs.join(" union all ")
            ),
        ),
        ("metrics".to_owned(), metrics.join(" union all ")),
        ("stood".to_owned(), STOOD.to_owned()),
        (
            "staged".to_owned(),
            format!(
                "select s.*, d.owner_role as stage_owner_role, d.action as stage_action, d.metric as stage_metric, {metric} as stage_metric_value \
             from stood s left join stages d on d.version = s.version and d.name = s.stage and s.has_stages and not s.is_out \
             left join metrics m on m.account_id = s.account_id and m.as_of = s.as_of and m.place = d.place"
            ),
        ),
    ])
}

const NO_STAGE: &str = "select cast(0 as bigint) as version, 0 as place, '' as name, cast(0 as bigint) as lasting, '' as owner_role, '' as action, '' as metric";

fn declaration(version: i64, place: usize, stage: &LifecycleStage) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
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

/// The stage of each row. `known_stage` is the published one before it, if the account goes on from there. A live row keeps it.
const STOOD: &str = "
with before as (
  select t.*, b.place, t.deleted or t.has_left as is_out, t.stage as fact,
    v.version is not null as has_stages,
    lag(t.published_stage) over w as last_stage, lag(t.published_stage_since) over w as last_stage_since,
    lag(t.published_next) over w as last_next, lag(t.published_next_since) over w as last_next_since,
    coalesce(lag(t.retired or t.deleted or t.has_left) over w, true) as is_first
  from told t left join belongs b on b.account_id = t.account_id and b.as_of = t.as_of
  left join (select distinct version from stages) v on v.version = t.version
  window w as (partition by t.account_id order by t.as_of)
), known as (
  select b.*, d.name as wanted, d.lasting,
    case when not b.is_first and b.last_stage_since is not null and (b.fact is not null or k.name is not null) then b.last_stage end as known_stage
  from before b left join stages d on d.version = b.version and d.place = b.place
  left join stages k on k.version = b.version and k.name = b.last_stage
), waiting as (
  select *, case when wanted = last_next and known_stage is not null then last_next_since else us end as wanted_since from known
), moved as (
  select *, case when fact is not null then fact
    when known_stage is not null and not is_final then known_stage
    when known_stage is null or wanted = known_stage or us - wanted_since >= lasting then wanted else known_stage end as now_stage,
    case when known_stage is not null and not is_final then last_next else wanted end as then_stage,
    case when known_stage is not null and not is_final then last_next_since else wanted_since end as then_since
  from waiting
)
select account_id, as_of, us, retired, deleted, segment, owner, customer_status, customer_since, churn_reason, has_left, began_at,
  published_score, published_band, published_since, published_baseline, version, has_stages, is_out,
  case when has_stages and not is_out then now_stage else fact end as stage,
  case when has_stages and not is_out then case when now_stage = known_stage then last_stage_since else us end end as stage_since,
  case when has_stages and not is_out and fact is null and now_stage <> then_stage then then_stage end as next_stage,
  case when has_stages and not is_out and fact is null and now_stage <> then_stage then then_since end as next_stage_since
from moved";
