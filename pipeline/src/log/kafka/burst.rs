//! What is handed to librdkafka before its delivery is waited for.
//!
//! An idempotent producer asks for more only while fewer than five records are under way to a partition; while others wait
//! behind them, its thread spins. So a burst has for each partition either few records or one request's worth of them. What
//! remains is the time in which the first of many are under way before the others were handed over.

use crate::record::Message;

/// As many records may be under way to a partition without any being held back (librdkafka's `RD_KAFKA_IDEMP_MAX_INFLIGHT`).
const FEW: usize = 5;

/// One request's worth: below `batch.size` and below the largest record that topics are made for.
const REQUEST_BYTES: usize = 900_000;

/// What a record takes beyond its key, value and headers, about.
const RECORD_BYTES: usize = 40;

/// The records of a burst.
#[derive(Debug, Default)]
pub(super) struct Burst<'m> {
    partitions: Vec<Load<'m>>,
}

/// What goes to one partition.
#[derive(Debug)]
struct Load<'m> {
    topic: &'m str,
    partition: i32,
    num_records: usize,
    num_bytes: usize,
}

impl<'m> Burst<'m> {
    /// A burst that begins with this record.
    pub fn of(message: &'m Message) -> Self {
        let mut burst = Self::default();
        burst.takes(message);
        burst
    }

    /// Takes a record, unless one that is sent before it would hold it back.
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
        // bytes of a record, how many of one partition a burst takes
        for (bytes, expected) in [(800_000, 5), (200_000, 5), (179_960, 5), (149_960, 6), (9_960, 90), (0, 22_500)] {
            let messages: Vec<Message> = (0..=expected).map(|_| message("scores", 0, bytes)).collect();
            let others = [message("scores", 1, bytes), message("alerts", 0, bytes)];
            let mut burst = Burst::default();
            let taken = messages.iter().take_while(|message| burst.takes(message)).count();
            assert_eq!(taken, expected, "{bytes}");
            // Others have requests of their own.
            assert!(others.iter().all(|message| burst.takes(message)), "{bytes}");
        }
    }
}
