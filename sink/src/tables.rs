//! The tables stage: final rows to Parquet, each once. Its position comes from its claims alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::error::ArrowError;
use keepwell_core::offset::{NextOffset, Offset, TopicPartition};
use keepwell_pipeline::clock::Clock;
use keepwell_pipeline::config::{Config, Tables as TablesConfig};
use keepwell_pipeline::crash::{self, Place};
use keepwell_pipeline::hidden::Hidden;
use keepwell_pipeline::log::{Log, LogError, Polled, Record};
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::process::{Plan, RunArgs};
use keepwell_pipeline::runner::{Report, RunError, Turn};
use keepwell_pipeline::stage::{Fate, StageError, add_fates};
use keepwell_pipeline::store::{Objects, Store, StoreError};
use keepwell_pipeline::waiting::Waiting;
use tracing::{info, warn};

use crate::claim::{self, ClaimError};
use crate::cut::{Range, Source, files};
use crate::held::{Held, Wanted, Writing};

/// How long a poll waits when nothing is due.
const POLL_WAIT: Duration = Duration::from_millis(50);
/// How long files are written between two polls.
const WRITE_TURN: Duration = Duration::from_secs(1);
/// How often the lag is shown.
const TELL_INTERVAL: Duration = Duration::from_secs(1);
/// How long a store that did not answer is left alone.
const RETRY_WAIT: Duration = Duration::from_secs(2);

/// Why the tables stage ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The log, a record or a position.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The tables' place.
    #[error("tables.url: {0}")]
    Place(#[from] StoreError),
    /// A secret of the tables' place.
    #[error("{0}")]
    Secret(String),
    /// A claim.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Rows cannot be written.
    #[error("writing {source_name} of partition {partition}: {why}")]
    Rows {
        /// Their source.
        source_name: &'static str,
        /// Their partition.
        partition: i32,
        /// Arrow's words.
        why: ArrowError,
    },
    /// A claim names other files than its range gives.
    #[error(
        "the claim of {partition} from {first} to {end} names other files than this version writes; finish it with the version that claimed it"
    )]
    OtherFiles {
        /// Their partition.
        partition: TopicPartition,
        /// First record.
        first: NextOffset,
        /// Behind the last record.
        end: NextOffset,
    },
}

impl From<LogError> for TablesError {
    fn from(error: LogError) -> Self {
        Self::Run(error.into())
    }
}

/// How the tables are written.
#[derive(Debug, Clone)]
struct Options {
    epoch: u32,
    max_records: usize,
    max_bytes: usize,
    roll_bytes: usize,
    roll_age: Duration,
    drain: bool,
    from_beginning: bool,
    writer: String,
}

/// The tables stage on a log.
#[derive(Debug)]
pub struct Tables<'t, L: Log, C: Clock> {
    log: L,
    clock: &'t C,
    store: Box<dyn Objects + 't>,
    sources: BTreeMap<String, Source>,
    options: Options,
    held: BTreeMap<TopicPartition, Held>,
    wait: Duration,
    /// While the store does not answer nothing more is read.
    retry_at: Option<Duration>,
    report: Report,
    metrics: StageMetrics,
    hidden: Hidden,
    is_assigned: bool,
    /// Assigned and not taken up yet.
    assigned: Option<Vec<TopicPartition>>,
    last_told: Duration,
}

/// What the tables stage reads.
pub fn plan(config: &Config) -> Plan {
    Plan {
        sources: sources(config).into_keys().collect(),
        outputs: Vec::new(),
        tick: POLL_WAIT,
        tick_behind: POLL_WAIT,
        prove_ends: false,
    }
}

fn sources(config: &Config) -> BTreeMap<String, Source> {
    let topics = &config.topics;
    [(&topics.windows, Source::Windows), (&topics.feature_days, Source::FeatureDays), (&topics.health, Source::Health)]
        .map(|(topic, source)| (topic.clone(), source))
        .into()
}

impl<'t, L: Log, C: Clock> Tables<'t, L, C> {
    /// The stage as configured, before it has read anything.
    ///
    /// # Errors
    /// [`TablesError::Place`] when the URL is not understood.
    pub fn new(
        log: L,
        clock: &'t C,
        config: &Config,
        tables: &TablesConfig,
        args: &RunArgs,
        metrics: StageMetrics,
    ) -> Result<Self, TablesError> {
        let options = tables.all_options().map_err(TablesError::Secret)?;
        let store = Box::new(Store::open(&tables.url, &options)?);
        Ok(Self::on(store, log, clock, config, tables, args, metrics))
    }

