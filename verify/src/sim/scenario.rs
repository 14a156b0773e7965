//! The events of a simulated run: records arrive, faults strike, and at last all is calm.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use keepwell::alerts;
use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::record::Message;
use keepwell_pipeline::suspect::Word;
use keepwell_score::model_schedule::Announcement;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::chaos::{Chaos, Fault};
use super::time::{SimClock, Time};
use super::world::{KINDS, MOST, Stages, World};

/// Most rounds until a calm deployment must be idle.
const MOST_ROUNDS: u32 = 3000;
/// Rounds without any change after which the deployment counts as idle.
const REST_ROUNDS: u32 = 6;
/// Duration of a calm round. A few rounds are longer than every configured interval.
const CALM_ROUND: Duration = Duration::from_secs(2 * 3600);

/// A raw record and its arrival time.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Time of arrival in the topic, UTC microseconds.
    pub at_us: i64,
    /// Event time, UTC microseconds.
    pub occurred_us: i64,
    /// The record.
    pub message: Message,
}

/// The course of a run.
#[derive(Debug)]
pub struct Scenario {
    /// Seed of all random choices.
    pub seed: u64,
    /// Raw topics and their partition counts.
    pub raw_topics: BTreeMap<String, i32>,
    /// The arriving records, in order.
    pub arrivals: Vec<Arrival>,
    /// Model files and the times of their announcement (UTC microseconds), in order.
    pub announced: Vec<(i64, Announcement)>,
    /// Decisions of an operator about alerts that are held, and their times (UTC microseconds), in order.
    pub words: Vec<(i64, Word)>,
    /// Multiplies the usual frequency of faults.
    pub rate: u32,
    /// Largest error of wall clocks, in microseconds.
    pub clock_error_us: i64,
    /// Latest time at which a pane may close, UTC microseconds.
    pub end_us: i64,
    /// Whether the tables stage takes part.
    pub with_tables: bool,
}

/// Clocks for every slot of a world.
pub fn clocks(time: &Rc<Time>) -> Vec<SimClock> {
    (0..KINDS.len() * MOST).map(|_| SimClock::of(time)).collect()
}

/// Runs a scenario to its end.
///
/// # Errors
/// When a promise is broken during the run, or the deployment does not become idle.
pub fn run<'s>(
    scenario: &Scenario,
    stages: &'s Stages,
    clocks: &'s [SimClock],
    time: &Rc<Time>,
) -> Result<Rc<World<'s>>> {
    let chaos = Chaos::new(scenario.seed, scenario.rate);
    let world = World::new(stages, clocks, time, chaos, scenario.with_tables)?;
    for topic in stages.config.topics.all() {
        world.broker.create_topic(topic, stages.config.partitions);
    }
    for (topic, partitions) in &scenario.raw_topics {
        world.broker.create_topic(topic, *partitions);
    }
    let mut producer = Producer { world: &world, hidden: BTreeMap::new() };
    let (mut announced, mut words) = (scenario.announced.as_slice(), scenario.words.as_slice());
    // The order in which the stages first start is random, too.
    let mut arrivals = scenario.arrivals.as_slice();
    let mut rng = Rng::with_seed(scenario.seed ^ 0x5eed);
    // About 250 ticks, whatever the length of the history.
    let history_us = scenario.end_us - time.wall_us();
    let mean_us = history_us / 250;
    while let Some(next) = arrivals.first() {
        let pause_us = rng.i64(0..2 * mean_us).max((next.at_us - time.wall_us() - 4 * mean_us).max(0));
        time.advance(Duration::from_micros(pause_us.unsigned_abs()));
        let num_due = arrivals.partition_point(|arrival| arrival.at_us <= time.wall_us());
        let (due, rest) = arrivals.split_at(num_due);
        producer.produce(due)?;
        arrivals = rest;
        let num_due = announced.partition_point(|(at_us, _)| *at_us <= time.wall_us());
        let (due, rest) = announced.split_at(num_due);
        due.iter().try_for_each(|(_, model)| announce(&world, model))?;
        announced = rest;
        let num_due = words.partition_point(|(at_us, _)| *at_us <= time.wall_us());
        let (due, rest) = words.split_at(num_due);
        due.iter().try_for_each(|(_, word)| decide(&world, *word))?;
        words = rest;
        strike(&world, scenario, &mut producer)?;
        for _ in 0..rng.usize(1..24) {
            world.turn(rng.usize(0..KINDS.len() * MOST));
        }
        world.tick();
        if let Some(why) = world.failure() {
            anyhow::bail!("{why}");
        }
    }
    producer.end_all(true)?;
    settle(&world, scenario.end_us)?;
    Ok(world)
}

