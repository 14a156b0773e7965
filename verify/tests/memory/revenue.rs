//! Revenue by calendar period: published figures, and what becomes of late news.
//!
//! The figures are those of the project's sources for net and gross revenue retention (NRR, GRR), logo churn and
//! customer retention (CRR): 100k, +20k, -5k, -10k give NRR 105 % and GRR 85 %. Time is March 2024, and April.

use std::collections::BTreeMap;

use keepwell_core::calendar::PeriodKind::{self, Month, Quarter};
use keepwell_core::event::Kind::{self, Account, Contract, Usage};
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::revenue::{Reader, Row};
use keepwell_pipeline::config::Config;
use serde_json::{Value, json};

use crate::{Deployment, Raw, config};

/// What is told of a contract: account, day it holds from, what happened, revenue. Days count from 1 March, 0 is in February.
pub(crate) type Told<'t> = (&'t str, i64, &'t str, Option<i64>);

/// The start of a day in UTC milliseconds; day 1 is 1 March, day 32 is 1 April.
pub(crate) fn ms(day: i64) -> i64 {
    1_709_251_200_000 + (day - 1) * 86_400_000
}

pub(crate) fn raw(kind: Kind, at_ms: i64, id: &str, more: Value) -> Raw {
    let mut event = json!({"event_id": id, "occurred_at": at_ms});
    more.as_object().unwrap().iter().for_each(|(name, value)| event[name] = value.clone());
    Raw { kind, key: None, value: Some(event.to_string().into_bytes()), at_ms }
}

/// Contracts, each told at once, but for those with a day on which they were told.
pub(crate) fn raws(told: &[(Told<'_>, Option<i64>)]) -> Vec<Raw> {
    let of = |(n, ((account, day, step, mrr), told_on)): (usize, &(Told<'_>, Option<i64>))| {
        let more =
            json!({"account_id": account, "type": step, "mrr": mrr, "currency": "USD", "effective_at": ms(*day)});
        let more = if mrr.is_none() { without(more, "mrr") } else { more };
        raw(Contract, ms(told_on.unwrap_or(*day)), &format!("c{n:03}"), more)
    };
    let mut raws: Vec<Raw> = told.iter().enumerate().map(of).collect();
    raws.extend((-20..70).map(|day| {
        let use_of = json!({"account_id": "zz", "user_id": "u", "feature": "export"});
        raw(Usage, ms(day) + 43_200_000, &format!("z{day}"), use_of)
    }));
    raws.sort_by_key(|raw| raw.at_ms);
    raws
}

fn without(mut event: Value, name: &str) -> Value {
    event.as_object_mut().unwrap().remove(name);
    event
}

pub(crate) fn at_once<'t>(told: &[Told<'t>]) -> Vec<(Told<'t>, Option<i64>)> {
    told.iter().map(|told| (*told, None)).collect()
}

/// What a portfolio's rows of one period sum to, in the currency.
#[derive(Debug, Default, Clone, PartialEq)]
struct Sums {
    amounts: BTreeMap<&'static str, i64>,
    cohort: i64,
    churned: i64,
}

impl Sums {
    fn add(&mut self, row: &Row<'_>) {
        for (name, amount) in [
            ("opening", row.opening),
            ("closing", row.closing),
            ("new", row.new),
            ("expansion", row.expansion),
            ("contraction", row.contraction),
            ("churned", row.churned),
            ("reactivated", row.reactivated),
            ("gross expansion", row.gross_expansion),
            ("gross contraction", row.gross_contraction),
            ("gross churned", row.gross_churned),
        ] {
            *self.amounts.entry(name).or_default() += i64::try_from(amount.unwrap()).unwrap() / 100;
        }
        self.cohort += i64::from(row.is_customer);
        self.churned += i64::from(row.is_churned);
    }

    fn of(&self, name: &str) -> i64 {
        self.amounts.get(name).copied().unwrap_or_default()
    }

    /// NRR and GRR from net movements, in percent; logo churn too.
    fn rates(&self) -> Option<[f64; 3]> {
        let opening = Some(self.of("opening") as f64).filter(|opening| *opening > 0.0)?;
        let kept = opening - (self.of("contraction") + self.of("churned")) as f64;
        let percent = |part: f64, whole: f64| (part * 1e8 / whole).round() / 1e6;
        let nrr = percent(kept + self.of("expansion") as f64, opening);
        Some([nrr, percent(kept, opening), percent(self.churned as f64, self.cohort as f64)])
    }
}

/// The final rows of months: of each, one of the last revision at most `revision`.
fn months(deployment: &Deployment, revision: i32) -> BTreeMap<i64, Sums> {
    let rows = deployment.streamed().revenue;
    let reader = Reader::of(Columns::Batch(&rows)).unwrap();
    let mut last = BTreeMap::new();
    for row in (0..rows.num_rows()).map(|row| reader.row(row)) {
        if row.is_final && row.period == "month" && row.revision <= revision {
            last.insert((row.account_id, row.period_start), row);
        }
    }
    let mut months: BTreeMap<i64, Sums> = BTreeMap::new();
    for ((_, start_us), row) in &last {
        assert_eq!(
            row.opening.unwrap() + row.new.unwrap() + row.expansion.unwrap() + row.reactivated.unwrap()
                - row.contraction.unwrap()
                - row.churned.unwrap(),
            row.closing.unwrap(),
            "{row:?}"
        );
        months.entry(*start_us / 1000).or_default().add(row);
    }
    months
}

/// The portfolio of the sources, without what came new.
pub(crate) const COHORT: [Told<'_>; 7] = [
    ("a", 0, "started", Some(40_000)),
    ("b", 0, "started", Some(30_000)),
    ("c", 0, "started", Some(10_000)),
    ("d", 0, "started", Some(20_000)),
    ("a", 10, "changed", Some(60_000)),
    ("b", 20, "changed", Some(25_000)),
    ("c", 15, "cancelled", None),
];

pub(crate) fn with(told: &[Told<'static>], more: &[Told<'static>]) -> Vec<Told<'static>> {
    [told, more].concat()
}

