//! The loop that every stage runs. It polls the log, starts assigned partitions, releases revoked ones, calls its
//! worker and updates the metrics. The worker decides what to do with its partitions: a [`crate::runner::Runner`] folds
//! records into a state, and the tables of sink write files.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keepwell_core::offset::{NextOffset, TopicPartition};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::hanging_transactions::Hidden;
use crate::log::{Log, LogError, Polled};
use crate::metrics::StageMetrics;
use crate::readiness::Waiting;
use crate::record::Record;
use crate::stage::Fates;

/// How long a poll waits when nothing is due.
pub const POLL_WAIT: Duration = Duration::from_millis(50);
/// How often the metrics of lag, watermark and state are updated.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// Wait before the next request to an object store that did not answer.
pub const STORE_RETRY_WAIT: Duration = Duration::from_secs(2);

/// Summary of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Counts of records and events, by fate.
    pub fates: Fates,
    /// Number of committed steps.
    pub num_steps: u64,
    /// Number of records or files written.
    pub num_messages: u64,
}

/// Whether the loop continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There may be more to do, now or later.
    GoesOn,
    /// A draining run has processed everything up to the ends it fixed at its start.
    Drained,
}

/// The environment of a loop: its log, clock and metrics, and the state of its assignment.
#[derive(Debug)]
pub struct Session<L: Log, C: Clock> {
    /// The log that the loop reads and writes.
    pub log: L,
    /// The clock that the loop uses.
    pub clock: C,
    /// Metrics for Prometheus.
    pub metrics: StageMetrics,
    /// How long the next poll may wait.
    pub wait: Duration,
    /// Partitions that are assigned but not started yet.
    pub assigned: Option<Vec<TopicPartition>>,
    /// When to ask the object store again, if it did not answer.
    pub store_retry_at: Option<Duration>,
    /// Summary of the run so far.
    pub report: Report,
    /// Whether the run stops once it is drained. Such a run does not wait for an object store.
    pub is_draining: bool,
    is_assigned: bool,
    hidden: Hidden,
    last_shown: Duration,
}

impl<L: Log, C: Clock> Session<L, C> {
    /// A session that has read nothing yet.
    pub fn new(log: L, clock: C, metrics: StageMetrics) -> Self {
        Self {
            log,
            clock,
            metrics,
            wait: Duration::ZERO,
            assigned: None,
            store_retry_at: None,
            report: Report::default(),
            is_draining: false,
            is_assigned: false,
            hidden: Hidden::default(),
            last_shown: Duration::ZERO,
        }
    }

    /// Removes the metrics of these partitions.
    pub fn forget(&mut self, partitions: &[TopicPartition]) {
        for tp in partitions {
            self.metrics.forget(tp);
            self.hidden.forget(tp);
        }
    }

    /// What the loop waits for. `replaying` is the partition that rebuilds its state, if any.
    fn waiting(&self, replaying: Option<TopicPartition>) -> Waiting {
        match replaying {
            _ if !self.log.is_reachable() => Waiting::Broker,
            _ if self.store_retry_at.is_some() => Waiting::ObjectStore,
            Some(tp) => Waiting::Replay(tp),
            None if !self.is_assigned => Waiting::Partitions,
            None => match self.log.unreadable() {
                Some((tp, next, _)) => Waiting::Partition(tp, next),
                None => Waiting::No,
            },
        }
    }

    fn show(&mut self, standing: &Standing, now: Duration) {
        let Standing { partition, next, behind, is_at_end } = standing;
        if let Some(end) = self.log.known_end(partition) {
            self.metrics.lag(partition, behind.map_or(0, |behind| end.stable.0 - behind.0));
            // While there are more records to read, no open transaction hides the next one.
            let hidden = if *is_at_end { self.hidden.look(partition, end, now) } else { 0 };
            self.metrics.hidden(partition, hidden);
        }
        self.metrics.position(partition, *next);
    }
}

/// The progress of a worker in one of its partitions.
#[derive(Debug)]
pub struct Standing {
    /// The partition.
    pub partition: TopicPartition,
    /// Position of the next record to read.
    pub next: NextOffset,
    /// Position from which the lag is counted. None when only transaction markers lie ahead.
    pub behind: Option<NextOffset>,
    /// Whether everything in the partition is read.
    pub is_at_end: bool,
}

/// What a loop does with its partitions, and the loop itself.
pub trait Worker {
    /// The log it reads and writes.
    type Log: Log;
    /// The clock it uses.
    type Clock: Clock;
    /// Why it cannot continue.
    type Error: From<LogError> + std::fmt::Display;

    /// Name of the setting for the object store that it waits for.
    const STORE_SETTING: &'static str;

    /// The session of this worker.
    fn session(&mut self) -> &mut Session<Self::Log, Self::Clock>;

    /// How many records and how many bytes the next poll may return.
    fn capacity(&self) -> (usize, usize);

    /// Accepts records from a poll.
    fn queue(&mut self, records: Vec<Record>);

