//! The aggregate stage: `events` to `windows` and `feature_days`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use pipeline::codec;
use pipeline::config::Config;
use pipeline::log::{Message, Record};
use pipeline::metrics::Gauges;
use pipeline::offset::{NextOffset, Position, TopicPartition};
use pipeline::piece::{Known, Pieces, Whole};
use pipeline::schema::window;
use pipeline::stage::{Batch, Fates, Stage, StageError, Step, add_fates};
use pipeline::watermark::Progress;

use crate::account::Account;
use crate::close::close;
use crate::fold::Fold;
use crate::measure::{Provenance, RowKind, append_rows};
use crate::saved;
use crate::settings::Settings;
use crate::state::{AcceptedRows, Changes, PartitionChanges, PartitionState, State};
use pipeline::name::{Name, Names};

/// Live rows are numbered from here: above every final row of the same offset.
const LIVE_ORDINAL: i64 = 1 << 40;
/// Most accounts whose live rows are sent in one step; the others follow at once or, while more waits than a
/// step takes, with the next tick.
const LIVE_ACCOUNTS: usize = 2000;

/// The aggregate stage.
#[derive(Debug)]
pub struct Aggregate {
    settings: Settings,
}

impl Aggregate {
    /// The stage as configured.
    pub fn new(config: &Config) -> Self {
        Self { settings: Settings::new(config) }
    }

    /// The same with slices of about so many rows: a small deployment closes in many slices too, for simulations.
    pub fn with_slices_of(mut self, rows: usize) -> Self {
        self.settings.slice_rows = rows;
        self
    }

    /// Ids are exact and none may be dropped: beyond the bound nothing is taken any more.
    fn check_memory(&self, state: &State) -> Result<(), StageError> {
        let num_bytes: u64 = state.values().map(|partition| partition.seen.num_bytes()).sum();
        if num_bytes <= self.settings.max_id_bytes {
            return Ok(());
        }
        let num_ids: usize = state.values().map(|partition| partition.seen.len()).sum();
        Err(StageError::Memory(format!(
            "{num_ids} event ids of {} partitions take {num_bytes} bytes, above duplicates.max_bytes = {}: start more processes of \
             aggregate, raise it, or lower time.lateness in a new epoch",
            state.len(),
            self.settings.max_id_bytes
        )))
    }

    /// Folds records until they end or a close begins.
    fn fold(
        &self,
        state: &PartitionState,
        tp: &TopicPartition,
        position: Position,
        records: &[Record],
        step: &mut Step<Changes>,
        tick: Option<u64>,
    ) -> Result<(), StageError> {
        let mut fold = Fold::new(&self.settings, state);
        let mut position = position;
        for record in records {
            fold.record(record)?;
            if fold.changes.closing.is_some() {
                position = Position { slice: 1, ..Position::at(NextOffset(record.offset.0)) };
                break;
            }
            position = Position::at(record.offset.next());
        }
        step.messages.append(&mut fold.rejects);
        add_fates(&mut step.fates, &fold.fates);
        let is_closing = fold.changes.closing.is_some();
        step.has_more |= is_closing;
        let mut changes = fold.changes;
        if let Some(tick) = tick.filter(|_| !is_closing) {
            changes.tick = tick;
            self.live_rows(state, tp, position, &mut changes, step)?;
        }
        if !is_closing {
            self.tell_completion(state, tp, &mut changes, step);
        }
        if !records.is_empty() || !changes.sent.is_empty() {
            step.positions.insert(tp.clone(), position);
            step.changes.insert(tp.clone(), changes);
        }
        Ok(())
    }

    /// Sends the rows of accounts that changed and do not rest, as they are now.
    fn live_rows(
        &self,
        state: &PartitionState,
        tp: &TopicPartition,
        position: Position,
        changes: &mut PartitionChanges,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let mut awaiting: BTreeMap<Name, Account> = BTreeMap::new();
        let touched = changes.accepted.iter().flat_map(AcceptedRows::accounts).map(|(id, _)| id);
        for id in state.awaiting.due(changes.tick).map(Name::as_str).chain(touched) {
            if state.awaiting.is_resting(id, changes.tick) || awaiting.contains_key(id) {
                continue;
            }
            if awaiting.len() == LIVE_ACCOUNTS {
                step.has_more = true;
                break;
            }
            awaiting.insert(Name::from(id), state.accounts.get(id).cloned().unwrap_or_default());
        }
        if awaiting.is_empty() {
            return Ok(());
        }
        let mut names = Names::default();
        for (id, events) in changes.accepted.iter().flat_map(AcceptedRows::accounts) {
            if let Some(account) = awaiting.get_mut(id) {
                events.for_each(|event| account.apply(&event, &self.settings, &mut names));
            }
        }
        let watermark_us = changes.watermarks.as_ref().unwrap_or(&state.watermarks).watermark_us();
        let open = watermark_us.map(|watermark_us| self.settings.panes.pane(watermark_us));
        let mut rows = window::builder();
        for (name, account) in awaiting {
            if let Some(pane) = account.newest_pane(open, &self.settings) {
                let view = account.view(pane, &self.settings);
                let (retired, is_deleted) = (view.retired(&self.settings), !view.is_known());
                let kind = RowKind { is_final: false, is_retired: retired == Some(true), is_deleted };
                let provenance = Provenance {
                    partition: tp.partition,
                    next_offset: position.next.0,
                    ordinal: LIVE_ORDINAL + rows.num_rows() as i64,
                    watermark_us,
                };
                // As at the close of the pane: what is told of an account at rest brings no row.
                if retired.is_some() || is_deleted {
                    append_rows(&mut rows, name.as_str(), &view, kind, provenance, &self.settings);
                }
            }
            changes.sent.push(name);
        }
        let progress = Progress { watermark_us, complete: changes.is_complete_told };
        self.push_rows(
            &rows.finish()?,
            self.settings.windows.len(),
            &self.settings.windows_topic,
            tp.partition,
            &progress,
            step,
        )
    }

