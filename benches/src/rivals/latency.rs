//! Sends a load at a rate and measures the time from an event to the output for its account.
//!
//! From time to time a probe is among the load's events. It is the only event of its account, so the first record with
//! that account as the key is the answer.
//! The measured time starts just before the producer gets the probe. It ends when a `read_committed` consumer has the
//! record.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keepwell_pipeline::config;
use keepwell_pipeline::log::kafka::writer::Writer;
use keepwell_pipeline::record::Message;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::cost::Cost;
use super::system::{Job, System};
use crate::load::{Load, Shape, Track, track};
use keepwell_verify::kafka::Kafka;

/// Time between two probes.
const PROBE: Duration = Duration::from_millis(50);
/// Time limit for the answers to the last probes.
const PATIENCE: Duration = Duration::from_secs(60);

/// For each account of a probe: when the probe was sent, and when its record came.
type Probes = Mutex<HashMap<String, (Instant, Option<Instant>)>>;

/// Sends a load at `rate` events a second for the time `lasting` and reports how long the probes took. Probes of the
/// first third count as warm-up.
///
/// # Errors
/// When the system ends by itself or a probe gets no answer.
pub fn run(kafka: &Kafka, system: System, job: &Job, rate: u32, lasting: Duration) -> Result<Value> {
    kafka.create_topic(&job.input, job.partitions)?;
    for topic in job.topics(system) {
        kafka.create_topic(&topic, job.partitions)?;
    }
    let mut running = job.start(system)?;
    let (probes, stop) = (Arc::new(Probes::default()), Arc::new(AtomicBool::new(false)));
    let output = if system == System::Keepwell { job.topic("scores") } else { job.topic("rows") };
    let reader = reader(job, &output)?;
    let reading = std::thread::spawn({
        let (probes, stop) = (Arc::clone(&probes), Arc::clone(&stop));
        move || read(&reader, &probes, &stop)
    });
    let sent = send(job, &probes, rate, lasting);
    let deadline = Instant::now() + PATIENCE;
    let is_answered = || lock(&probes).values().all(|(_, came)| came.is_some());
    while !is_answered() && Instant::now() < deadline {
        running.check()?;
        std::thread::sleep(PROBE);
    }
    stop.store(true, Ordering::Relaxed);
    reading.join().map_err(|_| anyhow::anyhow!("the reader has failed"))??;
    let start = sent?;
    let cost = running.costs()?.into_values().fold(Cost::default(), |mut sum, cost| {
        sum += cost;
        sum
    });
    drop(running);
    let probes = lock(&probes);
    let counted = probes.values().filter(|(sent, _)| *sent >= start + lasting / 3);
    let took: Option<Vec<Duration>> = counted.map(|(sent, came)| came.map(|came| came - *sent)).collect();
    let mut took = took.context("a probe was not answered within a minute")?;
    ensure!(!took.is_empty(), "no probe");
    took.sort_unstable();
    let at = |share: f64| took.get((share * (took.len() - 1) as f64).round() as usize).map(Duration::as_secs_f64);
    Ok(json!({
        "system": system.to_string(),
        "rate": rate,
        "probes": took.len(),
        "p50_s": at(0.5),
        "p99_s": at(0.99),
        "max_s": at(1.0),
        "commit_ms": job.commit.as_millis() as u64,
        "live_ms": job.live.as_millis() as u64,
        "cpu_s": cost.cpu.as_secs_f64(),
        "peak_kb": cost.peak_kb,
    }))
}

fn lock(probes: &Probes) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Option<Instant>)>> {
    probes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reader(job: &Job, topic: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &job.broker).set("group.id", "probes").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("fetch.wait.max.ms", "10");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..job.partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

fn read(reader: &BaseConsumer, probes: &Probes, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = reader.poll(Duration::from_millis(100)).transpose()? else { continue };
        let Some(account) = message.key().and_then(|key| std::str::from_utf8(key).ok()) else { continue };
        if account.starts_with("probe-")
            && let Some((_, came)) = lock(probes).get_mut(account)
        {
            came.get_or_insert_with(Instant::now);
        }
    }
    Ok(())
}

/// Sends the load and the probes. Returns the start time.
fn send(job: &Job, probes: &Probes, rate: u32, lasting: Duration) -> Result<Instant> {
    let mut writer = Writer::open(&config::Kafka::at(&job.broker))?;
    let topic: Arc<str> = job.input.as_str().into();
    let now_ms = || jiff::Timestamp::now().as_millisecond();
    let shape = Shape {
        seed: 5,
        accounts: 10_000,
        events: (f64::from(rate) * lasting.as_secs_f64()) as usize,
        span_ms: lasting.as_millis() as i64,
        start_ms: now_ms(),
        every_account: false,
    };
    let start = Instant::now();
    let mut num_probes = 0_u32;
    for (message, n) in Load::new(shape).messages(&job.input, job.partitions).zip(0_u32..) {
        let due = start + Duration::from_secs_f64(f64::from(n) / f64::from(rate));
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early.max(Duration::from_millis(1)));
        }
        writer.write(&message)?;
        if start.elapsed() >= PROBE * num_probes {
            let account = format!("probe-{}-{num_probes}", job.name);
            num_probes += 1;
            let (at_ms, id) = (now_ms(), format!("{account}-1"));
            let text = track(Track {
                id: &id,
                feature: "feature-00",
                user: "user-0",
                account_id: &account,
                at_ms,
                count: 1,
                duration_ms: 1,
            });
            lock(probes).insert(account, (Instant::now(), None));
            writer.write(&Message {
                topic: Arc::clone(&topic),
                partition: (num_probes % job.partitions.unsigned_abs()) as i32,
                timestamp_ms: Some(at_ms),
                key: None,
                value: Some(text.into_bytes()),
                headers: Vec::new(),
            })?;
        }
    }
    writer.flush()?;
    Ok(start)
}