    /// Prepares partitions and returns the position from which each is read.
    ///
    /// # Errors
    /// When no start position exists that neither loses nor invents data.
    fn start(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, NextOffset>, Self::Error>;

    /// Drops the state of partitions that it no longer owns.
    fn forget(&mut self, partitions: &[TopicPartition]);

    /// The partitions that it currently owns.
    fn partitions(&self) -> Vec<TopicPartition>;

    /// Does the work that is due in this turn.
    ///
    /// # Errors
    /// When the worker must stop; this is a named stop.
    fn work(&mut self) -> Result<Turn, Self::Error>;

    /// Sets the present ends of its partitions as the goal of a drain, because a worker can be run again.
    ///
    /// # Errors
    /// When the broker does not answer.
    fn fix_ends(&mut self) -> Result<(), Self::Error>;

    /// Does the remaining work at the end of a run.
    ///
    /// # Errors
    /// When that work fails.
    fn finish(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A partition with a state that is being rebuilt from its records, if there is one.
    fn replaying(&self) -> Option<TopicPartition> {
        None
    }

    /// Its progress in each partition.
    fn standings(&self) -> Vec<Standing>;

    /// Updates the metrics of its state, in addition to its progress.
    fn show_state(&mut self) {}

    /// The log error inside an error, if there is one.
    fn log_error(error: &Self::Error) -> Option<&LogError>;

    /// Whether an error means that the object store does not answer.
    fn is_store_away(error: &Self::Error) -> bool;

    /// Runs until `shutdown` is set. A draining run also stops once it has reached the ends.
    ///
    /// # Errors
    /// When the stage must stop; this is a named stop. Nothing of the unfinished step is in the log.
    fn run(&mut self, shutdown: &AtomicBool) -> Result<Report, Self::Error> {
        self.fix_ends()?;
        while !shutdown.load(Ordering::Relaxed) {
            let error = match self.turn() {
                Ok(Turn::Drained) => break,
                Ok(Turn::GoesOn) => continue,
                Err(error) => error,
            };
            match Self::log_error(&error) {
                // Work that was not committed is dropped.
                Some(LogError::Stopped(doing)) => {
                    info!(doing, "stopped in the middle");
                    break;
                }
                Some(LogError::Fenced(doing)) => {
                    warn!(doing, "fenced in the middle: every partition is started again once it is assigned");
                    self.forget(&self.partitions());
                    self.session().assigned = None;
                }
                _ => return Err(error),
            }
        }
        self.finish()?;
        Ok(self.session().report.clone())
    }

    /// Runs the loop once, for a caller with its own scheduler.
    ///
    /// # Errors
    /// See [`Worker::run`].
    fn turn(&mut self) -> Result<Turn, Self::Error> {
        let (records, bytes) = self.capacity();
        let session = self.session();
        match session.log.poll(session.wait, records, bytes)? {
            Polled::Records(records) => self.queue(records),
            Polled::Assigned(partitions) => session.assigned.get_or_insert_default().extend(partitions),
            Polled::Revoked(partitions) => self.release(&partitions)?,
        }
        self.start_assigned()?;
        self.session().wait = POLL_WAIT;
        self.work()
    }

    /// Starts the assigned partitions. If the object store does not answer, a later turn tries again.
    ///
    /// # Errors
    /// See [`Worker::start`].
    fn start_assigned(&mut self) -> Result<(), Self::Error> {
        let session = self.session();
        let now = session.clock.monotonic();
        if session.store_retry_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        let Some(partitions) = session.assigned.take() else { return Ok(()) };
        session.store_retry_at = None;
        let started = self.start(&partitions);
        if started.is_err() {
            self.forget(&partitions);
        }
        let session = self.session();
        match started {
            Ok(starts) => {
                session.log.start(&starts)?;
                session.is_assigned = true;
                Ok(())
            }
            Err(error) if Self::is_store_away(&error) && !session.is_draining => {
                let setting = Self::STORE_SETTING;
                warn!(%error, setting, ?partitions, "waiting for the object store: is the setting right, are the store's credentials?");
                session.assigned = Some(partitions);
                session.store_retry_at = Some(now + STORE_RETRY_WAIT);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Releases revoked partitions.
    ///
    /// # Errors
    /// When the broker does not answer.
    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), Self::Error> {
        info!(?partitions, "partitions released");
        self.forget(partitions);
        let session = self.session();
        if let Some(assigned) = &mut session.assigned {
            assigned.retain(|tp| !partitions.contains(tp));
        }
        Ok(session.log.release(partitions)?)
    }

    /// Reports that the loop is alive, how far it is behind and what it waits for.
    fn show_metrics(&mut self) {
        let replaying = self.replaying();
        let session = self.session();
        let now = session.clock.monotonic();
        let waiting = session.waiting(replaying);
        session.metrics.tick(now, &waiting);
        if now.saturating_sub(session.last_shown) < SHOW_INTERVAL {
            return;
        }
        session.last_shown = now;
        for standing in self.standings() {
            self.session().show(&standing, now);
        }
        self.show_state();
    }
}
