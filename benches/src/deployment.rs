//! A whole deployment in one process, on the in-memory log.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use pipeline::clock::FixedClock;
use pipeline::config::Config;
use pipeline::log::Message;
use pipeline::log::memory::MemoryBroker;
use pipeline::process::{Plan, RunArgs};
use pipeline::runner::{Report, Runner};
use pipeline::snapshot::Snapshots;
use pipeline::stage::Stage;

use crate::fleet::Raw;

/// A broker with the topics of a configuration; raw topics have this many partitions.
pub fn broker(config: &Config, raw_partitions: i32) -> MemoryBroker {
    let broker = MemoryBroker::default();
    for topic in config.topics.all() {
        broker.create_topic(topic, config.partitions);
    }
    for source in &config.sources {
        broker.create_topic(&source.topic, raw_partitions);
    }
    broker
}

/// The message a raw record is written as: spread over the partitions in turn.
///
/// # Errors
/// When no source is configured for its kind.
pub fn message(raw: &Raw, serial: usize, raw_partitions: i32, config: &Config) -> Result<Message> {
    let source = config.sources.iter().find(|source| source.kind == raw.kind);
    let source = source.with_context(|| format!("no source for {:?}", raw.kind))?;
    Ok(Message {
        topic: Arc::from(source.topic.as_str()),
        partition: (serial % raw_partitions as usize) as i32,
        timestamp_ms: None,
        key: raw.key.clone().map(String::into_bytes),
        value: raw.value.clone(),
        headers: vec![("trace".to_owned(), Some(serial.to_string().into_bytes()))],
    })
}

/// Runs a stage on the broker until it is drained.
///
/// # Errors
/// When the stage stops by name.
pub fn drain<S>(
    stage: &S,
    plan: &Plan,
    broker: &MemoryBroker,
    config: &Config,
    args: &RunArgs,
    wall_us: i64,
) -> Result<Report>
where
    S: Stage,
    S::State: Default,
{
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let log = broker.member(stage.name(), &sources);
    let snapshots =
        stage.is_stateful().then(|| Snapshots::open(&config.snapshots.url, config.snapshots.keep)).transpose()?;
    let clock = FixedClock { wall_us };
    let mut runner = Runner::new(stage, log, &clock, snapshots, plan.options(config, args), S::State::default());
    Ok(runner.run(&AtomicBool::new(false))?)
}
