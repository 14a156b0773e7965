//! A stage: a pure left fold over records.
//!
//! `apply` looks at the state and a batch and says what to write and what would change; only when that
//! is committed does `merge` change the state. An abort forgets nothing and undoes nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Message, Record};
use crate::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use keepwell_core::offset::{NextOffset, Position, TopicPartition};

/// What a stage may look at besides its state.
#[derive(Debug, Default)]
pub struct Batch<'r> {
    /// Records to fold, per partition, in order. A step may leave some for the next one.
    pub records: BTreeMap<TopicPartition, &'r [Record]>,
    /// Where each partition of `records` stands: the record to read next and the slices already out.
    pub positions: BTreeMap<TopicPartition, Position>,
    /// Wall-clock time, UTC microseconds. It decides when things are sent and is data for ingest.
    pub now_us: i64,
    /// Ticks of `runner::Options::tick` so far, this one included: what was said since the last need not be said again.
    pub tick: u64,
    /// Whether this step is the first at its tick: what waited for the clock may be sent now.
    pub is_tick: bool,
    /// Whether what is new may be said before its tick.
    pub is_early: bool,
    /// What is known of the ends of the partitions this member owns; for ingest.
    pub ends: BTreeMap<TopicPartition, EndProof>,
    /// Partition counts of the raw topics, for ingest.
    pub partition_counts: BTreeMap<String, i32>,
    /// How many slices of an unfinished record may be sent in this step.
    pub max_slices: u32,
    /// Whether the operator declares every source complete where it is read to its end.
    pub complete: Completeness,
    /// Whether no further step follows: what waits for the clock is sent now.
    pub is_last: bool,
    /// Largest record that the broker has shown to take, in bytes, where it is less than is configured.
    pub max_record_bytes: Option<usize>,
}

impl Batch<'_> {
    /// The largest record to write, in bytes, where `configured` is allowed.
    pub fn record_bytes(&self, configured: usize) -> usize {
        self.max_record_bytes.map_or(configured, |most| most.min(configured))
    }
}

/// Proof that a partition is read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndProof {
    /// When the broker's end and the place where this member met the end were seen to agree, UTC microseconds.
    pub at_us: i64,
    /// The end.
    pub next: NextOffset,
    /// Whether the whole topic has never held a record.
    pub is_topic_empty: bool,
}

/// What an operator declares of sources that are read to their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Completeness {
    /// Nothing: more may come.
    #[default]
    Open,
    /// No event before the last one follows.
    ToLastEvent,
    /// No event follows at all: the pane of the last one can close.
    ToEndOfPane,
}

/// What one step does.
#[derive(Debug)]
pub struct Step<C> {
    /// Records to write, rejects included.
    pub messages: Vec<Message>,
    /// Positions after the step, one for every source it speaks of.
    pub positions: BTreeMap<TopicPartition, Position>,
    /// What becomes of the state when the step is committed.
    pub changes: C,
    /// What became of the records and events read.
    pub fates: Fates,
    /// Whether a further step is due at once, without new records.
    pub has_more: bool,
    /// What an operator should know: what was over a bound, and of which account.
    pub notices: Vec<String>,
}

impl<C: Default> Default for Step<C> {
    /// A step that does nothing.
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            positions: BTreeMap::new(),
            changes: C::default(),
            fates: Fates::new(),
            has_more: false,
            notices: Vec::new(),
        }
    }
}

/// Most notices of one step: a thousand accounts over a bound are one fault.
const MAX_NOTICES: usize = 5;

impl<C> Step<C> {
    /// Adds to the count of a fate.
    pub fn count(&mut self, fate: Fate, more: u64) {
        if more > 0 {
            *self.fates.entry(fate).or_default() += more;
        }
    }

    /// Tells the operator something, unless enough was told in this step.
    pub fn notice(&mut self, words: impl FnOnce() -> String) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(words());
        }
    }
}

/// Counts by fate. The sums hold to the record: what was read is emitted, ignored, rejected or dropped by name.
pub type Fates = BTreeMap<Fate, u64>;

/// A fate, and the reason where it has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fate {
    /// `read`, `emitted`, `ignored`, `rejected`, `on_time`, `late`, `duplicate`, `too_late`, `deleted`, `over_limit`.
    pub name: &'static str,
    /// Stable reason code, empty where the fate has only one.
    pub reason: &'static str,
}

