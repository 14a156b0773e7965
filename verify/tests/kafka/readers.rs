//! Readers other than Keepwell: an analyst's database, a second Kafka client, another Arrow library.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::builder::{MapBuilder, MapFieldNames, StringBuilder};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use indicatif::ProgressBar;
use keepwell::demo::{self, DemoArgs};
use keepwell::report::{Question, Rates, named, parse, sql};
use keepwell::views::{Engine, statements};
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::health;
use keepwell_pipeline::config::{Aggregate, Revenue};
use keepwell_verify::compare::{items_of, over, rows_of, same_rows};
use keepwell_verify::fleet::{self, Shape};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::{Deployment, kafka};

/// Runs a script with the pinned packages and parses the JSON that it prints.
fn python(script: &str, args: &[&str]) -> Value {
    python_with("deploy/python/requirements.txt", script, args)
}

fn python_with(requirements: &str, script: &str, args: &[&str]) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(root.join("deploy/python/python"));
    command.env("KEEPWELL_REQUIREMENTS", root.join(requirements));
    let output = command.arg(root.join(script)).args(args).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn column<'a>(rows: &'a Value, name: &str) -> Vec<&'a Value> {
    rows.as_array().unwrap().iter().map(|row| &row[name]).collect()
}

#[test]
fn duckdb_answers_every_query_and_recomputes_every_score() {
    let folder = tempfile::tempdir().unwrap();
    let args = DemoArgs { seed: 3, accounts: 60, days: 40, out: folder.path().join("demo") };
    let outcome = demo::play(&args, &ProgressBar::hidden()).unwrap();
    let tables = args.out.join("tables").display().to_string();
    let answers = python("deploy/duckdb/run.py", &[&tables, "--json"]);

    assert_eq!(answers["recomputed_scores"], serde_json::json!([]), "scores that plain SQL gives otherwise");
    let latest = column(&answers["latest_score"], "account_id");
    assert_eq!(latest.len(), outcome.scores.len());
    let worst = column(&answers["worst_accounts"], "account_id");
    let mut expected: Vec<_> = outcome.scores.iter().filter(|health| health.score.is_some()).collect();
    expected.sort_by(|a, b| a.score.unwrap().total_cmp(&b.score.unwrap()).then(a.account_id.cmp(&b.account_id)));
    let expected: Vec<&str> = expected.iter().take(20).map(|health| health.account_id.as_str()).collect();
    assert_eq!(worst, expected);
    let days = column(&answers["score_history"], "day").into_iter().collect::<std::collections::HashSet<_>>();
    assert_eq!(days.len(), 40);
    assert_eq!(column(&answers["factor_drift"], "factor").len(), 11);
    assert!(column(&answers["adoption_by_feature"], "feature").len() > 5);
    // The demo begins with a quarter, so those before it are the past of its contracts, in which nobody left.
    let (nrr, segments) =
        (column(&answers["retention_by_segment"], "nrr"), column(&answers["retention_by_segment"], "segment"));
    assert!(nrr.len() > 3 && nrr.iter().all(|nrr| nrr.as_f64() == Some(100.0)), "{nrr:?}");
    assert!(
        segments.iter().any(|segment| **segment == "enterprise") && segments.iter().any(|segment| **segment == "smb")
    );
    let at_risk = column(&answers["renewals_at_risk"], "band");
    assert!(!at_risk.is_empty() && at_risk.iter().all(|band| **band != "green"), "{at_risk:?}");
}

#[test]
fn small_customers_that_missed_their_first_value_are_found_and_no_others() {
    // account, segment, days since the start, days from the start to the first value
    let rows = [
        ("never", "smb", 20, None),
        ("late", "smb", 100, Some(15)),
        ("in time", "smb", 100, Some(14)),
        ("new", "smb", 13, None),
        ("old", "smb", 105, None),
        ("large", "enterprise", 20, None),
    ];
    let select = |(account, segment, age, reached): (&str, &str, i32, Option<i32>)| {
        let as_of = "timestamptz '2026-03-31 00:00:00+00'";
        let started = format!("{as_of} - interval {age} day");
        let first = reached.map_or("null::timestamptz".to_owned(), |days| format!("{started} + interval {days} day"));
        format!(
            "select '{account}' as account_id, 'ann' as owner, '{segment}' as segment, {as_of} as as_of, \
             null as customer_status, {started} as started_at, {first} as first_value_at"
        )
    };
    let rows = rows.map(select).join(" union all ");
    let statement = format!("create view windows as {rows}");
    let answer = python("verify/tests/kafka/question.py", &["missed_first_value.sql", &statement]);
    assert_eq!(column(&answer, "account_id"), ["never", "late"]);
}

