//! The inputs of a score: for each factor the columns that its SQL uses, with their values.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use keepwell_core::schema::columns::Columns;
use serde::Serialize;

use crate::compile::Compiled;
use crate::evidence::evidence;
use crate::windows::with_facts;

/// The columns that a factor uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inputs {
    /// Window of the row that the SQL reads.
    pub period: String,
    /// The values by column. Null means unknown. Columns about earlier rows are not included.
    pub columns: serde_json::Value,
}

/// The inputs of each factor of a model, by name of the factor, from the window rows of one account at one time.
///
/// # Errors
/// [`ArrowError`] when the rows do not belong to the `windows` table.
pub fn inputs(file: &Compiled, model: &str, windows: &RecordBatch) -> Result<BTreeMap<String, Inputs>, ArrowError> {
    let mut inputs = BTreeMap::new();
    let Some(model) = file.models.iter().find(|known| *known.model.name.value == *model) else { return Ok(inputs) };
    let windows = &with_facts(windows)?;
    let periods = Columns::Batch(windows).text("period")?;
    for (factor, compute) in model.model.factors.iter().zip(&model.factors) {
        let row = periods.iter().position(|period| period == Some(compute.period.as_str()));
        let schema = windows.schema();
        let known: Vec<usize> = compute.columns().filter_map(|name| schema.index_of(name).ok()).collect();
        let text =
            row.map(|row| evidence(&windows.project(&known)?, &[row as u32])).transpose()?.unwrap_or_default().pop();
        let text = text.unwrap_or_else(|| "{}".to_owned());
        let columns = serde_json::from_str(&text).map_err(|error| ArrowError::JsonError(error.to_string()))?;
        inputs.insert(factor.name.value.to_string(), Inputs { period: compute.period.clone(), columns });
    }
    Ok(inputs)
}
