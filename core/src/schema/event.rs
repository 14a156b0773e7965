//! The `events` table: accepted events of all kinds, in one wide batch.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, AsArray, DictionaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt8Array,
};
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType, UInt8Type};

use super::ColumnType::{Bytes, Code, Int32, Int64, Label, Money, Text, TextMap, Time};
use super::{Column, known, maybe, schema_of};
pub use builder::EventBuilder;

use crate::event::{
    Body, Change, Contract, ContractAction, Event, Kind, Origin, Outcome, PersonAction, Priority, Survey, Terms,
    TicketAction, account_action, cleared,
};

mod builder;
mod sparse;

/// Name and version of the table, as in the schema metadata.
pub const TABLE: &str = "events/1";

/// The columns of the table, in order.
pub const COLUMNS: &[Column] = &[
    known("account_id", Text, "account the event belongs to; decides the partition"),
    known("event_id", Text, "unique within the account and the kind"),
    known("occurred_at", Time, "event time"),
    known("kind", Code, "1 usage, 2 ticket, 3 survey, 4 account, 5 person, 6 contract"),
    maybe(
        "action",
        Code,
        "by kind: ticket 1 opened .. 8 closed; survey 1 nps, 2 csat, 3 ces; account 1 upsert, 2 deleted, 3 milestone, 4 outcome; person 1 added .. 4 erased; contract 1 started .. 6 cancelled",
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
    maybe("author", Text, "account upsert: who entered it"),
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
    maybe(
        "cleared",
        Code,
        "what a null has cleared, as a sum: 1 role of a person; 2 due_at, 4 done_at of a milestone; 8 mrr, 16 currency, 32 seats, 64 ends_at of a contract",
    ),
    maybe("contract_id", Text, "contract"),
    maybe("effective_at", Time, "contract: from when on it holds"),
    maybe("mrr", Money, "contract: monthly recurring revenue from then on"),
    maybe("currency", Text, "contract: its currency"),
    maybe("seats", Int64, "contract: seats bought"),
    maybe("ends_at", Time, "contract: end of the term"),
    maybe("reason", Text, "contract: why"),
];

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(TABLE, COLUMNS));

/// The Arrow schema of the table.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// Indexes of the columns.
mod at {
    use super::COLUMNS;
    use crate::schema::position;

    pub const ACCOUNT_ID: usize = position(COLUMNS, "account_id");
    pub const EVENT_ID: usize = position(COLUMNS, "event_id");
    pub const OCCURRED_AT: usize = position(COLUMNS, "occurred_at");
    pub const KIND: usize = position(COLUMNS, "kind");
    pub const ACTION: usize = position(COLUMNS, "action");
    pub const USER_ID: usize = position(COLUMNS, "user_id");
    pub const FEATURE: usize = position(COLUMNS, "feature");
    pub const COUNT: usize = position(COLUMNS, "count");
    pub const DURATION_MS: usize = position(COLUMNS, "duration_ms");
    pub const ERRORS: usize = position(COLUMNS, "errors");
    pub const TICKET_ID: usize = position(COLUMNS, "ticket_id");
    pub const PRIORITY: usize = position(COLUMNS, "priority");
    pub const CATEGORY: usize = position(COLUMNS, "category");
    pub const CSAT: usize = position(COLUMNS, "csat");
    pub const SURVEY_SCORE: usize = position(COLUMNS, "survey_score");
    pub const SURVEY_SCALE_MAX: usize = position(COLUMNS, "survey_scale_max");
    pub const FACTS: usize = position(COLUMNS, "facts");
    pub const VALID_UNTIL: usize = position(COLUMNS, "valid_until");
    pub const AUTHOR: usize = position(COLUMNS, "author");
    pub const MILESTONE_ID: usize = position(COLUMNS, "milestone_id");
    pub const DUE_AT: usize = position(COLUMNS, "due_at");
    pub const DONE_AT: usize = position(COLUMNS, "done_at");
    pub const ALERT_ID: usize = position(COLUMNS, "alert_id");
    pub const OUTCOME: usize = position(COLUMNS, "outcome");
    pub const ROLE: usize = position(COLUMNS, "role");
    pub const SOURCE_TOPIC: usize = position(COLUMNS, "source_topic");
    pub const SOURCE_PARTITION: usize = position(COLUMNS, "source_partition");
    pub const SOURCE_OFFSET: usize = position(COLUMNS, "source_offset");
    pub const RECEIVED_AT: usize = position(COLUMNS, "received_at");
    pub const PAYLOAD: usize = position(COLUMNS, "payload");
    pub const CLEARED: usize = position(COLUMNS, "cleared");
    pub const CONTRACT_ID: usize = position(COLUMNS, "contract_id");
    pub const EFFECTIVE_AT: usize = position(COLUMNS, "effective_at");
    pub const MRR: usize = position(COLUMNS, "mrr");
    pub const CURRENCY: usize = position(COLUMNS, "currency");
    pub const SEATS: usize = position(COLUMNS, "seats");
    pub const ENDS_AT: usize = position(COLUMNS, "ends_at");
    pub const REASON: usize = position(COLUMNS, "reason");
}

