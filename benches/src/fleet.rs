//! A deployment in memory, with one runner for each stage, so that a measurement can run one stage after another.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result};
use keepwell::in_process::{self, InMemory};
use keepwell_aggregate::Aggregate;
use keepwell_core::offset::{NextOffset, Position, TopicPartition};
use keepwell_ingest::Ingest;
use keepwell_pipeline::clock::SetClock;
use keepwell_pipeline::config::{Config, Topics};
use keepwell_pipeline::log::memory::{MemoryBroker, MemoryLog};
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::partition_loop::{Session, Worker};
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::runner::Runner;
use keepwell_pipeline::snapshot::parts::{SavedRevisions, all_bytes};
use keepwell_pipeline::stage::{Fate, Stage};
use keepwell_score::Score;
use keepwell_sink::Tables;
use keepwell_sink::publish::Publish;
use serde_json::{Value, json};

/// A stage at work.
pub type On<'s, S> = Runner<'s, S, MemoryLog, SetClock>;

/// The deployment, with the state of each stage. It has no snapshots, because they are saved beside the work.
pub struct Fleet<'s> {
    /// The configuration of all stages.
    pub config: &'s Config,
    /// The log.
    pub broker: &'s MemoryBroker,
    /// The time of all stages.
    pub clock: &'s SetClock,
    ingest: On<'s, Ingest>,
    /// Aggregate, for its state.
    pub aggregate: On<'s, Aggregate>,
    /// Score, for its state.
    pub score: On<'s, Score>,
    publish: On<'s, Publish>,
    tables: Tables<'s, MemoryLog, SetClock>,
}

/// The stages of the deployment, without their states.
pub struct Stages {
    ingest: Ingest,
    /// For states of aggregate.
    pub aggregate: Aggregate,
    /// For states of score.
    pub score: Score,
    publish: Publish,
}

impl Stages {
    /// The stages of a configuration.
    ///
    /// # Errors
    /// When a stage refuses the configuration.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            ingest: Ingest::new(config)?,
            aggregate: Aggregate::new(config),
            score: Score::new(config)?,
            publish: Publish::new(config),
        })
    }
}

impl<'s> Fleet<'s> {
    /// The deployment at its start.
    ///
    /// # Errors
    /// When a stage cannot start.
    pub fn new(config: &'s Config, broker: &'s MemoryBroker, clock: &'s SetClock, stages: &'s Stages) -> Result<Self> {
        let args = RunArgs::drained(false);
        let place = InMemory { broker, config, args: &args, clock };
        let tables = config.tables.as_ref().context("no tables")?;
        let sources =
            [&config.topics.windows, &config.topics.feature_days, &config.topics.health, &config.topics.revenue];
        let log = broker.join("tables", "scale", &sources.map(String::as_str))?;
        Ok(Self {
            config,
            broker,
            clock,
            ingest: place.member(&stages.ingest, &keepwell_ingest::plan(config), None)?,
            aggregate: place.member(&stages.aggregate, &keepwell_aggregate::plan(config), None)?,
            score: place.member(&stages.score, &keepwell_score::plan(config), None)?,
            publish: place.member(&stages.publish, &keepwell_sink::publish_plan(config), None)?,
            tables: Tables::new(Session::new(log, clock, StageMetrics::unread("tables")?), config, tables, &args)?,
        })
    }

    /// Runs all stages. Returns the seconds of ingest, aggregate, score, publish and tables, and the number of scores.
    ///
    /// # Errors
    /// When a stage stops with an error.
    pub fn turn(&mut self) -> Result<([f64; 5], u64)> {
        let go_on = AtomicBool::new(false);
        let ingest = timed(|| self.ingest.run(&go_on).map(|_| ()))?;
        let aggregate = timed(|| self.aggregate.run(&go_on).map(|_| ()))?;
        let before = self.num_scored();
        let score = timed(|| self.score.run(&go_on).map(|_| ()))?;
        let scored = self.num_scored() - before;
        let publish = timed(|| self.publish.run(&go_on).map(|_| ()))?;
        let tables = timed(|| self.tables.run(&go_on).map(|_| ()))?;
        Ok(([ingest, aggregate, score, publish, tables], scored))
    }

    /// Removes all records from the log.
    ///
    /// # Errors
    /// When there is no such topic.
    pub fn forget(&self) -> Result<()> {
        let Topics { events, windows, feature_days, revenue, health, scores, alerts, .. } = &self.config.topics;
        let raws = self.config.sources.iter().map(|source| &source.topic);
        for topic in raws.chain([events, windows, feature_days, revenue, health, scores, alerts]) {
            in_process::expire(self.broker, topic)?;
        }
        Ok(())
    }

    fn num_scored(&mut self) -> u64 {
        // A run that is stopped at once only returns the report.
        let report = self.score.run(&AtomicBool::new(true)).unwrap_or_default();
        report
            .fates
            .iter()
            .filter(|(fate, _)| **fate == Fate::of("scored") || **fate == Fate::of("unscored"))
            .map(|(_, n)| n)
            .sum()
    }
}

/// Measures the time to encode a state and to restore it, and its size in bytes: in a snapshot, and in memory.
///
/// # Errors
/// When the state cannot be written or restored.
pub fn state<S: Stage<State: Default + Clone>>(
    stage: &S,
    state: &S::State,
    topic: &str,
    partitions: i32,
) -> Result<Value> {
    let (mut bytes, mut save_s, mut restore_s) = (0, 0.0, 0.0);
    for partition in 0..partitions {
        let (tp, at) = (TopicPartition::new(topic, partition), Position::at(NextOffset(0)));
        let started = Instant::now();
        let saved = all_bytes(stage.snapshot(state, &tp, &SavedRevisions::new())?).context("a part is missing")?;
        save_s += started.elapsed().as_secs_f64();
        bytes += saved.values().map(Vec::len).sum::<usize>();
        let mut again = S::State::default();
        restore_s += timed(|| stage.restore(&mut again, &tp, at, Some(&saved)))?;
    }
    let (_copy, before) = (state.clone(), resident_bytes()?);
    // The first copy takes what the process has freed. The second one needs pages of its own, if what was freed has been
    // given back: with MIMALLOC_PURGE_DELAY=0.
    let _another = state.clone();
    let in_memory = resident_bytes()?.saturating_sub(before);
    println!(
        "{}: {bytes} bytes of state, {in_memory} in memory, written in {save_s:.2} s, made again in {restore_s:.2} s",
        stage.name()
    );
    Ok(json!({"bytes": bytes, "in_memory_bytes": in_memory, "save_s": save_s, "restore_s": restore_s}))
}

/// The memory of this process that is in use.
fn resident_bytes() -> Result<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm")?;
    let resident = pages.split_whitespace().nth(1).context("/proc/self/statm has no second number")?;
    Ok(resident.parse::<usize>()? * 4096)
}

/// Seconds that something takes.
///
/// # Errors
/// When it fails.
pub fn timed<E: Into<anyhow::Error>>(work: impl FnOnce() -> std::result::Result<(), E>) -> Result<f64> {
    let started = Instant::now();
    work().map_err(Into::into)?;
    Ok(started.elapsed().as_secs_f64())
}
