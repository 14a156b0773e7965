//! From the records of a source partition to events, ignored records and rejects.

use std::borrow::Cow;

use keepwell_core::event::{Body, Event, Kind, Origin};
use keepwell_core::pane::DAY_US;
use keepwell_core::partitioner::partition_of;
use keepwell_pipeline::config::{Source, max_event_bytes};
use keepwell_pipeline::record::{Message, Record};
use keepwell_pipeline::reject::{Cause, Kept, Original, reject};
use keepwell_pipeline::stage::{Batch, Fate, StageError, Step};
use siphasher::sip128::{Hasher128, SipHasher24};

use super::{Builders, Counts, Ingest, SourcePartition, State};
use crate::decode::{self, Decoded, Limits};
use crate::encoding::Texts;
use crate::mapping::{Flat, Mapping};
use crate::reason::{Code, Reason};

pub(super) const READ: Fate = Fate::of("read");
const EMITTED: Fate = Fate::of("emitted");
/// Events of a record after its first one.
const FURTHER: Fate = Fate::of("further");

/// Event ids of tombstones begin with this text. No other event id may.
const TOMBSTONE: &str = "keepwell:tombstone:";

/// What reading a source partition changes.
pub(super) struct Reading<'r> {
    pub builders: &'r mut Builders,
    pub known: &'r mut SourcePartition,
    pub counts: &'r mut Counts,
    pub step: &'r mut Step<State>,
}

