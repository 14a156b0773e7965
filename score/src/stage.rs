//! The score stage: `windows` to `health`.

use std::collections::BTreeMap;
use std::sync::Arc;

use pipeline::codec;
use pipeline::config::Config;
use pipeline::log::{Message, Record};
use pipeline::metrics::Gauges;
use pipeline::offset::{NextOffset, Position, TopicPartition};
use pipeline::schema::{RowBuilder, health, window};
use pipeline::stage::{Batch, Fate, Fates, Stage, StageError, Step};
use pipeline::watermark::Progress;
use serde::{Deserialize, Serialize};

use crate::compile::Compiled;
use crate::evaluate::{Scene, evaluate};
use crate::model::ModelError;
use crate::settings::Settings;
use crate::state::{Account, Changes, Memory, PartitionChanges, PartitionState, STATE_VERSION, State};
use crate::table_tests;
use crate::verdict_row::{Provenance, Row};
use crate::windows::{Case, Windows};

/// The score stage.
#[derive(Debug)]
pub struct Score {
    settings: Settings,
}

/// The rows of a partition in the making, and what they change.
struct Fold<'s> {
    state: &'s PartitionState,
    changes: PartitionChanges,
    rows: RowBuilder,
}

/// The bytes of a snapshot: version, the model file the state was folded with, state.
#[derive(Serialize, Deserialize)]
struct Saved<S> {
    version: u32,
    model: String,
    state: S,
}

impl Score {
    /// The stage as configured.
    ///
    /// # Errors
    /// [`ModelError`] naming file, line and column of what is wrong in the model file.
    pub fn new(config: &Config) -> Result<Self, ModelError> {
        Ok(Self { settings: Settings::new(config)? })
    }

    /// Runs the tests beside the configured model file, where there are any; how many.
    ///
    /// # Errors
    /// [`ModelError`] naming the first that fails.
    pub fn test_model(&self, config: &Config) -> Result<usize, ModelError> {
        let tests = config.score.model.as_deref().map(table_tests::beside).filter(|path| path.exists());
        tests.map_or(Ok(0), |path| table_tests::run(&path, &self.settings.model, &self.settings.periods))
    }

    /// Folds the records of one partition.
    fn fold(
        &self,
        state: &PartitionState,
        tp: &TopicPartition,
        records: &[Record],
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let Some(last) = records.last() else { return Ok(()) };
        let mut fold = Fold { state, changes: PartitionChanges::default(), rows: health::builder() };
        for record in records {
            let refused = |why: String| StageError::Record {
                topic_partition: record.topic_partition.clone(),
                offset: record.offset.0,
                why,
            };
            let progress = Progress::of(record).map_err(|error| refused(error.to_string()))?;
            fold.changes.progress = progress.or(fold.changes.progress);
            let Some(value) = &record.value else { continue };
            let batch = codec::decode(value, &window::schema()).map_err(|error| refused(error.to_string()))?;
            let model = match &state.earlier {
                Some((until, earlier)) if record.offset.0 < until.0 => earlier,
                _ => &self.settings.model,
            };
            let windows = Windows::of(&batch)?;
            self.score(model, &windows, record, &mut fold, &mut step.fates)
                .map_err(|error| refused(error.to_string()))?;
        }
        self.emit(&mut fold, tp, step)?;
        step.positions.insert(tp.clone(), Position::at(last.offset.next()));
        step.changes.insert(tp.clone(), fold.changes);
        Ok(())
    }

    /// The health rows of one record, in the order of its accounts. What an account's row says depends on its rows
    /// before: so the rows are evaluated in turns, in each of which an account appears once.
    fn score(
        &self,
        model: &Compiled,
        windows: &Windows<'_>,
        record: &Record,
        fold: &mut Fold<'_>,
        fates: &mut Fates,
    ) -> Result<(), arrow::error::ArrowError> {
        let cases = windows.cases();
        let (mut rows, nothing) = (BTreeMap::new(), Memory::default());
        for turn in turns(&cases) {
            let befores = turn.iter().map(|(_, case)| fold.changes.account(fold.state, case.account_id));
            let befores: Vec<Option<&Account>> = befores.collect();
            let pasts = turn.iter().zip(&befores).map(|((_, case), before)| past_of(case, *before).unwrap_or(&nothing));
            let pasts: Vec<&Memory> = pasts.collect();
            let scenes: Vec<Scene<'_>> =
                turn.iter().zip(&pasts).map(|((_, case), past)| Scene { case, past }).collect();
            let verdicts = evaluate(model, windows, &scenes, self.settings.pane_us)?;
            let mut changed = Vec::with_capacity(turn.len());
            for (((index, case), verdict), (before, past)) in turn.iter().zip(verdicts).zip(befores.iter().zip(&pasts))
            {
                let fate = match verdict.rating.score {
                    _ if case.is_deleted => "deleted",
                    Some(_) => "scored",
                    None => "unscored",
                };
                *fates.entry(Fate::of("read")).or_default() += 1;
                *fates.entry(Fate::of(fate)).or_default() += 1;
                let (row, account) = Row::of(case, verdict, model.version, *before, past);
                changed.push((case.account_id.to_owned(), account));
                rows.insert(*index, row);
            }
            fold.changes.accounts.extend(changed);
        }
        for (ordinal, row) in (0..).zip(rows.values()) {
            let provenance = Provenance {
                epoch: self.settings.epoch,
                partition: record.topic_partition.partition,
                next_offset: record.offset.next().0,
                ordinal,
            };
            row.append(&mut fold.rows, provenance);
        }
        Ok(())
    }

