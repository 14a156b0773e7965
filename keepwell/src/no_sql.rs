//! `keepwell audit` and `keepwell report` of a build without a SQL engine: they say how to get one.

use anyhow::{Result, bail};

/// What is missing, and how to get it.
pub(crate) const NO_SQL: &str =
    "this build has no SQL engine: build with `cargo build --workspace`, or with `--features sql`";

/// Whatever is asked.
#[derive(Debug, clap::Args)]
pub struct Ignored {
    /// Arguments of the command.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    ignored: Vec<String>,
}

/// Arguments of `keepwell audit`.
pub type AuditArgs = Ignored;

/// Arguments of `keepwell report`.
pub type ReportArgs = Ignored;

/// Says what is missing.
///
/// # Errors
/// Always.
pub fn run(_args: &Ignored) -> Result<()> {
    bail!(NO_SQL)
}
