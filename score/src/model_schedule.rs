//! Which model scores which time, and how a new model takes over: through the log, at a declared event time.
//!
//! A partition begins with the model that is configured when it is first assigned. A new model is announced by a record
//! without value in every partition of `windows`. It scores the later rows with an `as_of` at or after the declared
//! time. Earlier scores stay as they are. A partition keeps every model in the schedule, so that a replay gives the
//! same scores.

use std::sync::Arc;

use keepwell_pipeline::record::{MODEL_HEADER, Message, Record};
use serde::{Deserialize, Serialize};

use crate::compile::Compiled;
use crate::model::ModelError;

/// A new model that is to take over. It is JSON in the header [`MODEL_HEADER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The first `as_of` that the model scores.
    pub from: jiff::Timestamp,
    /// The text of the model file.
    pub text: String,
}

impl Announcement {
    /// The announcement in a record, if it has one.
    ///
    /// # Errors
    /// When the header is not an announcement.
    pub fn of(record: &Record) -> Result<Option<Self>, serde_json::Error> {
        record.header(MODEL_HEADER).map(serde_json::from_slice).transpose()
    }

    /// The record with this announcement for one partition of the `windows` topic.
    ///
    /// # Errors
    /// None in practice: text and time can always be written as JSON.
    pub fn message(&self, windows: &Arc<str>, partition: i32) -> Result<Message, serde_json::Error> {
        Ok(Message {
            topic: Arc::clone(windows),
            partition,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: vec![(MODEL_HEADER.to_owned(), Some(serde_json::to_vec(self)?))],
        })
    }
}

/// The result of an announcement.
#[derive(Debug)]
pub enum Taken {
    /// The new schedule of models.
    New(Models),
    /// The same announcement is already in the schedule.
    Known,
}

/// Why a model does not take over.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The model file is not valid.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The version does not rise, so scores of two models could not be distinguished.
    #[error("version {offered} is not above {known}, which was announced before: raise `version` in the model file")]
    Version {
        /// Version of the announced file.
        offered: i64,
        /// The highest version in the schedule.
        known: i64,
    },
}

/// The models of a partition, in the order of the times that they score.
#[derive(Debug, Clone, Default)]
pub struct Models {
    taken: Vec<(i64, Arc<Compiled>)>,
}

impl Models {
    /// A schedule with one model for all times.
    pub fn beginning_with(model: &Arc<Compiled>) -> Self {
        Self { taken: vec![(i64::MIN, Arc::clone(model))] }
    }

    /// A schedule from models and the times from which they score, UTC microseconds. The order is that of
    /// [`Models::texts`].
    pub fn of(taken: Vec<(i64, Arc<Compiled>)>) -> Self {
        Self { taken }
    }

    /// The times from which the models score, UTC microseconds, and their model files.
    pub fn texts(&self) -> Vec<(i64, String)> {
        self.taken.iter().map(|(from_us, model)| (*from_us, model.text.clone())).collect()
    }

    /// The model for a time in UTC microseconds, and its number in the present schedule.
    pub fn at(&self, as_of_us: i64) -> Option<(usize, &Arc<Compiled>)> {
        let behind = self.taken.partition_point(|(from_us, _)| *from_us <= as_of_us);
        let number = behind.checked_sub(1)?;
        self.taken.get(number).map(|(_, model)| (number, model))
    }

    /// The model that scores the latest times.
    pub fn newest(&self) -> Option<&Arc<Compiled>> {
        self.taken.last().map(|(_, model)| model)
    }

    /// Whether the schedule contains this model file.
    pub fn know(&self, text: &str) -> bool {
        self.taken.iter().any(|(_, model)| model.text == text)
    }

