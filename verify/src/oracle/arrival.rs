//! Events as they arrived: their positions, the watermark before them, and which record closed which pane.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, Int64Builder, RecordBatch, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type};
use keepwell_core::codec;
use keepwell_core::pane::PaneWidth;
use keepwell_core::schema::event::{COLUMNS, schema};
use keepwell_pipeline::record::Record;
use keepwell_pipeline::watermark::{STATEMENT_HEADER, SourceState, Statement};

/// The input of the oracle.
#[derive(Debug)]
pub struct Arrivals {
    /// Events with their arrival. Times are microseconds, codes are 64-bit integers.
    pub events: Vec<RecordBatch>,
    /// One row for each reported fact.
    pub facts: RecordBatch,
    /// One row for each feature in a `features` fact.
    pub entitlements: RecordBatch,
    /// The record that closed each pane of each partition; after them all, the open pane.
    pub closes: RecordBatch,
    /// End of the last pane that closed.
    pub closed_us: i64,
}

/// Columns of `events` that the statements use, with their names there.
const USED: [(&str, &str); 31] = [
    ("account_id", "account_id"),
    ("event_id", "event_id"),
    ("occurred_at", "occurred_us"),
    ("kind", "kind"),
    ("action", "action"),
    ("user_id", "user_id"),
    ("feature", "feature"),
    ("count", "count"),
    ("duration_ms", "duration_ms"),
    ("errors", "errors"),
    ("ticket_id", "ticket_id"),
    ("priority", "priority"),
    ("category", "category"),
    ("csat", "csat"),
    ("survey_score", "survey_score"),
    ("survey_scale_max", "survey_scale_max"),
    ("valid_until", "valid_until_us"),
    ("milestone_id", "milestone_id"),
    ("due_at", "due_us"),
    ("done_at", "done_us"),
    ("role", "role"),
    ("alert_id", "alert_id"),
    ("outcome", "outcome"),
    ("cleared", "cleared"),
    ("contract_id", "contract_id"),
    ("effective_at", "effective_us"),
    ("mrr", "mrr"),
    ("currency", "currency"),
    ("seats", "seats"),
    ("ends_at", "ends_us"),
    ("reason", "reason"),
];

