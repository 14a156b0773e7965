//! `keepwell-ingest`: raw events in, accepted events and rejects out.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ingest::cli::main(&ingest::cli::Cli::parse())
}
