//! Tests of a model as a table: the contents of window rows, and the score they must give. They are in
//! `NAME.tests.yaml` beside `NAME.yaml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::ColumnType;
use keepwell_core::schema::cell::Cell;
use keepwell_core::schema::window::{LaidOut, Layout};
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::compile::Compiled;
use crate::episode::Phase;
use crate::evaluate::{CaseWithPast, evaluate};
use crate::health_row::Row;
use crate::model::{ModelError, read};
use crate::model_schedule::Models;
use crate::state::{Account, Memory};
use crate::windows::Windows;
use keepwell_core::points::Points;

/// The end of the windows of a test, or of its first day: 2026-01-01, UTC microseconds.
const AS_OF_US: i64 = 1_767_225_600_000_000;

/// One test.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    /// Name of the test: what it shows.
    name: Spanned<String>,
    /// Columns of every day.
    #[serde(flatten)]
    given: Given,
    /// Final rows of the same account, one after another. Without them there is one.
    #[serde(default)]
    days: Vec<Day>,
}

/// One final row of a test over days.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Day {
    /// How long after the first possible day: `0d`, `1d`, `30d`.
    after: Span,
    /// Columns of this day. They replace those of every day.
    #[serde(flatten)]
    given: Given,
}

/// What a row holds, and what must come of it.
#[derive(Debug, Default, Deserialize)]
struct Given {
    /// Columns, for all windows. Other columns are null, or zero if they cannot be null. Times are `3d ago`
    /// or `in 3d`.
    #[serde(default)]
    row: BTreeMap<String, Value>,
    /// Columns of one window, by window. They replace those in `row`.
    #[serde(default)]
    periods: BTreeMap<String, BTreeMap<String, Value>>,
    /// The expected score, with all its decimals.
    score: Option<f64>,
    /// The expected change of the score since the previous day.
    delta: Option<f64>,
    /// The expected band.
    band: Option<String>,
    /// The expected stage of the lifecycle.
    stage: Option<String>,
    /// The triggers whose condition must hold, in the order of the model.
    triggers: Option<Vec<String>>,
    /// The triggers that must be raised on this day: an alert goes out.
    raised: Option<Vec<String>>,
    /// The triggers whose episode must end on this day.
    cleared: Option<Vec<String>>,
}

/// Path of the tests of a model file.
pub fn beside(model: &Path) -> PathBuf {
    model.with_extension("tests.yaml")
}

/// Runs the tests in a file, and returns their number.
///
/// # Errors
/// [`ModelError`] with file, line and column of the first test that fails, and its result.
pub fn run(path: &Path, model: &Arc<Compiled>, layout: &Layout) -> Result<usize, ModelError> {
    let file = path.display().to_string();
    let text = read(path)?;
    let tests: Vec<Test> = serde_saphyr::from_str(&text).map_err(|error| ModelError::of(&file, error))?;
    for test in &tests {
        let refused = |why: String| ModelError::at(&file, test.name.referenced, format!("{}: {why}", test.name.value));
        over_days(test, model, layout).map_err(refused)?;
    }
    Ok(tests.len())
}

/// Runs one test. Fails with the first result that is not the wanted one.
fn over_days(test: &Test, model: &Arc<Compiled>, layout: &Layout) -> Result<(), String> {
    let mut account = None;
    if test.days.is_empty() {
        return on_day(&test.given, (AS_OF_US, &mut account), model, layout);
    }
    let Given { score, delta, band, stage, triggers, raised, cleared, .. } = &test.given;
    let is_expecting = score.or(*delta).is_some()
        || band.as_ref().or(stage.as_ref()).is_some()
        || [triggers, raised, cleared].iter().any(|triggers| triggers.is_some());
    if is_expecting {
        return Err("a test over days says on each day what is expected".to_owned());
    }
    let mut before_us = None;
    for Day { after, given } in &test.days {
        let as_of_us = AS_OF_US + after.as_micros();
        if before_us.is_some_and(|before_us| before_us >= as_of_us) {
            return Err(format!("{after} is not after the day before it"));
        }
        before_us = Some(as_of_us);
        on_day(&given.over(&test.given), (as_of_us, &mut account), model, layout)
            .map_err(|why| format!("after {after}: {why}"))?;
    }
    Ok(())
}

