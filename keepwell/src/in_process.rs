//! A whole deployment in one process, on the in-memory log: the same stages, no broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use keepwell_aggregate::Aggregate;
use keepwell_core::offset::{NextOffset, TopicPartition};
use keepwell_ingest::Ingest;
use keepwell_pipeline::clock::Clock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::memory::{MemoryBroker, MemoryLog};
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::partition_loop::{Report, Session, Worker};
use keepwell_pipeline::process::{Plan, RunArgs};
use keepwell_pipeline::runner::Runner;

use keepwell_pipeline::snapshot::Snapshots;
use keepwell_pipeline::stage::{Fates, Stage, add_fates};
use keepwell_score::Score;
use keepwell_sink::{Publish, Tables};

/// The only member of each group.
const INSTANCE: &str = "in-process";

/// A broker with the topics of a configuration; raw topics have this many partitions.
pub fn broker(config: &Config, raw_partitions: i32) -> MemoryBroker {
    let broker = MemoryBroker::default();
    for topic in config.topics.all() {
        broker.create_topic(topic, config.partitions);
        // As `topics apply` sets it.
        broker.limit(topic, config.kafka.max_record_bytes + 100_000);
    }
    for source in &config.sources {
        broker.create_topic(&source.topic, raw_partitions);
    }
    broker
}

/// A member of a stage's group on the broker, that has not read anything yet.
///
/// # Errors
/// When the snapshots' place cannot be opened.
pub fn runner<'s, S, C>(
    stage: &'s S,
    plan: &Plan,
    broker: &MemoryBroker,
    config: &Config,
    args: &RunArgs,
    clock: &'s C,
) -> Result<Runner<'s, S, MemoryLog, C>>
where
    S: Stage,
    S::State: Default,
    C: Clock,
{
    let snapshots =
        stage.is_stateful().then(|| Snapshots::open(&config.snapshots.url, config.snapshots.keep)).transpose()?;
    member(stage, plan, broker, config, args, (clock, snapshots))
}

/// The same with these snapshots, or without any.
///
/// # Errors
/// When a topic is missing.
pub fn member<'s, S, C>(
    stage: &'s S,
    plan: &Plan,
    broker: &MemoryBroker,
    config: &Config,
    args: &RunArgs,
    (clock, snapshots): (&'s C, Option<Snapshots>),
) -> Result<Runner<'s, S, MemoryLog, C>>
where
    S: Stage,
    S::State: Default,
    C: Clock,
{
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let log = broker.join(stage.name(), INSTANCE, &sources)?;
    let metrics = StageMetrics::unread(stage.name())?;
    Ok(Runner::new(stage, Session::new(log, clock, metrics), snapshots, plan.options(config, args)))
}

/// Removes every record of a topic, as retention does.
///
/// # Errors
/// When there is no such topic.
pub fn expire(broker: &MemoryBroker, topic: &str) -> Result<()> {
    let ends: BTreeMap<TopicPartition, NextOffset> =
        broker.records(topic).into_iter().map(|record| (record.topic_partition, record.offset.next())).collect();
    ends.iter().try_for_each(|(tp, end)| Ok(broker.expire(tp, *end)?))
}

/// Runs a stage on the broker until it is drained.
///
/// # Errors
/// When the stage stops by name.
pub fn drain<S, C>(
    stage: &S,
    plan: &Plan,
    broker: &MemoryBroker,
    config: &Config,
    args: &RunArgs,
    clock: &C,
) -> Result<Report>
where
    S: Stage,
    S::State: Default,
    C: Clock,
{
    Ok(runner(stage, plan, broker, config, args, clock)?.run(&AtomicBool::new(false))?)
}

/// The stages of a deployment.
#[derive(Debug)]
pub struct Stages {
    ingest: Ingest,
    aggregate: Aggregate,
    score: Score,
    publish: Publish,
}

impl Stages {
    /// The stages as configured.
    ///
    /// # Errors
    /// When the configuration or the model file is refused.
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            ingest: Ingest::new(config)?,
            aggregate: keepwell_aggregate::stage(config)?,
            score: Score::new(config)?,
            publish: Publish::new(config),
        })
    }
}