/// What became of a record.
enum Outcome<'a> {
    /// One event.
    One(Event<'a>),
    /// The events that a mapping made of it, at least one.
    Several(Vec<Event<'a>>),
    /// It is valid and says nothing that counts: the kind of the call, or `by_mapping`.
    Ignored(&'static str),
}

impl Ingest {
    fn decode<'r>(
        &self,
        source: &Source,
        record: &'r Record,
        text: Option<&'r [u8]>,
        limits: &Limits,
    ) -> Result<Outcome<'r>, Reason> {
        let event = match (text, source.kind) {
            (Some(value), Some(kind)) => match decode::decode(kind, value, limits)? {
                Decoded::Event(event) => return self.checked(event).map(Outcome::One),
                Decoded::Ignored(call) => return Ok(Outcome::Ignored(call)),
            },
            (None, Some(Kind::Account)) => {
                let event_id = format!("{TOMBSTONE}{}:{}:{}", source.epoch, record.topic_partition, record.offset.0);
                decode::tombstone(record.key.as_deref(), event_id, record.timestamp_ms, limits)?
            }
            _ => return Err(null_value()),
        };
        Ok(Outcome::One(self.hidden(event)))
    }

    /// The events that a mapping made of a record. One that is refused refuses the record.
    fn decode_mapped<'f>(
        &self,
        mapping: &Mapping,
        flats: &'f [Flat<'_>],
        limits: &Limits,
    ) -> Result<Outcome<'f>, Reason> {
        // By far the most records become one event.
        if let [flat] = flats {
            let event = mapping.event(flat, limits)?.map(|event| self.checked(event)).transpose()?;
            return Ok(event.map_or(Outcome::Ignored("by_mapping"), Outcome::One));
        }
        let events: Vec<Event<'f>> =
            mapping.checked(flats, limits)?.into_iter().map(|event| self.checked(event)).collect::<Result<_, _>>()?;
        Ok(if events.is_empty() { Outcome::Ignored("by_mapping") } else { Outcome::Several(events) })
    }

    /// An event as it is written. Ids that stand for deletions by null values are not for others.
    fn checked<'a>(&self, event: Event<'a>) -> Result<Event<'a>, Reason> {
        if event.event_id.starts_with(TOMBSTONE) {
            let detail = format!("event_id: ids that begin with {TOMBSTONE} are for deletions by null values");
            return Err(Reason::new(Code::OutOfRange, detail));
        }
        Ok(self.hidden(event))
    }

    /// The event with its user ids replaced, if there is a key for them.
    fn hidden<'a>(&self, mut event: Event<'a>) -> Event<'a> {
        if let Some(key) = &self.user_id_key {
            hide_user(&mut event.body, key);
        }
        event
    }

    /// The limits for the event of this record.
    fn limits(&self, record: &Record, batch: &Batch<'_>) -> Limits {
        // An event cannot be later than its append, if the time of the append is known.
        let known_us = record.appended_ms.map_or(batch.now_us, |ms| batch.now_us.min(ms.saturating_mul(1000)));
        // An event that does not fit into one record of the broker cannot be accepted.
        let limit = batch.record_limits.get(self.events.as_ref());
        let fits = limit.map_or(usize::MAX, |limit| max_event_bytes(*limit, self.max_facts));
        Limits {
            max_event_bytes: self.max_event_bytes.min(fits),
            max_facts: self.max_facts,
            max_fact_bytes: self.max_fact_bytes,
            latest_us: known_us.saturating_add(self.max_future_us),
            max_future_us: self.max_future_us,
            earliest_us: self.earliest_us,
        }
    }

    /// Decodes the records of one source partition. Their texts are in the same order.
    pub(super) fn decode_all(
        &self,
        source: &Source,
        (records, texts): (&[Record], Texts<'_>),
        batch: &Batch<'_>,
        mut into: Reading<'_>,
    ) -> Result<(), StageError> {
        let mapping = self.mappings.get(&source.topic);
        let (mut num_emitted, mut num_further) = (0, 0);
        for (record, text) in records.iter().zip(&texts.values) {
            let limits = self.limits(record, batch);
            let text = text.as_ref().map(Option::as_deref).map_err(Clone::clone);
            // A row may hold the record as it was sent, beside what was read from it.
            let fits = record.value.as_ref().map_or(Ok(()), |value| decode::check_size(value.len(), &limits));
            let text = fits.and(text);
            let mapped = mapping.map(|mapping| (mapping, flats(mapping, record, text.clone(), &limits)));
            let decoded = match (&record.unreadable, &mapped) {
                (Some(why), _) => Err(Reason::new(Code::Unreadable, why.as_str())),
                (None, None) => text.and_then(|text| self.decode(source, record, text, &limits)),
                (None, Some((mapping, Ok(flats)))) => self.decode_mapped(mapping, flats, &limits),
                (None, Some((_, Err(reason)))) => Err(reason.clone()),
            };
            match decoded {
                Ok(Outcome::One(event)) => {
                    self.push(&event, record, batch.now_us, &mut into)?;
                    num_emitted += 1;
                }
                Ok(Outcome::Several(events)) => {
                    for event in &events {
                        self.push(event, record, batch.now_us, &mut into)?;
                    }
                    num_emitted += 1;
                    num_further += events.len() as u64 - 1;
                }
                Ok(Outcome::Ignored(call)) => into.step.count(Fate { name: "ignored", reason: call }, 1),
                Err(reason) => {
                    into.step.messages.push(self.reject(record, &reason, batch));
                    into.step.count(Fate { name: "rejected", reason: reason.code.as_str() }, 1);
                    if reason.code == Code::Unreadable {
                        into.step.notice(|| format!("{} offset {}: {reason}", record.topic_partition, record.offset.0));
                    }
                }
            }
        }
        into.step.count(EMITTED, num_emitted);
        into.step.count(FURTHER, num_further);
        *into.step.fates.entry(READ).or_default() += records.len() as u64;
        Ok(())
    }

    /// Adds an event to the rows of its partition.
    fn push(&self, event: &Event<'_>, record: &Record, now_us: i64, into: &mut Reading<'_>) -> Result<(), StageError> {
        let high_us = into.known.high_us.map_or(event.occurred_us, |high_us| high_us.max(event.occurred_us));
        into.known.high_us = Some(high_us);
        into.counts.add(event.body.kind(), event.occurred_us, high_us);
        let partition = partition_of(&event.account_id, self.partitions);
        // With a user id key no bytes are kept, because the raw value contains the user ids.
        let is_kept = self.user_id_key.is_none() && self.may_be_too_late(event.occurred_us, now_us);
        let origin = Origin {
            topic: &record.topic_partition.topic,
            partition: record.topic_partition.partition,
            offset: record.offset.0,
            received_us: record.timestamp_ms.saturating_mul(1000),
            payload: record.value.as_deref().filter(|_| is_kept),
        };
        Ok(into.builders.entry(partition).or_default().push(event, origin)?)
    }

    /// Whether aggregate may find the event too late, so that its bytes must be kept. No watermark is ahead of the
    /// clock, so only events older than the lateness can be too late. One day is added, because clocks differ.
    fn may_be_too_late(&self, occurred_us: i64, now_us: i64) -> bool {
        self.panes.end_us(self.panes.pane(occurred_us)) + self.lateness_us <= now_us + DAY_US
    }

    fn reject(&self, record: &Record, reason: &Reason, batch: &Batch<'_>) -> Message {
        let cause = Cause {
            stage: "ingest",
            reason: reason.code.as_str(),
            // The words of a reason may quote the record, and with a user id key nothing of it is kept.
            message: if self.user_id_key.is_some() { &"(not kept: ingest.user_id_key is set)" } else { reason },
            topic: &record.topic_partition.topic,
            partition: record.topic_partition.partition,
            offset: record.offset.0,
        };
        let partition = record.topic_partition.partition % self.partitions;
        let original =
            Original { key: record.key.clone(), value: record.value.clone(), headers: record.headers.clone() };
        let kept = match self.user_id_key {
            // With a user id key the reject contains nothing of the record, because it may name a user.
            Some(_) => Kept::Nothing,
            None => Kept::Within(batch.record_bytes(&self.rejects, self.max_record_bytes)),
        };
        reject(&self.rejects, partition, &cause, original, kept)
    }
}

/// The events of a record in Keepwell's own form, as a mapping makes them.
fn flats<'r>(
    mapping: &'r Mapping,
    record: &'r Record,
    text: Result<Option<&'r [u8]>, Reason>,
    limits: &Limits,
) -> Result<Vec<Flat<'r>>, Reason> {
    let value = mapping.or_empty(text?).ok_or_else(null_value)?;
    decode::check_size(value.len(), limits)?;
    mapping.events(value, &record.headers)
}

fn null_value() -> Reason {
    Reason::new(Code::NullValue, "a null value has a meaning on the accounts topic only")
}

/// Replaces the user id by its keyed hash.
fn hide_user(body: &mut Body<'_>, key: &[u8; 16]) {
    let hash = |id: &str| {
        use std::hash::Hasher;
        let mut hasher = SipHasher24::new_with_key(key);
        hasher.write(id.as_bytes());
        let hash = hasher.finish128();
        Cow::Owned(format!("{:016x}{:016x}", hash.h1, hash.h2))
    };
    match body {
        Body::Usage { user_id: Some(id), .. }
        | Body::Ticket { user_id: Some(id), .. }
        | Body::Survey { user_id: Some(id), .. }
        | Body::Person { user_id: id, .. } => *id = hash(id),
        _ => {}
    }
}
