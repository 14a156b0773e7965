//! `keepwell-aggregate`: reads accepted events, writes window rows and feature days.

use std::process::ExitCode;

use clap::Parser;
use keepwell_pipeline::process::{self, Cli};

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    process::main("aggregate", &Cli::parse(), keepwell_aggregate::build)
}
