//! `keepwell-sink`: health and windows in, scores, alerts and Parquet tables out.

use std::process::ExitCode;

use clap::Parser;
use pipeline::process::{self, Cli};

fn main() -> ExitCode {
    process::main_of(&Cli::parse(), sink::check, |config, tables, args, shutdown| {
        sink::run(config, &tables, args, shutdown)
    })
}
