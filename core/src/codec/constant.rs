//! Columns with one value in every row of a record. The record contains the value once, run-end encoded.
//!
//! In the rows of a close most columns are the same for all accounts: a count of 0, the time, the model.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericStringArray, Int32Array, RecordBatch, RunArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, FieldRef, Int32Type, Schema};
use arrow::error::ArrowError;

use super::few;

/// With fewer rows the description of the run would be larger than the values.
const MIN_ROWS: usize = 128;

/// How many bytes of texts may be repeated when a batch is shared: a few bytes must not become many.
const MAX_REPEATED_BYTES: usize = 32 << 20;
/// Earlier versions shared a batch as a whole and then each part of it, so that a record may repeat twice as much.
const MAX_READ_BYTES: usize = 2 * MAX_REPEATED_BYTES;

/// The bytes of texts that a record may still repeat.
#[derive(Debug)]
pub(super) struct TextBudget(usize);

impl TextBudget {
    /// For sharing a batch.
    fn of_writer() -> Self {
        Self(MAX_REPEATED_BYTES)
    }

    /// For reading a record.
    pub(super) fn of_reader() -> Self {
        Self(MAX_READ_BYTES)
    }

    /// Takes bytes from the budget. False if it has fewer.
    pub(super) fn takes(&mut self, num_bytes: usize) -> bool {
        let left = self.0.checked_sub(num_bytes);
        self.0 = left.unwrap_or(self.0);
        left.is_some()
    }
}

/// Whether a value of this type may be in a record once: numbers, times, true and false, texts.
pub(super) fn is_shared(kind: &DataType) -> bool {
    kind.primitive_width().is_some() || matches!(kind, DataType::Boolean | DataType::Utf8)
}

/// The batch with its constant columns run-end encoded, and what repeats in its lists as well, see [`few`]. The first
/// column stays as it is, so that the bytes of a record bound the number of its rows.
pub(super) fn encoded(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let (mut fields, mut columns): (Vec<FieldRef>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    let mut budget = TextBudget::of_writer();
    for (index, (field, column)) in batch.schema_ref().fields().iter().zip(batch.columns()).enumerate() {
        let shared: Option<ArrayRef> = match few::encoded(column, &mut budget)? {
            _ if index == 0 => None,
            None if batch.num_rows() >= MIN_ROWS && is_constant(column, &mut budget) => {
                let run = RunArray::try_new(&Int32Array::from(vec![column.len() as i32]), &column.slice(0, 1))?;
                Some(Arc::new(run))
            }
            few => few,
        };
        let column = shared.unwrap_or_else(|| ArrayRef::clone(column));
        fields.push(Arc::new(field.as_ref().clone().with_data_type(column.data_type().clone())));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, batch.schema_ref().metadata().clone())), columns)
}

/// Whether all rows of a column have the same value, which is not null. Lists and maps are not compared.
fn is_constant(column: &ArrayRef, budget: &mut TextBudget) -> bool {
    if column.null_count() > 0 {
        return false;
    }
    match column.data_type() {
        DataType::Boolean => {
            let num_true = column.as_boolean().true_count();
            num_true == 0 || num_true == column.len()
        }
        DataType::Utf8 => {
            let texts: &GenericStringArray<i32> = column.as_string();
            (1..texts.len()).all(|row| texts.value(row) == texts.value(0))
                && budget.takes(num_bytes(texts, texts.len()))
        }
        kind => kind.primitive_width().is_some_and(|width| {
            let data = column.to_data();
            let bytes = data.buffers().first().map(|buffer| buffer.as_slice()).unwrap_or_default();
            let (from, to) = (data.offset() * width, (data.offset() + data.len()) * width);
            // Equal to itself, moved by one value.
            bytes.get(from..to - width).zip(bytes.get(from + width..to)).is_some_and(|(values, next)| values == next)
        }),
    }
}

/// Bytes of the first text, repeated this often.
fn num_bytes(texts: &GenericStringArray<i32>, times: usize) -> usize {
    if texts.is_empty() { 0 } else { texts.value(0).len().saturating_mul(times) }
}

/// Repeats values. Equal values of a type share one array: most of them are 0.
#[derive(Default)]
pub(super) struct Repeated {
    /// Once for each row, the number of the only value. None until a column is repeated.
    firsts: Option<UInt32Array>,
    known: Vec<(ArrayRef, ArrayRef)>,
}

