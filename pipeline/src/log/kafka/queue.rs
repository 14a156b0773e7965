//! The queue of an owned partition, and the wakeup that rings when an empty queue receives something.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::Timestamp;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

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

/// Converts a message into a record of the pipeline.
pub(super) fn record(topic_partition: &TopicPartition, message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
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
