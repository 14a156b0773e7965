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
use crate::evaluate::evaluate;
use crate::explain::{Provenance, append_row};
use crate::model::ModelError;
use crate::settings::Settings;
use crate::state::{Changes, PartitionChanges, PartitionState, STATE_VERSION, State};
use crate::windows::Windows;

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

    /// The health rows of one record.
    fn score(
        &self,
        model: &Compiled,
        windows: &Windows<'_>,
        record: &Record,
        fold: &mut Fold<'_>,
        fates: &mut Fates,
    ) -> Result<(), arrow::error::ArrowError> {
        let cases = windows.cases();
        let verdicts = evaluate(model, windows, &cases)?;
        for ((case, verdict), ordinal) in cases.iter().zip(&verdicts).zip(0..) {
            let fate = match verdict.rating.score {
                _ if case.is_deleted => "deleted",
                Some(_) => "scored",
                None => "unscored",
            };
            *fates.entry(Fate::of("read")).or_default() += 1;
            *fates.entry(Fate::of(fate)).or_default() += 1;
            let provenance = Provenance {
                epoch: self.settings.epoch,
                partition: record.topic_partition.partition,
                next_offset: record.offset.next().0,
                ordinal,
            };
            let before = fold.changes.account(fold.state, case.account_id);
            let account = append_row(&mut fold.rows, case, verdict, model, before, provenance);
            fold.changes.accounts.insert(case.account_id.to_owned(), account);
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
