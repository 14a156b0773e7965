//! Tests of model files, and of the stage as a whole.

mod over_days;
mod stages;
mod worked_examples;

use arrow::array::RecordBatch;
use keepwell_core::codec;
use keepwell_core::offset::{NextOffset, Offset, Position, TopicPartition};
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::cell::Cell;
use keepwell_core::schema::columns::{Columns, millionths};
use keepwell_core::schema::window::{LaidOut, Layout};
use keepwell_core::schema::{ColumnType, health};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::snapshot::ONE;
use keepwell_pipeline::snapshot::parts::{SavedRevisions, SnapshotBytes, all_bytes};
use keepwell_pipeline::stage::{Batch, Stage};
use keepwell_pipeline::watermark::Progress;

use crate::compile::Compiled;
use crate::model::DEFAULT;
use crate::model_schedule::Announcement;
use crate::{Score, State};

pub(crate) const EXAMPLE: &str = include_str!("../models/worked_example.yaml");

pub(crate) fn layout() -> Layout {
    keepwell_pipeline::config::Aggregate::default().layout()
}

#[test]
fn the_shipped_models_compile() {
    let shipped = [
        (DEFAULT, 1),
        (EXAMPLE, 1),
        (include_str!("../models/basic.yaml"), 1),
        (include_str!("../models/onboarding_to_advocacy.yaml"), 7),
        (include_str!("../models/handoff_to_advocacy.yaml"), 7),
    ];
    for (text, num_models) in shipped {
        let compiled = Compiled::parse("model.yaml", text, &layout()).unwrap();
        assert_eq!(compiled.models.len(), num_models);
    }
}

