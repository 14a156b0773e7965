//! The one loop: it polls, starts partitions that are assigned, releases those that are revoked, lets its worker work,
//! and shows where it stands. What a worker does with its partitions is its own: a [`crate::runner::Runner`] folds
//! records into a state, sink's tables write files.

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
/// How often lag, watermark and state are shown.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// How long an object store that did not answer is left alone.
pub const STORE_RETRY_WAIT: Duration = Duration::from_secs(2);

/// What a run did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// What became of records and events.
    pub fates: Fates,
    /// Committed steps.
    pub num_steps: u64,
    /// Records or files written.
    pub num_messages: u64,
}

/// Whether the loop goes round again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// There may be more to do, now or later.
    GoesOn,
    /// Everything up to the ends that draining speaks of is done.
    Drained,
}

/// The rim of a loop: its log, its clock, its metrics, and where its assignment stands.
#[derive(Debug)]
pub struct Session<L: Log, C: Clock> {
    /// The log.
    pub log: L,
    /// The clock.
    pub clock: C,
    /// What is shown to Prometheus.
    pub metrics: StageMetrics,
    /// How long the next poll may wait.
    pub wait: Duration,
    /// Assigned and not started yet.
    pub assigned: Option<Vec<TopicPartition>>,
    /// When the object store is asked again that did not answer.
    pub store_retry_at: Option<Duration>,
    /// What the run did.
    pub report: Report,
    /// Whether it ends once it is drained: then it does not wait for an object store.
    pub is_draining: bool,
    is_assigned: bool,
    hidden: Hidden,
    last_shown: Duration,
}

impl<L: Log, C: Clock> Session<L, C> {
    /// A session that has not read anything yet.
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

    /// Forgets what is shown of partitions.
    pub fn forget(&mut self, partitions: &[TopicPartition]) {
        for tp in partitions {
            self.metrics.forget(tp);
            self.hidden.forget(tp);
        }
    }

    /// What is waited for, where no state is replayed.
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
            // While there is more to read nothing hides what comes next.
            let hidden = if *is_at_end { self.hidden.look(partition, end, now) } else { 0 };
            self.metrics.hidden(partition, hidden);
        }
        self.metrics.position(partition, *next);
    }
}

/// Where a worker stands in one of its partitions.
#[derive(Debug)]
pub struct Standing {
    /// The partition.
    pub partition: TopicPartition,
    /// What it reads next.
    pub next: NextOffset,
    /// From where to the end it lags behind; none where nothing but transaction markers lies ahead.
    pub behind: Option<NextOffset>,
    /// Whether it has read all that there is.
    pub is_at_end: bool,
}

/// What a loop does with the partitions it is given, and the loop itself.
pub trait Worker {
    /// Its log.
    type Log: Log;
    /// Its clock.
    type Clock: Clock;
    /// Why it cannot go on.
    type Error: From<LogError> + std::fmt::Display;

    /// The setting that names the object store it waits for.
    const STORE_SETTING: &'static str;

    /// Its session.
    fn session(&mut self) -> &mut Session<Self::Log, Self::Clock>;

    /// How many records and bytes may be read.
    fn capacity(&self) -> (usize, usize);

    /// Takes records that were read.
    fn queue(&mut self, records: Vec<Record>);

    /// Prepares partitions and says from where each is read.
    ///
    /// # Errors
    /// When a partition cannot be read from a position that loses and invents nothing.
    fn start(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, NextOffset>, Self::Error>;

    /// Forgets partitions that are no longer its own.
    fn forget(&mut self, partitions: &[TopicPartition]);

    /// The partitions it has.
    fn partitions(&self) -> Vec<TopicPartition>;

    /// Works with what it has.
    ///
    /// # Errors
    /// When it must stop by name.
    fn work(&mut self) -> Result<Turn, Self::Error>;

    /// Drains to the ends of now: for a worker that is run again.
    ///
    /// # Errors
    /// When the broker does not answer.
    fn fix_ends(&mut self) -> Result<(), Self::Error>;

    /// What is left to do at the end of a run.
    ///
    /// # Errors
    /// When it cannot be done.
    fn finish(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// A partition whose state is made from its records again.
    fn replaying(&self) -> Option<TopicPartition> {
        None
    }

    /// Where it stands in each partition.
    fn standings(&self) -> Vec<Standing>;

    /// Shows more than where it stands.
    fn show_state(&mut self) {}

    /// The log's part of an error.
    fn log_error(error: &Self::Error) -> Option<&LogError>;

    /// Whether an error says that the object store does not answer.
    fn is_store_away(error: &Self::Error) -> bool;

    /// Runs until `shutdown`, or where it drains until the ends are reached.
    ///
    /// # Errors
    /// When the stage must stop by name; nothing of the step under way is in the log.
    fn run(&mut self, shutdown: &AtomicBool) -> Result<Report, Self::Error> {
        self.fix_ends()?;
        while !shutdown.load(Ordering::Relaxed) {
            let error = match self.turn() {
                Ok(Turn::Drained) => break,
                Ok(Turn::GoesOn) => continue,
                Err(error) => error,
            };
            match Self::log_error(&error) {
                // What was not committed is forgotten.
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

    /// Goes round the loop once: for what is run by a scheduler of its own.
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

    /// Starts what was assigned. While the object store does not answer it is tried again, in a turn to come.
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

    /// Lets partitions go that are revoked.
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

    /// Shows that the loop goes round, how far behind it is and what it waits for.
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
