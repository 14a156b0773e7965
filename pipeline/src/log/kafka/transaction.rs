//! One transaction: begin, produce, send positions, drain, commit.
//!
//! In-flight messages are drained before the commit: otherwise librdkafka's own flush in `commit_transaction` waits 100
//! ms each time. If the outcome of a transaction is in doubt, a new producer under the same id replaces the old one.
//! That ends the transaction on the broker, committed or aborted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tracing::{debug, warn};

use super::burst::Burst;
use super::refusal::{Refusal, is_refusal, refused};
use super::settings::{Settings, not_made};
use super::{KafkaLog, SLICE};
use crate::crash_points::{self, CrashPoint};
use crate::log::{LogError, Verdict};
use crate::record::Message;
use keepwell_core::offset::{Position, TopicPartition};

/// How long one abort call waits for abandoned messages. Their reports are received between the calls.
const ABORT_SLICE: Duration = Duration::from_millis(100);

/// Keeps the first message that could not be delivered.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    failed: Mutex<Option<(KafkaError, String)>>,
    refusal: Refusal,
}

impl Deliveries {
    /// The error and topic of an undelivered message since the last call.
    pub fn take_failed(&self) -> Option<(KafkaError, String)> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        self.refusal.note(&error, reason);
        debug!(%error, reason, "client error");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            // A batch that is too large also fails the messages behind it. So the error about the size is kept.
            if failed.as_ref().is_none_or(|(known, _)| is_too_large(error) && !is_too_large(known)) {
                *failed = Some((error.clone(), message.topic().to_owned()));
            }
        }
    }
}

/// Whether a record exceeds a limit of the broker or of the client.
fn is_too_large(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{InvalidMessageSize, MessageSizeTooLarge};
    matches!(error.rdkafka_error_code(), Some(MessageSizeTooLarge | InvalidMessageSize))
}

/// Wait between two looks at deliveries if nothing was delivered.
const DELIVERY_WAIT: Duration = Duration::from_micros(500);

/// A producer that has ended whatever its predecessor under the same id left open. While it waits for the broker, it
/// calls `meanwhile` repeatedly.
pub(super) fn producer(
    settings: &Settings,
    stop: &AtomicBool,
    meanwhile: impl Fn() -> Result<(), LogError>,
) -> Result<BaseProducer<Deliveries>, LogError> {
    let fatal = |error: &KafkaError| LogError::Fatal {
        doing: format!("starting the transactional producer of instance {}", settings.instance()),
        why: error.to_string(),
    };
    let producer: BaseProducer<Deliveries> =
        settings.producer().create_with_context(Deliveries::default()).map_err(|error| not_made(&error))?;
    let mut complained = Instant::now();
    loop {
        match producer.init_transactions(SLICE) {
            Ok(()) => return Ok(producer),
            Err(error) if is_refusal(&error) => {
                return Err(refused(&format!("writing as {}", settings.transactional_id()), error));
            }
            Err(error) if is_retriable(&error) => {
                // Other errors of the client arrive with a poll.
                producer.poll(Duration::ZERO);
                producer.context().refusal.check("connecting")?;
                if stop.load(Ordering::Relaxed) {
                    return Err(LogError::Stopped("starting the transactional producer".into()));
                }
                meanwhile()?;
                if complained.elapsed() > Duration::from_secs(5) {
                    let client = settings.client();
                    let brokers = client.get("bootstrap.servers");
                    warn!(%error, brokers, "waiting for the broker to start the transactional producer: does it run, and is kafka.bootstrap_servers right?");
                    complained = Instant::now();
                }
            }
            Err(error) => return Err(fatal(&error)),
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.is_retriable(),
        _ => matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure)
        ),
    }
}

/// Why a transaction failed.
enum Trouble {
    /// It must be aborted.
    Abort(String),
    /// Its outcome is unknown.
    Doubt(String),
    /// It must be aborted: a record for this topic is too large.
    TooLarge(String),
    /// No outcome will ever be known.
    Stop(LogError),
}

impl Trouble {
    fn of(doing: &str, error: &KafkaError) -> Self {
        let why = format!("{doing}: {error}");
        match error {
            error if is_refusal(error) => Self::Stop(refused(doing, error)),
            KafkaError::Transaction(error) if error.txn_requires_abort() => Self::Abort(why),
            _ => Self::Doubt(why),
        }
    }
}

/// Commits one transaction; see [`crate::log::Log::commit`].
pub(super) fn commit(
    log: &mut KafkaLog,
    messages: &[Message],
    positions: &BTreeMap<TopicPartition, Position>,
) -> Result<Verdict, LogError> {
    let deadline = Instant::now() + Duration::from_millis(log.settings.transaction_timeout_ms());
    let aborted = |log: &KafkaLog| patiently(log, deadline, "abort", |p| p.abort_transaction(ABORT_SLICE));
    match attempt(log, messages, positions, deadline) {
        Ok(()) => Ok(Verdict::Committed),
        Err(Trouble::Stop(error)) => Err(error),
        Err(Trouble::Doubt(why)) => Ok(Verdict::Lost(why)),
        Err(Trouble::Abort(why)) => match aborted(log) {
            Ok(()) => Ok(Verdict::Aborted(why)),
            Err(Trouble::Stop(error)) => Err(error),
            Err(Trouble::Abort(more) | Trouble::Doubt(more) | Trouble::TooLarge(more)) => {
                Ok(Verdict::Lost(format!("{why}; {more}")))
            }
        },
        Err(Trouble::TooLarge(topic)) => {
            log.settings.take_less(&topic);
            // The limits of a client are fixed at its creation. A new producer also ends the transaction.
            super::remake_producer(log)?;
            Ok(Verdict::TooLarge { topic })
        }
    }
}

