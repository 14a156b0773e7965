//! `keepwell-score`: window rows in, health scores out.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    score::cli::main(&score::cli::Cli::parse())
}
