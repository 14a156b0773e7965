//! The log in memory, with the rules of the real one: a transaction is in whole or not at all, readers
//! see committed records only, a group's positions change with the transaction that brings them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Ends, Log, LogError, Message, Polled, Record, Verdict};
use crate::offset::{NextOffset, Offset, Position, TopicPartition};

#[derive(Debug, Default)]
struct Broker {
    topics: BTreeMap<Arc<str>, Vec<Vec<Record>>>,
    positions: BTreeMap<(String, TopicPartition), Position>,
}

impl Broker {
    fn partition(&mut self, of: &TopicPartition) -> Result<&mut Vec<Record>, LogError> {
        let partition = self.topics.get_mut(&of.topic).and_then(|p| p.get_mut(of.partition as usize));
        partition.ok_or_else(|| LogError::NoTopic(of.to_string()))
    }

    fn append(&mut self, message: &Message, wall_ms: i64) -> Result<(), LogError> {
        let topic_partition = TopicPartition::new(Arc::clone(&message.topic), message.partition);
        let records = self.partition(&topic_partition)?;
        records.push(Record {
            topic_partition,
            offset: Offset(records.len() as i64),
            timestamp_ms: message.timestamp_ms.unwrap_or(wall_ms),
            key: message.key.clone(),
            value: message.value.clone(),
            headers: message.headers.clone(),
        });
        Ok(())
    }
}

/// Topics, records and group positions, shared by all members. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct MemoryBroker {
    broker: Arc<Mutex<Broker>>,
}

impl MemoryBroker {
    fn lock(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a topic, or leaves it as it is.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.lock().topics.entry(topic.into()).or_insert_with(|| vec![Vec::new(); partitions as usize]);
    }

    /// Writes one record outside of any transaction, as a producer of raw events does.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when the topic or partition does not exist.
    pub fn produce(&self, message: &Message) -> Result<(), LogError> {
        self.lock().append(message, 0)
    }

    /// Every record of a topic, partition by partition.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        self.lock().topics.get(topic).into_iter().flatten().flatten().cloned().collect()
    }

    /// A member of `group` that owns all partitions of `topics`.
    pub fn member(&self, group: &str, topics: &[&str]) -> MemoryLog {
        let broker = self.lock();
        let assigned = topics.iter().flat_map(|topic| {
            let count = broker.topics.get(*topic).map_or(0, Vec::len) as i32;
            (0..count).map(move |partition| TopicPartition::new(*topic, partition))
        });
        MemoryLog {
            broker: self.clone(),
            group: group.to_owned(),
            assigned: Some(assigned.collect()),
            reading: BTreeMap::new(),
        }
    }
}

/// One member of a group on a [`MemoryBroker`].
#[derive(Debug)]
pub struct MemoryLog {
    broker: MemoryBroker,
    group: String,
    assigned: Option<Vec<TopicPartition>>,
    reading: BTreeMap<TopicPartition, NextOffset>,
}

impl Log for MemoryLog {
    fn poll(&mut self, _wait: Duration, max_records: usize, max_bytes: usize) -> Result<Polled, LogError> {
        if let Some(assigned) = self.assigned.take() {
            return Ok(Polled::Assigned(assigned));
        }
        let mut broker = self.broker.lock();
        let mut records = Vec::new();
        let mut bytes = 0;
        // An equal share for each partition, so that none is read far ahead of the others.
        let share = (max_records / self.reading.len().max(1)).max(1);
        for (topic_partition, next) in &mut self.reading {
            let available = broker.partition(topic_partition)?.iter().skip(next.0 as usize);
            for record in available.take(share.min(max_records - records.len())) {
                if bytes >= max_bytes {
                    break;
                }
                bytes += record.value.as_ref().map_or(0, Vec::len);
                *next = record.offset.next();
                records.push(record.clone());
            }
        }
        Ok(Polled::Records(records))
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Position>, LogError> {
        let broker = self.broker.lock();
        let position = |tp: &TopicPartition| {
            broker.positions.get(&(self.group.clone(), tp.clone())).map(|position| (tp.clone(), *position))
        };
        Ok(of.iter().filter_map(position).collect())
    }

    fn ends(&mut self, of: &TopicPartition) -> Result<Ends, LogError> {
        let next = NextOffset(self.broker.lock().partition(of)?.len() as i64);
        Ok(Ends { first: NextOffset(0), next })
    }

    fn has_committed(&mut self, of: &TopicPartition) -> Result<bool, LogError> {
        Ok(!self.broker.lock().partition(of)?.is_empty())
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, LogError> {
        Ok(self.broker.lock().topics.get(topic).map(|partitions| partitions.len() as i32))
    }

    fn start(&mut self, from: &BTreeMap<TopicPartition, NextOffset>) -> Result<(), LogError> {
        self.reading.extend(from.iter().map(|(partition, next)| (partition.clone(), *next)));
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.reading.retain(|partition, _| !partitions.contains(partition));
        Ok(())
    }

    fn met_end(&self, partition: &TopicPartition) -> Option<NextOffset> {
        let next = *self.reading.get(partition)?;
        let end = self.broker.lock().partition(partition).ok()?.len() as i64;
        (next.0 == end).then_some(next)
    }

    fn end_seen(&self, partition: &TopicPartition) -> Option<NextOffset> {
        Some(NextOffset(self.broker.lock().partition(partition).ok()?.len() as i64))
    }

    fn commit(
        &mut self,
        messages: &[Message],
        positions: &BTreeMap<TopicPartition, Position>,
    ) -> Result<Verdict, LogError> {
        let mut broker = self.broker.lock();
        for message in messages {
            broker.partition(&TopicPartition::new(Arc::clone(&message.topic), message.partition))?;
        }
        for message in messages {
            broker.append(message, 0)?;
        }
        for (topic_partition, position) in positions {
            broker.positions.insert((self.group.clone(), topic_partition.clone()), *position);
        }
        Ok(Verdict::Committed)
    }

    fn recover(&mut self) -> Result<(), LogError> {
        Ok(())
    }
}
