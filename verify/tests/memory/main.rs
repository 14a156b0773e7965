//! Compares the stages on the in-memory log with the oracle.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod cases;
mod contracts;
mod documents;
mod erasure;
mod figures;
mod live;
mod money;
mod outcomes;
mod plans;
mod properties;
mod prose;
mod quickstart;
mod restated;
mod revenue;
mod schemas;
mod sim;
mod suspect;
mod tables;
mod worked_day;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use keepwell::in_process::{self, InMemory, InProcess, Ledger, Stages};
use keepwell_core::event::Kind;
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::window;
use keepwell_pipeline::clock::FixedClock;
use keepwell_pipeline::config::{Config, Span, Tables};
use keepwell_pipeline::log::memory::MemoryBroker;
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::partition_loop::{Session, Worker};
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::runner::Runner;
use keepwell_pipeline::stage::Fates;
use keepwell_verify::fleet::{self, Raw, Shape};
use keepwell_verify::streamed::Streamed;
use keepwell_verify::{check, compare, deployment};
use tempfile::TempDir;

/// 2025-01-01T00:00:00Z, after all events.
const WALL_US: i64 = 1_735_689_600_000_000;
const RAW_PARTITIONS: i32 = 2;
/// Largest delay of an event, below the bound of every source.
const BOUND_MS: i64 = 50 * 60_000;

fn config(set: &[&str]) -> Config {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory/fleet.yaml");
    Config::read(&path, &set).unwrap()
}

fn args() -> RunArgs {
    RunArgs::drained(true)
}

/// A deployment that has read everything.
struct Deployment {
    broker: MemoryBroker,
    config: Config,
    fates: Ledger,
    num_loaded: usize,
    /// Folder of the tables.
    folder: TempDir,
}

impl Deployment {
    /// Reads all events at once.
    fn of(raws: &[Raw], config: Config) -> Self {
        Self::in_parts(&[raws], config)
    }

    /// Reads part by part, with a restart of all stages before each part. The last part is declared complete.
    fn in_parts(parts: &[&[Raw]], config: Config) -> Self {
        let mut deployment = Self::begun(config);
        for (n, part) in parts.iter().enumerate() {
            deployment.read(part, n + 1 == parts.len());
        }
        deployment
    }

    /// A deployment that has read nothing yet.
    fn begun(mut config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        config.tables = Some(Tables::at(url, 1 << 20, Span::from_secs(60)));
        let broker = in_process::broker(&config, RAW_PARTITIONS);
        Self { broker, config, fates: Ledger::default(), num_loaded: 0, folder }
    }

    /// Loads events and runs all stages until they have read them. With `is_last`, the sources are declared complete.
    fn read(&mut self, raws: &[Raw], is_last: bool) {
        for raw in raws {
            let message = deployment::message(raw, self.num_loaded, RAW_PARTITIONS, &self.config).unwrap();
            self.broker.produce(&message).unwrap();
            self.num_loaded += 1;
        }
        let stages = Stages::new(&self.config).unwrap();
        let args = RunArgs { complete: is_last, ..args() };
        let clock = FixedClock { wall_us: WALL_US };
        let mut deployment = InProcess::new(
            &stages,
            &InMemory { broker: &self.broker, config: &self.config, args: &args, clock: &clock },
        )
        .unwrap();
        self.fates.add(&deployment.drain().unwrap());
    }

    fn records(&self, topic: &str) -> Vec<Record> {
        self.broker.records(topic)
    }

    fn streamed(&self) -> Streamed {
        Streamed::read(&self.config, |topic| Ok(self.broker.records(topic))).unwrap()
    }

    fn rows(&self, is_final: bool) -> RecordBatch {
        compare::where_flag(&self.streamed().windows, "final", is_final).unwrap()
    }

