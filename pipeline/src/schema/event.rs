//! The `events` table: accepted events of every kind, in one wide batch.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, DictionaryArray, Int32Builder, Int64Array, Int64Builder, MapBuilder,
    RecordBatch, StringArray, StringBuilder, StringDictionaryBuilder, TimestampMicrosecondArray,
    TimestampMicrosecondBuilder, UInt8Array, UInt8Builder,
};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType, UInt8Type};
use arrow::error::ArrowError;

use super::ColumnType::{Bytes, Code, Int32, Int64, Label, Text, TextMap, Time};
use super::{Column, known, maybe, schema_of};
use crate::event::{Body, Event, Kind, Origin, Outcome, PersonAction, Priority, Survey, TicketAction, account_action};

/// Name and version, as in the schema metadata.
pub const TABLE: &str = "events/1";

/// The columns, in order.
pub const COLUMNS: &[Column] = &[
    known("account_id", Text, "account the event belongs to; decides the partition"),
    known("event_id", Text, "unique within the account"),
    known("occurred_at", Time, "event time"),
    known("kind", Code, "1 usage, 2 ticket, 3 survey, 4 account, 5 person"),
    maybe(
        "action",
        Code,
        "by kind: ticket 1 opened .. 8 closed; survey 1 nps, 2 csat, 3 ces; account 1 upsert, 2 deleted, 3 milestone, 4 outcome; person 1 added, 2 removed, 3 role_changed, 4 erased",
    ),
    maybe("user_id", Text, "who, if known"),
    maybe("feature", Text, "usage: feature used"),
    maybe("count", Int64, "usage: uses this event stands for"),
    maybe("duration_ms", Int64, "usage: duration, if known"),
    maybe("errors", Int64, "usage: failed uses, if known"),
    maybe("ticket_id", Text, "ticket"),
    maybe("priority", Code, "ticket: 1 low, 2 normal, 3 high, 4 urgent"),
    maybe("category", Text, "ticket: category"),
    maybe("csat", Int64, "ticket: rating 1-5"),
    maybe("survey_score", Int64, "survey: answer"),
    maybe("survey_scale_max", Int64, "survey: best possible answer"),
    maybe("facts", TextMap, "account upsert: fact name to JSON text"),
    maybe("valid_until", Time, "account upsert: unknown again from then on"),
    maybe("author", Text, "account upsert: who said so"),
    maybe("milestone_id", Text, "milestone"),
    maybe("due_at", Time, "milestone: due"),
    maybe("done_at", Time, "milestone: done"),
    maybe("alert_id", Text, "outcome: alert"),
    maybe("outcome", Code, "outcome: 1 accepted, 2 done, 3 dismissed"),
    maybe("role", Text, "person: role"),
    known("source_topic", Label, "raw topic"),
    known("source_partition", Int32, "raw partition"),
    known("source_offset", Int64, "raw offset"),
    known("received_at", Time, "timestamp of the raw record"),
    maybe("payload", Bytes, "raw value, kept where the event may turn out too late"),
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(TABLE, COLUMNS));

/// The Arrow schema.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// Builds a batch row by row.
#[derive(Default)]
pub struct EventBuilder {
    account_id: StringBuilder,
    event_id: StringBuilder,
    occurred_at: TimestampMicrosecondBuilder,
    kind: UInt8Builder,
    action: UInt8Builder,
    user_id: StringBuilder,
    feature: StringBuilder,
    count: Int64Builder,
    duration_ms: Int64Builder,
    errors: Int64Builder,
    ticket_id: StringBuilder,
    priority: UInt8Builder,
    category: StringBuilder,
    csat: Int64Builder,
    survey_score: Int64Builder,
    survey_scale_max: Int64Builder,
    facts: Option<MapBuilder<StringBuilder, StringBuilder>>,
    valid_until: TimestampMicrosecondBuilder,
    author: StringBuilder,
    milestone_id: StringBuilder,
    due_at: TimestampMicrosecondBuilder,
    done_at: TimestampMicrosecondBuilder,
    alert_id: StringBuilder,
    outcome: UInt8Builder,
    role: StringBuilder,
    source_topic: StringDictionaryBuilder<UInt8Type>,
    source_partition: Int32Builder,
    source_offset: Int64Builder,
    received_at: TimestampMicrosecondBuilder,
    payload: BinaryBuilder,
    num_rows: usize,
    num_bytes: usize,
}

