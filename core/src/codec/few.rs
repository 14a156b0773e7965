//! Values in lists that repeat are in a record once: their columns are dictionary encoded.
//!
//! The factors of a model have the same names and weights in the list of every account.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, GenericStringArray, Int8Array, ListArray, StructArray, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, FieldRef, Fields, Int8Type};
use arrow::error::ArrowError;

use super::constant::{TextBudget, is_shared};

/// With fewer items the dictionaries would be larger than the values.
const MIN_ITEMS: usize = 1024;
/// The most values that a dictionary has: its keys are of one byte.
const MAX_VALUES: usize = 127;

/// A column of lists with the columns of their items dictionary encoded, where these have few values. None if there is
/// nothing to encode.
pub(super) fn encoded(column: &ArrayRef, budget: &mut TextBudget) -> Result<Option<ArrayRef>, ArrowError> {
    let DataType::List(field) = column.data_type() else { return Ok(None) };
    let list: &ListArray = column.as_list();
    let ends = list.value_offsets();
    let (first, end) = (ends.first().copied().unwrap_or_default(), ends.last().copied().unwrap_or_default());
    let num_items = (end - first) as usize;
    let Some(items) = list.values().as_struct_opt().filter(|_| num_items >= MIN_ITEMS) else { return Ok(None) };
    let items = items.slice(first as usize, num_items);
    let encoded: Vec<Option<ArrayRef>> =
        items.columns().iter().map(|column| dictionary(column, budget)).collect::<Result<_, _>>()?;
    if encoded.iter().all(Option::is_none) {
        return Ok(None);
    }
    let columns: Vec<ArrayRef> = encoded
        .into_iter()
        .zip(items.columns())
        .map(|(few, plain)| few.unwrap_or_else(|| ArrayRef::clone(plain)))
        .collect();
    let typed = |(field, column): (&FieldRef, &ArrayRef)| -> FieldRef {
        Arc::new(field.as_ref().clone().with_data_type(column.data_type().clone()))
    };
    let fields: Fields = items.fields().iter().zip(&columns).map(typed).collect();
    let items = StructArray::try_new(fields, columns, items.nulls().cloned())?;
    let field = Arc::new(field.as_ref().clone().with_data_type(items.data_type().clone()));
    let ends = OffsetBuffer::new(ends.iter().map(|end| end - first).collect());
    Ok(Some(Arc::new(ListArray::try_new(field, ends, Arc::new(items), list.nulls().cloned())?)))
}

/// The column by keys of one byte. None if it has too many values, or values that are not longer than a key.
fn dictionary(column: &ArrayRef, budget: &mut TextBudget) -> Result<Option<ArrayRef>, ArrowError> {
    let texts = column.as_string_opt::<i32>();
    let found = match (texts, column.data_type().primitive_width()) {
        (Some(texts), _) => few_of(column, |row| texts.value(row)),
        (None, Some(4)) => few_of(column, values::<4>(column)),
        (None, Some(8)) => few_of(column, values::<8>(column)),
        (None, Some(16)) => few_of(column, values::<16>(column)),
        _ => None,
    };
    let Some(Few { firsts, keys }) = found else { return Ok(None) };
    if texts.is_some_and(|texts| !budget.takes(texts.iter().flatten().map(str::len).sum())) {
        return Ok(None);
    }
    let values = take(column, &UInt32Array::from(firsts), None)?;
    Ok(Some(Arc::new(DictionaryArray::<Int8Type>::try_new(Int8Array::from(keys), values)?)))
}

/// The values of a column of numbers or times, as bytes.
fn values<const WIDTH: usize>(column: &ArrayRef) -> impl Fn(usize) -> Option<[u8; WIDTH]> {
    let data = column.to_data();
    move |row| {
        let bytes = data.buffers().first()?.as_slice();
        bytes.get((data.offset() + row) * WIDTH..)?.first_chunk::<WIDTH>().copied()
    }
}

/// The few values of a column.
struct Few {
    /// The first row of each value.
    firsts: Vec<u32>,
    /// The number of the value of each row.
    keys: Vec<Option<i8>>,
}

fn few_of<T: PartialEq + Copy>(column: &ArrayRef, value: impl Fn(usize) -> T) -> Option<Few> {
    let (mut firsts, mut known): (Vec<u32>, Vec<T>) = (Vec::new(), Vec::new());
    let mut keys: Vec<Option<i8>> = Vec::with_capacity(column.len());
    let mut next = 0;
    for row in 0..column.len() {
        if column.is_null(row) {
            keys.push(None);
            continue;
        }
        let value = value(row);
        // Lists are alike, so that the value after the last one is likely.
        let is_next = known.get(next).is_some_and(|known| *known == value);
        let at = if is_next { Some(next) } else { known.iter().position(|known| *known == value) };
        let at = match at {
            Some(at) => at,
            None if known.len() == MAX_VALUES => return None,
            None => {
                firsts.push(row as u32);
                known.push(value);
                known.len() - 1
            }
        };
        keys.push(Some(at as i8));
        next = if at + 1 < known.len() { at + 1 } else { 0 };
    }
    Some(Few { firsts, keys })
}

