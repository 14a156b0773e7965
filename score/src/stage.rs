//! The score stage: reads `windows`, writes `health`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::RecordBatch;
use keepwell_core::codec;
use keepwell_core::offset::{Position, TopicPartition};
use keepwell_core::schema::health;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::{Message, REPORTED_HEADER, Record};
use keepwell_pipeline::reject::{Cause, Kept, Original, reject};
use keepwell_pipeline::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use keepwell_pipeline::stage::Gauges;
use keepwell_pipeline::stage::{Batch, Fate, Fates, Stage, StageError, Step};
use keepwell_pipeline::suspect::{self, PANES_HEADER, PanesEnded};
use keepwell_pipeline::watermark::Progress;
use tracing::warn;

use crate::drops;
use crate::evaluate::{CaseWithPast, evaluate};
use crate::factor_lists::FactorLists;
use crate::health_row::{Provenance, Row};
use crate::inputs::{Inputs, inputs};
use crate::model::ModelError;
use crate::model_schedule::{Announcement, Models, Taken};
use crate::model_tests;
use crate::settings::Settings;
use crate::snapshot;
use crate::state::{Account, Changes, Memory, OpenDrops, PartitionChanges, PartitionState, State, merge_drops};
use crate::windows::{Case, Windows};

/// Reject reason for an announced model that is not valid. To fix it, correct the file and announce it again.
const MODEL_REFUSED: &str = "model_refused";

/// The score stage.
#[derive(Debug)]
pub struct Score {
    settings: Settings,
}

/// The health rows of a partition in this step, and the changes that they make.
struct Fold<'s> {
    state: &'s PartitionState,
    changes: PartitionChanges,
    rows: health::Writer,
    /// The factors of these rows.
    factors: FactorLists,
}

impl Score {
    /// The stage as configured.
    ///
    /// # Errors
    /// [`ModelError`] with file, line and column of the fault in the model file.
    pub fn new(config: &Config) -> Result<Self, ModelError> {
        Ok(Self { settings: Settings::new(config)? })
    }

    /// Runs the tests beside the configured model file, if there are any. Returns their number.
    ///
    /// # Errors
    /// [`ModelError`] naming the first test that fails.
    pub fn test_model(&self, config: &Config) -> Result<usize, ModelError> {
        let tests = config.score.model.as_deref().map(model_tests::beside).filter(|path| path.exists());
        tests.map_or(Ok(0), |path| model_tests::run(&path, &self.settings.model, &self.settings.layout))
    }

    /// The inputs of each factor, if the configured model file has this version; see [`inputs`].
    ///
    /// # Errors
    /// [`arrow::error::ArrowError`] when the rows do not belong to the `windows` table.
    pub fn inputs(
        &self,
        model: &str,
        version: i64,
        windows: &RecordBatch,
    ) -> Result<Option<BTreeMap<String, Inputs>>, arrow::error::ArrowError> {
        let is_at_hand = version == self.settings.model.version;
        is_at_hand.then(|| inputs(&self.settings.model, model, windows, &self.settings.layout)).transpose()
    }

    /// Text and version of the configured model file.
    pub fn model(&self) -> (&str, i64) {
        (&self.settings.model.text, self.settings.model.version)
    }

    /// Folds the records of one partition.
    fn fold(
        &self,
        state: &PartitionState,
        tp: &TopicPartition,
        batch: &Batch<'_>,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let records = batch.records.get(tp).copied().unwrap_or_default();
        let Some(last) = records.last() else { return Ok(()) };
        let mut fold = Fold {
            state,
            changes: PartitionChanges::default(),
            rows: health::Writer::default(),
            factors: FactorLists::default(),
        };
        for record in records {
            let refused = |why: String| StageError::Record {
                topic_partition: record.topic_partition.clone(),
                offset: record.offset.0,
                why,
            };
            let progress = Progress::of(record).map_err(|error| refused(error.to_string()))?;
            fold.changes.progress = progress.or(fold.changes.progress);
            if let Some(more) = suspect::of::<PanesEnded>(record, PANES_HEADER).map_err(refused)? {
                let ended = fold.changes.ended.get_or_insert_default();
                ended.ended_us = more.ended_us;
                ended.suspect.extend(more.suspect);
            }
            self.observe(record, batch, &mut fold, step);
            let Some(value) = &record.value else { continue };
            let batch = codec::decode_shared(value, &self.settings.layout.schema())
                .map_err(|error| refused(error.to_string()))?;
            let windows = Windows::of(&batch, &self.settings.layout)?;
            let models = fold.changes.models.as_ref().unwrap_or(&state.models).clone();
            self.score(&models, &windows, record, &mut fold, &mut step.fates)
                .map_err(|error| refused(error.to_string()))?;
        }
        self.emit(&mut fold, tp, batch.record_bytes(&self.settings.health, self.settings.max_record_bytes), step)?;
        step.positions.insert(tp.clone(), Position::at(last.offset.next()));
        step.changes.insert(tp.clone(), fold.changes);
        Ok(())
    }

