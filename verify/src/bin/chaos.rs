//! Faults on a real Kafka, cycle after cycle, with a judgement on all that was said; and the sum of it.
//!
//! `cargo build --workspace && cargo run --bin chaos -- run --decks 1 --results FILE`, then
//! `cargo run --bin chaos -- report FILE`. Runs are appended: the same file may be gone on with.
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
    /// Strikes deployments, one after another, and judges each.
    Run(RunArgs),
    /// Sends a neighbour away for minutes, and looks at the processes.
    Away {
        /// Who is away.
        #[arg(long)]
        neighbour: Neighbour,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        minutes: u64,
        /// Where what was seen is appended.
        #[arg(long, default_value = "chaos.ndjson")]
        results: PathBuf,
    },
    /// The sum of what was seen, as Markdown.
    Report {
        /// The file.
        results: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Deployments, each struck by a shuffled deck of all faults.
    #[arg(long, default_value_t = 1)]
    decks: u64,
    /// Seed of the first; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many faults of each deck only.
    #[arg(long)]
    cycles: Option<usize>,
    /// Faults whose names contain this only.
    #[arg(long)]
    only: Option<String>,
    /// So many records of each hostile kind among the others.
    #[arg(long, default_value_t = 0)]
    hostile: usize,
    /// Folder with the next version of the programs: instead of the deck, stages come to it and back.
    #[arg(long)]
    next: Option<PathBuf>,
    /// Where what was seen is appended.
    #[arg(long, default_value = "chaos.ndjson")]
    results: PathBuf,
}

fn main() -> Result<()> {
    match Args::parse() {
        Args::Away { neighbour, minutes, results } => {
            let folder = tempfile::tempdir()?;
            let outcome = (|| {
                // Load for the whole time.
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

/// The programs built beside this one.
fn programs() -> Result<Programs> {
    Ok(Programs::In(std::env::current_exe()?.with_file_name("")))
}

/// The commit of the programs, marked where something was changed since.
fn build() -> Result<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=7"]).output()?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// What led to an error is kept for whoever looks into it.
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
