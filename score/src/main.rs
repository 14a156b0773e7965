//! `keepwell-score`: window rows in, health scores out.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    keepwell_score::cli::main(&keepwell_score::cli::Cli::parse())
}