    /// Final window and health rows, without the columns that depend on the cut of the log.
    fn finals(&self) -> Finals {
        let streamed = self.streamed();
        let without = |rows: &RecordBatch, columns: &[&str]| {
            let schema = rows.schema();
            let kept: Vec<_> =
                (0..rows.num_columns()).filter(|i| !columns.contains(&schema.field(*i).name().as_str())).collect();
            rows.project(&kept).unwrap()
        };
        let provenance: Vec<&str> = window::provenance::COLUMNS.iter().map(|column| column.name).collect();
        // Whether a row is news depends on the live rows before it.
        let of_health = [provenance.as_slice(), &["events_next_offset", "changed"]].concat();
        let of_closes = |rows: &RecordBatch| compare::where_flag(rows, "final", true).unwrap();
        let health = without(&of_closes(&streamed.health), &of_health);
        let items = ["factors", "drivers", "triggers"].map(|list| compare::items_of(&health, list).unwrap());
        let flat: Vec<usize> =
            (0..health.num_columns()).filter(|i| !health.schema().field(*i).data_type().is_nested()).collect();
        let windows = without(&of_closes(&streamed.windows), &provenance);
        let revenue = without(&streamed.revenue, &provenance);
        Finals { windows, revenue, health: health.project(&flat).unwrap(), items }
    }

    /// Checks every row, fate and file against the oracle.
    fn check(&self) -> usize {
        let streamed = self.streamed();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let checked = runtime.block_on(check::against_oracle(&streamed, &self.config)).unwrap();
        let fates: BTreeMap<String, u64> =
            checked.fates.keys().map(|name| (name.clone(), count(&self.fates.aggregate, name))).collect();
        assert_eq!(fates, checked.fates);
        assert!(check::tables(&streamed, self.folder.path()).unwrap() > 0);
        checked.windows
    }
}

/// Final rows that timing must not change.
struct Finals {
    windows: RecordBatch,
    revenue: RecordBatch,
    health: RecordBatch,
    items: [RecordBatch; 3],
}

impl Finals {
    fn assert_same(&self, expected: &Self) {
        compare::same_rows(&self.windows, std::slice::from_ref(&expected.windows), &KEYS).unwrap();
        compare::same_rows(&self.revenue, std::slice::from_ref(&expected.revenue), &check::REVENUE_KEYS).unwrap();
        compare::same_rows(&self.health, std::slice::from_ref(&expected.health), &KEYS).unwrap();
        for (items, expected) in self.items.iter().zip(&expected.items) {
            compare::same_rows(items, std::slice::from_ref(expected), &["account_id", "as_of", "position"]).unwrap();
        }
    }
}

const KEYS: [&str; 2] = ["account_id", "as_of"];

fn count(fates: &Fates, name: &str) -> u64 {
    fates.iter().filter(|(fate, _)| fate.name == name).map(|(_, count)| count).sum()
}

/// Records in order and without late events, so that no cut of the log changes what is late.
fn punctual(seed: u64) -> Vec<Raw> {
    fleet::punctual(seed, Shape { accounts: 8, days: 40, usage: 3 })
}

#[test]
fn every_final_row_is_the_oracles_and_the_fates_add_up() {
    let raws = fleet::dirty(8, Shape { accounts: 12, days: 60, usage: 3 });
    let deployment = Deployment::of(&raws, config(&[]));
    let Ledger { ingest, aggregate, score, publish, tables } = &deployment.fates;
    assert_eq!(count(ingest, "read"), raws.len() as u64);
    assert_eq!(count(ingest, "read"), count(ingest, "emitted") + count(ingest, "rejected"));
    let fates = ["on_time", "late", "duplicate", "too_late", "deleted"].map(|name| count(aggregate, name));
    assert!(fates.iter().all(|count| *count > 0), "the fleet must be dirty enough: {fates:?}");
    assert_eq!(count(aggregate, "read"), fates.iter().sum::<u64>());
    assert_eq!(count(aggregate, "read"), count(ingest, "emitted"));
    let rejects = deployment.records(&deployment.config.topics.rejects);
    assert_eq!(rejects.len() as u64, count(ingest, "rejected") + count(aggregate, "too_late"));
    assert!(rejects.iter().all(|record| record.value.is_some()), "every reject keeps its bytes");
    let health = compare::where_flag(&deployment.streamed().health, "final", true).unwrap();
    let rows = keepwell_core::schema::health::Reader::of(Columns::Batch(&health)).unwrap();
    let found = (0..health.num_rows()).map(|row| rows.row(row)).flat_map(|row| {
        let triggers = row.triggers.iter().flat_map(|trigger| [Some(trigger.state), trigger.outcome]);
        let missing = row.factors.iter().map(|factor| factor.missing);
        triggers.chain(missing).chain([Some(row.model), row.band]).collect::<Vec<_>>()
    });
    let found: BTreeSet<&str> = found.flatten().collect();
    let all = "accepted active best carry churned cleared closed dismissed done everyone expired fair good green neutral \
               newcomers paying pending raised red reweight unknown yellow zero";
    assert_eq!(found.into_iter().collect::<Vec<_>>(), all.split_whitespace().collect::<Vec<_>>());
    for (fates, parts) in [
        (score, ["scored", "unscored", "left", "deleted"]),
        (publish, ["published", "unchanged", "tombstone", "tombstone"]),
        (tables, ["written", "live", "live", "live"]),
    ] {
        let sum: u64 = std::collections::BTreeSet::from(parts).iter().map(|name| count(fates, name)).sum();
        assert!(sum > 0 && sum == count(fates, "read"), "{fates:?}");
    }
    assert_eq!(count(publish, "read"), count(score, "read"));
    assert!(count(publish, "tombstone") > 0 && count(publish, "unchanged") > 0, "{publish:?}");
    assert!(deployment.check() > 333);
}

