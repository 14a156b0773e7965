//! What a stage knows and does that reads the raw topics of strangers. Only ingest is one.

use std::collections::{BTreeMap, BTreeSet};

use crate::step::{Batch, StageError, Step};
use keepwell_core::offset::{NextOffset, Position, TopicPartition};

/// A stage that reads raw topics. It states how far time has come, so it must know more than the records.
pub trait SourceReader<State, Changes> {
    /// Folds records, like `Stage::apply`.
    ///
    /// # Errors
    /// [`StageError`] when the events do not form a batch.
    fn read(&self, state: &State, batch: &Batch<'_>, sources: &Sources) -> Result<Step<Changes>, StageError>;

    /// Owned partitions that must wait because their event time is too far ahead of others. `positions` are the
    /// committed positions of all partitions of all sources, including those of other members.
    fn ahead(&self, state: &State, positions: &BTreeMap<TopicPartition, Position>) -> BTreeSet<TopicPartition>;
}

/// What is known about the raw topics, besides their records.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Proven ends of the partitions that this member owns.
    pub ends: BTreeMap<TopicPartition, EndProof>,
    /// Partition count of each topic.
    pub partition_counts: BTreeMap<String, i32>,
    /// Whether the operator declares that a source is complete once it is read to its end.
    pub complete: Completeness,
}

/// Proof that a partition is read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndProof {
    /// When this member's end and the broker's end were observed to agree, UTC microseconds.
    pub at_us: i64,
    /// The end: the offset that the next record will have.
    pub next: NextOffset,
    /// Whether the whole topic has never contained a record.
    pub is_topic_empty: bool,
}

/// What an operator declares about sources that are read to their ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Completeness {
    /// Nothing is declared: more events may come.
    #[default]
    Open,
    /// No event follows that is older than the last one.
    ToLastEvent,
    /// No event follows at all, so the pane of the last event can close.
    ToEndOfPane,
}
