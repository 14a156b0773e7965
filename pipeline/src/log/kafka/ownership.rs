//! Events of the group for this member: partitions assigned and revoked, and how far each was fetched.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Statistics, TopicPartitionList};
use tracing::{debug, warn};

use super::refusal::Refusal;
use crate::record::StableEnd;
use keepwell_core::offset::{NextOffset, TopicPartition};

/// A change of ownership that the runner has not handled yet.
#[derive(Debug)]
pub(super) enum Change {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
}

/// Collects events of librdkafka. All of them arrive on the polling thread.
#[derive(Debug)]
pub(super) struct Ownership {
    changes: Mutex<VecDeque<Change>>,
    eof_offsets: Mutex<BTreeMap<TopicPartition, NextOffset>>,
    stable_ends: Mutex<BTreeMap<TopicPartition, StableEnd>>,
    is_closing: AtomicBool,
    is_connected: AtomicBool,
    is_in_group: AtomicBool,
    /// A refusal by the broker, if there was one.
    pub refusal: Refusal,
}

impl Default for Ownership {
    fn default() -> Self {
        Self {
            changes: Mutex::default(),
            eof_offsets: Mutex::default(),
            stable_ends: Mutex::default(),
            is_closing: AtomicBool::new(false),
            // Until the first statistics arrive.
            is_connected: AtomicBool::new(true),
            is_in_group: AtomicBool::new(true),
            refusal: Refusal::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ownership {
    pub fn next_change(&self) -> Option<Change> {
        lock(&self.changes).pop_front()
    }

    /// From now on the client releases partitions as soon as the group asks for it.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
    }

    /// Offset at which the fetcher last reached the end of a partition.
    pub fn eof_offset(&self, of: &TopicPartition) -> Option<NextOffset> {
        lock(&self.eof_offsets).get(of).copied()
    }

    /// The end of a partition, according to the last statistics.
    pub fn stable_end(&self, of: &TopicPartition) -> Option<StableEnd> {
        lock(&self.stable_ends).get(of).copied()
    }

    /// Whether a broker was connected, according to the last statistics.
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Whether the client knew its group's coordinator, according to the last statistics.
    pub fn is_in_group(&self) -> bool {
        self.is_in_group.load(Ordering::Relaxed)
    }

    pub fn forget_eof(&self, of: &TopicPartition) {
        lock(&self.eof_offsets).remove(of);
    }
}

/// Releases partitions, in the way that the group's protocol requires.
pub(super) fn unassign(consumer: &BaseConsumer<Ownership>, partitions: &TopicPartitionList) -> Result<(), KafkaError> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Eager => consumer.unassign(),
        _ => consumer.incremental_unassign(partitions),
    }
}

/// Answers the group while leaving. The group waits for this answer, and so does the close of the client.
pub(super) fn answer(consumer: &BaseConsumer<Ownership>, is_assign: bool, partitions: &TopicPartitionList) {
    let answered = match (is_assign, consumer.rebalance_protocol()) {
        (false, _) => unassign(consumer, partitions),
        (true, RebalanceProtocol::Eager) => consumer.assign(partitions),
        (true, _) => consumer.incremental_assign(partitions),
    };
    if let Err(error) = answered {
        warn!(%error, is_assign, "the group was not answered on leaving; the session timeout will");
    }
}

impl ClientContext for Ownership {
    fn stats(&self, statistics: Statistics) {
        let is_connected = statistics.brokers.values().any(|broker| broker.state == "UP");
        self.is_connected.store(is_connected, Ordering::Relaxed);
        self.is_in_group.store(statistics.cgrp.is_some_and(|group| group.state == "up"), Ordering::Relaxed);
        let mut stable_ends = lock(&self.stable_ends);
        let mut eof_offsets = lock(&self.eof_offsets);
        for (name, topic) in statistics.topics {
            // Partition -1 is internal to librdkafka. A negative offset is invalid.
            for partition in topic.partitions.into_values().filter(|p| p.partition >= 0) {
                let tp = TopicPartition::new(name.as_str(), partition.partition);
                if partition.ls_offset >= 0 {
                    let (stable, high) = (NextOffset(partition.ls_offset), NextOffset(partition.hi_offset));
                    stable_ends.insert(tp.clone(), StableEnd { stable, high });
                }
                if partition.eof_offset >= 0 {
                    eof_offsets.insert(tp, NextOffset(partition.eof_offset));
                }
            }
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(target: "librdkafka", ?level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.refusal.note(&error, reason);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown) => {
                warn!(reason, "the broker is out of reach; work goes on when it is back");
            }
            _ => debug!(%error, reason, "client error"),
        }
    }
}

impl ConsumerContext for Ownership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let named = |list: &TopicPartitionList| {
            list.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect()
        };
        let is_assign = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.is_closing.load(Ordering::Relaxed) {
            answer(consumer, is_assign, partitions);
        } else if is_assign {
            lock(&self.changes).push_back(Change::Assigned(named(partitions)));
        } else {
            lock(&self.changes).push_back(Change::Revoked(named(partitions)));
        }
    }
}
