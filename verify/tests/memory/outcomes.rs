//! Shipped figures of alerts, predictions and value against their published numbers, on rows that are written down here.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use keepwell::views::{self, Engine};

use crate::figures::{figure_in, figure_of, row, time, with_tables};

/// The newest row of all tables is of 9 April.
fn newest() -> (&'static str, Vec<String>) {
    ("scores", vec![format!("select {} as as_of, true as final", time("2024-04-10"))])
}

/// An alert of a day, with other columns than those of a severe one that nobody has acted on.
fn alert(raised: &str, other: &[(&str, &str)]) -> String {
    let none = "cast(null as timestamp)";
    let raised = time(raised);
    let mut columns: BTreeMap<&str, &str> = [
        ("severity", "'high'"),
        ("held_since", &raised),
        ("raised_at", &raised),
        ("accepted_at", none),
        ("done_at", none),
        ("churned_at", none),
        ("customer_status", "cast('active' as string)"),
        ("mrr", "cast(10 as decimal(18, 2))"),
        ("currency", "'EUR'"),
        ("score", "40.0"),
        ("score_28d_later", "44.0"),
    ]
    .into();
    columns.extend(other.iter().copied());
    let columns: Vec<String> = columns.iter().map(|(name, sql)| format!("{sql} as {name}")).collect();
    format!("select {}", columns.join(", "))
}

/// The first of each pair as often as the second says.
fn rows(of: &[(usize, String)]) -> Vec<String> {
    of.iter().flat_map(|(times, row)| std::iter::repeat_n(row.clone(), *times)).collect()
}

/// Of 40 alerts, 22 were accepted as soon as their severity asks for, and the others a day later.
fn accepted_in_time() -> Vec<String> {
    let of_severity =
        |severity: &str, on: &str| alert("2024-03-10", &[("severity", severity), ("accepted_at", &time(on))]);
    rows(&[
        (10, of_severity("'high'", "2024-03-11")),
        (10, of_severity("'medium'", "2024-03-13")),
        (2, of_severity("'low'", "2024-03-17")),
        (6, of_severity("'high'", "2024-03-12")),
        (6, of_severity("'medium'", "2024-03-14")),
        (6, of_severity("'low'", "2024-03-18")),
    ])
}

#[tokio::test]
async fn what_becomes_of_alerts_has_the_published_numbers() {
    let at = |date: &str| time(date);
    let accepted = |raised: &str, on: &str| alert(raised, &[("accepted_at", &at(on))]);
    let acted = rows(&[
        (28, accepted("2024-03-10", "2024-03-24")),
        (11, alert("2024-03-10", &[])),
        // A day too late. The 14 days of the last pass in April.
        (1, accepted("2024-03-10", "2024-03-25")),
        (5, alert("2024-03-20", &[])),
    ]);
    let in_time = accepted_in_time();
    let done = rows(&[
        (3, alert("2024-02-10", &[("done_at", &at("2024-03-11"))])),
        (1, alert("2024-02-10", &[("accepted_at", &at("2024-02-11")), ("done_at", &at("2024-03-12"))])),
    ]);
    let severe = |mrr: &str, left: &str| {
        let mrr = format!("cast({mrr} as decimal(18, 2))");
        alert("2023-12-15", &[("mrr", &mrr), ("churned_at", left)])
    };
    let saved = rows(&[
        (13, severe("7000", "cast(null as timestamp)")),
        // It left on the 91st day.
        (1, severe("5000", &at("2024-03-15"))),
        (6, severe("4000", &at("2024-03-14"))),
        // These do not count: a mild one, one who had left before.
        (5, alert("2023-12-15", &[("severity", "'medium'")])),
        (5, alert("2023-12-15", &[("customer_status", "cast('churned' as string)")])),
    ]);
    let (soon, left) = (at("2023-12-20"), at("2024-01-15"));
    let lift = rows(&[
        (8, alert("2023-12-15", &[("accepted_at", &soon)])),
        (2, alert("2023-12-15", &[("accepted_at", &soon), ("churned_at", &left)])),
        (12, alert("2023-12-15", &[])),
        (7, alert("2023-12-15", &[("churned_at", &left)])),
        // Acted on too late to be the reason.
        (1, alert("2023-12-15", &[("accepted_at", &at("2024-01-30")), ("churned_at", &left)])),
    ]);
    let scores = rows(&[
        (4, alert("2024-02-10", &[("accepted_at", &at("2024-02-11")), ("score_28d_later", "52.0")])),
        (9, alert("2024-02-10", &[])),
    ]);
    let signals = rows(&[(1, alert("2024-03-05", &[("held_since", &at("2024-03-03"))]))]);
    let lead = rows(&[(1, alert("2024-01-31", &[("churned_at", &at("2024-03-17"))]))]);
    let cases: [(&str, &Vec<String>, &str); 13] = [
        ("acted_on", &acted, "70.000000"),
        ("alerts_raised", &acted, "45.000000"),
        ("accepted_in_time", &in_time, "55.000000"),
        ("closed_in_time", &done, "75.000000"),
        ("saved", &saved, "70.000000"),
        ("saved_revenue", &saved, "80.000000"),
        ("stayed_after_action", &lift, "80.000000"),
        ("stayed_without_action", &lift, "60.000000"),
        ("retention_lift", &lift, "20.000000"),
        ("score_gain_after_action", &scores, "12.000000"),
        ("score_lift", &scores, "8.000000"),
        ("days_to_signal", &signals, "2.000000"),
        ("lead_days", &lead, "46.000000"),
    ];
    for (name, alerts, expected) in cases {
        let found = figure_of(name, &[("alerts", alerts.clone()), newest()], &[]).await;
        assert_eq!(found.into_values().collect::<Vec<_>>(), [expected], "{name}");
    }
}

