//! Partitions that a group has assigned to nobody.
//!
//! A cooperative rebalance has two rounds. The first takes partitions from their owner; the second, which the owner
//! requests, gives them to another member. If the owner ends in between and returns under its instance name, the broker
//! gives it the assignment of the first round. Then nobody requests the second round. A member that joins without a
//! name makes every member join again. So a visitor joins, and leaves once it is in.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use tracing::{debug, info, warn};

use super::{KafkaLog, SLICE};
use crate::log::LogError;
use keepwell_core::offset::TopicPartition;

/// How often to look at the group.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Time limit for a visitor to join.
const VISIT: Duration = Duration::from_secs(60);

/// The last look at the group, and its visitor.
#[derive(Default)]
pub(super) struct Orphans {
    looked: Option<Instant>,
    /// Partitions without an owner at the last look.
    found: BTreeSet<TopicPartition>,
    visitor: Option<(BaseConsumer<Visitor>, Instant)>,
}

/// A member without an instance name that reads nothing.
#[derive(Default)]
struct Visitor {
    is_in: AtomicBool,
}

impl ClientContext for Visitor {}

impl ConsumerContext for Visitor {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.is_in.store(true, Ordering::Relaxed);
    }
}

impl KafkaLog {
    /// Looks at the group every few seconds. Partitions found without an owner twice in a row start a new rebalance.
    pub(super) fn look_for_orphans(&mut self, now: Instant) -> Result<(), LogError> {
        if let Some((visitor, since)) = &self.orphans.visitor {
            // The visitor reads nothing, so its events are dropped.
            drop(visitor.poll(Duration::ZERO));
            if visitor.context().is_in.load(Ordering::Relaxed) || now.duration_since(*since) > VISIT {
                info!("the visitor leaves the group");
                self.orphans.visitor = None;
            }
            return Ok(());
        }
        let is_due = self.orphans.looked.is_none_or(|looked| now.duration_since(looked) > LOOK_EVERY);
        if !is_due || !self.consumer.context().is_in_group() {
            return Ok(());
        }
        self.orphans.looked = Some(now);
        let found = match self.orphans_now() {
            Ok(found) => found,
            Err(error) => {
                debug!(%error, "the group was not looked at");
                return Ok(());
            }
        };
        if !found.is_empty() && found == self.orphans.found {
            warn!(?found, "partitions that the group has given to nobody: its members are made to join again");
            self.orphans.visitor = Some((self.membership.borrow().visit(&self.settings)?, now));
        }
        self.orphans.found = found;
        Ok(())
    }

    /// Partitions of our topics that no member owns. Empty during a rebalance.
    fn orphans_now(&self) -> Result<BTreeSet<TopicPartition>, KafkaError> {
        let membership = self.membership.borrow();
        let list = self.handle.fetch_group_list(Some(membership.group()), SLICE)?;
        let Some(group) = list.groups().iter().find(|group| group.state() == "Stable") else {
            return Ok(BTreeSet::new());
        };
        let mut orphans = BTreeSet::new();
        for topic in membership.topics() {
            let metadata = self.handle.fetch_metadata(Some(topic), SLICE)?;
            let found = metadata.topics().iter().filter(|found| found.name() == topic && found.error().is_none());
            let partitions = found.flat_map(|found| found.partitions());
            orphans.extend(partitions.map(|partition| TopicPartition::new(topic.as_str(), partition.id())));
        }
        for member in group.members() {
            // If one assignment cannot be decoded, we do not know which partitions are owned.
            let Some(owned) = member.assignment().and_then(owned) else { return Ok(BTreeSet::new()) };
            orphans.retain(|tp| !owned.contains(tp));
        }
        Ok(orphans)
    }
}

/// Decodes the assignment of a member: a version, topics with their partitions, and bytes for the assignor
/// (`ConsumerProtocolAssignment` of the Kafka protocol).
fn owned(assignment: &[u8]) -> Option<Vec<TopicPartition>> {
    let (_, mut rest) = assignment.split_first_chunk::<2>()?;
    let number = |rest: &mut &[u8]| {
        let (bytes, behind) = rest.split_first_chunk::<4>()?;
        *rest = behind;
        Some(i32::from_be_bytes(*bytes))
    };
    let mut owned = Vec::new();
    for _ in 0..number(&mut rest)? {
        let (len, behind) = rest.split_first_chunk::<2>()?;
        let (topic, behind) = behind.split_at_checked(u16::from_be_bytes(*len).into())?;
        let topic = std::str::from_utf8(topic).ok()?;
        rest = behind;
        for _ in 0..number(&mut rest)? {
            owned.push(TopicPartition::new(topic, number(&mut rest)?));
        }
    }
    Some(owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_understood_and_half_of_one_is_not() {
        let bytes = b"\0\x01\0\0\0\x02\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x03\0\x02uv\0\0\0\0\xff\xff\xff\xff";
        assert_eq!(owned(bytes), Some(vec![TopicPartition::new("t", 0), TopicPartition::new("t", 3)]));
        for cut in 0..bytes.len() - 4 {
            assert_eq!(owned(&bytes[..cut]), None, "{cut}");
        }
    }
}
