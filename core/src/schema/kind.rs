//! The kinds of columns: how a value of a column is declared, written and read.
//!
//! [`table!`](super::table) makes a table from a list of them.

use std::sync::Arc;

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBuilder, Decimal128Array, Decimal128Builder, Float64Array, Float64Builder,
    Int32Array, Int32Builder, Int64Array, Int64Builder, ListArray, MapArray, PrimitiveBuilder, StringArray,
    StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field};
use arrow::error::ArrowError;

use super::columns::{Columns, TimeArray};
use super::{ColumnType, Table, fields_of, time_type};
use crate::points;

/// A kind of column.
pub trait Kind {
    /// Its type in the declaration of a table.
    const TYPE: ColumnType;
    /// Whether it may contain nulls, which mean unknown.
    const NULLABLE: bool = false;
    /// One value.
    type Value<'a>;
    /// Collects the values of a batch.
    type Builder: std::fmt::Debug;
    /// The values of a batch.
    type Array<'a>;

    /// A builder without values.
    fn builder() -> Self::Builder;

    /// Adds a value.
    fn append(builder: &mut Self::Builder, value: Self::Value<'_>);

    /// Adds empty values: 0, false, an empty text, list or map; null where null is allowed.
    fn append_empty(builder: &mut Self::Builder, count: usize);

    /// Returns the values and empties the builder.
    ///
    /// # Errors
    /// [`ArrowError`] when a list is longer than Arrow allows.
    fn finish(builder: &mut Self::Builder) -> Result<ArrayRef, ArrowError>;

    /// Finds the column.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] when no column has this name and type.
    fn array<'a>(columns: Columns<'a>, name: &str) -> Result<Self::Array<'a>, ArrowError>;

    /// The value in a row. The row must exist.
    fn value<'a>(array: &Self::Array<'a>, row: usize) -> Self::Value<'a>;
}

/// A kind of column that may contain nulls.
pub trait Nullable: Kind {
    /// Adds nulls.
    fn append_nulls(builder: &mut Self::Builder, count: usize);

    /// Whether a row is null.
    fn is_null(array: &Self::Array<'_>, row: usize) -> bool;
}

/// Declares a kind: its value, its builder, its array, its lookup, and how a value is written and read.
macro_rules! kind {
    (
        $doc:literal $kind:ident: $value:ty,
        $builder:ty = $new:expr, $write:expr, $write_empty:expr,
        $array:ty, $find:ident, $read:expr
    ) => {
        #[doc = $doc]
        #[derive(Debug)]
        pub struct $kind;

        impl Kind for $kind {
            const TYPE: ColumnType = ColumnType::$kind;
            type Value<'a> = $value;
            type Builder = $builder;
            type Array<'a> = &'a $array;

            fn builder() -> $builder {
                $new
            }
            fn append(builder: &mut $builder, value: Self::Value<'_>) {
                $write(builder, value);
            }
            fn append_empty(builder: &mut $builder, count: usize) {
                $write_empty(builder, count);
            }
            fn finish(builder: &mut $builder) -> Result<ArrayRef, ArrowError> {
                Ok(Arc::new(builder.finish()))
            }
            fn array<'a>(columns: Columns<'a>, name: &str) -> Result<&'a $array, ArrowError> {
                columns.$find(name)
            }
            fn value<'a>(array: &Self::Array<'a>, row: usize) -> Self::Value<'a> {
                $read(array.value(row))
            }
        }

        impl Nullable for $kind {
            fn append_nulls(builder: &mut $builder, count: usize) {
                builder.append_nulls(count);
            }
            fn is_null(array: &&$array, row: usize) -> bool {
                array.is_null(row)
            }
        }
    };
}

kind!("Text." Text: &'a str,
    StringBuilder = StringBuilder::new(), StringBuilder::append_value, empty_texts,
    StringArray, text, same);
kind!("A JSON value as text. In the JSON form of a table it is that value." Json: &'a str,
    StringBuilder = StringBuilder::new(), StringBuilder::append_value, empty_texts,
    StringArray, text, same);
kind!("True or false." Flag: bool,
    BooleanBuilder = BooleanBuilder::new(), BooleanBuilder::append_value,
    |builder: &mut BooleanBuilder, count| builder.append_n(count, false),
    BooleanArray, flag, same);
kind!("A 32-bit integer." Int32: i32,
    Int32Builder = Int32Builder::new(), Int32Builder::append_value, zeros,
    Int32Array, int32, same);
kind!("A 64-bit integer." Int64: i64,
    Int64Builder = Int64Builder::new(), Int64Builder::append_value, zeros,
    Int64Array, int, same);
kind!("A 64-bit float." Float: f64,
    Float64Builder = Float64Builder::new(), Float64Builder::append_value, zeros,
    Float64Array, float, same);
kind!("A time, UTC microseconds." Time: i64,
    TimestampMicrosecondBuilder = TimestampMicrosecondBuilder::new().with_data_type(time_type()),
    TimestampMicrosecondBuilder::append_value, zeros,
    TimeArray, time, same);
