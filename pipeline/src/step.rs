//! One step of a stage: what goes in, what comes out, and why there may be none.

use std::collections::BTreeMap;

use crate::record::{Message, Record};
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
    /// Events that the step read, by topic and kind.
    pub source_events: BTreeMap<(String, &'static str), u64>,
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
            source_events: BTreeMap::new(),
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