/// A customer at the start of March, its score of the days before, and whether it left in March.
fn customer(nth: usize, has_left: bool) -> String {
    format!(
        "select 'a{nth}' as account_id, 'month' as period, cast('2024-03-01T00:00:00Z' as timestamp) as period_start, \
         true as final, 0 as revision, true as customer_at_start, {has_left} as churned_logo, cast('smb' as string) as segment, \
         'ann' as owner, 'pro' as plan, cast('2024-04-01T00:00:00Z' as timestamp) as as_of, 1 as epoch, 0 as next_offset, 0 as ordinal"
    )
}

fn score(nth: usize, as_of: &str, (band, score): (&str, f64)) -> String {
    format!(
        "select 'a{nth}' as account_id, cast('{as_of}T00:00:00Z' as timestamp) as as_of, true as final, '{band}' as band, \
         {score:.1} as score, 'm' as model, 1 as model_version, 1 as epoch, 0 as next_offset, 0 as ordinal"
    )
}

#[tokio::test]
async fn predictions_have_the_published_numbers_and_a_score_of_the_month_itself_predicts_nothing() {
    let (mut customers, mut scores) = (Vec::new(), Vec::new());
    // TP 9, FP 11, FN 3, TN 77.
    let groups = [(9, "red", true), (11, "red", false), (3, "green", true), (77, "green", false)];
    for (times, band, has_left) in groups {
        for _ in 0..times {
            let nth = customers.len();
            customers.push(customer(nth, has_left));
            scores.push(score(nth, "2024-02-20", ("yellow", 60.0)));
            scores.push(score(nth, "2024-03-01", (band, if band == "red" { 20.0 } else { 80.0 })));
            // Known too late.
            scores.push(score(nth, "2024-03-02", (if has_left { "red" } else { "green" }, 50.0)));
        }
    }
    let cases = [
        ("share_left", "12.000000"),
        ("prediction_accuracy", "86.000000"),
        ("prediction_precision", "45.000000"),
        ("prediction_recall", "75.000000"),
        ("prediction_f1", "0.562500"),
        ("prediction_lift", "3.750000"),
        // Of 12 x 88 pairs, 9 x 77 are right, and 9 x 11 + 3 x 77 equal.
        ("prediction_auc", "0.812500"),
    ];
    for (name, expected) in cases {
        let tables = [("revenue", customers.clone()), ("scores", scores.clone())];
        assert_eq!(figure_of(name, &tables, &[]).await["all"], expected, "{name}");
        assert_eq!(figure_of(name, &tables, &["segment".to_owned()]).await["smb"], expected, "{name}");
    }
    // Without a score that is known and not too old, it is unknown.
    customers.push(customer(100, true));
    customers.push(customer(101, true));
    customers.push(customer(102, true));
    scores.push(score(101, "2024-01-15", ("red", 20.0)));
    scores.push(score(102, "2024-03-01", ("unknown", 20.0)));
    for (name, expected) in cases {
        let tables = [("revenue", customers.clone()), ("scores", scores.clone())];
        let unknown = if name == "prediction_precision" { "" } else { ", 3 unknown" };
        assert_eq!(figure_of(name, &tables, &[]).await["all"], format!("{expected}{unknown}"), "{name}");
    }
}

/// A figure, its accounts, and its value.
type Case<'c> = (&'c str, Vec<(usize, String)>, &'c str);

