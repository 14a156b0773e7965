//! Records as they are read, messages as they are written.

use std::sync::Arc;

use bytes::Bytes;
use keepwell_core::offset::{NextOffset, Offset, TopicPartition};

/// Header names and values of a record, in order; a header may lack a value.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Header of a record by which an operator announces a model file; it stands among the output of a stage.
pub const MODEL_HEADER: &str = "keepwell.model";

/// One record as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it is.
    pub topic_partition: TopicPartition,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, UTC milliseconds.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value, which what is read from it may share; none is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers.
    pub headers: Headers,
    /// When the broker appended it, UTC milliseconds, where the topic has the broker set the time: then it is no claim.
    pub appended_ms: Option<i64>,
    /// Why nothing of it, nor of what is named here, can be read: then it has no key, value and headers.
    pub unreadable: Option<String>,
}

impl Record {
    /// A record without anything in it.
    pub fn at(topic_partition: TopicPartition, offset: Offset) -> Self {
        Self {
            topic_partition,
            offset,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Headers::new(),
            appended_ms: None,
            unreadable: None,
        }
    }

    /// The last value of header `name`.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref())
    }
}

/// One record to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic to write to.
    pub topic: Arc<str>,
    /// Partition to write to.
    pub partition: i32,
    /// Timestamp, UTC milliseconds; none is the time of writing.
    pub timestamp_ms: Option<i64>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers.
    pub headers: Headers,
}

impl Message {
    /// Bytes of key, value and headers.
    pub fn num_bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len));
        [&self.key, &self.value].into_iter().flatten().map(Vec::len).sum::<usize>() + headers.sum::<usize>()
    }
}

/// The end of a partition as last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableEnd {
    /// Behind the last record that readers of committed records can reach.
    pub stable: NextOffset,
    /// Behind the last record, transactions open or not.
    pub high: NextOffset,
}
