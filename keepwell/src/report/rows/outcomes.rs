//! Rows that look at what became of an account: of alerts, of predictions, of what it has cost.

use super::{day, newest_of};

/// Rows on which a customer has had at least what it has paid, by the facts `value_to_date` and `cost_to_date`.
pub(super) const BREAK_EVEN: &str = "try_cast(other_facts['cost_to_date'] as double) > 0 and \
     try_cast(other_facts['value_to_date'] as double) >= try_cast(other_facts['cost_to_date'] as double)";

/// Longest time between the last score of an account and the period that it predicts.
const STALE_DAYS: i64 = 40;

/// SQL for the rows of a period. `of` has its name, start and end as columns; `rows` says which rows of `revenue` count,
/// `start` is the time of the start, and `known` a condition on what was known, with an `and` before it.
pub(super) fn predictions(of: &str, rows: &str, start: &str, known: &str) -> String {
    let newest = "epoch desc, final desc, as_of desc, next_offset desc, ordinal desc";
    let customers = newest_of(&format!("select * from revenue where {rows}{known}"), "account_id", newest);
    let early = format!("{} >= start_day - {STALE_DAYS}", day("as_of"));
    let scores = format!("select *, {of} from scores where final and as_of <= '{start}'");
    let last = "as_of desc, epoch desc, next_offset desc, ordinal desc";
    let scores = newest_of(&format!("select * from ({scores}) early where {early}"), "account_id", last);
    // Of whom little is known, or who is known to have left, nothing is predicted.
    let told = |column: &str| {
        format!("case when s.band not in ('unknown', 'churned', 'expired') then s.{column} end as {column}")
    };
    format!(
        "select {of}, r.account_id, r.churned_logo, r.segment, r.owner, r.plan, {}, {}, s.model, s.model_version \
         from ({customers}) r left join ({scores}) s on s.account_id = r.account_id where r.final and r.customer_at_start",
        told("score"),
        told("band")
    )
}

/// SQL for the same rows, with `pairs`, how many customers stayed, and `pairs_right`, how many of them had a better score.
/// Equal scores are half right. Both are of customers that left.
pub(super) fn ranked(rows: &str, by: &[String]) -> String {
    let group: String = by.iter().map(|dimension| format!(", {dimension}")).collect();
    let stayed = |more: &str| format!("sum(stayed) over (partition by of_period{group}{more})");
    let better = stayed(" order by score desc range between unbounded preceding and current row");
    format!(
        "select *, case when churned_logo and score is not null then pairs_known end as pairs, \
         case when churned_logo and score is not null then cast(at_least as double) - cast(equal as double) / 2 end as pairs_right from (
select *, {} as pairs_known, {better} as at_least, {} as equal from (
select *, case when churned_logo or score is null then 0 else 1 end as stayed from (
{rows}
) each_customer) either) ranked_customers",
        stayed(""),
        stayed(", score")
    )
}

/// SQL for the first rows of accounts, with the month of their lives.
pub(super) fn first_of_life(rows: &str) -> String {
    let part = |name: &str, time: &str| format!("extract({name} from {time})");
    let months = |time: &str| format!("(12 * {} + {})", part("year", time), part("month", time));
    // The end of a row is exclusive.
    let begun = format!("case when {} > {} then 1 else 0 end", part("day", "as_of"), part("day", "started_at"));
    format!(
        "select *, {} - {} + {begun} as month_of_life from ({rows}) first_rows where is_within",
        months("as_of"),
        months("started_at")
    )
}

/// SQL for times that a trigger was raised. `of` is as for [`predictions`]; `amounts` are those of a report.
pub(super) fn alerts(of: &str, amounts: &str, end: &str, known: &str) -> String {
    let newest = day("newest_at");
    format!(
        "select *, case when newest_at is null then start_day when {newest} < end_day then {newest} else end_day end as until_day from (
select {of}, {amounts}, newest_at, alerts.* from alerts cross join (select max(as_of) as newest_at from scores where final{known}) newest \
         where raised_at <= '{end}') raised"
    )
}