/// Announces a model file in every partition of `windows`.
fn announce(world: &World<'_>, model: &Announcement) -> Result<()> {
    let windows = Arc::from(world.stages.config.topics.windows.as_str());
    for partition in 0..world.stages.config.partitions {
        world.broker.produce(&model.message(&windows, partition)?)?;
    }
    Ok(())
}

/// Writes an operator's decision into every partition of `health`.
fn decide(world: &World<'_>, word: Word) -> Result<()> {
    let config = &world.stages.config;
    let health = Arc::from(config.topics.health.as_str());
    Ok(alerts::messages(word, &health, config.partitions).try_for_each(|message| world.broker.produce(&message))?)
}

/// Applies faults between two turns.
fn strike(world: &World<'_>, scenario: &Scenario, producer: &mut Producer<'_, '_>) -> Result<()> {
    let chaos = &world.chaos;
    let kinds = world.kinds();
    for kind in kinds {
        let (running, empty) = (world.slots_of(*kind, true), world.slots_of(*kind, false));
        let one_of = |slots: &[usize]| (!slots.is_empty()).then(|| slots[chaos.pick(0..slots.len())]);
        if running.is_empty() {
            // Sooner or later a process starts again; without faults, at once.
            if scenario.rate == 0 || chaos.pick(0..4) == 0 {
                world.start(one_of(&empty).unwrap_or_default())?;
            }
        } else if let Some(slot) = one_of(&empty).filter(|_| chaos.strikes(Fault::Joins, 300)) {
            world.start(slot)?;
        }
        if let Some(slot) = one_of(&running).filter(|_| chaos.strikes(Fault::Leaves, 200)) {
            world.kill(slot);
        }
        if let Some(slot) = one_of(&running).filter(|_| chaos.strikes(Fault::Frozen, 150)) {
            world.freeze(slot, chaos.pick(1..20) as u32);
            world.expel(slot);
        }
        if chaos.strikes(Fault::StageDown, 30) {
            running.iter().for_each(|slot| world.kill(*slot));
        }
        if let Some(slot) = one_of(&running).filter(|_| chaos.strikes(Fault::ClockJump, 150)) {
            world.set_clock(slot, chaos.pick_i64(-scenario.clock_error_us..scenario.clock_error_us + 1));
        }
        // Sessions time out.
        for slot in empty {
            if chaos.pick(0..8) == 0 {
                world.expel(slot);
            }
        }
    }
    if chaos.strikes(Fault::Unreachable, 200) {
        let mut topics = scenario.raw_topics.clone();
        for topic in world.stages.config.topics.all() {
            topics.insert(topic.to_owned(), world.stages.config.partitions);
        }
        let partitions: Vec<_> = super::log::partitions_of(&topics).into_iter().collect();
        world.hide(partitions[chaos.pick(0..partitions.len())].clone(), chaos.pick(1..40) as u32);
    }
    if chaos.strikes(Fault::SnapshotLost, 200) {
        spoil(world, false)?;
    }
    if chaos.strikes(Fault::SnapshotDamaged, 200) {
        spoil(world, true)?;
    }
    if chaos.pick(0..3) == 0 {
        world.broker.time_out_transactions(|id| !id.starts_with(RAW))?;
    }
    producer.tick()
}