#[test]
fn each_entry_into_a_stage_has_its_exit_and_what_came_then() {
    // account, day, stage, day of its begin, band, retired
    let rows = [
        ("a", 1, Some("onboarding"), Some(1), "green", false),
        ("a", 2, Some("onboarding"), Some(1), "green", false),
        ("a", 3, Some("adoption"), Some(3), "green", false),
        ("a", 5, None, None, "churned", false),
        ("a", 6, None, None, "churned", false),
        ("a", 9, Some("adoption"), Some(9), "green", false),
        ("b", 1, Some("adoption"), Some(1), "red", false),
        // Its last row enters another stage: that is no entry.
        ("b", 4, Some("onboarding"), Some(4), "red", true),
        // In its stage since before the first row of the table; then the model file has no stages any more.
        ("d", 5, Some("onboarding"), Some(2), "red", false),
        ("d", 6, Some("onboarding"), None, "red", false),
        ("c", 1, Some("a fact without rules"), None, "red", false),
    ];
    let day = |day: i32| format!("timestamptz '2026-03-0{day} 00:00:00+00'");
    let text = |text: Option<&str>| text.map_or("null".to_owned(), |text| format!("'{text}'"));
    let select = |(account, as_of, stage, since, band, retired): &(
        &str,
        i32,
        Option<&str>,
        Option<i32>,
        &str,
        bool,
    )| {
        let since = since.map_or("null::timestamptz".to_owned(), day);
        format!(
            "select '{account}' as account_id, 'smb' as segment, 'ann' as owner, {} as as_of, {} as stage, {since} as stage_since, \
             '{band}' as band, {retired} as retired, false as deleted, true as final, 1 as epoch, 1 as next_offset, 1 as ordinal",
            day(*as_of),
            text(*stage)
        )
    };
    let rows: Vec<String> = rows.iter().map(select).collect();
    let layout = Aggregate::default().layout();
    let view =
        statements(Engine::Duckdb, &layout, "none").into_iter().find(|view| view.contains(" stages as")).unwrap();
    let statement = format!("create view scores as {}; {view}", rows.join(" union all "));
    let answer = python("verify/tests/kafka/question.py", &["stages.sql", &statement]);
    // stage, accounts now, moved on, days until then, churned
    let of = |name: &str| column(&answer, name).into_iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(of("stage"), ["\"adoption\"", "\"onboarding\""]);
    assert_eq!(of("accounts_now"), ["1", "0"]);
    assert_eq!(of("moved_on"), ["0", "1"]);
    assert_eq!(of("days_in_it"), ["null", "2.0"]);
    assert_eq!(of("churned"), ["1", "0"]);
}

/// The rows of a view as an engine wrote them.
fn written(folder: &Path, view: &str) -> RecordBatch {
    let file = folder.join(format!("{view}.parquet"));
    let path = if file.exists() { file } else { folder.join(view) };
    let files = if path.is_dir() {
        std::fs::read_dir(&path).unwrap().map(|file| file.unwrap().path()).collect()
    } else {
        vec![path]
    };
    let files = files.into_iter().filter(|file| file.extension().is_some_and(|of| of == "parquet"));
    let batches: Vec<RecordBatch> = files
        .flat_map(|file| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file).unwrap()).unwrap();
            reader.build().unwrap().map(Result::unwrap)
        })
        .collect();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[test]
