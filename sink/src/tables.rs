//! The tables stage: writes each final row to Parquet once. Its position comes only from its claims.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::error::ArrowError;
use keepwell_core::offset::{NextOffset, Offset, TopicPartition};
use keepwell_core::schema::window::Layout;
use keepwell_pipeline::clock::Clock;
use keepwell_pipeline::config::{Config, Tables as TablesConfig};
use keepwell_pipeline::crash_points::{self, CrashPoint};
use keepwell_pipeline::log::{Log, LogError};
use keepwell_pipeline::partition_loop::{POLL_WAIT, STORE_RETRY_WAIT, Session, Standing, Turn, Worker};
use keepwell_pipeline::process::{Plan, RunArgs};
use keepwell_pipeline::record::Record;
use keepwell_pipeline::runner::RunError;
use keepwell_pipeline::stage::{Fate, StageError, add_fates};
use keepwell_pipeline::store::{Objects, Store, StoreError};
use tracing::{info, warn};

use crate::buffer::{PartitionBuffer, Wanted, Writing};
use crate::claim::{self, ClaimError};
use crate::range_files::{Range, Source, files};

/// Longest time for writing files between two polls.
const WRITE_TURN: Duration = Duration::from_secs(1);

/// Why the tables stage ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The log, a record or a position is wrong.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The store of the tables failed.
    #[error("tables.url: {0}")]
    Store(#[from] StoreError),
    /// A secret for the store of the tables is missing or not valid.
    #[error("{0}")]
    Secret(String),
    /// A claim is not valid, or the store failed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Rows cannot be written as Parquet.
    #[error("writing {source_name} of partition {partition}: {why}")]
    Rows {
        /// Name of the rows' source.
        source_name: &'static str,
        /// Partition of the rows.
        partition: i32,
        /// Arrow's error.
        why: ArrowError,
    },
    /// A claim names other files than this version makes from its range.
    #[error(
        "the claim of {partition} from {first} to {end} names other files than this version writes; finish it with the version that claimed it"
    )]
    OtherFiles {
        /// Partition of the claim.
        partition: TopicPartition,
        /// Offset of the first record.
        first: NextOffset,
        /// Next offset: behind the last record.
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
    session: Session<L, &'t C>,
    store: Box<dyn Objects + 't>,
    sources: BTreeMap<String, Source>,
    /// The layout of window rows.
    layout: Layout,
    options: Options,
    buffers: BTreeMap<TopicPartition, PartitionBuffer>,
}

/// What the tables stage reads.
pub fn plan(config: &Config) -> Plan {
    Plan {
        sources: sources(config).into_keys().collect(),
        outputs: Vec::new(),
        tick: POLL_WAIT,
        tick_behind: POLL_WAIT,
    }
}

fn sources(config: &Config) -> BTreeMap<String, Source> {
    let topics = &config.topics;
    let of_aggregate = [
        (&topics.windows, Source::Windows),
        (&topics.feature_days, Source::FeatureDays),
        (&topics.revenue, Source::Revenue),
    ];
    let all = of_aggregate.into_iter().chain([(&topics.health, Source::Health)]);
    all.map(|(topic, source)| (topic.clone(), source)).collect()
}

impl<'t, L: Log, C: Clock> Tables<'t, L, C> {
    /// Makes the stage from a configuration. It has not read anything yet.
    ///
    /// # Errors
    /// [`TablesError::Store`] when the URL is not understood; [`TablesError::Secret`] when a secret cannot be read.
    pub fn new(
        session: Session<L, &'t C>,
        config: &Config,
        tables: &TablesConfig,
        args: &RunArgs,
    ) -> Result<Self, TablesError> {
        let options = tables.all_options().map_err(TablesError::Secret)?;
        let store = Box::new(Store::open(&tables.url, &options)?);
        Ok(Self::on(store, session, config, tables, args))
    }

