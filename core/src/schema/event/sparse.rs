//! A column in which most rows are null. It appends many nulls at once.

use arrow::array::{ArrayBuilder, GenericByteBuilder, PrimitiveBuilder};
use arrow::datatypes::{ArrowPrimitiveType, ByteArrayType};

/// A column filled up to its last value. The nulls behind it are added with the next value, or at the end.
#[derive(Default)]
pub(super) struct Sparse<B>(B);

/// A builder that can append many nulls at once.
pub(super) trait Nulls: ArrayBuilder + Default {
    /// Appends `num_nulls` nulls.
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
    /// The column, filled up to `row` (exclusive).
    fn up_to(&mut self, row: usize) -> &mut B {
        let num_nulls = row.saturating_sub(self.0.len());
        if num_nulls > 0 {
            self.0.append_nulls(num_nulls);
        }
        &mut self.0
    }

    /// Returns the column with `num_rows` rows, and empties it.
    pub(super) fn take(&mut self, num_rows: usize) -> B {
        self.up_to(num_rows);
        std::mem::take(&mut self.0)
    }
}

impl<T: ArrowPrimitiveType> Sparse<PrimitiveBuilder<T>> {
    /// Writes the value of `row`, which must be behind every value written before.
    pub(super) fn push(&mut self, row: usize, value: Option<T::Native>) {
        if let Some(value) = value {
            self.up_to(row).append_value(value);
        }
    }
}

impl<T: ByteArrayType> Sparse<GenericByteBuilder<T>> {
    /// Writes the value of `row`, which must be behind every value written before.
    pub(super) fn push(&mut self, row: usize, value: Option<impl AsRef<T::Native>>) {
        if let Some(value) = value {
            self.up_to(row).append_value(value);
        }
    }
}