kind!("Points or percent." Points: points::Points,
    Decimal128Builder = Decimal128Builder::new().with_data_type(ColumnType::Points.data_type()),
    |builder: &mut Decimal128Builder, value: points::Points| builder.append_value(i128::from(value.millionths())), zeros,
    Decimal128Array, decimal, |value| points::Points::from_millionths(value as i64));
kind!("Money, in hundredths." Money: i128,
    Decimal128Builder = Decimal128Builder::new().with_data_type(ColumnType::Money.data_type()),
    Decimal128Builder::append_value, zeros,
    Decimal128Array, decimal, same);

fn empty_texts(builder: &mut StringBuilder, count: usize) {
    (0..count).for_each(|_| builder.append_value(""));
}

fn zeros<T: ArrowPrimitiveType>(builder: &mut PrimitiveBuilder<T>, count: usize) {
    builder.append_value_n(T::Native::default(), count);
}

fn same<T>(value: T) -> T {
    value
}

/// Values of a kind, or nulls, which mean unknown.
#[derive(Debug)]
pub struct Maybe<K>(std::marker::PhantomData<K>);

/// Collects values and nulls. Nulls are only counted until a value follows, because many columns of a batch are all
/// null.
#[derive(Debug)]
pub struct Cells<B> {
    values: B,
    nulls: usize,
}

impl<K: Nullable> Kind for Maybe<K> {
    const TYPE: ColumnType = K::TYPE;
    const NULLABLE: bool = true;
    type Value<'a> = Option<K::Value<'a>>;
    type Builder = Cells<K::Builder>;
    type Array<'a> = K::Array<'a>;

    fn builder() -> Self::Builder {
        Cells { values: K::builder(), nulls: 0 }
    }

    fn append(builder: &mut Self::Builder, value: Self::Value<'_>) {
        let Some(value) = value else {
            builder.nulls += 1;
            return;
        };
        if builder.nulls > 0 {
            K::append_nulls(&mut builder.values, std::mem::take(&mut builder.nulls));
        }
        K::append(&mut builder.values, value);
    }

    fn append_empty(builder: &mut Self::Builder, count: usize) {
        builder.nulls += count;
    }

    fn finish(builder: &mut Self::Builder) -> Result<ArrayRef, ArrowError> {
        K::append_nulls(&mut builder.values, std::mem::take(&mut builder.nulls));
        K::finish(&mut builder.values)
    }

    fn array<'a>(columns: Columns<'a>, name: &str) -> Result<Self::Array<'a>, ArrowError> {
        K::array(columns, name)
    }

    fn value<'a>(array: &Self::Array<'a>, row: usize) -> Self::Value<'a> {
        (!K::is_null(array, row)).then(|| K::value(array, row))
    }
}

/// In each row, a list of rows of another table.
#[derive(Debug)]
pub struct List<T>(std::marker::PhantomData<T>);

/// Collects the rows of lists, and the length of each list.
#[derive(Debug)]
pub struct ListBuilder<W> {
    items: W,
    lengths: Vec<usize>,
}

/// The lists of a batch, and the rows in them.
#[derive(Debug)]
pub struct Lists<'a, R> {
    /// Where the list of each row begins and ends.
    pub lists: &'a ListArray,
    /// The rows of all lists.
    pub items: R,
}

impl<R> Lists<'_, R> {
    /// The items in the list of a row: their numbers in [`Lists::items`].
    pub fn of(&self, row: usize) -> std::ops::Range<usize> {
        let ends = self.lists.value_offsets();
        let end = |row: usize| ends.get(row).copied().unwrap_or_default() as usize;
        end(row)..end(row + 1)
    }
}

/// A column of lists from the columns of all their items, and the number of items of each.
///
/// # Errors
/// [`ArrowError`] when the columns are not those of the table, or the lengths do not sum to their rows.
pub fn lists_of<T: Table>(lengths: Vec<usize>, columns: Vec<ArrayRef>) -> Result<ArrayRef, ArrowError> {
    let items = StructArray::try_new(fields_of(T::COLUMNS).into(), columns, None)?;
    let field = Arc::new(Field::new("item", DataType::Struct(items.fields().clone()), false));
    Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), Arc::new(items), None)?))
}

impl<T: Table> Kind for List<T> {
    const TYPE: ColumnType = ColumnType::List(T::COLUMNS);
    type Value<'a> = Vec<T::Row<'a>>;
    type Builder = ListBuilder<T::Writer>;
    type Array<'a> = Lists<'a, T::Reader<'a>>;

    fn builder() -> Self::Builder {
        ListBuilder { items: T::writer(), lengths: Vec::new() }
    }

    fn append(builder: &mut Self::Builder, value: Self::Value<'_>) {
        builder.lengths.push(value.len());
        value.into_iter().for_each(|row| T::append(&mut builder.items, row));
    }

    fn append_empty(builder: &mut Self::Builder, count: usize) {
        builder.lengths.extend(std::iter::repeat_n(0, count));
    }

