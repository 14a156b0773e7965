//! The log in memory, with the rules of Kafka. A transaction is visible completely or not at all, and ends with a
//! marker that takes an offset. Readers see committed records, and nothing behind an open transaction. A group's
//! positions change together with the transaction that contains them. A former member is fenced.

mod group;
mod partition;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::{Ends, Log, LogError, Polled, Verdict, smaller};
use crate::record::{Message, Record, StableEnd};
use group::{Group, Standing};
use keepwell_core::offset::{NextOffset, Position, TopicPartition};
use partition::{Partition, Serial};

/// Largest record that Apache Kafka accepts by default, in bytes (`message.max.bytes`).
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;

/// Maximum size of a record without key, value and headers, in bytes: its own header and that of its batch.
const RECORD_OVERHEAD_BYTES: usize = 100;

#[derive(Debug, Default)]
struct Broker {
    topics: BTreeMap<Arc<str>, Vec<Partition>>,
    /// Largest record of a topic, in bytes, if it is not the default.
    max_message_bytes: BTreeMap<Arc<str>, usize>,
    groups: BTreeMap<String, Group>,
    /// Open transactions by transactional id.
    open: BTreeMap<String, Transaction>,
    num_transactions: Serial,
    version: u64,
}

/// An open transaction.
#[derive(Debug, Default)]
struct Transaction {
    serial: Serial,
    partitions: BTreeSet<TopicPartition>,
}

impl Broker {
    fn partition(&mut self, of: &TopicPartition) -> Result<&mut Partition, LogError> {
        let partition = self.topics.get_mut(&of.topic).and_then(|p| p.get_mut(of.partition as usize));
        partition.ok_or_else(|| LogError::NoTopic(of.to_string()))
    }

    /// Whether a record exceeds the limit of its topic.
    fn is_too_large(&self, message: &Message) -> bool {
        let max_bytes = self.max_message_bytes.get(&message.topic).copied().unwrap_or(DEFAULT_MAX_MESSAGE_BYTES);
        message.num_bytes() + RECORD_OVERHEAD_BYTES > max_bytes
    }

    fn append(&mut self, message: &Message, within: Option<Serial>) -> Result<TopicPartition, LogError> {
        let tp = TopicPartition::new(Arc::clone(&message.topic), message.partition);
        self.partition(&tp)?.append(tp.clone(), message, within);
        self.version += 1;
        Ok(tp)
    }

    fn write_open(&mut self, id: &str, messages: &[Message]) -> Result<(), LogError> {
        let mut transaction = match self.open.remove(id) {
            Some(transaction) => transaction,
            None => {
                self.num_transactions += 1;
                Transaction { serial: self.num_transactions, ..Transaction::default() }
            }
        };
        for message in messages {
            let tp = self.append(message, Some(transaction.serial))?;
            transaction.partitions.insert(tp);
        }
        self.open.insert(id.to_owned(), transaction);
        Ok(())
    }

    fn end_open(&mut self, id: &str, is_commit: bool) -> Result<(), LogError> {
        let Some(transaction) = self.open.remove(id) else { return Ok(()) };
        for tp in &transaction.partitions {
            self.partition(tp)?.end(transaction.serial, is_commit);
        }
        self.version += 1;
        Ok(())
    }

    fn partitions_of(&self, topics: &BTreeSet<Arc<str>>) -> Vec<TopicPartition> {
        let count = |topic: &Arc<str>| self.topics.get(topic).map_or(0, Vec::len) as i32;
        topics.iter().flat_map(|topic| (0..count(topic)).map(|p| TopicPartition::new(Arc::clone(topic), p))).collect()
    }

    fn join(&mut self, group: &str, instance: &str, topics: &[Arc<str>]) -> u64 {
        let mut all = self.groups.get(group).map(Group::topics).unwrap_or_default();
        all.extend(topics.iter().cloned());
        let partitions = self.partitions_of(&all);
        self.version += 1;
        self.groups.entry(group.to_owned()).or_default().join(instance, topics.to_vec(), &partitions)
    }

