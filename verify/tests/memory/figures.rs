//! Shipped figures of windows and scores against their published numbers, on rows that are written down here.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::prelude::SessionContext;
use indicatif::ProgressBar;
use keepwell::demo::{self, DemoArgs};
use keepwell::report::{self, Asked, Question};
use keepwell_pipeline::config::{Aggregate, Revenue};
use keepwell_score::tables_reader::Stored;

#[test]
fn gauges_are_the_figures_of_the_periods_that_run_and_every_account_has_a_band() {
    let folder = tempfile::tempdir().unwrap();
    let args = DemoArgs { seed: 4, accounts: 60, days: 20, out: folder.path().join("demo") };
    let outcome = demo::play(&args, &ProgressBar::hidden()).unwrap();
    let url = url::Url::from_directory_path(args.out.join("tables")).unwrap().to_string();
    let stored = Stored::open(&url, &BTreeMap::new(), &Aggregate::default().layout()).unwrap();
    let all = report::parse(None).unwrap();
    let names = ["nrr", "accounts", "accounts_red", "nps"];
    let kpis = all.iter().filter(|kpi| names.contains(&kpi.name.as_str())).cloned().collect();
    let asked = Asked {
        kpis: (kpis, all),
        by: vec!["segment".to_owned()],
        given: BTreeMap::new(),
        rates: None,
        rules: Revenue::default(),
    };
    let of = report::report(&stored, &asked).unwrap();

    let bands = of.accounts.iter().filter(|([group, _], _)| group == "all");
    assert_eq!(bands.map(|(_, count)| count).sum::<i64>(), 60);
    let of_segment = |segment: &str| {
        let accounts = of.accounts.iter().filter(|([group, _], _)| group == segment);
        accounts.map(|(_, count)| count).sum::<i64>()
    };
    let (smb, enterprise) = (of_segment("segment smb"), of_segment("segment enterprise"));
    assert!(smb > enterprise && enterprise > 0 && smb + enterprise == 60, "{smb} and {enterprise}");
    let figure = |period: &str, group: &str, kpi: &str| {
        let is = |labels: &[String; 4]| labels[0] == period && labels[1] == group && labels[2] == kpi;
        of.figures.iter().find(|(labels, _)| is(labels)).map(|(_, value)| *value)
    };
    assert_eq!(figure("quarter", "all", "accounts"), Some(60.0));
    assert!(figure("month", "segment smb", "nrr").is_some() && figure("year", "all", "nps").is_some());
    let holding = outcome.scores.iter().map(|health| health.triggers.len()).sum::<usize>();
    assert_eq!(of.triggers.iter().map(|(_, count)| count).sum::<i64>(), holding as i64);
    assert!(holding > 0);
}

/// Columns that every question looks at.
const EACH: &str = "true as final, false as deleted, false as retired, 1 as epoch, 0 as next_offset, 0 as ordinal, \
     cast(null as decimal(18, 2)) as mrr, cast(null as string) as currency";

/// The same, and no success plan.
const WITHOUT_PLAN: &str = "cast(null as timestamp) as first_value_due_at";

/// The values of a figure that is made of one table, see [`figure_of`].
async fn figure(name: &str, table: &str, rows: &[String], by: &[String]) -> BTreeMap<String, String> {
    figure_of(name, &[(table, rows.to_vec())], by).await
}

/// Tables by name, with SQL for each row.
pub(crate) async fn with_tables(tables: &[(&str, Vec<String>)]) -> SessionContext {
    let session = SessionContext::new();
    for (table, rows) in tables {
        // A union of many rows needs more stack than a test has.
        for (nth, some) in rows.chunks(30).enumerate() {
            let begin = if nth == 0 { format!("create table {table} as") } else { format!("insert into {table}") };
            let statement = format!("{begin} {}", some.join(" union all "));
            session.sql(&statement).await.unwrap().collect().await.unwrap();
        }
    }
    session
}

/// The values of a shipped figure, see [`figure_in`].
pub(crate) async fn figure_of(name: &str, tables: &[(&str, Vec<String>)], by: &[String]) -> BTreeMap<String, String> {
    figure_in(None, name, tables, by).await
}