/// All stages on one broker, each with the state it has come to.
#[derive(Debug)]
pub struct InProcess<'s, C: Clock> {
    ingest: Runner<'s, Ingest, MemoryLog, C>,
    aggregate: Runner<'s, Aggregate, MemoryLog, C>,
    score: Runner<'s, Score, MemoryLog, C>,
    publish: Runner<'s, Publish, MemoryLog, C>,
    tables: Option<Tables<'s, MemoryLog, C>>,
}

/// What became of everything, stage by stage, since the start.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    /// Records of the raw topics.
    pub ingest: Fates,
    /// Accepted events.
    pub aggregate: Fates,
    /// Accounts in window rows.
    pub score: Fates,
    /// Health rows.
    pub publish: Fates,
    /// Rows for the tables.
    pub tables: Fates,
}

impl<'s, C: Clock> InProcess<'s, C> {
    /// The stages on a broker, before they have read anything. Without `tables` in the configuration
    /// no tables are written.
    ///
    /// # Errors
    /// When a place for snapshots or tables cannot be opened.
    pub fn new(
        stages: &'s Stages,
        broker: &MemoryBroker,
        config: &Config,
        args: &RunArgs,
        clock: &'s C,
    ) -> Result<Self> {
        let snapshots = || Ok(Some(Snapshots::open(&config.snapshots.url, config.snapshots.keep)?));
        Self::with(stages, broker, config, args, (clock, snapshots))
    }

    /// The same without snapshots: the state ends with the process, and so does the log.
    ///
    /// # Errors
    /// When the place of the tables cannot be opened.
    pub fn unsaved(
        stages: &'s Stages,
        broker: &MemoryBroker,
        config: &Config,
        args: &RunArgs,
        clock: &'s C,
    ) -> Result<Self> {
        Self::with(stages, broker, config, args, (clock, || Ok(None)))
    }

    fn with(
        stages: &'s Stages,
        broker: &MemoryBroker,
        config: &Config,
        args: &RunArgs,
        (clock, snapshots): (&'s C, impl Fn() -> Result<Option<Snapshots>>),
    ) -> Result<Self> {
        let tables = config.tables.as_ref().map(|tables| {
            let plan = keepwell_sink::tables::plan(config);
            let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
            let metrics = StageMetrics::unread("tables")?;
            let log = broker.join("tables", INSTANCE, &sources)?;
            anyhow::Ok(Tables::new(Session::new(log, clock, metrics), config, tables, args)?)
        });
        Ok(Self {
            ingest: member(&stages.ingest, &keepwell_ingest::plan(config), broker, config, args, (clock, None))?,
            aggregate: member(
                &stages.aggregate,
                &keepwell_aggregate::plan(config),
                broker,
                config,
                args,
                (clock, snapshots()?),
            )?,
            score: member(&stages.score, &keepwell_score::plan(config), broker, config, args, (clock, snapshots()?))?,
            publish: member(
                &stages.publish,
                &keepwell_sink::publish_plan(config),
                broker,
                config,
                args,
                (clock, None),
            )?,
            tables: tables.transpose()?,
        })
    }

    /// From now on no event follows in any source that is read to its end, so that the last pane closes, too.
    pub fn declare_complete(&mut self) {
        self.ingest.declare_complete();
    }

    /// Runs stage after stage until each is drained.
    ///
    /// # Errors
    /// When a stage stops by name.
    pub fn drain(&mut self) -> Result<Ledger> {
        let go_on = Arc::new(AtomicBool::new(false));
        Ok(Ledger {
            ingest: self.ingest.run(&go_on).context("ingest")?.fates,
            aggregate: self.aggregate.run(&go_on).context("aggregate")?.fates,
            score: self.score.run(&go_on).context("score")?.fates,
            publish: self.publish.run(&go_on).context("publish")?.fates,
            tables: match &mut self.tables {
                Some(tables) => tables.run(&go_on).context("tables")?.fates,
                None => Fates::new(),
            },
        })
    }
}

impl Ledger {
    /// Stage by stage, in their order.
    pub fn stages(&self) -> [(&'static str, &Fates); 5] {
        [
            ("ingest", &self.ingest),
            ("aggregate", &self.aggregate),
            ("score", &self.score),
            ("publish", &self.publish),
            ("tables", &self.tables),
        ]
    }

    /// Takes the counts of another run in.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.ingest, &other.ingest),
            (&mut self.aggregate, &other.aggregate),
            (&mut self.score, &other.score),
            (&mut self.publish, &other.publish),
            (&mut self.tables, &other.tables),
        ] {
            add_fates(mine, theirs);
        }
    }
}
