//! Backfill from the raw topics: the four stages of a new epoch run on Kafka, one after the other. Each runs to the end
//! that its sources have at that time.
//!
//! Afterwards the processes of that configuration continue at the committed positions.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use keepwell_core::offset::{NextOffset, TopicPartition};
use keepwell_pipeline::clock::SystemClock;
use keepwell_pipeline::config::{Config, Listen};
use keepwell_pipeline::log::kafka::group::Group;
use keepwell_pipeline::metrics::{Metrics, StageMetrics};
use keepwell_pipeline::partition_loop::Report;
use keepwell_pipeline::process::{self, Job, Plan, RunArgs};
use keepwell_pipeline::stage::Stage;
use tracing::warn;

use super::{BackfillArgs, print_fates};

/// Name of this process in each group. The name is fixed: after a stop, the same command takes the same membership
/// again.
const INSTANCE: &str = "backfill";
/// How often the progress is shown.
const GLANCE: Duration = Duration::from_millis(500);

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// At the first record of each partition with this timestamp or a later one, in UTC milliseconds.
    Time(i64),
    /// At an offset of one partition.
    Offset(TopicPartition, NextOffset),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            return Ok(Self::Time(time.as_millisecond()));
        }
        let parts = || {
            let (partition, offset) = text.rsplit_once('=')?;
            let (topic, partition) = partition.rsplit_once(':')?;
            Some(Self::Offset(TopicPartition::new(topic, partition.parse().ok()?), NextOffset(offset.parse().ok()?)))
        };
        parts().ok_or_else(|| {
            format!("{text:?} is neither a time, such as 2026-01-01T00:00:00Z, nor TOPIC:PARTITION=OFFSET")
        })
    }
}

/// Fills from the raw topics.
///
/// # Errors
/// When processes of the configuration run, `--from` comes after the start of the epoch, or a stage stops with a named
/// error.
pub fn run(args: &BackfillArgs, config: &Config) -> Result<()> {
    process::start_logging(process::LogFormat::Text);
    let shutdown = process::stopped_by_signals()?;
    // Check the whole configuration before anything is read.
    let (ingest, score, tables) =
        (keepwell_ingest::Ingest::new(config)?, keepwell_score::Score::new(config)?, keepwell_sink::check(config)?);
    let (aggregate, plan) = keepwell_aggregate::build(config)?;
    check_idle(config)?;
    begin(args, config)?;
    let run_args =
        RunArgs { instance: INSTANCE.to_owned(), http: Some(Listen::Off), ..RunArgs::drained(args.complete) };
    let of = Epoch { config, args: &run_args, shutdown: &shutdown };
    of.drain(&ingest, &keepwell_ingest::plan(config))?;
    of.drain(&aggregate, &plan)?;
    of.drain(&score, &keepwell_score::plan(config))?;
    let report = keepwell_sink::run(config, &tables, &run_args, &shutdown).context("sink")?;
    of.done("sink", &report)?;
    process::print(&format!("epoch {} is filled; its processes go on where this ended\n", config.epoch));
    Ok(())
}

/// Fails when a process of this configuration runs: it would have to share its partitions with this one.
fn check_idle(config: &Config) -> Result<()> {
    for stage in ["ingest", "aggregate", "score", "publish", "tables"] {
        let group = Group::open(&config.kafka, &group(config, stage))?;
        let members = group.members(INSTANCE)?;
        if !members.is_empty() {
            bail!(
                "group {} has members ({}): a backfill needs a configuration that no process uses, with an epoch, kafka.group_prefix, \
                 topics, snapshots and tables of its own",
                group.name(),
                members.join(", ")
            );
        }
    }
    Ok(())
}

fn group(config: &Config, stage: &str) -> String {
    format!("{}-{stage}", config.kafka.group_prefix)
}

