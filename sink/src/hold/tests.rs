use super::*;

const DAY_US: i64 = 86_400_000_000;
const SETTLE_DAYS: i64 = 2;

/// A report of one day: the partition, whether a source died, and accounts that fell of 100.
fn report(partition: i32, day: i64, is_low: bool, dropped: u64) -> Report {
    let suspect = SuspectPane { as_of_us: day * DAY_US, sources: vec!["usage".into()] };
    Report {
        partition,
        panes: PanesEnded { ended_us: day * DAY_US, suspect: is_low.then_some(suspect).into_iter().collect() },
        drops: vec![(day * DAY_US, Drops { scored: 100, dropped })],
        bounds: Bounds { max_dropping: Some(0.2), min_accounts: 150, settle_us: SETTLE_DAYS * DAY_US },
    }
}

fn ready(day: i64, alert: &str) -> Ready {
    Ready {
        as_of_us: day * DAY_US,
        place: 0,
        account_id: "acme".into(),
        alert_id: alert[1..].into(),
        is_raise: alert.starts_with('+'),
        value: format!("{day}{alert}").into(),
    }
}

/// What happens on one day.
enum Day {
    /// Every source is as usual.
    Usual,
    /// A source died.
    Low,
    /// This many of 200 accounts fell.
    Dropping(u64),
}
use Day::{Dropping, Low, Usual};
use keepwell_pipeline::suspect::{PanesEnded, SuspectPane};

/// Plays days: the alerts of each (`+a` raised, `-a` over), and a word behind it. Returns what is published, by day.
fn played(days: &[(Day, &str, Option<Word>)]) -> Vec<String> {
    let mut holding = Holding::default();
    let lines = days.iter().zip(1..).map(|((day, alerts, word), n)| {
        let (is_low, dropped) = match day {
            Usual => (false, 0),
            Low => (true, 0),
            Dropping(count) => (false, *count),
        };
        let mut outcome = Outcome::default();
        alerts.split_whitespace().for_each(|alert| holding.add(ready(n, alert)));
        for (partition, dropped) in [(1, dropped / 2), (0, dropped - dropped / 2)] {
            holding.decide(0, 2, &mut outcome);
            assert_eq!(outcome, Outcome::default(), "nothing goes out before all partitions have reported");
            holding.report(report(partition, n, is_low, dropped), 0);
        }
        holding.decide(0, 2, &mut outcome);
        if let Some(word) = word {
            holding.word(*word, &mut outcome);
        }
        holding = Holding::restored(&holding.saved().unwrap()).unwrap();
        text(&outcome)
    });
    lines.collect()
}

fn text(outcome: &Outcome) -> String {
    let published: Vec<_> = outcome.published.iter().map(|alert| String::from_utf8_lossy(&alert.value)).collect();
    published.join(" ")
}

const RELEASE: Option<Word> = Some(Word { decision: Decision::Release, until_us: None });
const DROP: Option<Word> = Some(Word { decision: Decision::Drop, until_us: None });

#[test]
fn alerts_of_usual_days_go_out_when_all_partitions_have_ended_the_day() {
    assert_eq!(played(&[(Usual, "+a", None), (Usual, "+b -a", None)]), ["1+a", "2+b 2-a"]);
}

#[test]
fn the_return_of_the_source_publishes_what_still_holds_and_drops_what_is_over() {
    let days = [
        (Usual, "+old", None),
        (Low, "+a +b", None),
        (Low, "-a +c -old", None),
        (Usual, "+d", None),
        (Usual, "-c", None),
        (Usual, "+e", None),
        (Usual, "-b", None),
    ];
    assert_eq!(played(&days), ["1+old", "", "", "", "", "2+b 3-old 4+d 6+e", "7-b"]);
}

#[test]
fn too_many_accounts_that_fall_make_a_day_suspect_whatever_partition_they_are_in() {
    assert_eq!(played(&[(Dropping(40), "+a", None)]), ["1+a"], "a fifth is not more than a fifth");
    assert_eq!(played(&[(Dropping(41), "+a", None)]), [""]);
    let mut holding = Holding::default();
    let mut outcome = Outcome::default();
    holding.add(ready(1, "+a"));
    let few = |partition| Report {
        drops: vec![(DAY_US, Drops { scored: 74, dropped: 74 })],
        ..report(partition, 1, false, 0)
    };
    [0, 1].into_iter().for_each(|partition| holding.report(few(partition), 0));
    holding.decide(0, 2, &mut outcome);
    assert_eq!(text(&outcome), "1+a", "148 accounts are too few to be judged");
}

#[test]
fn without_a_bound_for_drops_nobody_waits_for_another_partition() {
    let mut holding = Holding::default();
    let mut outcome = Outcome::default();
    holding.add(ready(1, "+a"));
    let bounds = Bounds { max_dropping: None, ..report(0, 1, false, 100).bounds };
    holding.report(Report { bounds, ..report(0, 1, false, 100) }, 0);
    holding.decide(0, 2, &mut outcome);
    assert_eq!(text(&outcome), "1+a");
}

