//! Loads a folder of NDJSON into a real Kafka and runs the four programs.
//! Then compares every final row, the last live rows, every score, the `scores` topic and the tables with the oracle.
//! Also compares the rows with a run on the in-memory log.
//!
//! Run `cargo build --workspace && cargo run -p keepwell-verify --bin verify -- FOLDER`.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use clap::Parser;
use keepwell::in_process::{self, InMemory, InProcess, Stages};
use keepwell_core::event::Kind;
use keepwell_core::schema::window::provenance;
use keepwell_pipeline::clock::FixedClock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::record::Message;
use keepwell_verify::kafka::Kafka;
use keepwell_verify::streamed::{self, Streamed};
use keepwell_verify::{check, compare, datasets, deployment};

/// Number of partitions of each raw topic.
const RAW_PARTITIONS: i32 = 2;
const KEYS: [&str; 2] = ["account_id", "as_of"];

#[derive(Debug, Parser)]
#[command(about = "Public or own data through real Kafka, compared with the oracle cell by cell")]
struct Args {
    /// Folder with any of usage.ndjson, tickets.ndjson, surveys.ndjson, accounts.ndjson, people.ndjson and contracts.ndjson.
    folder: PathBuf,
    /// Number of partitions of each of Keepwell's topics.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Replace a value of the configuration: path.to.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (raws, sources) = datasets::read(&args.folder)?;
    let kafka = Kafka::start()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("keepwell.yaml");
    std::fs::write(&path, configuration(&kafka.address, folder.path(), &sources, args.partitions))?;
    let config = Config::read(&path, &args.set)?;

    let messages = raws.iter().enumerate().map(|(n, raw)| deployment::message(raw, n, RAW_PARTITIONS, &config));
    let messages = messages.collect::<Result<Vec<_>>>()?;
    for source in &config.sources {
        kafka.create_topic(&source.topic, RAW_PARTITIONS)?;
    }
    let programs = Programs { path: &path, set: &args.set };
    programs.run("keepwell", &["topics", "--replication", "1", "apply"])?;
    timed("load", raws.len(), || kafka.produce(&messages))?;
    let ingest = timed("keepwell-ingest", raws.len(), || programs.drain("ingest", &["--complete"]))?;
    let aggregate = timed("keepwell-aggregate", ingest["emitted"] as usize, || programs.drain("aggregate", &[]))?;
    let finals = aggregate["read"] as usize;
    let score = timed("keepwell-score", finals, || programs.drain("score", &[]))?;
    let sink = timed("keepwell-sink", score["read"] as usize, || programs.drain("sink", &[]))?;
    println!("ingest {ingest:?}\naggregate {aggregate:?}\nscore {score:?}\nsink {sink:?}");
    check_sums(raws.len() as u64, &ingest, &aggregate, &score, &sink)?;

    let streamed = timed("reading the topics", 0, || Streamed::read(&config, |topic| kafka.records(topic)))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let rows = streamed.windows.num_rows();
    let checked = timed("oracle", rows, || runtime.block_on(check::against_oracle(&streamed, &config)))?;
    println!("equal to the oracle, cell by cell: {checked:?}");
    let claims = check::tables(&streamed, &folder.path().join("tables"))?;
    println!("the Parquet tables hold every final row once, in {claims} claims without gap or overlap");

    let in_memory = timed("in memory, all stages", raws.len(), || through_memory(&messages, &config))?;
    let windows = streamed::finals(&streamed.windows)?;
    let rows = compare::same_rows(&streamed::finals(&in_memory.windows)?, &[without(&windows, &[])?], &KEYS)?;
    println!("{rows} final window rows are the same through the in-memory log, provenance aside");
    let last = |health: &RecordBatch| {
        streamed::stacked(&streamed::finals(health)?, &streamed::last_lives(health)?)
            .and_then(|rows| without(&rows, &["changed"]))
    };
    let rows = compare::same_rows(&last(&in_memory.health)?, &[last(&streamed.health)?], &KEYS[..2])?;
    println!("{rows} scores, the last of each account among them, are the same, provenance aside");
    Ok(())
}

fn timed<T>(what: &str, count: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work().with_context(|| what.to_owned())?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {count} in {seconds:.1} s, {:.0}/s", count as f64 / seconds);
    Ok(result)
}

