//! The publish stage: sends `health` rows to the `scores` and `alerts` topics.
//!
//! Scores go out at once: each row contains whether it is news. Alerts wait for the end of their pane, and are held if it
//! is suspect: see [`crate::hold`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use keepwell_core::codec;
use keepwell_core::offset::{NextOffset, Position, TopicPartition};
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::health;
use keepwell_core::schema::json::JsonRows;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::{Message, REPORTED_HEADER, Record};
use keepwell_pipeline::snapshot::ONE;
use keepwell_pipeline::snapshot::parts::{Part, Parts, SavedRevisions, SnapshotBytes};
use keepwell_pipeline::stage::Gauges;
use keepwell_pipeline::stage::{Batch, Fate, Stage, StageError, Step, add_fates};
use keepwell_pipeline::suspect::{self, REPORT_HEADER, Report, WORD_HEADER, Word};

use crate::alert::{Alert, alert};
use crate::hold::{Holding, Outcome, Ready};

/// Name and version of the JSON form of a score: a row of `health` as the value of a record of `scores`.
pub const SCORE: &str = "scores/2";

/// The most alerts in one step, but for those of one slice more. What is released at once may be many.
const SLICE: usize = 2000;

/// The publish stage.
#[derive(Debug)]
pub struct Publish {
    scores: Arc<str>,
    alerts: Arc<str>,
    partitions: i32,
    max_record_bytes: usize,
    slice: usize,
}

/// What one partition of `health` has to publish still.
#[derive(Debug, Clone, Default)]
pub struct PartitionState {
    /// Alerts without a decision, or held.
    holding: Holding,
    /// Alerts of the record at the position that go out in further slices.
    outgoing: Vec<Arc<Ready>>,
}

/// Fates of alerts that do not go out with their pane.
const HELD: Fate = Fate::of("held");
const RELEASED: Fate = Fate::of("released");
const DROPPED: Fate = Fate::of("dropped");

/// Fate of scores sent without evidence, drivers and factors, and of alerts sent without evidence, because the whole
/// does not fit into a record.
const THINNED: Fate = Fate::of("thinned");

