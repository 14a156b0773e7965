//! The command line of ingest: as every stage's, and what was set aside.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keepwell_pipeline::process::{self, EXAMPLES, Job, RunArgs};

use crate::{Ingest, plan, rejects};

/// Arguments of ingest.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks the configuration and prints it resolved, secrets by name only.
    Check,
    /// Rejected records: lists them, or writes them back once the fault is mended.
    #[command(subcommand)]
    Rejects(rejects::Action),
}

/// The whole of `main`.
pub fn main(cli: &Cli) -> ExitCode {
    if let Some(Command::Rejects(action)) = &cli.command {
        let config = match cli.run.config.read() {
            Ok(config) => config,
            Err(error) => return failed(2, &error),
        };
        return match rejects::run(&config, action) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(1, &format!("{error:#}")),
        };
    }
    process::main_of(
        "ingest",
        &cli.run,
        cli.command.is_some(),
        |config| Ok((Ingest::new(config)?, plan(config))),
        |config, (stage, plan), args, shutdown| process::run(&stage, Job { config, plan: &plan, args, shutdown }),
    )
}

fn failed(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(code)
}
