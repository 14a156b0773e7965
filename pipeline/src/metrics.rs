//! What a process tells Prometheus: every name stands here, with its labels and unit.
//!
//! Times are Unix timestamps, not ages; an age is `time() - metric`. No label holds an account.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::readiness::Waiting;
use crate::stage::{Fate, Fates, Gauges};
use keepwell_core::offset::{NextOffset, TopicPartition};

/// Buckets from a millisecond to a minute.
const DURATIONS_S: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets from ten milliseconds to an hour.
const LATENCIES_S: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 900.0, 3600.0];

/// The metrics of a process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    records: IntCounterVec,
    messages: IntCounterVec,
    steps: IntCounterVec,
    step_duration: HistogramVec,
    commit_duration: HistogramVec,
    event_to_commit: HistogramVec,
    last_progress: GaugeVec,
    lag: IntGaugeVec,
    position: IntGaugeVec,
    watermark: GaugeVec,
    accounts: IntGaugeVec,
    model: IntGaugeVec,
    ids: IntGaugeVec,
    id_bytes: IntGaugeVec,
    id_max_bytes: IntGaugeVec,
    state_bytes: IntGaugeVec,
    waiting: IntGaugeVec,
    waiting_for: IntGaugeVec,
    hidden: IntGaugeVec,
    snapshot: GaugeVec,
    snapshot_pause: GaugeVec,
    audited: IntGaugeVec,
    drift: IntGaugeVec,
    audit: GaugeVec,
    build: IntGaugeVec,
}