/// The kind of an event, with its action. A shape exists only after a check that all columns its kind needs are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A use of a feature.
    Usage,
    /// An event of a ticket.
    Ticket(TicketAction),
    /// An answer to a survey.
    Survey(Survey),
    /// Facts of an account.
    Facts,
    /// The deletion of an account.
    Deleted,
    /// A milestone of an account.
    Milestone,
    /// The outcome of an alert.
    Outcome(Outcome),
    /// A change of a person.
    Person(PersonAction),
    /// Something that happened to a contract.
    Contract(ContractAction),
}

/// A row that cannot be read: its code is in no version of this table, or a column that its kind needs is null.
#[derive(Debug, thiserror::Error)]
#[error("row {row} of an events batch: {what}; was it written by a newer Keepwell?")]
pub struct RowError {
    row: usize,
    what: &'static str,
}

/// Typed access to the rows of a batch. [`crate::codec::decode`] must have checked the schema. Most rows are usage, so
/// the columns they need are looked up once per batch.
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
    /// Access to the rows of `batch`.
    pub fn new(batch: &'b RecordBatch) -> Self {
        Self {
            batch,
            topics: batch.column(at::SOURCE_TOPIC).as_dictionary(),
            account_id: batch.column(at::ACCOUNT_ID).as_string(),
            event_id: batch.column(at::EVENT_ID).as_string(),
            occurred_at: batch.column(at::OCCURRED_AT).as_primitive(),
            kind: batch.column(at::KIND).as_primitive(),
            user_id: batch.column(at::USER_ID).as_string(),
            feature: batch.column(at::FEATURE).as_string(),
            count: batch.column(at::COUNT).as_primitive(),
            duration_ms: batch.column(at::DURATION_MS).as_primitive(),
            errors: batch.column(at::ERRORS).as_primitive(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there are no rows.
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

    /// The change of a value in `row`. `bit` is the value's bit in the `cleared` column.
    fn change<T>(&self, row: usize, value: Option<T>, bit: u8) -> Change<T> {
        match value {
            Some(value) => Change::Set(value),
            None if self.code(at::CLEARED, row).unwrap_or_default() & bit != 0 => Change::Cleared,
            None => Change::Kept,
        }
    }

    /// The kind of `row`. None if a newer program wrote an unknown kind.
    pub fn kind(&self, row: usize) -> Option<Kind> {
        Kind::from_code(self.kind.value(row))
    }

    /// The account id of `row`.
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

    /// The raw record that `row` came from.
    pub fn origin(&self, row: usize) -> Origin<'b> {
        let payload = self.batch.column(at::PAYLOAD).as_binary::<i32>();
        Origin {
            topic: self.topics.values().as_string::<i32>().value(usize::from(self.topics.keys().value(row))),
            partition: self.batch.column(at::SOURCE_PARTITION).as_primitive::<Int32Type>().value(row),
            offset: self.batch.column(at::SOURCE_OFFSET).as_primitive::<Int64Type>().value(row),
            received_us: self.time(at::RECEIVED_AT, row).unwrap_or_default(),
            payload: payload.is_valid(row).then(|| payload.value(row)),
        }
    }

    /// Checks that all columns that the event in `row` needs are there, and returns its shape.
    ///
    /// # Errors
    /// [`RowError`] when a code is unknown or a needed column is null.
    pub fn shape(&self, row: usize) -> Result<Shape, RowError> {
        let wrong = |what| RowError { row, what };
        let action = || self.code(at::ACTION, row).unwrap_or_default();
        let needs = |column: usize| match self.batch.column(column).is_valid(row) {
            true => Ok(()),
            false => Err(wrong("a column that its kind needs is null")),
        };
        Ok(match self.kind(row).ok_or_else(|| wrong("unknown kind"))? {
            // By far the most rows: its column is at hand.
            Kind::Usage if self.feature.is_valid(row) => Shape::Usage,
            Kind::Usage => return Err(wrong("a column that its kind needs is null")),
            Kind::Ticket => {
                needs(at::TICKET_ID)?;
                Shape::Ticket(TicketAction::from_code(action()).ok_or_else(|| wrong("unknown ticket action"))?)
            }
            Kind::Survey => {
                needs(at::SURVEY_SCORE)?;
                needs(at::SURVEY_SCALE_MAX)?;
                Shape::Survey(Survey::from_code(action()).ok_or_else(|| wrong("unknown survey"))?)
            }
            Kind::Account => match action() {
                account_action::UPSERT => Shape::Facts,
                account_action::DELETED => Shape::Deleted,
                account_action::MILESTONE => {
                    needs(at::MILESTONE_ID)?;
                    Shape::Milestone
                }
                account_action::OUTCOME => {
                    needs(at::ALERT_ID)?;
                    let outcome = self.code(at::OUTCOME, row).and_then(Outcome::from_code);
                    Shape::Outcome(outcome.ok_or_else(|| wrong("unknown outcome"))?)
                }
                _ => return Err(wrong("unknown account action")),
            },
            Kind::Person => {
                needs(at::USER_ID)?;
                Shape::Person(PersonAction::from_code(action()).ok_or_else(|| wrong("unknown person action"))?)
            }
            Kind::Contract => {
                needs(at::CONTRACT_ID)?;
                needs(at::EFFECTIVE_AT)?;
                Shape::Contract(ContractAction::from_code(action()).ok_or_else(|| wrong("unknown contract action"))?)
            }
        })
    }

    /// The event in `row`, given the shape of that row.
    pub fn event(&self, row: usize, shape: Shape) -> Event<'b> {
        let needed = |column: usize| Cow::Borrowed(self.batch.column(column).as_string::<i32>().value(row));
        let body = match shape {
            Shape::Usage => Body::Usage {
                user_id: text_at(self.user_id, row),
                feature: Cow::Borrowed(self.feature.value(row)),
                count: int_at(self.count, row).unwrap_or(1),
                duration_ms: int_at(self.duration_ms, row),
                errors: int_at(self.errors, row),
            },
            Shape::Ticket(action) => Body::Ticket {
                ticket_id: needed(at::TICKET_ID),
                action,
                priority: self.code(at::PRIORITY, row).and_then(Priority::from_code),
                category: self.text(at::CATEGORY, row),
                csat: self.int(at::CSAT, row).map(|csat| csat as u8),
                user_id: text_at(self.user_id, row),
            },
            Shape::Survey(survey) => Body::Survey {
                survey,
                score: self.int(at::SURVEY_SCORE, row).unwrap_or_default(),
                scale_max: self.int(at::SURVEY_SCALE_MAX, row).unwrap_or_default(),
                user_id: text_at(self.user_id, row),
            },
            Shape::Facts => Body::Facts {
                facts: self.facts(row),
                valid_until_us: self.time(at::VALID_UNTIL, row),
                author: self.text(at::AUTHOR, row),
            },
            Shape::Deleted => Body::Deleted,
            Shape::Milestone => Body::Milestone {
                id: needed(at::MILESTONE_ID),
                due_us: self.change(row, self.time(at::DUE_AT, row), cleared::DUE),
                done_us: self.change(row, self.time(at::DONE_AT, row), cleared::DONE),
            },
            Shape::Outcome(outcome) => Body::Outcome { alert_id: needed(at::ALERT_ID), outcome },
            Shape::Person(action) => Body::Person {
                action,
                user_id: Cow::Borrowed(self.user_id.value(row)),
                role: self.change(row, self.text(at::ROLE, row), cleared::ROLE),
            },
            Shape::Contract(action) => Body::Contract(Contract {
                id: needed(at::CONTRACT_ID),
                action,
                effective_us: self.time(at::EFFECTIVE_AT, row).unwrap_or_default(),
                terms: self.terms(row),
                reason: self.text(at::REASON, row),
            }),
        };
        Event {
            account_id: Cow::Borrowed(self.account_id(row)),
            event_id: Cow::Borrowed(self.event_id(row)),
            occurred_us: self.occurred_us(row),
            body,
        }
    }

    fn terms(&self, row: usize) -> Terms<Cow<'b, str>> {
        let mrr = self.batch.column(at::MRR).as_primitive::<Decimal128Type>();
        let mrr = mrr.is_valid(row).then(|| mrr.value(row) as i64);
        Terms {
            mrr_hundredths: self.change(row, mrr, cleared::MRR),
            currency: self.change(row, self.text(at::CURRENCY, row), cleared::CURRENCY),
            seats: self.change(row, self.int(at::SEATS, row), cleared::SEATS),
            ends_us: self.change(row, self.time(at::ENDS_AT, row), cleared::ENDS),
        }
    }

    fn facts(&self, row: usize) -> Vec<(Cow<'b, str>, Cow<'b, str>)> {
        let map = self.batch.column(at::FACTS).as_map();
        let (keys, values) = (map.keys().as_string::<i32>(), map.values().as_string::<i32>());
        let offsets = map.value_offsets();
        let range = offsets.get(row).zip(offsets.get(row + 1)).map_or(0..0, |(from, to)| *from as usize..*to as usize);
        range.map(|i| (Cow::Borrowed(keys.value(i)), Cow::Borrowed(values.value(i)))).collect()
    }
}