    /// Adds an announced model, or rejects it. A rejected model changes nothing.
    fn observe(&self, record: &Record, batch: &Batch<'_>, fold: &mut Fold<'_>, step: &mut Step<Changes>) {
        let announced = match Announcement::of(record) {
            Ok(None) => return,
            Ok(Some(announced)) => Ok(announced),
            Err(error) => Err(error.to_string()),
        };
        let models = fold.changes.models.as_ref().unwrap_or(&fold.state.models);
        let taken = announced.and_then(|announced| {
            let compile = |text: &str| self.settings.compiled("the announced model", text);
            models.with(&announced, compile).map_err(|refused| refused.to_string())
        });
        let fate = match taken {
            Ok(Taken::New(models)) => {
                fold.changes.models = Some(models);
                Fate::of("model_taken")
            }
            Ok(Taken::Known) => Fate::of("model_known"),
            Err(why) => {
                let TopicPartition { topic, partition } = &record.topic_partition;
                let (partition, offset) = (*partition, record.offset.0);
                let cause = Cause { stage: "score", reason: MODEL_REFUSED, message: &why, topic, partition, offset };
                let original = Original { headers: record.headers.clone(), ..Original::default() };
                let kept = Kept::Within(batch.record_bytes(&self.settings.rejects, self.settings.max_record_bytes));
                step.messages.push(reject(&self.settings.rejects, partition, &cause, original, kept));
                Fate { name: "rejected", reason: MODEL_REFUSED }
            }
        };
        for fate in [Fate::of("read"), fate] {
            *step.fates.entry(fate).or_default() += 1;
        }
    }

    /// Makes the health rows of one record. The row of an account depends on its earlier rows. So the rows are
    /// evaluated and written in turns, and each account occurs only once in a turn.
    fn score(
        &self,
        models: &Models,
        windows: &Windows<'_>,
        record: &Record,
        fold: &mut Fold<'_>,
        fates: &mut Fates,
    ) -> Result<(), arrow::error::ArrowError> {
        let cases = windows.cases();
        let (mut ordinal, nothing) = (0, Memory::default());
        for turn in turns(&cases) {
            let befores = turn.iter().map(|case| fold.changes.account(fold.state, case.account_id));
            let befores: Vec<Option<&Account>> = befores.collect();
            let pasts = turn.iter().zip(&befores).map(|(case, before)| past_of(case, *before).unwrap_or(&nothing));
            let pasts: Vec<&Memory> = pasts.collect();
            let cases: Vec<CaseWithPast<'_>> =
                turn.iter().zip(&pasts).map(|(case, past)| CaseWithPast { case, past }).collect();
            let verdicts = evaluate(models, windows, &cases, self.settings.pane_us)?;
            let (mut changed, mut dropped) = (Vec::with_capacity(turn.len()), OpenDrops::new());
            for ((case, verdict), (before, past)) in turn.iter().zip(verdicts.iter()).zip(befores.iter().zip(&pasts)) {
                let fate = match verdict.rating.score {
                    _ if case.is_deleted => "deleted",
                    _ if case.left().is_some() => "left",
                    Some(_) => "scored",
                    None => "unscored",
                };
                *fates.entry(Fate::of("read")).or_default() += 1;
                *fates.entry(Fate::of(fate)).or_default() += 1;
                drops::count(&mut dropped, case, &verdict, past);
                let (row, account) = Row::of(case, &verdict, *before, past);
                let provenance = Provenance {
                    epoch: self.settings.epoch,
                    partition: record.topic_partition.partition,
                    next_offset: record.offset.next().0,
                    ordinal,
                };
                row.append(&mut fold.rows, provenance);
                fold.factors.push(case.is_scored().then_some((verdict.model, &verdict.rating)));
                ordinal += 1;
                changed.push((fold.changes.id(fold.state, case.account_id), account));
            }
            fold.changes.accounts.extend(changed);
            merge_drops(&mut fold.changes.drops, dropped, None);
        }
        Ok(())
    }