/// The columns of one row that depend on the kind; all null to begin with.
#[derive(Default)]
struct Sparse<'e> {
    action: Option<u8>,
    user_id: Option<&'e str>,
    feature: Option<&'e str>,
    count: Option<i64>,
    duration_ms: Option<i64>,
    errors: Option<i64>,
    ticket_id: Option<&'e str>,
    priority: Option<u8>,
    category: Option<&'e str>,
    csat: Option<i64>,
    survey_score: Option<i64>,
    survey_scale_max: Option<i64>,
    facts: Option<&'e [(Cow<'e, str>, Cow<'e, str>)]>,
    valid_until: Option<i64>,
    author: Option<&'e str>,
    milestone_id: Option<&'e str>,
    due_at: Option<i64>,
    done_at: Option<i64>,
    alert_id: Option<&'e str>,
    outcome: Option<u8>,
    role: Option<&'e str>,
}

impl<'e> Sparse<'e> {
    fn of(body: &'e Body<'e>) -> Self {
        let mut s = Self::default();
        match body {
            Body::Usage { user_id, feature, count, duration_ms, errors } => {
                (s.user_id, s.feature, s.count) = (user_id.as_deref(), Some(feature.as_ref()), Some(*count));
                (s.duration_ms, s.errors) = (*duration_ms, *errors);
            }
            Body::Ticket { ticket_id, action, priority, category, csat, user_id } => {
                (s.ticket_id, s.action) = (Some(ticket_id.as_ref()), Some(action.code()));
                (s.priority, s.category) = (priority.map(Priority::code), category.as_deref());
                (s.csat, s.user_id) = (csat.map(i64::from), user_id.as_deref());
            }
            Body::Survey { survey, score, scale_max, user_id } => {
                (s.action, s.user_id) = (Some(survey.code()), user_id.as_deref());
                (s.survey_score, s.survey_scale_max) = (Some(*score), Some(*scale_max));
            }
            Body::Facts { facts, valid_until_us, author } => {
                (s.action, s.facts) = (Some(account_action::UPSERT), Some(facts.as_slice()));
                (s.valid_until, s.author) = (*valid_until_us, author.as_deref());
            }
            Body::Deleted => s.action = Some(account_action::DELETED),
            Body::Milestone { id, due_us, done_us } => {
                (s.action, s.milestone_id) = (Some(account_action::MILESTONE), Some(id.as_ref()));
                (s.due_at, s.done_at) = (*due_us, *done_us);
            }
            Body::Outcome { alert_id, outcome } => {
                (s.action, s.alert_id) = (Some(account_action::OUTCOME), Some(alert_id.as_ref()));
                s.outcome = Some(outcome.code());
            }
            Body::Person { action, user_id, role } => {
                (s.action, s.user_id, s.role) = (Some(action.code()), Some(user_id.as_ref()), role.as_deref());
            }
        }
        s
    }
}

impl std::fmt::Debug for EventBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventBuilder").field("num_rows", &self.num_rows).finish_non_exhaustive()
    }
}

impl EventBuilder {
    /// Appends one event.
    ///
    /// # Errors
    /// [`ArrowError`] when a batch names more than 256 raw topics or a map entry cannot be built.
    pub fn push(&mut self, event: &Event<'_>, origin: Origin<'_>) -> Result<(), ArrowError> {
        let s = Sparse::of(&event.body);
        self.account_id.append_value(&event.account_id);
        self.event_id.append_value(&event.event_id);
        self.occurred_at.append_value(event.occurred_us);
        self.kind.append_value(event.body.kind().code());
        self.action.append_option(s.action);
        self.user_id.append_option(s.user_id);
        self.feature.append_option(s.feature);
        self.count.append_option(s.count);
        self.duration_ms.append_option(s.duration_ms);
        self.errors.append_option(s.errors);
        self.ticket_id.append_option(s.ticket_id);
        self.priority.append_option(s.priority);
        self.category.append_option(s.category);
        self.csat.append_option(s.csat);
        self.survey_score.append_option(s.survey_score);
        self.survey_scale_max.append_option(s.survey_scale_max);
        let facts = self.facts.get_or_insert_with(|| MapBuilder::new(None, StringBuilder::new(), StringBuilder::new()));
        for (name, value) in s.facts.unwrap_or_default() {
            facts.keys().append_value(name);
            facts.values().append_value(value);
        }
        facts.append(s.facts.is_some())?;
        self.valid_until.append_option(s.valid_until);
        self.author.append_option(s.author);
        self.milestone_id.append_option(s.milestone_id);
        self.due_at.append_option(s.due_at);
        self.done_at.append_option(s.done_at);
        self.alert_id.append_option(s.alert_id);
        self.outcome.append_option(s.outcome);
        self.role.append_option(s.role);
        self.source_topic.append(origin.topic)?;
        self.source_partition.append_value(origin.partition);
        self.source_offset.append_value(origin.offset);
        self.received_at.append_value(origin.received_us);
        self.payload.append_option(origin.payload);
        self.num_rows += 1;
        self.num_bytes += event.account_id.len() + event.event_id.len() + origin.payload.map_or(0, <[u8]>::len) + 128;
        Ok(())
    }

