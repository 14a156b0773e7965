//! A deployment in which a seed decides the order of the processes' turns.
//!
//! A turn is one round of a process's loop. At each call to the log or to the store of the tables, other processes may
//! take turns, and the process may end. So every interleaving of calls can happen.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use anyhow::{Context, Result};
use keepwell_aggregate::Aggregate;
use keepwell_core::codec;
use keepwell_core::offset::TopicPartition;
use keepwell_ingest::Ingest;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::memory::MemoryBroker;
use keepwell_pipeline::metrics::{Metrics, StageMetrics};
use keepwell_pipeline::partition_loop::{Session, Worker};
use keepwell_pipeline::process::{Plan, RunArgs};
use keepwell_pipeline::record::Message;
use keepwell_pipeline::runner::Runner;
use keepwell_pipeline::snapshot::Snapshots;
use keepwell_pipeline::snapshot::parts::{SavedRevisions, SnapshotBytes, all_bytes};
use keepwell_pipeline::stage::Stage;
use keepwell_score::Score;
use keepwell_sink::{Publish, Tables};
use object_store::memory::InMemory;

use super::chaos::{Chaos, Fault};
use super::log::SimLog;
use super::place::{Shared, SimStore};
use super::time::{SimClock, Time};
use crate::invariant::Invariant;

/// Most processes of a stage.
pub const MOST: usize = 4;
/// Most accounts of a fleet.
const MOST_ACCOUNTS: usize = 8;
/// Maximum depth of turns within turns.
const DEPTH: u32 = 3;

/// A stage of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads raw topics, writes `events`.
    Ingest,
    /// Reads `events`, writes windows.
    Aggregate,
    /// Reads windows, writes health.
    Score,
    /// Reads health, writes `scores` and `alerts`.
    Publish,
    /// Writes final rows to files.
    Tables,
}

/// All kinds, in the order of the pipeline.
pub const KINDS: [Kind; 5] = [Kind::Ingest, Kind::Aggregate, Kind::Score, Kind::Publish, Kind::Tables];

impl Kind {
    /// Name of the stage's consumer group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Aggregate => "aggregate",
            Self::Score => "score",
            Self::Publish => "publish",
            Self::Tables => "tables",
        }
    }
}

/// The stages of a deployment, shared by its processes.
#[derive(Debug)]
pub struct Stages {
    /// The configuration.
    pub config: Config,
    /// The ingest stage.
    pub ingest: Ingest,
    /// The aggregate stage, with the slice size of the simulation.
    pub aggregate: Aggregate,
    /// The score stage.
    pub score: Score,
    /// The publish stage.
    pub publish: Publish,
    /// About the number of rows in a slice of a close.
    pub slice_rows: usize,
}

impl Stages {
    /// Makes the stages from a configuration. A slice of a close has about `slice_rows` rows. A record of events has at
    /// most `event_record_bytes` bytes.
    ///
    /// # Errors
    /// When a stage refuses its configuration.
    pub fn new(config: Config, slice_rows: usize, event_record_bytes: usize) -> Result<Self> {
        let mut of_ingest = config.clone();
        of_ingest.kafka.max_record_bytes = event_record_bytes;
        Ok(Self {
            ingest: Ingest::new(&of_ingest)?,
            aggregate: Aggregate::new(&config).with_slices_of(slice_rows),
            score: Score::new(&config)?,
            publish: Publish::new(&config).with_slices_of(slice_rows / 10),
            slice_rows,
            config,
        })
    }

    /// What a stage reads and writes.
    pub fn plan(&self, kind: Kind) -> Plan {
        match kind {
            Kind::Ingest => keepwell_ingest::plan(&self.config),
            Kind::Aggregate => keepwell_aggregate::plan(&self.config),
            Kind::Score => keepwell_score::plan(&self.config),
            Kind::Publish => keepwell_sink::publish_plan(&self.config),
            Kind::Tables => keepwell_sink::tables::plan(&self.config),
        }
    }
}

type On<'s, S> = Box<Runner<'s, S, SimLog<'s>, SimClock>>;