    fn finish(builder: &mut Self::Builder) -> Result<ArrayRef, ArrowError> {
        lists_of::<T>(std::mem::take(&mut builder.lengths), T::columns(&mut builder.items)?)
    }

    fn array<'a>(columns: Columns<'a>, name: &str) -> Result<Self::Array<'a>, ArrowError> {
        let (lists, items) = columns.list(name)?;
        Ok(Lists { lists, items: T::reader(items)? })
    }

    fn value<'a>(array: &Self::Array<'a>, row: usize) -> Self::Value<'a> {
        array.of(row).map(|item| T::row(&array.items, item)).collect()
    }
}

/// Declares a kind of map from texts.
macro_rules! map_kind {
    ($doc:literal $kind:ident: $value:ty, $values:ty, $array:ty) => {
        #[doc = $doc]
        #[derive(Debug)]
        pub struct $kind;

        impl Kind for $kind {
            const TYPE: ColumnType = ColumnType::$kind;
            type Value<'a> = Vec<(&'a str, $value)>;
            type Builder = MapCells<$values>;
            type Array<'a> = Maps<'a, $array>;

            fn builder() -> Self::Builder {
                MapCells::default()
            }
            fn append(builder: &mut Self::Builder, value: Self::Value<'_>) {
                builder.lengths.push(value.len());
                builder.nulls.append_non_null();
                for (key, value) in value {
                    builder.keys.append_value(key);
                    builder.values.append_value(value);
                }
            }
            fn append_empty(builder: &mut Self::Builder, count: usize) {
                builder.lengths.extend(std::iter::repeat_n(0, count));
                builder.nulls.append_n_non_nulls(count);
            }
            fn finish(builder: &mut Self::Builder) -> Result<ArrayRef, ArrowError> {
                let (keys, values) = (Arc::new(builder.keys.finish()), Arc::new(builder.values.finish()));
                builder.maps(Self::TYPE, keys, values)
            }
            fn array<'a>(columns: Columns<'a>, name: &str) -> Result<Self::Array<'a>, ArrowError> {
                Maps::of(columns.map(name)?, name)
            }
            fn value<'a>(array: &Self::Array<'a>, row: usize) -> Self::Value<'a> {
                let entries = array.of_row(row);
                entries.map(|entry| (array.keys.value(entry), array.values.value(entry))).collect()
            }
        }

        impl Nullable for $kind {
            fn append_nulls(builder: &mut Self::Builder, count: usize) {
                builder.lengths.extend(std::iter::repeat_n(0, count));
                builder.nulls.append_n_nulls(count);
            }
            fn is_null(array: &Self::Array<'_>, row: usize) -> bool {
                array.maps.is_null(row)
            }
        }
    };
}

map_kind!("A map of texts, each key once." TextMap: &'a str, StringBuilder, StringArray);
map_kind!("A map of counts, each key once." CountMap: i64, Int64Builder, Int64Array);

/// Collects maps: all keys, all values, and the number of entries of each map.
#[derive(Debug)]
pub struct MapCells<V> {
    keys: StringBuilder,
    values: V,
    lengths: Vec<usize>,
    nulls: NullBufferBuilder,
}

impl<V: Default> Default for MapCells<V> {
    fn default() -> Self {
        Self { keys: StringBuilder::new(), values: V::default(), lengths: Vec::new(), nulls: NullBufferBuilder::new(0) }
    }
}

impl<V> MapCells<V> {
    fn maps(&mut self, kind: ColumnType, keys: ArrayRef, values: ArrayRef) -> Result<ArrayRef, ArrowError> {
        let DataType::Map(entry, is_sorted) = kind.data_type() else {
            return Err(ArrowError::SchemaError(format!("{kind:?} is no map")));
        };
        let DataType::Struct(fields) = entry.data_type() else {
            return Err(ArrowError::SchemaError(format!("{kind:?} has no entries")));
        };
        let entries = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
        let ends = OffsetBuffer::from_lengths(self.lengths.drain(..));
        Ok(Arc::new(MapArray::try_new(Arc::clone(&entry), ends, entries, self.nulls.finish(), is_sorted)?))
    }
}

/// The maps of a batch, with their keys and values.
#[derive(Debug)]
pub struct Maps<'a, V> {
    maps: &'a MapArray,
    keys: &'a StringArray,
    values: &'a V,
}

impl<'a, V: 'static> Maps<'a, V> {
    fn of(maps: &'a MapArray, name: &str) -> Result<Self, ArrowError> {
        let wrong = || ArrowError::SchemaError(format!("column {name} is of type {}", maps.data_type()));
        let keys = maps.keys().as_any().downcast_ref().ok_or_else(wrong)?;
        let values = maps.values().as_any().downcast_ref().ok_or_else(wrong)?;
        Ok(Self { maps, keys, values })
    }

    fn of_row(&self, row: usize) -> std::ops::Range<usize> {
        let ends = self.maps.value_offsets();
        let end = |row: usize| ends.get(row).copied().unwrap_or_default() as usize;
        end(row)..end(row + 1)
    }
}
