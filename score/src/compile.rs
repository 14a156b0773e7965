//! Compiles SQL texts into physical expressions, once per model. Window rows never cause planning.

use std::hash::Hasher;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DataFusionError, Result as PlanResult};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{Expr, ExprSchemable, cast, col, lit, when};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::time_type;
use keepwell_core::schema::window::{self, Layout};
use serde_saphyr::Spanned;
use siphasher::sip::SipHasher13;

use crate::bounds::{self, MAX_PIECES, MAX_SQL_BYTES, PLANNING_STACK_BYTES};
use crate::expression::{Expression, days_between};
use crate::model::{Against, Expires, LifecycleStage, Model, ModelError, ModelFile, parse, period_days};
use crate::planner::Planner;
use crate::rate::nominal;
use keepwell_core::points::Points;

/// A model file, ready for evaluation.
#[derive(Debug)]
pub struct Compiled {
    /// The text of the file. It is part of every snapshot.
    pub text: String,
    /// Version of the file.
    pub version: i64,
    /// The models in order of precedence.
    pub models: Vec<CompiledModel>,
    /// The stages of the lifecycle, if the file has rules for them.
    pub stages: Vec<CompiledStage>,
}

/// A stage of the lifecycle, ready for evaluation.
#[derive(Debug)]
pub struct CompiledStage {
    /// The stage as it is in the file.
    pub stage: LifecycleStage,
    /// Its rule. Only the first stage has none.
    pub when: Option<Expression>,
    /// Its headline metric. It gives a float.
    pub metric: Expression,
}

/// One model, ready for evaluation.
#[derive(Debug)]
pub struct CompiledModel {
    /// Version of the file that contains it.
    pub version: i64,
    /// The model as it is in the file.
    pub model: Model,
    /// Distinguishes this version of this model, with these factors, from any other.
    pub digest: u64,
    /// Weights of the factors in percent, when all of them count.
    pub weights: Vec<Points>,
    /// One expression per factor. It gives a float.
    pub factors: Vec<Expression>,
    /// One expression per value to remember. It gives a float.
    pub remember: Vec<Expression>,
    /// The conditions of each trigger.
    pub triggers: Vec<CompiledTrigger>,
}

/// The conditions of a trigger. They give true or false.
#[derive(Debug)]
pub struct CompiledTrigger {
    /// The condition that raises the trigger.
    pub when: Expression,
    /// The condition that clears it, if declared.
    pub clear: Option<Expression>,
}

