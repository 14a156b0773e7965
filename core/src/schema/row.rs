//! Builds rows of a table cell by cell.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayBuilder, ArrayRef, BooleanBuilder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder,
    ListArray, MapBuilder, RecordBatch, StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::ColumnType::{CountMap, Flag, Float, Int32, List, Money, Points, Text, TextMap, Time};
use super::{Column, ColumnType, fields_of, time_type};

/// The cells of a column. Nulls are only counted until a value follows, because many columns of a batch are all null.
#[derive(Debug)]
struct Cells<B> {
    known: B,
    nulls: usize,
}

impl<B> Cells<B> {
    fn of(known: B) -> Self {
        Self { known, nulls: 0 }
    }

    fn append<T>(&mut self, value: Option<T>, known: impl FnOnce(&mut B, T), nulls: impl FnOnce(&mut B, usize)) {
        match value {
            None => self.nulls += 1,
            Some(value) => known(self.all(nulls), value),
        }
    }

    fn all(&mut self, nulls: impl FnOnce(&mut B, usize)) -> &mut B {
        if self.nulls > 0 {
            nulls(&mut self.known, std::mem::take(&mut self.nulls));
        }
        &mut self.known
    }
}

#[derive(Debug)]
enum ColumnBuilder {
    Text(Cells<StringBuilder>),
    Flag(BooleanBuilder),
    Int32(Int32Builder),
    Int64(Cells<Int64Builder>),
    Float(Cells<Float64Builder>),
    Decimal(Cells<Decimal128Builder>),
    Time(Cells<TimestampMicrosecondBuilder>),
    TextMap(MapBuilder<StringBuilder, StringBuilder>),
    CountMap(MapBuilder<StringBuilder, Int64Builder>),
    List { items: Box<RowBuilder>, lengths: Vec<usize> },
}

impl ColumnBuilder {
    fn of(kind: ColumnType) -> Self {
        match kind {
            Flag => Self::Flag(BooleanBuilder::new()),
            Int32 => Self::Int32(Int32Builder::new()),
            Float => Self::Float(Cells::of(Float64Builder::new())),
            Money | Points => Self::Decimal(Cells::of(Decimal128Builder::new().with_data_type(kind.data_type()))),
            Time => Self::Time(Cells::of(TimestampMicrosecondBuilder::new().with_data_type(time_type()))),
            TextMap => Self::TextMap(MapBuilder::new(None, StringBuilder::new(), StringBuilder::new())),
            CountMap => Self::CountMap(MapBuilder::new(None, StringBuilder::new(), Int64Builder::new())),
            ColumnType::Int64 | ColumnType::Code => Self::Int64(Cells::of(Int64Builder::new())),
            List(columns) => {
                let schema = Arc::new(Schema::new(fields_of(columns)));
                Self::List { items: Box::new(RowBuilder::new(schema, columns.iter())), lengths: Vec::new() }
            }
            Text | ColumnType::Label | ColumnType::Json | ColumnType::Bytes => {
                Self::Text(Cells::of(StringBuilder::new()))
            }
        }
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Text(b) => ArrayBuilder::finish(b.all(StringBuilder::append_nulls)),
            Self::Flag(b) => ArrayBuilder::finish(b),
            Self::Int32(b) => ArrayBuilder::finish(b),
            Self::Int64(b) => ArrayBuilder::finish(b.all(Int64Builder::append_nulls)),
            Self::Float(b) => ArrayBuilder::finish(b.all(Float64Builder::append_nulls)),
            Self::Decimal(b) => ArrayBuilder::finish(b.all(Decimal128Builder::append_nulls)),
            Self::Time(b) => ArrayBuilder::finish(b.all(TimestampMicrosecondBuilder::append_nulls)),
            Self::TextMap(b) => ArrayBuilder::finish(b),
            Self::CountMap(b) => ArrayBuilder::finish(b),
            Self::List { items, lengths } => {
                let items = StructArray::from(items.finish()?);
                let field = Arc::new(Field::new("item", items.data_type().clone(), false));
                let offsets = OffsetBuffer::from_lengths(lengths.drain(..));
                Arc::new(ListArray::try_new(field, offsets, Arc::new(items), None)?)
            }
        })
    }
}

/// Number of first rows of a batch in which column names are checked.
const NAMED_ROWS: usize = 16;

/// Builds rows of a table cell by cell, from left to right. Each call names its column. A wrong type, or a wrong name
/// in the first rows of a batch, makes [`RowBuilder::finish`] fail. The order of cells depends on the code and not on
/// the row, so later rows are not checked: comparing every name makes a close and score 5 to 7 % slower.
#[derive(Debug)]
pub struct RowBuilder {
    schema: SchemaRef,
    builders: Vec<ColumnBuilder>,
    names: Vec<&'static str>,
    cursor: usize,
    num_rows: usize,
    out_of_turn: Option<&'static str>,
}

impl RowBuilder {
    /// A builder for a table with these columns.
    pub fn new(schema: SchemaRef, columns: impl Iterator<Item = &'static Column>) -> Self {
        let (names, builders) = columns.map(|column| (column.name, ColumnBuilder::of(column.kind))).unzip();
        Self { schema, builders, names, cursor: 0, num_rows: 0, out_of_turn: None }
    }

