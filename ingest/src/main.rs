//! `keepwell-ingest`: raw events in, accepted events and rejects out.

use std::process::ExitCode;

use clap::Parser;
use pipeline::process::{self, Cli};

fn main() -> ExitCode {
    process::main(&Cli::parse(), |config| Ok((ingest::Ingest::new(config)?, ingest::plan(config))))
}
