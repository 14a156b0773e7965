//! `keepwell-score`: reads window rows, writes health rows.

use std::process::ExitCode;

use clap::Parser;

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keepwell_score::cli::main(&keepwell_score::cli::Cli::parse())
}
