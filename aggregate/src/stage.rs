//! The aggregate stage: reads `events`, writes `windows`, `feature_days` and `revenue`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use keepwell_core::codec;
use keepwell_core::offset::{NextOffset, Position, TopicPartition};
use keepwell_core::schema::window;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Message;
use keepwell_pipeline::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use keepwell_pipeline::stage::Gauges;
use keepwell_pipeline::stage::{Batch, Fate, Stage, StageError, Step, add_fates};
use keepwell_pipeline::suspect::{self, PANES_HEADER, PanesEnded};
use keepwell_pipeline::watermark::Progress;

use crate::account::Account;
use crate::close::close;
use crate::fold::Fold;
use crate::measure::{Provenance, RowKind, RowOf, append_row};
use crate::settings::Settings;
use crate::snapshot;
use crate::state::{AcceptedRows, Changes, PartitionChanges, PartitionState, State};
use keepwell_core::interned::{Name, Names};

/// Ordinals of live rows begin here: above all final rows at the same offset.
const LIVE_ORDINAL: i64 = 1 << 40;
/// Users plus features. An account of this size gets a live row only every second tick; of twice this size every third.
const HUGE: usize = 20_000;
/// The most accounts that get a live row in one step. The others follow in the next step or, while a backlog waits, at
/// the next tick.
const LIVE_ACCOUNTS: usize = 2000;

/// Rows that were written without their nullable long texts, lists and maps, because they did not fit into a record.
const THINNED: Fate = Fate::of("thinned");
/// Rows that were not written, because even without these columns they did not fit.
const UNWRITABLE: Fate = Fate::of("unwritable");
/// Facts and outcomes that did not fit into the rows of their account.
const LEFT_OUT: Fate = Fate::of("left_out");

/// The table that rows belong to.
#[derive(Debug, Clone, Copy)]
enum Table {
    Windows,
    FeatureDays,
    Revenue,
}

fn notice_left_out(account: &str, left_out: i64, step: &mut Step<Changes>) {
    step.count(LEFT_OUT, left_out.unsigned_abs());
    if left_out > 0 {
        step.notice(|| {
            format!("left_out: {left_out} facts or outcomes of account {account:?} do not fit into its rows")
        });
    }
}

/// The aggregate stage.
#[derive(Debug)]
pub struct Aggregate {
    settings: Settings,
}

/// A partition in a step: its state and its position.
#[derive(Debug, Clone, Copy)]
struct Partition<'p> {
    state: &'p PartitionState,
    tp: &'p TopicPartition,
    position: Position,
}

/// Where rows go, and the time that their records report.
struct Output<'o> {
    table: Table,
    partition: i32,
    progress: &'o Progress,
}

impl Aggregate {
    /// The stage as configured.
    pub fn new(config: &Config) -> Self {
        Self { settings: Settings::new(config) }
    }

    /// The same stage, with slices of about this many rows. Simulations use it, so that a small deployment also closes
    /// in many slices.
    pub fn with_slices_of(mut self, rows: usize) -> Self {
        self.settings.slice_rows = rows;
        self
    }

    /// The same stage, with this key for the hash that replaces an erased user id.
    pub fn with_erasure_key(mut self, key: [u8; 16]) -> Self {
        self.settings.erasure_key = key;
        self
    }

    /// Event ids are exact and none may be dropped. Above the limit the stage accepts nothing more.
    fn check_memory(&self, state: &State) -> Result<(), StageError> {
        let num_bytes: u64 = state.values().map(|partition| partition.event_ids.num_bytes()).sum();
        if num_bytes <= self.settings.max_id_bytes {
            return Ok(());
        }
        let num_ids: usize = state.values().map(|partition| partition.event_ids.len()).sum();
        Err(StageError::Memory(format!(
            "{num_ids} event ids of {} partitions take {num_bytes} bytes, above duplicates.max_bytes = {}: start more processes of \
             aggregate, raise it, or lower time.lateness in a new epoch",
            state.len(),
            self.settings.max_id_bytes
        )))
    }

