//! Measures the cost of silence: each account of a fleet has one event, and then nothing happens, day after day.
//!
//! Run `cargo run --bin silence -- --accounts 1000000`. The clock closes every day. On the last day aggregate ends in
//! the middle of the close and continues in a new process.
//! The program checks that each account has its rows of each day exactly once.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use clap::Parser;
use keepwell::in_process::{self, InMemory};
use keepwell_aggregate::Aggregate;
use keepwell_core::codec;
use keepwell_pipeline::clock::SetClock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::memory::{MemoryBroker, MemoryLog};
use keepwell_pipeline::partition_loop::Worker;
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::record::Message;
use keepwell_pipeline::runner::Runner;
use keepwell_pipeline::stage::Stage;
use keepwell_score::Score;

const START_US: i64 = 1_704_067_200_000_000;
const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;
/// About the number of rows in a slice of a close.
const SLICE_ROWS: usize = 3000;

#[derive(Debug, Parser)]
#[command(about = "What a quiet account costs a day")]
struct Args {
    /// Number of accounts.
    #[arg(long, default_value_t = 100_000)]
    accounts: usize,
    /// Number of quiet days.
    #[arg(long, default_value_t = 3)]
    days: i64,
}

type OnMemory<'s, S> = Runner<'s, S, MemoryLog, SetClock>;

/// The deployment, with its log and clock.
struct Fleet<'a> {
    args: &'a Args,
    config: &'a Config,
    broker: &'a MemoryBroker,
    clock: &'a SetClock,
    stage: &'a Aggregate,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let text = format!(
        "epoch: 1\npartitions: 2\nkafka: {{bootstrap_servers: 'none:0'}}\nsources: [{{topic: usage, kind: usage}}]\n\
         snapshots: {{url: 'file://{}'}}\n",
        folder.path().display()
    );
    let config = Config::parse("silence", &text, &[])?;
    let (broker, clock) = (in_process::broker(&config, 1), SetClock::at(START_US + 9 * HOUR_US));
    let stage = Aggregate::new(&config);
    let fleet = Fleet { args: &args, config: &config, broker: &broker, clock: &clock, stage: &stage };
    for n in 0..args.accounts {
        broker.produce(&event(n, &config))?;
    }
    fleet.ingest()?;
    in_process::expire(&broker, "usage")?;
    let mut aggregate = fleet.aggregate()?;
    let started = Instant::now();
    aggregate.run(&AtomicBool::new(false))?;
    let score_stage = Score::new(&config)?;
    let plan = keepwell_score::plan(&config);
    let mut scoring = InMemory { broker: &broker, config: &config, args: &RunArgs::drained(false), clock: &clock }
        .runner(&score_stage, &plan)?;
    // Score the live rows now: their cost does not belong to silence.
    scoring.run(&AtomicBool::new(false))?;
    in_process::expire(&broker, &config.topics.windows)?;
    let shown: Vec<_> = aggregate.state().keys().map(|tp| stage.gauges(aggregate.state(), tp)).collect();
    let num_ids: usize = shown.iter().filter_map(|gauges| gauges.num_ids).sum();
    let id_bytes: u64 = shown.iter().filter_map(|gauges| gauges.id_bytes).sum();
    println!(
        "{num_ids} event ids of a day in {} partitions: {:.1} MB, {:.0} bytes each",
        shown.len(),
        id_bytes as f64 / 1e6,
        id_bytes as f64 / num_ids as f64
    );
    println!(
        "{} accounts with one event each: folded in {:.1} s, {:.0} MB resident",
        args.accounts,
        started.elapsed().as_secs_f64(),
        resident_mb()?
    );
    for day in 1..=args.days {
        clock.set(START_US + day * DAY_US + 2 * HOUR_US);
        fleet.ingest()?;
        let started = Instant::now();
        let before = aggregate.run(&AtomicBool::new(true))?;
        if day == args.days {
            aggregate = fleet.crash_in_the_middle(aggregate)?;
        }
        let after = aggregate.run(&AtomicBool::new(false))?;
        let seconds = started.elapsed().as_secs_f64();
        let num_steps = after.num_steps.saturating_sub(if day == args.days { 0 } else { before.num_steps });
        fleet.report(day, seconds, num_steps)?;
        fleet.score(&mut scoring)?;
    }
    Ok(())
}

