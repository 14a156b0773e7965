//! Converts between a record batch and the value of a Kafka record: an Arrow IPC stream, readable by any Arrow library.
//!
//! A nullable column that is null in every row is left out of the record. Most columns belong to kinds of events, or to
//! measures, that most records do not have. A column left out costs the broker nothing. It costs the reader one array
//! of nulls per type. A column with one value in every row of a larger record contains it once, run-end encoded.

mod constant;
mod few;
mod thin;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::buffer::Buffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::schema::{MEASURES_KEY, TABLE_KEY};

/// Why a batch could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Arrow returned an error.
    #[error("Arrow IPC: {0}")]
    Arrow(#[from] ArrowError),
    /// The value contains another table or version.
    #[error(
        "the record holds table {found:?} and this program reads {expected:?}; run a version of Keepwell that knows it, or check the topic name in the configuration"
    )]
    ForeignTable {
        /// Table and version that this program reads.
        expected: String,
        /// Table and version of the record.
        found: String,
    },
    /// The rows keep other measures than this program's configuration.
    #[error(
        "the rows keep the measures {found:?} and this program's configuration {expected:?}; give all programs the same aggregate.windows and aggregate.measures, or raise `epoch` and rebuild"
    )]
    OtherMeasures {
        /// Measures of this program's configuration.
        expected: String,
        /// Measures of the record.
        found: String,
    },
    /// The value names our table, but its columns are from neither an older nor a newer program.
    #[error(
        "the record names the table {table:?} but its columns differ from that version's; was it written by another program?"
    )]
    ForeignColumns {
        /// Table and version that the record names.
        table: String,
    },
    /// The stream is damaged in a way for which Arrow has no error.
    #[error("the {bytes} bytes are no Arrow stream; was the record written by another program?")]
    Damaged {
        /// Size of the value in bytes.
        bytes: usize,
    },
    /// The stream does not contain exactly one batch.
    #[error("the record holds {found} batches instead of one")]
    NotOneBatch {
        /// Number of batches found.
        found: usize,
    },
    /// A row exceeds the limit.
    #[error(
        "a row takes {bytes} bytes, above the limit of {max_bytes} a record; raise kafka.max_record_bytes and the topic's max.message.bytes"
    )]
    RowTooLarge {
        /// Encoded size in bytes.
        bytes: usize,
        /// The limit in bytes.
        max_bytes: usize,
    },
}

/// Metadata key for the number of columns in the writer's table. Set only if some columns are left out.
const COLUMNS_KEY: &str = "keepwell.columns";

/// Approximate size of the names and types of a table, in bytes.
const SCHEMA_BYTES: usize = 16 * 1024;
/// The most rows of which the mean size is taken, before a batch is cut.
const SAMPLE_ROWS: usize = 1024;
/// Buffers begin at multiples of 64 bytes, and most columns have two or three.
const PADDING_BYTES: usize = 3 * 64;

/// Encodes a batch as the value of one record.
///
/// # Errors
/// [`CodecError::Arrow`] when Arrow cannot encode the batch.
pub fn encode(batch: &RecordBatch) -> Result<Vec<u8>, CodecError> {
    encode_into(batch, rows_bytes(batch)?)
}

/// Size of the rows of a batch in memory, in bytes. A slice counts the items of all its lists, also those of other rows.
fn rows_bytes(batch: &RecordBatch) -> Result<usize, ArrowError> {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size()).sum()
}

/// Encodes a batch. `rows_bytes` is the expected size of its rows.
fn encode_into(batch: &RecordBatch, rows_bytes: usize) -> Result<Vec<u8>, CodecError> {
    let batch = compact(batch)?;
    // Reserve only what the rows need, not what their builders reserved: the kernel zeroes every page we ask for.
    let bytes = SCHEMA_BYTES + PADDING_BYTES * batch.num_columns() + rows_bytes;
    let mut writer = StreamWriter::try_new(Vec::with_capacity(bytes), &batch.schema())?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

/// The batch without columns that are null in every row, and with constant ones run-end encoded.
fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    constant::encoded(&without_null_columns(batch)?)
}

