//! The one loop that drives every stage.
//!
//! Order and why it is safe:
//! 1. Records are taken only while no transaction is open, so a change of ownership, which arrives with
//!    a poll, never meets work in flight; what was not committed is forgotten with its partition.
//! 2. `apply` only reads the state. The state changes after the commit, in `merge`. An aborted step is
//!    simply computed again from the same records.
//! 3. Outputs, rejects and positions commit together. After a verdict that was lost the committed
//!    positions tell whether to merge, to repeat or to restore.

mod markers;
mod member;
mod restore;
mod saving;
mod sources;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::Clock;
use crate::crash::{self, Place};
use crate::hidden::Hidden;
use crate::log::{Log, LogError, Polled, Verdict};
use crate::metrics::StageMetrics;
use crate::snapshot::{SnapshotError, Snapshots};
use crate::stage::{Batch, Completeness, Fates, Stage, StageError, Step, add_fates};
use crate::waiting::Waiting;
use keepwell_core::offset::{NextOffset, TopicPartition};
use member::Member;
use sources::Sources;

/// How a stage is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Epoch of the log.
    pub epoch: u32,
    /// Topics the stage reads.
    pub sources: Vec<String>,
    /// Topics the stage writes: output without a committed position is a named stop.
    pub outputs: Vec<String>,
    /// Most records taken into one step.
    pub max_records: usize,
    /// Most bytes taken into one step.
    pub max_bytes: usize,
    /// How often what waits for the clock may be sent: live rows, statements.
    pub tick: Duration,
    /// The same while more records wait to be read: then throughput goes first.
    pub tick_behind: Duration,
    /// Time between snapshots of a partition.
    pub snapshot_interval: Duration,
    /// Read to the ends fixed at start, then stop.
    pub drain: bool,
    /// With `drain`: declare every source complete where it is read to its end.
    pub complete: Completeness,
    /// Start partitions without a committed position at their first record, whatever else exists.
    pub from_beginning: bool,
    /// Prove the ends of the sources, again and again.
    pub prove_ends: bool,
}

/// What a run did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// What became of records and events.
    pub fates: Fates,
    /// Committed steps.
    pub num_steps: u64,
    /// Records written.
    pub num_messages: u64,
}

/// Whether the loop goes round again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There may be more to do, now or later.
    GoesOn,
    /// Everything up to the ends that `drain` speaks of is done.
    Drained,
}

/// Why a run ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The stage.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The snapshots.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A topic does not have the partition count pinned for the epoch.
    #[error(
        "topic {topic} has {found} partitions and the epoch is pinned to {expected}; set `partitions`, or start a new epoch"
    )]
    PartitionCount {
        /// Topic.
        topic: String,
        /// Its partitions.
        found: i32,
        /// As configured.
        expected: i32,
    },
    /// Output, snapshots or positions contradict each other.
    #[error("{partition}: {why}")]
    Stop {
        /// The partition that cannot be read.
        partition: TopicPartition,
        /// The facts and what to do.
        why: String,
    },
}

/// How long a poll waits when nothing is due.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How long a step that was aborted waits before it is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// Slices of a long close in one transaction.
const MAX_SLICES: u32 = 8;
/// How long replay goes on between two polls.
const REPLAY_TURN: Duration = Duration::from_millis(500);
/// What is new is said within this part of a tick's interval: sooner would make the stages behind go round with every step,
/// for a few rows each time.
const EARLY: u32 = 10;
/// How often lag, watermark and state are shown.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// A stage on a log.
#[derive(Debug)]
pub struct Runner<'r, S: Stage, L: Log, C: Clock> {
    stage: &'r S,
    log: L,
    clock: &'r C,
    snapshots: Option<Snapshots>,
    options: Options,
    state: S::State,
    members: BTreeMap<TopicPartition, Member>,
    sources: Sources,
    hidden: Hidden,
    last_tick: Duration,
    num_ticks: u64,
    /// When something was last said, at a tick or before.
    last_said: Option<Duration>,
    last_told: Duration,
    is_assigned: bool,
    /// Assigned and not taken up yet.
    assigned: Option<Vec<TopicPartition>>,
    /// When the object store is asked again that did not answer.
    store_retry_at: Option<Duration>,
    is_behind: bool,
    wait: Duration,
    report: Report,
    metrics: StageMetrics,
}

