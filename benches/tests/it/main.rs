//! The stages on the in-memory log against the oracle.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use benches::fleet::{self, Raw, Shape};
use benches::{compare, deployment, oracle};
use pipeline::config::Config;
use pipeline::log::Record;
use pipeline::log::memory::MemoryBroker;
use pipeline::process::{From, LogFormat, RunArgs};
use pipeline::runner::Runner;
use pipeline::schema::{feature_day, window};
use pipeline::stage::{Fates, add_fates};

const CONFIG: &str = include_str!("fleet.yaml");
/// 2025-01-01: after all events.
const WALL_US: i64 = 1_735_689_600_000_000;
const RAW_PARTITIONS: i32 = 2;
/// Below the bound of every source.
const BOUND_MS: i64 = 50 * 60_000;

fn config(set: &[&str]) -> Config {
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    Config::parse("fleet.yaml", CONFIG, &set).unwrap()
}

fn args() -> RunArgs {
    RunArgs {
        config: "fleet.yaml".into(),
        set: Vec::new(),
        instance: "0".into(),
        drain: true,
        complete: true,
        from: None::<From>,
        log_format: LogFormat::Text,
    }
}

/// A deployment that has read everything.
struct Deployment {
    broker: MemoryBroker,
    config: Config,
    ingest: Fates,
    aggregate: Fates,
}

impl Deployment {
    /// Everything at once.
    fn of(raws: &[Raw], config: Config) -> Self {
        Self::in_parts(&[raws], config)
    }

    /// Part by part, with a restart of both stages before each. Completion is declared with the last.
    fn in_parts(parts: &[&[Raw]], config: Config) -> Self {
        let broker = deployment::broker(&config, RAW_PARTITIONS);
        let (mut ingest, mut aggregate) = (Fates::new(), Fates::new());
        let mut serial = 0;
        for (n, part) in parts.iter().enumerate() {
            for raw in *part {
                broker.produce(&deployment::message(raw, serial, RAW_PARTITIONS, &config).unwrap()).unwrap();
                serial += 1;
            }
            let args = RunArgs { complete: n + 1 == parts.len(), ..args() };
            let stage = ingest::Ingest::new(&config).unwrap();
            let report = deployment::drain(&stage, &ingest::plan(&config), &broker, &config, &args, WALL_US).unwrap();
            add_fates(&mut ingest, &report.fates);
            let stage = aggregate::Aggregate::new(&config);
            let report =
                deployment::drain(&stage, &aggregate::plan(&config), &broker, &config, &args, WALL_US).unwrap();
            add_fates(&mut aggregate, &report.fates);
        }
        Self { broker, config, ingest, aggregate }
    }

    fn records(&self, topic: &str) -> Vec<Record> {
        self.broker.records(topic)
    }

    fn answer(&self) -> oracle::Answer {
        let events = self.records(&self.config.topics.events);
        tokio::runtime::Runtime::new().unwrap().block_on(oracle::answer(&events, &self.config)).unwrap()
    }

    fn rows(&self, is_final: bool) -> RecordBatch {
        let rows = compare::rows_of(&self.records(&self.config.topics.windows), &window::schema()).unwrap();
        compare::where_flag(&rows, "final", is_final).unwrap()
    }

    /// Final rows without what depends on the cut of the log.
    fn finals(&self) -> RecordBatch {
        let rows = self.rows(true);
        let is_kept = |name: &str| window::PROVENANCE.iter().all(|column| column.name != name);
        let schema = rows.schema();
        let kept: Vec<_> = (0..rows.num_columns()).filter(|i| is_kept(schema.field(*i).name())).collect();
        rows.project(&kept).unwrap()
    }

    /// Checks every row and fate against the oracle.
    fn check(&self) -> usize {
        let answer = self.answer();
        let count = |name: &str| count(&self.aggregate, name) as i64;
        let streamed: Vec<_> = answer.fates.iter().map(|(name, _)| (name.clone(), count(name))).collect();
        assert_eq!(streamed, answer.fates);
        let days = compare::rows_of(&self.records(&self.config.topics.feature_days), &feature_day::schema()).unwrap();
        compare::same_rows(&days, &answer.feature_days, &["account_id", "as_of", "feature"]).unwrap();
        compare::same_rows(&self.rows(true), &answer.finals, &KEYS).unwrap()
    }
}

const KEYS: [&str; 3] = ["account_id", "as_of", "period"];

