//! Tests of a model as a table: the contents of window rows, and the score they must give. They are in
//! `NAME.tests.yaml` beside `NAME.yaml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use keepwell_core::schema::ColumnType;
use keepwell_core::schema::cell::Cell;
use keepwell_core::schema::window::{LaidOut, Layout};
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::compile::Compiled;
use crate::evaluate::{CaseWithPast, evaluate};
use crate::model::{ModelError, read};
use crate::model_schedule::Models;
use crate::state::Memory;
use crate::windows::{Case, Windows};
use keepwell_core::points::Points;

/// The end of every test's windows: 2026-01-01, UTC microseconds.
const AS_OF_US: i64 = 1_767_225_600_000_000;

/// One test.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    /// Name of the test: what it shows.
    name: Spanned<String>,
    /// Columns, for all windows. Other columns are null, or zero if they cannot be null. Times are `3d ago`
    /// or `in 3d`.
    #[serde(default)]
    row: BTreeMap<String, Value>,
    /// Columns of one window, by window. They replace those in `row`.
    #[serde(default)]
    periods: BTreeMap<String, BTreeMap<String, Value>>,
    /// The expected score, with all its decimals.
    score: Option<f64>,
    /// The expected band.
    band: Option<String>,
    /// The triggers that must hold, in the order of the model.
    triggers: Option<Vec<String>>,
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
        let found = given(test, model, layout).map_err(refused)?;
        let wanted = [
            ("score", test.score.map(|score| Points::round(score).unwrap_or_default().to_string()), found.score),
            ("band", test.band.clone(), found.band),
            ("triggers", test.triggers.as_ref().map(|triggers| triggers.join(", ")), found.triggers),
        ];
        for (what, wanted, found) in wanted {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                return Err(refused(format!("{what} is {found:?}, not {wanted:?}")));
            }
        }
    }
    Ok(tests.len())
}

struct Found {
    score: String,
    band: String,
    triggers: String,
}

fn given(test: &Test, model: &Arc<Compiled>, layout: &Layout) -> Result<Found, String> {
    let rows = rows(test, layout)?;
    let failed = |error: arrow::error::ArrowError| error.to_string();
    let models = Models::beginning_with(model);
    let windows = Windows::of(&rows, layout).map_err(failed)?;
    let (cases, nothing) = (windows.cases(), Memory::default());
    let scenes: Vec<CaseWithPast<'_>> = cases.iter().map(|case| CaseWithPast { case, past: &nothing }).collect();
    let verdicts = evaluate(&models, &windows, &scenes, 1).map_err(failed)?;
    let verdict = verdicts.iter().next().ok_or("there is no window")?;
    if let Some(left) = cases.first().and_then(Case::left) {
        return Ok(Found { score: "null".to_owned(), band: left.to_owned(), triggers: String::new() });
    }
    let triggers = verdict.model.model.triggers.iter().zip(verdict.signs()).filter(|(_, sign)| sign.holds);
    Ok(Found {
        score: verdict.rating.score.map_or("null".to_owned(), |score| score.to_string()),
        band: verdict.band.to_owned(),
        triggers: triggers.map(|(trigger, _)| trigger.name.value.as_str()).collect::<Vec<_>>().join(", "),
    })
}

fn rows(test: &Test, layout: &Layout) -> Result<RecordBatch, String> {
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
        Ok((column.name.as_str(), cell(column, own.or_else(|| test.row.get(name)))?))
    });
    let cells: BTreeMap<&str, Cell<'_>> = cells.collect::<Result<_, String>>()?;
    let rows = layout.rows(1, |_, column| cells.get(column.name.as_str()).cloned().unwrap_or(Cell::Null));
    rows.map_err(|error| error.to_string())
}

fn cell<'v>(LaidOut { column, .. }: &LaidOut, value: Option<&'v Value>) -> Result<Cell<'v>, String> {
    let name = column.name;
    let wrong = |value: &Value| format!("{name}: {value} is not of its type");
    match name {
        "account_id" => return Ok(Cell::Text("account")),
        "final" => return Ok(Cell::Flag(true)),
        "as_of" => return Ok(Cell::Time(AS_OF_US)),
        _ => {}
    }
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(Cell::Null) };
    let cell = match column.kind {
        ColumnType::Text => value.as_str().map(Cell::Text),
        ColumnType::Flag => value.as_bool().map(Cell::Flag),
        ColumnType::Time => time(value).map(Cell::Time),
        ColumnType::Int32 | ColumnType::Int64 => value.as_i64().map(Cell::Int),
        ColumnType::Float => value.as_f64().map(Cell::Float),
        ColumnType::Money => value.as_f64().map(|money| Cell::Money((money * 100.0).round() as i128)),
        kind => return Err(format!("{name}: columns of {kind:?} cannot be given")),
    };
    cell.ok_or_else(|| wrong(value))
}

/// The time of `3d ago` or `in 3d`, relative to the end of the windows. UTC microseconds.
fn time(value: &Value) -> Option<i64> {
    let text = value.as_str()?;
    let (span, sign) = match text.strip_suffix(" ago") {
        Some(span) => (span, -1),
        None => (text.strip_prefix("in ")?, 1),
    };
    let span: Span = serde_json::from_value(Value::String(span.to_owned())).ok()?;
    Some(AS_OF_US + sign * span.as_micros())
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
        for (model, count) in [("worked_example.yaml", 3), ("default.yaml", 5)] {
            let (tests, compiled) = shipped(model);
            assert_eq!(run(&tests, &compiled, &layout()).unwrap(), count, "{model}");
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
        assert_eq!(run(&beside(&path), &model, &layout).unwrap_or_else(|why| panic!("{why}")), 4);
        // The default measures are not enough for it.
        let why = Compiled::parse("posthog.yaml", &read(&path).unwrap(), &self::layout()).unwrap_err().to_string();
        assert!(why.contains("is not among aggregate.windows"), "{why}");
    }

    #[test]
    fn a_test_that_fails_is_named_with_its_place_and_what_it_gave() {
        let (_, model) = shipped("worked_example.yaml");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.tests.yaml");
        // text, words that the message must contain
        let cases: [(&str, &[&str]); 8] = [
            ("- {name: a, row: {trained: 60}, score: 61}", &["m.tests.yaml:1:10", "a: score is \"60\"", "not \"61\""]),
            ("- {name: a, row: {trained: 60}, band: green}", &["band is \"unknown\"", "\"green\""]),
            ("- {name: a, triggers: [t]}", &["triggers is \"\"", "\"t\""]),
            ("- {name: a, row: {traind: 60}}", &["no column traind"]),
            ("- {name: a, periods: {7d: {previous_nps: 60}}}", &["`- {of: [nps], windows: [7d], previous: true}`"]),
            ("- {name: a, row: {trained: much}}", &["trained", "type"]),
            ("- {name: a, row: {last_use_at: yesterday}}", &["last_use_at", "type"]),
            ("- {name: a, periods: {6d: {uses: 1}}}", &["no window 6d", "7d, 28d, 90d"]),
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
