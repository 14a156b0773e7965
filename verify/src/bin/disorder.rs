//! Compares public data that is out of order, partly repeated and mixed with damaged lines, with the same clean data.
//! The final rows must agree.
//!
//! Run `cargo run --bin disorder -- FOLDER`. With a bound and an allowed lateness of seven days, no final row may lack
//! anything. With the defaults, exactly the events counted as late or too late may be missing.
//! The oracle, which knows the arrival of each event, must then give the same rows.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use clap::Parser;
use keepwell::in_process::{self, InMemory, InProcess, Ledger, Stages};
use keepwell_pipeline::clock::FixedClock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::reject::REASON_HEADER;
use keepwell_verify::datasets::{self, Disorder, Sources};
use keepwell_verify::fleet::Raw;
use keepwell_verify::sim::promises::without_provenance;
use keepwell_verify::streamed::{Streamed, finals};
use keepwell_verify::{check, compare, deployment};
use serde::Deserialize;

const RAW_PARTITIONS: i32 = 2;
const DAY_MS: i64 = 86_400_000;
/// The window of 1 day is extra: each row shows what was on time that day.
const PERIODS: &str = "[1d, 7d, 28d, 90d]";
const KEYS: [&str; 2] = ["account_id", "as_of"];

#[derive(Debug, Parser)]
#[command(about = "Public data out of order, repeated and damaged, against the same data as it is")]
struct Args {
    /// Folder with usage.ndjson, tickets.ndjson, and so on.
    folder: PathBuf,
    /// Seed of the disorder.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out the oracle. It keeps everything in memory: 350,000 events out of order need more than 20 GB.
    #[arg(long)]
    no_oracle: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let (mut raws, sources) = datasets::read(&args.folder)?;
    raws.sort_by_key(|raw| raw.at_ms);
    let disorder = Disorder { most_ms: 7 * DAY_MS, repeated_percent: 2, corrupt_percent: 1 };
    let (disordered, num_repeated, num_corrupt) = datasets::disordered(&raws, disorder, args.seed);
    println!(
        "{} events; {num_repeated} come twice, {num_corrupt} damaged lines, up to 7 days out of order",
        raws.len()
    );

    let wide = config(&sources, "7d", "7d")?;
    let clean = timed("clean, bound and lateness 7d", || run(&raws, &wide))?;
    let mixed = timed("disordered, bound and lateness 7d", || run(&disordered, &wide))?;
    println!("  {:?}\n  {:?}", mixed.1.ingest, mixed.1.aggregate);
    let count = |ledger: &Ledger, name: &str| -> u64 {
        ledger.aggregate.iter().chain(&ledger.ingest).filter(|(fate, _)| fate.name == name).map(|(_, n)| n).sum()
    };
    let accepted = count(&clean.1, "on_time");
    ensure!(count(&mixed.1, "on_time") == accepted, "not every event is on time");
    ensure!(count(&mixed.1, "rejected") >= num_corrupt as u64, "damaged lines were accepted");
    let rows = same(&mixed.0, &clean.0)?;
    println!("  {rows} final window rows are those of the clean data");
    // Free the memory for the oracle.
    drop((clean, mixed));