fn the_views_have_the_long_rows_in_duckdb_spark_and_datafusion() {
    let folder = tempfile::tempdir().unwrap();
    let args = DemoArgs { seed: 5, accounts: 30, days: 20, out: folder.path().join("demo") };
    demo::play(&args, &ProgressBar::hidden()).unwrap();
    let layout = Aggregate::default().layout();
    let tables = args.out.join("tables");
    let of = |name: &str, schema| keepwell_verify::streamed::table(&tables, name, &schema).unwrap();
    let (windows, scores) = (with_outcomes(&of("windows", layout.schema()), &tables), of("scores", health::schema()));
    let place = tables.display().to_string();
    let by = ["segment".to_owned(), "owner".to_owned()];
    let last = last_day(&scores);
    let periods =
        [last.strftime("%Y-%m"), last.strftime("%Y")].map(|name| named(&name.to_string(), &Revenue::default()));
    let periods = periods.map(Result::unwrap);
    let rates = Rates::parse("in: USD\nrates: [{currency: EUR, from: 2020-01-01, rate: 1.0873}]\n", "UTC").unwrap();
    let question = Question { periods: &periods, by: &by, rates: Some(&rates), ..Question::default() };
    let (kpis, given) = (parse(None).unwrap(), ["margin", "cac", "forecast", "capacity", "ticket_cost", "hour_cost"]);
    let given = given.map(|name| (name.to_owned(), 0.7)).into();
    let (mut sides, mut reports, mut periods_of, mut events_of) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (name, engine) in [("duckdb", Engine::Duckdb), ("spark", Engine::Spark), ("datafusion", Engine::Datafusion)] {
        let out = folder.path().join(name);
        std::fs::create_dir(&out).unwrap();
        let mut all = statements(engine, &layout, &place);
        let create = if engine == Engine::Spark { "create temporary view" } else { "create view" };
        all.push(format!("{create} report as\n{}", sql(&kpis, &kpis, &question, &given).unwrap()));
        let sql: String = all.into_iter().map(|statement| statement + ";\n").collect();
        std::fs::write(out.join("views.sql"), sql).unwrap();
        let paths = [out.join("views.sql"), out.clone()].map(|path| path.display().to_string());
        python_with("deploy/views/requirements.txt", "verify/tests/kafka/views.py", &[name, &paths[0], &paths[1]]);
        sides.push((name, written(&out, "windows_long"), written(&out, "score_factors")));
        reports.push(written(&out, "report"));
        periods_of.push(["windows_periods", "scores_periods", "feature_periods"].map(|view| written(&out, view)));
        events_of.push(["stages", "alerts"].map(|view| written(&out, view)));
    }
    for of_engine in &periods_of {
        for (nth, keys) in [&PERIOD[..], &PERIOD, &[&PERIOD[..], &["feature"]].concat()].into_iter().enumerate() {
            // Lists cannot be compared; they are those of the same row.
            let [rows, first] = [of_engine, &periods_of[0]].map(|views| without(&views[nth], &LISTS));
            assert!(same_rows(&rows, &[first], keys).unwrap() > 100, "view {nth}");
        }
    }
    for [stages, alerts] in &events_of {
        let [first, first_alerts] = events_of[0].each_ref().map(std::slice::from_ref);
        assert!(same_rows(stages, first, &["account_id", "entered_at"]).unwrap() >= 30);
        assert!(same_rows(alerts, first_alerts, &["account_id", "trigger", "raised_at"]).unwrap() >= 10);
        assert!(alerts.column_by_name("accepted_at").unwrap().null_count() < alerts.num_rows());
    }
    assert_eq!(ends_of_weeks(&periods_of[0][1]), ends_of_weeks_in(&scores));
    let keys = ["period", "segment", "owner", "currency", "kpi"];
    for report in &reports {
        assert!(same_rows(report, std::slice::from_ref(&reports[0]), &keys).unwrap() > 100);
    }
    let expected_factors = items_of(&scores, "factors").unwrap();
    assert!(windows.num_rows() > 300 && expected_factors.num_rows() > 1000);
    for (engine, long, factors) in sides {
        for window in layout.windows() {
            let expected = over(&windows, &layout, window).unwrap();
            let rows = without(&where_text(&long, "period", window), &["period"]);
            assert_eq!(
                same_rows(&expected, &[rows], &["account_id", "as_of"]).unwrap(),
                windows.num_rows(),
                "{engine}"
            );
        }
        let extra = ["model", "model_version", "epoch", "partition", "next_offset", "ordinal"];
        let factors = renamed(&without(&factors, &extra));
        let same = same_rows(&expected_factors, &[factors], &["account_id", "as_of", "position"]).unwrap();
        assert_eq!(same, expected_factors.num_rows(), "{engine}");
    }
}

