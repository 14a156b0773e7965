//! The JSON form of a table: one object a row, written from the columns.
//!
//! Times are RFC 3339 in UTC. Points are decimals with at most six places, money has two. Null means unknown.

use std::io::Write as _;

use arrow::array::{
    Array, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
};
use arrow::error::ArrowError;

use super::columns::{Columns, TimeArray};
use super::health::rfc3339;
use super::{Column, ColumnType};

/// Where the value of a column goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Under the name of the column.
    Own,
    /// Into a nested object, under a key. An object is null where its first column is null.
    Within(&'static str, &'static str),
    /// Nowhere.
    Hidden,
}

/// The rows of a batch as JSON objects.
#[derive(Debug)]
pub struct JsonRows<'b> {
    fields: Vec<Field<'b>>,
}

/// A key with its values.
#[derive(Debug)]
struct Field<'b> {
    name: &'static str,
    /// What stands before each value: comma or bracket, and the key.
    before: String,
    values: Values<'b>,
}

#[derive(Debug)]
enum Values<'b> {
    Text(&'b StringArray),
    Json(&'b StringArray),
    Flag(&'b BooleanArray),
    Int32(&'b Int32Array),
    Int64(&'b Int64Array),
    Float(&'b Float64Array),
    Points(&'b Decimal128Array),
    Money(&'b Decimal128Array),
    /// Times, and the last one with its text: most rows of a batch have the same.
    Time(&'b TimeArray, Option<(i64, String)>),
    /// An object, and the column that tells whether it is null.
    Object(Option<&'b dyn Array>, Vec<Field<'b>>),
    /// Lists of rows, and which items to write.
    List(&'b ListArray, Vec<Field<'b>>, Option<BooleanArray>),
}

impl<'b> JsonRows<'b> {
    /// Prepares the columns of a table. `form` is the name and version of the JSON form, the first key of each object.
    ///
    /// # Errors
    /// [`ArrowError`] when a column is missing, has another type or has no JSON form.
    pub fn of(columns: Columns<'b>, declared: &[Column], form: &str) -> Result<Self, ArrowError> {
        let mut fields = fields(columns, declared)?;
        if let Some(first) = fields.first_mut() {
            first.before.insert_str(1, &format!("\"schema\":{},", serde_json::Value::from(form)));
        }
        Ok(Self { fields })
    }

    /// Writes only some items of a list: those whose flag is true.
    #[must_use]
    pub fn with_items(mut self, list: &str, written: BooleanArray) -> Self {
        for field in self.fields.iter_mut().filter(|field| field.name == list) {
            if let Values::List(_, _, items) = &mut field.values {
                *items = Some(written.clone());
            }
        }
        self
    }

    /// Adds the object of a row. Columns named in `emptied` are written as null, or as an empty list.
    ///
    /// # Errors
    /// [`ArrowError::JsonError`] when a value of kind JSON is not JSON.
    pub fn write(&mut self, row: usize, emptied: &[&str], out: &mut Vec<u8>) -> Result<(), ArrowError> {
        object(&mut self.fields, row, emptied, out)
    }
}

/// The fields of an object. Neighbours within the same nested object become one field.
fn fields<'b>(columns: Columns<'b>, declared: &[Column]) -> Result<Vec<Field<'b>>, ArrowError> {
    let mut fields: Vec<Field<'b>> = Vec::new();
    for column in declared {
        let values = || Values::of(columns, column);
        match column.json {
            Place::Hidden => {}
            Place::Own => fields.push(Field::new(column.name, fields.is_empty(), values()?)),
            Place::Within(object, key) => match fields.last_mut() {
                Some(Field { name, values: Values::Object(_, inner), .. }) if *name == object => {
                    inner.push(Field::new(key, false, values()?));
                }
                _ => {
                    let decides = column.nullable.then(|| columns.named(column.name)).transpose()?;
                    let inner = vec![Field::new(key, true, values()?)];
                    let values = Values::Object(decides.map(AsRef::as_ref), inner);
                    fields.push(Field::new(object, fields.is_empty(), values));
                }
            },
        }
    }
    Ok(fields)
}

fn object(fields: &mut [Field<'_>], row: usize, emptied: &[&str], out: &mut Vec<u8>) -> Result<(), ArrowError> {
    for field in fields {
        out.extend_from_slice(field.before.as_bytes());
        field.values.write(row, emptied, emptied.contains(&field.name), out)?;
    }
    out.push(b'}');
    Ok(())
}

impl<'b> Field<'b> {
    fn new(name: &'static str, is_first: bool, values: Values<'b>) -> Self {
        Self { name, before: format!("{}\"{name}\":", if is_first { '{' } else { ',' }), values }
    }
}

impl<'b> Values<'b> {
    fn of(columns: Columns<'b>, column: &Column) -> Result<Self, ArrowError> {
        let name = column.name;
        Ok(match column.kind {
            ColumnType::Text => Self::Text(columns.text(name)?),
            ColumnType::Json => Self::Json(columns.text(name)?),
            ColumnType::Flag => Self::Flag(columns.flag(name)?),
            ColumnType::Int32 => Self::Int32(columns.int32(name)?),
            ColumnType::Int64 => Self::Int64(columns.int(name)?),
            ColumnType::Float => Self::Float(columns.float(name)?),
            ColumnType::Points => Self::Points(columns.decimal(name)?),
            ColumnType::Money => Self::Money(columns.decimal(name)?),
            ColumnType::Time => Self::Time(columns.time(name)?, None),
            ColumnType::List(declared) => {
                let (list, items) = columns.list(name)?;
                Self::List(list, fields(items, declared)?, None)
            }
            other => return Err(ArrowError::NotYetImplemented(format!("column {name}: {other:?} as JSON"))),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(values) | Self::Json(values) => values.is_null(row),
            Self::Flag(values) => values.is_null(row),
            Self::Int32(values) => values.is_null(row),
            Self::Int64(values) => values.is_null(row),
            Self::Float(values) => values.is_null(row),
            Self::Points(values) | Self::Money(values) => values.is_null(row),
            Self::Time(values, _) => values.is_null(row),
            Self::Object(decides, _) => decides.is_some_and(|values| values.is_null(row)),
            Self::List(values, ..) => values.is_null(row),
        }
    }

    fn write(&mut self, row: usize, emptied: &[&str], is_empty: bool, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::List(..) if is_empty => out.extend_from_slice(b"[]"),
            _ if is_empty || self.is_null(row) => out.extend_from_slice(b"null"),
            Self::Text(values) => json(values.value(row), out)?,
            Self::Json(values) => {
                // Read and written again, so that its form does not depend on who wrote it.
                let value: serde_json::Value = serde_json::from_str(values.value(row)).map_err(refused)?;
                json(&value, out)?;
            }
            Self::Flag(values) => json(&values.value(row), out)?,
            Self::Int32(values) => json(&values.value(row), out)?,
            Self::Int64(values) => json(&values.value(row), out)?,
            Self::Float(values) => json(&values.value(row), out)?,
            Self::Points(values) => points(values.value(row) as i64, out)?,
            Self::Money(values) => money(values.value(row), out)?,
            Self::Time(values, last) => {
                let us = values.value(row);
                let (_, text) = match last {
                    Some(known) if known.0 == us => known,
                    _ => last.insert((us, rfc3339(us))),
                };
                json(text.as_str(), out)?;
            }
            Self::Object(_, fields) => object(fields, row, emptied, out)?,
            Self::List(lists, fields, written) => {
                let ends = lists.value_offsets();
                let end = |row: usize| ends.get(row).copied().unwrap_or_default() as usize;
                let is_written = |item: &usize| written.as_ref().is_none_or(|written| written.value(*item));
                out.push(b'[');
                for (number, item) in (end(row)..end(row + 1)).filter(is_written).enumerate() {
                    if number > 0 {
                        out.push(b',');
                    }
                    object(fields, item, emptied, out)?;
                }
                out.push(b']');
            }
        }
        Ok(())
    }
}

fn refused(error: serde_json::Error) -> ArrowError {
    ArrowError::JsonError(error.to_string())
}

fn json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    serde_json::to_writer(out, value).map_err(refused)
}

/// Millionths from here on are not exact as a float, and the shortest text of the float is written.
const EXACT: u64 = 1 << 53;

/// Writes millionths as the shortest text of their float, which is the decimal itself.
fn points(millionths: i64, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let size = millionths.unsigned_abs();
    // The shortest texts below 0.00001 have an exponent.
    if size >= EXACT || (1..10).contains(&size) {
        return json(&(millionths as f64 / 1e6), out);
    }
    let sign = if millionths < 0 { "-" } else { "" };
    write!(out, "{sign}{}.{:06}", size / 1_000_000, size % 1_000_000)?;
    let zeros = out.iter().rev().take(5).take_while(|digit| **digit == b'0').count();
    out.truncate(out.len() - zeros);
    Ok(())
}

/// Writes hundredths with two decimals.
fn money(hundredths: i128, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let (sign, size) = (if hundredths < 0 { "-" } else { "" }, hundredths.unsigned_abs());
    Ok(write!(out, "{sign}{}.{:02}", size / 100, size % 100)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn money_has_two_decimals() {
        for (hundredths, expected) in [(0, "0.00"), (5, "0.05"), (125_050, "1250.50"), (-1, "-0.01")] {
            let mut text = Vec::new();
            money(hundredths, &mut text).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn points_are_written_as_their_float(millionths in prop_oneof![any::<i64>(), -20..20_i64, -200_000_000..200_000_000_i64]) {
            let mut text = Vec::new();
            points(millionths, &mut text).unwrap();
            let expected = serde_json::to_string(&(millionths as f64 / 1e6)).unwrap();
            prop_assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }
}
