//! The fold: one record of `events` into the state of its partition.
//!
//! Its rows are judged by the watermark before it, then its statement moves the watermark, then panes
//! close (see `close`). A row's fate is one word:
//!
//! | fate | when |
//! |---|---|
//! | `too_late` | its pane has closed for longer than the allowed lateness, and it is no fact |
//! | `duplicate` | its id was seen and the pane of that sighting is not forgotten |
//! | `deleted` | its pane has closed and the account was deleted after it |
//! | `late` | its pane has closed: it counts in the windows still to close |
//! | `on_time` | otherwise |

use std::sync::Arc;

use pipeline::codec;
use pipeline::event::{Body, Event, Origin};
use pipeline::log::{Message, Record};
use pipeline::pane::Pane;
use pipeline::reject::{Cause, reject};
use pipeline::schema::event::{EventRows, schema};
use pipeline::stage::{Fate, Fates, StageError};
use pipeline::watermark::{STATEMENT_HEADER, Statement};

use crate::account::{Account, is_erased};
use crate::seen::event_key;
use crate::settings::Settings;
use crate::state::{AcceptedRows, Closing, PartitionChanges, PartitionState};

const READ: Fate = Fate::of("read");
const ON_TIME: Fate = Fate::of("on_time");
const LATE: Fate = Fate::of("late");
const DUPLICATE: Fate = Fate::of("duplicate");
const TOO_LATE: Fate = Fate::of("too_late");
const DELETED: Fate = Fate::of("deleted");
/// What can become of an event.
const FATES: [Fate; 5] = [ON_TIME, LATE, DUPLICATE, TOO_LATE, DELETED];

/// The fold of the records of one partition within one step.
pub struct Fold<'f> {
    settings: &'f Settings,
    state: &'f PartitionState,
    /// What has changed so far.
    pub changes: PartitionChanges,
    /// Ids seen in this step, for look-up.
    seen: std::collections::HashMap<u128, Pane, foldhash::fast::FixedState>,
    /// Last deletion in this step, by account.
    deleted_us: std::collections::HashMap<String, i64, foldhash::fast::FixedState>,
    /// The first pane of any event accepted in this step.
    least_pane: Option<Pane>,
    /// What became of the rows.
    pub fates: Fates,
    /// Records for the reject topic.
    pub rejects: Vec<Message>,
}

impl<'f> Fold<'f> {
    /// A fold that has changed nothing yet.
    pub fn new(settings: &'f Settings, state: &'f PartitionState) -> Self {
        let changes = PartitionChanges {
            closing: state.closing.clone(),
            is_complete_told: state.is_complete_told,
            ..PartitionChanges::default()
        };
        Self {
            settings,
            state,
            changes,
            seen: std::collections::HashMap::default(),
            deleted_us: std::collections::HashMap::default(),
            least_pane: None,
            fates: Fates::new(),
            rejects: Vec::new(),
        }
    }

    /// The watermark so far.
    pub fn watermark_us(&self) -> Option<i64> {
        self.changes.watermarks.as_ref().unwrap_or(&self.state.watermarks).watermark_us()
    }

    fn closed(&self) -> Option<Pane> {
        self.changes.closed.or(self.state.closed)
    }

    /// Folds one record. Afterwards a close may be under way.
    ///
    /// # Errors
    /// [`StageError::Record`] when the record is not of this table or its statement is not understood.
    pub fn record(&mut self, record: &Record) -> Result<(), StageError> {
        let wrong = |why: String| StageError::Record {
            topic_partition: record.topic_partition.clone(),
            offset: record.offset.0,
            why,
        };
        if let Some(value) = &record.value {
            let batch = codec::decode_shared(value, &schema()).map_err(|error| wrong(error.to_string()))?;
            let rows = EventRows::new(&batch);
            let keys: Vec<u128> =
                (0..rows.len()).map(|row| event_key(rows.account_id(row), rows.event_id(row))).collect();
            let sighted = self.state.seen.panes(&keys);
            self.seen.reserve(rows.len());
            let mut accepted = Vec::with_capacity(rows.len());
            let mut counts = FATES.map(|fate| (fate, 0));
            for (row, (key, sighted)) in keys.into_iter().zip(sighted).enumerate() {
                let event = rows.event(row).map_err(|error| wrong(error.to_string()))?;
                let fate = self.event(&event, key, sighted);
                counts.iter_mut().filter(|(counted, _)| *counted == fate).for_each(|(_, count)| *count += 1);
                match fate {
                    TOO_LATE => self.reject(&event, rows.origin(row)),
                    ON_TIME | LATE => accepted.push(row),
                    _ => {}
                }
            }
            *self.fates.entry(READ).or_default() += rows.len() as u64;
            for (fate, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                *self.fates.entry(fate).or_default() += count;
            }
            if !accepted.is_empty() {
                self.changes.accepted.push(AcceptedRows::new(batch, accepted, self.closed()));
            }
        }
        if let Some(header) = record.header(STATEMENT_HEADER) {
            let statement: Statement = serde_json::from_slice(header).map_err(|error| {
                wrong(format!("header {STATEMENT_HEADER}: {error}; was it written by a newer Keepwell?"))
            })?;
            self.hear(&statement);
        }
        Ok(())
    }

