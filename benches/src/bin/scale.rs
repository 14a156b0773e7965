//! What scoring a fleet costs: a day's close, a few accounts that change, a model change, explain, audit.
//!
//! `cargo run --bin scale -- --accounts 100000`, with a model of ten factors and ten triggers.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use aggregate::Aggregate;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use ingest::Ingest;
use local::in_process;
use pipeline::clock::SetClock;
use pipeline::config::Config;
use pipeline::log::Message;
use pipeline::log::memory::{MemoryBroker, MemoryLog};
use pipeline::metrics::StageMetrics;
use pipeline::process::RunArgs;
use pipeline::runner::Runner;
use pipeline::stage::Fate;
use score::models::Announcement;
use score::plain::drift::audit;
use score::stored::Stored;
use score::{Score, model};
use sink::Tables;

const START_US: i64 = 1_704_067_200_000_000;
const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;
/// Accounts audited at once, as `keepwell audit` does.
const AT_ONCE: usize = 500;

#[derive(Debug, Parser)]
#[command(about = "What scoring a fleet costs")]
struct Args {
    /// Accounts.
    #[arg(long, default_value_t = 100_000)]
    accounts: usize,
    /// Accounts that are audited.
    #[arg(long, default_value_t = 5000)]
    audited: usize,
}

type On<'s, S> = Runner<'s, S, MemoryLog, SetClock>;

/// The deployment, each stage with what it knows; without snapshots, which go on beside the work.
struct Fleet<'s> {
    config: &'s Config,
    broker: &'s MemoryBroker,
    clock: &'s SetClock,
    ingest: On<'s, Ingest>,
    aggregate: On<'s, Aggregate>,
    score: On<'s, Score>,
    tables: Tables<'s, MemoryLog, SetClock>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let folder = tempfile::tempdir()?;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("scale.yaml");
    let text = format!(
        "epoch: 1\npartitions: 2\nkafka: {{bootstrap_servers: 'none:0'}}\nsources: [{{topic: usage, kind: usage}}]\n\
         snapshots: {{url: 'memory:///'}}\ntables: {{url: 'file://{0}/tables'}}\nscore: {{model: '{1}'}}\n",
        folder.path().display(),
        model.display()
    );
    let config = Config::parse("scale", &text, &[])?;
    let (broker, clock) = (in_process::broker(&config, 1), SetClock::at(START_US + 9 * HOUR_US));
    let stages = (Ingest::new(&config)?, Aggregate::new(&config), Score::new(&config)?);
    let mut fleet = Fleet::new(&config, &broker, &clock, &stages)?;
    for n in 0..args.accounts {
        broker.produce(&event(n, 0, &config))?;
    }
    println!("{} accounts", args.accounts);
    fleet.day("first rows, live", args.accounts)?;
    for day in 1..=2 {
        clock.set(START_US + day * DAY_US + 2 * HOUR_US);
        fleet.day("a day's close", args.accounts)?;
    }
    let few = args.accounts / 100;
    for n in 0..few {
        broker.produce(&event(n * 100, 2, &config))?;
    }
    fleet.day("1 % of the accounts changed", few)?;

    let text = model::read(&model)?.replace("version: 2", "version: 3").replace("to: 0.7", "to: 0.8");
    let from = jiff::Timestamp::from_microsecond(START_US + 3 * DAY_US)?;
    let announcement = Announcement { from, text: text.clone() };
    for partition in 0..config.partitions {
        broker.produce(&announcement.message(&config.topics.windows.as_str().into(), partition)?)?;
    }
    let started = Instant::now();
    fleet.score.run(&AtomicBool::new(false))?;
    println!("another model is taken by {} partitions: {:.3} s", config.partitions, started.elapsed().as_secs_f64());
    clock.set(START_US + 3 * DAY_US + 2 * HOUR_US);
    fleet.day("a day's close by another model", args.accounts)?;
    looked_at(&args, &config, &model, &text)
}