#[test]
fn the_oracle_agrees_for_many_fleets_cuts_and_partition_counts() {
    for (seed, cut, partitions) in [(1, 1000, 1), (2, 37, 2), (3, 5, 5), (4, 100_000, 3), (5, 11, 7)] {
        let raws = fleet::dirty(seed, Shape { accounts: 6, days: 30, usage: 2 });
        let config = config(&[&format!("batch.max_records={cut}"), &format!("partitions={partitions}")]);
        assert!(Deployment::of(&raws, config).check() > 100, "seed {seed}");
    }
}

#[test]
fn cuts_and_partition_counts_change_no_final_row() {
    let raws = punctual(21);
    let expected = Deployment::of(&raws, config(&[])).finals();
    assert!(expected.windows.num_rows() > 166);
    for (cut, partitions) in [(3, 3), (50, 1), (100_000, 6)] {
        let config = config(&[&format!("batch.max_records={cut}"), &format!("partitions={partitions}")]);
        let finals = Deployment::of(&raws, config).finals();
        finals.assert_same(&expected);
    }
}

#[test]
fn arrival_in_any_order_within_the_bound_changes_no_final_row() {
    // Dense, so that many events cross the end of a pane.
    let raws = fleet::punctual(22, Shape { accounts: 4, days: 12, usage: 40 });
    let expected = Deployment::of(&raws, config(&["batch.max_records=20"])).finals();
    for seed in 0..3 {
        let shuffled = fleet::shuffled_within(&raws, seed, BOUND_MS);
        assert_ne!(shuffled, raws);
        let deployment = Deployment::of(&shuffled, config(&["batch.max_records=20"]));
        assert_eq!(count(&deployment.fates.aggregate, "late"), 0);
        deployment.finals().assert_same(&expected);
    }
}

#[test]
fn restarts_from_snapshots_or_from_the_log_alone_change_no_final_row() {
    let raws = fleet::dirty(23, Shape { accounts: 8, days: 40, usage: 3 });
    let parts: Vec<&[Raw]> = raws.chunks(raws.len() / 5 + 1).collect();
    let folder = tempfile::tempdir().unwrap();
    let with_snapshots = format!("snapshots.url=file://{}", folder.path().display());
    let restored = Deployment::in_parts(&parts, config(&[&with_snapshots]));
    let replayed = Deployment::in_parts(&parts, config(&[]));
    assert!(restored.check() > 166);
    assert_eq!(restored.rows(true), replayed.rows(true));
    assert_eq!(restored.fates.aggregate, replayed.fates.aggregate);
    restored.finals().assert_same(&replayed.finals());
    assert!(folder.path().join("aggregate/1").exists(), "snapshots were written");
}

