//! A table from one declaration: its columns, schema, writer, reader, dictionary and JSON form.

use arrow::array::ArrayRef;
use arrow::error::ArrowError;

use super::Column;
use super::columns::Columns;

/// A declared table. [`table!`] implements it.
pub trait Table {
    /// Its columns, in order.
    const COLUMNS: &'static [Column];
    /// One row.
    type Row<'a>;
    /// Collects rows.
    type Writer: std::fmt::Debug;
    /// The columns of a batch.
    type Reader<'a>;

    /// A writer without rows.
    fn writer() -> Self::Writer;

    /// Adds a row.
    fn append(writer: &mut Self::Writer, row: Self::Row<'_>);

    /// Adds rows of empty values: 0, false, an empty text, list or map; null where null is allowed.
    fn append_empty(writer: &mut Self::Writer, count: usize);

    /// Returns the columns and empties the writer.
    ///
    /// # Errors
    /// [`ArrowError`] when a list is longer than Arrow allows.
    fn columns(writer: &mut Self::Writer) -> Result<Vec<ArrayRef>, ArrowError>;

    /// Finds the columns.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] when a column is missing or has another type.
    fn reader(columns: Columns<'_>) -> Result<Self::Reader<'_>, ArrowError>;

    /// One row. It must exist.
    fn row<'a>(reader: &Self::Reader<'a>, row: usize) -> Self::Row<'a>;
}

/// Columns of which a row has all or nothing. Rows with nothing are only counted until one with something follows.
#[derive(Debug)]
pub struct Sparse<T: Table> {
    writer: T::Writer,
    /// Number of empty rows that it does not have yet.
    num_empty: usize,
}

impl<T: Table> Default for Sparse<T> {
    fn default() -> Self {
        Self { writer: T::writer(), num_empty: 0 }
    }
}

impl<T: Table> Sparse<T> {
    /// Adds a row; none is an empty one.
    pub fn append(&mut self, row: Option<T::Row<'_>>) {
        let Some(row) = row else {
            self.num_empty += 1;
            return;
        };
        self.write_empty();
        T::append(&mut self.writer, row);
    }

    /// Writes the empty rows that were only counted.
    fn write_empty(&mut self) {
        let count = std::mem::take(&mut self.num_empty);
        if count > 0 {
            T::append_empty(&mut self.writer, count);
        }
    }

    /// Returns the columns and empties the writer.
    ///
    /// # Errors
    /// [`ArrowError`] when a list is longer than Arrow allows.
    pub fn columns(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.write_empty();
        T::columns(&mut self.writer)
    }

