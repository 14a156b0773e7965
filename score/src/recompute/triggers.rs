//! Triggers as plain SQL. Each row follows from the published row before it.

use super::{Numbered, quoted};
use crate::model::{Model, Trigger};

/// Name and SQL of each table. Each may use the tables before it.
pub(super) fn statements(models: &[Numbered<'_>]) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    for (number, Numbered { model, .. }) in models.iter().enumerate() {
        flags.extend(model.triggers.iter().map(|trigger| flag(number, model, trigger)));
    }
    if flags.is_empty() {
        flags.push(NO_FLAG.to_owned());
    }
    vec![
        ("flags".to_owned(), flags.join(" union all ")),
        ("before".to_owned(), BEFORE.to_owned()),
        ("known_triggers".to_owned(), KNOWN.to_owned()),
        ("unknown_triggers".to_owned(), UNKNOWN.to_owned()),
        ("triggers".to_owned(), "select * from known_triggers union all select * from unknown_triggers".to_owned()),
    ]
}

const NO_FLAG: &str = "select account_id, as_of, '' as name, false as holds, false as clears, false as is_cleared_by, cast(0 as bigint) as lasting, cast(0 as bigint) as hold, \
    cast(0 as bigint) as cooldown, '' as severity, '' as playbook, '' as owner_role from windows where false";

fn flag(number: usize, model: &Model, trigger: &Trigger) -> String {
    let clear = trigger.clear.as_ref().map_or("false", |clear| clear.value.as_str());
    format!(
        "select account_id, as_of, {name} as name, coalesce(({sql}), false) as holds, coalesce(({clear}), false) as clears, {is_cleared_by} as is_cleared_by, \
         cast({lasting} as bigint) as lasting, cast({hold} as bigint) as hold, cast({cooldown} as bigint) as cooldown, \
         '{severity}' as severity, {playbook} as playbook, {owner_role} as owner_role from ( \
         select r.*, cast(b.score as double) / cast(1000000 as double) as score, cast(b.score - b.previous_score as double) / cast(1000000 as double) as delta, \
         cast(coalesce(b.coverage, 0) as double) / cast(1000000 as double) as coverage, b.band \
         from \"row_{number}_{period}\" r join banded b on b.account_id = r.account_id and b.as_of = r.as_of)",
        name = quoted(&trigger.name.value),
        sql = trigger.sql.value,
        is_cleared_by = trigger.clear.is_some(),
        lasting = trigger.lasting.as_micros(),
        hold = trigger.hold.as_micros(),
        cooldown = trigger.cooldown.as_micros(),
        severity = trigger.severity.name(),
        playbook = quoted(&trigger.playbook),
        owner_role = quoted(&trigger.owner_role),
        period = trigger.period.as_ref().unwrap_or(&model.period).value,
    )
}

/// The published state of each trigger on the row before, and when its last episode ended or was closed.
const BEFORE: &str = "
with published as (
  select t.account_id, t.as_of, t.name, t.state, cast(t.since as bigint) as since, t.news, t.severity, t.playbook, t.owner_role, c.us, c.life
  from published_trigger t join cases c on c.account_id = t.account_id and c.as_of = t.as_of
), ended as (
  select c.account_id, c.as_of, t.name, max(t.us) as ended from cases c
  join published t on t.account_id = c.account_id and t.life = c.life and t.us < c.us
  where t.state = 'cleared' or t.state = 'closed' and t.news group by 1, 2, 3
)
select coalesce(t.account_id, e.account_id) as account_id, coalesce(t.now_as_of, e.as_of) as as_of, coalesce(t.name, e.name) as name,
  t.state, t.since, t.severity, t.playbook, t.owner_role, e.ended
from (select t.*, c.as_of as now_as_of from published t join cases c on c.account_id = t.account_id and c.previous_as_of = t.as_of) t
full outer join ended e on e.account_id = t.account_id and e.as_of = t.now_as_of and e.name = t.name";

const KNOWN: &str = "
with judged as (
  select f.*, c.us, c.retired or c.deleted or c.has_left as is_last, b.state as before, b.since as since_before, b.ended,
    coalesce(b.state in ('raised', 'active'), false) as is_open, coalesce(b.state = 'closed', false) as is_shut,
    case when f.is_cleared_by then not f.clears else f.holds end as goes_on,
    case when b.state = 'pending' then b.since else c.us end as pending_since,
    case when b.state in ('raised', 'active', 'closed') then o.outcome end as outcome
  from flags f join cases c on c.account_id = f.account_id and c.as_of = f.as_of
  left join before b on b.account_id = f.account_id and b.as_of = f.as_of and b.name = f.name
  left join outcome o on o.account_id = f.account_id and o.as_of = f.as_of
    and o.alert_id = f.account_id || '/' || f.name || '/' || to_char(to_timestamp_micros(b.since), '%Y-%m-%dT%H:%M:%SZ')
), stated as (
  select *, case
    when is_last then case when is_open then 'cleared' end
    when is_open and coalesce(outcome in ('done', 'dismissed'), false) then 'closed'
    when is_open and (goes_on or us - since_before < hold) then 'active'
    when is_open then 'cleared'
    when is_shut and goes_on and not (cooldown > 0 and us - ended >= cooldown) then 'closed'
    when not holds then null
    when coalesce(us - ended < cooldown, false) or us - pending_since < lasting then 'pending'
    else 'raised' end as state
  from judged
)
select account_id, as_of, name, state,
  case state when 'raised' then us when 'pending' then pending_since else since_before end as since,
  state in ('raised', 'cleared') or state = 'closed' and is_open as news, severity, playbook, owner_role,
  case when state in ('active', 'closed', 'cleared') then outcome end as outcome
from stated where state is not null";

/// Episodes of triggers that the model does not know are over.
const UNKNOWN: &str = "
select b.account_id, b.as_of, b.name, 'cleared' as state, b.since, true as news, b.severity, b.playbook, b.owner_role, cast(null as varchar) as outcome
from before b left join flags f on f.account_id = b.account_id and f.as_of = b.as_of and f.name = b.name
where f.name is null and b.state in ('raised', 'active')";
