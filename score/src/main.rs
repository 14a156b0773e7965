//! `keepwell-score`: window rows in, health rows out.

use std::process::ExitCode;

use clap::Parser;
use pipeline::process::{self, Cli};

fn main() -> ExitCode {
    process::main("score", &Cli::parse(), |config| Ok((score::Score::new(config)?, score::plan(config))))
}
