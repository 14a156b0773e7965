//! Metrics of one partition: how far it is, and what its state holds.

use prometheus::{GaugeVec, IntGaugeVec};

use super::names::Names;

/// Labels of a partition.
const PARTITION: [&str; 3] = ["stage", "topic", "partition"];

/// Metrics with a series for each partition.
#[derive(Debug, Clone)]
pub(super) struct PartitionMetrics {
    pub lag: IntGaugeVec,
    pub position: IntGaugeVec,
    pub watermark: GaugeVec,
    pub accounts: IntGaugeVec,
    pub model: IntGaugeVec,
    pub ids: IntGaugeVec,
    pub id_bytes: IntGaugeVec,
    pub state_bytes: IntGaugeVec,
    pub held: IntGaugeVec,
    pub waiting: IntGaugeVec,
    pub hidden: IntGaugeVec,
    pub snapshot: GaugeVec,
    pub snapshot_pause: GaugeVec,
}

impl PartitionMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Practically none: all names are valid and used once, as a test shows.
    pub fn new(names: &mut Names) -> Result<Self, prometheus::Error> {
        Ok(Self {
            lag: names.int_gauge(
                "lag_records",
                "Records between the position and the end of the partition",
                &PARTITION,
            )?,
            position: names.int_gauge("position_offset", "Offset of the record that is taken next", &PARTITION)?,
            watermark: names.gauge(
                "watermark_timestamp_seconds",
                "No event before this time is to be expected",
                &PARTITION,
            )?,
            accounts: names.int_gauge("state_accounts", "Accounts in the state", &PARTITION)?,
            model: names.int_gauge(
                "model_version",
                "Version of the model file by which the time that has come is scored",
                &PARTITION,
            )?,
            ids: names.int_gauge(
                "state_event_ids",
                "Event ids in the state, by which duplicates are found",
                &PARTITION,
            )?,
            id_bytes: names.int_gauge("state_event_id_bytes", "Memory of the event ids", &PARTITION)?,
            state_bytes: names.int_gauge("state_bytes", "Bytes of the state when it was last saved", &PARTITION)?,
            held: names.int_gauge("alerts_held", "Alerts that are held, because a pane is suspect", &PARTITION)?,
            waiting: names.int_gauge(
                "source_waiting",
                "1 while a source is not read because it is too far ahead of another in time",
                &PARTITION,
            )?,
            hidden: names.int_gauge(
                "hidden_records",
                "Offsets behind the last stable one: an open transaction hides them",
                &PARTITION,
            )?,
            snapshot: names.gauge("snapshot_timestamp_seconds", "When the state was last saved", &PARTITION)?,
            snapshot_pause: names.gauge(
                "snapshot_pause_seconds",
                "How long the stage stood still when the state was last saved",
                &PARTITION,
            )?,
        })
    }

    /// Removes the series with these labels. Returns how many there were: a series that was never set cannot be removed.
    pub fn forget(&self, labels: &[&str; 3]) -> usize {
        let removed = [
            self.lag.remove_label_values(labels).is_ok(),
            self.position.remove_label_values(labels).is_ok(),
            self.watermark.remove_label_values(labels).is_ok(),
            self.accounts.remove_label_values(labels).is_ok(),
            self.model.remove_label_values(labels).is_ok(),
            self.ids.remove_label_values(labels).is_ok(),
            self.id_bytes.remove_label_values(labels).is_ok(),
            self.state_bytes.remove_label_values(labels).is_ok(),
            self.held.remove_label_values(labels).is_ok(),
            self.waiting.remove_label_values(labels).is_ok(),
            self.hidden.remove_label_values(labels).is_ok(),
            self.snapshot.remove_label_values(labels).is_ok(),
            self.snapshot_pause.remove_label_values(labels).is_ok(),
        ];
        removed.iter().filter(|removed| **removed).count()
    }
}
