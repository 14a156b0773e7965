//! Tests of a model as a table: the contents of window rows, and the score they must give. They are in
//! `NAME.tests.yaml` beside `NAME.yaml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use keepwell_core::schema::{Column, ColumnType, RowBuilder, window};
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::compile::Compiled;
use crate::evaluate::{CaseWithPast, evaluate};
use crate::model::{ModelError, read};
use crate::model_schedule::Models;
use crate::state::Memory;
use crate::windows::Windows;
use keepwell_core::points::Points;

/// The end of every test's windows: 2026-01-01, UTC microseconds.
const AS_OF_US: i64 = 1_767_225_600_000_000;

/// One test.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// Name of the test: what it shows.
    name: Spanned<String>,
    /// Columns of the rows of all windows. Other columns are null, or zero if they cannot be null. Times are `3d ago`
    /// or `in 3d`.
    #[serde(default)]
    row: BTreeMap<String, Value>,
    /// Columns of the row of one window, by window. They replace those in `row`.
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
pub fn run(path: &Path, model: &Arc<Compiled>, periods: &[String]) -> Result<usize, ModelError> {
    let file = path.display().to_string();
    let text = read(path)?;
    let cases: Vec<Case> = serde_saphyr::from_str(&text).map_err(|error| ModelError::of(&file, error))?;
    for case in &cases {
        let refused = |why: String| ModelError::at(&file, case.name.referenced, format!("{}: {why}", case.name.value));
        let found = given(case, model, periods).map_err(refused)?;
        let wanted = [
            ("score", case.score.map(|score| Points::round(score).unwrap_or_default().to_string()), found.score),
            ("band", case.band.clone(), found.band),
            ("triggers", case.triggers.as_ref().map(|triggers| triggers.join(", ")), found.triggers),
        ];
        for (what, wanted, found) in wanted {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                return Err(refused(format!("{what} is {found:?}, not {wanted:?}")));
            }
        }
    }
    Ok(cases.len())
}

struct Found {
    score: String,
    band: String,
    triggers: String,
}

fn given(case: &Case, model: &Arc<Compiled>, periods: &[String]) -> Result<Found, String> {
    let rows = rows(case, periods)?;
    let failed = |error: arrow::error::ArrowError| error.to_string();
    let models = Models::beginning_with(model);
    let windows = Windows::of(&rows).map_err(failed)?;
    let (cases, nothing) = (windows.cases(), Memory::default());
    let scenes: Vec<CaseWithPast<'_>> = cases.iter().map(|case| CaseWithPast { case, past: &nothing }).collect();
    let verdicts = evaluate(&models, &windows, &scenes, 1).map_err(failed)?;
    let verdict = verdicts.iter().next().ok_or("there is no window")?;
    let triggers = verdict.model.model.triggers.iter().zip(verdict.signs()).filter(|(_, sign)| sign.holds);
    Ok(Found {
        score: verdict.rating.score.map_or("null".to_owned(), |score| score.to_string()),
        band: verdict.band.to_owned(),
        triggers: triggers.map(|(trigger, _)| trigger.name.value.as_str()).collect::<Vec<_>>().join(", "),
    })
}

fn rows(case: &Case, periods: &[String]) -> Result<RecordBatch, String> {
    let known: BTreeSet<&str> = window::columns().map(|column| column.name).collect();
    let named = case.periods.values().flat_map(BTreeMap::keys).chain(case.row.keys());
    if let Some(name) = named.into_iter().find(|name| !known.contains(name.as_str())) {
        return Err(format!("there is no column {name}"));
    }
    if let Some(period) = case.periods.keys().find(|period| !periods.contains(period)) {
        return Err(format!("there is no window {period}: {}", periods.join(", ")));
    }
    let mut rows = window::builder();
    for period in periods {
        let own = case.periods.get(period);
        for column in window::columns() {
            let value = own.and_then(|own| own.get(column.name)).or_else(|| case.row.get(column.name));
            append(&mut rows, column, period, value)?;
        }
        rows.end_row();
    }
    rows.finish().map_err(|error| error.to_string())
}

