//! The publish stage: sends `health` rows to the `scores` and `alerts` topics.
//!
//! It has no state: each row contains whether it is news.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use arrow::error::ArrowError;
use keepwell_core::codec;
use keepwell_core::offset::{Position, TopicPartition};
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::health as table;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::{Message, Record};
use keepwell_pipeline::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use keepwell_pipeline::stage::Gauges;
use keepwell_pipeline::stage::{Batch, Fate, Stage, StageError, Step, add_fates};
use serde::{Deserialize, Serialize};

use crate::score_json::{Health, Previous, Row, Trigger, rows};

/// Name and version of the JSON form of an alert.
pub const ALERT: &str = "alerts/2";

/// A trigger that was raised, closed or cleared: the value of a record of `alerts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Always `alerts/2`.
    pub schema: String,
    /// Id of the episode: the same when it is raised and when it ends.
    pub alert_id: String,
    /// `raised`, `closed` (by an outcome) or `cleared`.
    pub event: String,
    /// Account id.
    pub account_id: String,
    /// `as_of` of the final row that reports this event.
    pub as_of: String,
    /// Name of the trigger in the model.
    pub trigger: String,
    /// `as_of` of the final row that raised it.
    pub since: String,
    /// `low`, `medium` or `high`.
    pub severity: String,
    /// Name of the playbook: what to do.
    pub playbook: String,
    /// Role of the person who must act.
    pub owner_role: String,
    /// The columns that the trigger reads, with their values at `as_of`.
    pub evidence: serde_json::Value,
    /// Last reported outcome of the playbook: `accepted`, `done` or `dismissed`.
    pub outcome: Option<String>,
    /// Who looks after the account: its fact `owner`.
    pub owner: Option<String>,
    /// Score of the account at `as_of`.
    pub score: Option<f64>,
    /// Band of the account at `as_of`.
    pub band: Option<String>,
    /// The previous final row.
    pub previous: Option<Previous>,
}

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

    fn publish(
        &self,
        row: Row,
        partition: i32,
        max_bytes: usize,
        json: &mut Vec<u8>,
        step: &mut Step<()>,
    ) -> Result<(), serde_json::Error> {
        let Row { mut health, is_changed, is_deleted } = row;
        let mut count = |name| *step.fates.entry(Fate::of(name)).or_default() += 1;
        count("read");
        count(match (is_changed, is_deleted) {
            (false, _) => "unchanged",
            (true, true) => "tombstone",
            (true, false) => "published",
        });
        let message = |topic: &Arc<str>, value| Message {
            topic: Arc::clone(topic),
            partition,
            timestamp_ms: None,
            key: Some(health.account_id.clone().into_bytes()),
            value,
            headers: Vec::new(),
        };
        let is_news = |trigger: &&Trigger| health.is_final && trigger.is_news;
        for trigger in health.triggers.iter().filter(is_news) {
            let mut value = serde_json::to_vec(&alert(&health, trigger))?;
            if value.len() > max_bytes {
                let evidence = serde_json::Value::Null;
                value = serde_json::to_vec(&Alert { evidence, ..alert(&health, trigger) })?;
                step.count(THINNED, 1);
                step.notice(|| {
                    format!("thinned: an alert of account {:?} does not fit into {max_bytes} bytes", health.account_id)
                });
            }
            step.messages.push(message(&self.alerts, Some(value)));
        }
        if is_changed {
            let tombstone = message(&self.scores, None);
            health.triggers.retain(|trigger| matches!(trigger.state.as_str(), "raised" | "active"));
            // All rows share this buffer, and the value is then copied at its exact size.
            json.clear();
            serde_json::to_writer(&mut *json, &health)?;
            if json.len() > max_bytes {
                health.triggers.iter_mut().for_each(|trigger| trigger.evidence = serde_json::Value::Null);
                (health.drivers, health.factors) = (Vec::new(), Vec::new());
                json.clear();
                serde_json::to_writer(&mut *json, &health)?;
                step.count(THINNED, 1);
                step.notice(|| {
                    format!("thinned: the score of account {:?} does not fit into {max_bytes} bytes", health.account_id)
                });
            }
            let value = if is_deleted { None } else { Some(json.to_vec()) };
            step.messages.push(Message { value, ..tombstone });
        }
        Ok(())
    }
}

fn alert(health: &Health, trigger: &Trigger) -> Alert {
    Alert {
        schema: ALERT.to_owned(),
        alert_id: table::alert_id(&health.account_id, &trigger.name, &trigger.since),
        event: trigger.state.clone(),
        account_id: health.account_id.clone(),
        as_of: health.as_of.clone(),
        trigger: trigger.name.clone(),
        since: trigger.since.clone(),
        severity: trigger.severity.clone(),
        playbook: trigger.playbook.clone(),
        owner_role: trigger.owner_role.clone(),
        evidence: trigger.evidence.clone(),
        outcome: trigger.outcome.clone(),
        owner: health.owner.clone(),
        score: health.score,
        band: health.band.clone(),
        previous: health.previous.clone(),
    }
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
                self.record(record, batch.record_bytes(self.max_record_bytes), &mut step)?;
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
    fn record(&self, record: &Record, max_bytes: usize, step: &mut Step<()>) -> Result<(), StageError> {
        let Some(value) = &record.value else { return Ok(()) };
        let refused = |why: String| StageError::Record {
            topic_partition: record.topic_partition.clone(),
            offset: record.offset.0,
            why,
        };
        let batch = codec::decode_shared(value, &table::schema()).map_err(|error| refused(error.to_string()))?;
        let news = changed_rows(&batch)?;
        let unchanged = (batch.num_rows() - news.num_rows()) as u64;
        add_fates(&mut step.fates, &[(Fate::of("read"), unchanged), (Fate::of("unchanged"), unchanged)].into());
        let mut json = Vec::new();
        for row in rows(&news)? {
            let published = self.publish(row, record.topic_partition.partition, max_bytes, &mut json, step);
            published.map_err(|error| refused(error.to_string()))?;
        }
        Ok(())
    }
}
