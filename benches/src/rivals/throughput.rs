//! Processes a load that is already in the topic, and measures the speed and the cost.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::config;
use keepwell_pipeline::log::kafka::tail::Tail;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Map, Value, json};

use super::cost::Cost;
use super::rows::{Rows, WINDOWS, layout};
use super::system::{Job, Running, System};
use keepwell_verify::chaos::watch::Watch;
use keepwell_verify::kafka::Kafka;
use keepwell_verify::streamed::num_rows;

/// Time limit for a system.
const LIMIT: Duration = Duration::from_secs(900);
/// Time limit for an answer of the broker.
const ANSWER: Duration = Duration::from_secs(10);
/// Interval between two checks of the progress.
const LOOK: Duration = Duration::from_millis(100);
/// Share of the events that counts as warm-up: JVMs compile, caches fill.
const WARM: f64 = 0.2;

/// Progress and cost at a point in time.
#[derive(Debug, Clone)]
struct Mark {
    at: Instant,
    read: i64,
    /// The cost by stage.
    system: BTreeMap<String, Cost>,
    broker: Cost,
}

impl Mark {
    fn cpu_s(&self, stage: &str) -> f64 {
        self.system.get(stage).map_or(0.0, |cost| cost.cpu.as_secs_f64())
    }
}

/// A broker with a load, on which the systems run.
#[derive(Debug)]
pub struct Course<'k> {
    /// The broker. This process must have started it.
    pub kafka: &'k Kafka,
    /// Number of events in the raw topic.
    pub num_events: i64,
    /// Rows with an end up to this time are compared, UTC milliseconds.
    pub last_end_ms: i64,
    /// The expected rows.
    pub truth: Rows,
    /// The expected rows of every day that has ended, as in Keepwell's tables.
    pub closed: Rows,
}

impl Course<'_> {
    /// Runs a system until it has read everything, checks its rows, and returns the measurement.
    ///
    /// # Errors
    /// When a process ends by itself, the system does not finish in time, or its rows are wrong.
    pub fn run(&self, system: System, job: &Job) -> Result<Value> {
        for topic in job.topics(system) {
            self.kafka.create_topic(&topic, job.partitions)?;
        }
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &job.broker)
            .set("group.id", &job.flow(system)[0].0)
            .create()?;
        let started = Instant::now();
        let mut running = job.start(system)?;
        let warm = self.until(&mut running, |running| {
            let mark = self.mark(&consumer, job, running)?;
            Ok((mark.read as f64 >= WARM * self.num_events as f64).then_some(mark))
        });
        let warm = warm.with_context(|| format!("{system}: see {}", job.folder.display()))?;
        let watch = Watch::of(&job.broker)?;
        for (group, topic) in job.flow(system) {
            let ends = self.until(&mut running, |_| watch.ends(&topic).map(Some))?;
            self.until(&mut running, |_| Ok(watch.has_passed(&group, &topic, &ends)?.then_some(())))
                .with_context(|| format!("{system}: {group} on {topic}, see {}", job.folder.display()))?;
        }
        if system == System::Keepwell {
            // The tables must have every final row too: the windows and the score of each account and day, a row each.
            let count = self.closed.count / WINDOWS.len() as u64;
            for table in ["windows", "scores"] {
                self.until(&mut running, |_| Ok((num_rows(&job.folder.join("tables"), table)? == count).then_some(())))
                    .with_context(|| format!("{table}: see {}", job.folder.display()))?;
            }
        }
        let done = self.mark(&consumer, job, &running)?;
        drop(running);
        let rows = self.rows(system, job)?;
        ensure!(rows == self.truth, "{system}: {rows:?} instead of {:?}: the comparison is void", self.truth);
        let events = (done.read - warm.read) as f64;
        let stage = |(name, cost): (&String, &Cost)| {
            (name.clone(), json!({"cpu_s": done.cpu_s(name) - warm.cpu_s(name), "peak_kb": cost.peak_kb}))
        };
        let stages: Map<String, Value> = done.system.iter().map(stage).collect();
        let cpu_s = |mark: &Mark| mark.system.keys().map(|name| mark.cpu_s(name)).sum::<f64>();
        let broker = (done.broker.cpu - warm.broker.cpu).as_secs_f64();
        Ok(json!({
            "system": system.to_string(),
            "events": self.num_events,
            "measured": events,
            "seconds": (done.at - warm.at).as_secs_f64(),
            "cpu_s": cpu_s(&done) - cpu_s(&warm),
            "broker_cpu_s": broker,
            "whole_seconds": (done.at - started).as_secs_f64(),
            "whole_cpu_s": cpu_s(&done),
            "peak_kb": done.system.values().map(|cost| cost.peak_kb).sum::<u64>(),
            "stages": stages,
            "partitions": job.partitions,
            "processes": job.processes,
            "rows": rows.count,
            "commit_ms": job.commit.as_millis() as u64,
            "heap": job.heap,
        }))
    }

    fn mark(&self, consumer: &BaseConsumer, job: &Job, running: &Running) -> Result<Mark> {
        let mut list = TopicPartitionList::new();
        for partition in 0..job.partitions {
            list.add_partition(&job.input, partition);
        }
        let committed = consumer.committed_offsets(list, ANSWER)?;
        let next = |offset| if let Offset::Offset(next) = offset { next } else { 0 };
        let broker = self.kafka.process_id().context("the broker must be one that was started here")?;
        Ok(Mark {
            at: Instant::now(),
            read: committed.elements().iter().map(|element| next(element.offset())).sum(),
            system: running.costs()?,
            broker: Cost::of(broker)?,
        })
    }

    /// Asks until there is an answer. A broker that has just started may not know a group or topic yet.
    fn until<T>(&self, running: &mut Running, mut ask: impl FnMut(&Running) -> Result<Option<T>>) -> Result<T> {
        let (started, mut why) = (Instant::now(), String::new());
        while started.elapsed() < LIMIT {
            running.check()?;
            match ask(running) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) => why = format!("{error:#}"),
            }
            std::thread::sleep(LOOK);
        }
        bail!("not done within {} s; {why}", LIMIT.as_secs())
    }

    /// The final rows that a system wrote.
    fn rows(&self, system: System, job: &Job) -> Result<Rows> {
        let tail = Tail::open(&config::Kafka::at(&job.broker))?;
        let (layout, mut rows, mut wrong) = (layout(&WINDOWS), Rows::default(), Ok(()));
        for partition in 0..job.partitions {
            let tp = TopicPartition::new(job.output(system), partition);
            tail.read(&tp, LIMIT, &Arc::default(), |record| {
                let value = record.value.as_deref();
                wrong = value.map_or(Ok(()), |value| match system {
                    System::Keepwell => rows.add_windows(value, &layout, self.last_end_ms),
                    _ => rows.add_text(value, self.last_end_ms),
                });
                if wrong.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            wrong.as_ref().map_err(|error| anyhow::anyhow!("{tp}: {error:#}"))?;
        }
        Ok(rows)
    }
}
