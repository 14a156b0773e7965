//! The command line of ingest: the commands of every stage, and `rejects`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keepwell_pipeline::process::{self, EXAMPLES, Job, RunArgs};

use crate::{Ingest, plan, rejects};

/// Arguments of `keepwell-ingest`.
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
    /// Check the configuration and print it with all defaults. Secrets are shown by name only.
    Check,
    /// List rejected records, or write them back to their source once the cause is fixed.
    #[command(subcommand)]
    Rejects(rejects::Action),
}

/// Runs the command and returns the exit code of the process.
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
