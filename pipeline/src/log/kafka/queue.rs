//! The queue of an owned partition, and the wakeup that rings when an empty queue receives something.

use std::panic::AssertUnwindSafe;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::Timestamp;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _, Message as _};

use super::ownership::Ownership;
use crate::record::Record;
use keepwell_core::offset::{NextOffset, Offset, TopicPartition};

/// One owned partition.
pub(super) struct Queue {
    pub records: PartitionQueue<Ownership>,
    /// Whether the last event was the end of the partition.
    pub is_at_eof: bool,
    /// The end of the partition, once every record before it is taken.
    pub met_end: Option<NextOffset>,
    /// Offset of the next record to take.
    pub next: NextOffset,
}

/// Threads of librdkafka ring it when an empty queue receives something.
#[derive(Default)]
pub(super) struct Wakeup {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Wakeup {
    pub fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ring.notify_one();
    }

    pub fn wait(&self, limit: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ring.wait_timeout_while(rung, limit, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// Name of a header that is read instead of one whose own name is no text.
const UNREADABLE_NAME: &str = "keepwell-unreadable-name";

/// One header of a message. The client panics if the name is not UTF-8, and gives no access to its bytes. Such a header
/// is replaced by an empty one, so that the record itself is read.
fn header(headers: &BorrowedHeaders, index: usize) -> (String, Option<Vec<u8>>) {
    let read = std::panic::catch_unwind(AssertUnwindSafe(|| {
        headers.try_get(index).map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
    }));
    read.ok().flatten().unwrap_or_else(|| (UNREADABLE_NAME.to_owned(), None))
}

/// Converts a message into a record of the pipeline.
pub(super) fn record(topic_partition: &TopicPartition, message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map(|found| (0..found.count()).map(|index| header(found, index)).collect());
    let timestamp = message.timestamp();
    Record {
        timestamp_ms: timestamp.to_millis().unwrap_or_default(),
        appended_ms: match timestamp {
            Timestamp::LogAppendTime(ms) => Some(ms),
            _ => None,
        },
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: headers.unwrap_or_default(),
        ..Record::at(topic_partition.clone(), Offset(message.offset()))
    }
}