impl Repeated {
    /// The values of a constant column. None if this is not a column of one run with values of this type. All columns
    /// must have the same number of rows.
    pub(super) fn column(&mut self, column: &ArrayRef, kind: &DataType, budget: &mut TextBudget) -> Option<ArrayRef> {
        let run = column.as_any().downcast_ref::<RunArray<Int32Type>>()?;
        let value = run.values();
        if value.len() != 1 || value.is_null(0) || value.data_type() != kind || !is_shared(kind) {
            return None;
        }
        let texts = value.as_string_opt::<i32>();
        if texts.is_some_and(|texts| !budget.takes(num_bytes(texts, run.len()))) {
            return None;
        }
        if let Some((_, repeated)) =
            self.known.iter().find(|(known, _)| known.data_type() == kind && **known == **value)
        {
            return Some(ArrayRef::clone(repeated));
        }
        let firsts = self.firsts.get_or_insert_with(|| UInt32Array::from_value(0, run.len()));
        let repeated = take(value, firsts, None).ok()?;
        self.known.push((ArrayRef::clone(value), ArrayRef::clone(&repeated)));
        Some(repeated)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use arrow::datatypes::{Field, SchemaRef};

    use super::*;
    use crate::codec::{CodecError, decode, encode, encode_split, read_stream};
    use crate::schema::TABLE_KEY;

    fn batch(columns: Vec<(&str, ArrayRef, bool)>) -> RecordBatch {
        let fields: Vec<Field> =
            columns.iter().map(|(name, column, may)| Field::new(*name, column.data_type().clone(), *may)).collect();
        let schema = Schema::new_with_metadata(fields, [(TABLE_KEY.to_owned(), "t/1".to_owned())].into());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column, _)| column).collect()).unwrap()
    }

    /// A column of each type with one value, and some that are nearly so.
    fn rows(n: usize) -> RecordBatch {
        let all = |column: &dyn Array| take(column, &UInt32Array::from_value(0, n), None).unwrap();
        let but_last: Int64Array = (0..n).map(|row| Some(i64::from(row + 1 == n))).collect();
        let but_null: Int64Array = (0..n).map(|row| (row + 1 < n).then_some(7)).collect();
        batch(vec![
            ("id", all(&StringArray::from(vec!["same"])), false),
            ("zero", all(&Int64Array::from(vec![0])), false),
            ("zero_too", all(&Int64Array::from(vec![0])), true),
            ("seven", all(&Int64Array::from(vec![7])), false),
            ("minus_zero", all(&Float64Array::from(vec![-0.0])), false),
            ("plus_zero", all(&Float64Array::from(vec![0.0])), false),
            ("flag", all(&BooleanArray::from(vec![true])), false),
            ("text", all(&StringArray::from(vec!["x"])), true),
            ("at", all(&TimestampMicrosecondArray::from(vec![5]).with_timezone("UTC")), false),
            ("points", all(&Decimal128Array::from(vec![5]).with_precision_and_scale(10, 6).unwrap()), true),
            ("but_last", Arc::new(but_last), false),
            ("but_null", Arc::new(but_null), true),
        ])
    }

    fn runs_in(value: &[u8]) -> Vec<String> {
        let there = read_stream(arrow::buffer::Buffer::from(value)).unwrap();
        let fields = there[0].schema_ref().fields().clone();
        let runs = fields.iter().filter(|field| matches!(field.data_type(), DataType::RunEndEncoded(..)));
        runs.map(|field| field.name().clone()).collect()
    }

    #[test]
    fn a_column_with_one_value_is_in_a_record_once_and_is_read_as_it_was() {
        let of_one_value =
            ["zero", "zero_too", "seven", "minus_zero", "plus_zero", "flag", "text", "at", "points"].map(str::to_owned);
        for (num_rows, expected) in [(MIN_ROWS - 1, &[][..]), (MIN_ROWS, &of_one_value[..]), (3000, &of_one_value[..])]
        {
            let rows = rows(num_rows);
            let value = encode(&rows).unwrap();
            assert_eq!(runs_in(&value), expected, "{num_rows} rows");
            assert_eq!(decode(&value, &rows.schema()).unwrap(), rows);
        }
        // Bytes a row: of the id, of `but_last`, of `but_null`, and less than one of all others.
        assert!(encode(&rows(30_000)).unwrap().len() / 30_000 == 8 + 8 + 8);
    }

    #[test]
    fn a_part_of_a_batch_has_the_runs_of_its_own_rows() {
        let whole = rows(1000);
        let part = whole.slice(500, 499);
        let value = encode(&part).unwrap();
        assert!(runs_in(&value).contains(&"but_last".to_owned()));
        assert_eq!(decode(&value, &whole.schema()).unwrap(), part);
        // The sign of a zero is not lost where both zeros are in one record.
        let read = decode(&value, &whole.schema()).unwrap();
        let sign = |name: &str| {
            let column = read.column_by_name(name).unwrap();
            column.as_primitive::<arrow::datatypes::Float64Type>().value(3).is_sign_negative()
        };
        assert_eq!((sign("minus_zero"), sign("plus_zero")), (true, false));
    }

    #[test]
    fn runs_that_nobody_here_writes_are_foreign() {
        let written = |run: ArrayRef, num_rows: usize, first: bool| {
            let plain: ArrayRef = Arc::new(Int64Array::from_iter_values(0..num_rows as i64));
            let (a, b) = if first { (run, plain) } else { (plain, run) };
            encode(&batch(vec![("a", a, false), ("b", b, false)])).unwrap()
        };
        let run = |ends: Vec<i32>, values: ArrayRef| -> ArrayRef {
            Arc::new(RunArray::try_new(&Int32Array::from(ends), &values).unwrap())
        };
        let ints = |values: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(values.to_vec())) };
        let expected: SchemaRef = batch(vec![("a", ints(&[1]), false), ("b", ints(&[1]), false)]).schema();
        let read = |value: &[u8]| decode(value, &expected);
        assert!(read(&written(run(vec![9], ints(&[4])), 9, false)).is_ok());
        for (what, value) in [
            ("two runs", written(run(vec![4, 9], ints(&[4, 5])), 9, false)),
            ("a null", written(run(vec![9], Arc::new(Int64Array::from(vec![None]))), 9, false)),
            ("another type", written(run(vec![9], Arc::new(StringArray::from(vec!["4"]))), 9, false)),
            ("the first column", written(run(vec![9], ints(&[4])), 9, true)),
        ] {
            assert!(matches!(read(&value), Err(CodecError::ForeignColumns { .. })), "{what}");
        }
        // A text that would take a gigabyte. Keepwell writes such a column as it is.
        let text = "x".repeat(1 << 20);
        let long: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let of_text = batch(vec![("a", Arc::clone(&ids), false), ("b", run(vec![1000], Arc::clone(&long)), false)]);
        let texts = batch(vec![("a", ids.slice(0, 0), false), ("b", long.slice(0, 0), false)]);
        let foreign = decode(&encode(&of_text).unwrap(), &texts.schema());
        assert!(matches!(foreign, Err(CodecError::ForeignColumns { .. })));
        let many: ArrayRef = Arc::new(StringArray::from(vec![&text[..1 << 17]; 300]));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..300));
        let rows = batch(vec![("a", ids, false), ("b", many, false)]);
        assert!(runs_in(&encode(&rows).unwrap()).is_empty());
        // Columns that only together would take too much.
        let some: ArrayRef = Arc::new(StringArray::from(vec![&text[..1 << 14]; 1500]));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1500));
        let rows = batch(vec![("a", ids, false), ("b", Arc::clone(&some), false), ("c", some, false)]);
        let value = encode(&rows).unwrap();
        assert_eq!(runs_in(&value), ["b"]);
        assert_eq!(decode(&value, &rows.schema()).unwrap(), rows);
        // A batch that is cut: each part is shared by itself.
        let values = encode_split(&rows, 40 << 20).unwrap();
        assert!(values.iter().all(|value| decode(value, &rows.schema()).is_ok()));
        // A list of many items, repeated.
        let items: ArrayRef = Arc::new(Int64Array::from_iter_values(0..20_000));
        let field = Arc::new(Field::new("item", DataType::Int64, false));
        let ends = arrow::buffer::OffsetBuffer::from_lengths([20_000]);
        let list: ArrayRef = Arc::new(arrow::array::ListArray::new(field, ends, items, None));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let lists = batch(vec![("a", ids.slice(0, 0), false), ("b", list.slice(0, 0), false)]);
        let of_list = batch(vec![("a", ids, false), ("b", run(vec![1000], list), false)]);
        let foreign = decode(&encode(&of_list).unwrap(), &lists.schema());
        assert!(matches!(foreign, Err(CodecError::ForeignColumns { .. })));
        // A few bytes that claim two billion rows.
        let runs = vec![("a", run(vec![i32::MAX], ints(&[1])), false), ("b", run(vec![i32::MAX], ints(&[1])), false)];
        assert!(matches!(read(&encode(&batch(runs)).unwrap()), Err(CodecError::ForeignColumns { .. })));
    }

    #[test]
    fn damaged_runs_are_an_error_and_no_panic() {
        let rows = rows(MIN_ROWS);
        let value = encode(&rows).unwrap();
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(read) = decode(&damaged, &rows.schema()) {
                assert_eq!(read.schema().fields(), rows.schema().fields(), "byte {at}");
            }
        }
    }
}