    fn expel(&mut self, group: &str, instance: &str) {
        let all = self.groups.get(group).map(Group::topics).unwrap_or_default();
        let partitions = self.partitions_of(&all);
        self.groups.entry(group.to_owned()).or_default().expel(instance, &partitions);
        self.version += 1;
    }
}

/// Topics, records, groups and their positions, shared by all members. A clone shares them, too.
#[derive(Debug, Clone, Default)]
pub struct MemoryBroker {
    broker: Arc<Mutex<Broker>>,
}

impl MemoryBroker {
    fn lock(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a topic, or adds partitions to it. It never removes partitions.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        let mut broker = self.lock();
        let known = broker.topics.entry(topic.into()).or_default();
        let count = known.len().max(partitions as usize);
        known.resize_with(count, Partition::default);
    }

    /// Sets the largest record of a topic in bytes, like `max.message.bytes`.
    pub fn limit(&self, topic: &str, max_message_bytes: usize) {
        self.lock().max_message_bytes.insert(topic.into(), max_message_bytes);
    }

    /// Writes one record outside of any transaction, as a producer of raw events does.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when the topic or partition does not exist; [`LogError::Fatal`] when the record exceeds
    /// the topic's limit.
    pub fn produce(&self, message: &Message) -> Result<(), LogError> {
        let mut broker = self.lock();
        if broker.is_too_large(message) {
            let why = format!("a record of {} bytes is above what the topic takes", message.num_bytes());
            return Err(LogError::Fatal { doing: format!("producing to {}", message.topic), why });
        }
        broker.append(message, None).map(|_| ())
    }

    /// Writes records in the transaction with this id and leaves it open.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when a topic or partition does not exist.
    pub fn write_open(&self, transactional_id: &str, messages: &[Message]) -> Result<(), LogError> {
        self.lock().write_open(transactional_id, messages)
    }

    /// Ends the open transaction with this id, if there is one.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when a topic no longer exists.
    pub fn end_open(&self, transactional_id: &str, is_commit: bool) -> Result<(), LogError> {
        self.lock().end_open(transactional_id, is_commit)
    }

    /// Aborts the open transactions for which `is_due` returns true, as a broker does after a timeout.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when a topic no longer exists.
    pub fn time_out_transactions(&self, is_due: impl Fn(&str) -> bool) -> Result<(), LogError> {
        let mut broker = self.lock();
        let ids: Vec<String> = broker.open.keys().filter(|id| is_due(id)).cloned().collect();
        ids.iter().try_for_each(|id| broker.end_open(id, false))
    }

    /// Copies a record from another broker, with its offset.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when the topic or partition does not exist.
    pub fn put(&self, record: &Record) -> Result<(), LogError> {
        self.lock().partition(&record.topic_partition).map(|partition| partition.put(record))
    }

    /// Removes the records of a partition below an offset, as retention does.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when the topic or partition does not exist.
    pub fn expire(&self, of: &TopicPartition, below: NextOffset) -> Result<(), LogError> {
        self.lock().partition(of).map(|partition| partition.expire(below))
    }

    /// Every committed record of a topic, partition by partition.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        let broker = self.lock();
        let partitions = broker.topics.get(topic).into_iter().flatten();
        partitions.flat_map(|partition| partition.read(NextOffset(0))).cloned().collect()
    }

    /// A number that rises with every record, marker and change of a group.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Committed positions of a group.
    pub fn positions(&self, group: &str) -> BTreeMap<TopicPartition, Position> {
        self.lock().groups.get(group).map(|group| group.positions.clone()).unwrap_or_default()
    }

    /// Instance names of a group's members.
    pub fn instances(&self, group: &str) -> Vec<String> {
        self.lock().groups.get(group).map(|group| group.instances().cloned().collect()).unwrap_or_default()
    }

    /// Ends a membership, like the session timeout. Its partitions go to others.
    pub fn expel(&self, group: &str, instance: &str) {
        self.lock().expel(group, instance);
    }

    /// Joins `group` under an instance name to read `topics`. An open transaction of the last member with this name is
    /// aborted.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when a topic of the open transaction no longer exists.
    pub fn join(&self, group: &str, instance: &str, topics: &[&str]) -> Result<MemoryLog, LogError> {
        let topics: Vec<Arc<str>> = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let mut broker = self.lock();
        let transactional_id = format!("{group}-{instance}");
        broker.end_open(&transactional_id, false)?;
        let id = broker.join(group, instance, &topics);
        Ok(MemoryLog {
            broker: self.clone(),
            group: group.to_owned(),
            instance: instance.to_owned(),
            transactional_id,
            topics,
            id,
            is_greeted: false,
            owned: BTreeSet::new(),
            hidden: BTreeSet::new(),
            paused: BTreeSet::new(),
            reading: BTreeMap::new(),
            record_limits: BTreeMap::new(),
        })
    }
}