    /// The stage as configured, on a store that is at hand.
    pub fn on(
        store: Box<dyn Objects + 't>,
        log: L,
        clock: &'t C,
        config: &Config,
        tables: &TablesConfig,
        args: &RunArgs,
        metrics: StageMetrics,
    ) -> Self {
        let options = Options {
            epoch: config.epoch,
            max_records: config.batch.max_records,
            max_bytes: config.batch.max_bytes,
            roll_bytes: tables.roll_bytes,
            roll_age: tables.roll_age.as_duration(),
            drain: args.drain,
            from_beginning: args.from.is_some(),
            writer: args.instance.clone(),
        };
        Self {
            log,
            clock,
            store,
            sources: sources(config),
            options,
            held: BTreeMap::new(),
            wait: Duration::ZERO,
            retry_at: None,
            report: Report::default(),
            metrics,
            hidden: Hidden::default(),
            is_assigned: false,
            assigned: None,
            last_told: Duration::ZERO,
        }
    }

    /// Runs until `shutdown`, or with `drain` until everything there is now stands in files.
    ///
    /// # Errors
    /// [`TablesError`] when the stage must stop by name; what is claimed is finished at the next start.
    pub fn run(&mut self, shutdown: &AtomicBool) -> Result<Report, TablesError> {
        for (tp, held) in &mut self.held {
            held.drain_to = self.log.ends(tp)?.next;
        }
        while !shutdown.load(Ordering::Relaxed) {
            match self.turn() {
                Ok(Turn::Drained) => break,
                Ok(Turn::GoesOn) => {}
                // What is claimed is finished at the next start.
                Err(TablesError::Run(RunError::Log(LogError::Stopped(doing)))) => {
                    info!(doing, "stopped in the middle");
                    break;
                }
                Err(TablesError::Run(RunError::Log(LogError::Fenced(doing)))) => {
                    warn!(doing, "fenced in the middle: all is taken up again");
                    self.held.clear();
                    self.assigned = None;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.report.clone())
    }

    /// Goes round the loop once: for what is run by a scheduler of its own.
    ///
    /// # Errors
    /// See [`Tables::run`].
    pub fn turn(&mut self) -> Result<Turn, TablesError> {
        let (records, bytes) = self.room();
        match self.log.poll(self.wait, records, bytes)? {
            Polled::Records(records) => self.queue(records),
            Polled::Assigned(partitions) => self.assigned.get_or_insert_default().extend(partitions),
            Polled::Revoked(partitions) => self.let_go(&partitions)?,
        }
        self.take_up_assigned()?;
        self.wait = POLL_WAIT;
        self.take_in()?;
        self.tell();
        let is_last = self.options.drain && self.is_drained();
        let is_all_written = self.cut_where_due(is_last)?;
        Ok(if is_last && is_all_written { Turn::Drained } else { Turn::GoesOn })
    }

    /// How many records and bytes may be read; none while the store does not answer.
    fn room(&self) -> (usize, usize) {
        let waiting: usize = self.held.values().map(Held::num_waiting).sum();
        let waiting_bytes: usize = self.held.values().map(Held::waiting_bytes).sum();
        if self.retry_at.is_some() || waiting_bytes >= self.options.max_bytes {
            return (0, 0);
        }
        (self.options.max_records.saturating_sub(waiting), self.options.max_bytes - waiting_bytes)
    }

    fn queue(&mut self, records: Vec<Record>) {
        for record in records {
            if let Some(held) = self.held.get_mut(&record.topic_partition) {
                held.queue(record);
            }
        }
    }

    /// Takes up what was assigned. While the store does not answer it is tried again, in a turn to come.
    fn take_up_assigned(&mut self) -> Result<(), TablesError> {
        let now = self.clock.monotonic();
        if self.retry_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        let Some(partitions) = self.assigned.take() else { return Ok(()) };
        match self.take_up(&partitions) {
            Err(TablesError::Claim(ClaimError::Store(error))) if !self.options.drain => {
                warn!(%error, ?partitions, "waiting for the object store: tables.url and the store's credentials");
                self.held.retain(|tp, _| !partitions.contains(tp));
                self.assigned = Some(partitions);
                self.retry_at = Some(now + RETRY_WAIT);
                Ok(())
            }
            taken => taken,
        }
    }

    /// Goes on where the newest claim ends, or finishes it first.
    fn take_up(&mut self, partitions: &[TopicPartition]) -> Result<(), TablesError> {
        let mut starts = BTreeMap::new();
        for tp in partitions {
            let Some(source) = self.sources.get(tp.topic.as_ref()).copied() else { continue };
            let ends = self.log.ends(tp)?;
            let newest = claim::newest(self.store.as_ref(), source, self.options.epoch, tp.partition)?;
            let (first, adopted) = match newest {
                Some((claim, true)) => (claim.end, None),
                Some((claim, false)) => (claim.first, Some(claim)),
                None if self.options.from_beginning => (ends.first, None),
                None => (NextOffset(0), None),
            };
            let reached = adopted.as_ref().map_or(first, |claim| claim.end);
            // The last thing in Keepwell's own topics is the marker that ends a transaction: that is no record.
            let is_marker = adopted.is_none() && ends.first == ends.next && first.0 + 1 == ends.first.0;
            if (first < ends.first && !is_marker) || reached > ends.next {
                let why = format!(
                    "the tables end at {reached} but the log reaches from {} to {}: records expired before they were written, or the topic was made again. \
                     To go on without them start with --from beginning in a new place (tables.url), or start a new epoch",
                    ends.first, ends.next
                );
                return Err(RunError::Stop { partition: tp.clone(), why }.into());
            }
            info!(partition = %tp, %first, end = %ends.next, unfinished = adopted.is_some(), "partition taken up");
            self.held.insert(tp.clone(), Held::new(source, first, adopted, ends.next));
            starts.insert(tp.clone(), first.max(ends.first));
        }
        self.log.start(&starts)?;
        self.is_assigned = true;
        Ok(())
    }

    fn let_go(&mut self, partitions: &[TopicPartition]) -> Result<(), TablesError> {
        info!(?partitions, "partitions let go");
        for tp in partitions {
            self.held.remove(tp);
            self.metrics.forget(tp);
            self.hidden.forget(tp);
        }
        if let Some(assigned) = &mut self.assigned {
            assigned.retain(|tp| !partitions.contains(tp));
        }
        self.log.release(partitions)?;
        Ok(())
    }

    /// Shows that the loop goes round, how far behind it is and what it waits for.
    fn tell(&mut self) {
        let now = self.clock.monotonic();
        let waiting = match self.retry_at {
            _ if !self.log.is_reachable() => Waiting::Broker,
            Some(_) => Waiting::ObjectStore,
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
        for (tp, held) in &self.held {
            self.metrics.position(tp, held.next);
            // It lags behind what is in files.
            if let Some(end) = self.log.end_seen(tp) {
                self.metrics.lag(tp, end.stable.0 - held.first.0);
                // While there is more to read nothing hides what comes next.
                let is_at_end = self.log.met_end(tp).is_some();
                self.metrics.hidden(tp, if is_at_end { self.hidden.look(tp, end, now) } else { 0 });
            }
        }
    }

    /// What is held besides adopted ranges, whose size another has chosen.
    fn held_bytes(&self) -> usize {
        self.held.values().filter(|held| held.adopted.is_none()).map(Held::bytes).sum()
    }

    fn take_in(&mut self) -> Result<(), TablesError> {
        let now = self.clock.monotonic();
        let mut total = self.held_bytes();
        for (tp, held) in &mut self.held {
            let at = held.first_waiting().unwrap_or(Offset(held.next.0));
            let refused = |error: keepwell_core::codec::CodecError| {
                let why = error.to_string();
                RunError::from(StageError::Record { topic_partition: tp.clone(), offset: at.0, why })
            };
            // An adopted range must be read to its end, however much is held.
            while total < self.options.roll_bytes || held.adopted.is_some() {
                let before = held.bytes();
                let Some(counts) = held.take_in(now).map_err(refused)? else { break };
                total += if held.adopted.is_none() { held.bytes() - before } else { 0 };
                let fates = [(Fate::of("read"), counts.read), (Fate::of("live"), counts.live)].into();
                add_fates(&mut self.report.fates, &fates);
                self.metrics.counted(&fates);
            }
            if held.num_waiting() > 0 {
                self.wait = Duration::ZERO;
            } else if let Some(end) = self.log.met_end(tp) {
                held.pass_markers(end, now);
            }
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        !self.held.is_empty() && self.held.iter().all(|(tp, held)| held.is_drained(self.log.met_end(tp)))
    }

    /// Goes on with a range that is due. True when none is.
    fn cut_where_due(&mut self, is_last: bool) -> Result<bool, TablesError> {
        let now = self.clock.monotonic();
        if self.retry_at.is_some_and(|at| now < at) {
            self.wait = POLL_WAIT;
            return Ok(false);
        }
        self.retry_at = None;
        let roll_age = self.options.roll_age;
        // Where too much is held in all, the partition that holds most is written.
        let is_full = self.held_bytes() >= self.options.roll_bytes;
        let free = self.held.iter().filter(|(_, held)| is_full && held.adopted.is_none());
        let largest = free.max_by_key(|(_, held)| held.bytes()).map(|(tp, _)| tp.clone());
        let cut_due = |tp: &TopicPartition, held: &Held| {
            let wanted = match largest.as_ref() == Some(tp) {
                _ if is_last => Wanted::All,
                true => Wanted::Rows,
                false => Wanted::No,
            };
            held.cut_due(now, roll_age, wanted)
        };
        // One a turn: between two the membership is kept alive.
        let Some((tp, end)) = self.held.iter().find_map(|(tp, held)| Some((tp.clone(), cut_due(tp, held)?))) else {
            return Ok(true);
        };
        self.wait = Duration::ZERO;
        match self.cut(&tp, end) {
            Ok(()) => Ok(false),
            Err(TablesError::Claim(ClaimError::Store(error)) | TablesError::Place(error)) => {
                warn!(%error, partition = %tp, "waiting for the object store; nothing more is read meanwhile");
                self.retry_at = Some(now + RETRY_WAIT);
                self.wait = POLL_WAIT;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Goes on with a range: claims it, then writes its files for about a second. Where another has claimed it
    /// to a different end, that claim is adopted.
    fn cut(&mut self, tp: &TopicPartition, end: NextOffset) -> Result<(), TablesError> {
        let before = self.clock.monotonic();
        if self.held.get(tp).is_some_and(|held| held.writing.is_none()) {
            self.claim(tp, end)?;
            crash::here(Place::AfterClaim);
        }
        let Some(held) = self.held.get_mut(tp) else { return Ok(()) };
        let Some(writing) = &mut held.writing else { return Ok(()) };
        while let Some(file) = writing.files.front() {
            self.store.put(&file.name, file.content.clone())?;
            writing.files.pop_front();
            crash::here(Place::InUpload);
            if self.clock.monotonic().saturating_sub(before) > WRITE_TURN {
                break;
            }
        }
        if writing.files.is_empty() {
            let num_files = writing.num_files;
            let fates = [(Fate::of("written"), held.written(end, self.clock.monotonic()))].into();
            add_fates(&mut self.report.fates, &fates);
            let took = self.clock.monotonic().saturating_sub(before);
            self.metrics.committed(&fates, num_files, took, self.clock.wall_us());
            self.report.num_messages += num_files as u64;
            self.report.num_steps += 1;
        }
        Ok(())
    }

    /// Makes the files of a range and claims it, or adopts the claim that another made before.
    fn claim(&mut self, tp: &TopicPartition, end: NextOffset) -> Result<(), TablesError> {
        let Some(held) = self.held.get_mut(tp) else { return Ok(()) };
        let range =
            Range { source: held.source, epoch: self.options.epoch, partition: tp.partition, first: held.first, end };
        let rows = |why| TablesError::Rows { source_name: range.source.name(), partition: tp.partition, why };
        let files = files(range, &held.rows_below(end)).map_err(rows)?;
        let claim = match &held.adopted {
            Some(claim) => claim.clone(),
            None => claim::make(self.store.as_ref(), range, &files, &self.options.writer)?,
        };
        if claim.end != end {
            info!(partition = %tp, first = %claim.first, end = %claim.end, writer = claim.writer, "claim adopted");
            held.adopted = Some(claim);
            return Ok(());
        }
        if !claim.files.iter().eq(files.iter().map(|file| &file.name)) {
            return Err(TablesError::OtherFiles { partition: tp.clone(), first: range.first, end });
        }
        held.writing = Some(Writing { end, num_files: files.len(), files: files.into() });
        Ok(())
    }
}