fn count(fates: &Fates, name: &str) -> u64 {
    fates.iter().filter(|(fate, _)| fate.name == name).map(|(_, count)| count).sum()
}

/// Records in order and without what arrives late, so that no cut of the log changes what is late.
fn punctual(seed: u64) -> Vec<Raw> {
    fleet::punctual(seed, Shape { accounts: 8, days: 40, usage: 3 })
}

#[test]
fn every_final_row_is_the_oracles_and_the_fates_add_up() {
    let raws = fleet::dirty(7, Shape { accounts: 12, days: 60, usage: 3 });
    let deployment = Deployment::of(&raws, config(&[]));
    let (ingest, aggregate) = (&deployment.ingest, &deployment.aggregate);
    assert_eq!(count(ingest, "read"), raws.len() as u64);
    assert_eq!(count(ingest, "read"), count(ingest, "emitted") + count(ingest, "rejected"));
    let fates = ["on_time", "late", "duplicate", "too_late", "deleted"].map(|name| count(aggregate, name));
    assert!(fates.iter().all(|count| *count > 0), "the fleet must be dirty enough: {fates:?}");
    assert_eq!(count(aggregate, "read"), fates.iter().sum::<u64>());
    assert_eq!(count(aggregate, "read"), count(ingest, "emitted"));
    let rejects = deployment.records(&deployment.config.topics.rejects);
    assert_eq!(rejects.len() as u64, count(ingest, "rejected") + count(aggregate, "too_late"));
    assert!(rejects.iter().all(|record| record.value.is_some()), "every reject keeps its bytes");
    assert!(deployment.check() > 1000);
}

#[test]
fn the_oracle_agrees_for_many_fleets_cuts_and_partition_counts() {
    for (seed, cut, partitions) in [(1, 1000, 1), (2, 37, 2), (3, 5, 5), (4, 100_000, 3), (5, 11, 7)] {
        let raws = fleet::dirty(seed, Shape { accounts: 6, days: 30, usage: 2 });
        let config = config(&[&format!("batch.max_records={cut}"), &format!("partitions={partitions}")]);
        assert!(Deployment::of(&raws, config).check() > 300, "seed {seed}");
    }
}

#[test]
fn cuts_and_partition_counts_change_no_final_row() {
    let raws = punctual(21);
    let expected = Deployment::of(&raws, config(&[])).finals();
    assert!(expected.num_rows() > 500);
    for (cut, partitions) in [(3, 3), (50, 1), (100_000, 6)] {
        let config = config(&[&format!("batch.max_records={cut}"), &format!("partitions={partitions}")]);
        let finals = Deployment::of(&raws, config).finals();
        compare::same_rows(&finals, std::slice::from_ref(&expected), &KEYS).unwrap();
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
        assert_eq!(count(&deployment.aggregate, "late"), 0);
        compare::same_rows(&deployment.finals(), std::slice::from_ref(&expected), &KEYS).unwrap();
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
    assert!(restored.check() > 500);
    assert_eq!(restored.rows(true), replayed.rows(true));
    assert_eq!(restored.aggregate, replayed.aggregate);
    assert!(folder.path().join("aggregate/1").exists(), "snapshots were written");
}

#[test]
fn a_snapshot_of_other_settings_is_refused_by_name() {
    let raws = punctual(24);
    let folder = tempfile::tempdir().unwrap();
    let url = format!("snapshots.url=file://{}", folder.path().display());
    let deployment = Deployment::of(&raws, config(&[&url]));
    let other = config(&[&url, "time.lateness=3d"]);
    let stage = aggregate::Aggregate::new(&other);
    let error =
        deployment::drain(&stage, &aggregate::plan(&other), &deployment.broker, &other, &args(), WALL_US).unwrap_err();
    assert!(error.to_string().contains("fixed for an epoch"), "{error}");
}

#[test]
fn without_snapshots_and_with_output_a_missing_position_is_a_named_stop() {
    let deployment = Deployment::of(&punctual(25), config(&[]));
    let stage = aggregate::Aggregate::new(&deployment.config);
    let plan = aggregate::plan(&deployment.config);
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let log = deployment.broker.member("another-group", &sources);
    let clock = pipeline::clock::FixedClock { wall_us: WALL_US };
    let options = plan.options(&deployment.config, &args());
    let mut runner = Runner::new(&stage, log, &clock, None, options, aggregate::State::default());
    let error = runner.run(&AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("no committed position") && error.contains("--from beginning"), "{error}");
}