enum Process<'s> {
    Ingest(On<'s, Ingest>),
    Aggregate(On<'s, Aggregate>),
    Score(On<'s, Score>),
    Publish(On<'s, Publish>),
    Tables(Box<Tables<'s, SimLog<'s>, SimClock>>),
}

impl Process<'_> {
    fn turn(&mut self) -> Result<(), String> {
        let turned = match self {
            Self::Ingest(runner) => runner.turn(),
            Self::Aggregate(runner) => runner.turn(),
            Self::Score(runner) => runner.turn(),
            Self::Publish(runner) => runner.turn(),
            Self::Tables(tables) => return tables.turn().map(|_| ()).map_err(|error| error.to_string()),
        };
        turned.map(|_| ()).map_err(|error| error.to_string())
    }
}

/// A slot for a process.
struct Slot<'s> {
    kind: Kind,
    instance: String,
    clock: &'s SimClock,
    process: RefCell<Option<Process<'s>>>,
    is_dead: RefCell<Rc<Cell<bool>>>,
    /// Ticks during which the process does nothing.
    frozen: Cell<u32>,
}

/// The deployment, its faults and its outputs.
pub struct World<'s> {
    /// The broker with the log.
    pub broker: MemoryBroker,
    /// The source of faults.
    pub chaos: Chaos,
    /// The true time.
    pub time: Rc<Time>,
    /// The objects that the tables stage has written.
    pub objects: Shared,
    /// The stages of the deployment.
    pub stages: &'s Stages,
    snapshots: Arc<InMemory>,
    slots: Vec<Slot<'s>>,
    metrics: Metrics,
    itself: Weak<World<'s>>,
    depth: Cell<u32>,
    unreachable: RefCell<BTreeMap<TopicPartition, u32>>,
    failure: RefCell<Option<String>>,
    num_turns: Cell<u64>,
    num_read: Cell<u64>,
    num_paused: Cell<u64>,
    with_tables: bool,
}

impl<'s> World<'s> {
    /// A world without running processes. `clocks` has one clock for every slot: [`MOST`] for each kind.
    ///
    /// # Errors
    /// When the metrics cannot be created.
    pub fn new(
        stages: &'s Stages,
        clocks: &'s [SimClock],
        time: &Rc<Time>,
        chaos: Chaos,
        with_tables: bool,
    ) -> Result<Rc<Self>> {
        let slot = |(n, clock): (usize, &'s SimClock)| Slot {
            kind: KINDS[n / MOST],
            instance: (n % MOST).to_string(),
            clock,
            process: RefCell::new(None),
            is_dead: RefCell::default(),
            frozen: Cell::new(0),
        };
        let slots = clocks.iter().take(KINDS.len() * MOST).enumerate().map(slot).collect();
        let metrics = Metrics::new()?;
        Ok(Rc::new_cyclic(|itself| Self {
            broker: MemoryBroker::default(),
            chaos,
            time: Rc::clone(time),
            objects: Shared::default(),
            stages,
            snapshots: Arc::new(InMemory::new()),
            slots,
            metrics,
            itself: itself.clone(),
            depth: Cell::new(0),
            unreachable: RefCell::default(),
            failure: RefCell::default(),
            num_turns: Cell::new(0),
            num_read: Cell::new(0),
            num_paused: Cell::new(0),
            with_tables,
        }))
    }

