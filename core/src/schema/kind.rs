//! The kinds of columns: how a value of a column is declared, written and read.
//!
//! [`table!`](super::table) makes a table from a list of them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBuilder, Decimal128Array, Decimal128Builder, Float64Array, Float64Builder,
    Int32Array, Int32Builder, Int64Array, Int64Builder, ListArray, StringArray, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;

use super::columns::{Columns, TimeArray};
use super::{ColumnType, Table, time_type};
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
    ($doc:literal $kind:ident: $value:ty, $builder:ty = $new:expr, $array:ty, $find:ident, $write:expr, $read:expr) => {
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

kind!("Text." Text: &'a str, StringBuilder = StringBuilder::new(), StringArray, text, StringBuilder::append_value, same);
kind!("A JSON value as text. In the JSON form of a table it is that value." Json:
    &'a str, StringBuilder = StringBuilder::new(), StringArray, text, StringBuilder::append_value, same);
kind!("True or false." Flag: bool, BooleanBuilder = BooleanBuilder::new(), BooleanArray, flag, BooleanBuilder::append_value, same);
kind!("A 32-bit integer." Int32: i32, Int32Builder = Int32Builder::new(), Int32Array, int32, Int32Builder::append_value, same);
kind!("A 64-bit integer." Int64: i64, Int64Builder = Int64Builder::new(), Int64Array, int, Int64Builder::append_value, same);
kind!("A 64-bit float." Float: f64, Float64Builder = Float64Builder::new(), Float64Array, float, Float64Builder::append_value, same);
kind!("A time, UTC microseconds." Time: i64,
    TimestampMicrosecondBuilder = TimestampMicrosecondBuilder::new().with_data_type(time_type()),
    TimeArray, time, TimestampMicrosecondBuilder::append_value, same);
kind!("Points or percent." Points: points::Points,
    Decimal128Builder = Decimal128Builder::new().with_data_type(ColumnType::Points.data_type()),
    Decimal128Array, decimal,
    |builder: &mut Decimal128Builder, value: points::Points| builder.append_value(i128::from(value.millionths())),
    |value| points::Points::from_millionths(value as i64));

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

    fn finish(builder: &mut Self::Builder) -> Result<ArrayRef, ArrowError> {
        let items = T::finish(&mut builder.items)?;
        let field = Arc::new(Field::new("item", DataType::Struct(items.fields().clone()), false));
        let ends = OffsetBuffer::from_lengths(builder.lengths.drain(..));
        Ok(Arc::new(ListArray::try_new(field, ends, Arc::new(items), None)?))
    }

    fn array<'a>(columns: Columns<'a>, name: &str) -> Result<Self::Array<'a>, ArrowError> {
        let (lists, items) = columns.list(name)?;
        Ok(Lists { lists, items: T::reader(items)? })
    }

    fn value<'a>(array: &Self::Array<'a>, row: usize) -> Self::Value<'a> {
        array.of(row).map(|item| T::row(&array.items, item)).collect()
    }
}