impl Publish {
    /// Makes the stage from a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            scores: config.topics.scores.as_str().into(),
            alerts: config.topics.alerts.as_str().into(),
            partitions: config.partitions,
            slice: SLICE,
            max_record_bytes: config.kafka.max_record_bytes,
        }
    }

    /// The same stage, with slices of this many alerts. Simulations use it, so that a few alerts also go out in many slices.
    pub fn with_slices_of(mut self, alerts: usize) -> Self {
        self.slice = alerts.max(1);
        self
    }

    /// Adds the messages of the scores that are news, and the alerts to those that wait.
    fn publish(
        &self,
        batch: &RecordBatch,
        to: Destination,
        holding: &mut Holding,
        step: &mut Step<Changes>,
    ) -> Result<(), ArrowError> {
        let rows = health::Reader::of(Columns::Batch(batch))?;
        let mut scores = JsonRows::of(Columns::Batch(batch), health::COLUMNS, SCORE)?
            .with_items("triggers", that_hold(&rows.triggers.items));
        let mut json = Vec::new();
        for row in 0..batch.num_rows() {
            let account_id = rows.account_id.value(row);
            let message = |value| message(&self.scores, to.partition, account_id, value);
            let is_news = |item: &usize| rows.triggers.items.is_news.value(*item);
            if rows.is_final.value(row) && rows.triggers.of(row).any(|item| is_news(&item)) {
                let whole = rows.row(row);
                for trigger in whole.triggers.iter().filter(|trigger| trigger.is_news) {
                    let alert = ready(&whole, trigger).map_err(|error| ArrowError::JsonError(error.to_string()))?;
                    if to.is_reported { holding.add(alert) } else { holding.pass(alert) }
                }
            }
            let fate = match (rows.is_changed.value(row), rows.is_deleted.value(row)) {
                (false, _) => "unchanged",
                (true, true) => "tombstone",
                (true, false) => "published",
            };
            step.count(Fate::of("read"), 1);
            step.count(Fate::of(fate), 1);
            if fate == "tombstone" {
                step.messages.push(message(None));
            } else if fate == "published" {
                // All rows share this buffer, and the value is then copied at its exact size.
                json.clear();
                scores.write(row, &[], &mut json)?;
                if json.len() > to.max_score_bytes {
                    json.clear();
                    scores.write(row, &["evidence", "drivers", "factors"], &mut json)?;
                    thinned(step, "the score", account_id, to.max_score_bytes);
                }
                step.messages.push(message(Some(json.clone())));
            }
        }
        Ok(())
    }

    /// Takes in what a record says about panes that ended or about alerts that are held, and decides about alerts.
    fn decide(
        &self,
        record: &Record,
        holding: &mut Holding,
        step: &mut Step<Changes>,
    ) -> Result<Vec<Arc<Ready>>, String> {
        let own = record.topic_partition.partition;
        let mut outcome = Outcome::default();
        if let Some(report) = suspect::of::<Report>(record, REPORT_HEADER)? {
            if !(0..self.partitions).contains(&report.partition) {
                return Err(format!("header {REPORT_HEADER}: there is no partition {}", report.partition));
            }
            holding.report(report, own);
        }
        holding.decide(own, self.partitions, &mut outcome);
        if let Some(word) = suspect::of::<Word>(record, WORD_HEADER)? {
            holding.word(word, &mut outcome);
        }
        step.count(HELD, outcome.num_held);
        step.count(RELEASED, outcome.num_released);
        step.count(DROPPED, outcome.num_dropped);
        for (as_of_us, reason) in &outcome.suspect {
            step.notice(|| {
                format!("suspect: the pane that ends at {}: {reason}; its alerts are held", health::rfc3339(*as_of_us))
            });
        }
        Ok(outcome.published)
    }

    /// Folds records until none is left or alerts must go out in slices.
    fn fold(
        &self,
        (tp, state): (&TopicPartition, &PartitionState),
        records: &[Record],
        batch: &Batch<'_>,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let Some(last) = records.last() else { return Ok(()) };
        let mut holding = state.holding.clone();
        let (mut position, mut outgoing) = (Position::at(last.offset.next()), Vec::new());
        for record in records {
            self.record(record, batch, &mut holding, step)?;
            let refused = |why| StageError::Record { topic_partition: tp.clone(), offset: record.offset.0, why };
            let alerts = self.decide(record, &mut holding, step).map_err(refused)?;
            if alerts.len() > self.slice {
                (position, outgoing) = (Position { slice: 1, ..Position::at(NextOffset(record.offset.0)) }, alerts);
                break;
            }
            self.send(&alerts, tp.partition, batch, step)?;
        }
        step.has_more |= !outgoing.is_empty();
        step.positions.insert(tp.clone(), position);
        step.changes.insert(tp.clone(), PartitionState { holding, outgoing });
        Ok(())
    }

    /// Goes on with alerts that go out in slices.
    fn go_on(
        &self,
        (tp, state): (&TopicPartition, &PartitionState),
        position: Position,
        batch: &Batch<'_>,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let num_slices = state.outgoing.len().div_ceil(self.slice).min(batch.max_slices as usize);
        let (now, later) = state.outgoing.split_at(state.outgoing.len().min(num_slices * self.slice));
        self.send(now, tp.partition, batch, step)?;
        let position = match later.is_empty() {
            true => Position::at(NextOffset(position.next.0 + 1)),
            false => Position { slice: position.slice + num_slices as u32, ..position },
        };
        step.has_more = true;
        step.positions.insert(tp.clone(), position);
        let changed = PartitionState { holding: state.holding.clone(), outgoing: later.to_vec() };
        step.changes.insert(tp.clone(), changed);
        Ok(())
    }

    /// Sends alerts: without their evidence, if they do not fit with it.
    fn send(
        &self,
        alerts: &[Arc<Ready>],
        partition: i32,
        batch: &Batch<'_>,
        step: &mut Step<Changes>,
    ) -> Result<(), ArrowError> {
        let max_bytes = batch.record_bytes(&self.alerts, self.max_record_bytes);
        for alert in alerts {
            let mut value = alert.value.clone();
            if value.len() > max_bytes {
                let refused = |error: serde_json::Error| ArrowError::JsonError(error.to_string());
                let mut whole: Alert = serde_json::from_slice(&value).map_err(refused)?;
                whole.evidence = serde_json::Value::Null;
                value = serde_json::to_vec(&whole).map_err(refused)?;
                thinned(step, "an alert", &alert.account_id, max_bytes);
            }
            step.messages.push(message(&self.alerts, partition, &alert.account_id, Some(value)));
        }
        Ok(())
    }
}

/// The changed states of a step, by partition.
pub type Changes = BTreeMap<TopicPartition, PartitionState>;

fn message(topic: &Arc<str>, partition: i32, account_id: &str, value: Option<Vec<u8>>) -> Message {
    Message {
        topic: Arc::clone(topic),
        partition,
        timestamp_ms: None,
        key: Some(account_id.as_bytes().to_vec()),
        value,
        headers: Vec::new(),
    }
}