    /// Makes the stage from a configuration, on a given store.
    pub fn on(
        store: Box<dyn Objects + 't>,
        mut session: Session<L, &'t C>,
        config: &Config,
        tables: &TablesConfig,
        args: &RunArgs,
    ) -> Self {
        session.is_draining = args.drain;
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
            session,
            store,
            sources: sources(config),
            layout: config.aggregate.layout(),
            options,
            buffers: BTreeMap::new(),
        }
    }

    /// The position at which each partition starts: the end of the newest claim, or its begin if it is unfinished. The
    /// stage finishes such a claim first.
    fn positions(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, TablesError> {
        let mut starts = BTreeMap::new();
        for tp in partitions {
            let Some(source) = self.sources.get(tp.topic.as_ref()).copied() else { continue };
            let ends = self.session.log.ends(tp)?;
            let newest = claim::newest(self.store.as_ref(), source, self.options.epoch, tp.partition)?;
            let (first, adopted) = match newest {
                Some((claim, true)) => (claim.end, None),
                Some((claim, false)) => (claim.first, Some(claim)),
                None if self.options.from_beginning => (ends.first, None),
                None => (NextOffset(0), None),
            };
            let reached = adopted.as_ref().map_or(first, |claim| claim.end);
            // The last entry in Keepwell's own topics is the marker that ends a transaction. It is not a record.
            let is_marker = adopted.is_none() && ends.first == ends.next && first.0 + 1 == ends.first.0;
            if (first < ends.first && !is_marker) || reached > ends.next {
                let why = format!(
                    "the tables end at {reached} but the log reaches from {} to {}: records expired before they were written, or the topic was made again. \
                     To go on without them start with --from beginning in a new place (tables.url), or start a new epoch",
                    ends.first, ends.next
                );
                return Err(RunError::Stop { partition: tp.clone(), why }.into());
            }
            info!(partition = %tp, %first, end = %ends.next, unfinished = adopted.is_some(), "partition started");
            let schema = source.schema(&self.layout);
            self.buffers.insert(tp.clone(), PartitionBuffer::new(source, schema, first, adopted, ends.next));
            starts.insert(tp.clone(), first.max(ends.first));
        }
        Ok(starts)
    }

    /// Memory of the buffered rows, in bytes. Adopted ranges do not count: another process has chosen their size.
    fn buffered_bytes(&self) -> usize {
        self.buffers.values().filter(|buffer| buffer.adopted.is_none()).map(PartitionBuffer::bytes).sum()
    }

    fn decode_waiting(&mut self) -> Result<(), TablesError> {
        let now = self.session.clock.monotonic();
        let mut total = self.buffered_bytes();
        for (tp, buffer) in &mut self.buffers {
            let at = buffer.first_waiting().unwrap_or(Offset(buffer.next.0));
            let refused = |error: keepwell_core::codec::CodecError| {
                let why = error.to_string();
                RunError::from(StageError::Record { topic_partition: tp.clone(), offset: at.0, why })
            };
            // An adopted range must be read to its end, however much is buffered.
            while total < self.options.roll_bytes || buffer.adopted.is_some() {
                let before = buffer.bytes();
                let Some(counts) = buffer.decode_waiting(now).map_err(refused)? else { break };
                total += if buffer.adopted.is_none() { buffer.bytes() - before } else { 0 };
                let fates = [(Fate::of("read"), counts.read), (Fate::of("live"), counts.live)].into();
                add_fates(&mut self.session.report.fates, &fates);
                self.session.metrics.counted(&fates);
            }
            if buffer.num_waiting() > 0 {
                self.session.wait = Duration::ZERO;
            } else if let Some(end) = self.session.log.met_end(tp) {
                buffer.pass_markers(end, now);
            }
        }
        Ok(())
    }

    fn is_drained(&self) -> bool {
        !self.buffers.is_empty()
            && self.buffers.iter().all(|(tp, buffer)| buffer.is_drained(self.session.log.met_end(tp)))
    }

    /// Continues with a range that is due. Returns true when no range is due.
    fn write_due_ranges(&mut self, is_last: bool) -> Result<bool, TablesError> {
        let now = self.session.clock.monotonic();
        if self.session.store_retry_at.is_some_and(|at| now < at) {
            self.session.wait = POLL_WAIT;
            return Ok(false);
        }
        self.session.store_retry_at = None;
        let roll_age = self.options.roll_age;
        // When the buffers of all partitions together are full, write the partition with the largest buffer.
        let is_full = self.buffered_bytes() >= self.options.roll_bytes;
        let free = self.buffers.iter().filter(|(_, buffer)| is_full && buffer.adopted.is_none());
        let largest = free.max_by_key(|(_, buffer)| buffer.bytes()).map(|(tp, _)| tp.clone());
        let range_due = |tp: &TopicPartition, buffer: &PartitionBuffer| {
            let wanted = match largest.as_ref() == Some(tp) {
                _ if is_last => Wanted::All,
                true => Wanted::Rows,
                false => Wanted::No,
            };
            buffer.range_due(now, roll_age, wanted)
        };
        // Write one range a turn: between two turns the process keeps its group membership alive.
        let Some((tp, end)) = self.buffers.iter().find_map(|(tp, buffer)| Some((tp.clone(), range_due(tp, buffer)?)))
        else {
            return Ok(true);
        };
        self.session.wait = Duration::ZERO;
        match self.write_range(&tp, end) {
            Ok(()) => Ok(false),
            Err(TablesError::Claim(ClaimError::Store(error)) | TablesError::Store(error)) => {
                warn!(%error, partition = %tp, "waiting for the object store; nothing more is read meanwhile");
                self.session.store_retry_at = Some(now + STORE_RETRY_WAIT);
                self.session.wait = POLL_WAIT;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Continues with a range: claims it, then writes its files for about a second. If another writer has claimed it to
    /// a different end, adopts that claim.
    fn write_range(&mut self, tp: &TopicPartition, end: NextOffset) -> Result<(), TablesError> {
        let before = self.session.clock.monotonic();
        if self.buffers.get(tp).is_some_and(|buffer| buffer.writing.is_none()) {
            self.claim(tp, end)?;
            crash_points::here(CrashPoint::AfterClaim);
        }
        let Some(buffer) = self.buffers.get_mut(tp) else { return Ok(()) };
        let Some(writing) = &mut buffer.writing else { return Ok(()) };
        while let Some(file) = writing.files.front() {
            self.store.put(&file.name, file.content.clone())?;
            writing.files.pop_front();
            crash_points::here(CrashPoint::InUpload);
            if self.session.clock.monotonic().saturating_sub(before) > WRITE_TURN {
                break;
            }
        }
        if writing.files.is_empty() {
            let num_files = writing.num_files;
            let fates = [(Fate::of("written"), buffer.written(end, self.session.clock.monotonic()))].into();
            add_fates(&mut self.session.report.fates, &fates);
            let took = self.session.clock.monotonic().saturating_sub(before);
            self.session.metrics.committed(&fates, num_files, took, self.session.clock.wall_us());
            self.session.report.num_messages += num_files as u64;
            self.session.report.num_steps += 1;
        }
        Ok(())
    }

    /// Makes the files of a range and claims it, or adopts the claim that another writer made before.
    fn claim(&mut self, tp: &TopicPartition, end: NextOffset) -> Result<(), TablesError> {
        let Some(buffer) = self.buffers.get_mut(tp) else { return Ok(()) };
        let range = Range {
            source: buffer.source,
            epoch: self.options.epoch,
            partition: tp.partition,
            first: buffer.first,
            end,
        };
        let rows = |why| TablesError::Rows { source_name: range.source.name(), partition: tp.partition, why };
        let files = files(range, &buffer.rows_below(end)).map_err(rows)?;
        let claim = match &buffer.adopted {
            Some(claim) => claim.clone(),
            None => claim::make(self.store.as_ref(), range, &files, &self.options.writer)?,
        };
        if claim.end != end {
            info!(partition = %tp, first = %claim.first, end = %claim.end, writer = claim.writer, "claim adopted");
            buffer.adopted = Some(claim);
            return Ok(());
        }
        if !claim.files.iter().eq(files.iter().map(|file| &file.name)) {
            return Err(TablesError::OtherFiles { partition: tp.clone(), first: range.first, end });
        }
        buffer.writing = Some(Writing { end, num_files: files.len(), files: files.into() });
        Ok(())
    }
}

impl<'t, L: Log, C: Clock> Worker for Tables<'t, L, C> {
    type Log = L;
    type Clock = &'t C;
    type Error = TablesError;

    const STORE_SETTING: &'static str = "tables.url";

    fn session(&mut self) -> &mut Session<L, &'t C> {
        &mut self.session
    }

    /// The capacity is zero while the store does not answer.
    fn capacity(&self) -> (usize, usize) {
        let waiting: usize = self.buffers.values().map(PartitionBuffer::num_waiting).sum();
        let waiting_bytes: usize = self.buffers.values().map(PartitionBuffer::waiting_bytes).sum();
        if self.session.store_retry_at.is_some() || waiting_bytes >= self.options.max_bytes {
            return (0, 0);
        }
        (self.options.max_records.saturating_sub(waiting), self.options.max_bytes - waiting_bytes)
    }

    fn queue(&mut self, records: Vec<Record>) {
        for record in records {
            if let Some(buffer) = self.buffers.get_mut(&record.topic_partition) {
                buffer.queue(record);
            }
        }
    }

    fn start(&mut self, partitions: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, NextOffset>, TablesError> {
        self.positions(partitions)
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.session.forget(partitions);
        self.buffers.retain(|tp, _| !partitions.contains(tp));
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.buffers.keys().cloned().collect()
    }

    fn work(&mut self) -> Result<Turn, TablesError> {
        self.decode_waiting()?;
        self.show_metrics();
        let is_last = self.options.drain && self.is_drained();
        let is_all_written = self.write_due_ranges(is_last)?;
        Ok(if is_last && is_all_written { Turn::Drained } else { Turn::GoesOn })
    }

    fn fix_ends(&mut self) -> Result<(), TablesError> {
        for (tp, buffer) in &mut self.buffers {
            buffer.drain_to = self.session.log.ends(tp)?.next;
        }
        Ok(())
    }

    /// The lag counts from the end of the last range in files.
    fn standings(&self) -> Vec<Standing> {
        let standing = |(tp, buffer): (&TopicPartition, &PartitionBuffer)| {
            let is_at_end = self.session.log.met_end(tp).is_some();
            let behind = (!is_at_end).then_some(buffer.next);
            Standing { partition: tp.clone(), next: buffer.next, behind, is_at_end }
        };
        self.buffers.iter().map(standing).collect()
    }

    fn log_error(error: &TablesError) -> Option<&LogError> {
        match error {
            TablesError::Run(RunError::Log(error)) => Some(error),
            _ => None,
        }
    }

    fn is_store_away(error: &TablesError) -> bool {
        matches!(error, TablesError::Claim(ClaimError::Store(_)))
    }
}