    /// Adds an announced model. It replaces the models that score its time and later times.
    ///
    /// # Errors
    /// [`Refused`] when the file is not valid or its version does not rise.
    pub fn with(
        &self,
        announced: &Announcement,
        compile: impl FnOnce(&str) -> Result<Arc<Compiled>, ModelError>,
    ) -> Result<Taken, Refused> {
        let from_us = announced.from.as_microsecond();
        if self.taken.iter().any(|(known_us, model)| *known_us == from_us && model.text == announced.text) {
            return Ok(Taken::Known);
        }
        let model = compile(&announced.text)?;
        let known = self.taken.iter().map(|(_, model)| model.version).max().unwrap_or(i64::MIN);
        if model.version <= known {
            return Err(Refused::Version { offered: model.version, known });
        }
        let before = self.taken.iter().filter(|(known_us, _)| *known_us < from_us).cloned();
        Ok(Taken::New(Self { taken: before.chain([(from_us, model)]).collect() }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keepwell_core::offset::{NextOffset, Position};
    use keepwell_pipeline::reject::REASON_HEADER;
    use keepwell_pipeline::stage::{Batch, Fate, Stage};

    use crate::tests::{EXAMPLE, GOOD, all, announced, announcement, fold_lines, fresh, partition, record, stage};
    use crate::{Score, State};

    /// The example in another version, with half the points for usage depth.
    fn halved(version: i64) -> String {
        EXAMPLE.replace("to: 10}", "to: 20}").replace("version: 1", &format!("version: {version}"))
    }

    fn scores(fold_lines: &[String]) -> Vec<&str> {
        fold_lines.iter().map(|line| line.split(' ').next().unwrap()).collect()
    }

    #[test]
    fn another_model_scores_the_rows_behind_its_record_that_end_at_its_time_or_later() {
        let stage = stage(EXAMPLE);
        let mut state = fresh(&stage);
        let records = [
            record(0, 100, true, GOOD),
            record(1, 101, false, GOOD),
            announced(2, &announcement(102, halved(2))),
            record(3, 101, true, GOOD),
            record(4, 102, true, GOOD),
            announced(5, &announcement(104, EXAMPLE.replace("version: 1", "version: 3"))),
            record(6, 103, true, GOOD),
            record(7, 104, true, GOOD),
        ];
        let all = fold_lines(&stage, &mut state, &records);
        assert_eq!(scores(&all), ["74.75", "74.75", "74.75", "60.75", "60.75", "74.75"]);
        assert_eq!(all[3], "60.75 -14 [] [] changed", "another version: no drivers, and news");
    }

    #[test]
    fn a_restart_with_another_file_changes_nothing_and_a_replay_says_the_same_again() {
        let old = stage(EXAMPLE);
        let mut state = fresh(&old);
        let first = [record(0, 100, true, GOOD), announced(1, &announcement(102, halved(2)))];
        fold_lines(&old, &mut state, &first);
        let snapshot = all(&old, &state);
        let next = [record(2, 101, true, GOOD), record(3, 102, true, GOOD)];
        let lines = fold_lines(&old, &mut state, &next);
        let other = stage(&EXAMPLE.replace("to: 10}", "to: 40}").replace("version: 1", "version: 9"));
        let mut restored = State::default();
        let from = Position::at(NextOffset(2));
        other.restore(&mut restored, &partition(), from, Some(&snapshot)).unwrap();
        assert_eq!(fold_lines(&other, &mut restored, &next), lines);
        assert_eq!(scores(&lines), ["74.75", "60.75"]);
        assert_eq!(all(&other, &restored), all(&old, &state));
    }

    /// Fates and reject reasons of one announcement.
    fn announce(
        stage: &Score,
        state: &mut State,
        text: String,
        day: i64,
    ) -> (Vec<(&'static str, &'static str)>, Vec<String>) {
        let records = [announced(1, &announcement(day, text))];
        let batch = Batch {
            records: [(partition(), records.as_slice())].into(),
            positions: [(partition(), Position::at(NextOffset(1)))].into(),
            ..Batch::default()
        };
        let step = stage.apply(state, &batch).unwrap();
        stage.merge(state, step.changes);
        let fates: BTreeMap<Fate, u64> = step.fates;
        let of = |message: &keepwell_pipeline::record::Message, name: &str| {
            let value =
                message.headers.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.clone());
            String::from_utf8(value.unwrap_or_default()).unwrap()
        };
        let rejects = step.messages.iter().map(|message| {
            assert_eq!(message.topic.as_ref(), "keepwell.rejects");
            format!("{}: {}", of(message, REASON_HEADER), of(message, "__connect.errors.exception.message"))
        });
        (
            fates.keys().filter(|fate| fate.name != "read").map(|fate| (fate.name, fate.reason)).collect(),
            rejects.collect(),
        )
    }

    #[test]
    fn a_bad_model_is_a_reject_with_line_and_column_and_the_one_in_use_goes_on() {
        let stage = stage(EXAMPLE);
        // what is wrong, words that the reject must contain
        let cases = [
            (halved(2).replace("sql: trained", "sql: traind"), ["traind", ":14:"]),
            (halved(2).replace("weight: 35", "weight: 34"), ["99", ":4:"]),
            (
                halved(2).replace(
                    "{linear: {from: 0, to: 20}}",
                    "{steps: [{in: '(-inf, 5]', points: 0}, {in: '[5, inf)', points: 9}]}",
                ),
                ["5 is in two ranges", ":9:"],
            ),
            (halved(1), ["version 1", "not above 1"]),
            ("{".to_owned(), ["announced model", "line 1"]),
        ];
        for (text, words) in cases {
            let mut state = fresh(&stage);
            fold_lines(&stage, &mut state, &[record(0, 100, true, GOOD)]);
            let (fates, rejects) = announce(&stage, &mut state, text, 50);
            assert_eq!(fates, [("rejected", "model_refused")]);
            for word in words {
                assert!(rejects[0].starts_with("model_refused: ") && rejects[0].contains(word), "{word}: {rejects:?}");
            }
            assert_eq!(scores(&fold_lines(&stage, &mut state, &[record(2, 101, true, GOOD)])), ["74.75"]);
        }
    }

    #[test]
    fn a_division_by_zero_makes_a_value_unknown_and_what_is_told_again_is_known() {
        let stage = stage(EXAMPLE);
        let mut state = fresh(&stage);
        let text = halved(2).replace("sql: uses_per_user", "sql: errors / events");
        assert_eq!(announce(&stage, &mut state, text.clone(), 101), (vec![("model_taken", "")], vec![]));
        assert_eq!(announce(&stage, &mut state, text, 101), (vec![("model_known", "")], vec![]));
        assert_eq!(scores(&fold_lines(&stage, &mut state, &[record(2, 101, true, GOOD)])), ["71.923077"]);
    }
}
