//! From SQL text to physical expressions, once. Never planned again while records flow.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, RecordBatchOptions, new_null_array,
};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, DataFusionError, Result as PlanResult};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{ColumnarValue, Expr, ExprSchemable, Volatility, cast, create_udf};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;
use pipeline::pane::DAY_US;
use pipeline::schema::{time_type, window};
use serde_saphyr::Spanned;

use crate::model::{Model, ModelError, ModelFile, parse};

/// A model file, ready to be evaluated.
#[derive(Debug)]
pub struct Compiled {
    /// The file as text: part of every snapshot.
    pub text: String,
    /// Version of the file.
    pub version: i64,
    /// In order of precedence.
    pub models: Vec<CompiledModel>,
}

/// One model, ready to be evaluated.
#[derive(Debug)]
pub struct CompiledModel {
    /// As in the file.
    pub model: Model,
    /// One for each factor, giving a float.
    pub factors: Vec<Compute>,
    /// One for each trigger, giving true or false.
    pub triggers: Vec<Compute>,
}

/// One expression over the row of one window.
#[derive(Debug, Clone)]
pub struct Compute {
    /// The window.
    pub period: String,
    /// The columns it looks at.
    columns: SchemaRef,
    expr: Arc<dyn PhysicalExpr>,
}

impl Compute {
    /// Its values for window rows, one row each.
    ///
    /// # Errors
    /// [`ArrowError`] when a column is missing.
    fn evaluate(&self, rows: &RecordBatch) -> Result<ArrayRef, ArrowError> {
        let columns: Vec<ArrayRef> = self
            .columns
            .fields()
            .iter()
            .map(|field| {
                rows.column_by_name(field.name())
                    .cloned()
                    .ok_or_else(|| ArrowError::SchemaError(format!("no column {}", field.name())))
            })
            .collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.columns), columns, &options)?;
        let evaluate =
            |rows: &RecordBatch| self.expr.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()));
        if let Ok(values) = evaluate(&rows) {
            return Ok(values);
        }
        // A row on which it fails, such as by a division by zero, is unknown; its neighbours are not. Row by
        // row a condition guards what stands behind it, however the rows came together.
        let failed = |error: DataFusionError| ArrowError::ComputeError(error.to_string());
        let unknown = new_null_array(&self.expr.data_type(&self.columns).map_err(failed)?, 1);
        let values: Vec<ArrayRef> = (0..rows.num_rows())
            .map(|row| evaluate(&rows.slice(row, 1)).unwrap_or_else(|_| Arc::clone(&unknown)))
            .collect();
        concat(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }

    /// Names of the columns it looks at.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.fields().iter().map(|field| field.name().as_str())
    }

    /// The values of a factor.
    ///
    /// # Errors
    /// As [`Compute::evaluate`].
    pub fn numbers(&self, rows: &RecordBatch) -> Result<Float64Array, ArrowError> {
        Ok(self.evaluate(rows)?.as_primitive::<Float64Type>().clone())
    }

    /// The values of a trigger.
    ///
    /// # Errors
    /// As [`Compute::evaluate`].
    pub fn flags(&self, rows: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        Ok(self.evaluate(rows)?.as_boolean().clone())
    }
}

/// Every column of a window row; any may be null, because a window may be missing.
static WINDOW_ROW: LazyLock<Schema> = LazyLock::new(|| {
    let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    Schema::new(window::schema().fields().iter().map(nullable).collect::<Vec<_>>())
});

