//! A column in which most rows are null: nulls are appended many at a time.

use arrow::array::{ArrayBuilder, GenericByteBuilder, PrimitiveBuilder};
use arrow::datatypes::{ArrowPrimitiveType, ByteArrayType};

/// A column that stands as far as its last value; the nulls behind it are made up for when another value comes, or at the end.
#[derive(Default)]
pub(super) struct Sparse<B>(B);

/// A builder that appends nulls many at a time.
pub(super) trait Nulls: ArrayBuilder + Default {
    /// Appends so many nulls.
    fn append_nulls(&mut self, num_nulls: usize);
}

impl<T: ArrowPrimitiveType> Nulls for PrimitiveBuilder<T> {
    fn append_nulls(&mut self, num_nulls: usize) {
        Self::append_nulls(self, num_nulls);
    }
}

impl<T: ByteArrayType> Nulls for GenericByteBuilder<T> {
    fn append_nulls(&mut self, num_nulls: usize) {
        Self::append_nulls(self, num_nulls);
    }
}

impl<B: Nulls> Sparse<B> {
    /// The column as far as `row`, exclusive.
    fn up_to(&mut self, row: usize) -> &mut B {
        let num_nulls = row.saturating_sub(self.0.len());
        if num_nulls > 0 {
            self.0.append_nulls(num_nulls);
        }
        &mut self.0
    }

    /// The column of `num_rows` rows; it is empty again.
    pub(super) fn take(&mut self, num_rows: usize) -> B {
        self.up_to(num_rows);
        std::mem::take(&mut self.0)
    }
}

impl<T: ArrowPrimitiveType> Sparse<PrimitiveBuilder<T>> {
    /// What the column holds in `row`, which is behind all that it holds a value in.
    pub(super) fn push(&mut self, row: usize, value: Option<T::Native>) {
        if let Some(value) = value {
            self.up_to(row).append_value(value);
        }
    }
}

impl<T: ByteArrayType> Sparse<GenericByteBuilder<T>> {
    /// What the column holds in `row`, which is behind all that it holds a value in.
    pub(super) fn push(&mut self, row: usize, value: Option<impl AsRef<T::Native>>) {
        if let Some(value) = value {
            self.up_to(row).append_value(value);
        }
    }
}
