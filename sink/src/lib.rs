//! Sink delivers health and windows to their users. It runs two stages in one binary; each has its own position.
//!
//! Contract of `publish`: each `health` row that is news becomes one record of `scores`, or a tombstone if the account
//! was deleted.
//! Each trigger that is raised, closed or cleared becomes one record of `alerts`, unless its pane is suspect: see [`hold`].
//! Contract of `tables`: each final row of `windows`, `feature_days` and `health` is in the Parquet tables exactly
//! once.

pub mod alert;
mod buffer;
pub mod claim;
pub mod erase;
mod held;
pub mod hold;
pub mod publish;
pub mod range_files;
pub mod tables;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use keepwell_pipeline::clock::SystemClock;
use keepwell_pipeline::config::{Config, Listen};
use keepwell_pipeline::http;
use keepwell_pipeline::metrics::Metrics;
use keepwell_pipeline::partition_loop::{Report, Session, Worker};
use keepwell_pipeline::process::{self, Job, Plan, RunArgs};

use keepwell_pipeline::pulse::Pulse;
use keepwell_pipeline::stage::{Fate, Stage};

pub use publish::Publish;
pub use tables::Tables;

/// Interval of the ticks of `publish`. Nothing in it waits for the clock.
const TICK: Duration = Duration::from_secs(1);

/// What `publish` reads and writes, and how often it ticks.
pub fn publish_plan(config: &Config) -> Plan {
    Plan {
        sources: vec![config.topics.health.clone()],
        outputs: vec![config.topics.scores.clone(), config.topics.alerts.clone()],
        tick: TICK,
        tick_behind: TICK,
    }
}

/// Returns the configuration of the tables. Refuses a configuration without one.
///
/// # Errors
/// When `tables` is missing.
pub fn check(config: &Config) -> Result<keepwell_pipeline::config::Tables> {
    config.tables.clone().context("tables: missing; sink needs to know where the Parquet tables go, e.g. tables: {url: 'file:///var/lib/keepwell/tables'}")
}

/// Runs both stages until `shutdown`, or until both are drained. When one stage stops with an error, the other stops
/// too.
///
/// # Errors
/// The error of a stage that stopped; that of `publish` if both did.
pub fn run(
    config: &Config,
    tables: &keepwell_pipeline::config::Tables,
    args: &RunArgs,
    shutdown: &Arc<AtomicBool>,
) -> Result<Report> {
    let clock = SystemClock::start();
    let metrics = Metrics::new()?;
    let (publishing, writing) = (metrics.stage("publish"), metrics.stage("tables"));
    if let Listen::At(address) = args.http.unwrap_or(config.http.sink) {
        http::serve(address, metrics, vec![publishing.clone(), writing.clone()], clock)?;
    }
    let ending = |result: Result<Report>| {
        if result.is_err() {
            shutdown.store(true, Ordering::Relaxed);
        }
        result
    };
    std::thread::scope(|threads| {
        let publish = threads.spawn(move || {
            let stage = Publish::new(config);
            let report = process::run_with_metrics(
                &stage,
                Job { config, plan: &publish_plan(config), args, shutdown },
                clock,
                publishing,
            );
            ending(report.with_context(|| stage.name()))
        });
        let pulse = Pulse::of(writing.clone(), clock);
        let joined = process::join("tables", Job { config, plan: &tables::plan(config), args, shutdown }, pulse);
        let written = joined.and_then(|log| {
            let mut tables = Tables::new(Session::new(log, &clock, writing), config, tables, args)?;
            Ok(tables.run(shutdown)?)
        });
        let written = ending(written.context("tables"));
        let published = publish.join().map_err(|_| anyhow!("publish panicked"))?;
        Ok(both(&published?, &written?))
    })
}

/// Combines both reports into one, with the name of the stage before each fate.
fn both(publish: &Report, tables: &Report) -> Report {
    let mut report = Report {
        num_steps: publish.num_steps + tables.num_steps,
        num_messages: publish.num_messages + tables.num_messages,
        ..Report::default()
    };
    for (name, part) in [("publish", publish), ("tables", tables)] {
        report.fates.extend(part.fates.iter().map(|(fate, count)| (Fate { name, reason: fate.name }, *count)));
    }
    report
}

/// Runs sink as a process: the whole of `main`.
pub fn main(cli: &process::Cli) -> ExitCode {
    process::main_of("sink", cli.run_args(), cli.is_check(), check, |config, tables, args, shutdown| {
        run(config, &tables, args, shutdown)
    })
}
