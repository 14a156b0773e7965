//! Writes records like a producer of raw events: idempotent and in order, or all of them in one transaction.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::refusal::unanswered;
use super::settings::{Settings, not_made};
use super::transaction::{self, Deliveries};
use crate::config::Kafka;
use crate::log::LogError;
use crate::record::Message;

/// Time limit for delivering everything written.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time limit for one request to the broker.
const ANSWER: Duration = Duration::from_secs(20);

/// A producer of raw records.
pub struct Writer {
    producer: BaseProducer<Deliveries>,
    servers: String,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    /// A producer for the configured cluster.
    ///
    /// # Errors
    /// [`LogError`] when the client rejects its configuration.
    pub fn open(kafka: &Kafka) -> Result<Self, LogError> {
        let producer = Settings::new(kafka)?.writer().create_with_context(Deliveries::default());
        let servers = kafka.bootstrap_servers.clone();
        Ok(Self { producer: producer.map_err(|error| not_made(&error))?, servers })
    }

    /// A producer in a transaction. All of its records appear with [`Writer::commit`], or none do. An earlier writer
    /// with the same name is fenced.
    ///
    /// # Errors
    /// [`LogError`] when the client rejects its configuration or the broker refuses the transaction.
    pub fn open_transaction(kafka: &Kafka, name: &str) -> Result<Self, LogError> {
        let settings = Settings::new(kafka)?.for_transactions(&kafka.group_prefix, name);
        let producer = transaction::producer(&settings, &AtomicBool::new(false), || Ok(()))?;
        producer.begin_transaction().map_err(|error| failed("beginning a transaction", &error))?;
        Ok(Self { producer, servers: kafka.bootstrap_servers.clone() })
    }

    /// Makes everything written since [`Writer::open_transaction`] visible.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when a record was not delivered or the broker refuses. Then nothing is visible.
    pub fn commit(mut self) -> Result<(), LogError> {
        self.flush()?;
        self.producer.commit_transaction(ANSWER).map_err(|error| failed("committing what was written", &error))
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// [`LogError::NoTopic`] when the topic does not exist; [`LogError::Fatal`] when the broker does not answer.
    pub fn partitions(&self, topic: &str) -> Result<i32, LogError> {
        let metadata = self.producer.client().fetch_metadata(Some(topic), ANSWER);
        let metadata = metadata.map_err(|error| unanswered(&format!("asking for {topic}"), &self.servers, &error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let count = found.map(|topic| topic.partitions().len() as i32).filter(|count| *count > 0);
        count.ok_or_else(|| LogError::NoTopic(topic.to_owned()))
    }

    /// Hands a record to the client. Waits while too many are in flight.
    ///
    /// # Errors
    /// [`LogError`] when the client does not accept it, or an earlier record was not delivered.
    pub fn write(&mut self, message: &Message) -> Result<(), LogError> {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &message.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&message.topic).partition(message.partition).headers(headers);
        (record.key, record.payload, record.timestamp) =
            (message.key.as_deref(), message.value.as_deref(), message.timestamp_ms);
        while let Err((error, returned)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(failed(&format!("writing to {}", message.topic), &error));
            }
            self.producer.poll(Duration::from_millis(10));
            record = returned;
        }
        self.delivered()
    }

    /// Waits until everything is delivered.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when a record was not delivered, or not within two minutes.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.producer.flush(PATIENCE).map_err(|error| failed("delivering what was written", &error))?;
        self.delivered()
    }

    fn delivered(&self) -> Result<(), LogError> {
        match self.producer.context().take_failed() {
            Some((error, topic)) => Err(failed(&format!("delivering what was written to {topic}"), &error)),
            None => Ok(()),
        }
    }
}

fn failed(doing: &str, error: &KafkaError) -> LogError {
    LogError::Fatal { doing: doing.to_owned(), why: error.to_string() }
}
