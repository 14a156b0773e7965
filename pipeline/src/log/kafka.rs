//! The log on Apache Kafka, through librdkafka.
//!
//! One thread owns the consumer and the producer. Each owned partition has its own queue. So reading can stop at any
//! partition, while polls of the main queue keep the group membership alive. A partition is fetched only after
//! [`Log::start`] has set its position.
#![allow(clippy::disallowed_methods, reason = "I/O edge: waits are measured here")]

mod burst;
pub mod delivery;
mod departure;
pub mod group;
mod membership;
mod orphans;
mod ownership;
mod queue;
pub(crate) mod refusal;
pub mod settings;
pub mod tail;
mod transaction;
mod unreadable;
pub mod writer;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::BaseProducer;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use tracing::{debug, warn};

use super::{Ends, Log, LogError, Polled, Verdict};
use crate::pulse::Pulse;
use crate::record::{Message, Record, StableEnd};
use departure::Departure;
use keepwell_core::offset::{NextOffset, Offset, Position, TopicPartition};
pub use membership::Member;
use membership::Membership;
use orphans::Orphans;
use ownership::{Change, Ownership};
use queue::{Queue, Wakeup, record};
use refusal::{failed, is_final, is_refusal, lost, refused};
use settings::{Settings, not_made};
use tail::Tail;
use transaction::Deliveries;
use unreadable::{Unreadable, is_unreadable, passed_by};

/// Longest time that a call waits before the membership is polled again.
const SLICE: Duration = Duration::from_millis(900);

/// Extra time to find the group, after the session timeout at which the group has reassigned the partitions.
const FINDS_WITHIN: Duration = Duration::from_secs(5);

/// How many client events are handled before the next look at records.
const EVENTS_AT_ONCE: usize = 20;

/// Time limit for looking into a partition.
const LOOK: Duration = Duration::from_secs(60);

/// A member of a consumer group that writes in transactions.
pub struct KafkaLog {
    settings: Settings,
    membership: RefCell<Membership>,
    /// The partitions were lost with the previous membership, so the new consumer need not release them.
    is_new_member: bool,
    consumer: Arc<BaseConsumer<Ownership>>,
    producer: BaseProducer<Deliveries>,
    /// A client without a group that reads uncommitted records. It asks for metadata and ends.
    handle: Arc<BaseConsumer<Ownership>>,
    queues: BTreeMap<TopicPartition, Queue>,
    paused: BTreeSet<TopicPartition>,
    wakeup: Arc<Wakeup>,
    stop: Arc<AtomicBool>,
    pulse: Pulse,
    turn: usize,
    /// Number of records in the last poll.
    last_taken: usize,
    /// A change that the group waits to have answered: whether it assigns partitions, and which.
    unanswered: Option<(bool, Vec<TopicPartition>)>,
    /// Whether records of an owned partition arrived outside its queue.
    is_astray: Cell<bool>,
    orphans: Orphans,
    unreadable: Unreadable,
}