/// The values of a figure for March 2024, by group, with six decimals, and how many accounts are unknown. `file` has figures
/// of one's own, with its name.
pub(crate) async fn figure_in(
    file: Option<(&str, &str)>,
    name: &str,
    tables: &[(&str, Vec<String>)],
    by: &[String],
) -> BTreeMap<String, String> {
    let session = with_tables(tables).await;
    let periods = [report::named("2024-03", &Revenue::default()).unwrap()];
    let all = report::parse(file).unwrap();
    let kpis: Vec<_> = all.iter().filter(|kpi| kpi.name == name).cloned().collect();
    let question = Question { periods: &periods, by, ..Question::default() };
    let given = [("capacity", 50.0), ("ticket_cost", 25.0), ("hour_cost", 60.0)];
    let given = given.map(|(name, number)| (name.to_owned(), number)).into();
    let sql = report::sql(&kpis, &all, &question, &given).unwrap();
    let group = by.first().map_or("'all'", String::as_str);
    let sql = format!("select coalesce({group}, 'unknown') as of_group, value, unknown from ({sql}) kpis");
    let batches = session.sql(&sql).await.unwrap().collect().await.unwrap();
    let values = batches.iter().flat_map(|batch| {
        let groups = cast(batch.column(0), &DataType::Utf8).unwrap();
        let values = batch.column(1).as_primitive::<Float64Type>();
        let unknown = cast(batch.column(2), &DataType::Int64).unwrap();
        let unknown = unknown.as_primitive::<Int64Type>().values();
        let each = groups.as_string::<i32>().iter().zip(values).zip(unknown).map(|((group, value), unknown)| {
            let value = value.map_or_else(|| "none".to_owned(), |value| format!("{value:.6}"));
            let unknown = if *unknown > 0 { format!(", {unknown} unknown") } else { String::new() };
            (group.unwrap().to_owned(), value + &unknown)
        });
        each.collect::<Vec<_>>()
    });
    values.collect()
}

/// An account at the end of a day of March 2024.
pub(crate) fn row(account: &str, day: u8, more: &str) -> String {
    let as_of = if day == 31 { "2024-04-01".to_owned() } else { format!("2024-03-{:02}", day + 1) };
    let of = format!("'{account}' as account_id, cast('{as_of}T00:00:00Z' as timestamp) as as_of, {EACH}");
    format!("select {of}, {more}")
}

pub(crate) fn time(date: &str) -> String {
    format!("cast('{date}T08:00:00Z' as timestamp)")
}

#[tokio::test]
async fn what_is_counted_over_accounts_has_the_published_numbers() {
    // The answer of one account weighs as much as one of ten.
    let nps = ["80.0 as nps_90d, 10 as nps_responses_90d", "-100.0 as nps_90d, 1 as nps_responses_90d"];
    let csat = ["cast(0.72 as double) as csat_90d, 5 as csat_responses_90d"; 3];
    let entitled = ["0.6 as adoption_rate_28d", "0.4 as adoption_rate_28d"];
    let daily = ["84 as user_days_28d, 6 as active_users_28d"];
    let people = ["32 as active_users_28d, 50 as people"];
    let plan = ["9 as milestones_done, 3 as milestones_overdue"];
    let satisfied =
        ["3 as csat_satisfied_90d, 5 as csat_responses_90d", "null as csat_satisfied_90d, 9 as csat_responses_90d"];
    let effort = ["cast(20.0 / 28 as double) as ces_90d, 4 as ces_responses_90d, 3 as ces_easy_90d"];
    let items = [
        "12 as plan_items_due, 3 as plan_items_overdue, cast(null as string) as customer_status",
        "5 as plan_items_due, 5 as plan_items_overdue, 'churned' as customer_status",
    ];
    let first = [
        format!("32 as first_60d_active_users, 50 as people, {} as started_at", time("2024-01-10")),
        format!("9 as first_60d_active_users, 9 as people, {} as started_at", time("2024-02-10")),
    ];
    let first = first.each_ref().map(String::as_str);
    let cases: [(&str, &[&str], &str); 11] = [
        ("people_active_in_60_days", &first, "64.000000"),
        ("nps", &nps, "63.636364"),
        ("csat", &satisfied, "60.000000, 1 unknown"),
        ("ces", &effort, "5.000000"),
        ("ces_easy", &effort, "75.000000"),
        ("plan_completion", &items, "75.000000"),
        ("csat_share_of_best", &csat, "72.000000"),
        ("adoption_rate", &entitled, "50.000000"),
        ("stickiness", &daily, "50.000000"),
        ("active_people", &people, "64.000000"),
        ("onboarding_completion", &plan, "75.000000"),
    ];
    for (name, of_accounts, expected) in cases {
        let rows = of_accounts.iter().enumerate().map(|(nth, more)| row(&format!("a{nth}"), 31, more));
        let found = figure(name, "windows", &rows.collect::<Vec<_>>(), &[]).await;
        assert_eq!(found["all"], expected, "{name}");
    }
}

