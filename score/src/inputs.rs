//! The inputs of a score: for each factor the columns that its SQL uses, with their values.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use keepwell_core::schema::window::Layout;
use serde::Serialize;

use crate::compile::Compiled;
use crate::evidence::evidence;

/// The columns that a factor uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inputs {
    /// Window that the SQL reads.
    pub period: String,
    /// The values by column. Null means unknown. Columns about earlier rows are not included.
    pub columns: serde_json::Value,
}

/// The inputs of each factor of a model, by name of the factor, from the window row of one account at one time.
///
/// # Errors
/// [`ArrowError`] when the rows do not belong to the `windows` table.
pub fn inputs(
    file: &Compiled,
    model: &str,
    windows: &RecordBatch,
    layout: &Layout,
) -> Result<BTreeMap<String, Inputs>, ArrowError> {
    let mut inputs = BTreeMap::new();
    let Some(model) = file.models.iter().find(|known| *known.model.name.value == *model) else { return Ok(inputs) };
    for (factor, compute) in model.model.factors.iter().zip(&model.factors) {
        let named = compute.columns().filter_map(|name| Some((name, layout.index_of(name, &compute.period)?)));
        let named = named.map(|(name, index)| (name, ArrayRef::clone(windows.column(index)), true));
        let named: Vec<_> = named.collect();
        let text = match named.is_empty() || windows.num_rows() == 0 {
            true => None,
            false => evidence(&RecordBatch::try_from_iter_with_nullable(named)?, &[0])?.pop(),
        };
        let text = text.unwrap_or_else(|| "{}".to_owned());
        let columns = serde_json::from_str(&text).map_err(|error| ArrowError::JsonError(error.to_string()))?;
        inputs.insert(factor.name.value.to_string(), Inputs { period: compute.period.clone(), columns });
    }
    Ok(inputs)
}