/// The column as this type: lists, their items, and dictionaries in them. None if it is of another type.
pub(super) fn plain(column: &ArrayRef, kind: &DataType, budget: &mut TextBudget) -> Option<ArrayRef> {
    match (column.data_type(), kind) {
        (found, kind) if found == kind => Some(ArrayRef::clone(column)),
        (DataType::List(_), DataType::List(field)) => {
            let list: &ListArray = column.as_list();
            let items = plain(list.values(), field.data_type(), budget)?;
            let list = ListArray::try_new(FieldRef::clone(field), list.offsets().clone(), items, list.nulls().cloned());
            list.ok().map(|list| Arc::new(list) as ArrayRef)
        }
        (DataType::Struct(found), DataType::Struct(fields)) if found.len() == fields.len() => {
            let items = column.as_struct();
            let named = |(field, (found, column)): (&FieldRef, (&FieldRef, &ArrayRef))| {
                if found.name() == field.name() { plain(column, field.data_type(), budget) } else { None }
            };
            let columns = fields.iter().zip(found.iter().zip(items.columns())).map(named).collect::<Option<_>>()?;
            let items = StructArray::try_new(fields.clone(), columns, items.nulls().cloned());
            items.ok().map(|items| Arc::new(items) as ArrayRef)
        }
        (DataType::Dictionary(_, value), kind) if **value == *kind && is_shared(kind) => {
            let dictionary: &DictionaryArray<Int8Type> = column.as_dictionary_opt()?;
            let (keys, values) = (dictionary.keys(), dictionary.values());
            let fits = values.as_string_opt::<i32>().is_none_or(|texts| budget.takes(num_bytes(keys, texts)));
            if fits { take(values, keys, None).ok() } else { None }
        }
        _ => None,
    }
}