fn event(n: usize, config: &Config) -> Message {
    let at_ms = START_US / 1000 + (n % 30_000_000) as i64;
    let value = format!(
        r#"{{"event_id":"e{n}","account_id":"account-{n:07}","user_id":"u{n}","feature":"f{}","occurred_at":{at_ms}}}"#,
        n % 10
    );
    Message {
        topic: Arc::from(config.sources[0].topic.as_str()),
        partition: 0,
        timestamp_ms: Some(at_ms),
        key: None,
        value: Some(value.into_bytes()),
        headers: Vec::new(),
    }
}

impl<'a> Fleet<'a> {
    fn args_of_run() -> RunArgs {
        RunArgs::drained(false)
    }

    fn ingest(&self) -> Result<()> {
        let stage = keepwell_ingest::Ingest::new(self.config)?;
        let plan = keepwell_ingest::plan(self.config);
        InMemory { broker: self.broker, config: self.config, args: &Self::args_of_run(), clock: self.clock }
            .drain(&stage, &plan)?;
        Ok(())
    }

    fn aggregate(&self) -> Result<OnMemory<'a, Aggregate>> {
        let plan = keepwell_aggregate::plan(self.config);
        InMemory { broker: self.broker, config: self.config, args: &Self::args_of_run(), clock: self.clock }
            .runner(self.stage, &plan)
    }

    /// Ends the process when about half of the rows of its close are written. The new process starts without its
    /// memory.
    fn crash_in_the_middle(&self, mut aggregate: OnMemory<'a, Aggregate>) -> Result<OnMemory<'a, Aggregate>> {
        let num_rows = self.args.accounts * self.config.aggregate.windows.len();
        let half = num_rows / SLICE_ROWS / self.config.partitions.unsigned_abs() as usize / 2;
        while self.broker.positions("aggregate").values().all(|position| (position.slice as usize) <= half) {
            aggregate.turn()?;
        }
        let slices: Vec<String> = self.broker.positions("aggregate").values().map(ToString::to_string).collect();
        drop(aggregate);
        let started = Instant::now();
        let mut again = self.aggregate()?;
        while again.state().is_empty() {
            again.turn()?;
        }
        println!("ended at positions {}; up again in {:.1} s", slices.join(" and "), started.elapsed().as_secs_f64());
        Ok(again)
    }

    /// Checks the rows of a day and prints their cost.
    fn report(&self, day: i64, seconds: f64, num_steps: u64) -> Result<()> {
        let (accounts, schema) = (self.args.accounts, self.config.aggregate.layout().schema());
        let records = self.broker.records(&self.config.topics.windows);
        let (mut num_rows, mut num_bytes, mut most_bytes) = (0, 0, 0);
        let mut rows_of: BTreeMap<String, usize> = BTreeMap::new();
        for value in records.iter().filter_map(|record| record.value.as_ref()) {
            let batch = codec::decode(value, &schema)?;
            num_rows += batch.num_rows();
            num_bytes += value.len();
            most_bytes = most_bytes.max(value.len());
            let names = batch.column_by_name("account_id").context("no account_id")?.as_string::<i32>();
            for name in names.iter().flatten() {
                *rows_of.entry(name.to_owned()).or_default() += 1;
            }
            let ends = batch.column_by_name("as_of").context("no as_of")?.as_primitive::<TimestampMicrosecondType>();
            ensure!(ends.values().iter().all(|end| *end == START_US + day * DAY_US), "a row of another day than {day}");
        }
        ensure!(rows_of.len() == accounts && rows_of.values().all(|rows| *rows == 1), "not each account once");
        println!(
            "day {day}: {num_rows} final rows in {num_steps} steps and {seconds:.1} s ({:.1} us and {} bytes of `windows` an account; \
             largest record {most_bytes} bytes), {:.0} MB resident",
            seconds * 1e6 / accounts as f64,
            num_bytes / accounts,
            resident_mb()?
        );
        Ok(())
    }

    /// Scores the rows of a day, then removes them from the log.
    fn score(&self, scoring: &mut OnMemory<'a, Score>) -> Result<()> {
        in_process::expire(self.broker, &self.config.topics.health)?;
        let started = Instant::now();
        scoring.run(&AtomicBool::new(false))?;
        let bytes: usize = self
            .broker
            .records(&self.config.topics.health)
            .iter()
            .filter_map(|r| r.value.as_ref())
            .map(|v| v.len())
            .sum();
        let (seconds, accounts) = (started.elapsed().as_secs_f64(), self.args.accounts);
        println!(
            "  score: {seconds:.1} s ({:.1} us and {} bytes of `health` an account)",
            seconds * 1e6 / accounts as f64,
            bytes / accounts
        );
        in_process::expire(self.broker, &self.config.topics.windows)
    }
}

/// Resident memory of this process, in megabytes.
fn resident_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kb / 1000.0)
}