fn append(rows: &mut RowBuilder, column: &'static Column, period: &str, value: Option<&Value>) -> Result<(), String> {
    let name = column.name;
    let value = value.filter(|value| !value.is_null());
    let wrong = || format!("{name}: {} is not of its type", value.unwrap_or(&Value::Null));
    let is_needed = !column.nullable;
    match (column.kind, name) {
        (ColumnType::Text, "account_id") => rows.text(name, Some("account")),
        (ColumnType::Text, "period") => rows.text(name, Some(period)),
        (ColumnType::Flag, "final") => rows.flag(name, true),
        (ColumnType::Time, "as_of") => rows.time(name, Some(AS_OF_US)),
        (ColumnType::Text, _) => rows.text(name, value.map(|v| v.as_str().ok_or_else(wrong)).transpose()?),
        (ColumnType::Flag, _) => rows.flag(name, value.is_some_and(|value| *value == Value::Bool(true))),
        (ColumnType::Time, _) => rows.time(name, value.map(|v| time(v).ok_or_else(wrong)).transpose()?),
        (ColumnType::Int32, _) => rows.int32(name, 0),
        (ColumnType::Int64, _) => {
            let int = value.map(|v| v.as_i64().ok_or_else(wrong)).transpose()?;
            rows.int(name, int.or(is_needed.then_some(0)));
        }
        (ColumnType::Float, _) => {
            let float = value.map(|v| v.as_f64().ok_or_else(wrong)).transpose()?;
            rows.float(name, float.or(is_needed.then_some(0.0)));
        }
        (ColumnType::Money, _) => {
            let money = value.map(|v| v.as_f64().ok_or_else(wrong)).transpose()?;
            rows.money(name, money.map(|money| (money * 100.0).round() as i128));
        }
        (ColumnType::CountMap, _) => rows.count_map(name, std::iter::empty()),
        (ColumnType::TextMap, _) => rows.text_map(name, is_needed.then(std::iter::empty)),
        (kind, _) => return Err(format!("{name}: columns of {kind:?} cannot be given")),
    }
    Ok(())
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
    use super::*;

    fn periods() -> Vec<String> {
        ["7d", "28d", "90d"].map(str::to_owned).to_vec()
    }

    fn shipped(model: &str) -> (PathBuf, Arc<Compiled>) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
        (beside(&path), Arc::new(Compiled::parse(model, &read(&path).unwrap(), &periods()).unwrap()))
    }

    #[test]
    fn the_tests_of_the_shipped_models_pass() {
        for (model, count) in [("worked_example.yaml", 3), ("default.yaml", 3)] {
            let (tests, compiled) = shipped(model);
            assert_eq!(run(&tests, &compiled, &periods()).unwrap(), count, "{model}");
        }
    }

    #[test]
    fn a_test_that_fails_is_named_with_its_place_and_what_it_gave() {
        let (_, model) = shipped("worked_example.yaml");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.tests.yaml");
        // text, words that the message must contain
        let cases: [(&str, &[&str]); 7] = [
            ("- {name: a, row: {trained: 60}, score: 61}", &["m.tests.yaml:1:10", "a: score is \"60\"", "not \"61\""]),
            ("- {name: a, row: {trained: 60}, band: green}", &["band is \"unknown\"", "\"green\""]),
            ("- {name: a, triggers: [t]}", &["triggers is \"\"", "\"t\""]),
            ("- {name: a, row: {traind: 60}}", &["no column traind"]),
            ("- {name: a, row: {trained: much}}", &["trained", "type"]),
            ("- {name: a, row: {last_use_at: yesterday}}", &["last_use_at", "type"]),
            ("- {name: a, periods: {6d: {uses: 1}}}", &["no window 6d", "7d, 28d, 90d"]),
        ];
        for (text, words) in cases {
            std::fs::write(&path, text).unwrap();
            let message = run(&path, &model, &periods()).unwrap_err().to_string();
            for word in words {
                assert!(message.contains(word), "{word:?} is not in: {message}");
            }
        }
    }
}
