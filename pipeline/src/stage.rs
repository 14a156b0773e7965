//! A stage: a pure left fold over records.
//!
//! `apply` reads the state and a batch, and returns what to write and how the state would change. Only after the commit
//! does `merge` change the state. So an abort loses nothing and needs no undo.

use std::collections::BTreeMap;

use crate::record::{Message, Record};
use crate::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use crate::source_reader::SourceReader;
use keepwell_core::offset::{Position, TopicPartition};

/// The input of a step, besides the state.
#[derive(Debug, Default)]
pub struct Batch<'r> {
    /// Records to fold, per partition, in order. A step may leave some of them for the next step.
    pub records: BTreeMap<TopicPartition, &'r [Record]>,
    /// The position of each partition of `records`: the record to read next, and the slices that are already written.
    pub positions: BTreeMap<TopicPartition, Position>,
    /// Wall-clock time, UTC microseconds. It decides when output is sent. For ingest it is data, too.
    pub now_us: i64,
    /// Number of ticks of `runner::Options::tick` so far, including this one. What was published since the last tick
    /// need not be published again.
    pub tick: u64,
    /// Whether this step is the first of its tick. Then output that waited for the clock may be sent.
    pub is_tick: bool,
    /// Whether new results may be published before their tick.
    pub is_early: bool,
    /// How many slices of an unfinished record this step may send.
    pub max_slices: u32,
    /// Whether no further step follows. Then output that waits for the clock is sent now.
    pub is_last: bool,
    /// Largest record that the broker is known to accept for a topic, in bytes. It has only topics for which the broker
    /// has refused a record.
    pub record_limits: BTreeMap<String, usize>,
}

impl Batch<'_> {
    /// The largest record to write to a topic, in bytes, if `configured` is the configured limit.
    pub fn record_bytes(&self, topic: &str, configured: usize) -> usize {
        self.record_limits.get(topic).map_or(configured, |most| configured.min(*most))
    }
}

/// The result of one step.
#[derive(Debug)]
pub struct Step<C> {
    /// Records to write, rejects included.
    pub messages: Vec<Message>,
    /// Positions after the step, one for every source partition that the step moves.
    pub positions: BTreeMap<TopicPartition, Position>,
    /// The changes to the state, to be merged once the step is committed.
    pub changes: C,
    /// The fates of the records and events that the step read.
    pub fates: Fates,
    /// Whether a further step is due at once, without new records.
    pub has_more: bool,
    /// Messages for the operator: which account exceeded which limit.
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

/// Maximum number of notices of one step. A thousand accounts over a limit are one fault, not a thousand.
const MAX_NOTICES: usize = 5;

impl<C> Step<C> {
    /// Adds `more` to the count of a fate.
    pub fn count(&mut self, fate: Fate, more: u64) {
        if more > 0 {
            *self.fates.entry(fate).or_default() += more;
        }
    }

    /// Adds a notice for the operator, unless the step already has the maximum number.
    pub fn notice(&mut self, words: impl FnOnce() -> String) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(words());
        }
    }
}

/// Counts by fate. They account for every record: each one that was read is emitted, ignored, rejected or dropped for a
/// named reason.
pub type Fates = BTreeMap<Fate, u64>;

/// A fate, and the reason code if this fate has several reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fate {
    /// Stable name for metrics, e.g. `read`, `emitted`, `ignored`, `rejected`, `late`, `duplicate`, `too_late`,
    /// `left_out`.
    pub name: &'static str,
    /// Stable reason code, empty where the fate has only one.
    pub reason: &'static str,
}

impl Fate {
    /// A fate that has no separate reason.
    pub const fn of(name: &'static str) -> Self {
        Self { name, reason: "" }
    }
}

/// Adds the counts of `more` to `fates`.
pub fn add_fates(fates: &mut Fates, more: &Fates) {
    for (fate, count) in more {
        *fates.entry(*fate).or_default() += count;
    }
}

/// Metrics of one partition of a stage's state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Watermark, UTC microseconds.
    pub watermark_us: Option<i64>,
    /// Accounts in the state.
    pub num_accounts: Option<usize>,
    /// Event ids that are kept to find duplicates.
    pub num_ids: Option<usize>,
    /// Memory of those event ids, in bytes.
    pub id_bytes: Option<u64>,
    /// Memory that the event ids of the whole process may use, in bytes.
    pub id_max_bytes: Option<u64>,
    /// Version of the model file in use.
    pub model_version: Option<i64>,
}

/// Why a stage cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A record of the log cannot be decoded.
    #[error(
        "record {topic_partition} offset {offset}: {why}. To go on without it start once with --pass-by {}:{}={offset}",
        .topic_partition.topic, .topic_partition.partition
    )]
    Record {
        /// Partition of the record.
        topic_partition: TopicPartition,
        /// Offset of the record.
        offset: i64,
        /// What is wrong and what to do.
        why: String,
    },
    /// A batch cannot be written.
    #[error(transparent)]
    Codec(#[from] keepwell_core::codec::CodecError),
    /// Arrow returned an error.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// The state does not fit into the configured memory limit.
    #[error("{0}")]
    Memory(String),
    /// A snapshot cannot be used although its checksum is right.
    #[error("snapshot of {topic_partition}: {why}")]
    Snapshot {
        /// Partition of the snapshot.
        topic_partition: TopicPartition,
        /// What is wrong and what to do.
        why: String,
    },
}

/// A stage of the pipeline.
pub trait Stage {
    /// Everything the stage remembers, for all partitions that it owns.
    type State;
    /// The changes that one step makes to the state.
    type Changes;

    /// Name of the stage in logs, metrics, consumer groups and snapshots.
    fn name(&self) -> &'static str;

    /// Whether the state must be restored before a partition can be read. A stage without such state continues from the
    /// committed position alone.
    fn is_stateful(&self) -> bool;

    /// Folds records. This is a pure function: no clock, no I/O, and it only reads the state.
    ///
    /// # Errors
    /// [`StageError`] when a record cannot be decoded. This is a named stop.
    fn apply(&self, state: &Self::State, batch: &Batch<'_>) -> Result<Step<Self::Changes>, StageError>;

    /// Applies the changes of a committed step.
    fn merge(&self, state: &mut Self::State, changes: Self::Changes);

    /// Starts a partition at `position`: with empty state, or from the parts that [`Stage::snapshot`] returned for it.
    ///
    /// # Errors
    /// [`StageError::Snapshot`] when the format of the bytes is unknown.
    fn restore(
        &self,
        state: &mut Self::State,
        partition: &TopicPartition,
        position: Position,
        snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError>;

    /// Drops the state of a partition that is no longer owned.
    fn forget(&self, state: &mut Self::State, partition: &TopicPartition);

    /// What the stage does instead of [`Stage::apply`], if it reads the raw topics.
    fn source_reader(&self) -> Option<&dyn SourceReader<Self>> {
        None
    }

    /// Metrics of one partition's state, for Prometheus.
    fn gauges(&self, state: &Self::State, partition: &TopicPartition) -> Gauges;

    /// The state of one partition as bytes, in parts. For settled parts that are in `known` the bytes are left out.
    /// Equal states give equal bytes.
    ///
    /// # Errors
    /// [`StageError::Snapshot`] when the state cannot be encoded.
    fn snapshot(
        &self,
        state: &Self::State,
        partition: &TopicPartition,
        known: &SavedRevisions,
    ) -> Result<Parts, StageError>;

    /// Reports that a snapshot with these settled parts is written. The stage may drop what it kept only for them.
    fn saved(&self, _state: &mut Self::State, _partition: &TopicPartition, _known: &SavedRevisions) {}
}
