//! When live rows are sent.

use keepwell::in_process::{self, InMemory};
use keepwell_core::codec;
use keepwell_core::event::Kind;
use keepwell_pipeline::clock::{FixedClock, SetClock};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::memory::MemoryBroker;
use keepwell_pipeline::partition_loop::Worker;
use keepwell_pipeline::process::RunArgs;
use keepwell_verify::deployment;
use keepwell_verify::fleet::Raw;

use super::{RAW_PARTITIONS, WALL_US, args, config};

/// Sends one event of each of these accounts through ingest.
fn ingest(broker: &MemoryBroker, config: &Config, accounts: &[&str], serial: usize) {
    let at_ms = WALL_US / 1000 - 60_000;
    for (n, account) in accounts.iter().enumerate() {
        let text = format!(
            r#"{{"event_id":"{serial}-{n}","account_id":"{account}","feature":"export","occurred_at":{at_ms}}}"#
        );
        let raw = Raw { kind: Kind::Usage, key: None, value: Some(text.into_bytes()), at_ms };
        broker.produce(&deployment::message(&raw, serial, RAW_PARTITIONS, config).unwrap()).unwrap();
    }
    let (stage, clock) = (keepwell_ingest::Ingest::new(config).unwrap(), FixedClock { wall_us: WALL_US });
    let args = RunArgs { complete: false, ..args() };
    InMemory { broker, config, args: &args, clock: &clock }.drain(&stage, &keepwell_ingest::plan(config)).unwrap();
}

/// Number of accounts in the live rows sent so far.
fn num_told(broker: &MemoryBroker, config: &Config) -> usize {
    let values = broker.records(&config.topics.windows).into_iter().filter_map(|record| record.value);
    let schema = config.aggregate.layout().schema();
    values.map(|value| codec::decode(&value, &schema).unwrap().num_rows()).sum()
}

#[test]
fn a_change_is_told_within_a_tenth_of_the_interval_and_what_follows_with_a_tick() {
    let config = config(&["aggregate.live_interval=1s", "batch.max_records=20000"]);
    let broker = in_process::broker(&config, RAW_PARTITIONS);
    let (stage, plan) = (keepwell_aggregate::Aggregate::new(&config), keepwell_aggregate::plan(&config));
    let (clock, args) = (SetClock::at(WALL_US), RunArgs { drain: false, ..args() });
    let mut runner =
        InMemory { broker: &broker, config: &config, args: &args, clock: &clock }.runner(&stage, &plan).unwrap();
    // Columns: accounts with an event, milliseconds since the start, number of accounts in live rows so far.
    let steps: [(&[&str], i64, usize); 9] = [
        (&["acme", "beta"], 0, 2),
        (&["acme", "gamma"], 99, 2),
        (&[], 100, 3),
        (&["acme"], 999, 3),
        (&[], 1000, 4),
        (&["acme", "beta"], 1000, 4),
        (&[], 1100, 5),
        (&[], 2000, 6),
        (&["gamma"], 9000, 7),
    ];
    for (serial, (accounts, at_ms, expected)) in steps.into_iter().enumerate() {
        ingest(&broker, &config, accounts, serial);
        clock.set(WALL_US + at_ms * 1000);
        for _ in 0..10 {
            runner.turn().unwrap();
        }
        assert_eq!(num_told(&broker, &config), expected, "{accounts:?} at {at_ms} ms");
    }
}

#[test]
fn while_more_waits_than_a_step_takes_changes_wait() {
    for (max_bytes, is_told) in [("batch.max_bytes=1024", false), ("batch.max_bytes=16777216", true)] {
        let config = config(&["aggregate.live_interval=1s", "batch.max_records=20000", max_bytes]);
        let broker = in_process::broker(&config, RAW_PARTITIONS);
        let (stage, plan) = (keepwell_aggregate::Aggregate::new(&config), keepwell_aggregate::plan(&config));
        let (clock, args) = (SetClock::at(WALL_US), RunArgs { drain: false, ..args() });
        let mut runner =
            InMemory { broker: &broker, config: &config, args: &args, clock: &clock }.runner(&stage, &plan).unwrap();
        for serial in 0..20 {
            ingest(&broker, &config, &["acme"], serial);
        }
        for _ in 0..10 {
            runner.turn().unwrap();
        }
        assert_eq!(num_told(&broker, &config) > 0, is_told, "{max_bytes}");
        for _ in 0..40 {
            runner.turn().unwrap();
        }
        assert_eq!(num_told(&broker, &config), 1, "{max_bytes}: nothing more to read");
    }
}
