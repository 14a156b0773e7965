//! Limits on the SQL of a model: it must be small and shallow, and use only listed functions. A model can also arrive
//! in a record, and no record may stop a process.

use datafusion_common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion_common::{DataFusionError, Result as PlanResult};
use datafusion_expr::{Expr, Volatility};

/// Longest SQL of one factor, condition or value, in bytes.
pub const MAX_SQL_BYTES: usize = 4096;
/// The most factors, triggers and remembered values in one file.
pub const MAX_PIECES: usize = 500;
/// Deepest nesting of one expression. Every evaluation walks it recursively.
const MAX_DEPTH: usize = 200;
/// Deepest nesting of parentheses, calls and cases in the text. Parser and planner try each level in several ways, so
/// each level doubles their time. 14 nested cases take 2.4 s in a debug build, 8 take 23 ms.
pub const MAX_NESTING: usize = 10;
/// The most parts of one expression.
const MAX_PARTS: usize = 2000;
/// Stack of the thread that plans, in bytes: enough for [`MAX_SQL_BYTES`] of the deepest possible SQL in every build.
pub const PLANNING_STACK_BYTES: usize = 128 << 20;

/// Functions that depend only on their arguments. Their results are about as large as the arguments.
const FUNCTIONS: [&str; 67] = [
    "abs",
    "acos",
    "acosh",
    "arrow_typeof",
    "ascii",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "btrim",
    "cbrt",
    "ceil",
    "character_length",
    "chr",
    "coalesce",
    "concat",
    "concat_ws",
    "contains",
    "cos",
    "cosh",
    "cot",
    "date_bin",
    "date_part",
    "date_trunc",
    "days_between",
    "degrees",
    "ends_with",
    "exp",
    "factorial",
    "floor",
    "gcd",
    "get_field",
    "greatest",
    "isnan",
    "iszero",
    "lcm",
    "least",
    "left",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "ltrim",
    "make_date",
    "map_extract",
    "nanvl",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "pi",
    "power",
    "radians",
    "right",
    "round",
    "rtrim",
    "signum",
    "sin",
    "sqrt",
    "starts_with",
    "strpos",
    "substr",
    "tan",
    "trunc",
    "upper",
];

/// Refuses an expression that is not a small function of the row.
///
/// # Errors
/// [`DataFusionError::Plan`] with what is wrong.
pub fn check(expr: &Expr) -> PlanResult<()> {
    let plan = DataFusionError::Plan;
    let mut num_parts = 0;
    expr.apply(|part| {
        num_parts += 1;
        let Expr::ScalarFunction(call) = part else { return Ok(TreeNodeRecursion::Continue) };
        let name = call.func.name();
        if call.func.signature().volatility != Volatility::Immutable {
            return Err(plan(format!("{name}() depends on more than the row: use as_of")));
        }
        if !FUNCTIONS.contains(&name) {
            return Err(plan(format!("{name}() is not among the functions of a model: {}", FUNCTIONS.join(", "))));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if num_parts > MAX_PARTS {
        return Err(plan(format!("it has {num_parts} parts; {MAX_PARTS} are allowed")));
    }
    match depth(expr)? {
        depth if depth > MAX_DEPTH => {
            Err(plan(format!("it nests {depth} deep; {MAX_DEPTH} are allowed: parentheses make a long sum flatter")))
        }
        _ => Ok(()),
    }
}

fn depth(expr: &Expr) -> PlanResult<usize> {
    let mut deepest = 0;
    expr.apply_children(|child| {
        deepest = deepest.max(depth(child)?);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(deepest + 1)
}
