//! The fold: applies one record of `events` to the state of its partition.
//!
//! First the rows are judged by the watermark from before the record. Then the record's statement moves the watermark.
//! Then panes close, see `close`. The fate of a row is one word. The first line that applies decides:
//!
//! | fate | when |
//! |---|---|
//! | `too_late` | its pane closed longer ago than the allowed lateness, and it is not a fact, milestone or person |
//! | `duplicate` | its id is known, and the pane of that id is not forgotten |
//! | `deleted` | its pane has closed, and a known deletion of the account erases it |
//! | `over_limit` | it would take its account over a limit, such as facts, people or tickets |
//! | `late` | its pane has closed: it counts in the windows that close later |
//! | `on_time` | otherwise |

use std::sync::Arc;

use keepwell_core::codec;
use keepwell_core::event::{Body, Event, Kind, Origin};
use keepwell_core::pane::Pane;
use keepwell_core::schema::event::{EventRows, schema};
use keepwell_pipeline::record::{Message, Record};
use keepwell_pipeline::reject::{Cause, Kept, Original, reject};
use keepwell_pipeline::stage::{Fate, Fates, StageError};
use keepwell_pipeline::suspect::{HOUR_US, SuspectPane};
use keepwell_pipeline::watermark::{STATEMENT_HEADER, Statement};

use crate::account::{Account, is_erased};
use crate::dedup::event_key;
use crate::feeds::Feeds;
use crate::growth::Growth;
use crate::settings::Settings;
use crate::state::{AcceptedRows, Closing, PartitionChanges, PartitionState};

/// Hours since 1970 in which an event can happen: about the years 1900 to 2200.
const HOURS: std::ops::Range<i64> = -614_000..2_016_000;

const READ: Fate = Fate::of("read");
const ON_TIME: Fate = Fate::of("on_time");
const LATE: Fate = Fate::of("late");
const DUPLICATE: Fate = Fate::of("duplicate");
const TOO_LATE: Fate = Fate::of("too_late");
const DELETED: Fate = Fate::of("deleted");
/// Name of the fate of an event that is over a limit. The reason names the limit.
const OVER_LIMIT: &str = "over_limit";
/// The fates of an event, except over a limit.
const FATES: [Fate; 5] = [ON_TIME, LATE, DUPLICATE, TOO_LATE, DELETED];

/// The fold of the records of one partition within one step.
pub struct Fold<'f> {
    settings: &'f Settings,
    state: &'f PartitionState,
    /// Largest record to write, in bytes.
    max_record_bytes: usize,
    /// What the step has changed so far.
    pub changes: PartitionChanges,
    /// Ids that this step has read, with their pane, for look-up.
    event_ids: std::collections::HashMap<u128, Pane, foldhash::fast::RandomState>,
    /// The latest deletion in this step by account, UTC microseconds.
    deleted_us: std::collections::HashMap<String, i64, foldhash::fast::RandomState>,
    /// The oldest pane of any event that this step accepted.
    least_pane: Option<Pane>,
    /// How many rows have each fate.
    pub fates: Fates,
    /// Records for the reject topic.
    pub rejects: Vec<Message>,
    /// Messages for the operator.
    pub notices: Vec<String>,
    /// New names under limits that this step has accepted so far.
    growth: Growth,
}

impl<'f> Fold<'f> {
    /// A fold without changes.
    pub fn new(settings: &'f Settings, state: &'f PartitionState, max_record_bytes: usize) -> Self {
        let changes = PartitionChanges {
            closing: state.closing.clone(),
            is_completion_sent: state.is_completion_sent,
            ..PartitionChanges::default()
        };
        Self {
            settings,
            state,
            max_record_bytes,
            changes,
            event_ids: std::collections::HashMap::default(),
            deleted_us: std::collections::HashMap::default(),
            least_pane: None,
            fates: Fates::new(),
            rejects: Vec::new(),
            notices: Vec::new(),
            growth: Growth::default(),
        }
    }

    /// The watermark after the records folded so far.
    pub fn watermark_us(&self) -> Option<i64> {
        self.changes.watermarks.as_ref().unwrap_or(&self.state.watermarks).watermark_us()
    }

    fn closed(&self) -> Option<Pane> {
        self.changes.closed.or(self.state.closed)
    }

