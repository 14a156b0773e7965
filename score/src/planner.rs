//! Plans SQL expressions over the columns of a row: no tables, no aggregates, no session.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{DFSchema, Result as PlanResult, TableReference, plan_err};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::simplify::SimplifyContext;
use datafusion_expr::{AggregateUDF, Expr, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion_optimizer::simplify_expressions::ExprSimplifier;
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::parser::DFParserBuilder;
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};

use crate::bounds::MAX_NESTING;
use crate::expression::days_between;

/// A planner of expressions with DataFusion's scalar functions and [`days_between`].
pub struct Planner {
    functions: HashMap<String, Arc<ScalarUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner").field("functions", &self.functions.len()).finish_non_exhaustive()
    }
}

impl Planner {
    /// The planner.
    pub fn new() -> Self {
        let mut functions = HashMap::new();
        let defaults = datafusion_functions::all_default_functions().into_iter();
        let nested = datafusion_functions_nested::all_default_nested_functions();
        for function in defaults.chain(nested).chain([Arc::new(days_between())]) {
            for alias in function.aliases() {
                functions.insert(alias.clone(), Arc::clone(&function));
            }
            functions.insert(function.name().to_owned(), function);
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions_nested::planner::NestedFunctionPlanner),
            Arc::new(datafusion_functions_nested::planner::FieldAccessPlanner),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
        ];
        Self { functions, planners, options: ConfigOptions::default() }
    }

    /// SQL as an expression over `row`.
    ///
    /// # Errors
    /// When it is no SQL, is nested too deeply, or names what the row does not have.
    pub fn parse(&self, sql: &str, row: &DFSchema) -> PlanResult<Expr> {
        let mut parser = DFParserBuilder::new(sql).with_recursion_limit(MAX_NESTING).build()?;
        let parsed = parser.parse_into_expr()?;
        let options = ParserOptions::from(&self.options.sql_parser);
        SqlToRel::new_with_options(self, options).sql_to_expr_with_alias(parsed, row, &mut PlannerContext::new())
    }

    /// The expression in a form that can be evaluated. Types are made to match.
    ///
    /// # Errors
    /// When types do not fit each other.
    pub fn physical(&self, expr: Expr, row: &DFSchema) -> PlanResult<Arc<dyn PhysicalExpr>> {
        let context = SimplifyContext::builder().with_schema(Arc::new(row.clone())).build();
        let expr = ExprSimplifier::new(context).coerce(expr, row)?;
        create_physical_expr(&expr, row, &ExecutionProps::new(), &PhysicalPlanningContext::default())
    }
}

impl ContextProvider for Planner {
    fn get_table_source(&self, name: TableReference) -> PlanResult<Arc<dyn TableSource>> {
        plan_err!("there are no tables here, such as {name}")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