fn attempt(
    log: &KafkaLog,
    messages: &[Message],
    positions: &BTreeMap<TopicPartition, Position>,
    deadline: Instant,
) -> Result<(), Trouble> {
    // The group membership of this batch: it fences an owner that is out of date.
    let membership =
        log.consumer.group_metadata().ok_or_else(|| Trouble::Doubt("the consumer has no group membership".into()))?;
    crash_points::here(CrashPoint::BeforeBegin);
    log.producer.begin_transaction().map_err(|error| Trouble::of("begin", &error))?;
    let mut burst = Burst::default();
    for message in messages {
        if !burst.takes(message) {
            drain(log, deadline)?;
            burst = Burst::of(message);
        }
        send(log, message, deadline)?;
        crash_points::here(CrashPoint::WhileProducing);
    }
    let mut offsets = TopicPartitionList::new();
    for (tp, position) in positions {
        offsets
            .add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(position.next.0))
            .map_err(|error| Trouble::of("naming positions", &error))?;
        if let Some(mut element) = offsets.find_partition(&tp.topic, tp.partition) {
            element.set_metadata(position.metadata());
        }
    }
    crash_points::here(CrashPoint::AfterProduce);
    if offsets.count() > 0 {
        patiently(log, deadline, "sending positions", |producer| {
            producer.send_offsets_to_transaction(&offsets, &membership, SLICE)
        })?;
    }
    drain(log, deadline)?;
    crash_points::here(CrashPoint::BeforeCommit);
    patiently(log, deadline, "commit", |producer| producer.commit_transaction(SLICE))
}

fn send(log: &KafkaLog, message: &Message, deadline: Instant) -> Result<(), Trouble> {
    let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
    for (key, value) in &message.headers {
        headers = headers.insert(Header { key, value: value.as_deref() });
    }
    let mut record: BaseRecord<'_, [u8], [u8]> =
        BaseRecord::to(&message.topic).partition(message.partition).headers(headers);
    record.key = message.key.as_deref();
    record.payload = message.value.as_deref();
    record.timestamp = message.timestamp_ms;
    loop {
        let error = match log.producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, returned)) => {
                record = returned;
                error
            }
        };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) if Instant::now() < deadline => {
                log.producer.poll(Duration::from_millis(1));
                log.serve(Duration::ZERO).map_err(Trouble::Stop)?;
            }
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => return Err(Trouble::TooLarge(message.topic.to_string())),
            _ if is_refusal(&error) => {
                return Err(Trouble::Stop(refused(&format!("producing to {}", message.topic), error)));
            }
            _ => return Err(Trouble::Abort(format!("producing to {}: {error}", message.topic))),
        }
    }
}

/// Waits until every message is delivered or has failed.
fn drain(log: &KafkaLog, deadline: Instant) -> Result<(), Trouble> {
    let mut served = Instant::now();
    loop {
        let num_left = log.producer.in_flight_count();
        if num_left == 0 {
            break;
        }
        log.producer.poll(Duration::ZERO);
        // One poll receives the report of one failed message. With a wait of a millisecond or less it would spin.
        if log.producer.in_flight_count() == num_left {
            std::thread::sleep(DELIVERY_WAIT);
        }
        if served.elapsed() > Duration::from_millis(100) {
            log.serve(Duration::ZERO).map_err(Trouble::Stop)?;
            served = Instant::now();
        }
        if Instant::now() > deadline {
            return Err(Trouble::Abort("messages were not delivered within the transaction timeout".into()));
        }
    }
    let failed = log.producer.context().take_failed();
    match failed {
        Some((error, _)) if is_refusal(&error) => Err(Trouble::Stop(refused("producing", error))),
        Some((error, topic)) if is_too_large(&error) => Err(Trouble::TooLarge(topic)),
        Some((error, _)) => Err(Trouble::Abort(format!("a message was not delivered: {error}"))),
        None => Ok(()),
    }
}

/// Repeats a transactional call while its error is retriable, and keeps the membership alive.
fn patiently(
    log: &KafkaLog,
    deadline: Instant,
    doing: &str,
    call: impl Fn(&BaseProducer<Deliveries>) -> Result<(), KafkaError>,
) -> Result<(), Trouble> {
    loop {
        match call(&log.producer) {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                // Abandoned messages are gone only when their reports are received.
                log.producer.poll(Duration::from_millis(10));
                log.serve(Duration::ZERO).map_err(Trouble::Stop)?;
            }
            Err(error) => return Err(Trouble::of(doing, &error)),
        }
    }
}