/// The batch without nullable columns that are null in every row.
fn without_null_columns(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let fields = batch.schema_ref().fields();
    let tells = |(field, column): (&FieldRef, &ArrayRef)| !field.is_nullable() || column.null_count() < column.len();
    let without_null_columns: Vec<usize> =
        (0..fields.len()).filter(|index| tells((&fields[*index], batch.column(*index)))).collect();
    if batch.num_rows() == 0 || without_null_columns.len() == fields.len() {
        return Ok(batch.clone());
    }
    let left = batch.project(&without_null_columns)?;
    let mut metadata = left.schema_ref().metadata().clone();
    // A part of a batch may leave out more columns than the batch did.
    metadata.entry(COLUMNS_KEY.to_owned()).or_insert_with(|| fields.len().to_string());
    let schema = Schema::new_with_metadata(left.schema_ref().fields().clone(), metadata);
    left.with_schema(Arc::new(schema))
}

/// Encodes a batch as values of at most `max_bytes` each, in the order of the rows. An empty batch is one record.
///
/// # Errors
/// [`CodecError::RowTooLarge`] when one row alone exceeds the limit.
pub fn encode_split(batch: &RecordBatch, max_bytes: usize) -> Result<Vec<Vec<u8>>, CodecError> {
    encode_pieces(batch, Pieces { max_bytes, row_bytes: row_bytes(batch)? })
}

/// How a batch is cut into values.
#[derive(Clone, Copy)]
struct Pieces {
    max_bytes: usize,
    /// Mean size of a row in memory, in bytes.
    row_bytes: usize,
}

/// Mean size of a row in a record, in bytes: of rows from all of the batch, because neighbours are alike.
fn row_bytes(batch: &RecordBatch) -> Result<usize, ArrowError> {
    let step = batch.num_rows().div_ceil(SAMPLE_ROWS).max(1);
    let rows: UInt32Array = (0..batch.num_rows() as u32).step_by(step).collect();
    let sample = compact(&take_record_batch(batch, &rows)?)?;
    Ok(rows_bytes(&sample)? / sample.num_rows().max(1) + 1)
}

/// Cuts by the mean size of a row, so that most values fit when they are encoded for the first time.
fn encode_pieces(batch: &RecordBatch, pieces: Pieces) -> Result<Vec<Vec<u8>>, CodecError> {
    let Pieces { max_bytes, row_bytes } = pieces;
    let num_rows = batch.num_rows();
    let schema_bytes = SCHEMA_BYTES + PADDING_BYTES * batch.num_columns();
    let room = max_bytes.saturating_sub(schema_bytes).max(max_bytes / 2).max(1);
    let num_values = num_rows * row_bytes / room + 1;
    let value_rows = num_rows.div_ceil(num_values).max(1);
    let piece = |first: usize| batch.slice(first, value_rows.min(num_rows - first));
    let mut values = Vec::new();
    let mut todo: Vec<RecordBatch> = (0..num_rows.max(1)).step_by(value_rows).map(piece).rev().collect();
    while let Some(piece) = todo.pop() {
        let num_rows = piece.num_rows();
        let value = encode_into(&piece, num_rows * row_bytes)?;
        if value.len() <= max_bytes {
            values.push(value);
        } else if num_rows <= 1 {
            return Err(CodecError::RowTooLarge { bytes: value.len(), max_bytes });
        } else {
            let half = num_rows.div_ceil(2);
            todo.push(piece.slice(half, num_rows - half));
            todo.push(piece.slice(0, half));
        }
    }
    Ok(values)
}

/// The values of a batch, and the rows that are not complete in them.
#[derive(Debug, Default)]
pub struct Fitted {
    /// Encoded values, as from [`encode_split`].
    pub values: Vec<Vec<u8>>,
    /// The rows that were encoded without their nullable long texts, lists and maps.
    pub thinned: Vec<usize>,
    /// The rows that were not encoded at all.
    pub left_out: Vec<usize>,
}

