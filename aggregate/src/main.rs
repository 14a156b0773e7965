//! `keepwell-aggregate`: reads accepted events, writes window rows and feature days.

use std::process::ExitCode;

use clap::Parser;
use keepwell_pipeline::process::{self, Cli};

fn main() -> ExitCode {
    process::main("aggregate", &Cli::parse(), keepwell_aggregate::build)
}
