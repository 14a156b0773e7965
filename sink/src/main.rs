//! `keepwell-sink`: health and windows in, scores, alerts and Parquet tables out.

use std::process::ExitCode;

use clap::Parser;
use keepwell_pipeline::process::Cli;

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keepwell_sink::main(&Cli::parse())
}
