//! `keepwell audit` of a build without a SQL engine: it says how to get one.

use anyhow::{Result, bail};

/// What is missing, and how to get it.
pub(crate) const NO_SQL: &str =
    "this build has no SQL engine: build with `cargo build --workspace`, or with `--features sql`";

/// Whatever is asked.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// Arguments of `keepwell audit`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    ignored: Vec<String>,
}

/// Says what is missing.
///
/// # Errors
/// Always.
pub fn run(_args: &AuditArgs) -> Result<()> {
    bail!(NO_SQL)
}
