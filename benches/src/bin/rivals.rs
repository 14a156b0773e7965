//! Compares Keepwell with Apache Flink and Kafka Streams: the same broker, topic and job, one after another. The rows
//! must be equal.
//!
//! Run `cargo run --release --bin rivals -- throughput --runs 5`.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use keepwell_benches::load::Shape;
use keepwell_benches::rivals::latency;
use keepwell_benches::rivals::result::Results;
use keepwell_benches::rivals::rows::{WINDOWS, truth};
use keepwell_benches::rivals::system::{Job, PARTITIONS, System};
use keepwell_benches::rivals::throughput::Course;
use keepwell_verify::kafka::Kafka;
use serde_json::json;

const DAY_MS: i64 = 86_400_000;
const WEEK_MS: i64 = 7 * DAY_MS;
/// 2024-01-01T00:00:00Z, a Monday.
const MONDAY_MS: i64 = 1_704_067_200_000;

#[derive(Debug, Parser)]
#[command(about = "Keepwell and its peers on the same broker, topic and job")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Process a load that is already in the topic.
    Throughput {
        #[command(flatten)]
        common: Common,
        /// Number of events.
        #[arg(long, default_value_t = 3_000_000)]
        events: usize,
        /// Number of accounts.
        #[arg(long, default_value_t = 10_000)]
        accounts: usize,
        /// Days from the first event to the last. The rows of all days except the last two are compared.
        #[arg(long, default_value_t = 4)]
        days: i64,
        /// Give each account one event before any account has a second.
        #[arg(long)]
        every_account: bool,
        /// Name of the measurement. Besides `throughput`, the report knows `growth` (Keepwell by accounts) and
        /// `processes` (Keepwell by partitions and processes).
        #[arg(long, default_value = "throughput")]
        what: String,
    },
    /// Measure the time from an event to its output, at a rate.
    Latency {
        #[command(flatten)]
        common: Common,
        /// Events per second.
        #[arg(long)]
        rate: u32,
        /// Duration in seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// The systems to run, e.g. `keepwell,flink-heap`. Default: all.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Number of measured runs of each system.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Number of runs of each system before the measured ones; their results are not kept. A broker compiles its own
    /// code in the first minutes, which takes a quarter of two cores.
    #[arg(long, default_value_t = 0)]
    warm_ups: usize,
    /// Commit interval of the peers, in milliseconds. Keepwell commits after each batch.
    #[arg(long, default_value_t = 1000)]
    commit_ms: u64,
    /// Interval of live rows, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    live_ms: u64,
    /// Heap size of a JVM.
    #[arg(long, default_value = "4g")]
    heap: String,
    /// Managed memory of Flink.
    #[arg(long, default_value = "512m")]
    managed: String,
    /// Number of partitions of every topic.
    #[arg(long, default_value_t = PARTITIONS)]
    partitions: i32,
    /// Number of processes of each of Keepwell's stages.
    #[arg(long, default_value_t = 1)]
    processes: usize,
    /// File to which the measurements are appended.
    #[arg(long, default_value = "benches/measured/rivals.ndjson")]
    results: PathBuf,
}

impl Common {
    fn systems(&self) -> Result<Vec<System>> {
        let named = |name: &String| {
            System::ALL.into_iter().find(|system| system.to_string() == *name).with_context(|| name.clone())
        };
        if self.systems.is_empty() { Ok(System::ALL.to_vec()) } else { self.systems.iter().map(named).collect() }
    }

    /// Runs the systems in turns, `warm_ups + runs` times each. Appends what `measure` returns after the warm-ups.
    fn each(
        &self,
        kafka: &Kafka,
        input: &str,
        first_day: i64,
        measure: impl Fn(System, &Job) -> Result<serde_json::Value>,
    ) -> Result<()> {
        let (results, mut num_void) = (Results::open(&self.results)?, 0);
        for run in 0..self.warm_ups + self.runs {
            for system in self.systems()? {
                let folder = tempfile::tempdir()?;
                let job = Job {
                    broker: kafka.address.clone(),
                    name: format!("r{run}-{system}"),
                    input: if input.is_empty() { format!("r{run}-{system}-raw") } else { input.to_owned() },
                    first_day,
                    live: Duration::from_millis(self.live_ms),
                    commit: Duration::from_millis(self.commit_ms),
                    heap: self.heap.clone(),
                    managed: self.managed.clone(),
                    partitions: self.partitions,
                    processes: self.processes,
                    folder: folder.path().to_owned(),
                };
                match measure(system, &job) {
                    Ok(measured) if run < self.warm_ups => println!("{system}, warm-up {run}: {measured}"),
                    Ok(measured) => results.append(&measured)?,
                    // A failed run does not stop the others. It gets no line in the results.
                    Err(error) => {
                        println!("{system}, run {run}: void: {error:#}; logs are kept in {}", folder.keep().display());
                        num_void += 1;
                    }
                }
                kafka.delete_topics(&job.name)?;
            }
        }
        ensure!(num_void == 0, "{num_void} runs are void");
        Ok(())
    }
}

fn main() -> Result<()> {
    let kafka = Kafka::start()?;
    match Cli::parse().what {
        What::Throughput { common, events, accounts, days, every_account, what } => {
            // Start at the last Monday after which `days` full days have passed, so that the load ends in the past.
            let past_ms = jiff::Timestamp::now().as_millisecond() - days * DAY_MS - MONDAY_MS;
            let start_ms = MONDAY_MS + past_ms / WEEK_MS * WEEK_MS;
            let shape = Shape { seed: 1, accounts, events, span_ms: days * DAY_MS, start_ms, every_account };
            shape.keep(&kafka, common.partitions)?;
            let end_ms = |of_last: i64| start_ms + (days - of_last) * DAY_MS;
            let course = Course {
                kafka: &kafka,
                num_events: events as i64,
                last_end_ms: end_ms(2),
                truth: truth(shape, &WINDOWS, end_ms(2))?,
                closed: truth(shape, &WINDOWS, end_ms(1))?,
            };
            common.each(&kafka, &shape.topic(), start_ms / DAY_MS, |system, job| {
                let mut measured = course.run(system, job)?;
                measured["what"] = what.clone().into();
                (measured["accounts"], measured["days"], measured["every_account"]) =
                    (json!(accounts), json!(days), json!(every_account));
                Ok(measured)
            })
        }
        What::Latency { common, rate, seconds } => {
            let today = jiff::Timestamp::now().as_millisecond() / DAY_MS;
            common.each(&kafka, "", today, |system, job| {
                let mut measured = latency::run(&kafka, system, job, rate, Duration::from_secs(seconds))?;
                measured["what"] = "latency".into();
                Ok(measured)
            })
        }
    }
}