#[tokio::test]
async fn an_account_counts_with_its_last_row_in_the_period_and_not_when_it_is_gone() {
    let band = |band: &str| format!("cast('{band}' as string) as band, 50.0 as score, 'ann' as owner");
    let rows = [
        row("improved", 3, &band("red")),
        row("improved", 31, &band("green")),
        row("fell", 30, &band("red")),
        row("retired", 30, &band("red")).replace("false as retired", "true as retired"),
        row("live", 31, &band("red")).replace("true as final", "false as final"),
        // The first of April is the next month's.
        row("fell", 31, &band("green")).replace("2024-04-01", "2024-04-02"),
    ];
    assert_eq!(figure("accounts_red", "scores", &rows, &[]).await["all"], "50.000000");
    let status = |nth| if nth < 62 { "active" } else { "churned" };
    let owned = |nth| row(&format!("a{nth}"), 31, &format!("'ann' as owner, '{}' as customer_status", status(nth)));
    let owners: Vec<String> = (0..70).map(owned).collect();
    assert_eq!(figure("coverage_ratio", "windows", &owners, &["owner".to_owned()]).await["ann"], "124.000000");
}

#[tokio::test]
async fn seven_of_ten_reach_their_first_value_within_the_target_of_their_segment() {
    let of = |segment: &str, started: &str, first_value: Option<&str>| {
        let first_value = first_value.map_or_else(|| "cast(null as timestamp)".to_owned(), time);
        format!(
            "'{segment}' as segment, {} as started_at, {first_value} as first_value_at, {WITHOUT_PLAN}",
            time(started)
        )
    };
    let mut more = vec![of("smb", "2024-03-01", Some("2024-03-12")); 6];
    more.push(of("enterprise", "2023-12-15", Some("2024-02-29")));
    // The 15th day is one too late; the 96th as well, of an enterprise; and who never gets there.
    more.push(of("smb", "2024-02-20", Some("2024-03-06")));
    more.push(of("enterprise", "2023-12-02", Some("2024-03-07")));
    more.push(of("smb", "2024-03-17", None));
    // The targets of these pass in other months.
    more.push(of("smb", "2024-03-18", None));
    more.push(of("smb", "2024-02-15", None));
    more.push(of("enterprise", "2024-01-02", None));
    let rows: Vec<String> = more.iter().enumerate().map(|(nth, more)| row(&format!("a{nth}"), 31, more)).collect();
    assert_eq!(figure("first_value_in_time", "windows", &rows, &[]).await["all"], "70.000000");
    // A plan says otherwise: who had no time left until the 20th has it until the 10th of April, and the other way round.
    let planned = |row: &String, due: &str| row.replace(WITHOUT_PLAN, &format!("{} as first_value_due_at", time(due)));
    let rows_of_plan: Vec<String> = rows.iter().map(|row| planned(row, "2024-03-20")).collect();
    assert_eq!(figure("first_value_in_time", "windows", &rows_of_plan, &[]).await["all"], "69.230769");
    let days = figure("days_to_first_value", "windows", &rows[..6], &["segment".to_owned()]).await;
    assert_eq!(days["smb"], "11.000000");
}

#[tokio::test]
async fn a_period_that_runs_is_told_as_of_its_newest_row_and_who_left_lowers_nothing() {
    let status = |status: &str| format!("cast('{status}' as string) as customer_status");
    // The newest row is of 10 March.
    let unused = |started: &str, of: &str| {
        let seen = format!("{} as first_seen_at", time(started));
        format!("cast(null as timestamp) as last_use_at, {} as started_at, {seen}, {}", time(started), status(of))
    };
    // A trial has no start: it is there since it was first seen.
    let trial = format!(
        "cast(null as timestamp) as last_use_at, cast(null as timestamp) as started_at, {} as first_seen_at, {}",
        time("2024-02-20"),
        status("trial")
    );
    let rows = [
        row("new", 10, &unused("2024-03-02", "active")),
        row("two weeks", 10, &unused("2024-02-20", "active")),
        row("left", 10, &unused("2024-02-20", "churned")),
        row("trial", 10, &trial),
    ];
    assert_eq!(figure("never_started", "windows", &rows, &[]).await["all"], "2.000000");
    let value = format!(
        "'smb' as segment, {} as started_at, cast(null as timestamp) as first_value_at, {WITHOUT_PLAN}",
        time("2024-03-02")
    );
    let rows = [row("not yet due", 10, &value), row("due", 10, &value.replace("2024-03-02", "2024-02-20"))];
    assert_eq!(figure("first_value_in_time", "windows", &rows, &[]).await["all"], "0.000000");
    let renews = |account: &str, at: &str| {
        row(account, 10, &format!("{} as renews_at", time(at))).replace("null as decimal", "100 as decimal")
    };
    let rows = [renews("soon", "2024-03-12"), renews("later", "2024-06-20"), renews("past", "2024-03-10")];
    assert_eq!(figure("revenue_to_renew", "scores", &rows, &[]).await["all"], "100.000000");
    let covered = |share: f64, of: &str| format!("{share} as coverage, {}", status(of));
    let rows = [row("customer", 10, &covered(90.0, "active")), row("left", 10, &covered(0.0, "churned"))];
    assert_eq!(figure("data_completeness", "scores", &rows, &[]).await["all"], "90.000000");
}