/// Sets the start positions, if `--from` names any. Without it, says what has expired before the first record.
fn begin(args: &BackfillArgs, config: &Config) -> Result<()> {
    let group = Group::open(&config.kafka, &group(config, "ingest"))?;
    if args.from.is_empty() {
        return expired(&group, config);
    }
    let mut starts = BTreeMap::new();
    for source in &config.sources {
        if !group.positions(&source.topic)?.is_empty() {
            bail!(
                "group {} has positions in {}: this epoch has begun. Without --from it goes on",
                group.name(),
                source.topic
            );
        }
        starts.extend(group.firsts(&source.topic)?);
    }
    for from in &args.from {
        match from {
            From::Time(at_ms) => {
                for source in &config.sources {
                    starts.extend(group.offsets_at(&source.topic, *at_ms)?);
                }
            }
            From::Offset(tp, next) => {
                let known =
                    starts.get_mut(tp).with_context(|| format!("--from {tp}: no partition of a configured source"))?;
                *known = *next;
            }
        }
    }
    Ok(group.start_at(&starts)?)
}

/// Warns of raw partitions whose first records are gone: a new epoch would hold less than the running one.
fn expired(group: &Group, config: &Config) -> Result<()> {
    for source in &config.sources {
        if !group.positions(&source.topic)?.is_empty() {
            continue;
        }
        for (partition, first) in group.firsts(&source.topic)?.into_iter().filter(|(_, first)| first.0 > 0) {
            warn!(
                %partition, first = first.0,
                "the records before the first have expired and will be missing: a longer retention.ms of the topic keeps history for the next backfill"
            );
        }
    }
    Ok(())
}

/// The stages of one epoch.
struct Epoch<'e> {
    config: &'e Config,
    args: &'e RunArgs,
    shutdown: &'e Arc<AtomicBool>,
}

impl Epoch<'_> {
    /// Runs a stage to the ends that its sources have now.
    fn drain<S>(&self, stage: &S, plan: &Plan) -> Result<()>
    where
        S: Stage,
        S::State: Default,
    {
        let (name, clock, metrics) = (stage.name(), SystemClock::start(), Metrics::new()?.stage(stage.name()));
        let is_done = AtomicBool::new(false);
        let report = std::thread::scope(|threads| {
            threads.spawn(|| show(name, &metrics, &is_done));
            let report = process::run_with_metrics(
                stage,
                Job { config: self.config, plan, args: self.args, shutdown: self.shutdown },
                clock,
                metrics.clone(),
            );
            is_done.store(true, Ordering::Relaxed);
            report
        });
        self.done(stage.name(), &report.context(stage.name())?)
    }

    /// Prints the fates of a stage. Fails when the process was asked to stop.
    fn done(&self, stage: &str, report: &Report) -> Result<()> {
        print_fates(stage, &report.fates);
        if self.shutdown.load(Ordering::Relaxed) {
            bail!("stopped in {stage}; the same command goes on from there, without --from");
        }
        Ok(())
    }
}

/// Shows how many records are left until the stage is done.
fn show(stage: &str, metrics: &StageMetrics, is_done: &AtomicBool) {
    let template = ProgressStyle::with_template("{msg:<10} [{bar:40}] {pos}/{len} records, {elapsed}, {eta} to go");
    let progress = ProgressBar::new(0).with_message(stage.to_owned());
    let progress = template.map_or(progress.clone(), |style| progress.with_style(style));
    let mut most = 0;
    while !is_done.load(Ordering::Relaxed) {
        let left = metrics.total_lag().unsigned_abs();
        if left > most {
            most = left;
            progress.set_length(most);
        }
        progress.set_position(most - left);
        std::thread::park_timeout(GLANCE);
    }
    progress.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_time_or_an_offset_of_a_partition() {
        assert_eq!("2026-01-01T00:00:00Z".parse(), Ok(From::Time(1_767_225_600_000)));
        let tp = TopicPartition::new("a:b", 3);
        assert_eq!("a:b:3=17".parse(), Ok(From::Offset(tp, NextOffset(17))));
        for wrong in ["yesterday", "a=1", "a:b=1", "a:1=x"] {
            assert!(wrong.parse::<From>().is_err_and(|why| why.contains(wrong)), "{wrong}");
        }
    }
}
