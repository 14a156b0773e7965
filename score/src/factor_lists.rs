//! The factors of health rows, as one column of lists.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::error::ArrowError;
use keepwell_core::interned::Name;
use keepwell_core::points::Points;
use keepwell_core::schema::columns::TimeArray;
use keepwell_core::schema::{ColumnType, health, lists_of};

use crate::compile::CompiledModel;
use crate::rate::{FactorColumns, LIMIT, Rating, START};

/// Collects the factors of rows.
#[derive(Debug, Default)]
pub struct FactorLists {
    factors: FactorColumns,
    /// The names that belong to each factor: their number in `names`.
    named: Vec<u32>,
    lengths: Vec<usize>,
    /// Names and groups of the factors of all models that occur.
    names: Vec<(Name, Option<Name>)>,
    /// Where those of a model are, by its digest.
    models: Vec<(u64, Range<u32>)>,
}

impl FactorLists {
    /// Adds the factors of a row. None is a row without factors.
    pub fn push(&mut self, rated: Option<(&CompiledModel, &Rating<'_>)>) {
        let Some((model, rating)) = rated else {
            self.lengths.push(0);
            return;
        };
        let names = self.names_of(model);
        self.named.extend(names.take(rating.range.len()));
        self.factors.extend(rating.factors, rating.range.clone());
        self.lengths.push(rating.range.len());
    }

    /// The numbers of the names of a model's factors; those of start and limit are at the end.
    fn names_of(&mut self, model: &CompiledModel) -> Range<u32> {
        // The model of the row before is likely.
        if let Some((_, known)) = self.models.iter().rev().find(|(digest, _)| *digest == model.digest) {
            return known.clone();
        }
        let begin = self.names.len() as u32;
        let declared = model.model.factors.iter();
        let declared = declared.map(|f| (f.name.value.clone(), f.group.as_ref().map(|group| group.value.clone())));
        let ends = [START, LIMIT].map(|name| (Name::from(name), None));
        self.names.extend(declared.chain(ends));
        let names = begin..self.names.len() as u32;
        self.models.push((model.digest, names.clone()));
        names
    }

    /// The column, as `health` declares it. Nothing is left.
    ///
    /// # Errors
    /// [`ArrowError`] when the lists are longer than Arrow allows.
    pub fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let Self { factors, named, lengths, names, .. } = std::mem::take(self);
        let named = UInt32Array::from(named);
        let texts = |of: fn(&(Name, Option<Name>)) -> Option<&str>| {
            take(&names.iter().map(of).collect::<StringArray>(), &named, None)
        };
        let columns: Vec<ArrayRef> = vec![
            texts(|(name, _)| Some(name.as_str()))?,
            texts(|(_, group)| group.as_ref().map(Name::as_str))?,
            Arc::new(Float64Array::from(factors.value)),
            points(factors.normalised)?,
            points(factors.weight.into_iter().map(Some))?,
            points(factors.effective_weight.into_iter().map(Some))?,
            points(factors.contribution)?,
            Arc::new(StringArray::from(factors.missing)),
            Arc::new(TimeArray::from(factors.carried_from_us).with_data_type(ColumnType::Time.data_type())),
        ];
        lists_of::<health::factor::Rows>(lengths, columns)
    }
}

fn points(points: impl IntoIterator<Item = Option<Points>>) -> Result<ArrayRef, ArrowError> {
    let millionths = points.into_iter().map(|points| points.map(|points| i128::from(points.millionths())));
    Ok(Arc::new(millionths.collect::<Decimal128Array>().with_data_type(ColumnType::Points.data_type())))
}