    /// Folds records until none is left or a close begins.
    fn fold(&self, mut of: Partition<'_>, batch: &Batch<'_>, step: &mut Step<Changes>) -> Result<(), StageError> {
        let Partition { state, tp, .. } = of;
        let records = batch.records.get(tp).copied().unwrap_or_default();
        let mut fold = Fold::new(
            &self.settings,
            state,
            batch.record_bytes(&self.settings.rejects, self.settings.max_record_bytes),
        );
        for record in records {
            fold.record(record)?;
            if fold.changes.closing.is_some() {
                of.position = Position { slice: 1, ..Position::at(NextOffset(record.offset.0)) };
                break;
            }
            of.position = Position::at(record.offset.next());
        }
        step.messages.append(&mut fold.rejects);
        add_fates(&mut step.fates, &fold.fates);
        for words in std::mem::take(&mut fold.notices) {
            step.notice(|| words);
        }
        let is_closing = fold.changes.closing.is_some();
        step.has_more |= is_closing;
        let mut changes = fold.changes;
        if batch.is_early && !is_closing {
            changes.tick = batch.tick;
            self.live_rows(of, batch, &mut changes, step)?;
        }
        if let Some(ended) = changes.ended.take() {
            let watermark_us = changes.watermarks.as_ref().unwrap_or(&state.watermarks).watermark_us();
            let progress = Progress { watermark_us, complete: false };
            self.send_ended(&ended, tp.partition, &progress, step);
        }
        if !is_closing {
            self.send_completion(of, &mut changes, step);
        }
        if !records.is_empty() || !changes.sent.is_empty() {
            step.positions.insert(tp.clone(), of.position);
            step.changes.insert(tp.clone(), changes);
        }
        Ok(())
    }