/// A column that SQL can use besides those of the window row, and its type.
type Input = (&'static str, fn() -> DataType);

/// Columns about an account's earlier final rows.
const PAST: [Input; 4] = [
    ("previous_as_of", time_type),
    ("previous_score", || DataType::Float64),
    ("previous_band", || DataType::Utf8),
    ("baseline_score", || DataType::Float64),
];

/// Columns about the score of the row itself, for triggers only.
const PRESENT: [Input; 4] = [
    ("score", || DataType::Float64),
    ("delta", || DataType::Float64),
    ("coverage", || DataType::Float64),
    ("band", || DataType::Utf8),
];

/// Columns that are computed from others: the age of the account in days, and the days of the window in which the
/// account existed (at least 1).
const DERIVED: [(&str, &str); 2] = [
    ("age_days", "days_between(coalesce(started_at, first_seen_at), as_of)"),
    ("known_days", "greatest(1, least(period_days, days_between(coalesce(started_at, first_seen_at), as_of)))"),
];
/// A message shows at most this many characters of an SQL text.
const EXCERPT_CHARS: usize = 200;
const PERIOD_DAYS: &str = "period_days";

impl Compiled {
    /// Reads, checks and compiles a model file.
    ///
    /// # Errors
    /// [`ModelError`] with file, line and column.
    pub fn parse(file: &str, text: &str, layout: &Layout) -> Result<Self, ModelError> {
        // Planning is recursive. A thread of its own has a stack that is large enough for everything within the limits.
        let planner = std::thread::Builder::new().name("model".to_owned()).stack_size(PLANNING_STACK_BYTES);
        std::thread::scope(|scope| {
            let planned = planner.spawn_scoped(scope, || Self::parse_here(file, text, layout));
            let planned = planned.map_err(|error| ModelError::of(file, format!("no thread to plan it: {error}")))?;
            planned.join().unwrap_or_else(|_| Err(ModelError::of(file, "its SQL cannot be planned")))
        })
    }

    fn parse_here(file: &str, text: &str, layout: &Layout) -> Result<Self, ModelError> {
        let ModelFile { version, models, stages, .. } = parse(file, text, layout.windows())?;
        let of_models: usize = models.iter().map(|m| m.factors.len() + m.remember.len() + m.triggers.len()).sum();
        let num_pieces = of_models + stages.len();
        if num_pieces > MAX_PIECES {
            let why = format!("{num_pieces} factors, triggers, remembered values and stages; {MAX_PIECES} are allowed");
            return Err(ModelError::of(file, why));
        }
        let planner = Planner::new();
        let compiler = |model| ModelCompiler::new(file, &planner, model, layout);
        let stages = models.last().map(|model| compiler(model)?.stages(stages)).transpose()?.unwrap_or_default();
        let models = models.iter().map(|model| compiler(model)?.compile(version, model));
        let models: Vec<_> = models.collect::<Result<_, ModelError>>()?;
        Ok(Self { text: text.to_owned(), version, models, stages })
    }

    /// The index of the first model that fits an account.
    pub fn model_of(&self, segment: Option<&str>, stage: Option<&str>) -> usize {
        let fits = |compiled: &CompiledModel| compiled.model.only_for.fits(segment, stage);
        // The last model fits all accounts.
        self.models.iter().position(fits).unwrap_or(self.models.len().saturating_sub(1))
    }
}

/// Compiles the SQL of one model.
struct ModelCompiler<'c> {
    file: &'c str,
    planner: &'c Planner,
    layout: &'c Layout,
    period: &'c str,
    /// The columns for remembered values, factors and triggers. Each has all columns of those before it.
    rows: [Schema; 3],
}

impl<'c> ModelCompiler<'c> {
    fn new(file: &'c str, planner: &'c Planner, model: &'c Model, layout: &'c Layout) -> Result<Self, ModelError> {
        let float = |name: &str| Field::new(name, DataType::Float64, true);
        let fields = |columns: &[Input]| -> Vec<Field> {
            columns.iter().map(|(name, kind)| Field::new(*name, kind(), true)).collect()
        };
        let derived = DERIVED.iter().map(|(name, _)| float(name)).chain([float(PERIOD_DAYS)]);
        let of_window = layout.known_columns().map(|(name, column)| Field::new(name, column.kind.data_type(), true));
        let mut row: Vec<Field> = of_window.chain(derived).collect();
        let rows_of_windows = Schema::new(row.clone());
        row.extend(fields(&PAST));
        let is_taken = |name: &str, row: &[Field]| {
            row.iter().any(|field| field.name() == name) || PRESENT.iter().any(|(known, _)| *known == name)
        };
        for remember in &model.remember {
            let name = &remember.name.value;
            if is_taken(name, &row) || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            {
                let why =
                    format!("remember {name}: a column has that name, or it is not of small letters, digits and _");
                return Err(ModelError::at(file, remember.name.referenced, why));
            }
            row.push(float(name.as_str()));
        }
        let rows_of_factors = Schema::new(row.clone());
        row.extend(fields(&PRESENT));
        let rows = [rows_of_windows, rows_of_factors, Schema::new(row)];
        Ok(Self { file, planner, layout, period: &model.period.value, rows })
    }