/// Explains and audits what the tables hold.
fn looked_at(args: &Args, config: &Config, model: &Path, text: &str) -> Result<()> {
    let started = Instant::now();
    let stored = Stored::of_config(config, None)?;
    let (row, windows) = stored.at("account-0000100", START_US + 2 * DAY_US)?.context("no score")?;
    ensure!((row.num_rows(), windows.num_rows()) == (1, config.aggregate.windows.len()), "not one score");
    println!("explain an account at an earlier time: {:.2} s", started.elapsed().as_secs_f64());
    let periods: Vec<String> = config.aggregate.windows.iter().map(ToString::to_string).collect();
    let files = [model::parse("scale", &model::read(model)?, &periods)?, model::parse("scale", text, &periods)?];
    let started = Instant::now();
    let accounts = stored.accounts()?;
    ensure!(accounts.len() == args.accounts, "{} accounts in the tables", accounts.len());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut num_scores, some) = (0, &accounts[..args.audited.min(accounts.len())]);
    for some in some.chunks(AT_ONCE) {
        let found = runtime.block_on(audit(stored.of(some)?, &files, config.time.pane.as_micros()))?;
        ensure!(found.drift.is_empty() && found.unknown.is_empty(), "{:?}", found.drift.first());
        num_scores += found.num_scores;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "audit of {} accounts, {num_scores} scores: {seconds:.1} s, {:.2} ms a score",
        some.len(),
        seconds * 1e3 / num_scores as f64
    );
    Ok(())
}

fn event(n: usize, day: i64, config: &Config) -> Message {
    let at_ms = (START_US + day * DAY_US) / 1000 + (n % 3_000_000) as i64;
    let value = format!(
        r#"{{"event_id":"e{n}-{day}","account_id":"account-{n:07}","user_id":"u{n}","feature":"f{}","occurred_at":{at_ms}}}"#,
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

impl<'s> Fleet<'s> {
    fn new(
        config: &'s Config,
        broker: &'s MemoryBroker,
        clock: &'s SetClock,
        (ingest, aggregate, score): &'s (Ingest, Aggregate, Score),
    ) -> Result<Self> {
        let args = RunArgs::drained(false);
        let tables = config.tables.as_ref().context("no tables")?;
        let sources = [&config.topics.windows, &config.topics.feature_days, &config.topics.health];
        let log = broker.join("tables", "scale", &sources.map(String::as_str))?;
        Ok(Self {
            config,
            broker,
            clock,
            ingest: in_process::member(ingest, &ingest::plan(config), broker, config, &args, (clock, None))?,
            aggregate: in_process::member(aggregate, &aggregate::plan(config), broker, config, &args, (clock, None))?,
            score: in_process::member(score, &score::plan(config), broker, config, &args, (clock, None))?,
            tables: Tables::new(log, clock, config, tables, &args, StageMetrics::unread("tables")?)?,
        })
    }

    /// Everything there is to do: each account that is meant is scored once.
    fn day(&mut self, what: &str, accounts: usize) -> Result<()> {
        let go_on = AtomicBool::new(false);
        self.ingest.run(&go_on)?;
        let aggregate = timed(|| self.aggregate.run(&go_on).map(|_| ()))?;
        let before = self.num_scored();
        let score = timed(|| self.score.run(&go_on).map(|_| ()))?;
        let scored = self.num_scored() - before;
        ensure!(scored == accounts as u64, "{scored} scores, not {accounts}");
        let tables = timed(|| self.tables.run(&go_on).map(|_| ()))?;
        for topic in [&self.config.topics.events, &self.config.topics.windows, &self.config.topics.health] {
            in_process::expire(self.broker, topic)?;
        }
        let each = |seconds: f64| seconds * 1e6 / accounts as f64;
        println!(
            "{what}: windows {aggregate:.2} s, {:.1} us an account; scores {score:.2} s, {:.1} us an account; tables {tables:.2} s, at {}",
            each(aggregate),
            each(score),
            jiff::Timestamp::from_microsecond(pipeline::clock::Clock::wall_us(self.clock))?
        );
        Ok(())
    }

    fn num_scored(&mut self) -> u64 {
        // A run that is stopped at once does nothing but tell.
        let report = self.score.run(&AtomicBool::new(true)).unwrap_or_default();
        report
            .fates
            .iter()
            .filter(|(fate, _)| **fate == Fate::of("scored") || **fate == Fate::of("unscored"))
            .map(|(_, n)| n)
            .sum()
    }
}

fn timed<E: Into<anyhow::Error>>(work: impl FnOnce() -> std::result::Result<(), E>) -> Result<f64> {
    let started = Instant::now();
    work().map_err(Into::into)?;
    Ok(started.elapsed().as_secs_f64())
}
