//! `keepwell-ingest`: raw events in, accepted events and rejects out.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    keepwell_ingest::cli::main(&keepwell_ingest::cli::Cli::parse())
}