impl Given {
    /// These columns in place of others, and these expectations.
    fn over(&self, all: &Self) -> Self {
        let mut periods = all.periods.clone();
        for (period, columns) in &self.periods {
            periods.entry(period.clone()).or_default().extend(columns.clone());
        }
        let row = all.row.clone().into_iter().chain(self.row.clone()).collect();
        let Self { score, delta, band, stage, triggers, raised, cleared, .. } = self;
        let (band, stage, triggers) = (band.clone(), stage.clone(), triggers.clone());
        let (raised, cleared) = (raised.clone(), cleared.clone());
        Self { row, periods, score: *score, delta: *delta, band, stage, triggers, raised, cleared }
    }
}

/// Gives the final row of one day, and compares what comes of it. `account` is what score knows of the account.
fn on_day(
    given: &Given,
    (as_of_us, account): (i64, &mut Option<Account>),
    model: &Arc<Compiled>,
    layout: &Layout,
) -> Result<(), String> {
    let rows = rows(given, as_of_us, layout)?;
    let failed = |error: arrow::error::ArrowError| error.to_string();
    let models = Models::beginning_with(model);
    let windows = Windows::of(&rows, layout).map_err(failed)?;
    let (cases, nothing) = (windows.cases(), Memory::default());
    let case = cases.first().ok_or("there is no window")?;
    let before = account.take();
    let past = before.as_ref().map_or(&nothing, |account| &account.memory);
    let verdicts = evaluate(&models, &windows, &[CaseWithPast { case, past }], DAY_US).map_err(failed)?;
    let verdict = verdicts.iter().next().ok_or("there is no score")?;
    let (row, after) = Row::of(case, &verdict, before.as_ref(), past);
    let (score, delta, band) = row.told();
    let holding = verdict.model.model.triggers.iter().zip(verdict.signs());
    let holding = holding.filter(|(_, sign)| sign.holds && case.left().is_none());
    let text = |points: Option<Points>| points.map_or("null".to_owned(), |points| points.to_string());
    let wanted = |points: Option<f64>| {
        points
            .map(|points| Points::round(points.abs()).unwrap_or_default())
            .zip(points)
            .map(|(size, points)| if points < 0.0 { (Points::ZERO - size).to_string() } else { size.to_string() })
    };
    let list = |names: &Option<Vec<String>>| names.as_ref().map(|names| names.join(", "));
    let of_phase = |phase| row.triggers(phase).collect::<Vec<_>>().join(", ");
    let holding = holding.map(|(trigger, _)| trigger.name.value.as_str()).collect::<Vec<_>>().join(", ");
    for (what, wanted, found) in [
        ("score", wanted(given.score), text(score)),
        ("delta", wanted(given.delta), text(delta)),
        ("band", given.band.clone(), band.to_owned()),
        ("stage", given.stage.clone(), row.stage().unwrap_or("null").to_owned()),
        ("triggers", list(&given.triggers), holding),
        ("raised", list(&given.raised), of_phase(Phase::Raised)),
        ("cleared", list(&given.cleared), of_phase(Phase::Cleared)),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(format!("{what} is {found:?}, not {wanted:?}"));
        }
    }
    *account = after;
    Ok(())
}

