//! Writes records of many callers at once, and tells each when the broker has all copies of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;
use tracing::debug;

use super::settings::{Settings, not_made};
use crate::config::Kafka;
use crate::log::LogError;

/// Time limit for the copies of a record. Then its fate is unknown to the sender, who repeats it.
const DELIVERED_WITHIN: Duration = Duration::from_secs(20);
/// Time limit for one request to the broker.
const ANSWER: Duration = Duration::from_secs(3);

/// Why records are not known to be in the topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// Too many records wait for the broker.
    #[error("too many records wait for the broker")]
    Full,
    /// The topic or the broker does not take a record of this size.
    #[error("{0} does not take a record of this size")]
    TooLarge(String),
    /// The broker did not confirm a record.
    #[error("the broker did not confirm a record of {topic}: {why}")]
    Unknown {
        /// The topic.
        topic: String,
        /// The message of the client.
        why: String,
    },
}

/// Records of one caller that wait for the broker.
struct Waiting {
    left: AtomicUsize,
    outcome: Mutex<Outcome>,
}

/// The first failure among the records, and whom to tell when all are reported.
struct Outcome {
    failed: Option<Undelivered>,
    told: Option<oneshot::Sender<Result<(), Undelivered>>>,
}

struct Reports;

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "client error");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Arc<Waiting>) {
        let mut outcome = waiting.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err((error, message)) = result {
            let why = undelivered(error, message.topic());
            outcome.failed.get_or_insert(why);
        }
        if waiting.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(told) = outcome.told.take()
        {
            let all = outcome.failed.take().map_or(Ok(()), Err);
            if told.send(all).is_err() {
                debug!("nobody waits for these records any more");
            }
        }
    }
}

fn undelivered(error: &KafkaError, topic: &str) -> Undelivered {
    match error.rdkafka_error_code() {
        Some(Code::QueueFull) => Undelivered::Full,
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => Undelivered::TooLarge(topic.to_owned()),
        _ => Undelivered::Unknown { topic: topic.to_owned(), why: error.to_string() },
    }
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The key. It decides the partition, as the Java client would.
    pub key: Option<String>,
    /// The value.
    pub value: Vec<u8>,
    /// Names and values of headers.
    pub headers: Vec<(String, String)>,
}

/// A producer for many callers.
pub struct Delivery {
    producer: ThreadedProducer<Reports>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").finish_non_exhaustive()
    }
}

impl Delivery {
    /// A producer for the configured cluster that keeps at most `max_pending_bytes`.
    ///
    /// # Errors
    /// [`LogError`] when the client rejects its configuration.
    pub fn open(kafka: &Kafka, max_pending_bytes: usize) -> Result<Self, LogError> {
        let mut config = Settings::new(kafka)?.writer();
        config
            .set("partitioner", "murmur2_random")
            // A look for a topic must not make it.
            .set("allow.auto.create.topics", "false")
            .set("queue.buffering.max.messages", "2000000")
            // A sender waits for the answer, so records do not.
            .set("linger.ms", "5")
            .set("message.timeout.ms", DELIVERED_WITHIN.as_millis().to_string())
            .set("message.max.bytes", (kafka.max_record_bytes + 100_000).to_string())
            .set("queue.buffering.max.kbytes", (max_pending_bytes / 1024 + 1).to_string());
        Ok(Self { producer: config.create_with_context(Reports).map_err(|error| not_made(&error))? })
    }

    /// Hands records to the client. The receiver gets their outcome when the last of them is delivered or has failed.
    ///
    /// # Errors
    /// [`Undelivered`] when the client does not take a record. Records before it may still be delivered.
    pub fn send(
        &self,
        topic: &str,
        timestamp_ms: i64,
        records: &[Keyed],
    ) -> Result<oneshot::Receiver<Result<(), Undelivered>>, Undelivered> {
        let (told, outcome) = oneshot::channel();
        let waiting = Arc::new(Waiting {
            left: AtomicUsize::new(records.len()),
            outcome: Mutex::new(Outcome { failed: None, told: Some(told) }),
        });
        if records.is_empty() {
            waiting.tell_at_once();
        }
        for record in records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let mut message: BaseRecord<'_, str, [u8], Arc<Waiting>> =
                BaseRecord::with_opaque_to(topic, Arc::clone(&waiting))
                    .payload(record.value.as_slice())
                    .timestamp(timestamp_ms)
                    .headers(headers);
            message.key = record.key.as_deref();
            self.producer.send(message).map_err(|(error, _)| undelivered(&error, topic))?;
        }
        Ok(outcome)
    }

    /// Why the client will never deliver anything again, if that is so.
    pub fn fatal_error(&self) -> Option<String> {
        self.producer.client().fatal_error().map(|(code, why)| format!("{code}: {why}"))
    }

    /// Whether the broker answers and has these topics.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] with the topic that is missing; [`LogError::Fatal`] when the broker does not answer.
    pub fn check(&self, topics: &[&str]) -> Result<(), LogError> {
        for topic in topics {
            let metadata = self.producer.client().fetch_metadata(Some(topic), ANSWER);
            let metadata = metadata
                .map_err(|error| LogError::Fatal { doing: format!("asking for {topic}"), why: error.to_string() })?;
            let is_there = |found: &rdkafka::metadata::MetadataTopic| found.name() == *topic && found.error().is_none();
            if !metadata.topics().iter().any(|found| is_there(found) && !found.partitions().is_empty()) {
                return Err(LogError::NoTopic((*topic).to_owned()));
            }
        }
        Ok(())
    }

    /// Waits until everything is delivered or has failed.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when that takes too long.
    pub fn flush(&self) -> Result<(), LogError> {
        let flushed = self.producer.flush(DELIVERED_WITHIN);
        flushed.map_err(|error| LogError::Fatal { doing: "delivering what was written".into(), why: error.to_string() })
    }
}

impl Waiting {
    fn tell_at_once(&self) {
        let told = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).told.take();
        if told.is_some_and(|told| told.send(Ok(())).is_err()) {
            debug!("nobody waits for no records");
        }
    }
}