/// One member of a group on a [`MemoryBroker`].
#[derive(Debug)]
pub struct MemoryLog {
    broker: MemoryBroker,
    group: String,
    instance: String,
    transactional_id: String,
    topics: Vec<Arc<str>>,
    id: u64,
    /// Whether it has reported its first assignment, even an empty one.
    is_greeted: bool,
    owned: BTreeSet<TopicPartition>,
    hidden: BTreeSet<TopicPartition>,
    paused: BTreeSet<TopicPartition>,
    reading: BTreeMap<TopicPartition, NextOffset>,
    /// Largest record to write, in bytes, once one was refused.
    record_limits: BTreeMap<String, usize>,
}

impl MemoryLog {
    fn broker(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock()
    }

    /// A change of ownership, if there is one.
    fn change(&mut self) -> Result<Option<Polled>, LogError> {
        let standing = {
            let mut broker = self.broker.lock();
            let group = broker.groups.entry(self.group.clone()).or_default();
            group.standing(&self.instance, self.id, &self.owned)
        };
        Ok(match standing {
            Standing::Revoked(partitions) => Some(Polled::Revoked(partitions)),
            Standing::Assigned(partitions) => {
                self.is_greeted = true;
                self.owned.extend(partitions.iter().cloned());
                Some(Polled::Assigned(partitions))
            }
            Standing::Settled if !self.is_greeted => {
                self.is_greeted = true;
                Some(Polled::Assigned(Vec::new()))
            }
            Standing::Settled => None,
            Standing::Expelled if self.owned.is_empty() => {
                self.id = self.broker.lock().join(&self.group, &self.instance, &self.topics);
                None
            }
            Standing::Expelled => Some(Polled::Revoked(self.owned.iter().cloned().collect())),
            Standing::Replaced => {
                return Err(LogError::Fatal {
                    doing: format!("polling as instance {}", self.instance),
                    why: "another process runs under this instance name".to_owned(),
                });
            }
        })
    }

    /// Makes partitions return nothing for now, as if their leader were out of reach.
    pub fn hide(&mut self, partitions: BTreeSet<TopicPartition>) {
        self.hidden = partitions;
    }

    /// Writes messages in this member's transaction and leaves it open. This is the first half of a commit.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when a topic or partition does not exist.
    pub fn write_open(&mut self, messages: &[Message]) -> Result<(), LogError> {
        self.broker().write_open(&self.transactional_id, messages)
    }

    /// Ends this member's transaction together with its positions. This is the second half of a commit.
    ///
    /// # Errors
    /// [`LogError`] when a position is of a partition that this member does not own.
    pub fn end(&mut self, positions: &BTreeMap<TopicPartition, Position>) -> Result<Verdict, LogError> {
        let mut broker = self.broker();
        let group = broker.groups.entry(self.group.clone()).or_default();
        if !positions.is_empty() && !group.is_member(&self.instance, self.id) {
            broker.end_open(&self.transactional_id, false)?;
            return Ok(Verdict::Aborted("no longer a member of the group".to_owned()));
        }
        if let Some(tp) = positions.keys().find(|tp| !group.owns(&self.instance, tp)) {
            return Err(LogError::Fatal {
                doing: format!("committing as instance {}", self.instance),
                why: format!("{tp} is not this member's"),
            });
        }
        group.positions.extend(positions.iter().map(|(tp, position)| (tp.clone(), *position)));
        broker.end_open(&self.transactional_id, true)?;
        Ok(Verdict::Committed)
    }
}

