//! Metrics for Prometheus. All names are defined here, with their labels and units.
//!
//! Times are Unix timestamps, not ages; compute an age as `time() - metric`. No label contains an account.

mod names;
mod of_partition;
mod of_report;
mod of_source;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Encoder, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, TextEncoder};

pub use names::Named;
use names::Names;
use of_partition::PartitionMetrics;
use of_report::ReportMetrics;
pub use of_report::Reported;
use of_source::SourceMetrics;

use crate::readiness::Waiting;
use crate::stage::{Fate, Fates, Gauges};
use keepwell_core::offset::{NextOffset, TopicPartition};

/// Histogram buckets from a millisecond to a minute, in seconds.
const DURATIONS_S: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Histogram buckets from ten milliseconds to an hour, in seconds.
const LATENCIES_S: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 900.0, 3600.0];

/// The metrics of a process, for all its stages.
#[derive(Debug, Clone)]
pub struct Metrics {
    names: Arc<Names>,
    records: IntCounterVec,
    messages: IntCounterVec,
    steps: IntCounterVec,
    step_duration: HistogramVec,
    commit_duration: HistogramVec,
    event_to_commit: HistogramVec,
    last_progress: GaugeVec,
    id_max_bytes: IntGaugeVec,
    waiting_for: IntGaugeVec,
    audited: IntGaugeVec,
    drift: IntGaugeVec,
    audit: GaugeVec,
    build: IntGaugeVec,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    partition: PartitionMetrics,
    source: SourceMetrics,
    report: ReportMetrics,
}

impl Metrics {
    /// All metrics, before any stage is added.
    ///
    /// # Errors
    /// Practically none: all names are valid and used once, as a test shows.
    pub fn new() -> Result<Self, prometheus::Error> {
        let mut names = Names::default();
        let metrics = Self {
            records: names.counter(
                "records_total",
                "Records, events or rows by fate. read is the sum of the others; thinned, unwritable and left_out come on top",
                &["stage", "fate", "reason"],
            )?,
            messages: names.counter("messages_total", "Records or files written", &["stage"])?,
            steps: names.counter(
                "steps_total",
                "Steps by outcome: committed, aborted, lost (the verdict), too_large",
                &["stage", "outcome"],
            )?,
            step_duration: names.histogram(
                "step_duration_seconds",
                "Time to compute a step",
                &["stage"],
                &DURATIONS_S,
            )?,
            commit_duration: names.histogram(
                "commit_duration_seconds",
                "Time to write and commit a step",
                &["stage"],
                &DURATIONS_S,
            )?,
            event_to_commit: names.histogram(
                "event_to_commit_seconds",
                "From the timestamp of a step's oldest record to its commit",
                &["stage"],
                &LATENCIES_S,
            )?,
            last_progress: names.gauge(
                "last_progress_timestamp_seconds",
                "When the last step was committed",
                &["stage"],
            )?,
            id_max_bytes: names.int_gauge(
                "event_id_max_bytes",
                "Most memory that the event ids of a process may take; beyond it the process stops",
                &["stage"],
            )?,
            waiting_for: names.int_gauge("waiting_for", "1 for what the stage waits for", &["stage", "what"])?,
            audited: names.int_gauge(
                "audit_scores",
                "Stored scores in the last audit: judged, or of unknown versions of the model file",
                &["stage", "judged"],
            )?,
            drift: names.int_gauge(
                "audit_drift_rows",
                "Stored rows that plain SQL over their window rows gives otherwise",
                &["stage"],
            )?,
            audit: names.gauge("audit_timestamp_seconds", "When the last audit ended", &["stage"])?,
            requests: names.counter(
                "requests_total",
                "HTTP requests by door and answer. The reason is empty if the broker has all records",
                &["stage", "door", "status", "reason"],
            )?,
            request_duration: request_duration(&mut names)?,
            build: names.int_gauge("build_info", "Always 1; the version is a label", &["stage", "version"])?,
            partition: PartitionMetrics::new(&mut names)?,
            source: SourceMetrics::new(&mut names)?,
            report: ReportMetrics::new(&mut names)?,
            names: Arc::default(),
        };
        Ok(Self { names: Arc::new(names), ..metrics })
    }

    /// The metrics of one stage. Counters that are known from the start begin at 0.
    pub fn stage(&self, stage: &'static str) -> StageMetrics {
        self.build.with_label_values(&[stage, env!("CARGO_PKG_VERSION")]).set(1);
        self.messages.with_label_values(&[stage]).inc_by(0);
        for outcome in ["committed", "aborted", "lost", "too_large"] {
            self.steps.with_label_values(&[stage, outcome]).inc_by(0);
        }
        self.records.with_label_values(&[stage, "read", ""]).inc_by(0);
        let of_stage = StageMetrics { metrics: self.clone(), stage, status: Arc::new(Status::default()) };
        of_stage.show_waiting(&Waiting::default());
        of_stage
    }

    /// Every metric: name, type, labels and meaning, in their order.
    pub fn names(&self) -> &[Named] {
        &self.names.named
    }

