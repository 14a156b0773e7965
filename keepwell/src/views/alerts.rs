//! The view `alerts`: a row for each time that a trigger was raised, and what became of it.

use super::Engine;

/// SQL for the view. Columns: `account_id`, `trigger`, `severity`, `playbook`, `owner_role`, `evidence`; `held_since`, the
/// first row on which the condition held, and `raised_at`; `accepted_at` and `done_at`, the first final row that tells that
/// somebody accepted it or had done it; `segment`, `owner`, `plan`, `customer_status`, `mrr`, `currency` and `score` of the
/// row that raised it; `score_28d_later`, that of the last row within 28 days, and `churned_at`, the first row after it on
/// which the account has left.
///
/// Only rows after the time `after` (RFC 3339) are read, if one is given.
pub(super) fn alerts(engine: Engine, after: Option<&str>) -> String {
    let read = after.map_or_else(|| "final".to_owned(), |after| format!("final and as_of > '{after}'"));
    let version = ["account_id", "as_of", "epoch", "next_offset", "ordinal"];
    let of_row = "segment, owner, plan, customer_status, mrr, currency, score";
    let later = "over (partition by account_id order by as_of";
    // Rows are sorted without their lists.
    let rows = format!(
        "select {}, {of_row}, last_value(score) {later} range between current row and interval '28' day following) as score_28d_later, \
         min(case when band in ('churned', 'expired') then as_of end) {later} rows between current row and unbounded following) as churned_at from (
select *, row_number() over (partition by account_id, as_of order by epoch desc, next_offset desc, ordinal desc) as nth from (
select {}, band, {of_row} from scores where {read}) each_row) in_order where nth = 1",
        version.join(", "),
        version.join(", ")
    );
    let keys = version.map(|name| format!("s.{name}")).join(", ");
    let one_by_one = match engine {
        Engine::Duckdb | Engine::Datafusion => {
            format!("select {keys}, s.previous_as_of, unnest(s.triggers) as t from scores s where {read}")
        }
        Engine::Spark => {
            format!("select {keys}, s.previous_as_of, t from scores s lateral view explode(triggers) as t where {read}")
        }
    };
    let field = |name: &str| format!("w.t['{name}']");
    let names = ["state", "severity", "playbook", "owner_role", "evidence"];
    let fields = names.map(|name| format!("{} as {name}", field(name))).join(", ");
    let keys = version.map(|name| format!("w.{name}")).join(", ");
    let begun = format!(
        "select {keys}, w.previous_as_of, {} as trigger, {} as since, {fields} from ({one_by_one}) w where {} in ('raised', 'pending')",
        field("name"),
        field("since"),
        field("state")
    );
    let before = "over (partition by b.account_id, b.trigger order by b.as_of)";
    let same = version.map(|name| format!("b.{name} = r.{name}")).join(" and ");
    // A pending row right before it is the beginning of the same alert.
    let episodes = format!(
        "select b.*, {of_row}, r.score_28d_later, r.churned_at, \
         lag(b.as_of) {before} = b.previous_as_of and lag(b.state) {before} = 'pending' as was_pending, lag(b.since) {before} as since_before from (
{begun}
) b join (
{rows}
) r on {same}"
    );
    let told = match engine {
        Engine::Duckdb | Engine::Datafusion => format!(
            "select account_id, as_of, unnest(map_keys(outcomes)) as alert_id, unnest(map_values(outcomes)) as outcome from windows where {read}"
        ),
        Engine::Spark => format!(
            "select account_id, as_of, alert_id, outcome from windows lateral view explode(outcomes) as alert_id, outcome where {read}"
        ),
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
         case when a.was_pending then a.since_before else a.since end as held_since, a.since as raised_at, o.accepted_at, o.done_at, \
         a.segment, a.owner, a.plan, a.customer_status, a.mrr, a.currency, a.score, a.score_28d_later, a.churned_at from (
{episodes}
) a left join (
{outcomes}
) o on o.account_id = a.account_id and concat({start}, {time}) = o.alert_id and try_cast({time} as timestamp) = a.since
where a.state = 'raised'"
    )
}
