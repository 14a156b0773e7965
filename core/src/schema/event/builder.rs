//! A batch of the `events` table, built event by event.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, Decimal128Builder, DictionaryArray, Int32Builder, Int64Builder, MapBuilder,
    RecordBatch, StringArray, StringBuilder, TimestampMicrosecondBuilder, UInt8Builder,
};
use arrow::datatypes::UInt8Type;
use arrow::error::ArrowError;

use super::schema;
use super::sparse::Sparse;
use crate::event::{Body, Change, Contract, Event, Origin, Priority, account_action, cleared};
use crate::schema::ColumnType;

/// Facts of an account: from name to JSON text.
type Facts = MapBuilder<StringBuilder, StringBuilder>;

/// Builds a batch of events.
///
/// An event writes only the columns of its kind. The other columns get their nulls later: when one of them has a value
/// again, or at the end. This is faster because most events are usage, and most columns are not.
#[derive(Default)]
pub struct EventBuilder {
    account_id: StringBuilder,
    event_id: StringBuilder,
    occurred_at: TimestampMicrosecondBuilder,
    kind: UInt8Builder,
    action: Sparse<UInt8Builder>,
    user_id: Sparse<StringBuilder>,
    feature: Sparse<StringBuilder>,
    count: Sparse<Int64Builder>,
    duration_ms: Sparse<Int64Builder>,
    errors: Sparse<Int64Builder>,
    ticket_id: Sparse<StringBuilder>,
    priority: Sparse<UInt8Builder>,
    category: Sparse<StringBuilder>,
    csat: Sparse<Int64Builder>,
    survey_score: Sparse<Int64Builder>,
    survey_scale_max: Sparse<Int64Builder>,
    facts: Option<Facts>,
    valid_until: Sparse<TimestampMicrosecondBuilder>,
    author: Sparse<StringBuilder>,
    milestone_id: Sparse<StringBuilder>,
    due_at: Sparse<TimestampMicrosecondBuilder>,
    done_at: Sparse<TimestampMicrosecondBuilder>,
    alert_id: Sparse<StringBuilder>,
    outcome: Sparse<UInt8Builder>,
    role: Sparse<StringBuilder>,
    /// The raw topics of the rows, in the order in which they first occurred.
    source_topics: Vec<String>,
    source_topic: UInt8Builder,
    source_partition: Int32Builder,
    source_offset: Int64Builder,
    received_at: TimestampMicrosecondBuilder,
    payload: Sparse<BinaryBuilder>,
    cleared: Sparse<UInt8Builder>,
    contract_id: Sparse<StringBuilder>,
    effective_at: Sparse<TimestampMicrosecondBuilder>,
    mrr: Sparse<Decimal128Builder>,
    currency: Sparse<StringBuilder>,
    seats: Sparse<Int64Builder>,
    ends_at: Sparse<TimestampMicrosecondBuilder>,
    reason: Sparse<StringBuilder>,
    num_rows: usize,
    num_bytes: usize,
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
    /// [`ArrowError`] when a batch contains more than 256 raw topics, or a map entry cannot be built.
    pub fn push(&mut self, event: &Event<'_>, origin: Origin<'_>) -> Result<(), ArrowError> {
        let topic = self.index_of(origin.topic)?;
        self.account_id.append_value(&event.account_id);
        self.event_id.append_value(&event.event_id);
        self.occurred_at.append_value(event.occurred_us);
        self.kind.append_value(event.body.kind().code());
        self.push_body(&event.body)?;
        self.source_topic.append_value(topic);
        self.source_partition.append_value(origin.partition);
        self.source_offset.append_value(origin.offset);
        self.received_at.append_value(origin.received_us);
        self.payload.push(self.num_rows, origin.payload);
        self.num_rows += 1;
        self.num_bytes += event.account_id.len() + event.event_id.len() + origin.payload.map_or(0, <[u8]>::len) + 128;
        Ok(())
    }

