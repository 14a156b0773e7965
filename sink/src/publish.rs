//! The publish stage: sends `health` rows to the `scores` and `alerts` topics.
//!
//! It has no state: each row contains whether it is news.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use keepwell_core::codec;
use keepwell_core::offset::{Position, TopicPartition};
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::health;
use keepwell_core::schema::json::JsonRows;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::{Message, Record};
use keepwell_pipeline::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use keepwell_pipeline::stage::Gauges;
use keepwell_pipeline::stage::{Batch, Fate, Stage, StageError, Step, add_fates};

use crate::alert::alert;

/// Name and version of the JSON form of a score: a row of `health` as the value of a record of `scores`.
pub const SCORE: &str = "scores/2";
/// The publish stage.
#[derive(Debug)]
pub struct Publish {
    scores: Arc<str>,
    alerts: Arc<str>,
    max_record_bytes: usize,
}

/// Fate of scores sent without evidence, drivers and factors, and of alerts sent without evidence, because the whole
/// does not fit into a record.
const THINNED: Fate = Fate::of("thinned");

impl Publish {
    /// Makes the stage from a configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            scores: config.topics.scores.as_str().into(),
            alerts: config.topics.alerts.as_str().into(),
            max_record_bytes: config.kafka.max_record_bytes,
        }
    }

    /// Adds the messages of the rows that lead to some.
    fn publish(&self, batch: &RecordBatch, to: Destination, step: &mut Step<()>) -> Result<(), ArrowError> {
        let rows = health::Reader::of(Columns::Batch(batch))?;
        let mut scores = JsonRows::of(Columns::Batch(batch), health::COLUMNS, SCORE)?
            .with_items("triggers", holding(&rows.triggers.items));
        let mut json = Vec::new();
        for row in 0..batch.num_rows() {
            let account_id = rows.account_id.value(row);
            let message = |topic: &Arc<str>, value| Message {
                topic: Arc::clone(topic),
                partition: to.partition,
                timestamp_ms: None,
                key: Some(account_id.as_bytes().to_vec()),
                value,
                headers: Vec::new(),
            };
            let is_news = |item: &usize| rows.triggers.items.is_news.value(*item);
            if rows.is_final.value(row) && rows.triggers.of(row).any(|item| is_news(&item)) {
                let whole = rows.row(row);
                for trigger in whole.triggers.iter().filter(|trigger| trigger.is_news) {
                    let value = self.alert(&whole, trigger, to.max_alert_bytes, step)?;
                    step.messages.push(message(&self.alerts, Some(value)));
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
                step.messages.push(message(&self.scores, None));
            } else if fate == "published" {
                // All rows share this buffer, and the value is then copied at its exact size.
                json.clear();
                scores.write(row, &[], &mut json)?;
                if json.len() > to.max_score_bytes {
                    json.clear();
                    scores.write(row, &["evidence", "drivers", "factors"], &mut json)?;
                    thinned(step, "the score", account_id, to.max_score_bytes);
                }
                step.messages.push(message(&self.scores, Some(json.clone())));
            }
        }
        Ok(())
    }

    /// The JSON of an alert: without its evidence, if it does not fit with it.
    fn alert(
        &self,
        row: &health::Row<'_>,
        trigger: &health::trigger::Row<'_>,
        max_bytes: usize,
        step: &mut Step<()>,
    ) -> Result<Vec<u8>, ArrowError> {
        let refused = |error: serde_json::Error| ArrowError::JsonError(error.to_string());
        let mut alert = alert(row, trigger).map_err(refused)?;
        let mut value = serde_json::to_vec(&alert).map_err(refused)?;
        if value.len() > max_bytes {
            alert.evidence = serde_json::Value::Null;
            value = serde_json::to_vec(&alert).map_err(refused)?;
            thinned(step, "an alert", row.account_id, max_bytes);
        }
        Ok(value)
    }
}

/// Where the messages of a record go, and how large they may be.
#[derive(Debug, Clone, Copy)]
struct Destination {
    partition: i32,
    max_score_bytes: usize,
    max_alert_bytes: usize,
}

fn thinned(step: &mut Step<()>, what: &str, account_id: &str, max_bytes: usize) {
    step.count(THINNED, 1);
    step.notice(|| format!("thinned: {what} of account {account_id:?} does not fit into {max_bytes} bytes"));
}

/// The triggers that hold. A score lists only these.
fn holding(triggers: &health::trigger::Reader<'_>) -> BooleanArray {
    triggers.state.iter().map(|state| Some(matches!(state, Some("raised" | "active")))).collect()
}

impl Stage for Publish {
    type State = BTreeSet<TopicPartition>;
    type Changes = ();

    fn name(&self) -> &'static str {
        "publish"
    }

    fn is_stateful(&self) -> bool {
        false
    }

    fn apply(&self, state: &Self::State, batch: &Batch<'_>) -> Result<Step<()>, StageError> {
        let mut step = Step::default();
        for (tp, records) in batch.records.iter().filter(|(tp, _)| state.contains(*tp)) {
            let Some(last) = records.last() else { continue };
            for record in *records {
                self.record(record, batch, &mut step)?;
            }
            step.positions.insert(tp.clone(), Position::at(last.offset.next()));
        }
        Ok(step)
    }

    fn merge(&self, _state: &mut Self::State, (): ()) {}

    fn restore(
        &self,
        state: &mut Self::State,
        partition: &TopicPartition,
        _position: Position,
        _snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError> {
        state.insert(partition.clone());
        Ok(())
    }

    fn forget(&self, state: &mut Self::State, partition: &TopicPartition) {
        state.remove(partition);
    }

    fn gauges(&self, _state: &Self::State, _partition: &TopicPartition) -> Gauges {
        Gauges::default()
    }

    fn snapshot(
        &self,
        _state: &Self::State,
        _partition: &TopicPartition,
        _known: &SavedRevisions,
    ) -> Result<Parts, StageError> {
        Ok(Parts::new())
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
    fn record(&self, record: &Record, batch: &Batch<'_>, step: &mut Step<()>) -> Result<(), StageError> {
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
            max_alert_bytes: batch.record_bytes(&self.alerts, self.max_record_bytes),
        };
        self.publish(&news, to, step).map_err(|error| refused(error.to_string()))
    }
}
