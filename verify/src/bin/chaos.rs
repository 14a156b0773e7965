//! Strikes deployments on a real Kafka with faults, cycle after cycle. Judges all outputs of each run, and reports the
//! totals.
//!
//! Use `cargo build --workspace && cargo run --bin chaos -- run --decks 1 --results FILE`, then `cargo run --bin chaos
//! -- report FILE`.
//! Results are appended, so several runs can use the same file.
#![allow(clippy::disallowed_methods, reason = "I/O edge: asks git for the commit")]

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use fastrand::Rng;
use keepwell_verify::chaos::away::Neighbour;
use keepwell_verify::chaos::fault::{Fault, deck, upgrades};
use keepwell_verify::chaos::processes::Programs;
use keepwell_verify::chaos::results::{Line, append, report};
use keepwell_verify::chaos::run::{Load, Run};
use tempfile::TempDir;

#[derive(Debug, Parser)]
#[command(about = "Faults on a real Kafka, and what came of them")]
enum Args {
    /// Strike deployments with faults, one deployment after another, and judge each.
    Run(RunArgs),
    /// Take a neighbour away for minutes and observe the processes.
    Away {
        /// Which neighbour is away.
        #[arg(long)]
        neighbour: Neighbour,
        /// How many minutes it is away.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// File to which the results are appended.
        #[arg(long, default_value = "chaos.ndjson")]
        results: PathBuf,
    },
    /// Print the totals of a results file as Markdown.
    Report {
        /// The results file.
        results: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Number of deployments. A shuffled deck of all faults strikes each.
    #[arg(long, default_value_t = 1)]
    decks: u64,
    /// Seed of the first deployment. The others use the next numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Use only this many faults of each deck.
    #[arg(long)]
    cycles: Option<usize>,
    /// Use only faults with this text in their names.
    #[arg(long)]
    only: Option<String>,
    /// Number of records of each hostile kind among the other records.
    #[arg(long, default_value_t = 0)]
    hostile: usize,
    /// Folder with the next version of the programs. The stages then upgrade to it and back, instead of the deck.
    #[arg(long)]
    next: Option<PathBuf>,
    /// File to which the results are appended.
    #[arg(long, default_value = "chaos.ndjson")]
    results: PathBuf,
}

fn main() -> Result<()> {
    match Args::parse() {
        Args::Away { neighbour, minutes, results } => {
            let folder = tempfile::tempdir()?;
            let outcome = (|| {
                // Enough load for the whole time.
                let mut run = Run::start(
                    programs()?,
                    folder.path(),
                    &Load { build: &build()?, seed: minutes, num_cycles: 20 + 2 * minutes as usize, hostile: 0 },
                )?;
                let away = run.without(neighbour, minutes)?;
                println!("{away:?}");
                Ok((away, run.judged()?))
            })();
            let (away, verified) = outcome.map_err(|error: anyhow::Error| kept(folder, error))?;
            ensure!(verified.ledger.is_clean(), "{:?}", verified.ledger);
            append(&results, &Line::Away(away))?;
            append(&results, &Line::Verified(verified))?;
        }
        Args::Report { results } => print!("{}", report(&results)?),
        Args::Run(args) => {
            let build = build()?;
            for seed in args.seed..args.seed + args.decks {
                strike(&args, &build, seed).with_context(|| format!("run {seed}"))?;
            }
        }
    }
    Ok(())
}

/// The programs in the folder of this program.
fn programs() -> Result<Programs> {
    Ok(Programs::In(std::env::current_exe()?.with_file_name("")))
}

/// The commit of the programs; `git describe` marks it as dirty if something has changed since.
fn build() -> Result<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=7"]).output()?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Keeps the folder of a failed run, so that someone can look into the error.
fn kept(folder: TempDir, error: anyhow::Error) -> anyhow::Error {
    error.context(format!("logs are kept in {}", folder.keep().display()))
}

fn strike(args: &RunArgs, build: &str, seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let mut faults: Vec<Fault> = if args.next.is_some() { upgrades(&mut rng) } else { deck(&mut rng) };
    faults.retain(|fault| args.only.as_ref().is_none_or(|only| fault.to_string().contains(only)));
    faults.truncate(args.cycles.unwrap_or(usize::MAX));
    let folder = tempfile::tempdir()?;
    let outcome = (|| {
        let load = Load { build, seed, num_cycles: faults.len(), hostile: args.hostile };
        let run = Run::start(programs()?, folder.path(), &load)?;
        let mut run = run.with_next(args.next.clone().map(Programs::In));
        for fault in &faults {
            let cycle = run.cycle(*fault).with_context(|| fault.to_string())?;
            println!("{seed} {}: {} {} ms", cycle.number, cycle.fault, cycle.caught_up_ms);
            append(&args.results, &Line::Cycle(cycle))?;
        }
        run.judged()
    })();
    match outcome {
        Ok(verified) => {
            println!("{verified:?}");
            ensure!(verified.ledger.is_clean(), "{:?}", verified.ledger);
            ensure!(args.hostile == 0 || verified.surprises.is_empty(), "{:?}", verified.surprises);
            append(&args.results, &Line::Verified(verified))
        }
        Err(error) => Err(kept(folder, error)),
    }
}
