//! The log on Apache Kafka, through librdkafka.
//!
//! One thread owns consumer and producer. Each owned partition has a queue of its own, so that reading
//! can stop at any partition while the group membership is kept alive by polling the main queue.
//! Assigned partitions are not fetched before [`Log::start`] says from where.
#![allow(clippy::disallowed_methods, reason = "I/O edge: waits are measured here")]

mod burst;
pub mod group;
mod membership;
mod orphans;
mod ownership;
mod queue;
mod refusal;
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
use crate::record::{MODEL_HEADER, Message, Record, StableEnd};
use keepwell_core::offset::{NextOffset, Offset, Position, TopicPartition};
pub use membership::Member;
use membership::Membership;
use orphans::Orphans;
use ownership::{Change, Ownership};
use queue::{Queue, Wakeup, record};
use refusal::{failed, is_final, is_refusal, refused};
use settings::{Settings, not_made};
use tail::Tail;
use transaction::Deliveries;
use unreadable::{Unreadable, is_unreadable, passed_by};

/// Longest time a call waits before the membership is polled again.
const SLICE: Duration = Duration::from_millis(900);

/// How long a client may look for its group beyond the time after which the group has given its partitions away.
const FINDS_WITHIN: Duration = Duration::from_secs(5);

/// How much of what the client has to tell is served before records are looked at again.
const EVENTS_AT_ONCE: usize = 20;

/// How long a look into a partition may take.
const LOOK: Duration = Duration::from_secs(60);

/// A member of a consumer group that writes in transactions.
pub struct KafkaLog {
    settings: Settings,
    membership: RefCell<Membership>,
    /// What another membership owned was taken from this process, not let go.
    is_new_member: bool,
    consumer: Arc<BaseConsumer<Ownership>>,
    producer: BaseProducer<Deliveries>,
    /// Without group and reading uncommitted: asks for metadata and ends.
    handle: BaseConsumer,
    queues: BTreeMap<TopicPartition, Queue>,
    paused: BTreeSet<TopicPartition>,
    wakeup: Arc<Wakeup>,
    stop: Arc<AtomicBool>,
    pulse: Pulse,
    turn: usize,
    /// How many records were taken the last time.
    last_taken: usize,
    /// What the group said and has no answer yet: whether it gives partitions, and which.
    unanswered: Option<(bool, Vec<TopicPartition>)>,
    /// Records of an owned partition came outside of its queue.
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
    /// Joins a group to read topics. `stop` ends every wait; `pulse` beats while one lasts.
    ///
    /// # Errors
    /// [`LogError`] when the client refuses its configuration or another process has the same instance name.
    pub fn join(settings: Settings, member: Member<'_>, stop: Arc<AtomicBool>, pulse: Pulse) -> Result<Self, LogError> {
        let Member { group, instance, topics } = member;
        let configuration = |error: KafkaError| not_made(&error);
        let wakeup = Arc::new(Wakeup::default());
        let membership = Membership::new(group, instance, topics);
        let handle: BaseConsumer = settings.handle()?.create().map_err(configuration)?;
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
            handle,
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

    /// From now on the client says yes to whatever the group asks for: else its close would wait without end.
    fn leave(&mut self) {
        self.consumer.context().close();
        let mut unanswered = self.unanswered.take();
        while let Some((is_assign, partitions)) =
            unanswered.take().or_else(|| match self.consumer.context().next_change()? {
                Change::Assigned(partitions) => Some((true, partitions)),
                Change::Revoked(partitions) => Some((false, partitions)),
            })
        {
            ownership::answer(&self.consumer, is_assign, &list(&partitions));
        }
    }

    /// Serves the group, statistics and errors, for at most `wait`, and what else has come by now: what is told of an
    /// outage piles up, and what the group says stands behind it.
    fn serve(&self, wait: Duration) -> Result<(), LogError> {
        let mut wait = wait;
        // A poll that gives nothing may have served one event within the client.
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
            // What is under way ends first; the next poll decides.
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
            // Every owned partition has a queue of its own; what comes here is of a partition let go. Should a client ever
            // give an owned partition another queue, its records would be lost here: then it is made anew.
            Ok(message) => {
                let tp = TopicPartition::new(message.topic(), message.partition());
                if self.queues.contains_key(&tp) {
                    warn!(partition = %tp, offset = message.offset(), "a record came astray: the group is joined again");
                    self.is_astray.set(true);
                } else {
                    debug!(partition = %tp, "record of a partition let go");
                }
                Ok(())
            }
        }
    }

    /// Whether the client has lost its way to the group.
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

    /// Joins the group anew. What was owned is another's until it is assigned again.
    fn join_again(&mut self) -> Result<Vec<TopicPartition>, LogError> {
        self.leave();
        let owned = std::mem::take(&mut self.queues).into_keys().collect();
        self.consumer = Arc::new(self.membership.borrow().join(&self.settings)?);
        self.is_new_member = true;
        Ok(owned)
    }

    /// Takes what the queues hold, each in turn, up to the limits.
    fn take(&mut self, max_records: usize, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        // About as many as the last time: moved as they become more, they would be copied twice.
        let mut records = Vec::with_capacity(self.last_taken.min(max_records));
        let mut bytes = 0;
        let mut failed = Vec::new();
        // A paused partition is fetched a little ahead and then rests: its queue is bounded.
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
                        // All that came before the statistics were made is taken by now.
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

    /// Calls `ask` until it answers, keeping the membership alive; a broker that is away is waited for.
    fn patiently<T>(&self, doing: &str, mut ask: impl FnMut(&Self) -> Result<T, KafkaError>) -> Result<T, LogError> {
        let mut complained = Instant::now();
        loop {
            match ask(self) {
                Ok(answer) => return Ok(answer),
                Err(error) if is_refusal(&error) => return Err(refused(doing, error)),
                // A client that is fenced may have lost sight of what there is.
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
            if record.header(MODEL_HEADER).is_some() {
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
        let refused = |error: KafkaError| failed("taking up partitions", &error);
        let mut assigned = TopicPartitionList::new();
        for (tp, next) in from {
            if let Some(queue) = self.queues.get_mut(tp) {
                (queue.is_at_eof, queue.met_end, queue.next) = (false, None, *next);
                self.consumer.context().forget_eof(tp);
                self.consumer.seek(&tp.topic, tp.partition, KafkaOffset::Offset(next.0), SLICE).map_err(refused)?;
                continue;
            }
            assigned.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(next.0)).map_err(refused)?;
            // Split before the assignment: librdkafka then leaves this queue to us.
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

    fn max_record_bytes(&self) -> Option<usize> {
        self.settings.taken_bytes()
    }

    fn recover(&mut self) -> Result<(), LogError> {
        remake_producer(self)
    }
}

/// A producer under the same id ends what the one before left open.
fn remake_producer(log: &mut KafkaLog) -> Result<(), LogError> {
    log.producer = transaction::producer(&log.settings, &log.stop, || {
        log.pulse.beat();
        log.serve(Duration::ZERO)
    })?;
    Ok(())
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // The queues hold the consumer; it can only leave the group when they are gone.
        self.leave();
        self.queues.clear();
    }
}