    /// All metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// When a metric cannot be encoded.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.names.registry.gather(), &mut out)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

fn request_duration(names: &mut Names) -> Result<HistogramVec, prometheus::Error> {
    let help = "From the head of a request to its answer";
    names.histogram("request_duration_seconds", help, &["stage", "door"], &DURATIONS_S)
}

/// The metrics and the status of one stage.
#[derive(Debug, Clone)]
pub struct StageMetrics {
    metrics: Metrics,
    stage: &'static str,
    status: Arc<Status>,
}

/// Whether a stage is alive, and what it waits for.
#[derive(Debug, Default)]
struct Status {
    /// When the loop last ran, in milliseconds of the process's monotonic clock.
    ticked_ms: AtomicU64,
    waiting: Mutex<Waiting>,
}

impl StageMetrics {
    /// Metrics that nobody reads, for tests and for runs within one process.
    ///
    /// # Errors
    /// See [`Metrics::new`].
    pub fn unread(stage: &'static str) -> Result<Self, prometheus::Error> {
        Ok(Metrics::new()?.stage(stage))
    }

    fn of<'p>(&'p self, tp: &'p TopicPartition, partition: &'p str) -> [&'p str; 3] {
        [self.stage, &tp.topic, partition]
    }

    /// Notes that the loop has run, or that it waits in a call that is alive.
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

    /// How long the loop has not run.
    pub fn still_for(&self, now: Duration) -> Duration {
        now.saturating_sub(Duration::from_millis(self.status.ticked_ms.load(Ordering::Relaxed)))
    }

    /// What the stage waits for before it can work.
    pub fn waiting(&self) -> Waiting {
        self.status.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Name of the stage.
    pub fn name(&self) -> &'static str {
        self.stage
    }

    /// Records the time to compute a step.
    pub fn computed(&self, took: Duration) {
        self.metrics.step_duration.with_label_values(&[self.stage]).observe(took.as_secs_f64());
    }

    /// Adds the fates of records outside a step.
    pub fn counted(&self, fates: &Fates) {
        for (Fate { name, reason }, count) in fates {
            self.metrics.records.with_label_values(&[self.stage, *name, *reason]).inc_by(*count);
        }
    }

    /// Records a committed step: its fates, the number of written records, the duration and the wall-clock time.
    pub fn committed(&self, fates: &Fates, num_messages: usize, took: Duration, wall_us: i64) {
        self.counted(fates);
        self.metrics.messages.with_label_values(&[self.stage]).inc_by(num_messages as u64);
        self.metrics.steps.with_label_values(&[self.stage, "committed"]).inc();
        self.metrics.commit_duration.with_label_values(&[self.stage]).observe(took.as_secs_f64());
        self.metrics.last_progress.with_label_values(&[self.stage]).set(wall_us as f64 / 1e6);
    }

