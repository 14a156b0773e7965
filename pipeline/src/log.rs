//! The log: an ordered, partitioned, transactional stream of records, and nothing else about it.
//!
//! Two implementations follow the same rules: [`kafka`] and, in memory, [`memory`].

pub mod kafka;
pub mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::record::{Message, Record, StableEnd};
use keepwell_core::offset::{NextOffset, Position, TopicPartition};

/// What a poll brought.
#[derive(Debug)]
pub enum Polled {
    /// Records, in order within each partition; perhaps none.
    Records(Vec<Record>),
    /// Partitions that are this member's from now on. They are read once [`Log::start`] says from where.
    Assigned(Vec<TopicPartition>),
    /// Partitions that are no longer this member's. They are let go by [`Log::release`].
    Revoked(Vec<TopicPartition>),
}

/// First and next offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Offset of the oldest record that is still there.
    pub first: NextOffset,
    /// Offset the next record written will have.
    pub next: NextOffset,
}

/// What became of a transaction.
#[derive(Debug)]
pub enum Verdict {
    /// Everything is in the log.
    Committed,
    /// Nothing is in the log; the same may be tried again.
    Aborted(String),
    /// Nothing is in the log: a record was above what the broker takes. [`Log::max_record_bytes`] tells what is tried next.
    TooLarge {
        /// For which topic.
        topic: String,
    },
    /// Unknown; [`Log::recover`] finds out by the committed positions.
    Lost(String),
}

/// Why a log cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The client refused its configuration.
    #[error("the Kafka client refused its configuration: {0}")]
    Configuration(String),
    /// The broker cannot be used for a reason that time does not mend.
    #[error("{doing}: {why}")]
    Fatal {
        /// What was tried.
        doing: String,
        /// The client's words.
        why: String,
    },
    /// The broker does not know the client, or does not let it.
    #[error(
        "{doing}: the broker refuses: {why}; check kafka.properties and kafka.secrets, and the rights that `keepwell topics rights` lists"
    )]
    Refused {
        /// What was tried.
        doing: String,
        /// The client's words.
        why: String,
    },
    /// The membership of the group was lost in the middle. The next poll takes it up again.
    #[error("fenced while {0}")]
    Fenced(String),
    /// The process was told to stop while it waited.
    #[error("stopped while {0}")]
    Stopped(String),
    /// A topic is missing.
    #[error("topic {0} does not exist; `keepwell topics apply` makes the topics")]
    NoTopic(String),
    /// A position that this program did not write.
    #[error("group position of {topic_partition}: {why}")]
    Position {
        /// Which partition.
        topic_partition: TopicPartition,
        /// What is wrong.
        why: String,
    },
}

/// A member of a consumer group that reads records and writes records and positions in transactions.
///
/// No method blocks for longer than about a second while the broker is away: [`Log::commit`] and the
/// position calls wait in slices and keep the membership alive meanwhile.
pub trait Log {
    /// Waits up to `wait` for records, at most `max_records` of about `max_bytes` in all, or for a change of ownership.
    ///
    /// # Errors
    /// [`LogError`] when the log cannot be read any more.
    fn poll(&mut self, wait: Duration, max_records: usize, max_bytes: usize) -> Result<Polled, LogError>;

    /// Committed positions of partitions that have one.
    ///
    /// # Errors
    /// [`LogError`] when the group cannot be asked or a position is foreign.
    fn committed(&mut self, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Position>, LogError>;

    /// First and next offset of a partition, transactions open or not.
    ///
    /// # Errors
    /// [`LogError`] when the broker cannot be asked.
    fn ends(&mut self, of: &TopicPartition) -> Result<Ends, LogError>;

    /// Whether a partition holds a committed record that a stage wrote; what operators announce is none.
    ///
    /// # Errors
    /// [`LogError`] when the broker cannot be asked.
    fn has_output(&mut self, of: &TopicPartition) -> Result<bool, LogError>;

    /// Number of partitions of a topic; none when there is no such topic.
    ///
    /// # Errors
    /// [`LogError`] when the broker cannot be asked.
    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, LogError>;

    /// Takes up assigned partitions, or moves them, to be read from these positions. Called once after
    /// every [`Polled::Assigned`], with nothing where nothing was assigned.
    ///
    /// # Errors
    /// [`LogError`] when the client refuses.
    fn start(&mut self, from: &BTreeMap<TopicPartition, NextOffset>) -> Result<(), LogError>;

    /// Lets revoked partitions go.
    ///
    /// # Errors
    /// [`LogError`] when the client refuses.
    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Partitions that bring nothing until this is called again: what is read meanwhile is of the others.
    fn pause(&mut self, partitions: &BTreeSet<TopicPartition>);

    /// Where this member met the end of a partition, if it stands there: every committed record below
    /// is read. None while there is more to read or the end has not been met yet.
    fn met_end(&self, partition: &TopicPartition) -> Option<NextOffset>;

    /// The end of a partition as last heard of, for the lag; none while nothing is known.
    fn known_end(&self, partition: &TopicPartition) -> Option<StableEnd>;

    /// Largest record that the broker has shown to take, in bytes; none where it has refused none.
    fn max_record_bytes(&self) -> Option<usize> {
        None
    }

    /// A partition that cannot be read from where it stands, and why.
    fn unreadable(&self) -> Option<(TopicPartition, NextOffset, String)> {
        None
    }

    /// Whether a broker is connected, as last heard of.
    fn is_reachable(&self) -> bool {
        true
    }

    /// Writes `messages` and `positions` in one transaction, fenced by the group membership.
    ///
    /// # Errors
    /// [`LogError`] when no verdict can ever be had, e.g. a message above the broker's limit.
    fn commit(
        &mut self,
        messages: &[Message],
        positions: &BTreeMap<TopicPartition, Position>,
    ) -> Result<Verdict, LogError>;

    /// After [`Verdict::Lost`]: ends the transaction in doubt one way or the other, so that
    /// [`Log::committed`] tells which.
    ///
    /// # Errors
    /// [`LogError`] when the producer cannot be made again.
    fn recover(&mut self) -> Result<(), LogError>;
}

/// No record need be smaller: below it the rows of one account do not fit.
const LEAST_RECORD_BYTES: usize = 20_000;

/// The largest record to write once one of so many bytes was refused: half of it, or of what was tried before.
fn smaller(before: Option<usize>, refused: usize) -> usize {
    (before.map_or(refused, |before| before.min(refused)) / 2).max(LEAST_RECORD_BYTES)
}
