//! Which rows of the tables count for a period, as plain SQL.

mod outcomes;

use keepwell_core::calendar::PeriodKind;
use keepwell_core::schema::health::rfc3339;
use serde::Deserialize;

use super::period::Named;
use super::rates::Rates;

/// Columns by which figures can be divided.
pub const DIMENSIONS: [&str; 3] = ["segment", "owner", "plan"];

/// Amounts of `revenue`, in the currency of its row.
const AMOUNTS: [&str; 13] = [
    "opening",
    "new",
    "expansion",
    "contraction",
    "churned",
    "reactivated",
    "closing",
    "gross_expansion",
    "gross_contraction",
    "gross_churned",
    "earned",
    "renewals_due_mrr",
    "renewals_made_mrr",
];

/// All of them.
const FROM: [From; 7] =
    [From::Revenue, From::Lifetime, From::Windows, From::Scores, From::BreakEven, From::Alerts, From::Predictions];

/// The rows of which a figure is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The account's row of `revenue` for the period.
    #[default]
    Revenue,
    /// The row of the last month in the period, with `earned_to_date`: what all months until then have earned.
    Lifetime,
    /// The account's last final row of `windows` in the period. An account that was deleted or retired has none.
    Windows,
    /// The same of `scores`.
    Scores,
    /// The account's first final row of `windows` on which the fact `value_to_date` is at least `cost_to_date`, where that
    /// is in the period, with `month_of_life`.
    BreakEven,
    /// Times that a trigger was raised, before the end of the period: rows of the view `alerts`.
    Alerts,
    /// Customers at the start of a period that has ended, with their last score before it, and whether they left in it.
    Predictions,
}

impl From {
    /// Name of the rows in the SQL.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Revenue => "revenue_rows",
            Self::Lifetime => "lifetime_rows",
            Self::Windows => "windows_rows",
            Self::Scores => "scores_rows",
            Self::BreakEven => "break_even_rows",
            Self::Alerts => "alerts_rows",
            Self::Predictions => "predictions_rows",
        }
    }
}

/// Which report of a period counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Report {
    /// The last, whether or not the period has ended.
    #[default]
    Last,
    /// The first after the period had ended.
    First,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question<'q> {
    /// The periods.
    pub periods: &'q [Named],
    /// Columns to divide by.
    pub by: &'q [String],
    /// Which report of each period.
    pub report: Report,
    /// RFC 3339: only what was known by then.
    pub as_of: Option<&'q str>,
    /// Turns all amounts into one currency.
    pub rates: Option<&'q Rates>,
}