impl std::fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaLog").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Joins a group to read topics. `stop` ends every wait. `pulse` beats during each wait.
    ///
    /// # Errors
    /// [`LogError`] when the client rejects its configuration or the broker refuses it.
    pub fn join(settings: Settings, member: Member<'_>, stop: Arc<AtomicBool>, pulse: Pulse) -> Result<Self, LogError> {
        let Member { group, instance, topics } = member;
        let configuration = |error: KafkaError| not_made(&error);
        let wakeup = Arc::new(Wakeup::default());
        let membership = Membership::new(group, instance, topics);
        let handle = settings.handle()?.create_with_context(Ownership::default()).map_err(configuration)?;
        let settings = settings.for_transactions(group, instance);
        let producer = transaction::producer(&settings, &stop, || {
            pulse.beat();
            Ok(())
        })?;
        let consumer = membership.join(&settings)?;
        Ok(Self {
            settings,
            membership: RefCell::new(membership),
            is_new_member: false,
            consumer: Arc::new(consumer),
            producer,
            handle: Arc::new(handle),
            queues: BTreeMap::new(),
            paused: BTreeSet::new(),
            wakeup,
            stop,
            pulse,
            turn: 0,
            last_taken: 0,
            unanswered: None,
            is_astray: Cell::new(false),
            orphans: Orphans::default(),
            unreadable: Unreadable::default(),
        })
    }

    /// Leaves the group. From now on the log has this other client.
    fn leave(&mut self, with: Arc<BaseConsumer<Ownership>>) {
        let consumer = std::mem::replace(&mut self.consumer, with);
        let (queues, unanswered) = (std::mem::take(&mut self.queues), self.unanswered.take());
        Departure { consumer, queues, unanswered }.leave();
    }

    /// Serves the group, statistics and errors for at most `wait`, and further events that are already there. In an
    /// outage many errors queue up, and changes of the group wait behind them.
    fn serve(&self, wait: Duration) -> Result<(), LogError> {
        let mut wait = wait;
        // A poll that returns nothing may have handled one event inside the client.
        for _ in 0..EVENTS_AT_ONCE {
            if let Some(event) = self.consumer.poll(std::mem::take(&mut wait)) {
                self.handle(event)?;
            }
        }
        self.consumer.context().refusal.check("connecting")
    }

    fn handle(&self, event: Result<BorrowedMessage<'_>, KafkaError>) -> Result<(), LogError> {
        match event {
            Err(KafkaError::PartitionEOF(_)) => Ok(()),
            // The running work ends first. The next poll decides.
            Err(KafkaError::MessageConsumptionFatal(code)) => {
                self.membership.borrow_mut().break_by(code);
                Ok(())
            }
            Err(error) if is_refusal(&error) => Err(refused(&self.membership.borrow().to_string(), error)),
            Err(error) => {
                let missing = RDKafkaErrorCode::UnknownTopicOrPartition;
                if error.rdkafka_error_code() == Some(missing) {
                    warn!(%error, "a topic is missing; `keepwell topics check` tells which");
                } else {
                    debug!(%error, "the client recovers by itself");
                }
                Ok(())
            }
            // Every owned partition has its own queue, so this record should be of a released partition. If a client
            // ever delivered owned records here, they would be lost. Then the group is joined again.
            Ok(message) => {
                let tp = TopicPartition::new(message.topic(), message.partition());
                if self.queues.contains_key(&tp) {
                    warn!(partition = %tp, offset = message.offset(), "a record came astray: the group is joined again");
                    self.is_astray.set(true);
                } else {
                    debug!(partition = %tp, "record of a released partition");
                }
                Ok(())
            }
        }
    }

    /// Whether the client can no longer find the group.
    fn is_lost(&self) -> bool {
        let (is_in_group, limit) =
            (self.consumer.context().is_in_group(), self.settings.session_timeout() + FINDS_WITHIN);
        let is_lost = self.membership.borrow_mut().is_lost(is_in_group, limit, Instant::now());
        if is_lost {
            warn!(
                instance = self.settings.instance(),
                "no coordinator of the group: it is joined again with another client"
            );
        }
        is_lost
    }

    /// Joins the group again. Until they are assigned again, the partitions count as owned by others.
    fn join_again(&mut self) -> Result<Vec<TopicPartition>, LogError> {
        let owned = self.queues.keys().cloned().collect();
        let consumer = Arc::new(self.membership.borrow().join(&self.settings)?);
        self.leave(consumer);
        self.is_new_member = true;
        Ok(owned)
    }

    /// Takes records from the queues in turn, up to the limits.
    fn take(&mut self, max_records: usize, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        // Reserve about as many as last time: a growing vector would copy the records again.
        let mut records = Vec::with_capacity(self.last_taken.min(max_records));
        let mut bytes = 0;
        let mut failed = Vec::new();
        // The queue of a paused partition is bounded: the client fetches a little ahead and then stops.
        let mut queues: Vec<_> = self.queues.iter_mut().filter(|(tp, _)| !self.paused.contains(*tp)).collect();
        let num_queues = queues.len();
        let share = (max_records / num_queues.max(1)).max(1);
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % num_queues.max(1);
        let stats = self.consumer.context();
        let order = (0..num_queues).map(|i| (i + first) % num_queues);
        for index in order {
            let Some((tp, queue)) = queues.get_mut(index) else { break };
            let eof_seen = stats.eof_offset(tp);
            let mut taken = 0;
            while taken < share && records.len() < max_records && bytes < max_bytes {
                match queue.records.poll(Duration::ZERO) {
                    None => {
                        // Every record that came before these statistics is taken by now.
                        if queue.is_at_eof {
                            queue.met_end = eof_seen;
                        }
                        break;
                    }
                    Some(Ok(message)) => {
                        (queue.is_at_eof, queue.met_end) = (false, None);
                        queue.next = Offset(message.offset()).next();
                        bytes += message.payload_len() + message.key_len();
                        taken += 1;
                        let is_passed = self.settings.is_passed(tp, NextOffset(message.offset()));
                        let take = if is_passed { passed_by } else { record };
                        records.push(take(tp, &message));
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => queue.is_at_eof = true,
                    Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                        self.membership.borrow_mut().break_by(code);
                        break;
                    }
                    Some(Err(error)) => {
                        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) {
                            let why = format!("the position is outside the log: {error}");
                            return Err(LogError::Position { topic_partition: (*tp).clone(), why });
                        }
                        if is_refusal(&error) {
                            return Err(refused(&format!("reading {tp}"), error));
                        }
                        (queue.is_at_eof, queue.met_end) = (false, None);
                        if is_unreadable(&error) {
                            failed.push(((*tp).clone(), queue.next, error.to_string()));
                            break;
                        }
                        debug!(%error, partition = %tp, "the client recovers by itself");
                    }
                }
            }
        }
        self.last_taken = records.len();
        if !self.unreadable.is_empty() {
            records.iter().for_each(|record| self.unreadable.forget(&record.topic_partition));
        }
        self.read_again(failed)?;
        Ok(records)
    }

    /// Calls `ask` until it answers, and keeps the membership alive meanwhile. It waits while the broker is away.
    fn patiently<T>(&self, doing: &str, mut ask: impl FnMut(&Self) -> Result<T, KafkaError>) -> Result<T, LogError> {
        let mut complained = Instant::now();
        loop {
            match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(error) if is_refusal(&error) => return Err(refused(doing, error)),
                // A fenced client may no longer know what exists, so its error proves nothing.
                Err(_) if self.membership.borrow().is_broken() => return Err(LogError::Fenced(doing.to_owned())),
                Err(error) if is_final(&error) => {
                    return Err(LogError::Fatal { doing: doing.to_owned(), why: error.to_string() });
                }
                Err(_) if self.stop.load(Ordering::Relaxed) => return Err(LogError::Stopped(doing.to_owned())),
                Err(error) => {
                    self.pulse.beat();
                    if complained.elapsed() > Duration::from_secs(5) {
                        warn!(%error, doing, "waiting for the broker");
                        complained = Instant::now();
                    }
                    self.serve(Duration::from_millis(100))?;
                }
            }
        }
    }
}

fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for tp in partitions {
        list.add_partition(&tp.topic, tp.partition);
    }
    list
}

impl Log for KafkaLog {
    fn poll(&mut self, wait: Duration, max_records: usize, max_bytes: usize) -> Result<Polled, LogError> {
        let deadline = Instant::now() + wait;
        loop {
            self.serve(Duration::ZERO)?;
            if self.membership.borrow_mut().must_join_again(Instant::now())? {
                warn!(instance = self.settings.instance(), "fenced: the group is joined again");
                return Ok(Polled::Revoked(self.join_again()?));
            }
            if self.is_astray.take() || self.is_lost() {
                return Ok(Polled::Revoked(self.join_again()?));
            }
            match self.consumer.context().next_change() {
                Some(Change::Assigned(partitions)) => {
                    self.unanswered = Some((true, partitions.clone()));
                    return Ok(Polled::Assigned(partitions));
                }
                Some(Change::Revoked(partitions)) => {
                    self.unanswered = Some((false, partitions.clone()));
                    return Ok(Polled::Revoked(partitions));
                }
                None => self.look_for_orphans(Instant::now())?,
            }
            let mut records = self.take(max_records, max_bytes)?;
            records.extend(self.passed_by()?);
            let left = deadline.saturating_duration_since(Instant::now());
            if !records.is_empty() || left.is_zero() {
                return Ok(Polled::Records(records));
            }
            self.wakeup.wait(left.min(Duration::from_millis(10)));
        }
    }

    fn committed(&mut self, of: &[TopicPartition]) -> Result<BTreeMap<TopicPartition, Position>, LogError> {
        if of.is_empty() {
            return Ok(BTreeMap::new());
        }
        let answer = self.patiently("asking for the group's positions", |log| {
            let offsets = log.consumer.committed_offsets(list(of), SLICE)?;
            offsets.elements().iter().try_for_each(|element| element.error())?;
            Ok(offsets)
        })?;
        let mut positions = BTreeMap::new();
        for element in answer.elements() {
            if let KafkaOffset::Offset(offset) = element.offset() {
                let tp = TopicPartition::new(element.topic(), element.partition());
                let position = Position::parse(NextOffset(offset), element.metadata())
                    .map_err(|e| LogError::Position { topic_partition: tp.clone(), why: e.to_string() })?;
                positions.insert(tp, position);
            }
        }
        Ok(positions)
    }