    fn compile(&self, version: i64, model: &Model) -> Result<CompiledModel, ModelError> {
        let [windows, past, present] = &self.rows;
        let (number, flag) = (&DataType::Float64, &DataType::Boolean);
        let factors = model.factors.iter().map(|factor| {
            let build = |period: &str| {
                let value = self.parsed(&factor.sql, past, period)?;
                let value = match factor.against {
                    Some(Against::PreviousWindow) => self.located(&factor.sql, against_previous(value, self.layout))?,
                    None => value,
                };
                match &factor.expires {
                    Some(expires) => self.expiring(value, expires, past, period),
                    None => Ok(value),
                }
            };
            self.computed(&factor.sql, &factor.period, past, number, build)
        });
        let factors = factors.collect::<Result<_, _>>()?;
        let remember = model.remember.iter().map(|remember| {
            let build = |period: &str| self.parsed(&remember.sql, windows, period);
            self.computed(&remember.sql, &remember.period, windows, number, build)
        });
        let remember = remember.collect::<Result<_, _>>()?;
        let triggers = model.triggers.iter().map(|trigger| {
            let compute = |sql: &Spanned<String>| {
                self.computed(sql, &trigger.period, present, flag, |period| self.parsed(sql, present, period))
            };
            Ok(CompiledTrigger {
                when: compute(&trigger.sql)?,
                clear: trigger.clear.as_ref().map(compute).transpose()?,
            })
        });
        let triggers = triggers.collect::<Result<_, ModelError>>()?;
        let (digest, weights) = (digest(version, model), nominal(model));
        Ok(CompiledModel { version, digest, weights, model: model.clone(), factors, remember, triggers })
    }

    /// Compiles the stages of the file. Their SQL sees the window row only: a score depends on the stage.
    fn stages(&self, stages: Vec<LifecycleStage>) -> Result<Vec<CompiledStage>, ModelError> {
        let windows = &self.rows[0];
        let compiled = stages.into_iter().map(|stage| {
            let compute = |sql: &Spanned<String>, to: &DataType| {
                self.computed(sql, &stage.period, windows, to, |period| self.parsed(sql, windows, period))
            };
            let when = stage.when.as_ref().map(|when| compute(when, &DataType::Boolean)).transpose()?;
            let metric = compute(&stage.metric.sql, &DataType::Float64)?;
            Ok(CompiledStage { when, metric, stage })
        });
        compiled.collect()
    }

    /// Turns a planning error into an error at the position of the SQL.
    fn located<T>(&self, sql: &Spanned<String>, result: PlanResult<T>) -> Result<T, ModelError> {
        result.map_err(|error| {
            let start: String = sql.value.trim().chars().take(EXCERPT_CHARS).collect();
            let why = format!("{start}: {}", error.strip_backtrace());
            ModelError::at(self.file, sql.referenced, why)
        })
    }

    /// Parses SQL into an expression of real columns: derived columns are replaced by their definition.
    fn parsed(&self, sql: &Spanned<String>, row: &Schema, period: &str) -> Result<Expr, ModelError> {
        let parse = || {
            if sql.value.len() > MAX_SQL_BYTES {
                let why = format!("it has {} bytes; {MAX_SQL_BYTES} are allowed", sql.value.len());
                return Err(DataFusionError::Plan(why));
            }
            let row = DFSchema::try_from(row.clone())?;
            let expr = self.planner.parse(&sql.value, &row)?;
            bounds::check(&expr)?;
            let derived = |name: &str| DERIVED.iter().find(|(known, _)| *known == name).map(|(_, sql)| *sql);
            let with_derived = expr.transform(|part| match &part {
                Expr::Column(column) => match derived(&column.name) {
                    Some(sql) => Ok(Transformed::yes(self.planner.parse(sql, &row)?)),
                    None => Ok(Transformed::no(part)),
                },
                _ => Ok(Transformed::no(part)),
            })?;
            let days = period_days(period).map_err(DataFusionError::Plan)?;
            let with_period = with_derived.data.transform(|part| match &part {
                Expr::Column(column) if column.name == PERIOD_DAYS => Ok(Transformed::yes(lit(days))),
                _ => Ok(Transformed::no(part)),
            })?;
            Ok(with_period.data)
        };
        self.located(sql, parse())
    }

