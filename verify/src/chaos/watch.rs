//! Measures how far the groups of a deployment have read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use anyhow::{Result, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};

/// Time limit for a request to the broker.
const ANSWER: Duration = Duration::from_secs(2);

/// A client that asks the broker for ends and positions.
pub struct Watch {
    address: String,
    /// Reads committed records only.
    reader: BaseConsumer,
    /// Also reads records of open transactions.
    handle: BaseConsumer,
    /// One consumer for each group, to read its committed positions.
    members: RefCell<BTreeMap<String, BaseConsumer>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Watch {
    /// A watch of the broker at an address.
    ///
    /// # Errors
    /// When the client refuses its configuration.
    pub fn of(address: &str) -> Result<Self> {
        let consumer = |isolation: &str| -> Result<BaseConsumer> {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", address).set("group.id", "chaos-watch").set("enable.auto.commit", "false");
            config.set("fetch.wait.max.ms", "10").set("fetch.error.backoff.ms", "20");
            config.set("reconnect.backoff.max.ms", "500");
            Ok(config.set("isolation.level", isolation).set("enable.partition.eof", "true").create()?)
        };
        let (reader, handle) = (consumer("read_committed")?, consumer("read_uncommitted")?);
        Ok(Self { address: address.to_owned(), reader, handle, members: RefCell::default() })
    }

    /// End offsets of the partitions of a topic. They include open transactions.
    ///
    /// # Errors
    /// When the broker does not answer; the same for the functions below.
    pub fn ends(&self, topic: &str) -> Result<BTreeMap<i32, i64>> {
        let metadata = self.handle.fetch_metadata(Some(topic), ANSWER)?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len() as i32);
        // A broker that has just started may not know its topics yet.
        ensure!(partitions > 0, "the broker does not know {topic}");
        (0..partitions)
            .map(|partition| Ok((partition, self.handle.fetch_watermarks(topic, partition, ANSWER)?.1)))
            .collect()
    }

    /// Whether a group has read and committed everything below these ends.
    ///
    /// # Errors
    /// See [`Watch::ends`].
    pub fn has_passed(&self, group: &str, topic: &str, ends: &BTreeMap<i32, i64>) -> Result<bool> {
        let mut members = self.members.borrow_mut();
        let member = match members.entry(group.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let mut config = ClientConfig::new();
                config.set("bootstrap.servers", &self.address).set("reconnect.backoff.max.ms", "500");
                new.insert(config.set("group.id", group).create()?)
            }
        };
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition(topic, *partition);
        }
        for element in member.committed_offsets(list, ANSWER)?.elements() {
            let (partition, end) = (element.partition(), ends.get(&element.partition()).copied().unwrap_or_default());
            let next = if let Offset::Offset(next) = element.offset() { next } else { 0 };
            if next < end && !self.is_empty(topic, partition, next, end)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether only transaction markers are between two offsets, and no transaction there is open.
    fn is_empty(&self, topic: &str, partition: i32, next: i64, end: i64) -> Result<bool> {
        // With read_committed, the end is the last stable offset.
        if self.reader.fetch_watermarks(topic, partition, ANSWER)?.1 < end {
            return Ok(false);
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(next))?;
        self.reader.assign(&list)?;
        loop {
            match self.reader.poll(ANSWER) {
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
                Some(Ok(message)) => return Ok(message.offset() >= end),
                // A record that cannot be read still exists.
                Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::BadCompression) => {
                    return Ok(false);
                }
                // Ignore errors of a past outage: they queue up until the next poll.
                Some(Err(_)) => {}
                None => return Ok(false),
            }
        }
    }
}
