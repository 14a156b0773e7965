//! Runs a stage in the loop: computes steps, commits them and merges them into the state.
//!
//! The order of work, and why it is safe:
//! 1. The loop polls records only while no transaction is open. A change of ownership arrives with a poll, so it never
//!    meets unfinished work. What was not committed is dropped with its partition.
//! 2. `apply` only reads the state. The state changes in `merge`, after the commit. An aborted step is computed again
//!    from the same records.
//! 3. Output, rejects and positions commit together. After a lost verdict the committed positions decide whether to
//!    merge, to repeat or to restore.

mod markers;
mod member;
mod restore;
mod saving;
mod sources;

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{info, warn};

use crate::clock::Clock;
use crate::crash_points::{self, CrashPoint};
use crate::log::{Log, LogError, Verdict};
use crate::partition_loop::{Session, Standing, Turn, Worker};
use crate::record::Record;
use crate::snapshot::{SnapshotError, Snapshots};
use crate::source_reader::{self, Completeness};
use crate::stage::{Batch, Stage, StageError, Step, add_fates};
use keepwell_core::offset::{NextOffset, TopicPartition};
use member::Member;
use sources::Sources;

/// How a stage is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Epoch of the topics.
    pub epoch: u32,
    /// Topics the stage reads.
    pub sources: Vec<String>,
    /// Topics the stage writes. Output without a committed position is a named stop.
    pub outputs: Vec<String>,
    /// Maximum number of records in one step.
    pub max_records: usize,
    /// Maximum number of bytes in one step.
    pub max_bytes: usize,
    /// Interval at which live rows and statements may be sent.
    pub tick: Duration,
    /// The same interval while more records wait to be read. It may be longer, because throughput comes first then.
    pub tick_behind: Duration,
    /// Time between snapshots of a partition.
    pub snapshot_interval: Duration,
    /// Whether to read to the ends that are fixed at the start, and then stop.
    pub drain: bool,
    /// With `drain`: whether every source is declared complete once it is read to its end.
    pub complete: Completeness,
    /// Whether partitions without a committed position start at their first record, even if output or snapshots exist.
    /// Records that expired unread, or that are in no snapshot, are left out.
    pub from_beginning: bool,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The stage failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The snapshots failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A topic does not have the partition count pinned for the epoch.
    #[error(
        "topic {topic} has {found} partitions and the epoch is pinned to {expected}; set `partitions`, or start a new epoch"
    )]
    PartitionCount {
        /// The topic.
        topic: String,
        /// Its number of partitions.
        found: i32,
        /// The configured number of partitions.
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

/// Wait before an aborted step is computed again.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// Maximum number of slices of a long close in one transaction.
const MAX_SLICES: u32 = 8;
/// How long a replay may run between two polls.
const REPLAY_TURN: Duration = Duration::from_millis(500);
/// New results are published after this fraction of a tick's interval. Publishing sooner would run all later stages
/// after every step, for a few rows each time.
const EARLY: u32 = 10;
/// Runs one stage on a log.
#[derive(Debug)]
pub struct Runner<'r, S: Stage, L: Log, C: Clock> {
    stage: &'r S,
    session: Session<L, &'r C>,
    snapshots: Option<Snapshots>,
    options: Options,
    state: S::State,
    members: BTreeMap<TopicPartition, Member>,
    sources: Sources,
    last_tick: Duration,
    num_ticks: u64,
    /// When output was last sent, at a tick or before it.
    last_sent: Option<Duration>,
    is_behind: bool,
}

impl<'r, S: Stage, L: Log, C: Clock> Runner<'r, S, L, C> {
    /// A runner that has read nothing yet. A stateful stage needs `snapshots`.
    pub fn new(stage: &'r S, mut session: Session<L, &'r C>, snapshots: Option<Snapshots>, options: Options) -> Self
    where
        S::State: Default,
    {
        session.is_draining = options.drain;
        Self {
            stage,
            session,
            snapshots,
            options,
            state: S::State::default(),
            members: BTreeMap::new(),
            sources: Sources::default(),
            last_tick: Duration::ZERO,
            num_ticks: 0,
            last_sent: None,
            is_behind: false,
        }
    }

    /// Declares that no event follows in any source that is read to its end; see [`Options::complete`].
    pub fn declare_complete(&mut self) {
        self.options.complete = Completeness::ToEndOfPane;
    }

    /// The state, for inspection after a run.
    pub fn state(&self) -> &S::State {
        &self.state
    }