    /// Rows, and how far time has come; the latter alone where it moved without rows.
    fn emit(&self, fold: &mut Fold<'_>, tp: &TopicPartition, step: &mut Step<Changes>) -> Result<(), StageError> {
        let Fold { state, changes, rows } = fold;
        let message = |value, progress: Option<&Progress>| Message {
            topic: Arc::clone(&self.settings.health),
            partition: tp.partition,
            timestamp_ms: None,
            key: None,
            value,
            headers: progress.map(Progress::header).into_iter().collect(),
        };
        let progress = changes.progress.as_ref().or(state.progress.as_ref());
        // Rows say how far time has come, but only a record behind all of them says that it is complete.
        let incomplete = progress.map(|progress| Progress { complete: false, ..progress.clone() });
        if rows.num_rows() > 0 {
            let values = codec::encode_split(&rows.finish()?, 1, self.settings.max_record_bytes)?;
            step.messages.extend(values.into_iter().map(|value| message(Some(value), incomplete.as_ref())));
        }
        if changes.progress.is_some() && changes.progress != state.progress {
            step.messages.push(message(None, progress));
        }
        Ok(())
    }
}

/// What final rows before a row left behind. What is told again, or late behind a newer final row, is compared with
/// nothing.
fn past_of<'p>(case: &Case<'_>, before: Option<&'p Account>) -> Option<&'p Memory> {
    before.filter(|account| !account.is_ahead_of(case)).map(|account| &account.memory)
}

/// The accounts of a record in turns, each with its place: no account appears twice in one.
fn turns<'c>(cases: &'c [Case<'c>]) -> Vec<Vec<(usize, &'c Case<'c>)>> {
    let mut turns: Vec<Vec<(usize, &Case<'_>)>> = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        let turn = seen.entry(case.account_id).or_default();
        if turns.len() == *turn {
            turns.push(Vec::new());
        }
        if let Some(turn) = turns.get_mut(*turn) {
            turn.push((index, case));
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
        let mut step = Step {
            messages: Vec::new(),
            positions: BTreeMap::new(),
            changes: Changes::new(),
            fates: Fates::new(),
            has_more: false,
        };
        for (tp, records) in &batch.records {
            if let Some(partition) = state.get(tp) {
                self.fold(partition, tp, records, &mut step)?;
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
        until: Position,
        snapshot: Option<&[u8]>,
    ) -> Result<(), StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let restored = match snapshot {
            None => PartitionState::default(),
            Some(bytes) => {
                let version: u32 = postcard::take_from_bytes(bytes).map_err(|e| refused(e.to_string()))?.0;
                if version != STATE_VERSION {
                    return Err(refused(format!(
                        "its state has version {version}, this program reads {STATE_VERSION}"
                    )));
                }
                let saved: Saved<PartitionState> = postcard::from_bytes(bytes).map_err(|e| refused(e.to_string()))?;
                let earlier = self.earlier(&saved.model, until.next).map_err(|e| refused(e.to_string()))?;
                PartitionState { earlier, ..saved.state }
            }
        };
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
            ..Gauges::default()
        };
        state.get(partition).map(shown).unwrap_or_default()
    }

    fn snapshot(&self, state: &State, partition: &TopicPartition) -> Result<Vec<u8>, StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let state = state.get(partition).ok_or_else(|| refused("there is no state".into()))?;
        let saved = Saved { version: STATE_VERSION, model: self.settings.model.text.clone(), state };
        postcard::to_stdvec(&saved).map_err(|error| refused(error.to_string()))
    }
}

impl Score {
    /// The model of a snapshot, where it is not the one of now: what was committed is scored with it again.
    fn earlier(&self, text: &str, until: NextOffset) -> Result<Option<(NextOffset, Arc<Compiled>)>, ModelError> {
        if text == self.settings.model.text {
            return Ok(None);
        }
        let compiled = Compiled::parse("the model in the snapshot", text, &self.settings.periods)?;
        Ok(Some((until, Arc::new(compiled))))
    }
}