fn configuration(address: &str, folder: &Path, sources: &[(&str, Kind)], partitions: i32) -> String {
    let id = std::process::id();
    let kind = |kind: Kind| format!("{kind:?}").to_lowercase();
    let sources: String =
        sources.iter().map(|(name, k)| format!("  - {{topic: v{id}-{name}, kind: {}}}\n", kind(*k))).collect();
    let topics: String = ["events", "windows", "feature_days", "revenue", "health", "scores", "alerts", "rejects"]
        .iter()
        .map(|name| format!("  {name}: v{id}-keepwell-{}\n", name.replace('_', "-")))
        .collect();
    format!(
        "epoch: 1\npartitions: {partitions}\nkafka: {{bootstrap_servers: '{address}', group_prefix: v{id}}}\nsources:\n{sources}topics:\n{topics}\
         time: {{clock: false}}\nsnapshots: {{url: 'file://{0}/snapshots'}}\ntables: {{url: 'file://{0}/tables'}}\nhttp: {{ingest: 'off', aggregate: 'off', score: 'off', sink: 'off'}}\n",
        folder.display()
    )
}

/// The programs in the folder of this program.
struct Programs<'k> {
    path: &'k Path,
    set: &'k [String],
}

impl Programs<'_> {
    fn run(&self, name: &str, args: &[&str]) -> Result<String> {
        let program = std::env::current_exe()?.with_file_name(name);
        let mut command = Command::new(&program);
        command.args(args).args(self.set.iter().flat_map(|set| ["--set", set])).env("KEEPWELL_CONFIG", self.path);
        let output =
            command.output().with_context(|| format!("{}: `cargo build --workspace` makes it", program.display()))?;
        ensure!(output.status.success(), "{name} {args:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a stage until it is drained and returns its fates.
    fn drain(&self, stage: &str, more: &[&str]) -> Result<BTreeMap<String, u64>> {
        let lines = self.run(&format!("keepwell-{stage}"), &[&["--drain"], more].concat())?;
        let fates = lines.lines().map(|line| {
            let (fate, count) = line.rsplit_once(' ').context("a line without a count")?;
            Ok((fate.to_owned(), count.parse()?))
        });
        fates.collect()
    }
}

type Counts = BTreeMap<String, u64>;

/// Checks that every record and every event has a fate.
fn check_sums(raws: u64, ingest: &Counts, aggregate: &Counts, score: &Counts, sink: &Counts) -> Result<()> {
    let adds_up = |fates: &Counts, prefix: &str, read: u64| {
        let of_part = || fates.iter().filter_map(|(name, count)| Some((name.strip_prefix(prefix)?, count)));
        let others: u64 = of_part().filter(|(name, _)| *name != "read").map(|(_, count)| count).sum();
        let found: u64 = of_part().filter(|(name, _)| *name == "read").map(|(_, count)| count).sum();
        ensure!(found == read && others == read, "the fates do not add up to {read}: {fates:?}");
        Ok(())
    };
    adds_up(ingest, "", raws)?;
    adds_up(aggregate, "", ingest["emitted"])?;
    adds_up(score, "", score["read"])?;
    adds_up(sink, "publish ", score["read"])?;
    adds_up(sink, "tables ", sink["tables read"])?;
    println!("the fates add up: {raws} read, {} accepted, {} scored", ingest["emitted"], score["read"]);
    Ok(())
}

/// Drops list columns, the columns in `more`, and columns that depend on how the log was cut into batches.
fn without(rows: &RecordBatch, more: &[&str]) -> Result<RecordBatch> {
    let is_kept = |name: &str| {
        provenance::COLUMNS.iter().all(|column| column.name != name)
            && name != "events_next_offset"
            && !more.contains(&name)
    };
    let schema = rows.schema();
    let is_list = |field: &arrow::datatypes::Field| matches!(field.data_type(), DataType::List(_));
    let kept = schema.fields().iter().enumerate().filter(|(_, f)| is_kept(f.name()) && !is_list(f)).map(|(i, _)| i);
    Ok(rows.project(&kept.collect::<Vec<_>>())?)
}

fn through_memory(messages: &[Message], config: &Config) -> Result<Streamed> {
    let args = RunArgs::drained(true);
    let config = Config {
        snapshots: keepwell_pipeline::config::SnapshotOptions {
            url: "memory:///".to_owned().into(),
            ..config.snapshots.clone()
        },
        tables: None,
        ..config.clone()
    };
    let broker = in_process::broker(&config, RAW_PARTITIONS);
    messages.iter().try_for_each(|message| broker.produce(message))?;
    let clock = FixedClock { wall_us: jiff::Timestamp::now().as_microsecond() };
    let stages = Stages::new(&config)?;
    InProcess::new(&stages, &InMemory { broker: &broker, config: &config, args: &args, clock: &clock })?.drain()?;
    Streamed::read(&config, |topic| Ok(broker.records(topic)))
}