#[tokio::test]
async fn what_customers_get_and_cost_has_the_published_numbers() {
    let customer = "cast('active' as string) as customer_status, 'smb' as segment";
    let of = |facts: &str| format!("{customer}, map {{{facts}}} as other_facts");
    let times = |times: usize, facts: &str| (times, of(facts));
    let touched = |times: usize, on: &str| (times, of(&format!(r#"'last_touch_at': '"{on}"'"#)));
    let live = |on: &str| {
        format!("{}, {} as started_at", of(&format!(r#"'live_at': '"{on}T10:00:00Z"'"#)), time("2024-02-01"))
    };
    let served = format!("{}, 40 as tickets_opened_28d", of("'service_hours': '10'"));
    let facts = "'value_to_date': '60000', 'cost_to_date': '30000', 'value_a_month': '5000', 'other': '\"text\"'";
    let started = |times: usize, on: Option<&str>| {
        let value = on.map_or_else(|| "cast(null as timestamp)".to_owned(), time);
        (times, format!("{value} as first_value_at, {} as started_at", time("2024-02-10")))
    };
    let cases: [Case<'_>; 10] = [
        (
            "customer_roi",
            vec![times(1, facts), times(1, "'cost_to_date': '\"unclear\"'"), times(1, "'cost_to_date': '1e30'")],
            "100.000000",
        ),
        ("payback_months", vec![times(1, facts)], "6.000000"),
        ("referral_rate", vec![times(18, "'referrals': '1'"), times(182, "'referrals': '0'")], "9.000000"),
        ("referral_conversion", vec![times(3, "'referrals': '10', 'referrals_won': '2'")], "20.000000"),
        // 31 March less 90 days is the first of January.
        ("cadence_coverage", vec![touched(51, "2024-01-02"), touched(9, "2024-01-01")], "85.000000"),
        ("playbook_adherence", vec![times(3, "'playbook_steps_due': '8', 'playbook_steps_in_time': '6'")], "75.000000"),
        ("days_to_go_live", vec![(1, live("2024-03-13")), (1, live("2024-02-13"))], "41.000000"),
        (
            "activation_rate",
            vec![started(1, None), started(26, Some("2024-03-11")), started(13, Some("2024-03-12"))],
            "65.000000",
        ),
        ("cost_to_serve", vec![(1, served)], "8.000000"),
        ("hours_served", vec![times(2, "'service_hours': '10.5'"), times(1, "'else': '1'")], "21.000000, 1 unknown"),
    ];
    for (name, of_accounts, expected) in cases {
        let rows = rows(&of_accounts);
        let rows = rows.iter().enumerate().map(|(nth, more)| row(&format!("a{nth}"), 31, more));
        let rows: Vec<String> = rows.map(|row| row.replace("null as decimal", "20000 as decimal")).collect();
        assert_eq!(figure_of(name, &[("windows", rows)], &[]).await["all"], expected, "{name}");
    }
}

/// The figure of one's own in the documents, of the feature group `reports`.
#[tokio::test]
async fn thirty_of_a_hundred_and_twenty_users_use_a_feature() {
    let document = std::fs::read_to_string("../docs/outputs.md").unwrap();
    let (_, rest) = document.split_once("- name: adoption_of_reports").unwrap();
    let file = format!("- name: adoption_of_reports{}", rest.split_once("```").unwrap().0);
    let of = |users: usize, of: usize| format!("{users} as reports_users_28d, {of} as active_users_28d");
    let rows = vec![row("a", 31, &of(20, 100)), row("b", 31, &of(10, 20))];
    let file = Some(("own.yaml", file.as_str()));
    assert_eq!(figure_in(file, "adoption_of_reports", &[("windows", rows)], &[]).await["all"], "25.000000");
}

#[tokio::test]
async fn a_customer_has_its_money_back_in_the_month_in_which_value_reaches_cost() {
    let of = |account: &str, day: u8, value: u32, started: &str| {
        let facts = format!("map {{'value_to_date': '{value}', 'cost_to_date': '8000'}} as other_facts");
        row(account, day, &format!("{facts}, {} as started_at", time(started)))
    };
    let rows = vec![
        of("second", 9, 3000, "2024-02-01"),
        of("second", 10, 9000, "2024-02-01"),
        of("second", 31, 9999, "2024-02-01"),
        // It has paid nothing yet.
        of("second", 1, 0, "2024-02-01").replace("'8000'", "'0'"),
        of("first", 10, 8000, "2024-02-11"),
        of("third", 11, 8000, "2024-01-11"),
        of("never", 31, 7999, "2023-02-11"),
        // Long ago.
        of("before", 10, 8000, "2023-01-01").replace("2024-03-11", "2024-02-11"),
        of("before", 31, 9000, "2023-01-01"),
    ];
    assert_eq!(figure_of("break_even_month", &[("windows", rows)], &[]).await["all"], "2.000000");
}

/// A final row of `scores` at the end of a day, after that of another, with its triggers: name, state, since.
fn told(before: u8, day: u8, triggers: &[(&str, &str, u8)], (score, band): (f64, &str)) -> String {
    let at = |day: u8| format!("cast('2024-03-{day:02}T00:00:00Z' as timestamp)");
    let each = triggers.iter().map(|(name, state, since)| {
        format!(
            "named_struct('name', '{name}', 'state', '{state}', 'since', {}, 'severity', 'high', 'playbook', 'call', 'owner_role', 'csm', 'evidence', '{{}}')",
            at(*since)
        )
    });
    format!(
        "select 'a/b' as account_id, {} as as_of, {} as previous_as_of, true as final, make_array({}) as triggers, {score:.1} as score, '{band}' as band, \
         'smb' as segment, 'ann' as owner, 'pro' as plan, 'active' as customer_status, 10 as mrr, 'EUR' as currency, \
         1 as epoch, 0 as next_offset, 0 as ordinal",
        at(day),
        at(before),
        each.collect::<Vec<_>>().join(", ")
    )
}

#[tokio::test]
async fn an_alert_has_its_beginning_and_what_was_told_of_it_also_after_its_end() {
    let scores = vec![
        told(1, 1, &[("drop", "pending", 1)], (60.0, "yellow")),
        told(1, 2, &[("drop", "pending", 1), ("d_op", "raised", 2)], (50.0, "yellow")),
        told(2, 3, &[("drop", "raised", 3), ("d_op", "active", 2)], (40.0, "red")),
        told(3, 4, &[("drop", "active", 3), ("d_op", "cleared", 2)], (45.0, "red")),
        told(4, 5, &[("drop", "pending", 5)], (45.0, "red")),
        told(5, 8, &[("other", "active", 1)], (45.0, "red")),
        // Its pending row was of another time that the condition held.
        told(8, 9, &[("drop", "raised", 9)], (70.0, "yellow")),
        told(9, 30, &[("drop", "active", 9)], (80.0, "green")),
        told(30, 31, &[("drop", "cleared", 9)], (1.0, "churned")),
    ];
    let outcome = |day: u8, outcomes: &[(&str, &str)]| {
        let each = outcomes.iter().map(|(id, outcome)| format!("'{id}': '{outcome}'"));
        format!(
            "select 'a/b' as account_id, cast('2024-03-{day:02}T00:00:00Z' as timestamp) as as_of, true as final, map {{{}}} as outcomes",
            each.collect::<Vec<_>>().join(", ")
        )
    };
    let first = "a/b/drop/2024-03-03T00:00:00Z";
    let windows = vec![
        outcome(3, &[("nothing", "done")]),
        outcome(4, &[(first, "accepted")]),
        outcome(8, &[(first, "done"), ("a/b/d_op/2024-03-02T00:00:00Z", "dismissed")]),
        outcome(9, &[(first, "done")]),
    ];
    let session = with_tables(&[("scores", scores), ("windows", windows)]).await;
    session.sql(&views::alerts(Engine::Datafusion, None)).await.unwrap().collect().await.unwrap();
    let columns = "trigger, held_since, raised_at, accepted_at, done_at, churned_at, score, score_28d_later";
    let sql = format!("select {columns} from alerts order by raised_at");
    let batches = session.sql(&sql).await.unwrap().collect().await.unwrap();
    let mut found = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|column| cast(column, &DataType::Utf8).unwrap()).collect();
        found.extend((0..batch.num_rows()).map(|row| {
            let cell = |column: &arrow::array::ArrayRef| {
                let texts = column.as_string::<i32>();
                let is_told = arrow::array::Array::is_valid(texts, row);
                let text = if is_told { texts.value(row) } else { "-" };
                text.trim_start_matches("2024-03-").trim_end_matches("T00:00:00").to_owned()
            };
            columns.iter().map(cell).collect::<Vec<_>>().join(" ")
        }));
    }
    let expected = [
        // The last row within 28 days is that of the 30th.
        "d_op 02 02 - - 31 50.0 80.0",
        "drop 01 03 04 08 31 40.0 1.0",
        "drop 09 09 - - 31 70.0 1.0",
    ];
    assert_eq!(found, expected);
}