#[test]
fn a_month_has_the_published_figures() {
    let four_leave: Vec<Told<'_>> = ["e0", "e1", "e2", "e3"].iter().map(|name| (*name, 5, "cancelled", None)).collect();
    let small = ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"];
    let ten: Vec<Told<'_>> = small.iter().map(|name| (*name, 0, "started", Some(1000))).collect();
    let ten = with(&ten, &[("big", 0, "started", Some(91_000)), ("big", 9, "changed", Some(101_000))]);
    // name, what is told, NRR, GRR and logo churn of March in percent, amounts of March
    type Case<'c> = (&'c str, Vec<Told<'static>>, Option<[f64; 3]>, Vec<(&'c str, i64)>);
    let cases: Vec<Case<'_>> = vec![
        (
            "T1, the sources",
            with(&COHORT, &[("e", 10, "started", Some(15_000))]),
            Some([105.0, 85.0, 25.0]),
            vec![
                ("opening", 100_000),
                ("closing", 120_000),
                ("new", 15_000),
                ("expansion", 20_000),
                ("churned", 10_000),
            ],
        ),
        (
            "T2, up and down",
            vec![("f", 0, "started", Some(100)), ("f", 5, "changed", Some(130)), ("f", 20, "changed", Some(110))],
            Some([110.0, 100.0, 0.0]),
            vec![("gross expansion", 30), ("gross contraction", 20), ("churned", 0)],
        ),
        (
            "T3, gone and back within the month",
            vec![
                ("g", 0, "started", Some(50)),
                ("h", 0, "started", Some(50)),
                ("g", 3, "cancelled", None),
                ("g", 25, "started", Some(40)),
            ],
            Some([90.0, 90.0, 0.0]),
            vec![("contraction", 10), ("gross churned", 50), ("gross expansion", 40), ("reactivated", 0)],
        ),
        (
            "T4, many small ones leave",
            with(&ten, &four_leave),
            Some([106.0, 96.0, 40.0]),
            vec![("opening", 100_000), ("churned", 4000), ("expansion", 10_000)],
        ),
        (
            "T7, at the edges of the month",
            vec![("y", 0, "started", Some(90)), ("z", 1, "started", Some(10)), ("y", 32, "cancelled", None)],
            Some([100.0, 100.0, 0.0]),
            vec![("new", 10), ("opening", 90), ("closing", 100)],
        ),
        ("T8, nobody", vec![("n", 0, "started", Some(0))], None, vec![("opening", 0), ("new", 0)]),
    ];
    for (name, told, rates, amounts) in cases {
        let deployment = Deployment::of(&raws(&at_once(&told)), over(&[Month], &[]));
        let months = months(&deployment, i32::MAX);
        let march = months.get(&ms(1)).cloned().unwrap_or_default();
        assert_eq!(march.rates(), rates, "{name}");
        for (of, amount) in amounts {
            assert_eq!(march.of(of), amount, "{name}: {of}");
        }
        if name.starts_with("T7") {
            assert_eq!(months[&ms(32)].rates(), Some([10.0, 10.0, 50.0]), "{name}: April");
        }
    }
}