/// An alert with its JSON.
fn ready(row: &health::Row<'_>, trigger: &health::trigger::Row<'_>) -> Result<Ready, serde_json::Error> {
    let alert = alert(row, trigger)?;
    Ok(Ready {
        as_of_us: row.as_of,
        place: 0,
        account_id: row.account_id.to_owned(),
        is_raise: trigger.state == "raised",
        value: serde_json::to_vec(&alert)?,
        alert_id: alert.alert_id,
    })
}

/// Where the messages of a record go, and how large they may be.
#[derive(Debug, Clone, Copy)]
struct Destination {
    partition: i32,
    max_score_bytes: usize,
    /// Whether the ends of panes are reported, so that alerts wait for them.
    is_reported: bool,
}

fn thinned(step: &mut Step<Changes>, what: &str, account_id: &str, max_bytes: usize) {
    step.count(THINNED, 1);
    step.notice(|| format!("thinned: {what} of account {account_id:?} does not fit into {max_bytes} bytes"));
}

/// The triggers that hold. A score lists only these.
fn that_hold(triggers: &health::trigger::Reader<'_>) -> BooleanArray {
    triggers.state.iter().map(|state| Some(matches!(state, Some("raised" | "active")))).collect()
}

impl Stage for Publish {
    type State = Changes;
    type Changes = Changes;

    fn name(&self) -> &'static str {
        "publish"
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn apply(&self, state: &Self::State, batch: &Batch<'_>) -> Result<Step<Changes>, StageError> {
        let mut step = Step::default();
        for (tp, position) in &batch.positions {
            let Some(known) = state.get(tp) else { continue };
            if known.outgoing.is_empty() {
                let records = batch.records.get(tp).copied().unwrap_or_default();
                self.fold((tp, known), records, batch, &mut step)?;
            } else {
                self.go_on((tp, known), *position, batch, &mut step)?;
            }
        }
        Ok(step)
    }

    fn merge(&self, state: &mut Self::State, changes: Changes) {
        state.extend(changes);
    }

    fn restore(
        &self,
        state: &mut Self::State,
        partition: &TopicPartition,
        _position: Position,
        snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let holding = match snapshot {
            None => Holding::default(),
            Some(whole) => {
                let bytes = whole.get(ONE).ok_or_else(|| refused("it has no content".into()))?;
                Holding::restored(bytes).map_err(refused)?
            }
        };
        state.insert(partition.clone(), PartitionState { holding, outgoing: Vec::new() });
        Ok(())
    }

    fn forget(&self, state: &mut Self::State, partition: &TopicPartition) {
        state.remove(partition);
    }

    fn gauges(&self, state: &Self::State, partition: &TopicPartition) -> Gauges {
        Gauges { num_held: state.get(partition).map(|known| known.holding.num_held()), ..Gauges::default() }
    }

    fn snapshot(
        &self,
        state: &Self::State,
        partition: &TopicPartition,
        _known: &SavedRevisions,
    ) -> Result<Parts, StageError> {
        let refused = |why: String| StageError::Snapshot { topic_partition: partition.clone(), why };
        let known = state.get(partition).ok_or_else(|| refused("there is no state".into()))?;
        let bytes = known.holding.saved().map_err(|error| refused(error.to_string()))?;
        Ok(Parts::from([(ONE.to_owned(), Part::Changing(bytes))]))
    }
}

/// The rows that lead to a record. Most rows do not.
fn changed_rows(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = Columns::Batch(batch);
    let (changed, finals, (triggers, _)) =
        (columns.flag("changed")?, columns.flag("final")?, columns.list("triggers")?);
    let is_news = |row| changed.value(row) || (finals.value(row) && triggers.value_length(row) > 0);
    filter_record_batch(batch, &(0..batch.num_rows()).map(|row| Some(is_news(row))).collect())
}

impl Publish {
    fn record(
        &self,
        record: &Record,
        batch: &Batch<'_>,
        holding: &mut Holding,
        step: &mut Step<Changes>,
    ) -> Result<(), StageError> {
        let Some(value) = &record.value else { return Ok(()) };
        let refused = |why: String| StageError::Record {
            topic_partition: record.topic_partition.clone(),
            offset: record.offset.0,
            why,
        };
        let rows = codec::decode_shared(value, &health::schema()).map_err(|error| refused(error.to_string()))?;
        let news = changed_rows(&rows)?;
        let unchanged = (rows.num_rows() - news.num_rows()) as u64;
        add_fates(&mut step.fates, &[(Fate::of("read"), unchanged), (Fate::of("unchanged"), unchanged)].into());
        let to = Destination {
            partition: record.topic_partition.partition,
            max_score_bytes: batch.record_bytes(&self.scores, self.max_record_bytes),
            is_reported: record.header(REPORTED_HEADER).is_some(),
        };
        self.publish(&news, to, holding, step).map_err(|error| refused(error.to_string()))
    }
}