/// Like [`encode_split`], for rows that must not stop a stage. A row that alone exceeds the limit is encoded without
/// its nullable long texts, lists and maps. If that is not enough, it is left out.
///
/// # Errors
/// [`CodecError::Arrow`] when Arrow cannot encode the batch.
pub fn encode_fitting(batch: &RecordBatch, max_bytes: usize) -> Result<Fitted, CodecError> {
    let mut fitted = Fitted::default();
    let pieces = Pieces { max_bytes, row_bytes: row_bytes(batch)? };
    let mut todo = vec![(0, batch.clone())];
    while let Some((first, rows)) = todo.pop() {
        match encode_pieces(&rows, pieces) {
            Ok(values) => fitted.values.extend(values),
            Err(CodecError::RowTooLarge { .. }) if rows.num_rows() > 1 => {
                let half = rows.num_rows().div_ceil(2);
                todo.push((first + half, rows.slice(half, rows.num_rows() - half)));
                todo.push((first, rows.slice(0, half)));
            }
            Err(CodecError::RowTooLarge { .. }) => {
                let value = encode(&thin::thin(&rows)?)?;
                if value.len() <= max_bytes {
                    fitted.values.push(value);
                    fitted.thinned.push(first);
                } else {
                    fitted.left_out.push(first);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(fitted)
}

fn read_stream(mut buffer: Buffer) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !buffer.is_empty() {
        batches.extend(decoder.decode(&mut buffer)?);
    }
    decoder.finish()?;
    Ok(batches)
}

/// Decodes the batch in the value of one record. The record must be of the table `expected`; so are the columns.
///
/// A column that the record leaves out is null. A run-end encoded one has its value in every row. A version may gain nullable columns, so programs can be replaced one by
/// one. Columns that a newer program added are left out here. Columns that an older program does not know are null.
///
/// # Errors
/// [`CodecError`] when the value is not an Arrow stream of exactly one batch of that table and version.
pub fn decode(value: &[u8], expected: &SchemaRef) -> Result<RecordBatch, CodecError> {
    decode_shared(&Bytes::copy_from_slice(value), expected)
}

/// Like [`decode`], but the batch shares the memory of the value instead of copying it.
///
/// # Errors
/// See [`decode`].
pub fn decode_shared(value: &Bytes, expected: &SchemaRef) -> Result<RecordBatch, CodecError> {
    // Arrow's reader panics on some damaged messages (found by fuzzing). Here that becomes an error like any other.
    let read = std::panic::catch_unwind(|| read_stream(Buffer::from(value.clone())));
    let mut batches = read.map_err(|_| CodecError::Damaged { bytes: value.len() })??;
    let found = batches.len();
    let batch = batches.pop().filter(|_| found == 1).ok_or(CodecError::NotOneBatch { found })?;
    let written = batch.schema();
    let both = |key: &str| {
        let of = |schema: &SchemaRef| schema.metadata().get(key).cloned().unwrap_or_default();
        (of(expected), of(&written))
    };
    let (wanted, table) = both(TABLE_KEY);
    if table != wanted {
        return Err(CodecError::ForeignTable { expected: wanted, found: table });
    }
    let (wanted, measures) = both(MEASURES_KEY);
    if measures != wanted {
        return Err(CodecError::OtherMeasures { expected: wanted, found: measures });
    }
    let columns = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| as_columns(&batch, expected)));
    let columns = columns.map_err(|_| CodecError::Damaged { bytes: value.len() })?;
    columns.ok_or(CodecError::ForeignColumns { table })
}

/// The expected columns of a batch that an older or newer program wrote. None if a required column is missing. None,
/// too, if more columns are unknown than the writer's table has in addition to ours: these are not added columns.
pub fn as_columns(batch: &RecordBatch, expected: &SchemaRef) -> Option<RecordBatch> {
    let mut num_known = 0;
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(expected.fields().len());
    // One array of nulls for each type, because many columns are null.
    let mut nulls: Vec<ArrayRef> = Vec::new();
    let mut null_of = |kind: &DataType| {
        let known = nulls.iter().find(|null| null.data_type() == kind).cloned();
        known.unwrap_or_else(|| {
            nulls.push(new_null_array(kind, batch.num_rows()));
            nulls[nulls.len() - 1].clone()
        })
    };
    let (mut constants, mut budget) = (constant::Repeated::default(), constant::TextBudget::of_reader());
    // A linear search for each of many columns would cost more than decoding them.
    let there: HashMap<&str, (&FieldRef, &ArrayRef), RandomState> =
        batch.schema_ref().fields().iter().zip(batch.columns()).map(|pair| (pair.0.name().as_str(), pair)).collect();
    for field in expected.fields() {
        match there.get(field.name().as_str()) {
            Some((found, column)) if *found == field => {
                num_known += 1;
                columns.push(ArrayRef::clone(column));
            }
            // The first column is never a run: it bounds the number of rows by the bytes of the record.
            Some((found, column)) if !columns.is_empty() && found.is_nullable() == field.is_nullable() => {
                num_known += 1;
                let plain = constants.column(column, field.data_type(), &mut budget);
                columns.push(plain.or_else(|| few::plain(column, field.data_type(), &mut budget))?);
            }
            None if field.is_nullable() => columns.push(null_of(field.data_type())),
            _ => return None,
        }
    }
    let num_unknown = batch.num_columns() - num_known;
    let of_writer = batch.schema_ref().metadata().get(COLUMNS_KEY).and_then(|number| number.parse().ok());
    let num_added = of_writer.unwrap_or(batch.num_columns()).saturating_sub(expected.fields().len());
    // Arrow rejects a null in a column that must not be null. Such columns are not ours, either.
    RecordBatch::try_new(SchemaRef::clone(expected), columns).ok().filter(|_| num_unknown <= num_added)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::{Field, Int64Type};

    use super::*;

    fn schema(table: &str) -> SchemaRef {
        let fields = vec![Field::new("n", DataType::Int64, false), Field::new("t", DataType::Utf8, true)];
        Arc::new(Schema::new_with_metadata(fields, [(TABLE_KEY.to_owned(), table.to_owned())].into()))
    }

    fn batch(rows: i64) -> RecordBatch {
        let texts: StringArray = (0..rows).map(|n| Some(format!("text {n}"))).collect();
        RecordBatch::try_new(schema("t/1"), vec![Arc::new(Int64Array::from_iter_values(0..rows)), Arc::new(texts)])
            .unwrap()
    }

    #[test]
    fn a_batch_survives_the_wire() {
        for rows in [0, 1, 1000] {
            let batch = batch(rows);
            assert_eq!(decode(&encode(&batch).unwrap(), &schema("t/1")).unwrap(), batch);
        }
    }

    #[test]
    fn a_large_batch_is_split_below_the_limit_and_keeps_its_order() {
        let values = encode_split(&batch(1000), 4096).unwrap();
        assert!(values.len() > 4 && values.iter().all(|value| value.len() <= 4096));
        let rows: Vec<i64> = values
            .iter()
            .flat_map(|value| {
                let piece = decode(value, &schema("t/1")).unwrap();
                piece.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec()
            })
            .collect();
        assert_eq!(rows, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_row_above_the_limit_is_refused_with_its_size() {
        assert!(matches!(encode_split(&batch(3), 10), Err(CodecError::RowTooLarge { max_bytes: 10, .. })));
    }

    #[test]
    fn a_row_above_the_limit_goes_out_thin_or_not_at_all_and_its_neighbours_go_out_whole() {
        let text = |n: i64| if n == 7 { "x".repeat(20_000) } else { format!("text {n}") };
        let texts: StringArray = (0..30).map(|n| Some(text(n))).collect();
        let rows =
            RecordBatch::try_new(schema("t/1"), vec![Arc::new(Int64Array::from_iter_values(0..30)), Arc::new(texts)])
                .unwrap();
        for (max_bytes, thinned, left_out) in [(10_000, vec![7], vec![]), (100, vec![], (0..30).collect())] {
            let fitted = encode_fitting(&rows, max_bytes).unwrap();
            assert_eq!((&fitted.thinned, &fitted.left_out), (&thinned, &left_out));
            assert!(fitted.values.iter().all(|value| value.len() <= max_bytes));
            let mut read = Vec::new();
            for value in &fitted.values {
                let part = decode(value, &schema("t/1")).unwrap();
                let (numbers, texts) = (part.column(0).as_primitive::<Int64Type>(), part.column(1).as_string::<i32>());
                read.extend(numbers.iter().zip(texts).map(|(n, text)| (n.unwrap(), text.map(str::to_owned))));
            }
            let whole = |n: i64| (n, (!thinned.contains(&(n as usize))).then(|| text(n)));
            assert_eq!(read, if left_out.is_empty() { (0..30).map(whole).collect() } else { Vec::new() });
        }
    }

    #[test]
    fn rows_with_other_measures_than_configured_are_refused_by_name() {
        let with = |measures: &str| {
            let mut metadata = schema("t/1").metadata().clone();
            metadata.insert(MEASURES_KEY.to_owned(), measures.to_owned());
            Arc::new(Schema::new_with_metadata(schema("t/1").fields().clone(), metadata))
        };
        let value = encode(&batch(1).with_schema(with("7d: usage")).unwrap()).unwrap();
        assert!(decode(&value, &with("7d: usage")).is_ok());
        let error = decode(&value, &with("7d: people")).unwrap_err().to_string();
        assert!(
            error.contains("7d: usage") && error.contains("7d: people") && error.contains("aggregate.measures"),
            "{error}"
        );
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let error = decode(&encode(&batch(1)).unwrap(), &schema("t/2")).unwrap_err().to_string();
        assert!(error.contains("t/1") && error.contains("t/2"), "{error}");
    }

    #[test]
    fn a_column_that_is_added_is_left_out_by_older_programs_and_null_to_newer_ones() {
        let of = |names: &[(&str, bool)]| -> SchemaRef {
            let fields: Vec<_> = names.iter().map(|(name, may)| Field::new(*name, DataType::Int64, *may)).collect();
            Arc::new(Schema::new_with_metadata(fields, [(TABLE_KEY.to_owned(), "t/1".to_owned())].into()))
        };
        let (known, maybe) = (|name| (name, false), |name| (name, true));
        let rows = |schema: &SchemaRef, columns: &[&[Option<i64>]]| {
            let columns = columns.iter().map(|cells| Arc::new(Int64Array::from(cells.to_vec())) as ArrayRef);
            RecordBatch::try_new(Arc::clone(schema), columns.collect()).unwrap()
        };
        let (old, new) = (of(&[known("n")]), of(&[maybe("added"), known("n")]));
        let (old_rows, new_rows) = (rows(&old, &[&[Some(1)]]), rows(&new, &[&[Some(7)], &[Some(1)]]));
        assert_eq!(decode(&encode(&new_rows).unwrap(), &old).unwrap(), old_rows);
        assert_eq!(decode(&encode(&old_rows).unwrap(), &new).unwrap(), rows(&new, &[&[None], &[Some(1)]]));
        // Written, and read as: a new required column, one more and one less, another nullability, another type.
        for (written, read) in [
            (of(&[known("n")]), of(&[known("n"), known("added")])),
            (of(&[known("n"), maybe("other")]), of(&[known("n"), maybe("added")])),
            (of(&[known("n")]), of(&[maybe("n")])),
            (of(&[known("n"), known("t")]), schema("t/1")),
        ] {
            let cells: Vec<&[Option<i64>]> = vec![&[Some(1)]; written.fields().len()];
            let error = decode(&encode(&rows(&written, &cells)).unwrap(), &read).unwrap_err();
            assert!(matches!(error, CodecError::ForeignColumns { .. }), "{written} read as {read}: {error}");
        }
    }

    #[test]
    fn a_column_that_is_null_in_every_row_is_left_out_and_read_as_null() {
        let of = |names: &[&str]| -> SchemaRef {
            let fields: Vec<_> = names.iter().map(|name| Field::new(*name, DataType::Int64, *name != "n")).collect();
            Arc::new(Schema::new_with_metadata(fields, [(TABLE_KEY.to_owned(), "t/1".to_owned())].into()))
        };
        let rows = |names: &[&str], columns: &[[Option<i64>; 2]]| {
            let columns = columns.iter().map(|cells| Arc::new(Int64Array::from(cells.to_vec())) as ArrayRef);
            RecordBatch::try_new(of(names), columns.collect()).unwrap()
        };
        let (null, some, all) = ([None; 2], [Some(1), None], [Some(1), Some(2)]);
        let written = encode(&rows(&["n", "a", "b"], &[all, null, some])).unwrap();
        let there = read_stream(Buffer::from(written.as_slice())).unwrap();
        let names: Vec<_> = there[0].schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["n", "b"]);
        let read = |names: &[&str]| decode(&written, &of(names));
        assert_eq!(read(&["n", "a", "b"]).unwrap(), rows(&["n", "a", "b"], &[all, null, some]));
        // An older program, which knows one column less, and a newer one.
        assert_eq!(read(&["n", "a"]).unwrap(), rows(&["n", "a"], &[all, null]));
        assert_eq!(read(&["c", "n", "b", "a"]).unwrap(), rows(&["c", "n", "b", "a"], &[null, all, some, null]));
        // A reader with the same number of columns, but one column is a different one.
        assert!(matches!(read(&["n", "a", "c"]), Err(CodecError::ForeignColumns { .. })));
        // A batch without rows leaves out no columns.
        let empty = RecordBatch::new_empty(of(&["n", "a"]));
        assert_eq!(read_stream(Buffer::from(encode(&empty).unwrap().as_slice())).unwrap()[0].num_columns(), 2);
    }

    #[test]
    fn damaged_bytes_are_an_error_and_no_panic() {
        let value = encode(&batch(3)).unwrap();
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut damaged = value.clone();
                damaged[at] ^= 1 << bit;
                // The codec cannot detect a changed cell. It must not panic.
                if let Ok(read) = decode(&damaged, &schema("t/1")) {
                    assert_eq!(read.schema().fields(), schema("t/1").fields(), "byte {at} bit {bit}");
                }
            }
        }
        for cut in 0..value.len() {
            assert!(decode(&value[..cut], &schema("t/1")).is_err() || cut >= value.len() - 8, "cut at {cut}");
        }
    }
}
