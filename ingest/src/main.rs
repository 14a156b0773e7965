//! `keepwell-ingest`: reads raw events, writes accepted events and rejects.

use std::process::ExitCode;

use clap::Parser;

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keepwell_ingest::cli::main(&keepwell_ingest::cli::Cli::parse())
}
