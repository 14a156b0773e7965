//! Records that are read, and messages to be written.

use std::sync::Arc;

use bytes::Bytes;
use keepwell_core::offset::{NextOffset, Offset, TopicPartition};

/// Header names and values of a record, in order. A header may have no value.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Header of a record by which an operator announces a model file. Such a record is among the output of a stage.
pub const MODEL_HEADER: &str = "keepwell.model";
/// Header of a record of `health` about panes that have ended, as JSON: see [`crate::suspect::Report`].
pub const REPORT_HEADER: &str = "keepwell.report";
/// Header of a record of `health` whose panes are reported when they end. Programs before 2026-11-30 report none.
pub const REPORTED_HEADER: &str = "keepwell.reported";
/// Header of a record of `health` with an operator's word, as JSON: see [`crate::suspect::Word`].
pub const WORD_HEADER: &str = "keepwell.word";

/// One record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic and partition.
    pub topic_partition: TopicPartition,
    /// Offset in the partition.
    pub offset: Offset,
    /// Timestamp, UTC milliseconds.
    pub timestamp_ms: i64,
    /// The key, if there is one.
    pub key: Option<Vec<u8>>,
    /// The value; decoded data may share its memory. None is a tombstone.
    pub value: Option<Bytes>,
    /// Headers, in order.
    pub headers: Headers,
    /// When the broker appended it, UTC milliseconds. Set only if the topic uses the broker's time, not a producer's
    /// claim.
    pub appended_ms: Option<i64>,
    /// Why this record, or the offsets that this text names, cannot be read. Then key, value and headers are empty.
    pub unreadable: Option<String>,
}

impl Record {
    /// A record with an empty content.
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

    /// Whether another than the owner of its partition wrote it: an operator, or the owner of another partition.
    pub fn is_foreign(&self) -> bool {
        [MODEL_HEADER, REPORT_HEADER, WORD_HEADER].iter().any(|name| self.header(name).is_some())
    }
}

/// One record to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic to write to.
    pub topic: Arc<str>,
    /// Partition to write to.
    pub partition: i32,
    /// Timestamp, UTC milliseconds. None means the time of writing.
    pub timestamp_ms: Option<i64>,
    /// The key, if there is one.
    pub key: Option<Vec<u8>>,
    /// The value. None is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Headers,
}

/// Most bytes that the lengths of a header's name and value take in a record: two numbers of variable length.
const HEADER_LENGTHS_BYTES: usize = 10;

/// Largest size of headers in a record, in bytes. Headers without name and value have a size, too.
pub fn headers_bytes(headers: &Headers) -> usize {
    let one = |(name, value): &(String, Option<Vec<u8>>)| {
        HEADER_LENGTHS_BYTES + name.len() + value.as_ref().map_or(0, Vec::len)
    };
    headers.iter().map(one).sum()
}

impl Message {
    /// Largest size of key, value and headers in a record, in bytes.
    pub fn num_bytes(&self) -> usize {
        [&self.key, &self.value].into_iter().flatten().map(Vec::len).sum::<usize>() + headers_bytes(&self.headers)
    }
}

/// The last known end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StableEnd {
    /// Offset behind the last record that a reader of committed records can reach.
    pub stable: NextOffset,
    /// Offset behind the last record, including records of open transactions.
    pub high: NextOffset,
}
