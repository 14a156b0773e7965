//! `keepwell-score`: reads window rows, writes health rows.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    keepwell_score::cli::main(&keepwell_score::cli::Cli::parse())
}