fn rows(test: &Given, as_of_us: i64, layout: &Layout) -> Result<RecordBatch, String> {
    let windows = layout.windows();
    if let Some(period) = test.periods.keys().find(|period| !windows.contains(period)) {
        return Err(format!("there is no window {period}: {}", windows.join(", ")));
    }
    let of_all = test.row.keys().map(|name| (name, windows));
    let of_one =
        test.periods.iter().flat_map(|(window, row)| row.keys().map(move |name| (name, std::slice::from_ref(window))));
    for (name, windows) in of_all.chain(of_one) {
        if windows.iter().any(|window| layout.index_of(name, window).is_some()) {
            continue;
        }
        let lacking = windows.iter().find(|window| layout.lacks(name, window));
        return Err(match lacking {
            Some(window) => {
                format!("{name} is not kept: add `{}` to aggregate.measures", Layout::line_for(name, window))
            }
            None => format!("there is no column {name}"),
        });
    }
    let cells = layout.columns().iter().map(|column| {
        let name = &column.sql_name;
        let own = layout.window_of(column).and_then(|window| test.periods.get(window)?.get(name));
        Ok((column.name.as_str(), cell(column, own.or_else(|| test.row.get(name)), as_of_us)?))
    });
    let cells: BTreeMap<&str, Cell<'_>> = cells.collect::<Result<_, String>>()?;
    let rows = layout.rows(1, |_, column| cells.get(column.name.as_str()).cloned().unwrap_or(Cell::Null));
    rows.map_err(|error| error.to_string())
}

fn cell<'v>(LaidOut { column, .. }: &LaidOut, value: Option<&'v Value>, as_of_us: i64) -> Result<Cell<'v>, String> {
    let name = column.name;
    let wrong = |value: &Value| format!("{name}: {value} is not of its type");
    match name {
        "account_id" => return Ok(Cell::Text("account")),
        "final" => return Ok(Cell::Flag(true)),
        "as_of" => return Ok(Cell::Time(as_of_us)),
        _ => {}
    }
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Cell::Null) };
    let cell = match column.kind {
        ColumnType::Text => value.as_str().map(Cell::Text),
        ColumnType::Flag => value.as_bool().map(Cell::Flag),
        ColumnType::Time => time(value, as_of_us).map(Cell::Time),
        ColumnType::Int32 | ColumnType::Int64 => value.as_i64().map(Cell::Int),
        ColumnType::Float => value.as_f64().map(Cell::Float),
        ColumnType::Money => value.as_f64().map(|money| Cell::Money((money * 100.0).round() as i128)),
        ColumnType::CountMap => counts(value).map(Cell::CountMap),
        kind => return Err(format!("{name}: columns of {kind:?} cannot be given")),
    };
    cell.ok_or_else(|| wrong(value))
}

/// The counts of `{bug: 2}`, ordered by name.
fn counts(value: &Value) -> Option<Vec<(&str, i64)>> {
    let named = value.as_object()?.iter().map(|(name, count)| Some((name.as_str(), count.as_i64()?)));
    let mut named: Vec<(&str, i64)> = named.collect::<Option<_>>()?;
    named.sort_unstable();
    Some(named)
}

/// The time of `3d ago` or `in 3d`, relative to the end of the windows. UTC microseconds.
fn time(value: &Value, as_of_us: i64) -> Option<i64> {
    let text = value.as_str()?;
    let (span, sign) = match text.strip_suffix(" ago") {
        Some(span) => (span, -1),
        None => (text.strip_prefix("in ")?, 1),
    };
    let span: Span = serde_json::from_value(Value::String(span.to_owned())).ok()?;
    Some(as_of_us + sign * span.as_micros())
}

#[cfg(test)]
mod tests {
    use keepwell_pipeline::config::Config;

    use super::*;

    fn layout() -> Layout {
        keepwell_pipeline::config::Aggregate::default().layout()
    }

