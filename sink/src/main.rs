//! `keepwell-sink`: health and windows in, scores, alerts and Parquet tables out.

use std::process::ExitCode;

use clap::Parser;
use keepwell_pipeline::process::Cli;

fn main() -> ExitCode {
    keepwell_sink::main(&Cli::parse())
}