    /// The value, or null if its date is too old.
    fn expiring(&self, value: Expr, expires: &Expires, row: &Schema, period: &str) -> Result<Expr, ModelError> {
        let dated = self.parsed(&expires.dated_by, row, period)?;
        let kind = DFSchema::try_from(row.clone()).and_then(|row| dated.get_type(&row));
        if !matches!(self.located(&expires.dated_by, kind)?, DataType::Timestamp(_, _)) {
            let why = format!("{}: it must give a time", expires.dated_by.value.trim());
            return Err(ModelError::at(self.file, expires.dated_by.referenced, why));
        }
        let age = days_between().call(vec![dated, col("as_of")]);
        let most = expires.after.as_micros() as f64 / DAY_US as f64;
        self.located(&expires.dated_by, when(age.lt_eq(lit(most)), value).end())
    }

    fn computed(
        &self,
        sql: &Spanned<String>,
        period: &Option<Spanned<String>>,
        row: &Schema,
        to: &DataType,
        build: impl Fn(&str) -> Result<Expr, ModelError>,
    ) -> Result<Expression, ModelError> {
        let period = period.as_ref().map_or(self.period, |period| &period.value);
        let expr = build(period)?;
        let mut used: Vec<&str> = expr.column_refs().into_iter().map(|column| column.name.as_str()).collect();
        used.sort_unstable();
        if let Some(name) = used.into_iter().find(|name| self.layout.lacks(name, period)) {
            let line = Layout::line_for(name, period);
            let why = format!("{name} is not kept for the window {period}: add `{line}` to aggregate.measures");
            return Err(ModelError::at(self.file, sql.referenced, why));
        }
        self.located(sql, self.compute(period, expr, row, to))
    }

    fn compute(&self, period: &str, expr: Expr, row: &Schema, to: &DataType) -> PlanResult<Expression> {
        let used = expr.column_refs();
        let is_used = |field: &&Arc<Field>| used.iter().any(|column| column.name == *field.name());
        let columns: Vec<Field> = row.fields().iter().filter(is_used).map(|field| field.as_ref().clone()).collect();
        let columns = Arc::new(Schema::new(columns));
        let row = DFSchema::try_from(Arc::clone(&columns))?;
        let found = expr.get_type(&row)?;
        if !(found == DataType::Boolean || to.is_floating() && found.is_numeric()) {
            let wanted = if to.is_floating() { "a number" } else { "true or false" };
            return Err(DataFusionError::Plan(format!("it must give {wanted}, and gives {found}")));
        }
        let context = SimplifyContext::builder().with_schema(Arc::new(row.clone())).build();
        let simplifier = ExprSimplifier::new(context);
        // Some functions, such as coalesce, cannot be executed until they are simplified.
        let expr = simplifier.simplify(simplifier.coerce(cast(expr, to.clone()), &row)?)?;
        Expression::new(period, columns, self.planner.physical(expr, &row)?)
    }
}

/// The digest is part of every snapshot, so its definition must never change.
fn digest(version: i64, model: &Model) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(model.name.value.as_bytes());
    hasher.write_i64(version);
    for factor in &model.factors {
        hasher.write(factor.name.value.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// The value divided by that of the window before, or null if that is zero or unknown.
fn against_previous(value: Expr, layout: &Layout) -> PlanResult<Expr> {
    let before = value.clone().transform(|part| match &part {
        Expr::Column(column) if layout.is_measure(&column.name) => {
            Ok(Transformed::yes(col(format!("{}{}", window::PREVIOUS, column.name))))
        }
        _ => Ok(Transformed::no(part)),
    })?;
    let (value, before) = (cast(value, DataType::Float64), cast(before.data, DataType::Float64));
    when(before.clone().not_eq(lit(0.0)), value / before).end()
}