#[test]
fn who_comes_back_a_month_later_is_reactivated() {
    let told = [
        ("g", 0, "started", Some(50)),
        ("h", 0, "started", Some(50)),
        ("g", 3, "cancelled", None),
        ("g", 35, "started", Some(40)),
    ];
    let months = months(&Deployment::of(&raws(&at_once(&told)), config(&[])), i32::MAX);
    assert_eq!(months[&ms(1)].rates().unwrap()[..1], [50.0]);
    assert_eq!(months[&ms(32)].rates().unwrap()[..1], [100.0]);
    assert_eq!((months[&ms(32)].of("reactivated"), months[&ms(32)].of("new")), (40, 0));
}

#[test]
fn what_is_told_late_restates_the_month_or_counts_when_it_became_known() {
    // T6: a loss on 20 March is told on 5 April.
    let told: Vec<_> = COHORT.iter().map(|told| (*told, (told.1 == 20).then_some(36))).collect();
    let restated = Deployment::of(&raws(&told), over(&[Month, Quarter], &[]));
    let as_first_reported = months(&restated, 0);
    assert_eq!(as_first_reported[&ms(1)].rates().unwrap()[..2], [110.0, 90.0]);
    let now = months(&restated, i32::MAX);
    assert_eq!(now[&ms(1)].rates().unwrap()[..2], [105.0, 85.0]);
    assert_eq!(now[&ms(32)].of("opening"), 105_000);
    restated.check();
    let booked = Deployment::of(&raws(&told), over(&[Month, Quarter], &["revenue.late=book_now"]));
    let now = months(&booked, i32::MAX);
    assert_eq!(now[&ms(1)].rates().unwrap()[..2], [110.0, 90.0]);
    assert_eq!(now[&ms(32)].of("opening"), 110_000);
    assert_eq!(now[&ms(32)].rates().unwrap()[..1], [95.454_545]);
    booked.check();
}

/// Reads until 11 March, closes all panes before it, and reads the rest. The rows are the oracle's.
fn until_the_11th_and_then(told: &[Raw]) -> Deployment {
    let mut all = raws(&[]);
    all.extend(told.iter().cloned());
    all.sort_by_key(|raw| raw.at_ms);
    let (before, after) = all.split_at(all.partition_point(|raw| raw.at_ms < ms(11)));
    let mut deployment = Deployment::begun(over(&[Month], &[]));
    deployment.read(before, true);
    deployment.read(after, true);
    deployment.check();
    deployment
}

/// A deletion that is told late is known to the account before the close that tells of it.
#[test]
fn a_deletion_told_late_takes_the_running_periods_back_whatever_the_account_does_next() {
    let begun = contract("c1", 0, json!({"account_id": "g", "type": "started", "mrr": 50, "currency": "USD"}));
    let deleted = Raw { at_ms: ms(11) + 1, ..raw(Account, ms(8), "d", json!({"account_id": "g", "type": "deleted"})) };
    let more = raw(Usage, ms(11) + 2, "u", json!({"account_id": "g", "user_id": "u", "feature": "export"}));
    let again = contract("c2", 12, json!({"account_id": "g", "type": "started", "mrr": 70, "currency": "USD"}));
    let closings = |told: &[Raw]| {
        rows(&until_the_11th_and_then(told), "g", |row| {
            let closing = format!("{}: {}", (row.as_of / 1000 - ms(0)) / 86_400_000, row.closing.unwrap() / 100);
            (row.period_start == ms(1) * 1000).then_some(closing)
        })
    };
    let silent = closings(&[begun.clone(), deleted.clone()]);
    assert_eq!(silent, ["2: 50", "11: 0"], "told after the pane of the 8th had closed");
    assert_eq!(closings(&[begun.clone(), deleted.clone(), more]), silent);
    assert_eq!(closings(&[begun, deleted, again])[..2], silent);
}

