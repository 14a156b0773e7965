//! Reads a partition from its first record to its present end, without a group.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::refusal::unanswered;
use super::settings::{Settings, not_made};
use super::{SLICE, record};
use crate::config::Kafka;
use crate::log::LogError;
use crate::record::Record;
use keepwell_core::offset::TopicPartition;

/// How long a broker may take to answer at all.
const ANSWER: Duration = Duration::from_secs(15);

/// A reader of committed records.
pub struct Tail {
    consumer: BaseConsumer,
    servers: String,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tail").finish_non_exhaustive()
    }
}

impl Tail {
    /// A reader for the configured cluster.
    ///
    /// # Errors
    /// [`LogError`] when the client rejects its configuration.
    pub fn open(kafka: &Kafka) -> Result<Self, LogError> {
        Self::of(&Settings::new(kafka)?)
    }

    /// A reader with these settings.
    pub(super) fn of(settings: &Settings) -> Result<Self, LogError> {
        let consumer = settings.reader().create();
        Ok(Self { consumer: consumer.map_err(|error| not_made(&error))?, servers: settings.servers() })
    }

    /// Passes every committed record of a partition to `take`, in order. It stops at the present end, or when `take`
    /// breaks.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when the broker does not answer or the end is not reached within `patience`.
    pub fn read(
        &self,
        of: &TopicPartition,
        patience: Duration,
        stop: &Arc<AtomicBool>,
        mut take: impl FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let failed =
            |why: &dyn std::fmt::Display| LogError::Fatal { doing: format!("reading {of}"), why: why.to_string() };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&of.topic, of.partition, KafkaOffset::Beginning).map_err(|e| failed(&e))?;
        self.consumer.assign(&list).map_err(|e| failed(&e))?;
        let deadline = Instant::now() + patience;
        let answer_by = Instant::now() + patience.min(ANSWER);
        // A partition that is written all the time never reports its end. So stop at the present end.
        let end = loop {
            match self.consumer.fetch_watermarks(&of.topic, of.partition, SLICE) {
                Ok((_, end)) => break end,
                Err(error) if super::is_final(&error) || Instant::now() > answer_by || stop.load(Ordering::Relaxed) => {
                    return Err(unanswered(&format!("reading {of}"), &self.servers, &error));
                }
                Err(_) => {}
            }
        };
        loop {
            match self.consumer.poll(SLICE) {
                Some(Ok(message)) if message.offset() >= end => return Ok(()),
                Some(Ok(message)) => {
                    if take(record(of, &message)).is_break() {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if super::is_final(&error) => return Err(failed(&error)),
                Some(Err(_)) | None if Instant::now() > deadline => {
                    return Err(failed(&"its end was not reached in time; is the broker there?"));
                }
                Some(Err(_)) | None if stop.load(Ordering::Relaxed) => return Err(failed(&"stopped")),
                Some(Err(_)) | None => {}
            }
        }
    }
}