    /// Writes the columns that depend on the kind.
    fn push_body(&mut self, body: &Body<'_>) -> Result<(), ArrowError> {
        let row = self.num_rows;
        match body {
            Body::Usage { user_id, feature, count, duration_ms, errors } => {
                self.user_id.push(row, user_id.as_deref());
                self.feature.push(row, Some(feature));
                self.count.push(row, Some(*count));
                self.duration_ms.push(row, *duration_ms);
                self.errors.push(row, *errors);
            }
            Body::Ticket { ticket_id, action, priority, category, csat, user_id } => {
                self.action.push(row, Some(action.code()));
                self.user_id.push(row, user_id.as_deref());
                self.ticket_id.push(row, Some(ticket_id));
                self.priority.push(row, priority.map(Priority::code));
                self.category.push(row, category.as_deref());
                self.csat.push(row, csat.map(i64::from));
            }
            Body::Survey { survey, score, scale_max, user_id } => {
                self.action.push(row, Some(survey.code()));
                self.user_id.push(row, user_id.as_deref());
                self.survey_score.push(row, Some(*score));
                self.survey_scale_max.push(row, Some(*scale_max));
            }
            Body::Facts { facts, valid_until_us, author } => {
                self.action.push(row, Some(account_action::UPSERT));
                self.push_facts(facts)?;
                self.valid_until.push(row, *valid_until_us);
                self.author.push(row, author.as_deref());
            }
            Body::Deleted => self.action.push(row, Some(account_action::DELETED)),
            Body::Milestone { id, due_us, done_us } => {
                self.action.push(row, Some(account_action::MILESTONE));
                self.milestone_id.push(row, Some(id));
                self.due_at.push(row, due_us.value());
                self.done_at.push(row, done_us.value());
                self.clear(&[(*due_us == Change::Cleared, cleared::DUE), (*done_us == Change::Cleared, cleared::DONE)]);
            }
            Body::Outcome { alert_id, outcome } => {
                self.action.push(row, Some(account_action::OUTCOME));
                self.alert_id.push(row, Some(alert_id));
                self.outcome.push(row, Some(outcome.code()));
            }
            Body::Person { action, user_id, role } => {
                self.action.push(row, Some(action.code()));
                self.user_id.push(row, Some(user_id));
                self.role.push(row, role.as_ref().value());
                self.clear(&[(*role == Change::Cleared, cleared::ROLE)]);
            }
            Body::Contract(contract) => self.push_contract(contract),
        }
        Ok(())
    }

    fn push_contract(&mut self, contract: &Contract<'_>) {
        let (row, terms) = (self.num_rows, &contract.terms);
        self.action.push(row, Some(contract.action.code()));
        self.contract_id.push(row, Some(&contract.id));
        self.effective_at.push(row, Some(contract.effective_us));
        self.mrr.push(row, terms.mrr_hundredths.value().map(i128::from));
        self.currency.push(row, terms.currency.as_ref().value());
        self.seats.push(row, terms.seats.value());
        self.ends_at.push(row, terms.ends_us.value());
        self.reason.push(row, contract.reason.as_deref());
        self.clear(&[
            (terms.mrr_hundredths == Change::Cleared, cleared::MRR),
            (terms.currency == Change::Cleared, cleared::CURRENCY),
            (terms.seats == Change::Cleared, cleared::SEATS),
            (terms.ends_us == Change::Cleared, cleared::ENDS),
        ]);
    }

    /// Sets the bits of the values that nulls have cleared.
    fn clear(&mut self, bits: &[(bool, u8)]) {
        let sum: u8 = bits.iter().filter(|(is_cleared, _)| *is_cleared).map(|(_, bit)| bit).sum();
        self.cleared.push(self.num_rows, (sum > 0).then_some(sum));
    }

    fn push_facts(&mut self, given: &[(Cow<'_, str>, Cow<'_, str>)]) -> Result<(), ArrowError> {
        let facts = self.facts_up_to(self.num_rows)?;
        for (name, value) in given {
            facts.keys().append_value(name);
            facts.values().append_value(value);
        }
        facts.append(true)
    }

