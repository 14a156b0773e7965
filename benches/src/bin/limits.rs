//! Measures the limits and the stages beside them, on one machine in one run.
//!
//! Run `cargo run --release --bin limits -- --runs 5`.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use clap::Parser;
use keepwell_benches::fixture::Fixture;
use keepwell_benches::load::{Load, Shape};
use keepwell_benches::rivals::cost::Cost;
use keepwell_benches::rivals::result::Results;
use keepwell_core::codec;
use keepwell_core::event::Kind;
use keepwell_core::offset::{NextOffset, Position};
use keepwell_core::schema::event;
use keepwell_ingest::decode::{Limits, decode};
use keepwell_pipeline::clock::SystemClock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::kafka::settings::Settings;
use keepwell_pipeline::log::kafka::{KafkaLog, Member};
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::partition_loop::{Session, Worker};
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::pulse::Pulse;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::runner::Runner;
use keepwell_pipeline::stage::{Batch, Stage};
use keepwell_sink::range_files::{Range, Source, files, properties};
use keepwell_verify::kafka::Kafka;
use parquet::arrow::ArrowWriter;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: i32 = 2;

#[derive(Debug, Parser)]
#[command(about = "Reading and decoding alone against the stages")]
struct Args {
    /// Number of events.
    #[arg(long, default_value_t = 500_000)]
    events: usize,
    /// Number of accounts.
    #[arg(long, default_value_t = 10_000)]
    accounts: usize,
    /// Days from the first event to the last.
    #[arg(long, default_value_t = 7)]
    days: i64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// File to which the measurements are appended.
    #[arg(long, default_value = "benches/measured/limits.ndjson")]
    results: PathBuf,
}

/// What was measured, by the name of the work.
#[derive(Debug, Default)]
struct Measured {
    /// Events or accounts a second.
    a_second: BTreeMap<&'static str, f64>,
    /// Processor time of this process for each of them, in microseconds.
    cpu_us: BTreeMap<&'static str, f64>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let start_ms = (jiff::Timestamp::now().as_millisecond() / DAY_MS - args.days) * DAY_MS;
    let span_ms = args.days * DAY_MS;
    let shape =
        Shape { seed: 1, accounts: args.accounts, events: args.events, span_ms, start_ms, every_account: false };
    let (fixture, results) = (Fixture::of(shape)?, Results::open(&args.results)?);
    for run in 0..args.runs {
        let mut measured = Measured::default();
        // What comes second finds a broker that has worked for longer, so both ways of ingest take turns.
        let is_mapped_first = run % 2 == 1;
        on_kafka(shape, is_mapped_first, &fixture, &mut measured)?;
        in_memory(&args, &fixture, &mut measured)?;
        let Measured { a_second, cpu_us } = measured;
        let of = |values: &BTreeMap<&'static str, f64>, name| values.get(name).copied().unwrap_or(f64::NAN);
        let share = |what, limit| json!(of(&a_second, what) / of(&a_second, limit));
        let by_cpu = |what, limit| json!(of(&cpu_us, limit) / of(&cpu_us, what));
        results.append(&json!({
                "what": "limits", "events": args.events, "accounts": args.accounts, "days": args.days, "fleet": "usage",
                "a_second": a_second, "cpu_us": cpu_us,
                "shares": {
                    "ingest by a mapping of ingest": share("ingest by a mapping", "ingest"),
                    "the same, events per CPU-second": by_cpu("ingest by a mapping", "ingest"),
                    "ingest of consume + typed decode": share("ingest", "consume + typed decode"),
                    "ingest of consume": share("ingest", "consume"),
                    "fold of IPC decode": share("fold", "decode of events, Arrow IPC"),
                    "score of IPC decode": share("score", "decode of windows, Arrow IPC"),
                    "record to Parquet file of Parquet": share("record to Parquet file", "Parquet"),
                },
        }))?;
    }
    Ok(())
}

