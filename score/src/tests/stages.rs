//! Stages of the lifecycle on the rows of an account: by rules over final rows, or by the fact.

use keepwell_core::codec;
use keepwell_core::offset::{NextOffset, Position};
use keepwell_core::schema::columns::{Columns, number, text};
use keepwell_core::schema::health;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::stage::{Batch, Stage};

use super::{EXAMPLE, Values, all, fresh, layout, partition, record, stage};
use crate::compile::Compiled;
use crate::{Score, State};

const MODEL: &str = r"
version: 1
stages:
  - {name: onboarding, owner_role: onboarding, action: Lead, metric: {name: errors, sql: errors}}
  - {name: adoption, when: uses >= 10, for: 2d, owner_role: csm, action: Widen, metric: {name: uses, sql: uses / 3.0}}
models:
  - {name: newcomers, only_for: {stages: [onboarding]}, period: 28d, factors: [{name: f, sql: uses, normalise: {linear: {from: 0, to: 100}}, weight: 100}], bands: [{name: all, from: 0}]}
  - {name: everyone, period: 28d, factors: [{name: f, sql: uses, normalise: {linear: {from: 0, to: 50}}, weight: 100}], bands: [{name: all, from: 0}]}
";

/// The rows that these records give: model, stage, day of its begin, next stage and its day, owner, metric.
fn lines(stage: &Score, state: &mut State, records: &[Record]) -> Vec<String> {
    let batch = Batch {
        records: [(partition(), records)].into(),
        positions: [(partition(), Position::at(NextOffset(records[0].offset.0)))].into(),
        ..Batch::default()
    };
    let step = stage.apply(state, &batch).unwrap();
    let mut lines = Vec::new();
    for value in step.messages.iter().filter_map(|message| message.value.as_ref()) {
        let batch = codec::decode(value, &health::schema()).unwrap();
        let rows = Columns::Batch(&batch);
        for row in 0..batch.num_rows() {
            let of = |name: &str| text(rows.text(name).unwrap(), row).unwrap_or("-");
            let day = |name: &str| {
                number(rows.time(name).unwrap(), row).map_or("-".to_owned(), |us| (us / 86_400_000_000).to_string())
            };
            let value = number(rows.decimal("stage_metric_value").unwrap(), row).map_or(0, |points| points);
            lines.push(format!(
                "{} {} {} {} {} {} {value}",
                of("model"),
                of("stage"),
                day("stage_since"),
                of("next_stage"),
                day("next_stage_since"),
                of("stage_owner_role"),
            ));
        }
    }
    stage.merge(state, step.changes);
    lines
}

const FEW: Values<'_> = &[("uses", 4.0), ("errors", 1.0)];
const MANY: Values<'_> = &[("uses", 10.0), ("errors", 2.0)];

#[test]
fn a_row_says_its_stage_where_it_goes_next_and_the_model_goes_with_the_stage() {
    let stage = stage(MODEL);
    let mut state = fresh(&stage);
    let records = [
        record(0, 100, true, FEW),
        record(1, 101, true, MANY),
        record(2, 102, false, MANY),
        record(3, 102, true, MANY),
        record(4, 103, true, MANY),
        record(5, 104, false, FEW),
        record(6, 104, true, FEW),
    ];
    let expected = [
        "newcomers onboarding 100 - - onboarding 1000000",
        "newcomers onboarding 100 adoption 101 onboarding 2000000",
        "newcomers onboarding 100 adoption 101 onboarding 2000000",
        "newcomers onboarding 100 adoption 101 onboarding 2000000",
        "everyone adoption 103 - - csm 3333333",
        "everyone adoption 103 - - csm 1333333",
        "everyone adoption 103 onboarding 104 csm 1333333",
    ];
    assert_eq!(lines(&stage, &mut state, &records), expected);
}

#[test]
fn an_account_that_waits_for_a_stage_goes_on_waiting_after_a_restart() {
    let stage = stage(MODEL);
    let mut state = fresh(&stage);
    lines(&stage, &mut state, &[record(0, 100, true, FEW), record(1, 101, true, MANY)]);
    let saved = all(&stage, &state);
    let mut restored = State::default();
    stage.restore(&mut restored, &partition(), Position::at(NextOffset(2)), Some(&saved)).unwrap();
    let next = lines(&stage, &mut restored, &[record(2, 103, true, MANY)]);
    assert_eq!(next, ["everyone adoption 103 - - csm 3333333"]);
}

#[test]
fn an_account_that_comes_back_begins_anew() {
    let stage = stage(MODEL);
    let mut state = fresh(&stage);
    let retired: Vec<_> = MANY.iter().copied().chain([("retired", 1.0)]).collect();
    let records = [
        record(0, 100, true, FEW),
        record(1, 101, true, MANY),
        record(2, 102, true, &retired),
        record(3, 150, true, MANY),
    ];
    let last = lines(&stage, &mut state, &records).pop();
    assert_eq!(last.as_deref(), Some("everyone adoption 150 - - csm 3333333"));
}

#[test]
fn a_lifecycle_that_cannot_be_is_refused_with_its_place() {
    // the key, words of the message
    let cases: [(&str, &[&str]); 8] = [
        ("stages: [{name: a, when: uses > 1, STAGE}]", &["no `when`"]),
        ("stages: [{name: a, STAGE}, {name: b, STAGE}]", &["b needs a `when`"]),
        ("stages: [{name: a, STAGE}, {name: a, when: uses > 1, STAGE}]", &["twice"]),
        ("lifecycle: [a]\nstages: [{name: a, STAGE}]", &["either"]),
        ("stages: [{name: a, STAGE}, {name: b, when: uses, STAGE}]", &["true or false"]),
        ("stages: [{name: a, STAGE}, {name: b, when: previous_score > 1, STAGE}]", &["previous_score"]),
        ("stages: [{name: a;b, STAGE}]", &["neither `;`"]),
        ("stages: [{name: a, period: 9d, STAGE}]", &["9d", "7d, 28d, 90d"]),
    ];
    for (key, words) in cases {
        let key = key.replace("STAGE", "owner_role: csm, action: call, metric: {name: m, sql: uses}");
        let text = EXAMPLE.replacen("version: 1", &format!("version: 1\n{key}"), 1);
        let message = Compiled::parse("model.yaml", &text, &layout()).unwrap_err().to_string();
        for word in words.iter().chain(&["model.yaml:3:"]) {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
}