    /// Computes the next step. Returns none when there is nothing to do.
    fn next_step(&mut self, is_last: bool) -> Result<Option<Step<S::Changes>>, RunError> {
        let now = self.session.clock.monotonic();
        let interval = if self.is_behind { self.options.tick_behind } else { self.options.tick };
        let is_tick = is_last || now.saturating_sub(self.last_tick) >= interval;
        let is_over = |sent| now.saturating_sub(sent) >= interval / EARLY;
        let is_early = is_tick || (!self.is_behind && self.last_sent.is_none_or(is_over));
        let live: Vec<_> = self.members.iter().filter(|(_, member)| !member.is_replaying()).collect();
        if live.is_empty() {
            return Ok(None);
        }
        let is_read = |(tp, _): &&(&TopicPartition, &Member)| !self.sources.ahead.contains(*tp);
        let batch = Batch {
            records: live.iter().filter(is_read).map(|(tp, member)| ((*tp).clone(), member.pending())).collect(),
            positions: live.iter().map(|(tp, member)| ((*tp).clone(), member.position)).collect(),
            now_us: self.session.clock.wall_us(),
            tick: self.num_ticks + u64::from(is_tick),
            is_tick,
            is_early,
            max_slices: MAX_SLICES,
            is_last,
            record_limits: self.session.log.record_limits(),
        };
        let step = match self.stage.source_reader() {
            None => self.stage.apply(&self.state, &batch)?,
            Some(reader) => {
                let ends = live.iter().filter_map(|(tp, member)| Some(((*tp).clone(), member.proof?))).collect();
                let partition_counts = self.sources.partition_counts.clone();
                let known = source_reader::Sources { ends, partition_counts, complete: self.options.complete };
                reader.read(&self.state, &batch, &known)?
            }
        };
        self.session.metrics.computed(self.session.clock.monotonic().saturating_sub(now));
        if is_tick {
            self.last_tick = now;
            self.num_ticks += 1;
        }
        // A step with `has_more` does not count: its remaining output follows at once.
        if is_early && !step.messages.is_empty() && !step.has_more {
            self.last_sent = Some(now);
        }
        Ok((!step.messages.is_empty() || !step.positions.is_empty()).then_some(step))
    }