    /// Folds one record. Afterwards a close may be running.
    ///
    /// # Errors
    /// [`StageError::Record`] when the record does not belong to this table, or its statement cannot be parsed.
    pub fn record(&mut self, record: &Record) -> Result<(), StageError> {
        let wrong = |why: String| StageError::Record {
            topic_partition: record.topic_partition.clone(),
            offset: record.offset.0,
            why,
        };
        if let Some(value) = &record.value {
            let batch = codec::decode_shared(value, &schema()).map_err(|error| wrong(error.to_string()))?;
            let rows = EventRows::new(&batch);
            let keys: Vec<u128> = (0..rows.len()).map(|row| key_of(&rows, row)).collect();
            let last_pane = self.state.event_ids.panes(&keys);
            self.event_ids.reserve(rows.len());
            let mut accepted = Vec::with_capacity(rows.len());
            let mut counts = FATES.map(|fate| (fate, 0));
            for (row, (key, last_pane)) in keys.into_iter().zip(last_pane).enumerate() {
                let shape = rows.shape(row).map_err(|error| wrong(error.to_string()))?;
                let event = rows.event(row, shape);
                let fate = self.event(&event, key, last_pane);
                counts.iter_mut().filter(|(counted, _)| *counted == fate).for_each(|(_, count)| *count += 1);
                match fate {
                    TOO_LATE => self.reject_too_late(&event, rows.origin(row)),
                    ON_TIME | LATE => accepted.push((row, shape)),
                    Fate { name: OVER_LIMIT, reason } => {
                        *self.fates.entry(fate).or_default() += 1;
                        self.reject_over_limit(&event, rows.origin(row), reason);
                    }
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
            let mut hours = statement.counts.iter().flat_map(|count| &count.hours);
            if let Some((hour, _)) = hours.find(|(hour, _)| !HOURS.contains(hour)) {
                return Err(wrong(format!("header {STATEMENT_HEADER}: hour {hour} is no time of an event")));
            }
            self.observe(&statement);
        }
        Ok(())
    }

    /// The fate of an event with the id `key`. Before this step the id was last known under the pane `last_pane`.
    fn event(&mut self, event: &Event<'_>, key: u128, last_pane: Option<Pane>) -> Fate {
        let settings = self.settings;
        let pane = settings.panes.pane(event.occurred_us);
        let watermark_us = self.watermark_us();
        let is_closed = self.closed().is_some_and(|closed| pane <= closed);
        let is_forgotten = |pane| watermark_us.is_some_and(|watermark_us| settings.is_forgotten(pane, watermark_us));
        let is_too_late = is_closed && is_forgotten(pane);
        if is_too_late && !event.body.is_fact() {
            return TOO_LATE;
        }
        let last_pane = self.event_ids.get(&key).copied().max(last_pane);
        let is_duplicate = last_pane.is_some_and(|pane| !is_forgotten(pane));
        let id = event.account_id.as_ref();
        // Most events belong to an open pane. They need no look-up of their account.
        let is_deleted = !is_duplicate && is_closed && {
            let known_us = self.state.accounts.get(id).and_then(Account::deleted_us);
            let deleted_us = known_us.max(self.deleted_us.get(id).copied());
            deleted_us.is_some_and(|deleted_us| is_erased(event, deleted_us, settings))
        };
        if !is_duplicate
            && !is_deleted
            && let Some(what) = self.growth.over_limit(event, self.state, settings)
        {
            // The id is not stored: when the event is replayed, the account may have room for it.
            return Fate { name: OVER_LIMIT, reason: what };
        }
        if !is_too_late {
            self.event_ids.insert(key, last_pane.map_or(pane, |before| before.max(pane)));
            self.changes.event_ids.push((key, pane, last_pane));
        }
        if is_duplicate {
            return DUPLICATE;
        }
        if is_deleted {
            return DELETED;
        }
        if matches!(event.body, Body::Deleted) {
            let last_us = self.deleted_us.entry(id.to_owned()).or_insert(event.occurred_us);
            *last_us = event.occurred_us.max(*last_us);
        }
        self.least_pane = Some(self.least_pane.map_or(pane, |least| least.min(pane)));
        if is_closed { LATE } else { ON_TIME }
    }

    /// Moves the time. If panes end by then, starts their close.
    fn observe(&mut self, statement: &Statement) {
        let watermarks = self.changes.watermarks.get_or_insert_with(|| self.state.watermarks.clone());
        watermarks.observe(statement);
        self.changes.is_completion_sent &= watermarks.is_complete();
        let watermark_us = watermarks.watermark_us();
        if !statement.counts.is_empty() {
            self.feeds().add(&statement.counts);
        }
        let Some(to) = watermark_us.map(|us| self.settings.panes.last_closed(us)) else { return };
        if self.closed().is_some_and(|closed| closed >= to) {
            return;
        }
        let suspect = self.end_panes(to);
        let first = match self.closed() {
            Some(closed) => Some(closed.next()),
            None => self.first_pane(),
        };
        match first.filter(|first| *first <= to) {
            Some(pane) => {
                let from = Closing { pane, to, after: None, within: None, slice: 1, ordinal: 0, suspect };
                self.changes.closing = Some(from);
            }
            None => {
                self.changes.closed = Some(to);
                let ended = self.changes.ended.get_or_insert_default();
                ended.ended_us = self.settings.panes.end_us(to);
                ended.suspect.extend(suspect);
            }
        }
    }

    fn feeds(&mut self) -> &mut Feeds {
        self.changes.feeds.get_or_insert_with(|| self.state.feeds.clone())
    }

    /// Judges the sources in the panes that end now. Returns those in which a source is far below its usual number.
    fn end_panes(&mut self, to: Pane) -> Vec<SuspectPane> {
        let (settings, closed) = (self.settings, self.closed());
        let feeds = self.feeds();
        // Before the first event there is nothing to judge.
        let first = feeds.first().map(|hour| settings.panes.pane(hour.saturating_mul(HOUR_US)));
        let from = closed.map(Pane::next).max(first).filter(|from| *from <= to).unwrap_or(to);
        let panes = (from.0..=to.0).map(|pane| settings.panes.end_us(Pane(pane)));
        panes.filter_map(|end_us| feeds.end(end_us, &settings.suspect)).collect()
    }

    /// The oldest pane in which any account has an event.
    fn first_pane(&self) -> Option<Pane> {
        let known = self.state.accounts.values().filter_map(|account| account.oldest_pane(self.settings));
        known.chain(self.least_pane).min()
    }

    fn reject_too_late(&mut self, event: &Event<'_>, origin: Origin<'_>) {
        let watermark_us = self.watermark_us().unwrap_or_default();
        let message = format!(
            "too_late: event time {} us, watermark {watermark_us} us, allowed lateness {} us",
            event.occurred_us, self.settings.lateness_us,
        );
        self.reject("too_late", message, origin);
    }

    fn reject_over_limit(&mut self, event: &Event<'_>, origin: Origin<'_>, what: &str) {
        let message =
            format!("over_limit: account {:?} has as many {what} as aggregate.limits.{what} allows", event.account_id);
        if self.notices.is_empty() {
            self.notices.push(message.clone());
        }
        self.reject(OVER_LIMIT, message, origin);
    }

    fn reject(&mut self, reason: &str, mut message: String, origin: Origin<'_>) {
        if origin.payload.is_none() {
            message += "; the bytes are at the origin only";
        }
        let cause = Cause {
            stage: "aggregate",
            reason,
            message: &message,
            topic: origin.topic,
            partition: origin.partition,
            offset: origin.offset,
        };
        let value = origin.payload.map(bytes::Bytes::copy_from_slice);
        let topic: &Arc<str> = &self.settings.rejects;
        // Rejects are spread in the same way as those of ingest: by the raw partition they came from.
        let partition = origin.partition % self.settings.partitions;
        let original = Original { value, ..Original::default() };
        self.rejects.push(reject(topic, partition, &cause, original, Kept::Within(self.max_record_bytes)));
    }
}

/// The key of a row's event id. A row of unknown kind gets any key, because its record is refused later.
fn key_of(rows: &EventRows<'_>, row: usize) -> u128 {
    event_key(rows.account_id(row), rows.kind(row).unwrap_or(Kind::Usage), rows.event_id(row))
}
