//! The stages on the in-memory log against the oracle.
#![allow(clippy::unwrap_used, reason = "tests")]

use benches::fleet::{self, Raw, Shape};
use benches::{compare, deployment, oracle};
use pipeline::config::Config;
use pipeline::log::Record;
use pipeline::log::memory::MemoryBroker;
use pipeline::process::{From, LogFormat, RunArgs};
use pipeline::schema::{feature_day, window};
use pipeline::stage::Fates;

const CONFIG: &str = include_str!("fleet.yaml");
/// 2025-01-01: after all events.
const WALL_US: i64 = 1_735_689_600_000_000;
const RAW_PARTITIONS: i32 = 2;

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
    fn of(raws: &[Raw], config: Config) -> Self {
        let broker = deployment::broker(&config, RAW_PARTITIONS);
        for (serial, raw) in raws.iter().enumerate() {
            broker.produce(&deployment::message(raw, serial, RAW_PARTITIONS, &config).unwrap()).unwrap();
        }
        let stage = ingest::Ingest::new(&config).unwrap();
        let ingest =
            deployment::drain(&stage, &ingest::plan(&config), &broker, &config, &args(), WALL_US).unwrap().fates;
        let stage = aggregate::Aggregate::new(&config);
        let aggregate =
            deployment::drain(&stage, &aggregate::plan(&config), &broker, &config, &args(), WALL_US).unwrap().fates;
        Self { broker, config, ingest, aggregate }
    }

    fn records(&self, topic: &str) -> Vec<Record> {
        self.broker.records(topic)
    }

    fn finals(&self) -> arrow::array::RecordBatch {
        let rows = compare::rows_of(&self.records(&self.config.topics.windows), &window::schema()).unwrap();
        compare::where_flag(&rows, "final", true).unwrap()
    }
}

fn count(fates: &Fates, name: &str) -> u64 {
    fates.iter().filter(|(fate, _)| fate.name == name).map(|(_, count)| count).sum()
}

#[test]
fn every_final_row_is_the_oracles_and_the_fates_add_up() {
    let raws = fleet::dirty(7, Shape { accounts: 12, days: 60, usage: 3 });
    let deployment = Deployment::of(&raws, config(&[]));
    let answer = tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(oracle::answer(&deployment.records(&deployment.config.topics.events), &deployment.config))
        .unwrap();

    let ingest = &deployment.ingest;
    assert_eq!(count(ingest, "read"), raws.len() as u64);
    assert_eq!(count(ingest, "read"), count(ingest, "emitted") + count(ingest, "rejected"));
    let expected: Vec<(String, i64)> = ["deleted", "duplicate", "late", "on_time", "too_late"]
        .map(|name| (name.to_owned(), count(&deployment.aggregate, name) as i64))
        .to_vec();
    assert_eq!(answer.fates, expected);
    assert!(expected.iter().all(|(_, count)| *count > 0), "the fleet must be dirty enough: {expected:?}");
    let rejects = deployment.records(&deployment.config.topics.rejects).len() as u64;
    assert_eq!(rejects, count(ingest, "rejected") + count(&deployment.aggregate, "too_late"));

    let rows = compare::same_rows(&deployment.finals(), &answer.finals, &["account_id", "as_of", "period"]).unwrap();
    assert!(rows > 1000, "{rows} rows");
    let days =
        compare::rows_of(&deployment.records(&deployment.config.topics.feature_days), &feature_day::schema()).unwrap();
    compare::same_rows(&days, &answer.feature_days, &["account_id", "as_of", "feature"]).unwrap();
}
