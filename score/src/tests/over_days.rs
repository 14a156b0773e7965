//! The rows of an account over several days, from hand-made window rows: values that are carried, remembered, expired
//! or on hold.

use keepwell_core::codec;
use keepwell_core::offset::{NextOffset, Position};
use keepwell_core::schema::columns::{Columns, number, text};
use keepwell_core::schema::health;
use keepwell_pipeline::stage::{Batch, Stage};

use super::{Values, fresh, partition, record, stage};

/// The final row of each day: value and missing reason of the first factor, and the wanted column.
fn by_day(model: &str, days: &[(i64, Values<'_>)], column: &str) -> Vec<String> {
    let stage = stage(model);
    let records: Vec<_> = (0..).zip(days).map(|(offset, (day, values))| record(offset, *day, true, values)).collect();
    let batch = Batch {
        records: [(partition(), records.as_slice())].into(),
        positions: [(partition(), Position::at(NextOffset(0)))].into(),
        ..Batch::default()
    };
    let step = stage.apply(&fresh(&stage), &batch).unwrap();
    let mut by_day = Vec::new();
    for value in step.messages.iter().filter_map(|message| message.value.as_ref()) {
        let batch = codec::decode(value, &health::schema()).unwrap();
        let rows = Columns::Batch(&batch);
        for row in 0..batch.num_rows() {
            by_day.push(match column {
                "factor" => {
                    let (list, items) = rows.list("factors").unwrap();
                    let item = list.value_offsets()[row] as usize;
                    let value = number(items.float("value").unwrap(), item);
                    let missing = text(items.text("missing").unwrap(), item).unwrap_or("known");
                    format!("{} {missing}", value.map_or("-".to_owned(), |value| format!("{value:.3}")))
                }
                "trigger" => {
                    let (list, items) = rows.list("triggers").unwrap();
                    let of = |name: &str, item: usize| text(items.text(name).unwrap(), item).unwrap_or("-").to_owned();
                    let items = list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize;
                    items
                        .map(|item| format!("{} {} {}", of("state", item), of("outcome", item), of("evidence", item)))
                        .collect::<Vec<_>>()
                        .join("; ")
                }
                "band" => text(rows.text("band").unwrap(), row).unwrap_or("-").to_owned(),
                column => keepwell_core::schema::columns::millionths(rows.decimal(column).unwrap(), row)
                    .map_or("-".to_owned(), |points| (points as f64 / 1e6).to_string()),
            });
        }
    }
    by_day
}

fn model(factor: &str, more: &str) -> String {
    format!(
        "version: 1\nmodels:\n  - name: m\n    period: 28d\n{more}    factors:\n      - {{name: f, {factor}, weight: 100}}\n    bands: [{{name: low, from: 0}}, {{name: high, from: 50, leave_below: 40, dwell_panes: 2}}]\n"
    )
}

const SHARE: &str = "normalise: {linear: {from: 0, to: 100}}";

/// Totango's rule: for an account younger than the window, divide by its age. The first event is on day 100.
#[test]
fn a_young_account_is_divided_by_its_own_age() {
    let model = model(&format!("sql: uses / known_days, {SHARE}"), "");
    let days: [(i64, Values<'_>); 4] =
        [(100, &[("uses", 30.0)]), (103, &[("uses", 30.0)]), (114, &[("uses", 28.0)]), (200, &[("uses", 28.0)])];
    assert_eq!(by_day(&model, &days, "factor"), ["30.000 known", "10.000 known", "2.000 known", "1.000 known"]);
}

#[test]
fn a_value_against_the_window_before_is_unknown_where_that_is_nothing() {
    let model = model(&format!("sql: uses, against: previous_window, {SHARE}"), "");
    let days: [(i64, Values<'_>); 2] = [(100, &[("uses", 50.0), ("previous_uses", 100.0)]), (101, &[("uses", 50.0)])];
    assert_eq!(by_day(&model, &days, "factor"), ["0.500 known", "- reweight"]);
}

#[test]
fn a_value_expires_when_what_it_is_dated_by_is_too_old() {
    let factor = format!("sql: sentiment, expires: {{dated_by: sentiment_at, after: 30d}}, missing: zero, {SHARE}");
    let values: Values<'_> = &[("sentiment", 80.0), ("sentiment_at", 100.5)];
    let undated: Values<'_> = &[("sentiment", 80.0)];
    let days = [(101, values), (130, values), (131, values), (132, undated)];
    assert_eq!(by_day(&model(&factor, ""), &days, "factor"), ["80.000 known", "80.000 known", "- zero", "- zero"]);
}

#[test]
fn a_value_is_carried_for_as_long_as_declared() {
    let factor = format!("sql: nps, missing: {{carry: {{for: 2d, otherwise: neutral}}}}, {SHARE}");
    let values: Values<'_> = &[("nps", 60.0)];
    let days = [(100, values), (101, &[] as Values<'_>), (102, &[]), (103, &[]), (104, values), (105, &[])];
    let expected = ["60.000 known", "60.000 carry", "60.000 carry", "- neutral", "60.000 known", "60.000 carry"];
    assert_eq!(by_day(&model(&factor, ""), &days, "factor"), expected);
    assert_eq!(by_day(&model(&factor, ""), &days, "coverage"), ["100", "100", "100", "0", "100", "100"]);
}

#[test]
fn earlier_final_rows_are_seen_as_the_model_remembers_them() {
    let uses = [4.0, 1.0, 10.0, 7.0];
    let days: Vec<(i64, [(&str, f64); 1])> = (100..).zip(uses.map(|uses| [("uses", uses)])).collect();
    let days: Vec<(i64, Values<'_>)> = days.iter().map(|(day, values)| (*day, values.as_slice())).collect();
    // reducer, over, values that the rows can use
    let cases = [
        ("mean", "9d", ["-", "4.000", "2.500", "5.000"]),
        ("min", "9d", ["-", "4.000", "1.000", "1.000"]),
        ("max", "9d", ["-", "4.000", "4.000", "10.000"]),
        ("first", "9d", ["-", "4.000", "4.000", "4.000"]),
        ("last", "9d", ["-", "4.000", "1.000", "10.000"]),
        ("max", "3d", ["-", "4.000", "4.000", "10.000"]),
        ("first", "3d", ["-", "4.000", "4.000", "1.000"]),
    ];
    for (by, over, expected) in cases {
        let remember = format!("    remember: [{{name: usual, sql: uses, over: {over}, by: {by}}}]\n");
        let values = by_day(&model(&format!("sql: usual, {SHARE}"), &remember), &days, "factor");
        let values: Vec<&str> = values.iter().map(|value| value.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(values, expected, "{by} {over}");
    }
    let previous = model(&format!("sql: \"coalesce(previous_score + 5, uses)\", {SHARE}"), "");
    assert_eq!(by_day(&previous, &days, "score"), ["4", "9", "14", "19"]);
}

#[test]
fn the_score_of_an_account_that_has_come_of_age_is_its_baseline() {
    let model = model(&format!("sql: nps, {SHARE}"), "    baseline_day: 2\n");
    let days: [(i64, Values<'_>); 5] = [
        (101, &[("nps", 50.0)]),
        (102, &[]),
        (103, &[("nps", 70.0)]),
        (104, &[("nps", 90.0)]),
        (105, &[("nps", 10.0), ("started_at", 104.0)]),
    ];
    assert_eq!(by_day(&model, &days, "baseline_score"), ["-", "-", "70", "70", "70"]);
}

#[test]
fn a_band_is_left_below_its_exit_and_after_its_dwell() {
    let model = model(&format!("sql: nps, {SHARE}"), "");
    let scores = [45.0, 55.0, 10.0, 39.0, 49.0, 50.0, 45.0, 40.0, 39.9];
    let days: Vec<(i64, [(&str, f64); 1])> = (100..).zip(scores.map(|score| [("nps", score)])).collect();
    let days: Vec<(i64, Values<'_>)> = days.iter().map(|(day, values)| (*day, values.as_slice())).collect();
    let expected = ["low", "high", "high", "low", "low", "high", "high", "high", "low"];
    assert_eq!(by_day(&model, &days, "band"), expected);
}

#[test]
fn an_alert_has_evidence_and_an_outcome_closes_it() {
    let trigger = "    triggers: [{name: unhappy, sql: nps < 50 and score < 90, severity: high, playbook: call, owner_role: csm}]\n";
    let model = model(&format!("sql: nps, {SHARE}"), trigger);
    let days: [(i64, Values<'_>); 6] = [
        (100, &[("nps", 40.0)]),
        (101, &[("nps", 30.0), ("outcome_accepted", 100.0)]),
        (102, &[("nps", 20.0), ("outcome_done", 100.0)]),
        (103, &[("nps", 20.0), ("outcome_done", 100.0)]),
        (104, &[("nps", 60.0), ("outcome_done", 100.0)]),
        (105, &[("nps", 1.5), ("outcome_done", 100.0)]),
    ];
    let expected = [
        "raised - {\"nps\":40.0,\"score\":40.0}",
        "active accepted {\"nps\":30.0,\"score\":30.0}",
        "closed done {\"nps\":20.0,\"score\":20.0}",
        "closed done {\"nps\":20.0,\"score\":20.0}",
        "",
        "raised - {\"nps\":1.5,\"score\":1.5}",
    ];
    assert_eq!(by_day(&model, &days, "trigger"), expected);
}
