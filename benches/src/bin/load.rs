//! Keeps a load in a real Kafka, or sends it at a rate.
//!
//! Run `cargo run --release --bin load -- --kafka 127.0.0.1:9092 --accounts 10000 --events 5000000`.
#![allow(clippy::disallowed_methods, reason = "I/O edge: sends at a rate")]

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use keepwell_benches::load::{Load, Shape};
use keepwell_verify::kafka::Kafka;

#[derive(Debug, Parser)]
#[command(about = "A load of known content, by seed")]
struct Args {
    /// Address of the broker.
    #[arg(long, default_value = "127.0.0.1:9092")]
    kafka: String,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of accounts.
    #[arg(long, default_value_t = 10_000)]
    accounts: usize,
    /// Number of events.
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// Days from the first event to the last.
    #[arg(long, default_value_t = 28)]
    days: i64,
    /// Number of partitions of the topic.
    #[arg(long, default_value_t = 2)]
    partitions: i32,
    /// Events per second: sends them now, with current times, to --topic, instead of keeping the load.
    #[arg(long, requires = "topic")]
    rate: Option<u32>,
    /// The topic to send to.
    #[arg(long)]
    topic: Option<String>,
}

/// 2024-01-01T00:00:00Z, a Monday.
const START_MS: i64 = 1_704_067_200_000;

fn main() -> Result<()> {
    let args = Args::parse();
    let kafka = Kafka::at(&args.kafka);
    let Args { seed, accounts, events, days, partitions, .. } = args;
    let shape = Shape { seed, accounts, events, span_ms: days * 86_400_000, start_ms: START_MS, every_account: false };
    let started = Instant::now();
    let (Some(rate), Some(topic)) = (args.rate, &args.topic) else {
        let is_new = shape.keep(&kafka, partitions)?;
        println!(
            "{}: {}, {:.1} s",
            shape.topic(),
            if is_new { "written" } else { "there" },
            started.elapsed().as_secs_f64()
        );
        return Ok(());
    };
    let rate = f64::from(rate);
    let span_ms = (events as f64 / rate * 1000.0) as i64;
    let start_ms = jiff::Timestamp::now().as_millisecond();
    let messages = Load::new(Shape { span_ms, start_ms, ..shape }).messages(topic, partitions);
    kafka.produce(messages.zip(0_u32..).map(|(message, n)| {
        let due = Duration::from_secs_f64(f64::from(n) / rate);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        message
    }))?;
    println!("{events} events in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}
