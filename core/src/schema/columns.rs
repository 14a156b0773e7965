//! Access to columns by name and type. A missing column or another type is an error, never a panic.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, MapArray,
    PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{ArrowPrimitiveType, Decimal128Type, TimestampMicrosecondType};
use arrow::error::ArrowError;

/// Times in UTC microseconds.
pub type TimeArray = PrimitiveArray<TimestampMicrosecondType>;

/// Something with named columns: a batch, or the rows in a list.
#[derive(Debug, Clone, Copy)]
pub enum Columns<'b> {
    /// The columns of a batch.
    Batch(&'b RecordBatch),
    /// The columns of the rows in a list.
    Items(&'b StructArray),
}

impl<'b> Columns<'b> {
    pub(crate) fn named(self, name: &str) -> Result<&'b ArrayRef, ArrowError> {
        let column = match self {
            Self::Batch(batch) => batch.column_by_name(name),
            Self::Items(items) => items.column_by_name(name),
        };
        column.ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")))
    }

    fn typed<T: 'static>(self, name: &str) -> Result<&'b T, ArrowError> {
        let column = self.named(name)?;
        let wrong = || ArrowError::SchemaError(format!("column {name} is of type {}", column.data_type()));
        column.as_any().downcast_ref::<T>().ok_or_else(wrong)
    }

    /// A column of strings.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] when no column has this name and type. The same holds for the methods below.
    pub fn text(self, name: &str) -> Result<&'b StringArray, ArrowError> {
        self.typed(name)
    }

    /// A column of flags.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn flag(self, name: &str) -> Result<&'b BooleanArray, ArrowError> {
        self.typed(name)
    }

    /// A column of 32-bit integers.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn int32(self, name: &str) -> Result<&'b Int32Array, ArrowError> {
        self.typed(name)
    }

    /// A column of 64-bit integers.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn int(self, name: &str) -> Result<&'b Int64Array, ArrowError> {
        self.typed(name)
    }

    /// A column of floats.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn float(self, name: &str) -> Result<&'b Float64Array, ArrowError> {
        self.typed(name)
    }

    /// A column of decimals.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn decimal(self, name: &str) -> Result<&'b Decimal128Array, ArrowError> {
        self.typed(name)
    }

    /// A column of times.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn time(self, name: &str) -> Result<&'b TimeArray, ArrowError> {
        self.typed(name)
    }

    /// A column of maps.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn map(self, name: &str) -> Result<&'b MapArray, ArrowError> {
        self.typed(name)
    }

    /// A column of lists, and the columns of the rows in them.
    ///
    /// # Errors
    /// See [`Columns::text`].
    pub fn list(self, name: &str) -> Result<(&'b ListArray, Columns<'b>), ArrowError> {
        let list: &ListArray = self.typed(name)?;
        let items = list.values().as_struct_opt();
        let wrong = || ArrowError::SchemaError(format!("column {name} is no list of rows"));
        Ok((list, Columns::Items(items.ok_or_else(wrong)?)))
    }
}

/// The text in a row, or none if it is null.
pub fn text(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// The number in a row, or none if it is null.
pub fn number<T: ArrowPrimitiveType>(column: &PrimitiveArray<T>, row: usize) -> Option<T::Native> {
    column.is_valid(row).then(|| column.value(row))
}

/// The points in a row, in millionths, or none if they are null.
pub fn millionths(column: &PrimitiveArray<Decimal128Type>, row: usize) -> Option<i64> {
    column.is_valid(row).then(|| column.value(row) as i64)
}
