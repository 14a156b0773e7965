//! The view `alerts`: a row for each time that a trigger was raised, and what became of it.

use super::Engine;

/// SQL for the view. Columns: `account_id`, `trigger`, `severity`, `playbook`, `owner_role`, `evidence`; `held_since`, the
/// first row on which the condition held, and `raised_at`; `accepted_at` and `done_at`, the first final row that tells that
/// somebody accepted it or had done it; `segment`, `owner`, `plan`, `customer_status`, `mrr`, `currency` and `score` of the
/// row that raised it; `score_28d_later`, that of the last row within 28 days, and `churned_at`, the first row after it on
/// which the account has left.
pub(super) fn alerts(engine: Engine) -> String {
    let of_row = "account_id, as_of, segment, owner, plan, customer_status, mrr, currency, score";
    let later = "over (partition by account_id order by as_of";
    let rows = format!(
        "select {of_row}, triggers, last_value(score) {later} range between current row and interval '28' day following) as score_28d_later, \
         min(case when band in ('churned', 'expired') then as_of end) {later} rows between current row and unbounded following) as churned_at from (
select *, row_number() over (partition by account_id, as_of order by epoch desc, next_offset desc, ordinal desc) as nth from scores where final
) each_row where nth = 1"
    );
    let one_by_one = match engine {
        Engine::Duckdb | Engine::Datafusion => format!("select *, unnest(triggers) as t from ({rows}) in_order"),
        Engine::Spark => format!("select r.*, t from ({rows}) r lateral view explode(triggers) as t"),
    };
    let trigger = |name: &str| format!("w.t['{name}']");
    let fields = ["severity", "playbook", "owner_role", "evidence"];
    let fields = fields.map(|name| format!("{} as {name}", trigger(name))).join(", ");
    let (name, state, since) = (trigger("name"), trigger("state"), trigger("since"));
    let before = format!("over (partition by account_id, {name} order by as_of)");
    // A pending row right before it is the beginning of the same episode.
    let episodes = format!(
        "select {of_row}, score_28d_later, churned_at, {name} as trigger, {state} as state, {since} as raised_at, {fields}, \
         lag({state}) {before} as state_before, lag({since}) {before} as since_before from ({one_by_one}) w"
    );
    let told = match engine {
        Engine::Duckdb | Engine::Datafusion => {
            "select account_id, as_of, unnest(map_keys(outcomes)) as alert_id, unnest(map_values(outcomes)) as outcome from windows where final"
        }
        Engine::Spark => {
            "select account_id, as_of, alert_id, outcome from windows lateral view explode(outcomes) as alert_id, outcome where final"
        }
    };
    let outcomes = format!(
        "select account_id, alert_id, min(case when outcome in ('accepted', 'done') then as_of end) as accepted_at, \
         min(case when outcome = 'done' then as_of end) as done_at from ({told}) told group by account_id, alert_id"
    );
    // An alert's id is account/trigger/time.
    let start = "concat(a.account_id, '/', a.trigger, '/')";
    let time = format!("replace(o.alert_id, {start}, '')");
    format!(
        "select a.account_id, a.trigger, a.severity, a.playbook, a.owner_role, a.evidence, \
         case when a.state_before = 'pending' then a.since_before else a.raised_at end as held_since, a.raised_at, o.accepted_at, o.done_at, \
         a.segment, a.owner, a.plan, a.customer_status, a.mrr, a.currency, a.score, a.score_28d_later, a.churned_at from (
{episodes}
) a left join (
{outcomes}
) o on o.account_id = a.account_id and concat({start}, {time}) = o.alert_id and try_cast({time} as timestamp) = a.raised_at
where a.state = 'raised'"
    )
}