    fn shipped(model: &str) -> (PathBuf, Arc<Compiled>) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
        (beside(&path), Arc::new(Compiled::parse(model, &read(&path).unwrap(), &layout()).unwrap()))
    }

    #[test]
    fn the_tests_of_the_shipped_models_pass() {
        for (model, count) in [
            ("basic.yaml", 3),
            ("default.yaml", 12),
            ("handoff_to_advocacy.yaml", 5),
            ("onboarding_to_advocacy.yaml", 10),
            ("worked_example.yaml", 4),
        ] {
            let (tests, compiled) = shipped(model);
            assert_eq!(run(&tests, &compiled, &layout()).unwrap_or_else(|why| panic!("{why}")), count, "{model}");
        }
    }

    /// The handbook's thresholds, its weights, and its risk indicators.
    #[test]
    fn the_tests_of_the_public_model_of_posthog_pass_with_its_configuration() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let config = Config::read(&folder.join("posthog.config.yaml"), &[]).unwrap();
        let (path, layout) = (folder.join("posthog.yaml"), config.aggregate.layout());
        let compiled = Compiled::parse("posthog.yaml", &read(&path).unwrap(), &layout);
        let model = Arc::new(compiled.unwrap_or_else(|why| panic!("{why}")));
        assert_eq!(run(&beside(&path), &model, &layout).unwrap_or_else(|why| panic!("{why}")), 5);
        // The default measures are not enough for it.
        let why = Compiled::parse("posthog.yaml", &read(&path).unwrap(), &self::layout()).unwrap_err().to_string();
        assert!(why.contains("is not among aggregate.windows"), "{why}");
    }

    #[test]
    fn the_tests_of_models_with_a_configuration_of_their_own_pass_with_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        for (name, count) in [("course", 3), ("from_events", 4)] {
            let config = Config::read(&folder.join(format!("{name}.config.yaml")), &[]).unwrap();
            let (path, layout) = (folder.join(format!("{name}.yaml")), config.aggregate.layout());
            let model = Compiled::parse(name, &read(&path).unwrap(), &layout).unwrap_or_else(|why| panic!("{why}"));
            let found = run(&beside(&path), &Arc::new(model), &layout).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(found, count, "{name}");
        }
    }

    #[test]
    fn a_test_that_fails_is_named_with_its_place_and_what_it_gave() {
        let (_, model) = shipped("worked_example.yaml");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.tests.yaml");
        // text, words that the message must contain
        let cases: [(&str, &[&str]); 15] = [
            ("- {name: a, row: {trained: 60}, score: 61}", &["m.tests.yaml:1:10", "a: score is \"60\"", "not \"61\""]),
            ("- {name: a, row: {trained: 60}, band: green}", &["band is \"unknown\"", "\"green\""]),
            ("- {name: a, triggers: [t]}", &["triggers is \"\"", "\"t\""]),
            ("- {name: a, row: {traind: 60}}", &["no column traind"]),
            ("- {name: a, periods: {7d: {previous_nps: 60}}}", &["`- {of: [nps], windows: [7d], previous: true}`"]),
            ("- {name: a, row: {trained: much}}", &["trained", "type"]),
            ("- {name: a, row: {last_use_at: yesterday}}", &["last_use_at", "type"]),
            ("- {name: a, periods: {6d: {uses: 1}}}", &["no window 6d", "7d, 28d, 90d"]),
            (
                "- {name: a, row: {trained: 60}, days: [{after: 0d}, {after: 3d, row: {trained: 40}, delta: -19}]}",
                &["a: after 3d: delta is \"-20\", not \"-19\""],
            ),
            ("- {name: a, days: [{after: 0d}, {after: 0d}]}", &["not after the day before it"]),
            ("- {name: a, score: 3, days: [{after: 0d}]}", &["on each day"]),
            ("- {name: a, raised: [t], days: [{after: 0d}]}", &["on each day"]),
            ("- {name: a, scor: 3}", &["scor"]),
            ("- {name: a, days: [{after: 0d, scor: 3}]}", &["scor"]),
            ("- {name: a, days: [{after: 1d, row: {trained: 50}, raised: [t]}]}", &["raised is \"\"", "\"t\""]),
        ];
        for (text, words) in cases {
            std::fs::write(&path, text).unwrap();
            let message = run(&path, &model, &layout()).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{word:?} is not in: {message}");
            }
        }
    }
}