impl Metrics {
    /// All metrics, of no stage yet.
    ///
    /// # Errors
    /// None in practice: names are valid and used once, as a test shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("keepwell_{name}"), help);
        let buckets = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::new(format!("keepwell_{name}"), help).buckets(buckets.to_vec())
        };
        let partition = ["stage", "topic", "partition"];
        let metrics = Self {
            registry: Registry::new(),
            records: IntCounterVec::new(
                opts(
                    "records_total",
                    "Records, events or rows by what became of them; fate read is the sum of the others",
                ),
                &["stage", "fate", "reason"],
            )?,
            messages: IntCounterVec::new(opts("messages_total", "Records or files written"), &["stage"])?,
            steps: IntCounterVec::new(
                opts("steps_total", "Steps by outcome: committed, aborted, lost (the verdict)"),
                &["stage", "outcome"],
            )?,
            step_duration: HistogramVec::new(
                buckets("step_duration_seconds", "Time to compute a step", &DURATIONS_S),
                &["stage"],
            )?,
            commit_duration: HistogramVec::new(
                buckets("commit_duration_seconds", "Time to write and commit a step", &DURATIONS_S),
                &["stage"],
            )?,
            event_to_commit: HistogramVec::new(
                buckets(
                    "event_to_commit_seconds",
                    "From the timestamp of a step's oldest record to its commit",
                    &LATENCIES_S,
                ),
                &["stage"],
            )?,
            last_progress: GaugeVec::new(
                opts("last_progress_timestamp_seconds", "When the last step was committed"),
                &["stage"],
            )?,
            lag: IntGaugeVec::new(
                opts("lag_records", "Records between the position and the end of the partition"),
                &partition,
            )?,
            position: IntGaugeVec::new(opts("position_offset", "Offset of the record that is taken next"), &partition)?,
            watermark: GaugeVec::new(
                opts("watermark_timestamp_seconds", "No event before this time is to be expected"),
                &partition,
            )?,
            accounts: IntGaugeVec::new(opts("state_accounts", "Accounts in the state"), &partition)?,
            model: IntGaugeVec::new(
                opts("model_version", "Version of the model file by which the time that has come is scored"),
                &partition,
            )?,
            ids: IntGaugeVec::new(
                opts("state_event_ids", "Event ids in the state, by which duplicates are found"),
                &partition,
            )?,
            id_bytes: IntGaugeVec::new(opts("state_event_id_bytes", "Memory of the event ids"), &partition)?,
            id_max_bytes: IntGaugeVec::new(
                opts(
                    "event_id_max_bytes",
                    "Most memory that the event ids of a process may take; beyond it the process stops",
                ),
                &["stage"],
            )?,
            state_bytes: IntGaugeVec::new(
                opts("state_bytes", "Bytes of the state when it was last saved"),
                &partition,
            )?,
            waiting: IntGaugeVec::new(
                opts("source_waiting", "1 while a source is not read because it is too far ahead of another in time"),
                &partition,
            )?,
            waiting_for: IntGaugeVec::new(opts("waiting_for", "1 for what the stage waits for"), &["stage", "what"])?,
            hidden: IntGaugeVec::new(
                opts("hidden_records", "Offsets behind the last stable one: an open transaction hides them"),
                &partition,
            )?,
            snapshot: GaugeVec::new(opts("snapshot_timestamp_seconds", "When the state was last saved"), &partition)?,
            snapshot_pause: GaugeVec::new(
                opts("snapshot_pause_seconds", "How long the stage stood still when the state was last saved"),
                &partition,
            )?,
            audited: IntGaugeVec::new(
                opts(
                    "audit_scores",
                    "Stored scores in the last audit: judged, or of unknown versions of the model file",
                ),
                &["stage", "judged"],
            )?,
            drift: IntGaugeVec::new(
                opts("audit_drift_rows", "Stored rows that plain SQL over their window rows gives otherwise"),
                &["stage"],
            )?,
            audit: GaugeVec::new(opts("audit_timestamp_seconds", "When the last audit ended"), &["stage"])?,
            build: IntGaugeVec::new(opts("build_info", "Always 1; the version is a label"), &["stage", "version"])?,
        };
        let Self { registry, .. } = &metrics;
        registry.register(Box::new(metrics.records.clone()))?;
        registry.register(Box::new(metrics.messages.clone()))?;
        registry.register(Box::new(metrics.steps.clone()))?;
        registry.register(Box::new(metrics.step_duration.clone()))?;
        registry.register(Box::new(metrics.commit_duration.clone()))?;
        registry.register(Box::new(metrics.event_to_commit.clone()))?;
        registry.register(Box::new(metrics.last_progress.clone()))?;
        registry.register(Box::new(metrics.lag.clone()))?;
        registry.register(Box::new(metrics.position.clone()))?;
        registry.register(Box::new(metrics.watermark.clone()))?;
        registry.register(Box::new(metrics.accounts.clone()))?;
        registry.register(Box::new(metrics.model.clone()))?;
        registry.register(Box::new(metrics.ids.clone()))?;
        registry.register(Box::new(metrics.id_bytes.clone()))?;
        registry.register(Box::new(metrics.id_max_bytes.clone()))?;
        registry.register(Box::new(metrics.state_bytes.clone()))?;
        registry.register(Box::new(metrics.waiting.clone()))?;
        registry.register(Box::new(metrics.waiting_for.clone()))?;
        registry.register(Box::new(metrics.hidden.clone()))?;
        registry.register(Box::new(metrics.snapshot.clone()))?;
        registry.register(Box::new(metrics.snapshot_pause.clone()))?;
        registry.register(Box::new(metrics.audited.clone()))?;
        registry.register(Box::new(metrics.drift.clone()))?;
        registry.register(Box::new(metrics.audit.clone()))?;
        registry.register(Box::new(metrics.build.clone()))?;
        Ok(metrics)
    }

    /// The metrics of one stage, with what is known from the start set to 0.
    pub fn stage(&self, stage: &'static str) -> StageMetrics {
        self.build.with_label_values(&[stage, env!("CARGO_PKG_VERSION")]).set(1);
        self.messages.with_label_values(&[stage]).inc_by(0);
        for outcome in ["committed", "aborted", "lost"] {
            self.steps.with_label_values(&[stage, outcome]).inc_by(0);
        }
        self.records.with_label_values(&[stage, "read", ""]).inc_by(0);
        let told = StageMetrics { metrics: self.clone(), stage, status: Arc::new(Status::default()) };
        told.show_waiting(&Waiting::default());
        told
    }

    /// All metrics in Prometheus' text form.
    ///
    /// # Errors
    /// When a metric cannot be written.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// The metrics and the status of one stage.