    /// Returns the columns with these indices and empties the writer. Without indices it writes nothing.
    ///
    /// # Errors
    /// [`ArrowError`] when a list is longer than Arrow allows.
    pub fn kept(&mut self, indices: &[usize]) -> Result<Vec<ArrayRef>, ArrowError> {
        if indices.is_empty() {
            self.num_empty = 0;
            return Ok(Vec::new());
        }
        let columns = self.columns()?;
        Ok(indices.iter().filter_map(|index| columns.get(*index).cloned()).collect())
    }
}

/// Declares a table in the current module. Each column is one entry:
///
/// ```text
/// field as "column": Kind = "meaning" => json;
/// ```
///
/// - `as "column"` is needed only where the column has another name than the field.
/// - `Kind` is one of [`crate::schema::kind`]: `Text`, `Maybe<Points>`, `List<factor::Rows>`.
/// - `=> json` is needed only where the JSON form differs: `hidden`, or `object.key` for a key of a nested object.
///
/// It makes `COLUMNS`, `Row`, `Writer`, `Reader`, and `Rows`, which stands for the table as a type. If the first entry is
/// the table's name and version, such as `"health/2":`, it also makes `TABLE`, `schema()` and `Writer::finish`.
macro_rules! table {
    ($table:literal: $($column:tt)+) => {
        $crate::schema::table! { $($column)+ }

        /// Name and version of the table, as in the schema metadata.
        pub const TABLE: &str = $table;

        static SCHEMA: std::sync::LazyLock<arrow::datatypes::SchemaRef> =
            std::sync::LazyLock::new(|| $crate::schema::schema_of(TABLE, COLUMNS));

        /// The Arrow schema of the table.
        pub fn schema() -> arrow::datatypes::SchemaRef {
            std::sync::Arc::clone(&SCHEMA)
        }

        impl Writer {
            /// Returns the batch and empties the writer.
            ///
            /// # Errors
            /// [`ArrowError`](arrow::error::ArrowError) when a list is longer than Arrow allows.
            pub fn finish(&mut self) -> Result<arrow::array::RecordBatch, arrow::error::ArrowError> {
                arrow::array::RecordBatch::try_new(schema(), self.columns()?)
            }
        }
    };
    ($($field:ident $(as $name:literal)?: $kind:ty = $doc:literal $(=> $($json:ident).+)?;)+) => {
        /// The columns of the table, in order.
        pub const COLUMNS: &[$crate::schema::Column] = &[$($crate::schema::Column {
            name: $crate::schema::table!(@name $field $($name)?),
            kind: <$kind as $crate::schema::kind::Kind>::TYPE,
            nullable: <$kind as $crate::schema::kind::Kind>::NULLABLE,
            doc: $doc,
            json: $crate::schema::table!(@json $($($json)+)?),
        }),+];

        /// One row of the table.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Row<'r> {
            $(#[doc = $doc] pub $field: <$kind as $crate::schema::kind::Kind>::Value<'r>,)+
        }

        /// Collects rows of the table, column by column.
        #[derive(Debug)]
        pub struct Writer {
            num_rows: usize,
            $($field: <$kind as $crate::schema::kind::Kind>::Builder,)+
        }

        impl Default for Writer {
            fn default() -> Self {
                Self { num_rows: 0, $($field: <$kind as $crate::schema::kind::Kind>::builder(),)+ }
            }
        }

        impl Writer {
            /// Adds a row.
            pub fn append(&mut self, row: Row<'_>) {
                self.num_rows += 1;
                $(<$kind as $crate::schema::kind::Kind>::append(&mut self.$field, row.$field);)+
            }

            /// Adds rows of empty values: 0, false, an empty text, list or map; null where null is allowed.
            pub fn append_empty(&mut self, count: usize) {
                self.num_rows += count;
                $(<$kind as $crate::schema::kind::Kind>::append_empty(&mut self.$field, count);)+
            }

            /// Number of rows since the last [`Writer::columns`].
            pub fn num_rows(&self) -> usize {
                self.num_rows
            }

            /// Returns the columns and empties the writer.
            ///
            /// # Errors
            /// [`ArrowError`](arrow::error::ArrowError) when a list is longer than Arrow allows.
            pub fn columns(&mut self) -> Result<Vec<arrow::array::ArrayRef>, arrow::error::ArrowError> {
                self.num_rows = 0;
                Ok(vec![$(<$kind as $crate::schema::kind::Kind>::finish(&mut self.$field)?,)+])
            }
        }

        /// The columns of a batch of the table, found and checked once.
        #[derive(Debug)]
        pub struct Reader<'r> {
            $(#[doc = $doc] pub $field: <$kind as $crate::schema::kind::Kind>::Array<'r>,)+
        }

        impl<'r> Reader<'r> {
            /// Finds the columns.
            ///
            /// # Errors
            /// [`ArrowError::SchemaError`](arrow::error::ArrowError) when a column is missing or has another type.
            pub fn of(columns: $crate::schema::columns::Columns<'r>) -> Result<Self, arrow::error::ArrowError> {
                Ok(Self {
                    $($field: <$kind as $crate::schema::kind::Kind>::array(
                        columns,
                        $crate::schema::table!(@name $field $($name)?),
                    )?,)+
                })
            }

            /// One row. It must exist.
            pub fn row(&self, row: usize) -> Row<'r> {
                Row { $($field: <$kind as $crate::schema::kind::Kind>::value(&self.$field, row),)+ }
            }
        }

        /// The table as a type.
        #[derive(Debug)]
        pub struct Rows;

        impl $crate::schema::Table for Rows {
            const COLUMNS: &'static [$crate::schema::Column] = COLUMNS;
            type Row<'a> = Row<'a>;
            type Writer = Writer;
            type Reader<'a> = Reader<'a>;

            fn writer() -> Writer {
                Writer::default()
            }
            fn append(writer: &mut Writer, row: Row<'_>) {
                writer.append(row);
            }
            fn append_empty(writer: &mut Writer, count: usize) {
                writer.append_empty(count);
            }
            fn columns(writer: &mut Writer) -> Result<Vec<arrow::array::ArrayRef>, arrow::error::ArrowError> {
                writer.columns()
            }
            fn reader(columns: $crate::schema::columns::Columns<'_>) -> Result<Reader<'_>, arrow::error::ArrowError> {
                Reader::of(columns)
            }
            fn row<'a>(reader: &Self::Reader<'a>, row: usize) -> Self::Row<'a> {
                reader.row(row)
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $name:literal) => { $name };
    (@json) => { $crate::schema::json::Place::Own };
    (@json hidden) => { $crate::schema::json::Place::Hidden };
    (@json $object:ident $key:ident) => {
        $crate::schema::json::Place::Within(stringify!($object), stringify!($key))
    };
}

pub(crate) use table;
