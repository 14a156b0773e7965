//! A compiled expression, and its values for rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Float64Type, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion_common::{DataFusionError, Result as PlanResult};
use datafusion_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use datafusion_physical_expr::PhysicalExpr;
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::time_type;

/// An expression over the row of one window.
#[derive(Debug, Clone)]
pub struct Expression {
    /// Name of the window.
    pub period: String,
    /// The columns that the expression uses.
    columns: SchemaRef,
    expr: Arc<dyn PhysicalExpr>,
}

impl Expression {
    /// An expression over these columns. It is tried on a row of nulls: what fails there would fail on the first
    /// account.
    ///
    /// # Errors
    /// When the expression fails on nulls.
    pub fn new(period: &str, columns: SchemaRef, expr: Arc<dyn PhysicalExpr>) -> PlanResult<Self> {
        let nulls = columns.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let nulls = RecordBatch::try_new_with_options(Arc::clone(&columns), nulls, &options)?;
        let compute = Self { period: period.to_owned(), columns, expr };
        compute.tried(&nulls)?;
        Ok(compute)
    }

    /// Names of the columns that the expression uses.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.fields().iter().map(|field| field.name().as_str())
    }

    /// The columns that the expression uses, as a batch of `num_rows` rows.
    ///
    /// # Errors
    /// [`ArrowError`] when a column is missing or has another type.
    pub fn inputs(
        &self,
        num_rows: usize,
        column: impl Fn(&str) -> Option<ArrayRef>,
    ) -> Result<RecordBatch, ArrowError> {
        let named = |name: &str| column(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")));
        let columns: Vec<ArrayRef> = self.columns().map(named).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(num_rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.columns), columns, &options)
    }

    /// Values of the expression for rows from [`Expression::inputs`].
    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, ArrowError> {
        let evaluate = |rows: &RecordBatch| self.tried(rows);
        if let Ok(values) = evaluate(rows) {
            return Ok(values);
        }
        // A row on which the expression fails, e.g. by a division by zero, is unknown; other rows are not. Evaluated
        // row by row, a condition protects the terms after it, whatever other rows are in the batch.
        let failed = |error: DataFusionError| ArrowError::ComputeError(error.to_string());
        let unknown = new_null_array(&self.expr.data_type(&self.columns).map_err(failed)?, 1);
        let values: Vec<ArrayRef> = (0..rows.num_rows())
            .map(|row| evaluate(&rows.slice(row, 1)).unwrap_or_else(|_| Arc::clone(&unknown)))
            .collect();
        if values.is_empty() {
            return Ok(unknown.slice(0, 0));
        }
        concat(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }

    /// Evaluates once. A function that panics on a value counts as failed, like any other error.
    fn tried(&self, rows: &RecordBatch) -> PlanResult<ArrayRef> {
        let evaluate = || self.expr.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
        std::panic::catch_unwind(AssertUnwindSafe(evaluate))
            .unwrap_or_else(|_| Err(DataFusionError::Execution("a function of it panicked".into())))
    }

    /// The values as numbers, for factors and remembered values.
    ///
    /// # Errors
    /// [`ArrowError`] when the expression cannot be evaluated at all.
    pub fn numbers(&self, rows: &RecordBatch) -> Result<Float64Array, ArrowError> {
        Ok(self.evaluate(rows)?.as_primitive::<Float64Type>().clone())
    }

    /// The values as flags, for conditions.
    ///
    /// # Errors
    /// See [`Expression::numbers`].
    pub fn flags(&self, rows: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        Ok(self.evaluate(rows)?.as_boolean().clone())
    }
}

/// The SQL function `days_between(from, to)`: days with decimals, negative if `from` is later.
pub fn days_between() -> ScalarUDF {
    let days = |values: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(values)?;
        let [from, to] = arrays.as_slice() else {
            return Err(DataFusionError::Execution("days_between takes two times".into()));
        };
        let (from, to) =
            (from.as_primitive::<TimestampMicrosecondType>(), to.as_primitive::<TimestampMicrosecondType>());
        let days =
            from.iter().zip(to).map(|(from, to)| Some((i128::from(to?) - i128::from(from?)) as f64 / DAY_US as f64));
        Ok(ColumnarValue::Array(Arc::new(days.collect::<Float64Array>()) as Arc<dyn Array>))
    };
    create_udf("days_between", vec![time_type(), time_type()], DataType::Float64, Volatility::Immutable, Arc::new(days))
}