    let usual = config(&sources, "1h", "2d")?;
    let clean = timed("clean, the defaults", || run(&raws, &usual))?;
    let mixed = timed("disordered, the defaults", || run(&disordered, &usual))?;
    println!("  {:?}", mixed.1.aggregate);
    let (late, too_late) = (count(&mixed.1, "late"), count(&mixed.1, "too_late"));
    ensure!(late > 0 && too_late > 0, "nothing was late");
    if sources.iter().any(|(name, _)| *name == "usage") {
        let missing = missing_of_days(&clean.0.windows, &mixed.0.windows)?;
        let never = never_accepted(&disordered, &mixed.2)?;
        ensure!(missing == late + never, "{missing} events are missing, {late} were late and {never} too late");
        println!(
            "  of {accepted} events {missing} are missing from their day's final row: {late} late, {never} too late ({} more copies of events that \
             were too late or are there already were too late, too)",
            too_late - never
        );
    }
    if args.no_oracle {
        return Ok(());
    }
    drop((clean, raws, disordered));
    let runtime = tokio::runtime::Runtime::new()?;
    let checked = timed("oracle", || runtime.block_on(check::against_oracle(&mixed.0, &usual)))?;
    println!("  equal to the oracle, cell by cell: {checked:?}");
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work().with_context(|| what.to_owned())?;
    println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

fn config(sources: &Sources, bound: &str, lateness: &str) -> Result<Config> {
    let sources: String = sources
        .iter()
        .map(|(name, kind)| {
            format!("  - {{topic: {name}, kind: {}, bound: {bound}}}\n", format!("{kind:?}").to_lowercase())
        })
        .collect();
    let text = format!(
        "epoch: 1\npartitions: 4\nkafka: {{bootstrap_servers: 'none:0'}}\nsources:\n{sources}time: {{clock: false, lateness: {lateness}}}\n\
         aggregate: {{windows: {PERIODS}}}\nsnapshots: {{url: 'memory:///'}}\n"
    );
    Ok(Config::parse("disorder", &text, &[])?)
}

/// Runs all stages in this process. Returns their outputs, the fates and the rejects.
fn run(raws: &[Raw], config: &Config) -> Result<(Streamed, Ledger, Vec<Record>)> {
    let broker = in_process::broker(config, RAW_PARTITIONS);
    for (n, raw) in raws.iter().enumerate() {
        broker.produce(&deployment::message(raw, n, RAW_PARTITIONS, config)?)?;
    }
    let clock = FixedClock { wall_us: jiff::Timestamp::now().as_microsecond() };
    let stages = Stages::new(config)?;
    let ledger = InProcess::unsaved(
        &stages,
        &InMemory { broker: &broker, config, args: &RunArgs::drained(true), clock: &clock },
    )?
    .drain()?;
    let rejects = broker.records(&config.topics.rejects);
    Ok((Streamed::read(config, |topic| Ok(broker.records(topic)))?, ledger, rejects))
}

fn same(found: &Streamed, expected: &Streamed) -> Result<usize> {
    let of = |streamed: &Streamed| without_provenance(&finals(&streamed.windows)?);
    compare::same_rows(&of(found)?, &[of(expected)?], &KEYS)
}

/// Number of events with every copy rejected as too late.
fn never_accepted(raws: &[Raw], rejects: &[Record]) -> Result<u64> {
    #[derive(Deserialize)]
    struct Glance {
        event_id: String,
    }
    let mut arrived: BTreeMap<String, u64> = BTreeMap::new();
    for value in raws.iter().filter_map(|raw| raw.value.as_ref()) {
        // A damaged line is not an event.
        if let Ok(event) = serde_json::from_slice::<Glance>(value) {
            *arrived.entry(event.event_id).or_default() += 1;
        }
    }
    let mut rejected: BTreeMap<String, u64> = BTreeMap::new();
    for reject in rejects.iter().filter(|reject| reject.header(REASON_HEADER) == Some(b"too_late")) {
        let event: Glance = serde_json::from_slice(reject.value.as_deref().unwrap_or_default())?;
        *rejected.entry(event.event_id).or_default() += 1;
    }
    Ok(rejected.iter().filter(|(id, count)| arrived.get(*id) == Some(count)).count() as u64)
}

/// Number of usage events that are in the final rows of their days in the clean run, but not in the other. The other
/// run must have no additional event.
fn missing_of_days(clean: &RecordBatch, mixed: &RecordBatch) -> Result<u64> {
    let (clean, mixed) = (events_of_days(clean)?, events_of_days(mixed)?);
    ensure!(mixed.keys().all(|day| clean.contains_key(day)), "an account has a day that the clean data lacks");
    let mut missing = 0;
    for (day, events) in &clean {
        let found = mixed.get(day).copied().unwrap_or_default();
        ensure!(found <= *events, "{day:?} has {found} events and {events} in the clean data");
        missing += events - found;
    }
    Ok(missing)
}

fn events_of_days(rows: &RecordBatch) -> Result<BTreeMap<(String, i64), u64>> {
    let rows = finals(rows)?;
    let column = |name: &str| rows.column_by_name(name).with_context(|| format!("no {name}"));
    let accounts = column("account_id")?.as_string::<i32>();
    let (ends, events) =
        (column("as_of")?.as_primitive::<TimestampMicrosecondType>(), column("events_1d")?.as_primitive::<Int64Type>());
    Ok((0..rows.num_rows())
        .map(|row| ((accounts.value(row).to_owned(), ends.value(row)), events.value(row) as u64))
        .collect())
}