/// Measures steps that use the broker, in events per second.
fn on_kafka(shape: Shape, is_mapped_first: bool, fixture: &Fixture, measured: &mut Measured) -> Result<()> {
    let kafka = Kafka::start()?;
    let warm_up = config(&kafka.address, "warm-up", "kind: usage")?;
    let by_mapping = concat!("mapping: '", env!("CARGO_MANIFEST_DIR"), "/usage.mapping.yaml'");
    let (config, mapped) =
        (config(&kafka.address, "own", "kind: usage")?, config(&kafka.address, "mapped", by_mapping)?);
    let topic = config.sources[0].topic.clone();
    kafka.create_topic(&topic, PARTITIONS)?;
    let outputs: BTreeSet<&str> = [&warm_up, &config, &mapped].into_iter().flat_map(|of| of.topics.all()).collect();
    for name in outputs {
        kafka.create_topic(name, config.partitions)?;
    }
    kafka.create_topic(COPIES, 1)?;
    kafka.produce(Load::new(shape).messages(&topic, PARTITIONS))?;
    let mut rate = |what, work: &dyn Fn() -> Result<()>| rate(measured, what, shape.events, work);
    rate("consume", &|| consume(&kafka, &topic, shape.events, |_| Ok(())))?;
    rate("consume + typed decode", &|| {
        consume(&kafka, &topic, shape.events, |value| {
            decode(Kind::Usage, value, &LIMITS).map(|_| ()).map_err(|reason| anyhow::anyhow!("{reason}"))
        })
    })?;
    run_ingest(&warm_up)?;
    let mut ways = [("ingest", &config), ("ingest by a mapping", &mapped)];
    if is_mapped_first {
        ways.reverse();
    }
    for (name, config) in ways {
        rate(name, &|| run_ingest(config))?;
    }
    rate("produce of the same batches, in transactions", &|| produce(&config, &fixture.events))
}

/// Writes transactions with as many records as one step of ingest writes: those of `batch.max_records` events.
fn produce(config: &Config, events: &[Record]) -> Result<()> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", &config.kafka.bootstrap_servers).set("transactional.id", "limits");
    let producer: BaseProducer =
        settings.set("linger.ms", "0").set("queue.buffering.max.kbytes", "1000000").create()?;
    producer.init_transactions(ANSWER)?;
    // Each record of the fixture contains a thousand events.
    for records in events.chunks(config.batch.max_records / 1000) {
        producer.begin_transaction()?;
        for value in records.iter().filter_map(|record| record.value.as_ref()) {
            let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(COPIES).partition(0).payload(value);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        producer.commit_transaction(ANSWER)?;
    }
    Ok(())
}

/// Measures the work of one thread without a broker.
fn in_memory(args: &Args, fixture: &Fixture, measured: &mut Measured) -> Result<()> {
    let Fixture { config, events, windows, health, .. } = fixture;
    let schema = config.aggregate.layout().schema();
    let finals = |record: &Record| -> Result<Option<RecordBatch>> {
        let value = record.value.as_ref().map(|value| codec::decode_shared(value, &schema)).transpose()?;
        Ok(value.map(|batch| Source::Windows.finals(&batch)).transpose()?)
    };
    let ready: Vec<RecordBatch> =
        windows.iter().filter_map(|record| finals(record).transpose()).collect::<Result<_>>()?;
    let accounts: usize = ready.iter().map(RecordBatch::num_rows).sum();
    let mut rate = |what, count, work: &dyn Fn() -> Result<()>| rate_again(measured, what, count, work);
    rate("decode of events, Arrow IPC", args.events, &|| decode_all(events, &event::schema()))?;
    // Without statements of time no pane closes.
    let open: Vec<Record> = events.iter().map(|record| Record { headers: Vec::new(), ..record.clone() }).collect();
    rate("fold", args.events, &|| fold(&keepwell_aggregate::Aggregate::new(config), &open))?;
    rate("decode of windows, Arrow IPC", accounts, &|| decode_all(windows, &schema))?;
    let score = keepwell_score::Score::new(config)?;
    rate("score", accounts, &|| fold(&score, windows))?;
    rate("publish", accounts, &|| fold(&keepwell_sink::publish::Publish::new(config), health))?;
    let range = Range {
        source: Source::Windows,
        epoch: 1,
        partition: 0,
        first: NextOffset(0),
        end: NextOffset(windows.len() as i64),
    };
    rate("record to Parquet file", accounts, &|| {
        let finals = windows.iter().filter_map(|record| finals(record).transpose()).collect::<Result<Vec<_>>>()?;
        ensure!(!files(range, &finals)?.is_empty(), "no file");
        Ok(())
    })?;
    rate("Parquet", accounts, &|| {
        let mut writer =
            ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties("a limit".into(), &schema)?))?;
        ready.iter().try_for_each(|batch| writer.write(batch))?;
        ensure!(!writer.into_inner()?.is_empty(), "no file");
        Ok(())
    })
}