    /// Sends the current rows of accounts that changed and do not have to wait for a tick.
    fn live_rows(
        &self,
        of: Partition<'_>,
        batch: &Batch<'_>,
        changes: &mut PartitionChanges,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let Partition { state, tp, position } = of;
        let mut live_due: BTreeMap<Name, Account> = BTreeMap::new();
        let dirty = changes.accepted.iter().flat_map(AcceptedRows::accounts).map(|(id, _)| id);
        for id in state.live_due.due(changes.tick).map(Name::as_str).chain(dirty) {
            if state.live_due.is_resting(id, changes.tick) || live_due.contains_key(id) {
                continue;
            }
            let known = state.accounts.get(id);
            // Each row of a huge account is counted from the start, so such an account skips ticks.
            let interval = 1 + (known.map_or(0, Account::size) / HUGE) as u64;
            if interval > 1 && !changes.tick.is_multiple_of(interval) && !batch.is_last {
                continue;
            }
            if live_due.len() == LIVE_ACCOUNTS {
                step.has_more = true;
                break;
            }
            live_due.insert(Name::from(id), known.cloned().unwrap_or_default());
        }
        if live_due.is_empty() {
            return Ok(());
        }
        let mut names = Names::default();
        for (id, events) in changes.accepted.iter().flat_map(AcceptedRows::accounts) {
            if let Some(account) = live_due.get_mut(id) {
                events.for_each(|event| account.apply(&event, state.closed, &self.settings, &mut names));
            }
        }
        let watermark_us = changes.watermarks.as_ref().unwrap_or(&state.watermarks).watermark_us();
        let open = watermark_us.map(|watermark_us| self.settings.panes.pane(watermark_us));
        let mut rows = window::Writer::new(&self.settings.layout);
        for (name, account) in live_due {
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
                // As at the close of the pane: an event of a retired account makes no row.
                if retired.is_some() || is_deleted {
                    let left_out = append_row(
                        &mut rows,
                        &view,
                        RowOf { account_id: name.as_str(), kind, provenance },
                        &self.settings,
                    );
                    notice_left_out(name.as_str(), left_out, step);
                }
            }
            changes.sent.push(name);
        }
        let progress = Progress { watermark_us, complete: changes.is_completion_sent };
        self.push_rows(
            &rows.finish()?,
            Output { table: Table::Windows, partition: tp.partition, progress: &progress },
            batch,
            step,
        )
    }

    /// Reports downstream, once and after all rows, that every source is complete.
    fn send_completion(&self, of: Partition<'_>, changes: &mut PartitionChanges, step: &mut Step<Changes>) {
        let Partition { state, tp, .. } = of;
        let watermarks = changes.watermarks.as_ref().unwrap_or(&state.watermarks);
        if watermarks.is_complete() && !changes.is_completion_sent {
            changes.is_completion_sent = true;
            let progress = Progress { watermark_us: watermarks.watermark_us(), complete: true };
            let settings = &self.settings;
            for topic in [&settings.windows_topic, &settings.feature_days_topic, &settings.revenue_topic] {
                step.messages.push(self.progress_message(topic, tp.partition, &progress));
            }
        }
    }

    /// Reports downstream, after all rows, that panes have ended.
    fn send_ended(&self, ended: &PanesEnded, partition: i32, progress: &Progress, step: &mut Step<Changes>) {
        for piece in ended.clone().pieces() {
            let mut message = self.progress_message(&self.settings.windows_topic, partition, progress);
            message.headers.push(suspect::header(PANES_HEADER, &piece));
            step.messages.push(message);
        }
    }

    /// Goes on with a close.
    fn close(&self, of: Partition<'_>, batch: &Batch<'_>, step: &mut Step<Changes>) -> Result<(), StageError> {
        let Partition { state, tp, position } = of;
        let Some(closing) = state.closing.clone() else { return Ok(()) };
        let (closing_to, suspect) = (closing.to, closing.suspect.clone());
        let next = NextOffset(position.next.0 + 1);
        let watermark_us = state.watermarks.watermark_us();
        let provenance = Provenance { partition: tp.partition, next_offset: next.0, ordinal: 0, watermark_us };
        let slices = close(state, closing, provenance, batch.max_slices, &self.settings)?;
        for (name, left_out) in &slices.left_out {
            notice_left_out(name.as_str(), *left_out, step);
        }
        let mut changes = PartitionChanges {
            closed: slices.closed,
            closing: slices.closing,
            accounts: slices.accounts,
            is_completion_sent: state.is_completion_sent,
            ..PartitionChanges::default()
        };
        let progress = Progress { watermark_us, complete: false };
        for (table, rows) in [
            (Table::FeatureDays, &slices.feature_days),
            (Table::Revenue, &slices.revenue),
            (Table::Windows, &slices.windows),
        ] {
            self.push_rows(rows, Output { table, partition: tp.partition, progress: &progress }, batch, step)?;
        }
        let position = match &changes.closing {
            Some(closing) => Position { slice: closing.slice, ..position },
            None => {
                let ended_us = self.settings.panes.end_us(closing_to);
                self.send_ended(&PanesEnded { ended_us, suspect }, tp.partition, &progress, step);
                self.send_completion(of, &mut changes, step);
                Position::at(next)
            }
        };
        step.has_more = true;
        step.positions.insert(tp.clone(), position);
        step.changes.insert(tp.clone(), changes);
        Ok(())
    }

    /// Writes rows as records. A row that is too large for a record loses its nullable long texts, lists and maps, or is not
    /// written. Both are counted.
    fn push_rows(
        &self,
        rows: &RecordBatch,
        to: Output<'_>,
        batch: &Batch<'_>,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let Output { table, partition, progress } = to;
        let topic = match table {
            Table::Windows => &self.settings.windows_topic,
            Table::FeatureDays => &self.settings.feature_days_topic,
            Table::Revenue => &self.settings.revenue_topic,
        };
        let max_bytes = batch.record_bytes(topic, self.settings.max_record_bytes);
        let fitted = codec::encode_fitting(rows, max_bytes)?;
        for value in fitted.values {
            let message = self.progress_message(topic, partition, progress);
            step.messages.push(Message { value: Some(value), ..message });
        }
        let accounts = rows.column_by_name("account_id").and_then(AsArray::as_string_opt::<i32>);
        for (fate, firsts) in [(THINNED, fitted.thinned), (UNWRITABLE, fitted.left_out)] {
            step.count(fate, firsts.len() as u64);
            for first in firsts {
                step.notice(|| {
                    let account = accounts.map_or("", |accounts| accounts.value(first));
                    format!(
                        "{}: rows of account {account:?} for {topic} do not fit into {max_bytes} bytes; raise kafka.max_record_bytes, \
                         then `keepwell topics apply`",
                        fate.name
                    )
                });
            }
        }
        Ok(())
    }

    /// A record without rows that reports how far time has come.
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
        let mut step = Step::default();
        for (tp, position) in &batch.positions {
            let Some(state) = state.get(tp) else { continue };
            let of = Partition { state, tp, position: *position };
            if state.closing.is_some() {
                self.close(of, batch, &mut step)?;
            } else {
                self.fold(of, batch, &mut step)?;
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
        snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let restored = match snapshot {
            None => PartitionState::default(),
            Some(whole) => {
                let (mut restored, fingerprint) = snapshot::restored(whole, self.settings.panes).map_err(refused)?;
                restored.find_large(&self.settings);
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
            num_ids: Some(state.event_ids.len()),
            id_bytes: Some(state.event_ids.num_bytes()),
            id_max_bytes: Some(self.settings.max_id_bytes),
            source_shares: state
                .watermarks
                .watermark_us()
                .map_or_else(Vec::new, |watermark_us| state.feeds.shares(watermark_us, &self.settings.suspect)),
            ..Gauges::default()
        };
        state.get(partition).map(shown).unwrap_or_default()
    }

    fn snapshot(&self, state: &State, partition: &TopicPartition, known: &SavedRevisions) -> Result<Parts, StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let state = state.get(partition).ok_or_else(|| refused("there is no state".into()))?;
        snapshot::parts(state, &self.settings.fingerprint, known).map_err(|error| refused(error.to_string()))
    }

    fn saved(&self, state: &mut State, partition: &TopicPartition, known: &SavedRevisions) {
        if let Some(state) = state.get_mut(partition) {
            state.event_ids.saved(known);
        }
    }
}
