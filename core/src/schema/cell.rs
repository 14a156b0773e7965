//! Columns from single values, for rows that are made by hand, such as those in the tests of a model.

use arrow::array::ArrayRef;
use arrow::error::ArrowError;

use super::kind::{CountMap, Flag, Float, Int32, Int64, Kind, Money, Nullable, Text, TextMap, Time};
use super::{Column, ColumnType};

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'c> {
    /// Unknown. In a column that must not be null: 0, false, an empty text or map.
    Null,
    /// Text.
    Text(&'c str),
    /// True or false.
    Flag(bool),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// Money, in hundredths.
    Money(i128),
    /// A time, UTC microseconds.
    Time(i64),
    /// A map of texts.
    TextMap(Vec<(&'c str, &'c str)>),
    /// A map of counts.
    CountMap(Vec<(&'c str, i64)>),
}

/// A column with these values.
///
/// # Errors
/// [`ArrowError::SchemaError`] when a value is not of the column's type.
pub fn array_of(column: &Column, cells: &[Cell<'_>]) -> Result<ArrayRef, ArrowError> {
    macro_rules! of {
        ($kind:ident, $pattern:pat => $value:expr) => {
            filled::<$kind>(column, cells, |cell| match cell {
                $pattern => Some($value),
                _ => None,
            })
        };
    }
    match column.kind {
        ColumnType::Text | ColumnType::Json => of!(Text, Cell::Text(text) => text),
        ColumnType::Flag => of!(Flag, Cell::Flag(flag) => *flag),
        ColumnType::Int32 => of!(Int32, Cell::Int(int) => *int as i32),
        ColumnType::Int64 => of!(Int64, Cell::Int(int) => *int),
        ColumnType::Float => of!(Float, Cell::Float(float) => *float),
        ColumnType::Money => of!(Money, Cell::Money(hundredths) => *hundredths),
        ColumnType::Time => of!(Time, Cell::Time(us) => *us),
        ColumnType::TextMap => of!(TextMap, Cell::TextMap(entries) => entries.clone()),
        ColumnType::CountMap => of!(CountMap, Cell::CountMap(entries) => entries.clone()),
        _ => Err(wrong(column)),
    }
}

fn wrong(column: &Column) -> ArrowError {
    ArrowError::SchemaError(format!("{}: a value is not of its type", column.name))
}

fn filled<'c, K: Nullable>(
    column: &Column,
    cells: &'c [Cell<'c>],
    value: impl Fn(&'c Cell<'c>) -> Option<K::Value<'c>>,
) -> Result<ArrayRef, ArrowError> {
    let mut builder = <K as Kind>::builder();
    for cell in cells {
        match cell {
            Cell::Null if column.nullable => K::append_nulls(&mut builder, 1),
            Cell::Null => K::append_empty(&mut builder, 1),
            cell => K::append(&mut builder, value(cell).ok_or_else(|| wrong(column))?),
        }
    }
    K::finish(&mut builder)
}