impl Log for MemoryLog {
    fn poll(&mut self, _wait: Duration, max_records: usize, max_bytes: usize) -> Result<Polled, LogError> {
        if let Some(change) = self.change()? {
            return Ok(change);
        }
        let mut broker = self.broker.lock();
        let mut records = Vec::new();
        let mut bytes = 0;
        // Every partition gets an equal share, so that none is read far ahead of the others.
        let share = (max_records / self.reading.len().max(1)).max(1);
        let is_read = |tp: &TopicPartition| !self.hidden.contains(tp) && !self.paused.contains(tp);
        for (topic_partition, next) in self.reading.iter_mut().filter(|(tp, _)| is_read(tp)) {
            let partition = broker.partition(topic_partition)?;
            let mut room = share.min(max_records - records.len());
            let mut reached = partition.stable_end();
            for record in partition.read(*next) {
                if room == 0 || bytes >= max_bytes {
                    reached = NextOffset(record.offset.0);
                    break;
                }
                room -= 1;
                bytes += record.value.as_ref().map_or(0, Bytes::len);
                records.push(record.clone());
            }
            *next = reached.max(*next);
        }
        Ok(Polled::Records(records))
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Position>, LogError> {
        let positions = self.broker.positions(&self.group);
        Ok(of.iter().filter_map(|tp| Some((tp.clone(), *positions.get(tp)?))).collect())
    }

    fn ends(&mut self, of: &TopicPartition) -> Result<Ends, LogError> {
        Ok(self.broker().partition(of)?.ends())
    }

    fn has_output(&mut self, of: &TopicPartition) -> Result<bool, LogError> {
        let is_output = |record: &Record| !record.is_foreign();
        Ok(self.broker().partition(of)?.read(NextOffset(0)).any(is_output))
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, LogError> {
        Ok(self.broker().topics.get(topic).map(|partitions| partitions.len() as i32))
    }

    fn start(&mut self, from: &BTreeMap<TopicPartition, NextOffset>) -> Result<(), LogError> {
        self.reading.extend(from.iter().map(|(partition, next)| (partition.clone(), *next)));
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.reading.retain(|partition, _| !partitions.contains(partition));
        self.owned.retain(|partition| !partitions.contains(partition));
        let mut broker = self.broker.lock();
        broker.version += 1;
        broker.groups.entry(self.group.clone()).or_default().release(&self.instance, self.id, partitions);
        Ok(())
    }

    fn pause(&mut self, partitions: &BTreeSet<TopicPartition>) {
        self.paused.clone_from(partitions);
    }

    fn met_end(&self, partition: &TopicPartition) -> Option<NextOffset> {
        let next = *self.reading.get(partition)?;
        let end = self.broker().partition(partition).ok()?.stable_end();
        (next >= end).then_some(end)
    }

    fn known_end(&self, partition: &TopicPartition) -> Option<StableEnd> {
        let mut broker = self.broker();
        let partition = broker.partition(partition).ok()?;
        Some(StableEnd { stable: partition.stable_end(), high: partition.ends().next })
    }

    fn commit(
        &mut self,
        messages: &[Message],
        positions: &BTreeMap<TopicPartition, Position>,
    ) -> Result<Verdict, LogError> {
        if let Some(message) = messages.iter().find(|message| self.broker().is_too_large(message)) {
            let before = self.record_limits.get(message.topic.as_ref()).copied();
            self.record_limits.insert(message.topic.to_string(), smaller(before, message.num_bytes()));
            self.recover()?;
            return Ok(Verdict::TooLarge { topic: message.topic.to_string() });
        }
        self.write_open(messages)?;
        self.end(positions)
    }

    fn record_limits(&self) -> BTreeMap<String, usize> {
        self.record_limits.clone()
    }

    fn recover(&mut self) -> Result<(), LogError> {
        self.broker().end_open(&self.transactional_id, false)
    }
}