    /// Commits a step and merges it, or leaves everything unchanged. Returns true when the step is done.
    fn carry_out(&mut self, step: Step<S::Changes>) -> Result<bool, RunError> {
        let before = self.session.clock.monotonic();
        match self.session.log.commit(&step.messages, &step.positions)? {
            Verdict::Committed => {
                crash_points::here(CrashPoint::AfterCommit);
                let (now, wall_us) = (self.session.clock.monotonic(), self.session.clock.wall_us());
                self.session.metrics.committed(&step.fates, step.messages.len(), now.saturating_sub(before), wall_us);
                self.session.metrics.read_from_sources(&step.source_events);
                if let Some(since_ms) = self.oldest_of(&step) {
                    self.session.metrics.waited(since_ms, wall_us);
                }
                if step.has_more {
                    crash_points::here(CrashPoint::InClose);
                }
                self.merge(step);
                if let Some(snapshots) = &mut self.snapshots {
                    snapshots.committed();
                }
                return Ok(true);
            }
            Verdict::TooLarge { topic } => {
                self.session.metrics.not_committed("too_large");
                let now = self.session.log.record_limits().get(&topic).copied();
                warn!(
                    topic,
                    bytes = now,
                    "the broker takes no record as large as kafka.max_record_bytes: smaller ones are written. Raise the topic's max.message.bytes: `keepwell topics apply` does"
                );
                self.session.wait = RETRY_WAIT;
            }
            Verdict::Aborted(why) => {
                self.session.metrics.not_committed("aborted");
                warn!(why, "step aborted; it is computed again");
                self.session.wait = RETRY_WAIT;
            }
            Verdict::Lost(why) => {
                self.session.metrics.not_committed("lost");
                warn!(why, "the verdict of a commit is lost; the committed positions decide");
                self.session.log.recover()?;
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
        add_fates(&mut self.session.report.fates, &step.fates);
        self.session.report.num_steps += 1;
        self.session.report.num_messages += step.messages.len() as u64;
        let is_read = |tp: &TopicPartition| !self.sources.ahead.contains(tp);
        if step.has_more || self.members.iter().any(|(tp, member)| is_read(tp) && member.num_pending() > 0) {
            self.session.wait = Duration::ZERO;
        }
    }

    /// Decides after a lost verdict. If all positions are unchanged, the step was not committed. If all are the step's
    /// positions, it was. Anything else means that another member continued, so the state is restored.
    fn settle(&mut self, step: Step<S::Changes>) -> Result<(), RunError> {
        let partitions: Vec<_> = step.positions.keys().cloned().collect();
        let committed = self.session.log.committed(&partitions)?;
        let as_before = |tp: &TopicPartition| match (committed.get(tp), self.members.get(tp)) {
            (Some(committed), Some(member)) => *committed == member.position,
            (None, Some(member)) => member.position == member.first,
            _ => false,
        };
        if partitions.iter().all(as_before) {
            self.session.wait = RETRY_WAIT;
        } else if step.positions == committed {
            self.merge(step);
        } else {
            self.forget(&partitions);
            self.session.assigned.get_or_insert_default().extend(partitions);
            self.start_assigned()?;
        }
        Ok(())
    }

    /// Timestamp of the oldest record that a step consumes, in milliseconds.
    fn oldest_of(&self, step: &Step<S::Changes>) -> Option<i64> {
        let taken = step.positions.iter().filter_map(|(tp, position)| {
            let first = self.members.get(tp)?.pending().first()?;
            (first.offset.0 < position.next.0).then_some(first.timestamp_ms)
        });
        taken.min()
    }

    fn is_drained(&self) -> bool {
        let is_drained = |(tp, member): (&TopicPartition, &Member)| {
            let reached = |next: NextOffset| next >= member.drain_to;
            let position = member.position.next;
            let is_at_end =
                reached(position) || (member.num_pending() == 0 && self.session.log.met_end(tp).is_some_and(reached));
            !member.is_replaying() && is_at_end && (self.stage.source_reader().is_none() || member.proof.is_some())
        };
        !self.members.is_empty() && self.members.iter().all(is_drained)
    }
}

impl<'r, S: Stage, L: Log, C: Clock> Worker for Runner<'r, S, L, C> {
    type Log = L;
    type Clock = &'r C;
    type Error = RunError;

    const STORE_SETTING: &'static str = "snapshots.url";

    fn session(&mut self) -> &mut Session<L, &'r C> {
        &mut self.session
    }

    fn capacity(&self) -> (usize, usize) {
        // Records of waiting partitions do not count: they must not keep the others from being read.
        let is_read = |tp: &TopicPartition| !self.sources.ahead.contains(tp);
        let pending: usize = self.members.iter().filter(|(tp, _)| is_read(tp)).map(|(_, m)| m.num_pending()).sum();
        (self.options.max_records.saturating_sub(pending), self.options.max_bytes)
    }

    fn queue(&mut self, records: Vec<Record>) {
        // Raw events are many and small, batches of rows are few and large. So either limit can show a backlog.
        let bytes: usize = records.iter().filter_map(|record| record.value.as_ref()).map(bytes::Bytes::len).sum();
        self.is_behind = records.len() * 2 >= self.options.max_records || bytes * 2 >= self.options.max_bytes;
        for record in records {
            if let Some(member) = self.members.get_mut(&record.topic_partition) {
                member.queue(record);
            }
        }
    }

    fn start(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, NextOffset>, RunError> {
        self.restore_all(partitions)
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.session.forget(partitions);
        for tp in partitions {
            self.members.remove(tp);
            if let Some(snapshots) = &mut self.snapshots {
                snapshots.forget(tp);
            }
            self.stage.forget(&mut self.state, tp);
        }
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.members.keys().cloned().collect()
    }

    fn work(&mut self) -> Result<Turn, RunError> {
        self.replay()?;
        self.watch_sources()?;
        self.show_metrics();
        let is_last = self.options.drain && self.is_drained();
        let is_done = match self.next_step(is_last)? {
            Some(step) => {
                let has_more = step.has_more;
                self.carry_out(step)? && !has_more
            }
            None => true,
        };
        if is_done && self.session.wait > Duration::ZERO && !self.pass_markers(is_last)? {
            return Ok(Turn::GoesOn);
        }
        if is_last && is_done {
            return Ok(Turn::Drained);
        }
        self.snapshot_where_due()?;
        Ok(Turn::GoesOn)
    }

    fn fix_ends(&mut self) -> Result<(), RunError> {
        for (tp, member) in &mut self.members {
            member.drain_to = self.session.log.ends(tp)?.next;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), RunError> {
        if self.session.log.is_reachable() {
            match self.pass_markers(true) {
                Ok(_) => {}
                // Passing the markers is not required for this run: the next run does it.
                Err(RunError::Log(error)) => info!(%error, "positions stay in front of transaction markers"),
                Err(error) => return Err(error),
            }
        }
        self.snapshot_all()
    }

    fn replaying(&self) -> Option<TopicPartition> {
        self.members.iter().find(|(_, member)| member.is_replaying()).map(|(tp, _)| tp.clone())
    }

    fn standings(&self) -> Vec<Standing> {
        let standing = |(tp, member): (&TopicPartition, &Member)| {
            // At the end only transaction markers lie ahead.
            let is_at_end = member.num_pending() == 0 && self.session.log.met_end(tp).is_some();
            let next = member.position.next;
            Standing { partition: tp.clone(), next, behind: (!is_at_end).then_some(next), is_at_end }
        };
        self.members.iter().map(standing).collect()
    }

    fn show_state(&mut self) {
        for tp in self.members.keys() {
            self.session.metrics.show(tp, self.stage.gauges(&self.state, tp));
        }
    }

    fn log_error(error: &RunError) -> Option<&LogError> {
        match error {
            RunError::Log(error) => Some(error),
            _ => None,
        }
    }

    fn is_store_away(error: &RunError) -> bool {
        matches!(error, RunError::Snapshot(SnapshotError::Store(_)))
    }
}