    /// Rows appended since the last [`EventBuilder::finish`].
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Rough size of what was appended, in bytes.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// The batch; the builder is empty again. Without rows, an empty batch.
    ///
    /// # Errors
    /// [`ArrowError`] when the columns do not form a batch of the schema.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        if self.num_rows == 0 {
            return Ok(RecordBatch::new_empty(schema()));
        }
        (self.num_rows, self.num_bytes) = (0, 0);
        let utc =
            |mut times: TimestampMicrosecondBuilder| -> ArrayRef { Arc::new(times.finish().with_timezone("+00:00")) };
        let mut facts =
            self.facts.take().unwrap_or_else(|| MapBuilder::new(None, StringBuilder::new(), StringBuilder::new()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.account_id.finish()),
            Arc::new(self.event_id.finish()),
            utc(std::mem::take(&mut self.occurred_at)),
            Arc::new(self.kind.finish()),
            Arc::new(self.action.finish()),
            Arc::new(self.user_id.finish()),
            Arc::new(self.feature.finish()),
            Arc::new(self.count.finish()),
            Arc::new(self.duration_ms.finish()),
            Arc::new(self.errors.finish()),
            Arc::new(self.ticket_id.finish()),
            Arc::new(self.priority.finish()),
            Arc::new(self.category.finish()),
            Arc::new(self.csat.finish()),
            Arc::new(self.survey_score.finish()),
            Arc::new(self.survey_scale_max.finish()),
            Arc::new(facts.finish()),
            utc(std::mem::take(&mut self.valid_until)),
            Arc::new(self.author.finish()),
            Arc::new(self.milestone_id.finish()),
            utc(std::mem::take(&mut self.due_at)),
            utc(std::mem::take(&mut self.done_at)),
            Arc::new(self.alert_id.finish()),
            Arc::new(self.outcome.finish()),
            Arc::new(self.role.finish()),
            Arc::new(self.source_topic.finish()),
            Arc::new(self.source_partition.finish()),
            Arc::new(self.source_offset.finish()),
            utc(std::mem::take(&mut self.received_at)),
            Arc::new(self.payload.finish()),
        ];
        RecordBatch::try_new(schema(), columns)
    }
}

/// A code in a batch that no version of this table knows, or an event without a column its kind needs.
#[derive(Debug, thiserror::Error)]
#[error("row {row} of an events batch: {what}; was it written by a newer Keepwell?")]
pub struct RowError {
    row: usize,
    what: &'static str,
}

/// Typed access to the rows of a batch whose schema was checked by [`crate::codec::decode`]. What rows of usage, by far the
/// most, need is looked up once a batch.
#[derive(Debug)]
pub struct EventRows<'b> {
    batch: &'b RecordBatch,
    topics: &'b DictionaryArray<UInt8Type>,
    account_id: &'b StringArray,
    event_id: &'b StringArray,
    occurred_at: &'b TimestampMicrosecondArray,
    kind: &'b UInt8Array,
    user_id: &'b StringArray,
    feature: &'b StringArray,
    count: &'b Int64Array,
    duration_ms: &'b Int64Array,
    errors: &'b Int64Array,
}

fn text_at(array: &StringArray, row: usize) -> Option<Cow<'_, str>> {
    array.is_valid(row).then(|| Cow::Borrowed(array.value(row)))
}

fn int_at(array: &Int64Array, row: usize) -> Option<i64> {
    array.is_valid(row).then(|| array.value(row))
}

impl<'b> EventRows<'b> {
    /// Access to `batch`.
    pub fn new(batch: &'b RecordBatch) -> Self {
        Self {
            batch,
            topics: batch.column(25).as_dictionary(),
            account_id: batch.column(0).as_string(),
            event_id: batch.column(1).as_string(),
            occurred_at: batch.column(2).as_primitive(),
            kind: batch.column(3).as_primitive(),
            user_id: batch.column(5).as_string(),
            feature: batch.column(6).as_string(),
            count: batch.column(7).as_primitive(),
            duration_ms: batch.column(8).as_primitive(),
            errors: batch.column(9).as_primitive(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.batch.num_rows() == 0
    }

    fn text(&self, column: usize, row: usize) -> Option<Cow<'b, str>> {
        text_at(self.batch.column(column).as_string(), row)
    }

    fn int(&self, column: usize, row: usize) -> Option<i64> {
        int_at(self.batch.column(column).as_primitive(), row)
    }

    fn code(&self, column: usize, row: usize) -> Option<u8> {
        let array = self.batch.column(column).as_primitive::<UInt8Type>();
        array.is_valid(row).then(|| array.value(row))
    }

    fn time(&self, column: usize, row: usize) -> Option<i64> {
        let array = self.batch.column(column).as_primitive::<TimestampMicrosecondType>();
        array.is_valid(row).then(|| array.value(row))
    }

    /// The account of `row`.
    pub fn account_id(&self, row: usize) -> &'b str {
        self.account_id.value(row)
    }