/// An id is forgotten with its pane, what was said of a contract never.
#[test]
fn an_event_of_a_contract_that_is_sent_again_with_other_content_changes_nothing_however_late() {
    let told = |mrr: i64, from: i64, id: &str| json!({"account_id": "g", "type": "started", "mrr": mrr, "currency": "USD", "effective_at": ms(from), "contract_id": id});
    let again = |more: Value| Raw { at_ms: ms(11), ..contract("c1", 0, more) };
    let rows_with = |more: &[Raw]| {
        let all = [&[contract("c1", 0, told(50, 0, "a"))], more].concat();
        rows(&until_the_11th_and_then(&all), "g", |row| {
            Some(format!("{} {}: {:?}", row.as_of, row.period_start, row.closing))
        })
    };
    let once = rows_with(&[]);
    assert_eq!(once.len(), 6, "{once:?}");
    assert_eq!(rows_with(&[again(told(50, 0, "a"))]), once);
    assert_eq!(rows_with(&[again(told(90, 0, "a"))]), once);
    assert_eq!(rows_with(&[again(told(50, 2, "b"))]), once);
}

pub(crate) fn over(periods: &[PeriodKind], set: &[&str]) -> Config {
    let mut config = config(set);
    config.revenue.periods = periods.to_vec();
    config
}

/// Rows of one account: each as text.
pub(crate) fn rows(deployment: &Deployment, account: &str, shown: impl Fn(&Row<'_>) -> Option<String>) -> Vec<String> {
    let rows = deployment.streamed().revenue;
    let reader = Reader::of(Columns::Batch(&rows)).unwrap();
    let of_account = (0..rows.num_rows()).map(|row| reader.row(row)).filter(|row| row.account_id == account);
    of_account.filter_map(|row| shown(&row)).collect()
}

pub(crate) fn deployment(told: &[Raw], config: Config) -> Deployment {
    let mut all = raws(&[]);
    all.extend(told.iter().cloned());
    all.sort_by_key(|raw| raw.at_ms);
    Deployment::of(&all, config)
}

pub(crate) fn contract(id: &str, told_on: i64, more: Value) -> Raw {
    raw(Contract, ms(told_on), id, more)
}

#[test]
fn a_term_is_due_where_it_ends_and_a_late_renewal_restates_it() {
    let config = over(&[Month], &["revenue.grace=20d"]);
    let told = [
        contract("1", -5, json!({"account_id": "acme", "type": "started", "mrr": 500, "ends_at": ms(25)})),
        // The term ends on 25 March. Somebody renews it on 5 April, for less.
        contract("2", 36, json!({"account_id": "acme", "type": "renewed", "mrr": 470, "ends_at": ms(400)})),
        contract("3", -5, json!({"account_id": "gone", "type": "started", "mrr": 100, "ends_at": ms(10)})),
    ];
    let deployment = deployment(&told, config);
    let shown = |row: &Row<'_>| {
        let money = |hundredths: Option<i128>| hundredths.unwrap() / 100;
        let Row { revision, renewals_due, renewals_made, renewals_due_mrr, renewals_made_mrr, .. } = row;
        row.is_final.then(|| {
            let (due, made) = (money(*renewals_due_mrr), money(*renewals_made_mrr));
            let at = row.period_start / 86_400_000_000 - 19_782;
            format!("day {at}, revision {revision}: {renewals_made} of {renewals_due}, {made} of {due}")
        })
    };
    assert_eq!(
        rows(&deployment, "acme", shown),
        [
            "day -28, revision 0: 0 of 0, 0 of 0",
            "day 1, revision 0: 0 of 1, 0 of 500",
            "day 1, revision 1: 1 of 1, 470 of 500",
            "day 32, revision 0: 0 of 0, 0 of 0",
        ]
    );
    assert_eq!(rows(&deployment, "gone", shown)[1], "day 1, revision 0: 0 of 1, 0 of 100");
    deployment.check();
}

