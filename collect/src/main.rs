//! `keepwell-collect`: takes events over HTTP and writes them to raw topics.

use std::process::ExitCode;

use clap::Parser;

/// Requests allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keepwell_collect::cli::main(&keepwell_collect::cli::Cli::parse())
}