impl Fate {
    /// A fate without a reason of its own.
    pub const fn of(name: &'static str) -> Self {
        Self { name, reason: "" }
    }
}

/// Adds `more` to `fates`.
pub fn add_fates(fates: &mut Fates, more: &Fates) {
    for (fate, count) in more {
        *fates.entry(*fate).or_default() += count;
    }
}

/// What a stage shows of one partition of its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Watermark, UTC microseconds.
    pub watermark_us: Option<i64>,
    /// Accounts in the state.
    pub num_accounts: Option<usize>,
    /// Event ids kept to find duplicates.
    pub num_ids: Option<usize>,
    /// Their memory in bytes.
    pub id_bytes: Option<u64>,
    /// What all of the process may take, in bytes.
    pub id_max_bytes: Option<u64>,
    /// Version of the model file in use.
    pub model_version: Option<i64>,
}

/// Why a stage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A record of the log cannot be understood.
    #[error(
        "record {topic_partition} offset {offset}: {why}. To go on without it start once with --pass-by {}:{}={offset}",
        .topic_partition.topic, .topic_partition.partition
    )]
    Record {
        /// Where.
        topic_partition: TopicPartition,
        /// Which.
        offset: i64,
        /// What is wrong and what to do.
        why: String,
    },
    /// A batch cannot be written.
    #[error(transparent)]
    Codec(#[from] keepwell_core::codec::CodecError),
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// What must be remembered does not fit into the configured bound.
    #[error("{0}")]
    Memory(String),
    /// A snapshot cannot be used although its checksum is right.
    #[error("snapshot of {topic_partition}: {why}")]
    Snapshot {
        /// Which partition's.
        topic_partition: TopicPartition,
        /// What is wrong and what to do.
        why: String,
    },
}

/// A stage of the pipeline.
pub trait Stage {
    /// Everything the stage remembers, for all partitions it owns.
    type State;
    /// What a step changes in the state.
    type Changes;

    /// Name for logs, metrics, groups and snapshots.
    fn name(&self) -> &'static str;

    /// Whether the state must be restored before a partition can be read. A stage without such state
    /// goes on from the committed position alone.
    fn is_stateful(&self) -> bool;

    /// Folds records. Pure: no clock, no I/O, the state only read.
    ///
    /// # Errors
    /// [`StageError`] when a record cannot be understood; the stage stops by name.
    fn apply(&self, state: &Self::State, batch: &Batch<'_>) -> Result<Step<Self::Changes>, StageError>;

    /// Makes the changes of a committed step.
    fn merge(&self, state: &mut Self::State, changes: Self::Changes);

    /// Takes up a partition at `position`, empty or from the parts [`Stage::snapshot`] gave for it.
    ///
    /// # Errors
    /// [`StageError::Snapshot`] when the bytes are of an unknown form.
    fn restore(
        &self,
        state: &mut Self::State,
        partition: &TopicPartition,
        position: Position,
        snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError>;

    /// Forgets a partition that is no longer owned.
    fn forget(&self, state: &mut Self::State, partition: &TopicPartition);

    /// Partitions of its own that are to wait, as they are too far ahead of others in time. `positions` are the
    /// committed ones of all partitions of all sources, other members' included. Only ingest has such.
    fn ahead(&self, _state: &Self::State, _positions: &BTreeMap<TopicPartition, Position>) -> BTreeSet<TopicPartition> {
        BTreeSet::new()
    }

    /// What the state of a partition shows to Prometheus.
    fn gauges(&self, state: &Self::State, partition: &TopicPartition) -> Gauges;

    /// The state of one partition as bytes, in parts; without the bytes of settled parts that are `known`. Equal states
    /// give equal bytes.
    ///
    /// # Errors
    /// [`StageError::Snapshot`] when the state cannot be written.
    fn snapshot(
        &self,
        state: &Self::State,
        partition: &TopicPartition,
        known: &SavedRevisions,
    ) -> Result<Parts, StageError>;

    /// A snapshot with these settled parts is written: what is kept for them alone can go.
    fn saved(&self, _state: &mut Self::State, _partition: &TopicPartition, _known: &SavedRevisions) {}
}