    /// The event id of `row`.
    pub fn event_id(&self, row: usize) -> &'b str {
        self.event_id.value(row)
    }

    /// The event time of `row`, UTC microseconds.
    pub fn occurred_us(&self, row: usize) -> i64 {
        self.occurred_at.value(row)
    }

    /// Where `row` came from.
    pub fn origin(&self, row: usize) -> Origin<'b> {
        let payload = self.batch.column(29).as_binary::<i32>();
        Origin {
            topic: self.topics.values().as_string::<i32>().value(usize::from(self.topics.keys().value(row))),
            partition: self.batch.column(26).as_primitive::<Int32Type>().value(row),
            offset: self.batch.column(27).as_primitive::<Int64Type>().value(row),
            received_us: self.time(28, row).unwrap_or_default(),
            payload: payload.is_valid(row).then(|| payload.value(row)),
        }
    }

    /// The event in `row`.
    ///
    /// # Errors
    /// [`RowError`] when a code or a needed column is missing.
    pub fn event(&self, row: usize) -> Result<Event<'b>, RowError> {
        let wrong = |what| RowError { row, what };
        let kind = Kind::from_code(self.kind.value(row)).ok_or_else(|| wrong("unknown kind"))?;
        let action = || self.code(4, row).unwrap_or_default();
        let need = |text: Option<Cow<'b, str>>| text.ok_or_else(|| wrong("a column that its kind needs is null"));
        let body = match kind {
            Kind::Usage => Body::Usage {
                user_id: text_at(self.user_id, row),
                feature: need(text_at(self.feature, row))?,
                count: int_at(self.count, row).unwrap_or(1),
                duration_ms: int_at(self.duration_ms, row),
                errors: int_at(self.errors, row),
            },
            Kind::Ticket => Body::Ticket {
                ticket_id: need(self.text(10, row))?,
                action: TicketAction::from_code(action()).ok_or_else(|| wrong("unknown ticket action"))?,
                priority: self.code(11, row).and_then(Priority::from_code),
                category: self.text(12, row),
                csat: self.int(13, row).map(|csat| csat as u8),
                user_id: self.text(5, row),
            },
            Kind::Survey => Body::Survey {
                survey: Survey::from_code(action()).ok_or_else(|| wrong("unknown survey"))?,
                score: self.int(14, row).ok_or_else(|| wrong("a survey without score"))?,
                scale_max: self.int(15, row).ok_or_else(|| wrong("a survey without scale_max"))?,
                user_id: self.text(5, row),
            },
            Kind::Account => match action() {
                account_action::UPSERT => Body::Facts {
                    facts: self.facts(row),
                    valid_until_us: self.time(17, row),
                    author: self.text(18, row),
                },
                account_action::DELETED => Body::Deleted,
                account_action::MILESTONE => Body::Milestone {
                    id: need(self.text(19, row))?,
                    due_us: self.time(20, row),
                    done_us: self.time(21, row),
                },
                account_action::OUTCOME => Body::Outcome {
                    alert_id: need(self.text(22, row))?,
                    outcome: self.code(23, row).and_then(Outcome::from_code).ok_or_else(|| wrong("unknown outcome"))?,
                },
                _ => return Err(wrong("unknown account action")),
            },
            Kind::Person => Body::Person {
                action: PersonAction::from_code(action()).ok_or_else(|| wrong("unknown person action"))?,
                user_id: need(self.text(5, row))?,
                role: self.text(24, row),
            },
        };
        Ok(Event {
            account_id: Cow::Borrowed(self.account_id(row)),
            event_id: Cow::Borrowed(self.event_id(row)),
            occurred_us: self.occurred_us(row),
            body,
        })
    }

    fn facts(&self, row: usize) -> Vec<(Cow<'b, str>, Cow<'b, str>)> {
        let map = self.batch.column(16).as_map();
        let (keys, values) = (map.keys().as_string::<i32>(), map.values().as_string::<i32>());
        let offsets = map.value_offsets();
        let range = offsets.get(row).zip(offsets.get(row + 1)).map_or(0..0, |(from, to)| *from as usize..*to as usize);
        range.map(|i| (Cow::Borrowed(keys.value(i)), Cow::Borrowed(values.value(i)))).collect()
    }
}