    /// Writes the rows with how far time has come. If time moved, one more record reports it after all rows.
    fn emit(
        &self,
        fold: &mut Fold<'_>,
        tp: &TopicPartition,
        max_bytes: usize,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let Fold { state, changes, rows, factors } = fold;
        let message = |value, progress: Option<&Progress>| Message {
            topic: Arc::clone(&self.settings.health),
            partition: tp.partition,
            timestamp_ms: None,
            key: None,
            value,
            headers: progress.map(Progress::header).into_iter().collect(),
        };
        let progress = changes.progress.as_ref().or(state.progress.as_ref());
        // Rows report how far time has come. Only the record after all rows may report that it is complete.
        let incomplete = progress.map(|progress| Progress { complete: false, ..progress.clone() });
        if rows.num_rows() > 0 {
            let rows = health::with_factors(&rows.finish()?, factors.finish()?)?;
            let fitted = codec::encode_fitting(&rows, max_bytes)?;
            let of_rows = |value| {
                let mut message = message(Some(value), incomplete.as_ref());
                message.headers.push((REPORTED_HEADER.to_owned(), Some(b"1".to_vec())));
                message
            };
            step.messages.extend(fitted.values.into_iter().map(of_rows));
            let accounts = rows.column_by_name("account_id").and_then(AsArray::as_string_opt::<i32>);
            for (fate, firsts) in [("thinned", fitted.thinned), ("unwritable", fitted.left_out)] {
                step.count(Fate::of(fate), firsts.len() as u64);
                for first in firsts {
                    let account = accounts.map_or("", |accounts| accounts.value(first));
                    step.notice(|| format!("{fate}: the health row of account {account:?} does not fit into {max_bytes} bytes; raise kafka.max_record_bytes, then `keepwell topics apply`"));
                }
            }
        }
        if changes.progress.is_some() && changes.progress != state.progress {
            step.messages.push(message(None, progress));
        }
        step.messages.extend(drops::reports(state, changes, tp.partition, &self.settings));
        Ok(())
    }
}

/// What score remembers from final rows before this row. A repeated row, or one that is older than the last final row,
/// is compared with nothing.
fn past_of<'p>(case: &Case<'_>, before: Option<&'p Account>) -> Option<&'p Memory> {
    before.filter(|account| !account.is_ahead_of(case)).map(|account| &account.memory)
}

/// Divides the accounts of a record into turns. No account occurs twice in a turn.
fn turns<'c>(cases: &'c [Case<'c>]) -> Vec<Vec<&'c Case<'c>>> {
    // The usual case: a slice of a close contains each account once.
    if !cases.is_empty() && cases.is_sorted_by(|a, b| a.account_id < b.account_id) {
        return vec![cases.iter().collect()];
    }
    let mut turns: Vec<Vec<&Case<'_>>> = Vec::new();
    let mut turn_of: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases {
        let turn = turn_of.entry(case.account_id).or_default();
        if turns.len() == *turn {
            turns.push(Vec::new());
        }
        if let Some(turn) = turns.get_mut(*turn) {
            turn.push(case);
        }
        *turn += 1;
    }
    turns
}

impl Stage for Score {
    type State = State;
    type Changes = Changes;

    fn name(&self) -> &'static str {
        "score"
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn apply(&self, state: &State, batch: &Batch<'_>) -> Result<Step<Changes>, StageError> {
        let mut step = Step::default();
        for tp in batch.records.keys() {
            if let Some(partition) = state.get(tp) {
                self.fold(partition, tp, batch, &mut step)?;
            }
        }
        Ok(step)
    }

    fn merge(&self, state: &mut State, changes: Changes) {
        for (tp, changes) in changes {
            state.entry(tp).or_default().merge(changes);
        }
    }

    fn restore(
        &self,
        state: &mut State,
        partition: &TopicPartition,
        _position: Position,
        snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError> {
        let restored = match snapshot {
            None => {
                PartitionState { models: Models::beginning_with(&self.settings.model), ..PartitionState::default() }
            }
            Some(whole) => {
                let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
                snapshot::restored(whole, |text| self.settings.compiled("the model in the snapshot", text))
                    .map_err(refused)?
            }
        };
        if !restored.models.know(&self.settings.model.text) {
            let in_use = restored.models.newest().map(|model| model.version);
            warn!(%partition, configured = self.settings.model.version, in_use, "score.model is not the model in use: `keepwell model apply` makes it take over");
        }
        state.insert(partition.clone(), restored);
        Ok(())
    }

    fn forget(&self, state: &mut State, partition: &TopicPartition) {
        state.remove(partition);
    }

    fn gauges(&self, state: &State, partition: &TopicPartition) -> Gauges {
        let shown = |state: &PartitionState| Gauges {
            watermark_us: state.progress.as_ref().and_then(|progress| progress.watermark_us),
            num_accounts: Some(state.accounts.len()),
            model_version: state.model_version(),
            ..Gauges::default()
        };
        state.get(partition).map(shown).unwrap_or_default()
    }

    fn snapshot(&self, state: &State, partition: &TopicPartition, known: &SavedRevisions) -> Result<Parts, StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let state = state.get(partition).ok_or_else(|| refused("there is no state".into()))?;
        snapshot::parts(state, known).map_err(|error| refused(error.to_string()))
    }
}
