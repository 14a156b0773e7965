//! The log: an ordered, partitioned, transactional stream of records.
//!
//! There are two implementations with the same rules: [`kafka`], and [`memory`] for tests and simulations.

pub mod kafka;
pub mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::record::{Message, Record, StableEnd};
use keepwell_core::offset::{NextOffset, Position, TopicPartition};

/// The result of a poll.
#[derive(Debug)]
pub enum Polled {
    /// Records, in order within each partition. The list may be empty.
    Records(Vec<Record>),
    /// Partitions that this member owns from now on. Reading begins once [`Log::start`] sets their positions.
    Assigned(Vec<TopicPartition>),
    /// Partitions that this member no longer owns. [`Log::release`] releases them.
    Revoked(Vec<TopicPartition>),
}

/// First and next offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Offset of the oldest record that still exists.
    pub first: NextOffset,
    /// Offset that the next written record will have.
    pub next: NextOffset,
}

/// The outcome of a transaction.
#[derive(Debug)]
pub enum Verdict {
    /// Everything is in the log.
    Committed,
    /// Nothing is in the log. The same step may be tried again.
    Aborted(String),
    /// Nothing is in the log: a record exceeds the broker's limit. [`Log::record_limits`] has the next size to
    /// try.
    TooLarge {
        /// Topic of the record.
        topic: String,
    },
    /// The outcome is unknown. After [`Log::recover`] the committed positions show it.
    Lost(String),
}

/// Why a log cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The client rejected its configuration.
    #[error("the Kafka client refused its configuration: {0}")]
    Configuration(String),
    /// The broker cannot be used, for a reason that waiting does not fix.
    #[error("{doing}: {why}")]
    Fatal {
        /// The action that failed.
        doing: String,
        /// The message of the client.
        why: String,
    },
    /// No broker answers.
    #[error("{doing}: no broker answers at {servers} (kafka.bootstrap_servers): is Kafka running there? {why}")]
    NoBroker {
        /// The action that failed.
        doing: String,
        /// The addresses that were asked.
        servers: String,
        /// The message of the client.
        why: String,
    },
    /// The broker does not know the client, or denies it a right.
    #[error(
        "{doing}: the broker refuses: {why}; check kafka.properties and kafka.secrets, and the rights that `keepwell topics rights` lists"
    )]
    Refused {
        /// The action that failed.
        doing: String,
        /// The message of the client.
        why: String,
    },
    /// The group membership was lost during an action. The next poll joins again.
    #[error("fenced while {0}")]
    Fenced(String),
    /// The process was asked to stop while it waited.
    #[error("stopped while {0}")]
    Stopped(String),
    /// A topic is missing.
    #[error("topic {0} does not exist; `keepwell topics apply` makes the topics")]
    NoTopic(String),
    /// A committed position that this program did not write.
    #[error("group position of {topic_partition}: {why}")]
    Position {
        /// Partition of the position.
        topic_partition: TopicPartition,
        /// What is wrong.
        why: String,
    },
}

/// A member of a consumer group. It reads records, and writes records and positions in transactions.
///
/// While the broker is away, no method blocks for longer than about a second without keeping the membership alive.
/// [`Log::commit`] and the position calls wait in short intervals and serve the group in between.
pub trait Log {
    /// Waits up to `wait` for records or a change of ownership. Returns at most `max_records` of about `max_bytes` in
    /// all.
    ///
    /// # Errors
    /// [`LogError`] when the log cannot be read any more.
    fn poll(&mut self, wait: Duration, max_records: usize, max_bytes: usize) -> Result<Polled, LogError>;

    /// Committed positions of partitions that have one.
    ///
    /// # Errors
    /// [`LogError`] when the group does not answer or a position was not written by this program.
    fn committed(&mut self, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Position>, LogError>;

    /// First and next offset of a partition, including records of open transactions.
    ///
    /// # Errors
    /// [`LogError`] when the broker does not answer.
    fn ends(&mut self, of: &TopicPartition) -> Result<Ends, LogError>;

    /// Whether a partition contains a committed record that a stage wrote. Model announcements by operators do not
    /// count.
    ///
    /// # Errors
    /// [`LogError`] when the broker does not answer.
    fn has_output(&mut self, of: &TopicPartition) -> Result<bool, LogError>;

    /// Number of partitions of a topic. None when the topic does not exist.
    ///
    /// # Errors
    /// [`LogError`] when the broker does not answer.
    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, LogError>;

    /// Starts assigned partitions at these positions, or moves running ones there. The loop calls it once after every
    /// [`Polled::Assigned`], with an empty map if nothing was assigned.
    ///
    /// # Errors
    /// [`LogError`] when the client reports an error.
    fn start(&mut self, from: &BTreeMap<TopicPartition, NextOffset>) -> Result<(), LogError>;

    /// Releases revoked partitions.
    ///
    /// # Errors
    /// [`LogError`] when the client reports an error.
    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError>;

    /// Pauses exactly these partitions until the next call. Polls return records of the others only.
    fn pause(&mut self, partitions: &BTreeSet<TopicPartition>);

    /// The end of a partition, if this member has read every committed record below it. None while there is more to
    /// read, or while the end has not been reached yet.
    fn met_end(&self, partition: &TopicPartition) -> Option<NextOffset>;

    /// The last known end of a partition, for the lag. None while nothing is known.
    fn known_end(&self, partition: &TopicPartition) -> Option<StableEnd>;

    /// Largest record that the broker is known to accept for a topic, in bytes. It has only topics for which the broker
    /// has refused a record.
    fn record_limits(&self) -> BTreeMap<String, usize> {
        BTreeMap::new()
    }

    /// A partition that cannot be read at its position: partition, position and reason.
    fn unreadable(&self) -> Option<(TopicPartition, NextOffset, String)> {
        None
    }

    /// Whether a broker is connected, according to the last report.
    fn is_reachable(&self) -> bool {
        true
    }

    /// Writes `messages` and `positions` in one transaction. The group membership fences a former owner.
    ///
    /// # Errors
    /// [`LogError`] when no verdict is possible, e.g. because the broker denies a right.
    fn commit(
        &mut self,
        messages: &[Message],
        positions: &BTreeMap<TopicPartition, Position>,
    ) -> Result<Verdict, LogError>;

    /// Must be called after [`Verdict::Lost`]. It ends the transaction in doubt, so that [`Log::committed`] shows
    /// whether it was committed.
    ///
    /// # Errors
    /// [`LogError`] when no new producer can be made.
    fn recover(&mut self) -> Result<(), LogError>;
}

/// Lower limit for the size of a record. Below it the rows of one account do not fit.
const LEAST_RECORD_BYTES: usize = 20_000;

/// The largest record to write after one of `refused` bytes was refused: half of it, or half of the limit before.
fn smaller(before: Option<usize>, refused: usize) -> usize {
    (before.map_or(refused, |before| before.min(refused)) / 2).max(LEAST_RECORD_BYTES)
}
