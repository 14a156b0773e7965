//! The `events` table: accepted events of every kind, in one wide batch.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, AsArray, DictionaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array,
};
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType, UInt8Type};

use super::ColumnType::{Bytes, Code, Int32, Int64, Label, Text, TextMap, Time};
use super::{Column, known, maybe, schema_of};
pub use builder::EventBuilder;

use crate::event::{
    Body, Change, Event, Kind, Origin, Outcome, PersonAction, Priority, Survey, TicketAction, account_action, cleared,
};

mod builder;
mod sparse;

/// Name and version, as in the schema metadata.
pub const TABLE: &str = "events/1";

/// The columns, in order.
pub const COLUMNS: &[Column] = &[
    known("account_id", Text, "account the event belongs to; decides the partition"),
    known("event_id", Text, "unique within the account and the kind"),
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
    maybe("cleared", Code, "what a null has cleared, as a sum: 1 role of a person, 2 due_at, 4 done_at of a milestone"),
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(TABLE, COLUMNS));

/// The Arrow schema.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
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
#[derive(Debug, Clone, Copy)]
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

    /// What `row` says of a value that a null may have cleared.
    fn change<T>(&self, row: usize, value: Option<T>, bit: u8) -> Change<T> {
        match value {
            Some(value) => Change::Set(value),
            None if self.code(30, row).unwrap_or_default() & bit != 0 => Change::Cleared,
            None => Change::Kept,
        }
    }

    /// The kind of `row`; none where a newer program wrote it.
    pub fn kind(&self, row: usize) -> Option<Kind> {
        Kind::from_code(self.kind.value(row))
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
                    due_us: self.change(row, self.time(20, row), cleared::DUE),
                    done_us: self.change(row, self.time(21, row), cleared::DONE),
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
                role: self.change(row, self.text(24, row), cleared::ROLE),
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