/// Bytes of all texts that the keys stand for.
fn num_bytes(keys: &Int8Array, texts: &GenericStringArray<i32>) -> usize {
    let length =
        |key: i8| usize::try_from(key).ok().filter(|at| *at < texts.len()).map_or(0, |at| texts.value(at).len());
    keys.iter().flatten().map(length).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float64Array, RecordBatch, StringArray};
    use arrow::datatypes::{Field, Schema, SchemaRef};

    use super::*;
    use crate::codec::{CodecError, decode, encode, read_stream};
    use crate::schema::TABLE_KEY;

    /// Lists of `width` items: a name, a value of its own, a weight, and a text that is mostly missing.
    fn rows(num_rows: usize, width: usize) -> RecordBatch {
        let num_items = num_rows * width;
        let names: StringArray = (0..num_items).map(|n| Some(format!("factor number {}", n % width))).collect();
        let values: Float64Array = (0..num_items).map(|n| Some(n as f64)).collect();
        let weights: Decimal128Array = (0..num_items).map(|n| Some((n % width) as i128)).collect();
        let missing: StringArray = (0..num_items).map(|n| (n % 50 == 0).then_some("carry")).collect();
        let columns: [(&str, ArrayRef, bool); 4] = [
            ("name", Arc::new(names), false),
            ("value", Arc::new(values), false),
            ("weight", Arc::new(weights.with_precision_and_scale(10, 6).unwrap()), false),
            ("missing", Arc::new(missing), true),
        ];
        let fields: Fields =
            columns.iter().map(|(name, column, may)| Field::new(*name, column.data_type().clone(), *may)).collect();
        let items = StructArray::new(fields, columns.into_iter().map(|(_, column, _)| column).collect(), None);
        let field = Arc::new(Field::new("item", items.data_type().clone(), false));
        let lists = ListArray::new(field, OffsetBuffer::from_lengths(vec![width; num_rows]), Arc::new(items), None);
        let ids: StringArray = (0..num_rows).map(|n| Some(format!("account {n}"))).collect();
        batch(vec![("id", Arc::new(ids)), ("factors", Arc::new(lists))])
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let fields: Vec<Field> =
            columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), false)).collect();
        let schema = Schema::new_with_metadata(fields, [(TABLE_KEY.to_owned(), "t/1".to_owned())].into());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    /// The names of the columns of items that are dictionary encoded.
    fn few_in(value: &[u8]) -> Vec<String> {
        let there = read_stream(arrow::buffer::Buffer::from(value)).unwrap();
        let DataType::List(field) = there[0].schema_ref().field(1).data_type().clone() else { panic!("no list") };
        let DataType::Struct(fields) = field.data_type() else { panic!("no items") };
        let few = fields.iter().filter(|field| matches!(field.data_type(), DataType::Dictionary(..)));
        few.map(|field| field.name().clone()).collect()
    }

    #[test]
    fn few_values_in_lists_are_in_a_record_once_and_are_read_as_they_were() {
        // rows, items of each, encoded columns
        let few = &["name", "weight", "missing"][..];
        let cases = [
            (MIN_ITEMS / 10, 10, &[][..]),
            (MIN_ITEMS, 10, few),
            (9, MAX_VALUES, few),
            (9, MAX_VALUES + 1, &["missing"][..]),
        ];
        for (num_rows, width, expected) in cases {
            let rows = rows(num_rows, width);
            let value = encode(&rows).unwrap();
            assert_eq!(few_in(&value), expected, "{num_rows} rows of {width}");
            assert_eq!(decode(&value, &rows.schema()).unwrap(), rows);
        }
        let (plain, few) = (rows(MIN_ITEMS / 10, 10), rows(10 * MIN_ITEMS, 10));
        let per_item = |rows: &RecordBatch| encode(rows).unwrap().len() / rows.num_rows() / 10;
        assert!(per_item(&few) * 3 < per_item(&plain), "{} and {} bytes an item", per_item(&few), per_item(&plain));
    }

    #[test]
    fn a_part_of_a_batch_has_its_own_items_only() {
        let whole = rows(1000, 10);
        let part = whole.slice(300, 200);
        let value = encode(&part).unwrap();
        assert_eq!(few_in(&value), ["name", "weight", "missing"]);
        assert_eq!(decode(&value, &whole.schema()).unwrap(), part);
        assert!(value.len() * 3 < encode(&whole).unwrap().len());
    }

    #[test]
    fn texts_beyond_the_budget_are_written_as_they_are() {
        let names: StringArray =
            (0..3000).map(|n| Some(char::from(b'a' + (n % 5) as u8).to_string().repeat(20_000))).collect();
        let fields: Fields = vec![Field::new("name", DataType::Utf8, false)].into();
        let items = StructArray::new(fields, vec![Arc::new(names)], None);
        let field = Arc::new(Field::new("item", items.data_type().clone(), false));
        let lists = ListArray::new(field, OffsetBuffer::from_lengths(vec![1; items.len()]), Arc::new(items), None);
        let ids: StringArray = (0..3000).map(|n| Some(n.to_string())).collect();
        let rows = batch(vec![("id", Arc::new(ids)), ("factors", Arc::new(lists))]);
        let value = encode(&rows).unwrap();
        assert!(few_in(&value).is_empty());
        assert_eq!(decode(&value, &rows.schema()).unwrap(), rows);
    }

    #[test]
    fn dictionaries_that_nobody_here_writes_are_foreign() {
        let expected: SchemaRef = rows(1, 1).schema();
        let of_names = |names: ArrayRef| {
            let items = rows(2000, 1);
            let items = items.column(1).as_list::<i32>().values().as_struct().clone();
            let mut columns = items.columns().to_vec();
            columns[0] = names;
            let fields: Fields = items
                .fields()
                .iter()
                .zip(&columns)
                .map(|(field, column)| field.as_ref().clone().with_data_type(column.data_type().clone()))
                .collect();
            let items = StructArray::new(fields, columns, None);
            let field = Arc::new(Field::new("item", items.data_type().clone(), false));
            let lists = ListArray::new(field, OffsetBuffer::from_lengths(vec![1; 2000]), Arc::new(items), None);
            let ids: StringArray = (0..2000).map(|n| Some(n.to_string())).collect();
            encode(&batch(vec![("id", Arc::new(ids)), ("factors", Arc::new(lists))])).unwrap()
        };
        let keys = || Int8Array::from(vec![0_i8; 2000]);
        let dictionary = |values: ArrayRef| -> ArrayRef { Arc::new(DictionaryArray::new(keys(), values)) };
        assert!(decode(&of_names(dictionary(Arc::new(StringArray::from(vec!["name"])))), &expected).is_ok());
        let long = "x".repeat(1 << 20);
        let wide = DictionaryArray::new(
            arrow::array::Int16Array::from(vec![0_i16; 2000]),
            Arc::new(StringArray::from(vec!["n"])),
        );
        for (what, names) in [
            ("a text that would take two gigabytes", dictionary(Arc::new(StringArray::from(vec![long.as_str()])))),
            ("numbers for names", dictionary(Arc::new(Float64Array::from(vec![1.0])))),
            ("wide keys", Arc::new(wide)),
        ] {
            assert!(matches!(decode(&of_names(names), &expected), Err(CodecError::ForeignColumns { .. })), "{what}");
        }
    }

    #[test]
    fn damaged_dictionaries_are_an_error_and_no_panic() {
        let rows = rows(MIN_ITEMS / 8, 8);
        let value = encode(&rows).unwrap();
        assert!(!few_in(&value).is_empty());
        for at in 0..value.len() {
            let mut damaged = value.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(read) = decode(&damaged, &rows.schema()) {
                assert_eq!(read.schema().fields(), rows.schema().fields(), "byte {at}");
            }
        }
    }
}
