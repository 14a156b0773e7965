//! What a stage waits for before it can work.

use std::fmt;

use keepwell_core::offset::{NextOffset, TopicPartition};

/// What a stage waits for before it can work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing: it works, or there is nothing to do.
    No,
    /// Its first partitions: the group has assigned none since the process began.
    #[default]
    Partitions,
    /// The replay that rebuilds the state of this partition.
    Replay(TopicPartition),
    /// The broker does not answer.
    Broker,
    /// The object store does not answer.
    ObjectStore,
    /// A partition that cannot be read at this offset.
    Partition(TopicPartition, NextOffset),
}

impl Waiting {
    /// The label values that distinguish them in a metric.
    pub const NAMES: [&'static str; 5] = ["partitions", "replay", "broker", "object_store", "partition"];

    /// Its name among [`Waiting::NAMES`]. None while nothing is waited for.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::Partitions => Some("partitions"),
            Self::Replay(_) => Some("replay"),
            Self::Broker => Some("broker"),
            Self::ObjectStore => Some("object_store"),
            Self::Partition(..) => Some("partition"),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("nothing"),
            Self::Partitions => f.write_str("partitions to be assigned"),
            Self::Replay(tp) => write!(f, "the replay of {tp}"),
            Self::Broker => f.write_str("the broker"),
            Self::ObjectStore => f.write_str("the object store"),
            Self::Partition(tp, next) => write!(f, "{tp}, which cannot be read at offset {next}"),
        }
    }
}