#[test]
fn what_is_wrong_in_a_model_is_named_with_its_place() {
    // text to replace, replacement, words that the message must contain
    let cases: Vec<(&str, &str, &[&str])> = vec![
        ("sql: uses_per_user", "sql: stage", &["a number", "Utf8", ":10:"]),
        ("sql: uses_per_user", "sql: as_of", &["a number", ":10:"]),
        (
            "{name: green, from: 75}",
            "{name: green, from: 75}\n    triggers:\n      - {name: t, sql: nps, severity: low, playbook: p, owner_role: o}",
            &["true or false", ":30:"],
        ),
        ("name: yellow", "name: unknown", &["unknown", "another name"]),
        ("weight: 35", "weight: 36", &["101", "100", "worked-example", ":4:"]),
        ("weight: 35", "weight: -1", &["usage_depth", "0.000001", ":9:"]),
        ("weight: 35", "missing: zero", &["usage_depth", "no weight", ":9:"]),
        ("weight: 35", "weight: 35\n        group: g", &["no group g", ":13:"]),
        ("    factors:", "    groups: [{name: g, weight: 100}]\n    factors:", &["usage_depth", "no group", ":10:"]),
        ("    factors:", "    start: 5\n    factors:", &["start", "additive", ":4:"]),
        ("    factors:", "    display: {out_of: 7}\n    factors:", &["out_of", ":4:"]),
        (
            "    factors:",
            "    remember: [{name: uses, sql: uses, over: 7d, by: mean}]\n    factors:",
            &["uses", "column", ":8:"],
        ),
        (
            "    factors:",
            "    remember: [{name: r, sql: previous_score, over: 7d, by: mean}]\n    factors:",
            &["previous_score", ":8:"],
        ),
        ("sql: trained", "sql: trained\n        expires: {dated_by: uses, after: 30d}", &["uses", "time", ":15:"]),
        ("sql: trained", "sql: score", &["score", ":14:"]),
        (
            "{linear: {from: 0, to: 10}}",
            "{linear: {from: 0, to: 10, points: [-50, 50]}}",
            &["usage_depth", "0 to 100", ":9:"],
        ),
        (
            "{linear: {from: 0, to: 10}}",
            "{steps: [{in: '(-inf, 5]', points: 0}, {in: '[5, inf)', points: 9}]}",
            &["5 is in two ranges", ":9:"],
        ),
        ("{linear: {from: 0, to: 10}}", "{steps: [{in: 'five', points: 0}]}", &["five", "11"]),
        ("{name: yellow, from: 50}", "{name: yellow, from: 50, above: 50}", &["yellow", "either", ":27:"]),
        ("{name: yellow, from: 50}", "{name: yellow, from: 50, leave_below: 51}", &["yellow", "leave_below", "50"]),
        ("version: 1", "version: 1\nlifecycle: [a, a]", &["twice", ":3:"]),
        ("weight: 35", "wieght: 35", &["wieght", "12"]),
        ("sql: uses_per_user", "sql: uses_per_usr", &["uses_per_usr", ":10:"]),
        ("sql: uses_per_user", "sql: uses_per_user +", &[":10:"]),
        ("sql: uses_per_user", "sql: random()", &["random", "as_of", ":10:"]),
        ("sql: uses_per_user", "sql: length(repeat('x', 1000000000))", &["repeat()", "coalesce", ":10:"]),
        ("sql: uses_per_user", "sql: length(lpad('x', 2000000000, 'y'))", &["lpad()", ":10:"]),
        ("sql: uses_per_user", "sql: length(version())", &["version()", ":10:"]),
        ("sql: uses_per_user", "sql: account_id like 1", &[":10:"]),
        ("sql: uses_per_user", "sql: sum(uses)", &[":10:"]),
        ("period: 28d", "period: 30d", &["30d", "7d, 28d, 90d", ":5:"]),
        ("missing: reweight", "missing: guess", &["guess", "reweight"]),
        ("{from: 0, to: 10}", "{from: 3, to: 3}", &["usage_depth", "different", ":9:"]),
        ("name: training", "name: billing", &["billing", "twice", ":21:"]),
        ("{name: red, from: 0}", "{name: red, from: 10}", &["rise from 0", ":4:"]),
        ("minimum_coverage: 50", "minimum_coverage: 150", &["minimum_coverage", ":4:"]),
        ("    period: 28d", "    only_for: {stages: [new]}\n    period: 28d", &["only_for", ":4:"]),
    ];
    for (from, to, words) in cases {
        assert!(EXAMPLE.contains(from), "{from}");
        let message = Compiled::parse("model.yaml", &EXAMPLE.replacen(from, to, 1), &layout()).unwrap_err().to_string();
        for word in words.iter().chain(&["model.yaml"]) {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
}

#[test]
fn a_measure_that_rows_do_not_keep_is_refused_with_the_line_that_keeps_it() {
    // the SQL of the first factor, words of the message
    let cases = [
        ("uses - previous_errors", "previous_errors is not kept for the window 28d"),
        ("uses - previous_errors", "add `- {of: [errors], windows: [28d], previous: true}` to aggregate.measures"),
        ("uses_per_user\n        against: previous_window", "{of: [uses_per_user], windows: [28d], previous: true}"),
    ];
    for (sql, words) in cases {
        let text = EXAMPLE.replacen("sql: uses_per_user", &format!("sql: {sql}"), 1);
        let message = Compiled::parse("model.yaml", &text, &layout()).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("model.yaml:10:"), "{words:?} is not in: {message}");
    }
}

/// A stack overflow ends a process. These texts caused one, or would (first found with a record of 3.3 kB).
#[test]
fn sql_that_is_too_long_too_deep_or_too_wide_is_refused_whatever_its_shape() {
    let chain = |n: usize, of: &str| vec![of; n].join("+");
    let nested = |n: usize, open: &str, close: &str| format!("{}uses{}", open.repeat(n), close.repeat(n));
    let cases = [
        ("terms", chain(1500, "1"), "parts"),
        ("columns", chain(500, "uses"), "deep"),
        ("nulls", chain(999, "1"), "deep"),
        ("long", chain(40_000, "1"), "bytes"),
        ("very long", format!("\"{}\"", chain(1_000_000, "1")), "bytes"),
        ("in", format!("uses in ({})", vec!["1"; 2010].join(",")), "parts"),
        // The parser tries each level in two ways. Without a limit on nesting these would not finish.
        ("casts", nested(250, "cast(", " as bigint)"), "Recursion"),
        ("cases", nested(40, "case when ", " > 1 then true end"), ":10:"),
        ("calls", nested(500, "abs(", ")"), ":10:"),
        ("negations", format!("not {}", vec!["not"; 900].join(" ")) + " uses > 1", ":10:"),
        ("concatenations", format!("length({})", vec!["stage"; 450].join("||")), ":10:"),
    ];
    for (name, sql, word) in cases {
        let text = EXAMPLE.replacen("sql: uses_per_user", &format!("sql: {sql}"), 1);
        let message = Compiled::parse("model.yaml", &text, &layout()).unwrap_err().to_string();
        assert!(message.contains(word) && message.len() < 3000, "{name}: {message}");
    }
    let allowed = EXAMPLE.replacen("sql: uses_per_user", &format!("sql: {}", chain(150, "uses")), 1);
    Compiled::parse("model.yaml", &allowed, &layout()).unwrap();
}

#[test]
fn a_file_of_too_many_factors_is_refused() {
    let factors: String = (0..501)
        .map(|n| format!("      - {{name: f{n}, sql: uses, normalise: {{ratio: {{target: 1}}}}, weight: 1}}\n"))
        .collect();
    let text = format!(
        "version: 1\nmodels:\n  - name: m\n    period: 7d\n    weights: raw\n    bands: [{{name: red, from: 0}}]\n    factors:\n{factors}"
    );
    let message = Compiled::parse("model.yaml", &text, &layout()).unwrap_err().to_string();
    assert!(message.contains("501") && message.contains("500"), "{message}");
}

const CONFIG: &str = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: raw, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";

pub(crate) fn partition() -> TopicPartition {
    TopicPartition::new("keepwell.windows", 0)
}

pub(crate) fn config(set: &[String]) -> Config {
    Config::parse("test", CONFIG, set).unwrap()
}

pub(crate) fn stage(model: &str) -> Score {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.yaml");
    std::fs::write(&path, model).unwrap();
    Score::new(&Config::parse("test", CONFIG, &[format!("score.model={}", path.display())]).unwrap()).unwrap()
}

/// Values of a window row that are not null or zero, by column.
pub(crate) type Values<'v> = &'v [(&'v str, f64)];

/// A window row with these values over all windows.
pub(crate) fn rows(day: i64, is_final: bool, values: Values<'_>) -> RecordBatch {
    let layout = layout();
    let value = |column: &LaidOut| values.iter().find(|(known, _)| *known == column.sql_name).map(|(_, value)| *value);
    let outcomes = values.iter().filter_map(|(name, day)| Some((name.strip_prefix("outcome_")?, *day as i64 * DAY_US)));
    let outcomes: Vec<(String, &str)> =
        outcomes.map(|(outcome, us)| (health::alert_id("acme", "unhappy", &health::rfc3339(us)), outcome)).collect();
    let outcomes = || outcomes.iter().map(|(id, outcome)| (id.as_str(), *outcome)).collect();
    let cell = |column: &LaidOut| match (column.column.kind, column.column.name) {
        (_, "account_id") => Cell::Text("acme"),
        (_, "segment") => value(column).map_or(Cell::Null, |_| Cell::Text("other")),
        (_, "first_seen_at") => Cell::Time(100 * DAY_US),
        (_, "as_of") => Cell::Time(day * DAY_US),
        (_, "final") => Cell::Flag(is_final),
        (_, "outcomes") => Cell::TextMap(outcomes()),
        (ColumnType::Flag, _) => Cell::Flag(value(column).is_some()),
        (ColumnType::Int32, _) => Cell::Int(1),
        (ColumnType::Time, _) => value(column).map_or(Cell::Null, |day| Cell::Time((day * DAY_US as f64) as i64)),
        (ColumnType::Int64, _) => value(column).map_or(Cell::Null, |value| Cell::Int(value as i64)),
        (ColumnType::Float, _) => value(column).map_or(Cell::Null, Cell::Float),
        _ => Cell::Null,
    };
    layout.rows(1, |_, column| cell(column)).unwrap()
}

pub(crate) fn record(offset: i64, day: i64, is_final: bool, values: Values<'_>) -> Record {
    let rows = rows(day, is_final, values);
    Record {
        value: Some(codec::encode(&rows).unwrap().into()),
        headers: vec![Progress { watermark_us: Some(day * DAY_US), complete: false }.header()],
        ..Record::at(partition(), Offset(offset))
    }
}

/// An announcement of a model file that scores from this day on.
pub(crate) fn announcement(day: i64, text: impl Into<String>) -> Announcement {
    Announcement { from: jiff::Timestamp::from_microsecond(day * DAY_US).unwrap(), text: text.into() }
}

/// The record of an announcement.
pub(crate) fn announced(offset: i64, announcement: &Announcement) -> Record {
    let message = announcement.message(&"keepwell.windows".into(), 0).unwrap();
    Record { headers: message.headers, ..Record::at(partition(), Offset(offset)) }
}

pub(crate) const GOOD: Values<'_> =
    &[("uses_per_user", 8.0), ("trained", 60.0), ("ticket_csat_mean", 4.4), ("invoices", 70.0)];
pub(crate) const BAD: Values<'_> =
    &[("uses_per_user", 1.0), ("trained", 60.0), ("ticket_csat_mean", 1.0), ("invoices", 70.0)];

/// Folds records, and returns the contents of each health row: score, delta, drivers, triggers, changed.
pub(crate) fn fold_lines(stage: &Score, state: &mut State, records: &[Record]) -> Vec<String> {
    let first = records.first().map_or(0, |record| record.offset.0);
    let batch = Batch {
        records: [(partition(), records)].into(),
        positions: [(partition(), Position::at(NextOffset(first)))].into(),
        ..Batch::default()
    };
    let step = stage.apply(state, &batch).unwrap();
    stage.merge(state, step.changes);
    let values = step.messages.iter().filter_map(|message| message.value.as_ref());
    values.flat_map(|value| lines(value)).collect()
}

fn lines(value: &[u8]) -> Vec<String> {
    let batch = codec::decode(value, &health::schema()).unwrap();
    let columns = Columns::Batch(&batch);
    let decimal = |name: &str, row| {
        millionths(columns.decimal(name).unwrap(), row).map_or("-".to_owned(), |value| (value as f64 / 1e6).to_string())
    };
    let items = |name: &str, row: usize, what: &str| {
        let (list, items) = columns.list(name).unwrap();
        let ends = list.value_offsets();
        let (names, other) = (items.text("name").unwrap(), items.text(what).ok());
        let item = |i: i32| {
            other.map_or(names.value(i as usize).to_owned(), |o| {
                format!("{}:{}", names.value(i as usize), o.value(i as usize))
            })
        };
        (ends[row]..ends[row + 1]).map(item).collect::<Vec<_>>().join("+")
    };
    let changed = |row: usize| if columns.flag("changed").unwrap().value(row) { "changed" } else { "same" };
    (0..batch.num_rows())
        .map(|row| {
            let (score, delta) = (decimal("score", row), decimal("delta", row));
            format!(
                "{score} {delta} [{}] [{}] {}",
                items("drivers", row, "-"),
                items("triggers", row, "state"),
                changed(row)
            )
        })
        .collect()
}

pub(crate) fn fresh(stage: &Score) -> State {
    let mut state = State::default();
    let start = Position::at(NextOffset(0));
    stage.restore(&mut state, &partition(), start, None).unwrap();
    state
}

pub(crate) const WITH_TRIGGER: &str = "
    triggers:
      - {name: unhappy, sql: ticket_csat_mean < 2, severity: high, playbook: call, owner_role: csm}
";

#[test]
fn comparisons_and_triggers_go_by_final_rows_and_news_by_what_was_said_last() {
    let stage = stage(&format!("{EXAMPLE}{WITH_TRIGGER}"));
    let mut state = fresh(&stage);
    let records = [
        record(0, 100, true, GOOD),
        record(1, 101, false, BAD),
        record(2, 101, true, BAD),
        record(3, 102, true, BAD),
        record(4, 103, true, GOOD),
        record(5, 105, false, GOOD),
        record(6, 104, true, BAD),
    ];
    assert_eq!(
        fold_lines(&stage, &mut state, &records),
        [
            "74.75 - [] [] changed",
            "29 -45.75 [usage_depth+ticket_csat] [unhappy:active] changed",
            "29 -45.75 [usage_depth+ticket_csat] [unhappy:raised] same",
            "29 0 [] [unhappy:active] same",
            "74.75 45.75 [usage_depth+ticket_csat] [unhappy:cleared] changed",
            "74.75 0 [] [] same",
            // Final, but older than what was published: not `changed`, although the score differs.
            "29 -45.75 [usage_depth+ticket_csat] [unhappy:raised] same",
        ]
    );
}

#[test]
fn a_row_on_which_the_sql_fails_is_unknown_whatever_its_neighbours() {
    let text = EXAMPLE.replace("sql: uses_per_user", "sql: case when events > 0 then errors / (events - 1) end");
    let stage = stage(&text);
    let with = |events: f64| -> Vec<(&'static str, f64)> {
        GOOD.iter().copied().chain([("events", events), ("errors", 5.0)]).collect()
    };
    let values = [with(0.0), with(1.0), with(2.0), with(6.0)];
    let all: Vec<Record> = (0..).zip(&values).map(|(n, values)| record(n, 100 + n, true, values)).collect();
    let scores = |lines: Vec<String>| -> Vec<String> {
        lines.iter().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    let together = scores(fold_lines(&stage, &mut fresh(&stage), &all));
    let alone = |record: &Record| scores(fold_lines(&stage, &mut fresh(&stage), std::slice::from_ref(record)));
    assert_eq!(together, ["71.923077", "71.923077", "64.25", "50.25"]);
    assert_eq!(all.iter().flat_map(alone).collect::<Vec<_>>(), together);
}

#[test]
fn cuts_into_batches_change_nothing() {
    let stage = stage(&format!("{EXAMPLE}{WITH_TRIGGER}"));
    let records: Vec<Record> =
        (0..6).map(|n| record(n, 100 + n, n % 2 == 0, if n % 3 == 0 { BAD } else { GOOD })).collect();
    let (mut whole, mut cut) = (fresh(&stage), fresh(&stage));
    let expected = fold_lines(&stage, &mut whole, &records);
    let parts: Vec<String> = records.chunks(1).flat_map(|part| fold_lines(&stage, &mut cut, part)).collect();
    assert_eq!(parts, expected);
    assert_eq!(all(&stage, &cut), all(&stage, &whole));
}

#[test]
fn every_trigger_that_was_raised_is_cleared_also_by_another_model_and_by_the_last_row() {
    let other = EXAMPLE.replace("name: worked-example", "name: other\n    only_for: {segments: [other]}");
    let (_, other) = other.split_once("models:\n").unwrap();
    let (head, own) = EXAMPLE.split_once("models:\n").unwrap();
    let stage = stage(&format!("{head}models:\n{other}{own}{WITH_TRIGGER}"));
    let with = |more: &'static str| BAD.iter().copied().chain([(more, 1.0)]).collect::<Vec<_>>();
    for last in ["retired", "deleted", "segment"] {
        let mut state = fresh(&stage);
        let fold_lines =
            fold_lines(&stage, &mut state, &[record(0, 100, true, BAD), record(1, 101, true, &with(last))]);
        assert!(
            fold_lines[0].contains("[unhappy:raised]") && fold_lines[1].contains("[unhappy:cleared]"),
            "{last}: {fold_lines:?}"
        );
    }
}

#[test]
fn a_retired_account_is_forgotten_and_comes_back_as_new() {
    let stage = stage(EXAMPLE);
    let mut state = fresh(&stage);
    let retired: Vec<(&str, f64)> = GOOD.iter().copied().chain([("retired", 1.0)]).collect();
    let records = [record(0, 100, true, GOOD), record(1, 101, true, &retired), record(2, 150, true, GOOD)];
    assert_eq!(fold_lines(&stage, &mut state, &records[..2]), ["74.75 - [] [] changed", "74.75 0 [] [] changed"]);
    assert!(state[&partition()].accounts.is_empty());
    assert_eq!(fold_lines(&stage, &mut state, &records[2..]), ["74.75 - [] [] changed"]);
}

/// A golden file is never edited. A changed format gets a new version with a file of its own.
const STATE_1: &[u8] = include_bytes!("../golden/state-1.postcard");
const STATE_2: &[u8] = include_bytes!("../golden/state-2.postcard");
const STATE_3: &[u8] = include_bytes!("../golden/state-3.postcard");
/// From version 4 on: an object as it is in the store, with all parts.
const STATE_4: &[u8] = include_bytes!("../golden/state-4.snapshot");
const STATE_5: &[u8] = include_bytes!("../golden/state-5.snapshot");
const STATE_6: &[u8] = include_bytes!("../golden/state-6.snapshot");

/// All parts of a state.
pub fn all(stage: &Score, state: &State) -> SnapshotBytes {
    all_bytes(stage.snapshot(state, &partition(), &SavedRevisions::new()).unwrap()).unwrap()
}

fn restored_again(stage: &Score, whole: &SnapshotBytes, at: Position) -> State {
    let mut restored = State::default();
    stage.restore(&mut restored, &partition(), at, Some(whole)).unwrap();
    restored
}

#[test]
fn states_of_versions_2_to_6_stay_readable_and_are_what_the_same_records_give() {
    let stage = stage(include_str!("../golden/model-1.yaml"));
    let mut folded = fresh(&stage);
    let later = announcement(500, include_str!("../golden/model-1.yaml").replace("version: 1", "version: 2"));
    fold_lines(
        &stage,
        &mut folded,
        &[record(0, 100, true, GOOD), record(1, 101, true, BAD), record(2, 102, false, GOOD)],
    );
    fold_lines(&stage, &mut folded, &[announced(3, &later)]);
    let (_, of_4) = keepwell_pipeline::snapshot::decode(STATE_4).unwrap();
    let (_, of_5) = keepwell_pipeline::snapshot::decode(STATE_5).unwrap();
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_6).unwrap();
    assert_eq!(all(&stage, &folded), saved, "equal states give equal bytes");
    let at = Position::at(NextOffset(4));
    let one = |bytes: &[u8]| SnapshotBytes::from([(ONE.to_owned(), bytes.to_vec())]);
    for (whole, version) in [(&one(STATE_2), 2), (&one(STATE_3), 3), (&of_4, 4), (&of_5, 5), (&saved, 6)] {
        let mut restored = restored_again(&stage, whole, at);
        // What is saved next has no part in an older form.
        let known = SavedRevisions::from([("accounts-0-000".to_owned(), 0)]);
        let parts = stage.snapshot(&restored, &partition(), &known).unwrap();
        assert_eq!(all_bytes(parts).is_none(), !(4..6).contains(&version), "version {version}");
        let next = fold_lines(&stage, &mut restored, &[record(4, 102, true, BAD)]);
        assert_eq!(next, ["29 0 [] [unhappy:active] changed"], "version {version}");
    }
    let mut restored = State::default();
    let refused = stage.restore(&mut restored, &partition(), at, Some(&one(STATE_1))).unwrap_err().to_string();
    assert!(refused.contains("version 1"), "{refused}");
    let mut newer = STATE_3.to_vec();
    newer[0] = 9;
    let refused = stage.restore(&mut restored, &partition(), at, Some(&one(&newer))).unwrap_err().to_string();
    assert!(refused.contains("version 9"), "{refused}");
    assert!(stage.restore(&mut restored, &partition(), at, Some(&one(&STATE_3[..40]))).is_err());
}
