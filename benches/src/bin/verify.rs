//! Loads a folder of NDJSON into real Kafka, runs the stages, and compares every final row with the oracle
//! and with the same data through the in-memory log.
//!
//! `cargo build --workspace && cargo run -p keepwell-benches --bin verify -- FOLDER`
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::array::RecordBatch;
use benches::fleet::Raw;
use benches::kafka::Kafka;
use benches::{compare, deployment, oracle};
use clap::Parser;
use pipeline::config::Config;
use pipeline::event::Kind;
use pipeline::log::{Message, Record};
use pipeline::process::{LogFormat, RunArgs};
use pipeline::schema::window::PROVENANCE;
use pipeline::schema::{feature_day, window};

/// Partitions of each raw topic.
const RAW_PARTITIONS: i32 = 2;
const FILES: [(&str, Kind); 5] = [
    ("usage", Kind::Usage),
    ("tickets", Kind::Ticket),
    ("surveys", Kind::Survey),
    ("accounts", Kind::Account),
    ("people", Kind::Person),
];
const KEYS: [&str; 3] = ["account_id", "as_of", "period"];

#[derive(Debug, Parser)]
#[command(about = "Public or own data through real Kafka, compared with the oracle cell by cell")]
struct Args {
    /// Folder with usage.ndjson, tickets.ndjson, surveys.ndjson, accounts.ndjson, people.ndjson; those that are there.
    folder: PathBuf,
    /// Partitions of Keepwell's topics.
    #[arg(long, default_value_t = 4)]
    partitions: i32,
    /// Replaces a value of the configuration: path.to.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (raws, sources) = read(&args.folder)?;
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
    let keepwell = Keepwell { path: &path, set: &args.set };
    keepwell.run(&["topics", "--replication", "1", "apply"])?;
    timed("load", raws.len(), || kafka.produce(&messages))?;
    let ingest = timed("ingest", raws.len(), || keepwell.drain("ingest", &["--complete"]))?;
    let aggregate = timed("aggregate", ingest["emitted"] as usize, || keepwell.drain("aggregate", &[]))?;
    println!("ingest {ingest:?}\naggregate {aggregate:?}");
    check_sums(raws.len() as u64, &ingest, &aggregate)?;

    let finals = finals(&kafka.records(&config.topics.windows)?)?;
    let days = compare::rows_of(&kafka.records(&config.topics.feature_days)?, &feature_day::schema())?;
    let events = kafka.records(&config.topics.events)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let answer = timed("oracle", finals.num_rows(), || runtime.block_on(oracle::answer(&events, &config)))?;
    let rows = compare::same_rows(&finals, &answer.finals, &KEYS)?;
    let columns = answer.finals.first().map_or(0, RecordBatch::num_columns);
    println!("{rows} final rows x {columns} columns equal the oracle's, cell by cell");
    let rows = compare::same_rows(&days, &answer.feature_days, &["account_id", "as_of", "feature"])?;
    println!("{rows} feature days equal the oracle's, cell by cell");

    let in_memory = timed("in memory, both stages", raws.len(), || through_memory(&messages, &config))?;
    let rows = compare::same_rows(&in_memory, &[without_provenance(&finals)?], &KEYS)?;
    println!("{rows} final rows are the same through the in-memory log, provenance aside");
    Ok(())
}

fn timed<T>(what: &str, count: usize, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work().with_context(|| what.to_owned())?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{what}: {count} in {seconds:.1} s, {:.0}/s", count as f64 / seconds);
    Ok(result)
}