    /// The fate of an event whose id is `key` and was last sighted before this step in the pane `sighted`.
    fn event(&mut self, event: &Event<'_>, key: u128, sighted: Option<Pane>) -> Fate {
        let settings = self.settings;
        let pane = settings.panes.pane(event.occurred_us);
        let watermark_us = self.watermark_us();
        let is_closed = self.closed().is_some_and(|closed| pane <= closed);
        let is_forgotten = |pane| watermark_us.is_some_and(|watermark_us| settings.is_forgotten(pane, watermark_us));
        let is_too_late = is_closed && is_forgotten(pane);
        if is_too_late && !event.body.is_fact() {
            return TOO_LATE;
        }
        let sighted = self.seen.get(&key).copied().max(sighted);
        if !is_too_late {
            self.seen.insert(key, sighted.map_or(pane, |before| before.max(pane)));
            self.changes.seen.push((key, pane, sighted));
        }
        if sighted.is_some_and(|pane| !is_forgotten(pane)) {
            return DUPLICATE;
        }
        let id = event.account_id.as_ref();
        // Most events are of an open pane: their account need not be looked up.
        if is_closed {
            let known_us = self.state.accounts.get(id).and_then(Account::deleted_us);
            let deleted_us = known_us.max(self.deleted_us.get(id).copied());
            if deleted_us.is_some_and(|deleted_us| is_erased(event, deleted_us, settings)) {
                return DELETED;
            }
        }
        if matches!(event.body, Body::Deleted) {
            let last_us = self.deleted_us.entry(id.to_owned()).or_insert(event.occurred_us);
            *last_us = event.occurred_us.max(*last_us);
        }
        self.least_pane = Some(self.least_pane.map_or(pane, |least| least.min(pane)));
        if is_closed { LATE } else { ON_TIME }
    }

    /// Moves time and, where panes end by then, starts their close.
    fn hear(&mut self, statement: &Statement) {
        let watermarks = self.changes.watermarks.get_or_insert_with(|| self.state.watermarks.clone());
        watermarks.hear(statement);
        self.changes.is_complete_told &= watermarks.is_complete();
        let Some(to) = watermarks.watermark_us().map(|us| self.settings.panes.last_closed(us)) else { return };
        if self.closed().is_some_and(|closed| closed >= to) {
            return;
        }
        let first = match self.closed() {
            Some(closed) => Some(closed.next()),
            None => self.first_pane(),
        };
        match first.filter(|first| *first <= to) {
            Some(pane) => self.changes.closing = Some(Closing { pane, to, after: None, slice: 1, ordinal: 0 }),
            None => self.changes.closed = Some(to),
        }
    }

    /// The first pane any account has been seen in.
    fn first_pane(&self) -> Option<Pane> {
        let known = self.state.accounts.values().filter_map(|account| account.oldest_pane(self.settings));
        known.chain(self.least_pane).min()
    }

    fn reject(&mut self, event: &Event<'_>, origin: Origin<'_>) {
        let watermark_us = self.watermark_us().unwrap_or_default();
        let message = format!(
            "too_late: event time {} us, watermark {watermark_us} us, allowed lateness {} us{}",
            event.occurred_us,
            self.settings.lateness_us,
            if origin.payload.is_none() { "; the bytes are at the origin only" } else { "" },
        );
        let cause = Cause {
            stage: "aggregate",
            reason: "too_late",
            message: &message,
            topic: origin.topic,
            partition: origin.partition,
            offset: origin.offset,
        };
        let value = origin.payload.map(<[u8]>::to_vec);
        let topic: &Arc<str> = &self.settings.rejects;
        // Rejects are spread as ingest's are: by the partition they came from.
        let partition = origin.partition % self.settings.partitions;
        self.rejects.push(reject(topic, partition, &cause, None, value, Vec::new()));
    }
}