    /// The column of facts, filled up to `row` (exclusive).
    fn facts_up_to(&mut self, row: usize) -> Result<&mut Facts, ArrowError> {
        let facts = self.facts.get_or_insert_with(|| MapBuilder::new(None, StringBuilder::new(), StringBuilder::new()));
        facts.append_nulls(row.saturating_sub(facts.len()))?;
        Ok(facts)
    }

    /// Index of `topic` among the topics of the rows. Nearly always it is the last one used.
    fn index_of(&mut self, topic: &str) -> Result<u8, ArrowError> {
        let known = self.source_topics.iter().rposition(|known| known == topic);
        let place = u8::try_from(known.unwrap_or(self.source_topics.len()));
        let place = place.map_err(|_| ArrowError::DictionaryKeyOverflowError)?;
        if known.is_none() {
            self.source_topics.push(topic.to_owned());
        }
        Ok(place)
    }

    /// Number of rows since the last [`EventBuilder::finish`].
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Approximate size of the appended rows, in bytes.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// Returns the batch and empties the builder. Without rows the batch is empty.
    ///
    /// # Errors
    /// [`ArrowError`] when the columns do not form a batch of the schema.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        if self.num_rows == 0 {
            return Ok(RecordBatch::new_empty(schema()));
        }
        let rows = std::mem::take(&mut self.num_rows);
        self.num_bytes = 0;
        let utc =
            |mut times: TimestampMicrosecondBuilder| -> ArrayRef { Arc::new(times.finish().with_timezone("+00:00")) };
        let topics = StringArray::from(std::mem::take(&mut self.source_topics));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.account_id.finish()),
            Arc::new(self.event_id.finish()),
            utc(std::mem::take(&mut self.occurred_at)),
            Arc::new(self.kind.finish()),
            Arc::new(self.action.take(rows).finish()),
            Arc::new(self.user_id.take(rows).finish()),
            Arc::new(self.feature.take(rows).finish()),
            Arc::new(self.count.take(rows).finish()),
            Arc::new(self.duration_ms.take(rows).finish()),
            Arc::new(self.errors.take(rows).finish()),
            Arc::new(self.ticket_id.take(rows).finish()),
            Arc::new(self.priority.take(rows).finish()),
            Arc::new(self.category.take(rows).finish()),
            Arc::new(self.csat.take(rows).finish()),
            Arc::new(self.survey_score.take(rows).finish()),
            Arc::new(self.survey_scale_max.take(rows).finish()),
            Arc::new(self.facts_up_to(rows)?.finish()),
            utc(self.valid_until.take(rows)),
            Arc::new(self.author.take(rows).finish()),
            Arc::new(self.milestone_id.take(rows).finish()),
            utc(self.due_at.take(rows)),
            utc(self.done_at.take(rows)),
            Arc::new(self.alert_id.take(rows).finish()),
            Arc::new(self.outcome.take(rows).finish()),
            Arc::new(self.role.take(rows).finish()),
            Arc::new(DictionaryArray::<UInt8Type>::try_new(self.source_topic.finish(), Arc::new(topics))?),
            Arc::new(self.source_partition.finish()),
            Arc::new(self.source_offset.finish()),
            utc(std::mem::take(&mut self.received_at)),
            Arc::new(self.payload.take(rows).finish()),
            Arc::new(self.cleared.take(rows).finish()),
            Arc::new(self.contract_id.take(rows).finish()),
            utc(self.effective_at.take(rows)),
            Arc::new(self.mrr.take(rows).finish().with_data_type(ColumnType::Money.data_type())),
            Arc::new(self.currency.take(rows).finish()),
            Arc::new(self.seats.take(rows).finish()),
            utc(self.ends_at.take(rows)),
            Arc::new(self.reason.take(rows).finish()),
        ];
        RecordBatch::try_new(schema(), columns)
    }
}
