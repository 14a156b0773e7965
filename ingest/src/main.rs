//! `keepwell-ingest`: reads raw events, writes accepted events and rejects.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    keepwell_ingest::cli::main(&keepwell_ingest::cli::Cli::parse())
}