    fn next_column(&mut self, name: &'static str) -> Option<&mut ColumnBuilder> {
        if self.num_rows < NAMED_ROWS {
            // A measure is written for the window and for the window before it, under the same name.
            let turn = self.names.get(self.cursor).copied().unwrap_or_default();
            if turn != name && turn.strip_prefix("previous_") != Some(name) {
                self.out_of_turn.get_or_insert(name);
            }
        }
        self.cursor += 1;
        self.builders.get_mut(self.cursor - 1)
    }

    /// Writes a text cell.
    pub fn text(&mut self, name: &'static str, value: Option<&str>) {
        match self.next_column(name) {
            Some(ColumnBuilder::Text(b)) => {
                b.append(value, |b, value| b.append_value(value), StringBuilder::append_nulls);
            }
            _ => self.out_of_turn = Some(name),
        }
    }

    /// Writes a true-or-false cell.
    pub fn flag(&mut self, name: &'static str, value: bool) {
        match self.next_column(name) {
            Some(ColumnBuilder::Flag(b)) => b.append_value(value),
            _ => self.out_of_turn = Some(name),
        }
    }

    /// Writes a 32-bit integer cell.
    pub fn int32(&mut self, name: &'static str, value: i32) {
        match self.next_column(name) {
            Some(ColumnBuilder::Int32(b)) => b.append_value(value),
            _ => self.out_of_turn = Some(name),
        }
    }

    /// Writes a 64-bit integer cell.
    pub fn int(&mut self, name: &'static str, value: impl Into<Option<i64>>) {
        match self.next_column(name) {
            Some(ColumnBuilder::Int64(b)) => {
                b.append(value.into(), Int64Builder::append_value, Int64Builder::append_nulls);
            }
            _ => self.out_of_turn = Some(name),
        }
    }

    /// Writes a float cell.
    pub fn float(&mut self, name: &'static str, value: Option<f64>) {
        match self.next_column(name) {
            Some(ColumnBuilder::Float(b)) => {
                b.append(value, Float64Builder::append_value, Float64Builder::append_nulls)
            }
            _ => self.out_of_turn = Some(name),
        }
    }

    /// Writes a money cell, in hundredths.
    pub fn money(&mut self, name: &'static str, value: Option<i128>) {
        match self.next_column(name) {
            Some(ColumnBuilder::Decimal(b)) => {
                b.append(value, Decimal128Builder::append_value, Decimal128Builder::append_nulls);
            }
            _ => self.out_of_turn = Some(name),
        }
    }

    /// Writes a cell of points or percent, in millionths.
    pub fn points(&mut self, name: &'static str, value: Option<i64>) {
        self.money(name, value.map(i128::from));
    }

    /// Writes a list of rows. `write` must end each row with [`RowBuilder::end_row`].
    pub fn list(&mut self, name: &'static str, write: impl FnOnce(&mut Self)) {
        let Some(ColumnBuilder::List { items, lengths }) = self.next_column(name) else {
            self.out_of_turn = Some(name);
            return;
        };
        let before = items.num_rows;
        write(items);
        lengths.push(items.num_rows - before);
    }

    /// Writes a time cell, UTC microseconds.
    pub fn time(&mut self, name: &'static str, value: Option<i64>) {
        match self.next_column(name) {
            Some(ColumnBuilder::Time(b)) => {
                b.append(value, TimestampMicrosecondBuilder::append_value, TimestampMicrosecondBuilder::append_nulls);
            }
            _ => self.out_of_turn = Some(name),
        }
    }

    /// Writes a map of texts, or null.
    pub fn text_map<'t>(&mut self, name: &'static str, entries: Option<impl Iterator<Item = (&'t str, &'t str)>>) {
        let Some(ColumnBuilder::TextMap(b)) = self.next_column(name) else {
            self.out_of_turn = Some(name);
            return;
        };
        let is_valid = entries.is_some();
        for (key, value) in entries.into_iter().flatten() {
            b.keys().append_value(key);
            b.values().append_value(value);
        }
        if b.append(is_valid).is_err() {
            self.out_of_turn = Some(name);
        }
    }

    /// Writes a map of counts.
    pub fn count_map<'t>(&mut self, name: &'static str, entries: impl Iterator<Item = (&'t str, i64)>) {
        let Some(ColumnBuilder::CountMap(b)) = self.next_column(name) else {
            self.out_of_turn = Some(name);
            return;
        };
        for (key, value) in entries {
            b.keys().append_value(key);
            b.values().append_value(value);
        }
        if b.append(true).is_err() {
            self.out_of_turn = Some(name);
        }
    }

    /// Ends the current row.
    pub fn end_row(&mut self) {
        if self.cursor != self.builders.len() {
            self.out_of_turn.get_or_insert("end of row");
        }
        self.cursor = 0;
        self.num_rows += 1;
    }

    /// Number of rows since the last [`RowBuilder::finish`].
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// Returns the batch and empties the builder.
    ///
    /// # Errors
    /// [`ArrowError`] when a cell was written out of order or the columns do not fit the schema.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        if let Some(name) = self.out_of_turn {
            return Err(ArrowError::SchemaError(format!("cell {name} was written out of turn")));
        }
        self.num_rows = 0;
        let columns = self.builders.iter_mut().map(ColumnBuilder::finish).collect::<Result<_, _>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}