impl<'r, S: Stage, L: Log, C: Clock> Runner<'r, S, L, C> {
    /// A runner that has not read anything yet. A stateful stage needs `snapshots`.
    pub fn new(
        stage: &'r S,
        log: L,
        clock: &'r C,
        snapshots: Option<Snapshots>,
        options: Options,
        state: S::State,
        metrics: StageMetrics,
    ) -> Self {
        Self {
            stage,
            log,
            clock,
            snapshots,
            options,
            state,
            members: BTreeMap::new(),
            sources: Sources::default(),
            hidden: Hidden::default(),
            last_tick: Duration::ZERO,
            num_ticks: 0,
            last_said: None,
            last_told: Duration::ZERO,
            is_assigned: false,
            assigned: None,
            store_retry_at: None,
            is_behind: false,
            wait: Duration::ZERO,
            report: Report::default(),
            metrics,
        }
    }

    /// Runs until `shutdown`, or with `drain` until the ends are reached.
    ///
    /// # Errors
    /// [`RunError`] when the stage must stop by name; nothing of the step under way is in the log.
    pub fn run(&mut self, shutdown: &AtomicBool) -> Result<Report, RunError> {
        self.fix_ends()?;
        while !shutdown.load(Ordering::Relaxed) {
            match self.turn() {
                Ok(Turn::Drained) => break,
                Ok(Turn::GoesOn) => {}
                // What was not committed is forgotten.
                Err(RunError::Log(LogError::Stopped(doing))) => {
                    info!(doing, "stopped in the middle");
                    break;
                }
                Err(RunError::Log(LogError::Fenced(doing))) => self.let_go_of_all(&doing),
                Err(error) => return Err(error),
            }
        }
        if self.log.is_reachable() {
            match self.pass_markers(true) {
                Ok(_) => {}
                // It is not what this run was for: the next one does it.
                Err(RunError::Log(error)) => info!(%error, "positions stay in front of transaction markers"),
                Err(error) => return Err(error),
            }
        }
        self.snapshot_all()?;
        Ok(self.report.clone())
    }

    /// Goes round the loop once: for what is run by a scheduler of its own.
    ///
    /// # Errors
    /// See [`Runner::run`].
    pub fn turn(&mut self) -> Result<Turn, RunError> {
        match self.log.poll(self.wait, self.room(), self.options.max_bytes)? {
            Polled::Records(records) => self.queue(records),
            Polled::Assigned(partitions) => self.assigned.get_or_insert_default().extend(partitions),
            Polled::Revoked(partitions) => self.let_go(&partitions)?,
        }
        self.take_up_assigned()?;
        self.wait = POLL_WAIT;
        self.replay()?;
        self.watch_sources()?;
        self.tell();
        let is_last = self.options.drain && self.is_drained();
        let is_done = match self.next_step(is_last)? {
            Some(step) => {
                let has_more = step.has_more;
                self.carry_out(step)? && !has_more
            }
            None => true,
        };
        if is_done && self.wait > Duration::ZERO && !self.pass_markers(is_last)? {
            return Ok(Turn::GoesOn);
        }
        if is_last && is_done {
            return Ok(Turn::Drained);
        }
        self.snapshot_where_due()?;
        Ok(Turn::GoesOn)
    }

    /// From now on no event follows in any source that is read to its end; see [`Options::complete`].
    pub fn declare_complete(&mut self) {
        self.options.complete = Completeness::ToEndOfPane;
    }

    /// The state; for inspection after a run.
    pub fn state(&self) -> &S::State {
        &self.state
    }

    fn room(&self) -> usize {
        // What waits does not keep the others from being read.
        let is_read = |tp: &TopicPartition| !self.sources.ahead.contains(tp);
        let pending: usize = self.members.iter().filter(|(tp, _)| is_read(tp)).map(|(_, m)| m.num_pending()).sum();
        self.options.max_records.saturating_sub(pending)
    }

    fn queue(&mut self, records: Vec<crate::log::Record>) {
        // Raw events are many and small, batches of rows few and large: either bound tells.
        let bytes: usize = records.iter().filter_map(|record| record.value.as_ref()).map(bytes::Bytes::len).sum();
        self.is_behind = records.len() * 2 >= self.options.max_records || bytes * 2 >= self.options.max_bytes;
        for record in records {
            if let Some(member) = self.members.get_mut(&record.topic_partition) {
                member.queue(record);
            }
        }
    }