impl Compiled {
    /// Reads, checks and compiles a model file.
    ///
    /// # Errors
    /// [`ModelError`] naming file, line and column.
    pub fn parse(file: &str, text: &str, periods: &[String]) -> Result<Self, ModelError> {
        let ModelFile { version, models } = parse(file, text, periods)?;
        let session = SessionContext::new();
        session.register_udf(days_between());
        let compile = |model: &Model, sql: &Spanned<String>, period: &Option<Spanned<String>>, to: &DataType| {
            let period = &period.as_ref().unwrap_or(&model.period).value;
            compute(&session, period, &sql.value, to).map_err(|error| {
                let first = error.strip_backtrace();
                ModelError::at(file, sql.referenced, format!("{}: {first}", sql.value.trim()))
            })
        };
        let models = models.into_iter().map(|model| {
            let factors = model.factors.iter().map(|f| compile(&model, &f.sql, &f.period, &DataType::Float64));
            let factors = factors.collect::<Result<_, _>>()?;
            let triggers = model.triggers.iter().map(|t| compile(&model, &t.sql, &t.period, &DataType::Boolean));
            let triggers = triggers.collect::<Result<_, _>>()?;
            Ok(CompiledModel { model, factors, triggers })
        });
        Ok(Self { text: text.to_owned(), version, models: models.collect::<Result<_, _>>()? })
    }

    /// The model of an account.
    pub fn model_of(&self, segment: Option<&str>, stage: Option<&str>) -> usize {
        let fits = |compiled: &CompiledModel| compiled.model.only_for.fits(segment, stage);
        // The last model is for all.
        self.models.iter().position(fits).unwrap_or(self.models.len().saturating_sub(1))
    }
}

fn compute(session: &SessionContext, period: &str, sql: &str, to: &DataType) -> PlanResult<Compute> {
    let row = DFSchema::try_from(WINDOW_ROW.clone())?;
    let expr = session.parse_sql_expr(sql, &row)?;
    refuse_what_is_no_function_of_the_row(&expr)?;
    let used = expr.column_refs();
    let columns: Vec<Field> = WINDOW_ROW
        .fields()
        .iter()
        .filter(|field| used.iter().any(|column| column.name == *field.name()))
        .map(|field| field.as_ref().clone())
        .collect();
    let columns = Arc::new(Schema::new(columns));
    let row = DFSchema::try_from(Arc::clone(&columns))?;
    let found = expr.get_type(&row)?;
    if !(found == DataType::Boolean || to.is_floating() && found.is_numeric()) {
        let wanted = if to.is_floating() { "a number" } else { "true or false" };
        return Err(DataFusionError::Plan(format!("it must give {wanted}, and gives {found}")));
    }
    let context = SimplifyContext::builder().with_schema(Arc::new(row.clone())).build();
    let simplifier = ExprSimplifier::new(context);
    // Some functions, such as coalesce, exist only until they are simplified.
    let expr = simplifier.simplify(simplifier.coerce(cast(expr, to.clone()), &row)?)?;
    let compute = Compute { period: period.to_owned(), columns, expr: session.create_physical_expr(expr, &row)? };
    // What fails on a row of nulls would fail on the first account.
    let nulls = compute.columns.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let nulls = RecordBatch::try_new_with_options(Arc::clone(&compute.columns), nulls, &options)?;
    compute.expr.evaluate(&nulls).and_then(|value| value.into_array(1))?;
    Ok(compute)
}

fn refuse_what_is_no_function_of_the_row(expr: &Expr) -> PlanResult<()> {
    expr.apply(|part| {
        if let Expr::ScalarFunction(call) = part
            && call.func.signature().volatility != Volatility::Immutable
        {
            let why = format!("{}() depends on more than the row: use as_of", call.func.name());
            return Err(DataFusionError::Plan(why));
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// `days_between(from, to)`: days with decimals; negative where `from` is later.
fn days_between() -> datafusion::logical_expr::ScalarUDF {
    let days = |values: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(values)?;
        let [from, to] = arrays.as_slice() else {
            return Err(DataFusionError::Execution("days_between takes two times".into()));
        };
        let (from, to) =
            (from.as_primitive::<TimestampMicrosecondType>(), to.as_primitive::<TimestampMicrosecondType>());
        let days = from.iter().zip(to).map(|(from, to)| Some((to? - from?) as f64 / DAY_US as f64));
        Ok(ColumnarValue::Array(Arc::new(days.collect::<Float64Array>()) as Arc<dyn Array>))
    };
    create_udf("days_between", vec![time_type(), time_type()], DataType::Float64, Volatility::Immutable, Arc::new(days))
}
