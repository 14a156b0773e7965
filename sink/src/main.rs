//! `keepwell-sink`: health and windows in, scores, alerts and Parquet tables out.

use std::process::ExitCode;

use clap::Parser;
use pipeline::process::Cli;

fn main() -> ExitCode {
    sink::main(&Cli::parse())
}