/// A text that sorts ids in the natural order: `9` before `10`. Each run of digits gets its length as a prefix.
fn ord(id: &str) -> String {
    let mut text = String::new();
    let mut rest = id;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_digit() {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let digits = rest[..end].trim_start_matches('0');
            text += &format!("0{:04}{digits}", digits.len());
            rest = &rest[end..];
        } else {
            text.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    format!("{text}\u{0}{id}")
}

/// The watermark, implemented in the simplest way. It is the minimum over all source partitions that hold time back, by
/// their last statements. If all are complete, it is their maximum.
/// It is unknown while a partition has no statement yet, and it never falls.
#[derive(Default)]
struct Time {
    /// Epoch and partition count of each topic. A topic with a new epoch starts again without statements.
    partitions: BTreeMap<String, (u32, i32)>,
    marks: BTreeMap<(String, i32), (Option<i64>, SourceState)>,
    watermark_us: Option<i64>,
}

impl Time {
    fn observe(&mut self, statement: &Statement) {
        for source in &statement.sources {
            let (epoch, count) = self.partitions.entry(source.topic.clone()).or_default();
            if source.epoch > *epoch {
                self.marks.retain(|(topic, _), _| *topic != source.topic);
                (*epoch, *count) = (source.epoch, 0);
            }
            *count = (*count).max(source.partitions);
        }
        for mark in &statement.marks {
            let key = (mark.topic.clone(), mark.partition);
            let value_us = self.marks.get(&key).and_then(|(value_us, _)| *value_us);
            self.marks.insert(key, (value_us.max(mark.value_us), mark.state));
        }
        let expected = self.partitions.iter().flat_map(|(topic, (_, count))| (0..*count).map(|p| (topic.clone(), p)));
        let Some(marks) = expected.map(|key| self.marks.get(&key)).collect::<Option<Vec<_>>>() else { return };
        let is_complete = marks.iter().all(|(_, state)| *state == SourceState::Complete);
        let holding = marks.iter().filter(|(_, state)| match state {
            SourceState::Reading => true,
            SourceState::Proven => statement.clock,
            SourceState::Complete => false,
        });
        let value = if is_complete {
            marks.iter().filter_map(|(value_us, _)| *value_us).max()
        } else {
            holding
                .map(|(value_us, _)| *value_us)
                .collect::<Option<Vec<_>>>()
                .and_then(|values| values.into_iter().min())
        };
        self.watermark_us = self.watermark_us.max(value);
    }
}

/// Reads the records of `events`.
///
/// # Errors
/// When a record is not a batch of that table.
pub fn read(records: &[Record], panes: PaneWidth) -> Result<Arrivals> {
    let mut events = Vec::new();
    let mut facts = FactRows::default();
    let mut entitlements = (Vec::new(), Vec::new(), Vec::new(), StringBuilder::new());
    let (mut close_part, mut close_pane, mut close_off) = (Vec::new(), Vec::new(), Vec::new());
    let mut times: BTreeMap<i32, (Time, Option<i64>)> = BTreeMap::new();
    for record in records {
        let partition = record.topic_partition.partition;
        let (time, closed) = times.entry(partition).or_default();
        if let Some(value) = &record.value {
            let batch = codec::decode(value, &schema())
                .with_context(|| format!("{} {}", record.topic_partition, record.offset.0))?;
            facts.read(&batch, partition, record.offset.0, &mut entitlements)?;
            events.push(arrived(&batch, partition, record.offset.0, time.watermark_us)?);
        }
        let statement = record.header(STATEMENT_HEADER).map(serde_json::from_slice::<Statement>).transpose()?;
        let before = time.watermark_us;
        if let Some(statement) = statement {
            time.observe(&statement);
        }
        if time.watermark_us > before {
            let last = time.watermark_us.map(|us| i64::from(panes.last_closed(us).0)).unwrap_or_default();
            // No account is older than the first event; panes before it have no rows.
            let first = closed.map_or(0, |closed| closed + 1);
            for pane in first..=last {
                close_part.push(i64::from(partition));
                close_pane.push(pane);
                close_off.push(record.offset.0);
            }
            *closed = Some(last);
        }
    }
    let closed_us = times.values().filter_map(|(_, closed)| *closed).max().map(|pane| (pane + 1) * panes.width_us);
    // Add the open pane as if it closed after all records: the last live rows must match it.
    for (partition, (_, closed)) in &times {
        if let Some(closed) = closed {
            close_part.push(i64::from(*partition));
            close_pane.push(closed + 1);
            close_off.push(i64::MAX);
        }
    }
    if events.is_empty() {
        events.push(arrived(&RecordBatch::new_empty(schema()), 0, 0, None)?);
    }
    let (part, off, row, mut feature) = entitlements;
    Ok(Arrivals {
        closed_us: closed_us.unwrap_or(i64::MIN),
        events,
        facts: facts.finish()?,
        entitlements: RecordBatch::try_from_iter([
            ("part", int64(part)),
            ("off", int64(off)),
            ("row_no", int64(row)),
            ("feature", Arc::new(feature.finish()) as ArrayRef),
        ])?,
        closes: RecordBatch::try_from_iter([
            ("part", int64(close_part)),
            ("pane", int64(close_pane)),
            ("off", int64(close_off)),
        ])?,
    })
}

fn int64(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

fn arrived(batch: &RecordBatch, partition: i32, offset: i64, watermark_us: Option<i64>) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let mut columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("part", int64(vec![i64::from(partition); rows]), false),
        ("off", int64(vec![offset; rows]), false),
        ("row_no", int64((0..rows as i64).collect()), false),
        ("watermark_us", Arc::new(Int64Array::from(vec![watermark_us; rows])), true),
    ];
    for (from, to) in USED {
        let column =
            batch.column_by_name(from).with_context(|| format!("column {from} is not among {}", COLUMNS.len()))?;
        let column = match column.data_type() {
            DataType::Utf8 => Arc::clone(column),
            // Money, in hundredths.
            DataType::Decimal128(..) => {
                let values = column.as_primitive::<Decimal128Type>().iter();
                Arc::new(values.map(|value| value.map(|value| value as i64)).collect::<Int64Array>())
            }
            _ => cast(column, &DataType::Int64)?,
        };
        columns.push((to, column, true));
    }
    let ids = batch.column_by_name("event_id").context("no event_id")?.as_string::<i32>();
    columns.push(("ord", Arc::new(StringArray::from_iter_values(ids.iter().flatten().map(ord))), false));
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}

#[derive(Default)]
struct FactRows {
    part: Vec<i64>,
    off: Vec<i64>,
    row: Vec<i64>,
    name: StringBuilder,
    value: StringBuilder,
    valid_until_us: Int64Builder,
}

type Entitlements = (Vec<i64>, Vec<i64>, Vec<i64>, StringBuilder);

impl FactRows {
    fn read(
        &mut self,
        batch: &RecordBatch,
        partition: i32,
        offset: i64,
        entitlements: &mut Entitlements,
    ) -> Result<()> {
        let maps = batch.column_by_name("facts").context("no facts")?.as_map();
        let until = cast(batch.column_by_name("valid_until").context("no valid_until")?, &DataType::Int64)?;
        let until = until.as_primitive::<arrow::datatypes::Int64Type>();
        for row in (0..batch.num_rows()).filter(|row| maps.is_valid(*row)) {
            let entries = maps.value(row);
            let (names, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
            for i in 0..entries.len() {
                self.part.push(i64::from(partition));
                self.off.push(offset);
                self.row.push(row as i64);
                self.name.append_value(names.value(i));
                self.value.append_value(values.value(i));
                self.valid_until_us.append_option(until.is_valid(row).then(|| until.value(row)));
                if names.value(i) == "features" && values.value(i) != "null" {
                    for feature in serde_json::from_str::<Vec<String>>(values.value(i))? {
                        entitlements.0.push(i64::from(partition));
                        entitlements.1.push(offset);
                        entitlements.2.push(row as i64);
                        entitlements.3.append_value(feature);
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<RecordBatch> {
        Ok(RecordBatch::try_from_iter_with_nullable([
            ("part", int64(self.part), false),
            ("off", int64(self.off), false),
            ("row_no", int64(self.row), false),
            ("name", Arc::new(self.name.finish()) as ArrayRef, false),
            ("value", Arc::new(self.value.finish()) as ArrayRef, false),
            ("valid_until_us", Arc::new(self.valid_until_us.finish()) as ArrayRef, true),
        ])?)
    }
}
