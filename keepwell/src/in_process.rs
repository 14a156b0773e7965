//! A whole deployment in one process, on the in-memory log: the same stages, without a broker.

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

/// Name of the only member of each group.
const INSTANCE: &str = "in-process";

/// Makes a broker with the topics of a configuration. Each raw topic gets `raw_partitions` partitions.
pub fn broker(config: &Config, raw_partitions: i32) -> MemoryBroker {
    let broker = MemoryBroker::default();
    for topic in config.topics.all() {
        broker.create_topic(topic, config.partitions);
        // The same limit that `keepwell topics apply` sets.
        broker.limit(topic, config.kafka.max_record_bytes + 100_000);
    }
    for source in &config.sources {
        broker.create_topic(&source.topic, raw_partitions);
    }
    broker
}

/// What the stages of a deployment on the in-memory log share.
#[derive(Debug)]
pub struct InMemory<'d, 's, C> {
    /// The broker that keeps the log.
    pub broker: &'d MemoryBroker,
    /// The configuration.
    pub config: &'d Config,
    /// Options of the run.
    pub args: &'d RunArgs,
    /// The clock of the stages.
    pub clock: &'s C,
}

impl<'s, C: Clock> InMemory<'_, 's, C> {
    /// A new member of a stage's group, with the configured snapshots. It has not read anything yet.
    ///
    /// # Errors
    /// When a topic is missing or the snapshot store cannot be opened.
    pub fn runner<S>(&self, stage: &'s S, plan: &Plan) -> Result<Runner<'s, S, MemoryLog, C>>
    where
        S: Stage,
        S::State: Default,
    {
        let options = &self.config.snapshots;
        let snapshots = stage.is_stateful().then(|| Snapshots::open(&options.url, options.keep)).transpose()?;
        self.member(stage, plan, snapshots)
    }

    /// The same, with the given snapshots or with none.
    ///
    /// # Errors
    /// When a topic is missing.
    pub fn member<S>(
        &self,
        stage: &'s S,
        plan: &Plan,
        snapshots: Option<Snapshots>,
    ) -> Result<Runner<'s, S, MemoryLog, C>>
    where
        S: Stage,
        S::State: Default,
    {
        let session = self.session(stage.name(), plan)?;
        Ok(Runner::new(stage, session, snapshots, plan.options(self.config, self.args)))
    }

    /// Runs a stage until it is drained.
    ///
    /// # Errors
    /// When the stage stops with a named error.
    pub fn drain<S>(&self, stage: &'s S, plan: &Plan) -> Result<Report>
    where
        S: Stage,
        S::State: Default,
    {
        Ok(self.runner(stage, plan)?.run(&AtomicBool::new(false))?)
    }

    fn session(&self, stage: &'static str, plan: &Plan) -> Result<Session<MemoryLog, &'s C>> {
        let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
        let log = self.broker.join(stage, INSTANCE, &sources)?;
        Ok(Session::new(log, self.clock, StageMetrics::unread(stage)?))
    }
}

/// Removes all records of a topic, as retention does.
///
/// # Errors
/// When there is no such topic.
pub fn expire(broker: &MemoryBroker, topic: &str) -> Result<()> {
    let ends: BTreeMap<TopicPartition, NextOffset> =
        broker.records(topic).into_iter().map(|record| (record.topic_partition, record.offset.next())).collect();
    ends.iter().try_for_each(|(tp, end)| Ok(broker.expire(tp, *end)?))
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
    /// Makes the stages from a configuration.
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

/// All stages on one broker, each with its current state.
#[derive(Debug)]
pub struct InProcess<'s, C: Clock> {
    ingest: Runner<'s, Ingest, MemoryLog, C>,
    aggregate: Runner<'s, Aggregate, MemoryLog, C>,
    score: Runner<'s, Score, MemoryLog, C>,
    publish: Runner<'s, Publish, MemoryLog, C>,
    tables: Option<Tables<'s, MemoryLog, C>>,
}

/// The fates of all records, stage by stage, since the start.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    /// Counts records of the raw topics.
    pub ingest: Fates,
    /// Counts accepted events.
    pub aggregate: Fates,
    /// Counts accounts in window rows.
    pub score: Fates,
    /// Counts health rows.
    pub publish: Fates,
    /// Counts rows for the tables.
    pub tables: Fates,
}

impl<'s, C: Clock> InProcess<'s, C> {
    /// The stages on a broker, before they have read anything. Without `tables` in the configuration, no tables are
    /// written.
    ///
    /// # Errors
    /// When the store of the snapshots or of the tables cannot be opened.
    pub fn new(stages: &'s Stages, place: &InMemory<'_, 's, C>) -> Result<Self> {
        let options = &place.config.snapshots;
        Self::with(stages, place, || Ok(Some(Snapshots::open(&options.url, options.keep)?)))
    }

    /// The same without snapshots: the state ends with the process, as does the log.
    ///
    /// # Errors
    /// When the store of the tables cannot be opened.
    pub fn unsaved(stages: &'s Stages, place: &InMemory<'_, 's, C>) -> Result<Self> {
        Self::with(stages, place, || Ok(None))
    }

    fn with(
        stages: &'s Stages,
        place: &InMemory<'_, 's, C>,
        snapshots: impl Fn() -> Result<Option<Snapshots>>,
    ) -> Result<Self> {
        let config = place.config;
        let tables = config.tables.as_ref().map(|tables| {
            let session = place.session("tables", &keepwell_sink::tables::plan(config))?;
            anyhow::Ok(Tables::new(session, config, tables, place.args)?)
        });
        Ok(Self {
            ingest: place.member(&stages.ingest, &keepwell_ingest::plan(config), None)?,
            aggregate: place.member(&stages.aggregate, &keepwell_aggregate::plan(config), snapshots()?)?,
            score: place.member(&stages.score, &keepwell_score::plan(config), snapshots()?)?,
            publish: place.member(&stages.publish, &keepwell_sink::publish_plan(config), snapshots()?)?,
            tables: tables.transpose()?,
        })
    }

    /// Declares that no source has an event after its current end, so that the last pane closes too.
    pub fn declare_complete(&mut self) {
        self.ingest.declare_complete();
    }

    /// Runs one stage after another until each is drained.
    ///
    /// # Errors
    /// When a stage stops with a named error.
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
    /// The fates of each stage, in the order of the stages.
    pub fn stages(&self) -> [(&'static str, &Fates); 5] {
        [
            ("ingest", &self.ingest),
            ("aggregate", &self.aggregate),
            ("score", &self.score),
            ("publish", &self.publish),
            ("tables", &self.tables),
        ]
    }

    /// Adds the counts of another run.
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