#[derive(Debug, Clone)]
pub struct StageMetrics {
    metrics: Metrics,
    stage: &'static str,
    status: Arc<Status>,
}

/// Whether a stage lives, and what it waits for.
#[derive(Debug, Default)]
struct Status {
    /// When the loop last went round, milliseconds of the process's monotonic clock.
    ticked_ms: AtomicU64,
    waiting: Mutex<Waiting>,
}

impl StageMetrics {
    /// Metrics that nobody reads; for tests and runs in one process.
    ///
    /// # Errors
    /// As [`Metrics::new`].
    pub fn unread(stage: &'static str) -> Result<Self, prometheus::Error> {
        Ok(Metrics::new()?.stage(stage))
    }

    fn of<'p>(&'p self, tp: &'p TopicPartition, partition: &'p str) -> [&'p str; 3] {
        [self.stage, &tp.topic, partition]
    }

    /// The loop has gone round, or waits in a call that lives.
    pub fn tick(&self, now: Duration, waiting: &Waiting) {
        self.status.ticked_ms.store(now.as_millis() as u64, Ordering::Relaxed);
        let mut known = self.status.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != *waiting {
            waiting.clone_into(&mut known);
            self.show_waiting(waiting);
        }
    }

    fn show_waiting(&self, waiting: &Waiting) {
        for name in Waiting::NAMES {
            let is_this = waiting.name() == Some(name);
            self.metrics.waiting_for.with_label_values(&[self.stage, name]).set(i64::from(is_this));
        }
    }

    /// Since when the loop has not gone round.
    pub fn still_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.status.ticked_ms.load(Ordering::Relaxed)))
    }

    /// What the stage waits for before it does its work.
    pub fn waiting(&self) -> Waiting {
        self.status.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Name of the stage.
    pub fn name(&self) -> &'static str {
        self.stage
    }

    /// A step was computed in this time.
    pub fn computed(&self, took: Duration) {
        self.metrics.step_duration.with_label_values(&[self.stage]).observe(took.as_secs_f64());
    }

    /// What became of what, outside of a step.
    pub fn counted(&self, fates: &Fates) {
        for (Fate { name, reason }, count) in fates {
            self.metrics.records.with_label_values(&[self.stage, *name, *reason]).inc_by(*count);
        }
    }

    /// A step was committed: what became of what, how many records were written, in which time, at which wall-clock time.
    pub fn committed(&self, fates: &Fates, num_messages: usize, took: Duration, wall_us: i64) {
        self.counted(fates);
        self.metrics.messages.with_label_values(&[self.stage]).inc_by(num_messages as u64);
        self.metrics.steps.with_label_values(&[self.stage, "committed"]).inc();
        self.metrics.commit_duration.with_label_values(&[self.stage]).observe(took.as_secs_f64());
        self.metrics.last_progress.with_label_values(&[self.stage]).set(wall_us as f64 / 1e6);
    }

    /// A step was not committed: `aborted`, or `lost` where the verdict was not heard.
    pub fn not_committed(&self, outcome: &'static str) {
        self.metrics.steps.with_label_values(&[self.stage, outcome]).inc();
    }

    /// The oldest record of a committed step is this old.
    pub fn waited(&self, since_ms: i64, wall_us: i64) {
        let waited_s = (wall_us - since_ms * 1000).max(0) as f64 / 1e6;
        self.metrics.event_to_commit.with_label_values(&[self.stage]).observe(waited_s);
    }

    /// How far a partition is behind.
    pub fn lag(&self, tp: &TopicPartition, records: i64) {
        self.metrics.lag.with_label_values(&self.of(tp, &tp.partition.to_string())).set(records.max(0));
    }

    /// Where a partition is read on.
    pub fn position(&self, tp: &TopicPartition, next: NextOffset) {
        self.metrics.position.with_label_values(&self.of(tp, &tp.partition.to_string())).set(next.0);
    }

    /// How far all partitions together are behind, in records, as last told.
    pub fn total_lag(&self) -> i64 {
        let is_own = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| label.name() == "stage" && label.value() == self.stage)
        };
        let lags = self.metrics.lag.collect();
        let own = lags.iter().flat_map(|family| family.get_metric()).filter(|metric| is_own(metric));
        own.map(|metric| metric.get_gauge().get_value() as i64).sum()
    }

    /// How much of a partition that is read to its last stable offset lies behind it.
    pub fn hidden(&self, tp: &TopicPartition, offsets: i64) {
        self.metrics.hidden.with_label_values(&self.of(tp, &tp.partition.to_string())).set(offsets.max(0));
    }

    /// Whether a source waits for one that is behind it in time.
    pub fn source_waits(&self, tp: &TopicPartition, is_waiting: bool) {
        let partition = tp.partition.to_string();
        self.metrics.waiting.with_label_values(&self.of(tp, &partition)).set(i64::from(is_waiting));
    }

    /// What the state of a partition shows.
    pub fn show(&self, tp: &TopicPartition, gauges: Gauges) {
        let partition = tp.partition.to_string();
        if let Some(watermark_us) = gauges.watermark_us {
            self.metrics.watermark.with_label_values(&self.of(tp, &partition)).set(watermark_us as f64 / 1e6);
        }
        if let Some(num_accounts) = gauges.num_accounts {
            self.metrics.accounts.with_label_values(&self.of(tp, &partition)).set(num_accounts as i64);
        }
        if let Some(version) = gauges.model_version {
            self.metrics.model.with_label_values(&self.of(tp, &partition)).set(version);
        }
        if let (Some(num_ids), Some(id_bytes)) = (gauges.num_ids, gauges.id_bytes) {
            self.metrics.ids.with_label_values(&self.of(tp, &partition)).set(num_ids as i64);
            self.metrics.id_bytes.with_label_values(&self.of(tp, &partition)).set(id_bytes as i64);
        }
        if let Some(most) = gauges.id_max_bytes {
            self.metrics.id_max_bytes.with_label_values(&[self.stage]).set(i64::try_from(most).unwrap_or(i64::MAX));
        }
    }

    /// The state of a partition was saved; for `pause` the stage stood still.
    pub fn saved(&self, tp: &TopicPartition, num_bytes: usize, pause: Duration, wall_us: i64) {
        let partition = tp.partition.to_string();
        self.metrics.state_bytes.with_label_values(&self.of(tp, &partition)).set(num_bytes as i64);
        self.metrics.snapshot.with_label_values(&self.of(tp, &partition)).set(wall_us as f64 / 1e6);
        self.metrics.snapshot_pause.with_label_values(&self.of(tp, &partition)).set(pause.as_secs_f64());
    }

    /// An audit has ended.
    pub fn audited(&self, num_judged: usize, num_drift: usize, num_unknown: usize, wall_us: i64) {
        self.metrics.audited.with_label_values(&[self.stage, "true"]).set(num_judged as i64);
        self.metrics.audited.with_label_values(&[self.stage, "false"]).set(num_unknown as i64);
        self.metrics.drift.with_label_values(&[self.stage]).set(num_drift as i64);
        self.metrics.audit.with_label_values(&[self.stage]).set(wall_us as f64 / 1e6);
    }

    /// A partition is another's now.
    pub fn forget(&self, tp: &TopicPartition) {
        let partition = tp.partition.to_string();
        let labels = self.of(tp, &partition);
        // A series that was never set is not there to be removed.
        let removed = [
            self.metrics.lag.remove_label_values(&labels).is_ok(),
            self.metrics.position.remove_label_values(&labels).is_ok(),
            self.metrics.watermark.remove_label_values(&labels).is_ok(),
            self.metrics.accounts.remove_label_values(&labels).is_ok(),
            self.metrics.model.remove_label_values(&labels).is_ok(),
            self.metrics.ids.remove_label_values(&labels).is_ok(),
            self.metrics.id_bytes.remove_label_values(&labels).is_ok(),
            self.metrics.state_bytes.remove_label_values(&labels).is_ok(),
            self.metrics.hidden.remove_label_values(&labels).is_ok(),
            self.metrics.waiting.remove_label_values(&labels).is_ok(),
            self.metrics.snapshot.remove_label_values(&labels).is_ok(),
            self.metrics.snapshot_pause.remove_label_values(&labels).is_ok(),
        ];
        tracing::debug!(partition = %tp, series = removed.iter().filter(|removed| **removed).count(), "series removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards and alerts hang on these names: a change is a change for every user.
    const TYPES: &str = "\
keepwell_audit_drift_rows gauge
keepwell_audit_scores gauge
keepwell_audit_timestamp_seconds gauge
keepwell_build_info gauge
keepwell_commit_duration_seconds histogram
keepwell_event_id_max_bytes gauge
keepwell_event_to_commit_seconds histogram
keepwell_hidden_records gauge
keepwell_lag_records gauge
keepwell_last_progress_timestamp_seconds gauge
keepwell_messages_total counter
keepwell_model_version gauge
keepwell_position_offset gauge
keepwell_records_total counter
keepwell_snapshot_pause_seconds gauge
keepwell_snapshot_timestamp_seconds gauge
keepwell_source_waiting gauge
keepwell_state_accounts gauge
keepwell_state_bytes gauge
keepwell_state_event_id_bytes gauge
keepwell_state_event_ids gauge
keepwell_step_duration_seconds histogram
keepwell_steps_total counter
keepwell_waiting_for gauge
keepwell_watermark_timestamp_seconds gauge";

    #[test]
    fn every_name_and_type_is_as_it_was_and_a_partition_let_go_leaves_no_series() {
        let metrics = Metrics::new().unwrap();
        let stage = metrics.stage("aggregate");
        let tp = TopicPartition::new("keepwell.events", 3);
        stage.computed(Duration::from_millis(3));
        stage.committed(
            &[(Fate { name: "rejected", reason: "not_json" }, 2)].into(),
            5,
            Duration::from_millis(4),
            7_000_000,
        );
        stage.waited(6_000, 7_000_000);
        stage.lag(&tp, 9);
        stage.position(&tp, NextOffset(40));
        stage.show(
            &tp,
            Gauges {
                watermark_us: Some(5_500_000),
                num_accounts: Some(4),
                num_ids: Some(9),
                id_bytes: Some(272),
                id_max_bytes: Some(1000),
                model_version: Some(2),
            },
        );
        stage.saved(&tp, 1000, Duration::from_millis(3), 7_000_000);
        stage.source_waits(&tp, true);
        stage.hidden(&tp, 2);
        stage.audited(9, 0, 1, 7_000_000);
        let text = metrics.text().unwrap();
        let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        assert_eq!(types.join("\n"), TYPES);
        for line in [
            r#"keepwell_records_total{fate="rejected",reason="not_json",stage="aggregate"} 2"#,
            r#"keepwell_watermark_timestamp_seconds{partition="3",stage="aggregate",topic="keepwell.events"} 5.5"#,
            r#"keepwell_event_to_commit_seconds_sum{stage="aggregate"} 1"#,
            r#"keepwell_steps_total{outcome="aborted",stage="aggregate"} 0"#,
            r#"keepwell_waiting_for{stage="aggregate",what="partitions"} 1"#,
            r#"keepwell_waiting_for{stage="aggregate",what="broker"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        stage.forget(&tp);
        assert!(!metrics.text().unwrap().contains("partition="));
    }

    #[test]
    fn a_stage_lives_while_its_loop_goes_round_and_is_ready_when_it_waits_for_nothing() {
        let stage = StageMetrics::unread("score").unwrap();
        assert_eq!(stage.waiting(), Waiting::Partitions);
        stage.tick(Duration::from_secs(10), &Waiting::No);
        assert_eq!((stage.waiting(), stage.still_for(Duration::from_secs(13))), (Waiting::No, Duration::from_secs(3)));
    }
}
