//! Runs many simulated deployments, one for each seed, and checks every promise on each.
//!
//! Run `cargo run --bin simulate -- --seeds 1000`. To repeat one seed: `cargo run --bin simulate -- --seed 17`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use clap::Parser;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::process::{LogFormat, start_logging};
use keepwell_verify::sim::chaos::Fault;
use keepwell_verify::sim::{Asked, Outcome, simulate};

#[derive(Debug, Parser)]
#[command(about = "Simulated deployments, a seed each: faults at every call, every promise checked")]
struct Args {
    /// Number of seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run only this seed. The oracle judges it too.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// The oracle also judges every n-th seed; 0: none.
    #[arg(long, default_value_t = 100)]
    oracle_every: u64,
    /// Multiplies the usual frequency of faults.
    #[arg(long, default_value_t = 1)]
    rate: u32,
    /// End when a seed has failed.
    #[arg(long)]
    stop_at_first: bool,
    /// Number of seeds that run at the same time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Totals over all seeds.
#[derive(Debug, Default)]
struct Sum {
    faults: BTreeMap<Fault, u64>,
    num_turns: u64,
    num_paused: u64,
    num_seeds: u64,
    num_tidy: u64,
    num_judged: u64,
    raw: usize,
    finals: usize,
    health: usize,
    published: usize,
    claims: usize,
    rows_judged: usize,
    failures: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Result<Outcome>) {
        self.num_seeds += 1;
        match outcome {
            Err(error) => self.failures.push((seed, format!("{error:#}"))),
            Ok(outcome) => {
                for (fault, count) in outcome.faults {
                    *self.faults.entry(fault).or_default() += count;
                }
                self.num_turns += outcome.num_turns;
                self.num_paused += outcome.num_paused;
                self.num_tidy += u64::from(outcome.is_tidy);
                self.num_judged += u64::from(outcome.num_judged > 0);
                self.rows_judged += outcome.num_judged;
                self.raw += outcome.compared.raw;
                self.finals += outcome.compared.finals;
                self.health += outcome.compared.health;
                self.published += outcome.compared.published;
                self.claims += outcome.compared.claims;
            }
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // Log only when one seed runs. The logs of many seeds would be too much.
    if args.seed.is_some() {
        start_logging(LogFormat::Text);
    }
    let (from, num_seeds) = args.seed.map_or((args.from, args.seeds), |seed| (seed, 1));
    let is_judged =
        |seed: u64| args.seed.is_some() || (args.oracle_every > 0 && seed.is_multiple_of(args.oracle_every));
    let (next, sum) = (AtomicU64::new(from), Mutex::new(Sum::default()));
    let clock = SystemClock::start();
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + num_seeds {
                        break;
                    }
                    let outcome = simulate(Asked { seed, with_oracle: is_judged(seed), rate: args.rate });
                    if let Err(error) = &outcome {
                        eprintln!(
                            "seed {seed}: {error:#}\n  again: cargo run --bin simulate -- --seed {seed} --rate {}",
                            args.rate
                        );
                        // A seed that another thread runs may never end: what is broken may be the end of a loop.
                        if args.stop_at_first {
                            std::process::exit(1);
                        }
                    }
                    if let Ok(mut sum) = sum.lock() {
                        sum.add(seed, outcome);
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(&sum, clock.monotonic().as_secs_f64());
    if sum.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(sum: &Sum, seconds: f64) {
    println!(
        "{} seeds in {seconds:.1} s ({:.1} a second), {} of them tidy, {} judged by the oracle, {} failed",
        sum.num_seeds,
        sum.num_seeds as f64 / seconds,
        sum.num_tidy,
        sum.num_judged,
        sum.failures.len()
    );
    println!(
        "{} turns; {} times a source ahead of others was made to wait; compared: {} raw records, {} final window rows ({} by the oracle), {} health rows, {} scores and alerts, {} claims",
        sum.num_turns, sum.num_paused, sum.raw, sum.finals, sum.rows_judged, sum.health, sum.published, sum.claims
    );
    println!("{} faults: {:?}", sum.faults.values().sum::<u64>(), sum.faults);
}
