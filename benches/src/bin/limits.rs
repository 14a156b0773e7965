//! The limits and the stages beside them, on one machine in one run.
//!
//! `cargo run --release --bin limits`
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use benches::kafka::Kafka;
use benches::load::{Load, Shape};
use clap::Parser;
use ingest::decode::{Limits, decode};
use local::in_process;
use pipeline::clock::{FixedClock, SystemClock};
use pipeline::codec;
use pipeline::config::Config;
use pipeline::event::Kind;
use pipeline::log::kafka::KafkaLog;
use pipeline::log::kafka::settings::Settings;
use pipeline::log::memory::MemoryBroker;
use pipeline::log::{Message, Record};
use pipeline::metrics::StageMetrics;
use pipeline::offset::{NextOffset, Position, TopicPartition};
use pipeline::process::RunArgs;
use pipeline::runner::Runner;
use pipeline::schema::event;
use pipeline::stage::{Batch, Stage};
use pipeline::waiting::Pulse;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

const PARTITIONS: i32 = 2;

#[derive(Debug, Parser)]
#[command(about = "Reading and decoding alone against the stages")]
struct Args {
    /// Events.
    #[arg(long, default_value_t = 500_000)]
    events: usize,
    /// Accounts.
    #[arg(long, default_value_t = 10_000)]
    accounts: usize,
    /// Days from the first event to the last.
    #[arg(long, default_value_t = 7)]
    days: i64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let kafka = Kafka::start()?;
    let config = config(&kafka.address)?;
    let topic = config.sources[0].topic.clone();
    kafka.create_topic(&topic, PARTITIONS)?;
    for name in config.topics.all() {
        kafka.create_topic(name, config.partitions)?;
    }
    let start_ms = jiff::Timestamp::now().as_millisecond() - args.days * 86_400_000;
    let shape =
        Shape { seed: 1, accounts: args.accounts, events: args.events, span_ms: args.days * 86_400_000, start_ms };
    let messages: Vec<Message> = Load::new(shape).messages(&topic, PARTITIONS).collect();
    let bytes: usize = messages.iter().filter_map(|message| message.value.as_ref()).map(Vec::len).sum();
    println!("{} events of {} bytes, {} accounts", args.events, bytes / args.events, args.accounts);
    rate("produce", args.events, || kafka.produce(&messages).map(|_| ()))?;
    let consumed = rate("consume", args.events, || consume(&kafka, &topic, args.events, |_| Ok(())))?;
    let decoded = rate("consume + typed decode", args.events, || {
        consume(&kafka, &topic, args.events, |value| {
            decode(Kind::Usage, value, &LIMITS).map(|_| ()).map_err(|reason| anyhow::anyhow!("{reason}"))
        })
    })?;
    let ingest = rate("ingest, exactly once, Kafka to Kafka", args.events, || run_ingest(&config))?;
    let broker = in_process::broker(&config, PARTITIONS);
    messages.iter().try_for_each(|message| broker.produce(message))?;
    rate("ingest, in memory", args.events, || ingest_in_memory(&config, &broker))?;
    let events = broker.records(&config.topics.events);
    rate("decode of events (Arrow IPC)", args.events, || decode_events(&events))?;
    rate("aggregate's fold, in memory", args.events, || fold(&config, &events))?;
    println!("ingest is {:.2} of consume + typed decode, {:.2} of consume", ingest / decoded, ingest / consumed);
    Ok(())
}

const LIMITS: Limits = Limits { max_event_bytes: 10_000, latest_us: i64::MAX, earliest_us: 0 };

fn config(address: &str) -> Result<Config> {
    let id = std::process::id();
    let text = format!(
        "epoch: 1\npartitions: 4\nkafka: {{bootstrap_servers: '{address}', group_prefix: l{id}}}\nsources: [{{topic: l{id}-usage, kind: usage}}]\n\
         topics: {{events: l{id}-events, windows: l{id}-windows, feature_days: l{id}-feature-days, rejects: l{id}-rejects}}\n\
         snapshots: {{url: 'memory:///'}}\n"
    );
    Ok(Config::parse("limits", &text, &[])?)
}

fn rate(what: &str, count: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    let per_second = count as f64 / start.elapsed().as_secs_f64();
    println!("{what}: {per_second:.0} events/s");
    Ok(per_second)
}

fn consume(kafka: &Kafka, topic: &str, count: usize, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.address)
        .set("group.id", "limits")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let mut seen = 0;
    while seen < count {
        if let Some(message) = consumer.poll(Duration::from_secs(10)).transpose()? {
            each(message.payload().unwrap_or_default())?;
            seen += 1;
        }
    }
    Ok(())
}

fn args() -> RunArgs {
    RunArgs::drained(false)
}

fn run_ingest(config: &Config) -> Result<()> {
    let (stage, plan) = (ingest::Ingest::new(config)?, ingest::plan(config));
    let stop = Arc::new(AtomicBool::new(false));
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let group = format!("{}-ingest", config.kafka.group_prefix);
    let log =
        KafkaLog::join(Settings::new(&config.kafka)?, &group, "0", &sources, Arc::clone(&stop), Pulse::default())?;
    let clock = SystemClock::start();
    Runner::new(
        &stage,
        log,
        &clock,
        None,
        plan.options(config, &args()),
        ingest::State::default(),
        StageMetrics::unread("ingest")?,
    )
    .run(&stop)?;
    Ok(())
}

fn ingest_in_memory(config: &Config, broker: &MemoryBroker) -> Result<()> {
    let wall_us = jiff::Timestamp::now().as_microsecond();
    in_process::drain(
        &ingest::Ingest::new(config)?,
        &ingest::plan(config),
        broker,
        config,
        &args(),
        &FixedClock { wall_us },
    )?;
    Ok(())
}

/// Batches of rows, and nothing done with them.
fn decode_events(records: &[Record]) -> Result<()> {
    let schema = event::schema();
    let mut num_rows = 0;
    for value in records.iter().filter_map(|record| record.value.as_ref()) {
        num_rows += codec::decode(value, &schema)?.num_rows();
    }
    ensure!(num_rows > 0, "no rows");
    Ok(())
}

fn fold(config: &Config, records: &[Record]) -> Result<()> {
    let stage = aggregate::Aggregate::new(config);
    let mut state = aggregate::State::default();
    let mut by_partition: BTreeMap<TopicPartition, Vec<Record>> = BTreeMap::new();
    for record in records {
        // Without statements of time no pane closes.
        let record = Record { headers: Vec::new(), ..record.clone() };
        by_partition.entry(record.topic_partition.clone()).or_default().push(record);
    }
    for (tp, records) in &by_partition {
        let start = Position::at(NextOffset(0));
        stage.restore(&mut state, tp, start, start, None)?;
        for record in records {
            let batch = Batch {
                records: BTreeMap::from([(tp.clone(), std::slice::from_ref(record))]),
                positions: BTreeMap::from([(tp.clone(), start)]),
                ..Batch::default()
            };
            let step = stage.apply(&state, &batch)?;
            ensure!(!step.positions.is_empty(), "nothing was folded");
            stage.merge(&mut state, step.changes);
        }
    }
    Ok(())
}