/// Time limit for an answer of the broker.
const ANSWER: Duration = Duration::from_secs(60);
/// Topic for the measurement of produce alone.
const COPIES: &str = "limits-copies";
const DAY_MS: i64 = 86_400_000;
const LIMITS: Limits = Limits {
    max_event_bytes: 10_000,
    max_facts: 1000,
    max_fact_bytes: 10_000,
    latest_us: i64::MAX,
    max_future_us: 0,
    earliest_us: 0,
};

fn config(address: &str, name: &str, source: &str) -> Result<Config> {
    let id = std::process::id();
    let text = format!(
        "epoch: 1\npartitions: 4\nkafka: {{bootstrap_servers: '{address}', group_prefix: l{id}-{name}}}\nsources: [{{topic: l{id}-usage, {source}}}]\n\
         topics: {{events: l{id}-{name}-events, windows: l{id}-{name}-windows, feature_days: l{id}-{name}-feature-days, revenue: l{id}-{name}-revenue, rejects: l{id}-{name}-rejects}}\n\
         snapshots: {{url: 'memory:///'}}\n"
    );
    Ok(Config::parse("limits", &text, &[])?)
}

fn rate(measured: &mut Measured, what: &'static str, count: usize, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (start, cpu) = (Instant::now(), Cost::of(std::process::id())?.cpu);
    work().with_context(|| what.to_owned())?;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), Cost::of(std::process::id())?.cpu - cpu);
    measured.a_second.insert(what, count as f64 / seconds);
    measured.cpu_us.insert(what, cpu.as_secs_f64() * 1e6 / count as f64);
    Ok(())
}

/// Like [`rate`], but measures the second run. It then uses memory that the process already has, like a process that
/// runs for months.
fn rate_again(measured: &mut Measured, what: &'static str, count: usize, work: &dyn Fn() -> Result<()>) -> Result<()> {
    work().with_context(|| what.to_owned())?;
    rate(measured, what, count, work)
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
    let mut num_read = 0;
    while num_read < count {
        if let Some(message) = consumer.poll(Duration::from_secs(10)).transpose()? {
            each(message.payload().unwrap_or_default())?;
            num_read += 1;
        }
    }
    Ok(())
}

fn args() -> RunArgs {
    RunArgs::drained(false)
}

fn run_ingest(config: &Config) -> Result<()> {
    let (stage, plan) = (keepwell_ingest::Ingest::new(config)?, keepwell_ingest::plan(config));
    let stop = Arc::new(AtomicBool::new(false));
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let group = format!("{}-ingest", config.kafka.group_prefix);
    let log = KafkaLog::join(
        Settings::new(&config.kafka)?,
        Member { group: &group, instance: "0", topics: &sources },
        Arc::clone(&stop),
        Pulse::default(),
    )?;
    let clock = SystemClock::start();
    Runner::new(
        &stage,
        Session::new(log, &clock, StageMetrics::unread("ingest")?),
        None,
        plan.options(config, &args()),
    )
    .run(&stop)?;
    Ok(())
}

/// Decodes batches of rows and does nothing else with them.
fn decode_all(records: &[Record], schema: &SchemaRef) -> Result<()> {
    let mut num_rows = 0;
    for value in records.iter().filter_map(|record| record.value.as_ref()) {
        num_rows += codec::decode_shared(value, schema)?.num_rows();
    }
    ensure!(num_rows > 0, "no rows");
    Ok(())
}

/// Folds records of one partition, one record a step.
fn fold<S: Stage<State: Default>>(stage: &S, records: &[Record]) -> Result<()> {
    let mut state = S::State::default();
    let tp = &records.first().context("no record")?.topic_partition;
    let start = Position::at(NextOffset(0));
    stage.restore(&mut state, tp, start, None)?;
    for record in records {
        let batch = Batch {
            records: BTreeMap::from([(tp.clone(), std::slice::from_ref(record))]),
            positions: BTreeMap::from([(tp.clone(), Position::at(NextOffset(record.offset.0)))]),
            ..Batch::default()
        };
        let step = stage.apply(&state, &batch)?;
        ensure!(!step.positions.is_empty(), "nothing was folded");
        stage.merge(&mut state, step.changes);
    }
    Ok(())
}