    /// The kinds that take part.
    pub fn kinds(&self) -> &'static [Kind] {
        if self.with_tables { &KINDS } else { &KINDS[..4] }
    }

    /// Records a broken promise. Only the first one is kept.
    pub fn fail(&self, why: String) {
        self.failure.borrow_mut().get_or_insert(why);
    }

    /// The first broken promise, if any.
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Number of turns so far.
    pub fn num_turns(&self) -> u64 {
        self.num_turns.get()
    }

    /// Checks that a transaction contains only a few slices of a close, however large the close is.
    pub fn judge_size(&self, messages: &[Message]) {
        let topic = &self.stages.config.topics.windows;
        let schema = self.stages.config.aggregate.layout().schema();
        let mut rows_of: BTreeMap<i32, usize> = BTreeMap::new();
        for message in messages.iter().filter(|message| message.topic.as_ref() == topic) {
            let batch = message.value.as_ref().and_then(|value| codec::decode(value, &schema).ok());
            *rows_of.entry(message.partition).or_default() += batch.map_or(0, |batch| batch.num_rows());
        }
        // At most eight slices, each with one account too many, or live rows of all accounts.
        let most = (8 * (self.stages.slice_rows + 1)).max(MOST_ACCOUNTS);
        if let Some((partition, num_rows)) = rows_of.into_iter().find(|(_, num_rows)| *num_rows > most) {
            self.fail(format!(
                "{}: a transaction holds {num_rows} window rows of partition {partition}, at most {most} are promised",
                Invariant::WorkIsBounded
            ));
        }
    }

    /// Counts records that were read. Replay shows only in this count.
    pub fn was_read(&self, num_records: usize) {
        self.num_read.set(self.num_read.get() + num_records as u64);
    }

    /// Counts sources that must wait for others.
    pub fn was_paused(&self, num_partitions: usize) {
        self.num_paused.set(self.num_paused.get() + num_partitions as u64);
    }

    /// How often a source had to wait for others.
    pub fn num_paused(&self) -> u64 {
        self.num_paused.get()
    }

    /// A value that changes whenever something happens.
    pub fn progress(&self) -> (u64, u64, usize) {
        (self.broker.version(), self.num_read.get(), self.objects.borrow().len())
    }

    /// The partitions that cannot be reached.
    pub fn unreachable(&self) -> BTreeSet<TopicPartition> {
        self.unreachable.borrow().keys().cloned().collect()
    }

    /// Makes a partition unreachable for some ticks.
    pub fn hide(&self, tp: TopicPartition, ticks: u32) {
        self.unreachable.borrow_mut().insert(tp, ticks);
    }

    /// The slots of a kind with, or without, a running process.
    pub fn slots_of(&self, kind: Kind, is_running: bool) -> Vec<usize> {
        let runs = |slot: &Slot<'_>| slot.process.borrow().is_some();
        let found = self.slots.iter().enumerate().filter(|(_, slot)| slot.kind == kind && runs(slot) == is_running);
        found.map(|(n, _)| n).collect()
    }

    /// Starts a process in an empty slot.
    ///
    /// # Errors
    /// When a stage or its store refuses.
    pub fn start(&self, n: usize) -> Result<()> {
        let slot = &self.slots[n];
        let is_dead = Rc::new(Cell::new(false));
        let plan = self.stages.plan(slot.kind);
        let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
        let log = self.broker.join(slot.kind.group(), &slot.instance, &sources)?;
        let log = SimLog::new(log, self.itself.clone(), n, Rc::clone(&is_dead));
        let process = match slot.kind {
            Kind::Ingest => Process::Ingest(self.runner(&self.stages.ingest, slot, &plan, log)?),
            Kind::Aggregate => Process::Aggregate(self.runner(&self.stages.aggregate, slot, &plan, log)?),
            Kind::Score => Process::Score(self.runner(&self.stages.score, slot, &plan, log)?),
            Kind::Publish => Process::Publish(self.runner(&self.stages.publish, slot, &plan, log)?),
            Kind::Tables => {
                let place = SimStore::new(Rc::clone(&self.objects), self.itself.clone(), n, Rc::clone(&is_dead));
                let config = &self.stages.config;
                let tables = config.tables.as_ref().ok_or_else(|| anyhow::anyhow!("no tables are configured"))?;
                let args = RunArgs { drain: false, instance: slot.instance.clone(), ..RunArgs::drained(false) };
                let metrics = self.metrics.clone().stage("tables");
                Process::Tables(Box::new(Tables::on(
                    Box::new(place),
                    Session::new(log, slot.clock, metrics),
                    config,
                    tables,
                    &args,
                )))
            }
        };
        slot.is_dead.replace(is_dead);
        slot.frozen.set(0);
        slot.process.replace(Some(process));
        Ok(())
    }

    fn runner<S>(&self, stage: &'s S, slot: &Slot<'s>, plan: &Plan, log: SimLog<'s>) -> Result<On<'s, S>>
    where
        S: Stage,
        S::State: Default,
    {
        let config = &self.stages.config;
        let snapshots = match stage.is_stateful() {
            true => Some(Snapshots::at_once(self.snapshots.clone(), config.snapshots.keep)?),
            false => None,
        };
        let options = plan.options(config, &RunArgs { drain: false, ..RunArgs::drained(false) });
        let metrics: StageMetrics = self.metrics.clone().stage(stage.name());
        Ok(Box::new(Runner::new(stage, Session::new(log, slot.clock, metrics), snapshots, options)))
    }

    /// Runs the loop of a slot's process once, if it runs and is not already in a turn.
    pub fn turn(&self, n: usize) {
        let slot = &self.slots[n];
        let Ok(mut process) = slot.process.try_borrow_mut() else { return };
        let Some(running) = process.as_mut().filter(|_| slot.frozen.get() == 0) else { return };
        self.num_turns.set(self.num_turns.get() + 1);
        let turned = running.turn();
        let is_dead = slot.is_dead.borrow().get();
        if let (Err(error), false) = (&turned, is_dead) {
            self.fail(format!("{} {} stopped: {error}", slot.kind.group(), slot.instance));
        }
        if is_dead || turned.is_err() {
            *process = None;
        }
    }

    /// Other processes may take turns while this slot's process waits for an answer.
    pub fn interleave(&self, n: usize, of_10_000: u32) {
        if self.depth.get() >= DEPTH || !self.chaos.strikes(Fault::Interleaved, of_10_000) {
            return;
        }
        self.depth.set(self.depth.get() + 1);
        for _ in 0..self.chaos.pick(1..12) {
            let other = self.chaos.pick(0..self.slots.len());
            if other != n {
                self.turn(other);
            }
        }
        self.depth.set(self.depth.get() - 1);
    }

    /// Ends the process of a slot at any point. Its membership stays until the session times out.
    pub fn kill(&self, n: usize) {
        let slot = &self.slots[n];
        slot.is_dead.borrow().set(true);
        if let Ok(mut process) = slot.process.try_borrow_mut() {
            *process = None;
        }
    }

    /// Lets the session of a slot's process time out.
    pub fn expel(&self, n: usize) {
        let slot = &self.slots[n];
        self.broker.expel(slot.kind.group(), &slot.instance);
    }

    /// Stops a slot's process for some ticks.
    pub fn freeze(&self, n: usize, ticks: u32) {
        self.slots[n].frozen.set(ticks);
    }

    /// Sets the error of a slot's wall clock.
    pub fn set_clock(&self, n: usize, skew_us: i64) {
        self.slots[n].clock.set_wrong_by(skew_us);
    }

    /// Lets one tick pass for everything that lasts a number of ticks.
    pub fn tick(&self) {
        for slot in &self.slots {
            slot.frozen.set(slot.frozen.get().saturating_sub(1));
        }
        self.unreachable.borrow_mut().retain(|_, ticks| {
            *ticks = ticks.saturating_sub(1);
            *ticks > 0
        });
    }

    /// Ends all lasting faults and the memberships of processes that have ended.
    pub fn heal(&self) {
        self.chaos.calm();
        self.unreachable.borrow_mut().clear();
        for (n, slot) in self.slots.iter().enumerate() {
            slot.frozen.set(0);
            slot.clock.set_wrong_by(0);
            if slot.process.borrow().is_none() {
                self.expel(n);
            }
        }
    }

    /// The objects of the snapshot store.
    pub fn snapshots(&self) -> &Arc<InMemory> {
        &self.snapshots
    }

    /// The state of each partition of a stage, as the bytes of a snapshot.
    ///
    /// # Errors
    /// When a state cannot be encoded.
    pub fn states(&self, kind: Kind) -> Result<BTreeMap<TopicPartition, SnapshotBytes>> {
        let mut states = BTreeMap::new();
        for n in self.slots_of(kind, true) {
            match &*self.slots[n].process.borrow() {
                Some(Process::Aggregate(runner)) => {
                    for tp in runner.state().keys() {
                        states.insert(tp.clone(), bytes(&self.stages.aggregate, runner.state(), tp)?);
                    }
                }
                Some(Process::Score(runner)) => {
                    for tp in runner.state().keys() {
                        states.insert(tp.clone(), bytes(&self.stages.score, runner.state(), tp)?);
                    }
                }
                Some(Process::Publish(runner)) => {
                    for tp in runner.state().keys() {
                        states.insert(tp.clone(), bytes(&self.stages.publish, runner.state(), tp)?);
                    }
                }
                _ => {}
            }
        }
        Ok(states)
    }
}

/// The state of a partition as bytes, with all its parts.
///
/// # Errors
/// When a part cannot be encoded.
pub fn bytes<S: Stage>(stage: &S, state: &S::State, partition: &TopicPartition) -> Result<SnapshotBytes> {
    all_bytes(stage.snapshot(state, partition, &SavedRevisions::new())?)
        .context("a part is known to nobody and not made")
}
