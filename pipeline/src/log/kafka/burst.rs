//! A burst: the records that are handed to librdkafka before we wait for their delivery.
//!
//! An idempotent producer sends more only while fewer than five records are in flight to a partition. While further
//! records wait behind them, its thread spins. So a burst contains, for each partition, either few records or one
//! request's worth. One cost remains: the first of many records are in flight before the others are handed over.

use crate::record::Message;

/// This many records may be in flight to a partition without delaying others (librdkafka's
/// `RD_KAFKA_IDEMP_MAX_INFLIGHT`).
const FEW: usize = 5;

/// Bytes of one request: below `batch.size` and below the largest record that our topics allow.
const REQUEST_BYTES: usize = 900_000;

/// Approximate size of a record without key, value and headers, in bytes.
const RECORD_BYTES: usize = 40;

/// The records of a burst.
#[derive(Debug, Default)]
pub(super) struct Burst<'m> {
    partitions: Vec<Load<'m>>,
}

/// The records of a burst for one partition.
#[derive(Debug)]
struct Load<'m> {
    topic: &'m str,
    partition: i32,
    num_records: usize,
    num_bytes: usize,
}

impl<'m> Burst<'m> {
    /// A burst that starts with this record.
    pub fn of(message: &'m Message) -> Self {
        let mut burst = Self::default();
        burst.takes(message);
        burst
    }

    /// Adds a record, unless an earlier one would delay it. Returns whether it was added.
    pub fn takes(&mut self, message: &'m Message) -> bool {
        let bytes = message.num_bytes() + RECORD_BYTES;
        let is_there = |load: &&mut Load<'_>| load.partition == message.partition && *load.topic == *message.topic;
        let Some(load) = self.partitions.iter_mut().find(is_there) else {
            let (topic, partition) = (&*message.topic, message.partition);
            self.partitions.push(Load { topic, partition, num_records: 1, num_bytes: bytes });
            return true;
        };
        if load.num_records >= FEW && load.num_bytes + bytes > REQUEST_BYTES {
            return false;
        }
        load.num_records += 1;
        load.num_bytes += bytes;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, partition: i32, bytes: usize) -> Message {
        let value = Some(vec![0; bytes]);
        Message { topic: topic.into(), partition, timestamp_ms: None, key: None, value, headers: Vec::new() }
    }

    #[test]
    fn a_burst_has_few_records_of_a_partition_or_one_requests_worth() {
        // bytes of a record, how many records of one partition a burst takes
        for (bytes, expected) in [(800_000, 5), (200_000, 5), (179_960, 5), (149_960, 6), (9_960, 90), (0, 22_500)] {
            let messages: Vec<Message> = (0..=expected).map(|_| message("scores", 0, bytes)).collect();
            let others = [message("scores", 1, bytes), message("alerts", 0, bytes)];
            let mut burst = Burst::default();
            let taken = messages.iter().take_while(|message| burst.takes(message)).count();
            assert_eq!(taken, expected, "{bytes}");
            // Other partitions have requests of their own.
            assert!(others.iter().all(|message| burst.takes(message)), "{bytes}");
        }
    }
}
