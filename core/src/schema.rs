//! Tables: the columns of every batch in a `keepwell.*` topic and in Parquet, with their units and meaning.
//!
//! Each table has one list of [`Column`]s. The Arrow schema, the check of a reader and the data dictionary all come
//! from it. A table that is declared with `table!` also gets its writer, reader and JSON form from it. A nullable column may be added to a version (see [`crate::codec::decode`]). Any other change is a new
//! version.

pub mod cell;
pub mod columns;
pub mod dictionary;
pub mod event;
pub mod feature_day;
#[cfg(test)]
mod golden;
pub mod health;
pub mod json;
pub mod json_schema;
pub mod kind;
pub mod revenue;
mod table;
pub mod window;

pub use kind::lists_of;
pub(crate) use table::table;
pub use table::{Sparse, Table};

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// Metadata key of a schema for its table and version, e.g. `events/1`.
pub const TABLE_KEY: &str = "keepwell.table";
/// Metadata key of a schema for the measures that its rows keep, as configured.
pub const MEASURES_KEY: &str = "keepwell.measures";

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// Text with few different values, dictionary-encoded.
    Label,
    /// A JSON value as text.
    Json,
    /// Raw bytes.
    Bytes,
    /// Code of an enumeration, unsigned 8-bit integer.
    Code,
    /// True or false.
    Flag,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// 64-bit float. Used only for quotients, which are divided once at output.
    Float,
    /// Money with two decimals.
    Money,
    /// Points or percent with six decimals.
    Points,
    /// Point in time, UTC microseconds.
    Time,
    /// Map of text to text.
    TextMap,
    /// Map of text to a 64-bit integer.
    CountMap,
    /// List of rows of these columns.
    List(&'static [Column]),
}

/// One column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Name in the field's standard terms. It ends with the unit.
    pub name: &'static str,
    /// Type of its values.
    pub kind: ColumnType,
    /// Whether it may contain nulls, which mean unknown.
    pub nullable: bool,
    /// Meaning of the column, for the data dictionary.
    pub doc: &'static str,
    /// Where it stands in the JSON form of the table.
    pub json: json::Place,
}

/// A column that is never null.
pub(crate) const fn known(name: &'static str, kind: ColumnType, doc: &'static str) -> Column {
    Column { name, kind, nullable: false, doc, json: json::Place::Own }
}

/// A column in which null means unknown.
pub(crate) const fn maybe(name: &'static str, kind: ColumnType, doc: &'static str) -> Column {
    Column { name, kind, nullable: true, doc, json: json::Place::Own }
}

/// Index of a column in its table. Evaluate it at compile time: then an unknown name is a compile error.
pub(crate) const fn position(columns: &[Column], name: &str) -> usize {
    let mut place = 0;
    while !is_same(columns[place].name.as_bytes(), name.as_bytes()) {
        place += 1;
    }
    place
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut place = 0;
    while place < one.len() && place < other.len() && one[place] == other[place] {
        place += 1;
    }
    place == one.len() && place == other.len()
}

/// The Arrow type of a UTC time in microseconds. The zone is an offset, so no time-zone database is needed.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

impl ColumnType {
    /// The Arrow type of this column type.
    pub fn data_type(self) -> DataType {
        let map_of = |values: DataType| {
            let entries = DataType::Struct(
                vec![Field::new("keys", DataType::Utf8, false), Field::new("values", values, true)].into(),
            );
            DataType::Map(Arc::new(Field::new("entries", entries, false)), false)
        };
        match self {
            Self::Text | Self::Json => DataType::Utf8,
            Self::Label => DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8)),
            Self::Bytes => DataType::Binary,
            Self::Code => DataType::UInt8,
            Self::Flag => DataType::Boolean,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Money => DataType::Decimal128(18, 2),
            Self::Points => DataType::Decimal128(18, 6),
            Self::Time => time_type(),
            Self::TextMap => map_of(DataType::Utf8),
            Self::CountMap => map_of(DataType::Int64),
            Self::List(columns) => {
                DataType::List(Arc::new(Field::new("item", DataType::Struct(fields_of(columns).into()), false)))
            }
        }
    }
}

/// The Arrow schema of a table: its columns, with the name `table` (such as `events/1`) in the metadata.
pub fn schema_of<'a>(table: &str, columns: impl IntoIterator<Item = &'a Column>) -> SchemaRef {
    Arc::new(Schema::new_with_metadata(fields_of(columns), [(TABLE_KEY.to_owned(), table.to_owned())].into()))
}

pub(crate) fn fields_of<'a>(columns: impl IntoIterator<Item = &'a Column>) -> Vec<Field> {
    columns.into_iter().map(|column| Field::new(column.name, column.kind.data_type(), column.nullable)).collect()
}