#[test]
fn stages_that_have_read_nothing_yet_can_be_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&[&format!("snapshots.url=file://{}", folder.path().display())]);
    let broker = in_process::broker(&config, RAW_PARTITIONS);
    let stages = Stages::new(&config).unwrap();
    let clock = FixedClock { wall_us: WALL_US };
    let start = |raws: &[Raw]| {
        for (serial, raw) in raws.iter().enumerate() {
            broker.produce(&deployment::message(raw, serial, RAW_PARTITIONS, &config).unwrap()).unwrap();
        }
        InProcess::new(&stages, &InMemory { broker: &broker, config: &config, args: &args(), clock: &clock })
            .unwrap()
            .drain()
            .unwrap()
    };
    // Aggregate and score start before ingest, so their topics are empty.
    for _ in 0..2 {
        let stage = keepwell_aggregate::Aggregate::new(&config);
        InMemory { broker: &broker, config: &config, args: &args(), clock: &clock }
            .drain(&stage, &keepwell_aggregate::plan(&config))
            .unwrap();
        let stage = keepwell_score::Score::new(&config).unwrap();
        InMemory { broker: &broker, config: &config, args: &args(), clock: &clock }
            .drain(&stage, &keepwell_score::plan(&config))
            .unwrap();
    }
    start(&[]);
    // One account: most partitions of every topic have no rows.
    start(&fleet::punctual(26, Shape { accounts: 1, days: 9, usage: 3 }));
    assert!(count(&start(&[]).ingest, "read") == 0 && folder.path().join("score/1").exists());
}

#[test]
fn a_snapshot_of_other_settings_is_refused_by_name() {
    let raws = punctual(24);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("snapshots.url=file://{}", folder.path().display());
    let deployment = Deployment::of(&raws, config(&[&url]));
    let other = config(&[&url, "time.lateness=3d"]);
    let stage = keepwell_aggregate::Aggregate::new(&other);
    let clock = FixedClock { wall_us: WALL_US };
    let plan = keepwell_aggregate::plan(&other);
    let error = InMemory { broker: &deployment.broker, config: &other, args: &args(), clock: &clock }
        .drain(&stage, &plan)
        .unwrap_err();
    assert!(error.to_string().contains("fixed for an epoch"), "{error}");
}

#[test]
fn without_snapshots_and_with_output_a_missing_position_is_a_named_stop() {
    let deployment = Deployment::of(&punctual(25), config(&[]));
    let stage = keepwell_aggregate::Aggregate::new(&deployment.config);
    let plan = keepwell_aggregate::plan(&deployment.config);
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let log = deployment.broker.join("another-group", "one", &sources).unwrap();
    let clock = keepwell_pipeline::clock::FixedClock { wall_us: WALL_US };
    let options = plan.options(&deployment.config, &args());
    let metrics = StageMetrics::unread("aggregate").unwrap();
    let mut runner = Runner::new(&stage, Session::new(log, &clock, metrics), None, options);
    let error = runner.run(&AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("no committed position") && error.contains("--from beginning"), "{error}");
}

#[test]
fn a_fact_of_long_ago_on_an_account_at_rest_brings_no_row() {
    let day = |n: i64| 1_704_067_200_000 + n * 86_400_000;
    let usage = |id: &str, account: &str, at_ms: i64| {
        let text =
            format!(r#"{{"event_id":"{id}","account_id":"{account}","feature":"export","occurred_at":{at_ms}}}"#);
        Raw { kind: Kind::Usage, key: None, value: Some(text.into_bytes()), at_ms }
    };
    let fact = |id: &str, at_ms: i64| {
        let text = format!(
            r#"{{"event_id":"{id}","account_id":"rests","occurred_at":{at_ms},"type":"upsert","facts":{{"plan":"basic"}}}}"#
        );
        Raw { kind: Kind::Account, key: None, value: Some(text.into_bytes()), at_ms }
    };
    let before = [usage("1", "rests", day(1)), usage("2", "works", day(1)), usage("3", "works", day(40))];
    let after = [usage("4", "works", day(40) + 3_600_000), fact("5", day(2))];
    // The last pane stays open.
    let mut deployment = Deployment::begun(config(&[]));
    deployment.read(&before, true);
    deployment.read(&after, true);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let checked = runtime.block_on(check::against_oracle(&deployment.streamed(), &deployment.config)).unwrap();
    assert!(checked.windows > 33 && checked.live_windows == 1, "{checked:?}");
}