    fn ends(&mut self, of: &TopicPartition) -> Result<Ends, LogError> {
        let ask = |log: &Self| log.handle.fetch_watermarks(&of.topic, of.partition, SLICE);
        let (first, next) = self.patiently(&format!("asking for the ends of {of}"), ask)?;
        Ok(Ends { first: NextOffset(first), next: NextOffset(next) })
    }

    fn has_output(&mut self, of: &TopicPartition) -> Result<bool, LogError> {
        let mut is_any = false;
        Tail::of(&self.settings)?.read(of, LOOK, &self.stop, |record| {
            if record.is_foreign() {
                return ControlFlow::Continue(());
            }
            is_any = true;
            ControlFlow::Break(())
        })?;
        Ok(is_any)
    }

    fn partitions(&mut self, topic: &str) -> Result<Option<i32>, LogError> {
        let metadata = self.patiently("asking for topics", |log| log.handle.fetch_metadata(Some(topic), SLICE))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        if let Some(error) = found.and_then(|found| found.error()).map(|code| KafkaError::MetadataFetch(code.into()))
            && is_refusal(&error)
        {
            return Err(refused(&format!("asking for topic {topic}"), error));
        }
        let found = found.filter(|found| found.error().is_none());
        Ok(found.map(|topic| topic.partitions().len() as i32).filter(|count| *count > 0))
    }

    fn start(&mut self, from: &BTreeMap<TopicPartition, NextOffset>) -> Result<(), LogError> {
        let doing = "starting partitions";
        let refused = |error: KafkaError| failed(doing, &error);
        let mut assigned = TopicPartitionList::new();
        for (tp, next) in from {
            if let Some(queue) = self.queues.get_mut(tp) {
                (queue.is_at_eof, queue.met_end, queue.next) = (false, None, *next);
                self.consumer.context().forget_eof(tp);
                let at = KafkaOffset::Offset(next.0);
                self.consumer.seek(&tp.topic, tp.partition, at, SLICE).map_err(|error| lost(doing, &error))?;
                continue;
            }
            assigned.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(next.0)).map_err(refused)?;
            // Split the queue before the assignment: librdkafka then leaves this queue to us.
            let Some(mut records) = self.consumer.split_partition_queue(&tp.topic, tp.partition) else {
                return Err(LogError::NoTopic(tp.topic.to_string()));
            };
            let wakeup = Arc::clone(&self.wakeup);
            records.set_nonempty_callback(move || wakeup.ring());
            self.queues.insert(tp.clone(), Queue { records, is_at_eof: false, met_end: None, next: *next });
        }
        if assigned.count() == from.len() {
            match self.consumer.rebalance_protocol() {
                RebalanceProtocol::Eager => self.consumer.assign(&assigned).map_err(refused)?,
                _ => self.consumer.incremental_assign(&assigned).map_err(refused)?,
            }
            self.unanswered = None;
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        partitions.iter().for_each(|tp| self.unreadable.forget(tp));
        self.queues.retain(|tp, _| !partitions.contains(tp));
        if std::mem::take(&mut self.is_new_member) {
            return Ok(());
        }
        self.unanswered = None;
        for tp in partitions {
            self.consumer.context().forget_eof(tp);
        }
        ownership::unassign(&self.consumer, &list(partitions))
            .map_err(|error| failed("letting go of partitions", &error))
    }

    fn pause(&mut self, partitions: &BTreeSet<TopicPartition>) {
        self.paused.clone_from(partitions);
    }

    fn met_end(&self, partition: &TopicPartition) -> Option<NextOffset> {
        self.queues.get(partition)?.met_end
    }

    fn known_end(&self, partition: &TopicPartition) -> Option<StableEnd> {
        self.consumer.context().stable_end(partition)
    }

    fn unreadable(&self) -> Option<(TopicPartition, NextOffset, String)> {
        self.unreadable.first()
    }

    fn is_reachable(&self) -> bool {
        self.consumer.context().is_connected()
    }

    fn commit(
        &mut self,
        messages: &[Message],
        positions: &BTreeMap<TopicPartition, Position>,
    ) -> Result<Verdict, LogError> {
        transaction::commit(self, messages, positions)
    }

    fn record_limits(&self) -> BTreeMap<String, usize> {
        self.settings.record_limits()
    }

    fn recover(&mut self) -> Result<(), LogError> {
        remake_producer(self)
    }
}

/// Makes a new producer under the same id. It ends the transaction that the previous one left open.
fn remake_producer(log: &mut KafkaLog) -> Result<(), LogError> {
    log.producer = transaction::producer(&log.settings, &log.stop, || {
        log.pulse.beat();
        log.serve(Duration::ZERO)
    })?;
    Ok(())
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.leave(Arc::clone(&self.handle));
    }
}