#[test]
fn a_period_keeps_the_segment_and_owner_of_its_start_and_lost_seats_may_be_churn() {
    let fact = |id: &str, day: i64, facts: Value| {
        raw(Account, ms(day), id, json!({"account_id": "acme", "type": "upsert", "facts": facts}))
    };
    let told = [
        fact("f1", -6, json!({"segment": "smb", "owner": "ann"})),
        contract("1", -5, json!({"account_id": "acme", "type": "started", "mrr": 500, "currency": "EUR"})),
        fact("f2", 5, json!({"segment": "enterprise"})),
        contract("2", 9, json!({"account_id": "acme", "type": "changed", "mrr": 400, "reason": "seat_removed"})),
        // Told on 3 April: who had the account in March stays.
        raw(Account, ms(34), "f3", json!({"account_id": "acme", "type": "upsert", "facts": {"owner": "bob"}})),
        contract("3", 36, json!({"account_id": "acme", "type": "changed", "effective_at": ms(20), "mrr": 450})),
    ];
    let shown = |row: &Row<'_>| {
        let Row { revision, segment, owner, .. } = row;
        let (contraction, churned) = (row.contraction.unwrap() / 100, row.churned.unwrap() / 100);
        let day = row.period_start / 86_400_000_000 - 19_782;
        let (segment, owner) = (segment.unwrap(), owner.unwrap());
        row.is_final.then(|| {
            format!("day {day}, revision {revision}: {segment} {owner}, {contraction} less, {churned} churned")
        })
    };
    let contraction = deployment(&told, over(&[Month], &[]));
    assert_eq!(
        rows(&contraction, "acme", shown),
        [
            "day -28, revision 0: smb ann, 0 less, 0 churned",
            "day 1, revision 0: smb ann, 100 less, 0 churned",
            "day 1, revision 1: smb ann, 50 less, 0 churned",
            "day 32, revision 0: enterprise ann, 0 less, 0 churned",
        ]
    );
    contraction.check();
    let churn = deployment(&told, over(&[Month], &["revenue.seat_removal=churn"]));
    assert_eq!(
        rows(&churn, "acme", shown)[1..3],
        ["day 1, revision 0: smb ann, 0 less, 100 churned", "day 1, revision 1: smb ann, 0 less, 50 churned",]
    );
    churn.check();
}

#[test]
fn what_is_earned_goes_by_days_and_periods_begin_where_the_business_is() {
    // Six weeks from noon of 16 March in Berlin, where clocks go forward on the 31st.
    let config = over(&[Month, Quarter], &["revenue.time_zone=Europe/Berlin", "revenue.year_starts_in=2"]);
    let told = [
        raw(Contract, ms(16) + 39_600_000, "1", json!({"account_id": "acme", "type": "started", "mrr": 3100})),
        contract("2", 58, json!({"account_id": "acme", "type": "cancelled"})),
    ];
    let deployment = deployment(&told, config);
    let shown = |row: &Row<'_>| {
        let time = |us: i64| jiff::Timestamp::from_microsecond(us).unwrap().strftime("%d %b %H:%M").to_string();
        let earned = row.earned.unwrap();
        row.is_final.then(|| format!("{} {} to {}: {earned}", row.period, time(row.period_start), time(row.period_end)))
    };
    // March has 743 hours there, of which 371 are paid; April 720, of which 626.
    assert_eq!(
        rows(&deployment, "acme", shown),
        [
            "month 29 Feb 23:00 to 31 Mar 22:00: 154791",
            "month 31 Mar 22:00 to 30 Apr 22:00: 269528",
            "quarter 31 Jan 23:00 to 30 Apr 22:00: 424319",
        ]
    );
    deployment.check();
}
