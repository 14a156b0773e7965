//! Compares rows of the stages with the oracle's rows, cell by cell.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringBuilder, UInt32Array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use keepwell_core::codec;
use keepwell_core::schema::window::Layout;
use keepwell_pipeline::record::Record;
pub use keepwell_score::recompute::items_of;

/// The rows of all records of a table, in one batch.
///
/// # Errors
/// When a record is not a batch of that table.
pub fn rows_of(records: &[Record], schema: &SchemaRef) -> Result<RecordBatch> {
    let values = records.iter().filter_map(|record| record.value.as_deref());
    let batches = values.map(|value| codec::decode(value, schema)).collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(schema, &batches)?)
}

/// The rows in which the flag column has this value.
///
/// # Errors
/// When there is no such column.
pub fn where_flag(rows: &RecordBatch, column: &str, value: bool) -> Result<RecordBatch> {
    let flags = rows.column_by_name(column).with_context(|| format!("no column {column}"))?.as_boolean();
    let keep: arrow::array::BooleanArray = flags.iter().map(|flag| Some(flag == Some(value))).collect();
    Ok(arrow::compute::filter_record_batch(rows, &keep)?)
}

/// What window rows show of one window: its measures under their plain names, and the columns that belong to no window.
///
/// # Errors
/// When the rows have another layout.
pub fn over(rows: &RecordBatch, layout: &Layout, window: &str) -> Result<RecordBatch> {
    let named = layout.columns().iter().filter_map(|column| {
        let is_of = layout.window_of(column).is_none_or(|of| of == window);
        is_of.then_some((column.sql_name.as_str(), column.name.as_str()))
    });
    let columns = named.map(|(name, column)| {
        let values = rows.column_by_name(column).with_context(|| format!("no column {column}"))?;
        Ok((name, Arc::clone(values), true))
    });
    Ok(RecordBatch::try_from_iter_with_nullable(columns.collect::<Result<Vec<_>>>()?)?)
}

/// Converts a column to a form that both sides can have: times as microseconds, maps as sorted `key=value;` texts.
fn plain(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::Timestamp(..) => cast(column, &DataType::Int64)?,
        // Points and percentages become millionths.
        DataType::Decimal128(_, 6) => {
            let millionths =
                column.as_primitive::<Decimal128Type>().iter().map(|value| value.map(|value| value as i64));
            Arc::new(millionths.collect::<Int64Array>())
        }
        DataType::Utf8View | DataType::LargeUtf8 => cast(column, &DataType::Utf8)?,
        DataType::Int32 | DataType::UInt8 | DataType::UInt64 => cast(column, &DataType::Int64)?,
        DataType::Map(..) => {
            let maps = column.as_map();
            let mut texts = StringBuilder::new();
            for row in 0..maps.len() {
                if maps.is_null(row) {
                    texts.append_null();
                    continue;
                }
                let entries = maps.value(row);
                let format = FormatOptions::default();
                let (keys, values) = (
                    ArrayFormatter::try_new(entries.column(0), &format)?,
                    ArrayFormatter::try_new(entries.column(1), &format)?,
                );
                let mut pairs: Vec<String> =
                    (0..entries.len()).map(|i| format!("{}={}", keys.value(i), values.value(i))).collect();
                pairs.sort();
                texts.append_value(pairs.join(";"));
            }
            Arc::new(texts.finish())
        }
        _ => Arc::clone(column),
    })
}

/// The rows sorted by `keys`, with only these `columns`, in the common form.
fn normal(rows: &RecordBatch, columns: &[&str], keys: &[&str]) -> Result<RecordBatch> {
    let mut fields = Vec::new();
    let mut arrays = Vec::new();
    for name in columns {
        let column = plain(rows.column_by_name(name).with_context(|| format!("no column {name}"))?)?;
        fields.push(Field::new(*name, column.data_type().clone(), true));
        arrays.push(column);
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
    let sort = keys.iter().map(|key| {
        let values = rows.column_by_name(key).with_context(|| format!("no key {key}"))?;
        Ok(SortColumn { values: Arc::clone(values), options: None })
    });
    let order: UInt32Array = lexsort_to_indices(&sort.collect::<Result<Vec<_>>>()?, None)?;
    Ok(take_record_batch(&rows, &order)?)
}

/// Checks that both sides have the same rows, cell by cell, in the columns of the oracle. Returns the number of rows.
///
/// # Errors
/// Names the first rows and cells that differ.
pub fn same_rows(streamed: &RecordBatch, expected: &[RecordBatch], keys: &[&str]) -> Result<usize> {
    let Some(schema) = expected.first().map(RecordBatch::schema) else {
        ensure!(streamed.num_rows() == 0, "{} rows were streamed, the oracle has none", streamed.num_rows());
        return Ok(0);
    };
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let expected = normal(&concat_batches(&schema, expected)?, &columns, keys)?;
    let streamed = normal(streamed, &columns, keys)?;
    for key in keys {
        differences(&streamed, &expected, key, keys)?;
    }
    ensure!(
        streamed.num_rows() == expected.num_rows(),
        "{} rows were streamed, the oracle has {}",
        streamed.num_rows(),
        expected.num_rows()
    );
    for column in &columns {
        differences(&streamed, &expected, column, keys)?;
    }
    Ok(streamed.num_rows())
}

fn differences(streamed: &RecordBatch, expected: &RecordBatch, column: &str, keys: &[&str]) -> Result<()> {
    let rows = streamed.num_rows().min(expected.num_rows());
    let get = |side: &RecordBatch| {
        side.column_by_name(column).map(|array| array.slice(0, rows)).with_context(|| format!("no column {column}"))
    };
    let (left, mut right) = (get(streamed)?, get(expected)?);
    if left.data_type() != right.data_type() {
        right = cast(&right, left.data_type()).with_context(|| format!("column {column}"))?;
    }
    let differ = distinct(&left, &right)?;
    let count = differ.true_count();
    let Some(row) = differ.iter().position(|differs| differs == Some(true)) else { return Ok(()) };
    let format = FormatOptions::default().with_null("null");
    let cell = |array: &dyn Array| anyhow::Ok(ArrayFormatter::try_new(array, &format)?.value(row).to_string());
    let key = |side: &RecordBatch| {
        let cells = keys.iter().map(|key| cell(side.column_by_name(key).context("no key")?.as_ref()));
        anyhow::Ok(cells.collect::<Result<Vec<_>>>()?.join(" "))
    };
    bail!(
        "{column}: {count} of {rows} cells differ (streamed {} rows, oracle {}). First: row [{}] streamed {}, oracle row [{}] {}",
        streamed.num_rows(),
        expected.num_rows(),
        key(streamed)?,
        cell(&left)?,
        key(expected)?,
        cell(&right)?
    )
}