type Sources = Vec<(&'static str, Kind)>;

fn read(folder: &Path) -> Result<(Vec<Raw>, Sources)> {
    let mut raws = Vec::new();
    let mut sources = Vec::new();
    for (name, kind) in FILES {
        let path = folder.join(format!("{name}.ndjson"));
        if path.exists() {
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            raws.extend(lines.map(|line| Raw { kind, key: None, value: Some(line.to_vec()), at_ms: 0 }));
            sources.push((name, kind));
        }
    }
    ensure!(!raws.is_empty(), "{} holds none of usage.ndjson, tickets.ndjson, ...", folder.display());
    Ok((raws, sources))
}

fn configuration(address: &str, folder: &Path, sources: &[(&str, Kind)], partitions: i32) -> String {
    let id = std::process::id();
    let kind = |kind: Kind| format!("{kind:?}").to_lowercase();
    let sources: String =
        sources.iter().map(|(name, k)| format!("  - {{topic: v{id}-{name}, kind: {}}}\n", kind(*k))).collect();
    let topics: String = ["events", "windows", "feature_days", "rejects"]
        .iter()
        .map(|name| format!("  {name}: v{id}-keepwell-{}\n", name.replace('_', "-")))
        .collect();
    format!(
        "epoch: 1\npartitions: {partitions}\nkafka: {{bootstrap_servers: '{address}', group_prefix: v{id}}}\nsources:\n{sources}topics:\n{topics}\
         time: {{clock: false}}\nsnapshots: {{url: 'file://{}/snapshots'}}\n",
        folder.display()
    )
}

/// The program, built beside this one.
struct Keepwell<'k> {
    path: &'k Path,
    set: &'k [String],
}

impl Keepwell<'_> {
    fn run(&self, args: &[&str]) -> Result<String> {
        let program = std::env::current_exe()?.with_file_name("keepwell");
        let mut command = Command::new(&program);
        command.args(args).args(self.set.iter().flat_map(|set| ["--set", set])).env("KEEPWELL_CONFIG", self.path);
        let output =
            command.output().with_context(|| format!("{}: `cargo build --workspace` makes it", program.display()))?;
        ensure!(output.status.success(), "{args:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a stage until it is drained and gives its fates.
    fn drain(&self, stage: &str, more: &[&str]) -> Result<BTreeMap<String, u64>> {
        let lines = self.run(&[&[stage, "--drain"], more].concat())?;
        let fates = lines.lines().map(|line| {
            let (fate, count) = line.rsplit_once(' ').context("a line without a count")?;
            Ok((fate.to_owned(), count.parse()?))
        });
        fates.collect()
    }
}

/// I6: every record and every event has a fate.
fn check_sums(raws: u64, ingest: &BTreeMap<String, u64>, aggregate: &BTreeMap<String, u64>) -> Result<()> {
    let sum =
        |fates: &BTreeMap<String, u64>| fates.iter().filter(|(name, _)| *name != "read").map(|(_, n)| n).sum::<u64>();
    ensure!(ingest["read"] == raws && sum(ingest) == raws, "ingest's fates do not add up to {raws}");
    ensure!(
        aggregate["read"] == ingest["emitted"] && sum(aggregate) == aggregate["read"],
        "aggregate's fates do not add up"
    );
    println!("the fates add up: {raws} read, {} accepted", ingest["emitted"]);
    Ok(())
}

fn finals(records: &[Record]) -> Result<RecordBatch> {
    compare::where_flag(&compare::rows_of(records, &window::schema())?, "final", true)
}

fn without_provenance(rows: &RecordBatch) -> Result<RecordBatch> {
    let is_kept = |name: &str| PROVENANCE.iter().all(|column| column.name != name);
    let schema = rows.schema();
    let kept = schema.fields().iter().enumerate().filter(|(_, field)| is_kept(field.name())).map(|(i, _)| i);
    Ok(rows.project(&kept.collect::<Vec<_>>())?)
}

fn through_memory(messages: &[Message], config: &Config) -> Result<RecordBatch> {
    let args = RunArgs {
        config: PathBuf::new(),
        set: Vec::new(),
        instance: "0".into(),
        drain: true,
        complete: true,
        from: None,
        log_format: LogFormat::Text,
    };
    let config = Config {
        snapshots: pipeline::config::SnapshotOptions { url: "memory:///".into(), ..config.snapshots.clone() },
        ..config.clone()
    };
    let broker = deployment::broker(&config, RAW_PARTITIONS);
    messages.iter().try_for_each(|message| broker.produce(message))?;
    let wall_us = jiff::Timestamp::now().as_microsecond();
    deployment::drain(&ingest::Ingest::new(&config)?, &ingest::plan(&config), &broker, &config, &args, wall_us)?;
    deployment::drain(
        &aggregate::Aggregate::new(&config),
        &aggregate::plan(&config),
        &broker,
        &config,
        &args,
        wall_us,
    )?;
    finals(&broker.records(&config.topics.windows))
}
