//! Suspect panes, again: in SQL over all accepted events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::{cast, min};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::prelude::SessionContext;
use keepwell_core::codec;
use keepwell_core::schema::event;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::suspect::HOUR_US;

use super::register;

/// Panes up to `ended_us` in which sources have far fewer events than usual, by their end in UTC microseconds. It counts
/// all events: so it holds where each came within its bound. Panes are whole hours.
///
/// # Errors
/// When a record cannot be decoded or a statement fails.
pub async fn low_panes(records: &[Record], config: &Config, ended_us: i64) -> Result<BTreeMap<i64, BTreeSet<String>>> {
    let session = SessionContext::new();
    let events = records.iter().filter_map(|record| record.value.as_ref());
    let events = events.map(|value| event_of(&codec::decode(value, &event::schema())?)).collect::<Result<Vec<_>>>()?;
    let mut low: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    if events.is_empty() {
        return Ok(low);
    }
    let times = events.iter().filter_map(|events| min(events.column(1).as_primitive::<Int64Type>())).min();
    let num_hours = ended_us / HOUR_US - times.unwrap_or(ended_us) / HOUR_US;
    let numbers = Int64Array::from_iter_values(0..num_hours.max(0));
    register(&session, "numbers", vec![RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)])?])?;
    register(&session, "event", events)?;
    let suspect = &config.suspect;
    for statement in include_str!("suspect.sql").split("-- table ").skip(1) {
        let (name, sql) = statement.split_once('\n').context("a table without a statement")?;
        let numbers = [
            ("{ended}", ended_us.to_string()),
            ("{weeks}", suspect.weeks.to_string()),
            ("{width}", config.time.pane.as_micros().to_string()),
            ("{min_events}", suspect.min_events.to_string()),
            ("{below}", suspect.below.to_string()),
        ];
        let sql = numbers.iter().fold(super::without_comments(sql), |sql, (name, value)| sql.replace(name, value));
        let frame = session.sql(&sql).await.with_context(|| format!("table {name}"))?;
        let empty = RecordBatch::new_empty(Arc::clone(frame.schema().inner()));
        let mut batches = frame.collect().await.with_context(|| format!("table {name}"))?;
        if name == "low" {
            for batch in &batches {
                let (topics, panes) =
                    (cast(batch.column(0), &DataType::Utf8)?, batch.column(1).as_primitive::<Int64Type>());
                for (topic, as_of) in topics.as_string::<i32>().iter().flatten().zip(panes.values()) {
                    low.entry(*as_of).or_default().insert(topic.to_owned());
                }
            }
            break;
        }
        batches.push(empty);
        register(&session, name, batches)?;
    }
    Ok(low)
}

/// Topic and event time of events.
fn event_of(rows: &RecordBatch) -> Result<RecordBatch> {
    let column = |name: &str, to: DataType| -> Result<ArrayRef> {
        Ok(cast(rows.column_by_name(name).with_context(|| format!("no {name}"))?, &to)?)
    };
    let topics = column("source_topic", DataType::Utf8)?;
    Ok(RecordBatch::try_from_iter([("topic", topics), ("occurred_us", column("occurred_at", DataType::Int64)?)])?)
}