/// The same rows, also in the files, where each alert was accepted by the next row, and each account tells its value.
fn with_outcomes(windows: &RecordBatch, tables: &Path) -> RecordBatch {
    const DAY_US: i64 = 86_400_000_000;
    let facts = |_: &str, as_of_us: i64| {
        let day = as_of_us / DAY_US;
        let told = [
            ("cost_to_date", "80".to_owned()),
            ("value_to_date", (day % 100).to_string()),
            ("last_touch_at", format!("\"{}\"", health::rfc3339(as_of_us - day % 9 * DAY_US))),
            ("referrals", "\"none\"".to_owned()),
        ];
        told.map(|(name, text)| (name.to_owned(), text)).to_vec()
    };
    let outcomes = |account: &str, as_of_us: i64| {
        let since = health::rfc3339(as_of_us - DAY_US);
        let triggers = ["score_drop", "usage_drop", "inactivity", "turned_red", "detractor", "renewal_due"];
        triggers.map(|name| (health::alert_id(account, name, &since), "accepted".to_owned())).to_vec()
    };
    let mut columns = windows.columns().to_vec();
    for (name, entries) in [("other_facts", &facts as &dyn Fn(&str, i64) -> Entries), ("outcomes", &outcomes)] {
        let at = windows.schema().index_of(name).unwrap();
        columns[at] = maps(windows, name, entries);
    }
    let windows = RecordBatch::try_new(windows.schema(), columns).unwrap();
    std::fs::remove_dir_all(tables.join("windows")).unwrap();
    std::fs::create_dir_all(tables.join("windows/month=all")).unwrap();
    let file = std::fs::File::create(tables.join("windows/month=all/all.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, windows.schema(), None).unwrap();
    writer.write(&windows).unwrap();
    writer.close().unwrap();
    windows
}

/// Keys and values of a map.
type Entries = Vec<(String, String)>;

/// A column of maps, by account and time of the row.
fn maps(rows: &RecordBatch, name: &str, of: &dyn Fn(&str, i64) -> Entries) -> ArrayRef {
    let schema = rows.schema();
    let DataType::Map(entries, _) = schema.field_with_name(name).unwrap().data_type() else { panic!("{name}") };
    let DataType::Struct(fields) = entries.data_type() else { panic!("{name}") };
    let names =
        MapFieldNames { entry: entries.name().clone(), key: fields[0].name().clone(), value: fields[1].name().clone() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
        .with_keys_field(fields[0].clone())
        .with_values_field(fields[1].clone());
    for (account, as_of_us) in ends(rows) {
        for (key, value) in of(&account, as_of_us) {
            builder.keys().append_value(key);
            builder.values().append_value(value);
        }
        builder.append(true).unwrap();
    }
    Arc::new(builder.finish())
}

/// Columns of `scores` that are lists.
const LISTS: [&str; 3] = ["factors", "drivers", "triggers"];

/// What a row of a period is found by.
const PERIOD: [&str; 3] = ["account_id", "period", "period_start"];

/// Account and time of each row.
fn ends(rows: &RecordBatch) -> Vec<(String, i64)> {
    let column = |name: &str, of: &DataType| cast(rows.column_by_name(name).unwrap(), of).unwrap();
    let (ids, ends) = (column("account_id", &DataType::Utf8), column("as_of", &DataType::Int64));
    let ends = ends.as_primitive::<Int64Type>().values().to_vec();
    ids.as_string::<i32>().iter().map(|id| id.unwrap().to_owned()).zip(ends).collect()
}

/// Accounts and times of the rows of weeks, in order.
fn ends_of_weeks(rows: &RecordBatch) -> Vec<(String, i64)> {
    let mut ends = ends(&where_text(rows, "period", "week"));
    ends.sort_unstable();
    ends
}

/// The last time of each account in each week from Monday to Sunday.
fn ends_of_weeks_in(rows: &RecordBatch) -> Vec<(String, i64)> {
    const WEEK_US: i64 = 7 * 86_400_000_000;
    // The first Monday after the beginning of 1970 was its fifth day.
    let week = |as_of_us: i64| (as_of_us - 1 - 4 * 86_400_000_000).div_euclid(WEEK_US);
    let mut last = std::collections::BTreeMap::new();
    for (id, as_of_us) in ends(rows) {
        let known: &mut i64 = last.entry((id, week(as_of_us))).or_insert(as_of_us);
        *known = as_of_us.max(*known);
    }
    last.into_iter().map(|((id, _), as_of_us)| (id, as_of_us)).collect()
}

/// The day of the last final row.
fn last_day(scores: &RecordBatch) -> jiff::Timestamp {
    let ends = scores.column_by_name("as_of").unwrap();
    let last = arrow::compute::max(cast(ends, &DataType::Int64).unwrap().as_primitive::<Int64Type>()).unwrap();
    jiff::Timestamp::from_microsecond(last - 1).unwrap()
}

/// The rows with this text in a column.
fn where_text(rows: &RecordBatch, column: &str, text: &str) -> RecordBatch {
    let texts = cast(rows.column_by_name(column).unwrap(), &DataType::Utf8).unwrap();
    let is_it: BooleanArray = texts.as_string::<i32>().iter().map(|of| Some(of == Some(text))).collect();
    filter_record_batch(rows, &is_it).unwrap()
}

fn without(rows: &RecordBatch, columns: &[&str]) -> RecordBatch {
    let schema = rows.schema();
    let kept: Vec<usize> =
        (0..rows.num_columns()).filter(|i| !columns.contains(&schema.field(*i).name().as_str())).collect();
    rows.project(&kept).unwrap()
}

/// The column `factor` under the name that it has in the list.
fn renamed(rows: &RecordBatch) -> RecordBatch {
    let schema = rows.schema();
    let names = schema.fields().iter().map(|f| if f.name() == "factor" { "name" } else { f.name().as_str() });
    RecordBatch::try_from_iter_with_nullable(
        names.zip(rows.columns()).map(|(name, column)| (name, column.clone(), true)),
    )
    .unwrap()
}

#[test]
fn the_files_of_views_are_as_the_program_writes_them() {
    for (engine, file) in [
        (Engine::Duckdb, include_str!("../../../deploy/views/duckdb.sql")),
        (Engine::Spark, include_str!("../../../deploy/views/spark.sql")),
        (Engine::Datafusion, include_str!("../../../deploy/views/datafusion.sql")),
    ] {
        let expected = statements(engine, &Aggregate::default().layout(), "keepwell-demo/tables");
        assert_eq!(file.split_terminator(";\n").collect::<Vec<_>>(), expected, "keepwell views writes {engine:?}");
    }
}

#[test]
fn a_second_kafka_client_and_another_arrow_read_the_same() {
    let deployment = Deployment::new("readers");
    deployment.load(&fleet::dirty(5, Shape { accounts: 600, days: 12, usage: 2 }));
    deployment.drain("ingest", &["--complete"]);
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    let topics = &deployment.config.topics;
    let read =
        python("deploy/python/read_topics.py", &[&kafka().address, &topics.scores, &topics.health, &topics.windows]);
    let mut last = serde_json::Map::new();
    for record in deployment.records(&topics.scores) {
        let account = String::from_utf8(record.key.unwrap()).unwrap();
        match record.value {
            Some(value) => last.insert(account, serde_json::from_slice::<Value>(&value).unwrap()["score"].clone()),
            None => last.remove(&account),
        };
    }
    assert!(last.len() > 5);
    assert_eq!(read["last"], Value::Object(last));
    let rows = |topic: &str, schema| rows_of(&deployment.records(topic), &schema).unwrap();
    let scored = rows(&topics.health, health::schema());
    let finals = keepwell_verify::streamed::finals(&scored).unwrap().num_rows();
    let mut factors = serde_json::Map::new();
    for name in health::Reader::of(Columns::Batch(&scored)).unwrap().factors.items.name.iter().flatten() {
        let count = factors.entry(name).or_insert(Value::from(0_u64));
        *count = Value::from(count.as_u64().unwrap() + 1);
    }
    assert!(factors.len() > 3);
    assert_eq!(read["factors"], Value::Object(factors));
    assert_eq!(read["finals"], finals);
    let windows = rows(&topics.windows, deployment.config.aggregate.layout().schema());
    let uses: i64 = Columns::Batch(&windows).int("uses_14d").unwrap().iter().flatten().sum();
    assert_eq!(read["uses"], uses);
    assert!(read["runs"].as_i64().unwrap() > 20, "{} columns that are the same in every row", read["runs"]);
}