impl Question<'_> {
    /// The named queries before a statement that uses these rows.
    pub(super) fn with(&self, used: impl Fn(From) -> bool) -> String {
        let mut ctes = Vec::new();
        for from in FROM.into_iter().filter(|from| used(*from)) {
            let each: Vec<String> = self.periods.iter().map(|period| self.of_period(from, period)).collect();
            let told = each.join("\nunion all\n");
            let name = from.name();
            let newest = match self.report {
                Report::Last => "epoch desc, final desc, as_of desc, next_offset desc, ordinal desc",
                Report::First => "epoch desc",
            };
            let rows = match from {
                From::Revenue => newest_of(&told, "account_id, of_period", newest),
                From::Lifetime => {
                    let months = newest_of(&told, "account_id, of_period, period_start", newest);
                    let over = "over (partition by account_id, of_period)";
                    // A month without a price, or months in several currencies, have no sum. Nor has a life that began
                    // before the first month there is.
                    let is_one = format!("coalesce(min(currency) {over}, '') = coalesce(max(currency) {over}, '')");
                    let is_whole = "not first_value(customer_at_start) over (partition by account_id, of_period order by period_start)";
                    let is_known = format!("count(*) {over} = count(earned) {over} and {is_one} and {is_whole}");
                    let summed = format!(
                        "select *, case when {is_one} then max(currency) {over} end as currency_of_life, \
                         case when {is_known} then sum(earned) {over} end as earned_to_date from ({months}) months"
                    );
                    let last = "row_number() over (partition by account_id, of_period order by period_start desc) as nth_month";
                    format!("select * from (select *, {last} from ({summed}) summed) lives where nth_month = 1")
                }
                From::Windows | From::Scores => {
                    let all = format!("all_{name}");
                    ctes.push(format!("{all} as (\n{told}\n)"));
                    // Whole rows are sorted only where several are of one time.
                    let ends = format!(
                        "select told.* from {all} told join (select account_id as of_account, of_period as in_period, max(as_of) as last_as_of from {all} \
                         group by account_id, of_period) lasts on told.account_id = of_account and told.of_period = in_period and told.as_of = last_as_of"
                    );
                    let last = newest_of(&ends, "account_id, of_period", "epoch desc, next_offset desc, ordinal desc");
                    format!("select * from ({last}) ends where not deleted and not retired")
                }
                From::BreakEven => {
                    outcomes::first_of_life(&newest_of(&told, "account_id, of_period", "as_of, epoch desc"))
                }
                From::Alerts => told,
                From::Predictions => outcomes::ranked(&told, self.by),
            };
            ctes.push(format!("{name} as (\n{rows}\n)"));
        }
        ctes.join(", ")
    }

    fn of_period(&self, from: From, of: &Named) -> String {
        let Named { name, period } = of;
        let (start, end) = (rfc3339(period.start_us), rfc3339(period.end_us));
        let day = |us: i64| us.div_euclid(86_400_000_000);
        let days = format!("{} as start_day, {} as end_day", day(period.start_us), day(period.end_us));
        let of = format!("'{name}' as of_period, {days}");
        let this = format!("period = '{}' and period_start = '{start}'", period.kind.name());
        let until = self.as_of.map(|as_of| format!(" and as_of <= '{as_of}'")).unwrap_or_default();
        let first = if self.report == Report::First { " and final and revision = 0" } else { "" };
        let rates = |at_us| self.rates.map(|rates| rates.at("currency", at_us));
        let (at_start, at_end) = (rates(period.start_us), rates(period.end_us));
        let currency = self.rates.map_or_else(|| "currency".to_owned(), |rates| format!("'{}'", rates.r#in));
        let amounts = format!("{} as amount, {currency} as amount_currency", exchanged("mrr", at_start.as_deref()));
        let order = "as_of, final, epoch, next_offset, ordinal";
        match from {
            From::Revenue | From::Lifetime => {
                let amount = |name: &&str| format!(", {} as {name}", exchanged(name, at_start.as_deref()));
                let amounts: String = AMOUNTS.iter().map(amount).collect();
                let spot = exchanged("closing", at_end.as_deref());
                let until_now = format!("period = 'month' and final and period_end <= '{end}'");
                let which = if from == From::Revenue { this } else { until_now };
                format!(
                    "select {of}, account_id, {currency} as currency{amounts}, {spot} as closing_spot, \
                     period_start, revision, customer_at_start, churned_logo, renewals_due, renewals_made, segment, owner, plan, {order} \
                     from revenue where {which}{first}{until}"
                )
            }
            From::Windows | From::Scores | From::BreakEven => {
                let table = if from == From::Scores { "scores" } else { "windows" };
                // The first of all rows, which then counts or not.
                let is_within = format!("as_of > '{start}'");
                let since = if from == From::BreakEven { outcomes::BREAK_EVEN } else { &is_within };
                // A period that runs has come as far as its rows.
                let (row_day, end_day) = (self::day("as_of"), day(period.end_us));
                let until_day = format!("case when {row_day} < {end_day} then {row_day} else {end_day} end");
                format!(
                    "select {of}, {is_within} as is_within, {until_day} as until_day, {amounts}, {table}.* from {table} \
                     where final and {since} and as_of <= '{end}'{until}"
                )
            }
            From::Alerts => outcomes::alerts(&of, &amounts, &end, &until),
            From::Predictions => outcomes::predictions(&of, &this, &start, &(first.to_owned() + &until)),
        }
    }

    /// SQL for the number of months in the period of a row.
    pub(super) fn months(&self) -> String {
        let cases: String = self
            .periods
            .iter()
            .map(|Named { name, period }| {
                let months = match period.kind {
                    PeriodKind::Week => "cast(12 as double) / 52",
                    PeriodKind::Month => "cast(1 as double)",
                    PeriodKind::Quarter => "cast(3 as double)",
                    PeriodKind::Year => "cast(12 as double)",
                };
                format!("when '{name}' then {months} ")
            })
            .collect();
        format!("(case period {cases}end)")
    }
}

/// The first of the rows of each key.
fn newest_of(rows: &str, key: &str, order: &str) -> String {
    let nth = format!("row_number() over (partition by {key} order by {order}) as nth");
    format!("select * from (select *, {nth} from (\n{rows}\n) told) ranked where nth = 1")
}

/// An amount in the currency of the report. Nothing is nothing in any.
fn exchanged(amount: &str, rate: Option<&str>) -> String {
    match rate {
        Some(rate) => format!("case when {amount} = 0 then 0 else cast({amount} * {rate} as decimal(20, 2)) end"),
        None => amount.to_owned(),
    }
}

/// SQL for the day of a time, counted from 1970 (UTC). Engines have no function for it in common.
pub(super) fn day(time: &str) -> String {
    let part = |name: &str| format!("extract({name} from {time})");
    let (month, is_early) = (part("month"), format!("{} <= 2", part("month")));
    let year = format!("({} - case when {is_early} then 1 else 0 end)", part("year"));
    let of_year = format!("floor((153 * ({month} + case when {is_early} then 9 else -3 end) + 2) / 5)");
    let leaps = format!("floor({year} / 4) - floor({year} / 100) + floor({year} / 400)");
    format!("(365 * {year} + {leaps} + {of_year} + {} - 719469)", part("day"))
}