#[test]
fn an_operator_releases_or_drops_what_is_held() {
    assert_eq!(played(&[(Low, "+a +b", None), (Low, "-a", RELEASE), (Usual, "+c", None)]), ["", "1+b", "3+c"]);
    let days = [(Usual, "+old", None), (Low, "+a +b -old", DROP), (Usual, "-a +c", None), (Usual, "-b +b", None)];
    assert_eq!(played(&days), ["1+old", "2-old", "", ""], "what comes before it has settled is held");
}

#[test]
fn a_word_holds_for_suspect_days_up_to_the_time_it_names() {
    let until = |decision| Some(Word { decision, until_us: Some(3 * DAY_US) });
    let days = |word| [(Low, "+a", word), (Low, "+b", None), (Low, "+c", None), (Low, "+d", None)];
    assert_eq!(played(&days(until(Decision::Release))), ["1+a", "2+b", "3+c", ""]);
    assert_eq!(played(&days(until(Decision::Drop))), ["", "", "", ""]);
    let mut longer = Vec::from(days(until(Decision::Drop)));
    longer.extend([(Usual, "-b", None), (Usual, "", None), (Usual, "", None)]);
    assert_eq!(played(&longer), ["", "", "", "", "", "", "4+d"]);
}

#[test]
fn the_order_in_which_partitions_report_changes_no_decision() {
    // Reports of three partitions over ten days, in every rotation, each partition in its own order.
    let alerts = ["+a", "+b", "-a +c", "", "+d -c", "-d", "", "+e", "", "-b"];
    let dropped = [0, 90, 0, 0, 0, 0, 0, 0, 0, 0];
    let all = |first: usize, is_together: bool| {
        let mut holding = Holding::default();
        let mut published = Vec::new();
        let order: Vec<(i32, i64)> = match is_together {
            true => (1..=10).flat_map(|day| (0..3).map(move |partition| (partition, day))).collect(),
            false => (0..3).flat_map(|partition| (1..=10).map(move |day| (partition, day))).collect(),
        };
        for at in 0..order.len() {
            let (partition, day) = order[(at + first) % order.len()];
            let partition = if is_together { (partition + first as i32) % 3 } else { partition };
            if partition == 0 {
                alerts[day as usize - 1].split_whitespace().for_each(|alert| holding.add(ready(day, alert)));
            }
            holding.report(report(partition, day, day == 5, dropped[day as usize - 1]), 0);
            let mut outcome = Outcome::default();
            holding.decide(0, 3, &mut outcome);
            published.extend(outcome.published.iter().map(|alert| String::from_utf8_lossy(&alert.value).into_owned()));
        }
        published
    };
    let expected = all(0, true);
    assert_eq!(expected, ["1+a", "2+b", "3-a", "8+e", "10-b"]);
    for first in [10, 20] {
        assert_eq!(all(first, false), expected, "{first}");
    }
    assert_eq!(all(0, false), expected);
}

#[test]
fn a_pane_is_decided_once_however_late_another_partition_reports_it() {
    let bounds = Bounds { max_dropping: None, ..report(0, 1, false, 0).bounds };
    let of = |partition, day, is_low| Report { bounds, ..report(partition, day, is_low, 0) };
    let mut holding = Holding::default();
    let mut outcome = Outcome::default();
    holding.word(Word { decision: Decision::Release, until_us: Some(3 * DAY_US) }, &mut outcome);
    for day in 1..=5 {
        holding.report(of(0, day, day == 5), 0);
        holding.decide(0, 2, &mut outcome);
    }
    holding.add(ready(5, "+a"));
    holding.decide(0, 2, &mut outcome);
    // The word is for day 3, not for what is held of day 5.
    holding.report(of(1, 3, true), 0);
    holding.decide(0, 2, &mut outcome);
    assert_eq!((text(&outcome), holding.num_held()), (String::new(), 1));
}

#[test]
fn a_pane_is_judged_by_the_bounds_of_its_own_report_and_what_nobody_reports_goes_out_at_once() {
    let mut holding = Holding::default();
    let mut outcome = Outcome::default();
    holding.pass(ready(1, "+old"));
    holding.decide(0, 2, &mut outcome);
    assert_eq!(text(&outcome), "1+old");
    holding.add(ready(2, "+a"));
    let wider = Bounds { max_dropping: Some(0.9), ..report(0, 2, false, 0).bounds };
    holding.report(report(0, 2, false, 60), 0);
    holding.report(Report { bounds: wider, ..report(0, 3, false, 0) }, 0);
    holding.report(report(1, 3, false, 0), 0);
    holding
        .report(Report { drops: vec![(2 * DAY_US, Drops { scored: 100, dropped: 10 })], ..report(1, 3, false, 0) }, 0);
    holding.decide(0, 2, &mut outcome);
    assert_eq!((text(&outcome), holding.num_held()), ("1+old".to_owned(), 1), "70 of 200 is more than a fifth");
    // As many on a later day. The report that decides is not the last one that is still there from before.
    holding.add(ready(6, "+b"));
    holding.report(Report { bounds: wider, ..report(0, 5, false, 0) }, 0);
    holding.report(report(0, 6, false, 60), 0);
    holding.report(report(1, 6, false, 10), 0);
    holding.decide(0, 2, &mut outcome);
    assert_eq!((text(&outcome), holding.num_held()), ("1+old 2+a".to_owned(), 1));
}