    /// Says downstream, once, that every source is complete; behind all rows.
    fn tell_completion(
        &self,
        state: &PartitionState,
        tp: &TopicPartition,
        changes: &mut PartitionChanges,
        step: &mut Step<Changes>,
    ) {
        let watermarks = changes.watermarks.as_ref().unwrap_or(&state.watermarks);
        if watermarks.is_complete() && !changes.is_complete_told {
            changes.is_complete_told = true;
            let progress = Progress { watermark_us: watermarks.watermark_us(), complete: true };
            step.messages.push(self.progress_message(&self.settings.windows_topic, tp.partition, &progress));
            step.messages.push(self.progress_message(&self.settings.feature_days_topic, tp.partition, &progress));
        }
    }

    /// Goes on with a close.
    fn close(
        &self,
        state: &PartitionState,
        tp: &TopicPartition,
        position: Position,
        max_slices: u32,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let Some(closing) = state.closing.clone() else { return Ok(()) };
        let next = NextOffset(position.next.0 + 1);
        let slices = close(state, closing, tp.partition, next.0, max_slices, &self.settings)?;
        let mut changes = PartitionChanges {
            closed: slices.closed,
            closing: slices.closing,
            accounts: slices.accounts,
            is_complete_told: state.is_complete_told,
            ..PartitionChanges::default()
        };
        let progress = Progress { watermark_us: state.watermarks.watermark_us(), complete: false };
        self.push_rows(&slices.feature_days, 1, &self.settings.feature_days_topic, tp.partition, &progress, step)?;
        self.push_rows(
            &slices.windows,
            self.settings.windows.len(),
            &self.settings.windows_topic,
            tp.partition,
            &progress,
            step,
        )?;
        let position = match &changes.closing {
            Some(closing) => Position { slice: closing.slice, ..position },
            None => {
                step.messages.push(self.progress_message(&self.settings.windows_topic, tp.partition, &progress));
                self.tell_completion(state, tp, &mut changes, step);
                Position::at(next)
            }
        };
        step.has_more = true;
        step.positions.insert(tp.clone(), position);
        step.changes.insert(tp.clone(), changes);
        Ok(())
    }

    /// Rows of an account at one time stay in one record: `score` needs all of its windows.
    fn push_rows(
        &self,
        batch: &RecordBatch,
        unit_rows: usize,
        topic: &Arc<str>,
        partition: i32,
        progress: &Progress,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        for value in codec::encode_split(batch, unit_rows, self.settings.max_record_bytes)? {
            let message = self.progress_message(topic, partition, progress);
            step.messages.push(Message { value: Some(value), ..message });
        }
        Ok(())
    }

    /// A record that says how far time has come, without rows.
    fn progress_message(&self, topic: &Arc<str>, partition: i32, progress: &Progress) -> Message {
        Message {
            topic: Arc::clone(topic),
            partition,
            timestamp_ms: None,
            key: None,
            value: None,
            headers: vec![progress.header()],
        }
    }
}

impl Stage for Aggregate {
    type State = State;
    type Changes = Changes;

    fn name(&self) -> &'static str {
        "aggregate"
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn apply(&self, state: &State, batch: &Batch<'_>) -> Result<Step<Changes>, StageError> {
        self.check_memory(state)?;
        let mut step = Step {
            messages: Vec::new(),
            positions: BTreeMap::new(),
            changes: Changes::new(),
            fates: Fates::new(),
            has_more: false,
        };
        for (tp, position) in &batch.positions {
            let Some(partition) = state.get(tp) else { continue };
            if partition.closing.is_some() {
                self.close(partition, tp, *position, batch.max_slices, &mut step)?;
            } else {
                let records = batch.records.get(tp).copied().unwrap_or_default();
                let tick = batch.is_early.then_some(batch.tick);
                self.fold(partition, tp, *position, records, &mut step, tick)?;
            }
        }
        Ok(step)
    }

    fn merge(&self, state: &mut State, changes: Changes) {
        for (tp, changes) in changes {
            state.entry(tp).or_default().merge(changes, &self.settings);
        }
    }

    fn restore(
        &self,
        state: &mut State,
        partition: &TopicPartition,
        _position: Position,
        _until: Position,
        snapshot: Option<&Whole>,
    ) -> Result<(), StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let restored = match snapshot {
            None => PartitionState::default(),
            Some(whole) => {
                let (restored, fingerprint) = saved::restored(whole).map_err(refused)?;
                if fingerprint != self.settings.fingerprint {
                    return Err(refused(format!(
                        "it was made with other settings, which are fixed for an epoch. Put them back, or raise `epoch` and rebuild.\n  then: {fingerprint}\n  now:  {}",
                        self.settings.fingerprint
                    )));
                }
                restored
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
            watermark_us: state.watermarks.watermark_us(),
            num_accounts: Some(state.accounts.len()),
            num_ids: Some(state.seen.len()),
            id_bytes: Some(state.seen.num_bytes()),
            ..Gauges::default()
        };
        state.get(partition).map(shown).unwrap_or_default()
    }

    fn snapshot(&self, state: &State, partition: &TopicPartition, known: &Known) -> Result<Pieces, StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let state = state.get(partition).ok_or_else(|| refused("there is no state".into()))?;
        saved::pieces(state, &self.settings.fingerprint, known).map_err(|error| refused(error.to_string()))
    }

    fn saved(&self, state: &mut State, partition: &TopicPartition, known: &Known) {
        if let Some(state) = state.get_mut(partition) {
            state.seen.saved(known);
        }
    }
}
