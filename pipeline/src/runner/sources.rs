//! What ingest must know about its sources beyond their records: proven ends, new partitions, partitions that are
//! ahead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::info;

use super::{RunError, Runner};
use crate::clock::Clock;
use crate::log::{Log, LogError};
use crate::source_reader::EndProof;
use crate::stage::Stage;
use keepwell_core::offset::{NextOffset, Position, TopicPartition};

/// How often the end of a partition is proven again.
const PROOF_INTERVAL: Duration = Duration::from_millis(500);
/// A proof older than this is void; then the partition counts as still being read.
const PROOF_LEASE: Duration = Duration::from_secs(5);
/// How often the committed positions of all members are read.
const OTHERS_INTERVAL: Duration = Duration::from_millis(500);
/// How often to look for new partitions.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// What is known about the sources.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Partition count of each topic.
    pub partition_counts: BTreeMap<String, i32>,
    counted: Duration,
    /// Committed positions of all partitions, including those of other members.
    positions: BTreeMap<TopicPartition, Position>,
    asked: Option<Duration>,
    /// Owned partitions that wait because their event time is too far ahead of others.
    pub ahead: BTreeSet<TopicPartition>,
}

impl<S: Stage, L: Log, C: Clock> Runner<'_, S, L, C> {
    /// Updates what the stage needs to know about the sources.
    pub(super) fn watch_sources(&mut self) -> Result<(), RunError> {
        if self.stage.source_reader().is_none() || self.members.is_empty() {
            return Ok(());
        }
        if self.session.clock.monotonic().saturating_sub(self.sources.counted) >= COUNT_INTERVAL {
            self.count_partitions()?;
        }
        self.hold_back()?;
        self.prove_ends()
    }

    /// Counts the partitions of every source. A new partition holds back the watermark until ingest reports on it.
    pub(super) fn count_partitions(&mut self) -> Result<(), RunError> {
        self.sources.counted = self.session.clock.monotonic();
        for topic in self.options.sources.clone() {
            let count = self.session.log.partitions(&topic)?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
            if self.sources.partition_counts.insert(topic.clone(), count).is_some_and(|before| before != count) {
                info!(topic, count, "the topic has another number of partitions now");
            }
        }
        Ok(())
    }

    /// Every partition of every source.
    pub(super) fn all_partitions(&self) -> Vec<TopicPartition> {
        let of_topic = |(topic, count): (&String, &i32)| {
            let topic = topic.clone();
            (0..*count).map(move |partition| TopicPartition::new(topic.as_str(), partition))
        };
        self.sources.partition_counts.iter().flat_map(of_topic).collect()
    }

    /// Pauses partitions that are too far ahead of the one furthest behind, whichever member reads that one.
    fn hold_back(&mut self) -> Result<(), RunError> {
        let now = self.session.clock.monotonic();
        if self.sources.asked.is_none_or(|asked| now.saturating_sub(asked) >= OTHERS_INTERVAL) {
            self.sources.positions = self.session.log.committed(&self.all_partitions())?;
            self.sources.asked = Some(now);
        }
        let reader = self.stage.source_reader();
        let ahead = reader.map(|reader| reader.ahead(&self.state, &self.sources.positions)).unwrap_or_default();
        if ahead != self.sources.ahead {
            for (tps, is_waiting) in [(&self.sources.ahead, false), (&ahead, true)] {
                tps.iter().for_each(|tp| self.session.metrics.source_waits(tp, is_waiting));
            }
            self.session.log.pause(&ahead);
            self.sources.ahead = ahead;
        }
        Ok(())
    }

    /// Asks for the ends of partitions that seem to be read to their end, and drops expired proofs.
    fn prove_ends(&mut self) -> Result<(), RunError> {
        let now = self.session.clock.monotonic();
        let lease_us = PROOF_LEASE.as_micros() as i64;
        for tp in self.members.keys().cloned().collect::<Vec<_>>() {
            let met = self.session.log.met_end(&tp);
            let at_us = self.session.clock.wall_us();
            let Some(member) = self.members.get_mut(&tp) else { continue };
            member.proof = member.proof.filter(|proof| at_us - proof.at_us < lease_us && Some(proof.next) == met);
            let is_recent = member.proof_asked.is_some_and(|asked| now.saturating_sub(asked) < PROOF_INTERVAL);
            let (Some(met), false) = (met, is_recent && member.proof.is_some()) else { continue };
            if member.num_pending() > 0 {
                continue;
            }
            member.proof_asked = Some(now);
            let ends = self.session.log.ends(&tp)?;
            let is_topic_empty = ends.next == NextOffset(0) && self.is_topic_empty(&tp.topic)?;
            let Some(member) = self.members.get_mut(&tp) else { continue };
            if ends.next == met {
                member.proof = Some(EndProof { at_us, next: met, is_topic_empty });
            }
        }
        Ok(())
    }

    fn is_topic_empty(&mut self, topic: &str) -> Result<bool, RunError> {
        let count = self.session.log.partitions(topic)?.unwrap_or_default();
        for partition in 0..count {
            if self.session.log.ends(&TopicPartition::new(topic, partition))?.next > NextOffset(0) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