/// Damages or removes a snapshot.
fn spoil(world: &World<'_>, is_damaged: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let store = world.snapshots();
    let mut paths: Vec<Path> = Vec::new();
    let mut folders = vec![Path::default()];
    while let Some(folder) = folders.pop() {
        let listing = runtime.block_on(store.list_with_delimiter(Some(&folder)))?;
        folders.extend(listing.common_prefixes);
        paths.extend(listing.objects.into_iter().map(|object| object.location));
    }
    paths.sort();
    if paths.is_empty() {
        return Ok(());
    }
    let path = &paths[world.chaos.pick(0..paths.len())];
    if !is_damaged {
        return Ok(runtime.block_on(store.delete(path))?);
    }
    let mut bytes = runtime.block_on(async { store.get(path).await?.bytes().await })?.to_vec();
    // A snapshot that was truncated before may be empty.
    if bytes.is_empty() {
        return Ok(());
    }
    let at = world.chaos.pick(0..bytes.len());
    if world.chaos.pick(0..2) == 0 {
        bytes.truncate(at);
    } else {
        bytes[at] ^= 1 << world.chaos.pick(0..8);
    }
    runtime.block_on(store.put(path, PutPayload::from(bytes)))?;
    Ok(())
}

/// Ends all faults. The clock advances to `end_us` and stops, and the deployment finishes its work.
fn settle(world: &World<'_>, end_us: i64) -> Result<()> {
    world.heal();
    world.broker.time_out_transactions(|_| true)?;
    for kind in world.kinds() {
        if world.slots_of(*kind, true).is_empty() {
            world.start(world.slots_of(*kind, false)[0])?;
        }
    }
    let left_us = end_us - world.time.wall_us();
    ensure!(left_us > 0, "the scenario ends {left_us} us before its last event");
    world.time.advance(Duration::from_micros(left_us.unsigned_abs()));
    let (mut before, mut num_still) = (world.progress(), 0);
    for _ in 0..MOST_ROUNDS {
        for _ in 0..2 {
            (0..KINDS.len() * MOST).for_each(|slot| world.turn(slot));
        }
        if let Some(why) = world.failure() {
            anyhow::bail!("{why}");
        }
        world.time.wait(CALM_ROUND);
        let now = world.progress();
        num_still = if now == before { num_still + 1 } else { 0 };
        before = now;
        if num_still == REST_ROUNDS {
            return Ok(());
        }
    }
    anyhow::bail!("the deployment does not come to rest")
}

/// Prefix of the transactional ids of raw producers.
const RAW: &str = "raw-";

/// The producer of raw events. It sometimes uses transactions.
struct Producer<'w, 's> {
    world: &'w World<'s>,
    /// Open transactions by partition: their messages, and the remaining ticks.
    hidden: BTreeMap<TopicPartition, (Vec<Message>, u32)>,
}

impl Producer<'_, '_> {
    fn produce(&mut self, arrivals: &[Arrival]) -> Result<()> {
        for Arrival { message, .. } in arrivals {
            let tp = TopicPartition::new(message.topic.clone(), message.partition);
            if !self.hidden.contains_key(&tp) && self.world.chaos.strikes(Fault::HiddenRaw, 20) {
                self.hidden.insert(tp.clone(), (Vec::new(), self.world.chaos.pick(1..30) as u32));
            }
            match self.hidden.get_mut(&tp) {
                Some((messages, _)) => {
                    messages.push(message.clone());
                    self.world.broker.write_open(&format!("{RAW}{tp}"), std::slice::from_ref(message))?;
                }
                None => self.world.broker.produce(message)?,
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<()> {
        for (_, ticks) in self.hidden.values_mut() {
            *ticks = ticks.saturating_sub(1);
        }
        let is_due = self.hidden.values().any(|(_, ticks)| *ticks == 0);
        let is_commit = !(is_due && self.world.chaos.strikes(Fault::AbortedRaw, 3000));
        self.end(|ticks| ticks == 0, is_commit)
    }

    fn end_all(&mut self, is_commit: bool) -> Result<()> {
        self.end(|_| true, is_commit)
    }

    /// Ends transactions. Records of an aborted one are written again at once.
    fn end(&mut self, is_due: impl Fn(u32) -> bool, is_commit: bool) -> Result<()> {
        let due: Vec<_> =
            self.hidden.iter().filter(|(_, (_, ticks))| is_due(*ticks)).map(|(tp, _)| tp.clone()).collect();
        for tp in due {
            let Some((messages, _)) = self.hidden.remove(&tp) else { continue };
            self.world.broker.end_open(&format!("{RAW}{tp}"), is_commit)?;
            if !is_commit {
                messages.iter().try_for_each(|message| self.world.broker.produce(message))?;
            }
        }
        Ok(())
    }
}
