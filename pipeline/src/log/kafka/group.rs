//! A consumer group viewed from outside: its members, its positions, and where it is to begin.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::settings::{Settings, not_made};
use crate::config::Kafka;
use crate::log::LogError;
use keepwell_core::offset::{NextOffset, TopicPartition};

/// Time limit for one request to the broker.
const ANSWER: Duration = Duration::from_secs(20);

/// Access to a group without being a member of it.
pub struct Group {
    consumer: BaseConsumer,
    name: String,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Group {
    /// Opens a group of the configured cluster. The group need not exist yet.
    ///
    /// # Errors
    /// [`LogError`] when the client rejects its configuration.
    pub fn open(kafka: &Kafka, name: &str) -> Result<Self, LogError> {
        let consumer = Settings::new(kafka)?.reader().set("group.id", name).create();
        let consumer = consumer.map_err(|error| not_made(&error))?;
        Ok(Self { consumer, name: name.to_owned() })
    }

    /// Name of the group.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> LogError {
        LogError::Fatal { doing: format!("{doing} of group {}", self.name), why: error.to_string() }
    }

    /// Name and host of each member, except the one with the instance name `but`.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when the broker does not answer.
    pub fn members(&self, but: &str) -> Result<Vec<String>, LogError> {
        let deadline = Instant::now() + ANSWER;
        let list = loop {
            match self.consumer.fetch_group_list(Some(&self.name), ANSWER) {
                Ok(list) => break list,
                // A coordinator that was just found may still be loading.
                Err(error) if super::is_final(&error) || Instant::now() > deadline => {
                    return Err(self.failed("asking for the members", &error));
                }
                Err(_) => {}
            }
        };
        let but = format!("{}-{but}", self.name);
        // The id of a static member is `<group>-<instance>-`, followed by a UUID of 36 characters.
        let name = |id: &str| id.get(..id.len().saturating_sub(37)).unwrap_or_default().to_owned();
        let members = list.groups().iter().flat_map(|group| group.members());
        let named = members.map(|member| (name(member.id()), member.client_host().to_owned()));
        Ok(named.filter(|(name, _)| *name != but).map(|(name, host)| format!("{name} on {host}")).collect())
    }

    /// All partitions of a topic.
    fn partitions(&self, topic: &str) -> Result<TopicPartitionList, LogError> {
        let metadata = self.consumer.fetch_metadata(Some(topic), ANSWER);
        let metadata = metadata.map_err(|error| self.failed(&format!("asking for {topic}, a source"), &error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let count = found.map_or(0, |topic| topic.partitions().len() as i32);
        if count == 0 {
            return Err(LogError::NoTopic(topic.to_owned()));
        }
        let mut list = TopicPartitionList::new();
        (0..count).for_each(|partition| {
            list.add_partition(topic, partition);
        });
        Ok(list)
    }

    /// Committed positions of the group in a topic.
    ///
    /// # Errors
    /// [`LogError`] when there is no such topic or the broker does not answer.
    pub fn positions(&self, topic: &str) -> Result<BTreeMap<TopicPartition, NextOffset>, LogError> {
        let list = self.consumer.committed_offsets(self.partitions(topic)?, ANSWER);
        Ok(offsets(&list.map_err(|error| self.failed("asking for the positions", &error))?))
    }

    /// Offset of the first record of each partition of a topic.
    ///
    /// # Errors
    /// [`LogError`] when there is no such topic or the broker does not answer.
    pub fn firsts(&self, topic: &str) -> Result<BTreeMap<TopicPartition, NextOffset>, LogError> {
        let mut firsts = BTreeMap::new();
        for element in self.partitions(topic)?.elements() {
            let ends = self.consumer.fetch_watermarks(topic, element.partition(), ANSWER);
            let (first, _) =
                ends.map_err(|error| self.failed(&format!("asking for the ends of {topic}, a source"), &error))?;
            firsts.insert(TopicPartition::new(topic, element.partition()), NextOffset(first));
        }
        Ok(firsts)
    }

    /// For each partition of a topic, the offset of the first record at or after a time, UTC milliseconds. If there is
    /// no such record, the end of the partition.
    ///
    /// # Errors
    /// [`LogError`] when there is no such topic or the broker does not answer.
    pub fn offsets_at(&self, topic: &str, at_ms: i64) -> Result<BTreeMap<TopicPartition, NextOffset>, LogError> {
        let failed =
            |error: KafkaError| self.failed(&format!("asking for the offsets of a time in {topic}, a source"), &error);
        let mut list = self.partitions(topic)?;
        list.set_all_offsets(KafkaOffset::Offset(at_ms)).map_err(failed)?;
        let mut found = offsets(&self.consumer.offsets_for_times(list, ANSWER).map_err(failed)?);
        for (tp, _) in self.firsts(topic)? {
            if let Entry::Vacant(later_than_all) = found.entry(tp) {
                let partition = later_than_all.key().partition;
                let (_, end) = self.consumer.fetch_watermarks(topic, partition, ANSWER).map_err(failed)?;
                later_than_all.insert(NextOffset(end));
            }
        }
        Ok(found)
    }

    /// Commits the positions at which the group is to begin. The group must have no members.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when the broker refuses.
    pub fn start_at(&self, starts: &BTreeMap<TopicPartition, NextOffset>) -> Result<(), LogError> {
        let failed = |error: KafkaError| self.failed("setting the positions", &error);
        let mut list = TopicPartitionList::new();
        for (tp, next) in starts {
            list.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(next.0)).map_err(failed)?;
        }
        self.consumer.commit(&list, CommitMode::Sync).map_err(failed)
    }
}

/// The offsets in a list.
fn offsets(list: &TopicPartitionList) -> BTreeMap<TopicPartition, NextOffset> {
    let of = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
        KafkaOffset::Offset(offset) => {
            Some((TopicPartition::new(element.topic(), element.partition()), NextOffset(offset)))
        }
        _ => None,
    };
    list.elements().iter().filter_map(of).collect()
}
