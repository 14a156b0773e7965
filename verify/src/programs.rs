//! The programs that tests start.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// Path of the `keepwell` binary that was built with the running test.
///
/// # Errors
/// When it does not exist. The error names the command that builds it.
pub fn keepwell() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let built = test.ancestors().nth(2).context("a test lies in target/PROFILE/deps")?;
    let program = built.join("keepwell");
    ensure!(program.exists(), "{} is not there: run `cargo build --bin keepwell`", program.display());
    Ok(program)
}