    /// Computes the next step; none when nothing is to be done.
    fn next_step(&mut self, is_last: bool) -> Result<Option<Step<S::Changes>>, RunError> {
        let now = self.clock.monotonic();
        let interval = if self.is_behind { self.options.tick_behind } else { self.options.tick };
        let is_tick = is_last || now.saturating_sub(self.last_tick) >= interval;
        let is_over = |said| now.saturating_sub(said) >= interval / EARLY;
        let is_early = is_tick || (!self.is_behind && self.last_said.is_none_or(is_over));
        let live: Vec<_> = self.members.iter().filter(|(_, member)| !member.is_replaying()).collect();
        if live.is_empty() {
            return Ok(None);
        }
        let is_read = |(tp, _): &&(&TopicPartition, &Member)| !self.sources.ahead.contains(*tp);
        let batch = Batch {
            records: live.iter().filter(is_read).map(|(tp, member)| ((*tp).clone(), member.pending())).collect(),
            positions: live.iter().map(|(tp, member)| ((*tp).clone(), member.position)).collect(),
            now_us: self.clock.wall_us(),
            tick: self.num_ticks + u64::from(is_tick),
            is_tick,
            is_early,
            ends: live.iter().filter_map(|(tp, member)| Some(((*tp).clone(), member.proof?))).collect(),
            partition_counts: self.sources.partition_counts.clone(),
            max_slices: MAX_SLICES,
            complete: self.options.complete,
            is_last,
            max_record_bytes: self.log.max_record_bytes(),
        };
        let step = self.stage.apply(&self.state, &batch)?;
        self.metrics.computed(self.clock.monotonic().saturating_sub(now));
        if is_tick {
            self.last_tick = now;
            self.num_ticks += 1;
        }
        // What did not go into one step follows at once.
        if is_early && !step.messages.is_empty() && !step.has_more {
            self.last_said = Some(now);
        }
        Ok((!step.messages.is_empty() || !step.positions.is_empty()).then_some(step))
    }

    /// Commits a step and merges it, or leaves everything as it was. True when the step is done.
    fn carry_out(&mut self, step: Step<S::Changes>) -> Result<bool, RunError> {
        let before = self.clock.monotonic();
        match self.log.commit(&step.messages, &step.positions)? {
            Verdict::Committed => {
                crash::here(Place::AfterCommit);
                let (now, wall_us) = (self.clock.monotonic(), self.clock.wall_us());
                self.metrics.committed(&step.fates, step.messages.len(), now.saturating_sub(before), wall_us);
                if let Some(since_ms) = self.oldest_of(&step) {
                    self.metrics.waited(since_ms, wall_us);
                }
                if step.has_more {
                    crash::here(Place::InClose);
                }
                self.merge(step);
                if let Some(snapshots) = &mut self.snapshots {
                    snapshots.committed();
                }
                return Ok(true);
            }
            Verdict::TooLarge { topic } => {
                self.metrics.not_committed("too_large");
                let now = self.log.max_record_bytes();
                warn!(
                    topic,
                    bytes = now,
                    "the broker takes no record as large as kafka.max_record_bytes: smaller ones are written. Raise the topic's max.message.bytes: `keepwell topics apply` does"
                );
                self.wait = RETRY_WAIT;
            }
            Verdict::Aborted(why) => {
                self.metrics.not_committed("aborted");
                warn!(why, "step aborted; it is computed again");
                self.wait = RETRY_WAIT;
            }
            Verdict::Lost(why) => {
                self.metrics.not_committed("lost");
                warn!(why, "the verdict of a commit is lost; the committed positions decide");
                self.log.recover()?;
                self.settle(step)?;
            }
        }
        Ok(false)
    }

    fn merge(&mut self, step: Step<S::Changes>) {
        for notice in &step.notices {
            warn!("{notice}");
        }
        self.stage.merge(&mut self.state, step.changes);
        for (tp, position) in &step.positions {
            if let Some(member) = self.members.get_mut(tp) {
                member.advance(*position);
            }
        }
        add_fates(&mut self.report.fates, &step.fates);
        self.report.num_steps += 1;
        self.report.num_messages += step.messages.len() as u64;
        let is_read = |tp: &TopicPartition| !self.sources.ahead.contains(tp);
        if step.has_more || self.members.iter().any(|(tp, member)| is_read(tp) && member.num_pending() > 0) {
            self.wait = Duration::ZERO;
        }
    }

