//! The log of a simulated process. A fault can strike at every call.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

use keepwell_core::offset::{NextOffset, Position, TopicPartition};
use keepwell_pipeline::log::memory::MemoryLog;
use keepwell_pipeline::log::{Ends, Log, LogError, Polled, Verdict};
use keepwell_pipeline::record::{Message, StableEnd};

use super::chaos::Fault;
use super::world::World;
use crate::invariant::Invariant;

/// The log of one member, with its faults and the turns of the others.
pub struct SimLog<'s> {
    log: MemoryLog,
    world: Weak<World<'s>>,
    slot: usize,
    /// Whether the process has ended. Every later call fails.
    is_dead: Rc<Cell<bool>>,
}

/// The error of a process that was ended.
pub fn ended() -> LogError {
    LogError::Fatal { doing: "being simulated".into(), why: "the process was ended".into() }
}

impl<'s> SimLog<'s> {
    /// The log of the process in a slot of the world.
    pub fn new(log: MemoryLog, world: Weak<World<'s>>, slot: usize, is_dead: Rc<Cell<bool>>) -> Self {
        Self { log, world, slot, is_dead }
    }

    fn world(&self) -> Result<Rc<World<'s>>, LogError> {
        if self.is_dead.get() {
            return Err(ended());
        }
        self.world.upgrade().ok_or_else(ended)
    }

    /// Returns the world, unless the fault ends the process here.
    fn unless(&self, fault: Fault, of_10_000: u32) -> Result<Rc<World<'s>>, LogError> {
        let world = self.world()?;
        if world.chaos.strikes(fault, of_10_000) {
            self.is_dead.set(true);
            return Err(ended());
        }
        Ok(world)
    }

    /// A request that waits for its answer, while others may take turns.
    fn asked(&self) -> Result<(), LogError> {
        self.unless(Fault::CrashBetween, 5)?.interleave(self.slot, 100);
        // If the process was ended in the meantime, there is no answer.
        self.world().map(|_| ())
    }
}

impl Log for SimLog<'_> {
    fn poll(&mut self, wait: Duration, max_records: usize, max_bytes: usize) -> Result<Polled, LogError> {
        let world = self.unless(Fault::CrashBetween, 5)?;
        let is_short = max_records > 0 && world.chaos.strikes(Fault::ShortPoll, 2000);
        let max_records = if is_short { world.chaos.pick(0..max_records) } else { max_records };
        self.log.hide(world.unreachable());
        let polled = self.log.poll(wait, max_records, max_bytes)?;
        if let Polled::Records(records) = &polled {
            world.was_read(records.len());
        }
        Ok(polled)
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Position>, LogError> {
        self.asked()?;
        self.log.committed(of)
    }

    fn ends(&mut self, of: &TopicPartition) -> Result<Ends, LogError> {
        self.asked()?;
        self.log.ends(of)
    }

    fn has_output(&mut self, of: &TopicPartition) -> Result<bool, LogError> {
        self.asked()?;
        self.log.has_output(of)
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, LogError> {
        self.asked()?;
        self.log.partitions(topic)
    }

    fn start(&mut self, from: &BTreeMap<TopicPartition, NextOffset>) -> Result<(), LogError> {
        self.unless(Fault::CrashBetween, 20)?;
        self.log.start(from)
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.unless(Fault::CrashBetween, 50)?;
        self.log.release(partitions)
    }

    fn pause(&mut self, partitions: &BTreeSet<TopicPartition>) {
        if let Some(world) = self.world.upgrade() {
            world.was_paused(partitions.len());
        }
        self.log.pause(partitions);
    }

    fn met_end(&self, partition: &TopicPartition) -> Option<NextOffset> {
        self.log.met_end(partition)
    }

    fn known_end(&self, partition: &TopicPartition) -> Option<StableEnd> {
        self.log.known_end(partition)
    }

    fn commit(
        &mut self,
        messages: &[Message],
        positions: &BTreeMap<TopicPartition, Position>,
    ) -> Result<Verdict, LogError> {
        let world = self.unless(Fault::CrashBeforeBegin, 30)?;
        if positions.is_empty() {
            world.fail(Invariant::OneTransactionAStep.broken("a transaction without positions is not fenced"));
        }
        world.judge_size(messages);
        if world.chaos.strikes(Fault::Stale, 40) {
            world.expel(self.slot);
            world.interleave(self.slot, 10_000);
        }
        world.interleave(self.slot, 100);
        self.world()?;
        self.log.write_open(messages)?;
        self.unless(Fault::CrashInTransaction, 30)?.interleave(self.slot, 100);
        self.world()?;
        if world.chaos.strikes(Fault::Abort, 60) {
            self.log.recover()?;
            return Ok(Verdict::Aborted("simulated".into()));
        }
        if world.chaos.strikes(Fault::LostAbort, 40) {
            return Ok(Verdict::Lost("simulated, not committed".into()));
        }
        let verdict = self.log.end(positions)?;
        self.unless(Fault::CrashAfterCommit, 30)?;
        if world.chaos.strikes(Fault::LostCommit, 40) {
            world.interleave(self.slot, 3000);
            self.world()?;
            return Ok(Verdict::Lost("simulated, committed".into()));
        }
        Ok(verdict)
    }

    fn recover(&mut self) -> Result<(), LogError> {
        self.asked()?;
        self.log.recover()
    }
}

/// All partitions of these topics.
pub fn partitions_of(topics: &BTreeMap<String, i32>) -> BTreeSet<TopicPartition> {
    topics
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(move |partition| TopicPartition::new(topic.as_str(), partition)))
        .collect()
}
