//! The command line of score: the commands of every stage, and `try`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keepwell_pipeline::process::{self, EXAMPLES, Job, RunArgs};

use crate::{Score, plan, try_model};

/// Arguments of `keepwell-score`.
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
    /// Check the configuration and the model, run the model's tests, and print the configuration. Secrets are shown by
    /// name only.
    Check,
    /// Score stored window rows with a model, without Kafka.
    Try(try_model::TryArgs),
}

/// Runs the command and returns the exit code of the process.
pub fn main(cli: &Cli) -> ExitCode {
    if let Some(Command::Try(args)) = &cli.command {
        let config = match cli.run.config.read() {
            Ok(config) => config,
            Err(error) => return failed(2, &error),
        };
        let mut out = std::io::stdout().lock();
        return match try_model::run(&config, args, &mut out).and_then(|()| Ok(out.flush()?)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(1, &format!("{error:#}")),
        };
    }
    let is_check = cli.command.is_some();
    process::main_of(
        "score",
        &cli.run,
        is_check,
        |config| {
            let stage = Score::new(config)?;
            if is_check {
                stage.test_model(config)?;
            }
            Ok((stage, plan(config)))
        },
        |config, (stage, plan), args, shutdown| process::run(&stage, Job { config, plan: &plan, args, shutdown }),
    )
}

fn failed(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(code)
}