    /// Adds the events of a committed step, by topic and kind.
    pub fn read_from_sources(&self, events: &BTreeMap<(String, &'static str), u64>) {
        for ((topic, kind), count) in events {
            self.metrics.source.events.with_label_values(&[self.stage, topic, *kind]).inc_by(*count);
        }
    }

    /// Records a failed commit: `aborted`, `too_large`, or `lost` if the verdict is unknown.
    pub fn not_committed(&self, outcome: &'static str) {
        self.metrics.steps.with_label_values(&[self.stage, outcome]).inc();
    }

    /// Records how old the oldest record of a committed step was.
    pub fn waited(&self, since_ms: i64, wall_us: i64) {
        let waited_s = wall_us.saturating_sub(since_ms.saturating_mul(1000)).max(0) as f64 / 1e6;
        self.metrics.event_to_commit.with_label_values(&[self.stage]).observe(waited_s);
    }

    /// Sets how many records a partition is behind.
    pub fn lag(&self, tp: &TopicPartition, records: i64) {
        self.metrics.partition.lag.with_label_values(&self.of(tp, &tp.partition.to_string())).set(records.max(0));
    }

    /// Sets the position of a partition.
    pub fn position(&self, tp: &TopicPartition, next: NextOffset) {
        self.metrics.partition.position.with_label_values(&self.of(tp, &tp.partition.to_string())).set(next.0);
    }

    /// The last known lag of all partitions together, in records.
    pub fn total_lag(&self) -> i64 {
        let is_own = |metric: &prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| label.name() == "stage" && label.value() == self.stage)
        };
        let lags = self.metrics.partition.lag.collect();
        let own = lags.iter().flat_map(|family| family.get_metric()).filter(|metric| is_own(metric));
        own.map(|metric| metric.get_gauge().get_value() as i64).sum()
    }

    /// Sets how many offsets lie behind the last stable offset of a partition that is read up to it.
    pub fn hidden(&self, tp: &TopicPartition, offsets: i64) {
        self.metrics.partition.hidden.with_label_values(&self.of(tp, &tp.partition.to_string())).set(offsets.max(0));
    }

    /// Sets whether a source waits because it is ahead of others in event time.
    pub fn source_waits(&self, tp: &TopicPartition, is_waiting: bool) {
        let partition = tp.partition.to_string();
        self.metrics.partition.waiting.with_label_values(&self.of(tp, &partition)).set(i64::from(is_waiting));
    }

    /// Sets the metrics of a partition's state.
    pub fn show(&self, tp: &TopicPartition, gauges: Gauges) {
        let partition = tp.partition.to_string();
        if let Some(watermark_us) = gauges.watermark_us {
            self.metrics.partition.watermark.with_label_values(&self.of(tp, &partition)).set(watermark_us as f64 / 1e6);
        }
        if let Some(num_accounts) = gauges.num_accounts {
            self.metrics.partition.accounts.with_label_values(&self.of(tp, &partition)).set(num_accounts as i64);
        }
        if let Some(version) = gauges.model_version {
            self.metrics.partition.model.with_label_values(&self.of(tp, &partition)).set(version);
        }
        if let (Some(num_ids), Some(id_bytes)) = (gauges.num_ids, gauges.id_bytes) {
            self.metrics.partition.ids.with_label_values(&self.of(tp, &partition)).set(num_ids as i64);
            self.metrics.partition.id_bytes.with_label_values(&self.of(tp, &partition)).set(id_bytes as i64);
        }
        if let Some(num_held) = gauges.num_held {
            self.metrics.partition.held.with_label_values(&self.of(tp, &partition)).set(num_held as i64);
        }
        for (source, share) in &gauges.source_shares {
            self.metrics.source.share.with_label_values(&[self.stage, source]).set(*share);
        }
        if let Some(most) = gauges.id_max_bytes {
            self.metrics.id_max_bytes.with_label_values(&[self.stage]).set(i64::try_from(most).unwrap_or(i64::MAX));
        }
    }

    /// Records that the state of a partition was saved. The stage did not run for `pause`.
    pub fn saved(&self, tp: &TopicPartition, num_bytes: usize, pause: Duration, wall_us: i64) {
        let partition = tp.partition.to_string();
        self.metrics.partition.state_bytes.with_label_values(&self.of(tp, &partition)).set(num_bytes as i64);
        self.metrics.partition.snapshot.with_label_values(&self.of(tp, &partition)).set(wall_us as f64 / 1e6);
        self.metrics.partition.snapshot_pause.with_label_values(&self.of(tp, &partition)).set(pause.as_secs_f64());
    }

    /// Records the answer to a request: the door, the status and the reason; the number of records, and the duration.
    pub fn answered(&self, (door, status, reason): (&str, u16, &str), num_records: usize, took: Duration) {
        self.metrics.requests.with_label_values(&[self.stage, door, &status.to_string(), reason]).inc();
        self.metrics.request_duration.with_label_values(&[self.stage, door]).observe(took.as_secs_f64());
        self.metrics.messages.with_label_values(&[self.stage]).inc_by(num_records as u64);
    }

    /// Records the end of an audit.
    pub fn audited(&self, num_judged: usize, num_drift: usize, num_unknown: usize, wall_us: i64) {
        self.metrics.audited.with_label_values(&[self.stage, "true"]).set(num_judged as i64);
        self.metrics.audited.with_label_values(&[self.stage, "false"]).set(num_unknown as i64);
        self.metrics.drift.with_label_values(&[self.stage]).set(num_drift as i64);
        self.metrics.audit.with_label_values(&[self.stage]).set(wall_us as f64 / 1e6);
    }

    /// Removes the metrics of a partition that is no longer owned.
    pub fn forget(&self, tp: &TopicPartition) {
        let partition = tp.partition.to_string();
        let labels = self.of(tp, &partition);
        let series = self.metrics.partition.forget(&labels);
        tracing::debug!(partition = %tp, series, "series removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards and alerts depend on these names. Changing one affects every user.
    const TYPES: &str = "\
keepwell_alerts_held gauge
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
keepwell_report_accounts gauge
keepwell_report_figure gauge
keepwell_report_groups_left_out gauge
keepwell_report_newest_timestamp_seconds gauge
keepwell_report_timestamp_seconds gauge
keepwell_report_triggers_active gauge
keepwell_request_duration_seconds histogram
keepwell_requests_total counter
keepwell_snapshot_pause_seconds gauge
keepwell_snapshot_timestamp_seconds gauge
keepwell_source_events_total counter
keepwell_source_share gauge
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
        stage.read_from_sources(&[(("product-usage".to_owned(), "usage"), 9)].into());
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
                num_held: Some(3),
                source_shares: vec![("product-usage".into(), 0.25)],
            },
        );
        stage.saved(&tp, 1000, Duration::from_millis(3), 7_000_000);
        stage.source_waits(&tp, true);
        stage.hidden(&tp, 2);
        stage.audited(9, 0, 1, 7_000_000);
        let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let reported = Reported {
            figures: vec![(labels(&["quarter", "all", "nrr", "EUR"]).try_into().unwrap(), 105.0)],
            accounts: vec![(labels(&["all", "red"]).try_into().unwrap(), 3)],
            triggers: vec![(labels(&["usage_drop", "high"]).try_into().unwrap(), 3)],
            ..Reported::default()
        };
        stage.reported(&reported, 7_000_000);
        stage.answered(("segment", 503, "unavailable"), 0, Duration::from_millis(5));
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
