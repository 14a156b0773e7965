//! `keepwell-aggregate`: accepted events in, window rows and feature days out.

use std::process::ExitCode;

use clap::Parser;
use keepwell_pipeline::process::{self, Cli};

fn main() -> ExitCode {
    process::main("aggregate", &Cli::parse(), keepwell_aggregate::build)
}