    /// After a lost verdict: all positions as before means it was not committed, all as after that it
    /// was; anything else means another member went on, and the state is restored.
    fn settle(&mut self, step: Step<S::Changes>) -> Result<(), RunError> {
        let partitions: Vec<_> = step.positions.keys().cloned().collect();
        let committed = self.log.committed(&partitions)?;
        let as_before = |tp: &TopicPartition| match (committed.get(tp), self.members.get(tp)) {
            (Some(committed), Some(member)) => *committed == member.position,
            (None, Some(member)) => member.position == member.first,
            _ => false,
        };
        if partitions.iter().all(as_before) {
            self.wait = RETRY_WAIT;
        } else if step.positions == committed {
            self.merge(step);
        } else {
            self.let_go_of_state(&partitions);
            self.assigned.get_or_insert_default().extend(partitions);
            self.take_up_assigned()?;
        }
        Ok(())
    }

    /// Timestamp of the oldest record that a step takes, in milliseconds.
    fn oldest_of(&self, step: &Step<S::Changes>) -> Option<i64> {
        let taken = step.positions.iter().filter_map(|(tp, position)| {
            let first = self.members.get(tp)?.pending().first()?;
            (first.offset.0 < position.next.0).then_some(first.timestamp_ms)
        });
        taken.min()
    }

    /// Shows that the loop goes round, how far behind it is and what it waits for.
    fn tell(&mut self) {
        let now = self.clock.monotonic();
        let replaying = self.members.iter().find(|(_, member)| member.is_replaying());
        let waiting = match replaying {
            _ if !self.log.is_reachable() => Waiting::Broker,
            _ if self.store_retry_at.is_some() => Waiting::ObjectStore,
            Some((tp, _)) => Waiting::Replay(tp.clone()),
            None if !self.is_assigned => Waiting::Partitions,
            None => match self.log.unreadable() {
                Some((tp, next, _)) => Waiting::Partition(tp, next),
                None => Waiting::No,
            },
        };
        self.metrics.tick(now, &waiting);
        if now.saturating_sub(self.last_told) < TELL_INTERVAL {
            return;
        }
        self.last_told = now;
        for (tp, member) in &self.members {
            // At the end nothing but transaction markers lies ahead.
            let is_at_end = member.num_pending() == 0 && self.log.met_end(tp).is_some();
            if let Some(end) = self.log.end_seen(tp) {
                self.metrics.lag(tp, if is_at_end { 0 } else { end.stable.0 - member.position.next.0 });
                // While there is more to read nothing hides what comes next.
                self.metrics.hidden(tp, if is_at_end { self.hidden.look(tp, end, now) } else { 0 });
            }
            self.metrics.position(tp, member.position.next);
            self.metrics.show(tp, self.stage.gauges(&self.state, tp));
        }
    }

    /// A runner that is run again drains to the ends of now.
    fn fix_ends(&mut self) -> Result<(), RunError> {
        for (tp, member) in &mut self.members {
            member.drain_to = self.log.ends(tp)?.next;
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        let is_drained = |(tp, member): (&TopicPartition, &Member)| {
            let reached = |next: NextOffset| next >= member.drain_to;
            let position = member.position.next;
            let is_at_end =
                reached(position) || (member.num_pending() == 0 && self.log.met_end(tp).is_some_and(reached));
            !member.is_replaying() && is_at_end && (!self.options.prove_ends || member.proof.is_some())
        };
        !self.members.is_empty() && self.members.iter().all(is_drained)
    }

    fn let_go(&mut self, partitions: &[TopicPartition]) -> Result<(), RunError> {
        info!(?partitions, "partitions let go");
        self.let_go_of_state(partitions);
        if let Some(assigned) = &mut self.assigned {
            assigned.retain(|tp| !partitions.contains(tp));
        }
        self.log.release(partitions)?;
        Ok(())
    }

    fn let_go_of_state(&mut self, partitions: &[TopicPartition]) {
        for tp in partitions {
            self.members.remove(tp);
            self.metrics.forget(tp);
            self.hidden.forget(tp);
            if let Some(snapshots) = &mut self.snapshots {
                snapshots.forget(tp);
            }
            self.stage.forget(&mut self.state, tp);
        }
    }
}
