//! `keepwell demo`: a fleet of accounts goes through all stages on the in-memory log.
//!
//! It plays ninety days, the last of them live, hour by hour. The same seed gives the same result.

mod fleet;
mod report;

use crate::in_process::InMemory;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use keepwell_core::event::Kind;
use keepwell_core::partitioner::partition_of;
use keepwell_pipeline::clock::SetClock;
use keepwell_pipeline::config::{Config, Tables};
use keepwell_pipeline::process::{self, RunArgs};
use keepwell_pipeline::record::Message;

use crate::in_process::{InProcess, Ledger, Stages, broker};
use crate::last_scores::{LastScores, SCORES, Score};
pub use fleet::{Account, Fate};
pub use report::Quarter;

/// The features of the fleet's product.
const FEATURES: [&str; 12] = [
    "dashboard",
    "search",
    "export",
    "import",
    "api",
    "alerts",
    "comments",
    "sharing",
    "reports",
    "automation",
    "audit",
    "sso",
];
/// Start of the history: 2026-07-01T00:00:00Z.
const START_MS: i64 = 1_782_864_000_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Number of days of history that each run of the stages covers.
const STRIDE_DAYS: i64 = 10;
const RAW_PARTITIONS: i32 = 2;
const CONFIG: &str = include_str!("demo/demo.yaml");
/// Keepwell's default model, with a lifecycle behind it.
const MODEL: &str = concat!(include_str!("../../score/models/default.yaml"), include_str!("demo/stages.yaml"));
/// Name of the file with the model.
const MODEL_FILE: &str = "model.yaml";

/// Options of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Seed of the fleet. The same seed gives the same result.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Number of accounts.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub accounts: u64,
    /// Number of days to play. The last day is live, hour by hour.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(i64).range(2..=3650))]
    pub days: i64,
    /// Folder for the Parquet tables and the last scores. The folder of an earlier demo is replaced.
    #[arg(long, default_value = "keepwell-demo")]
    pub out: PathBuf,
}

/// Result of a demo.
#[derive(Debug)]
pub struct Outcome {
    /// The accounts and their fates.
    pub accounts: Vec<Account>,
    /// The last message of each account on the `scores` topic.
    pub scores: Vec<Score>,
    /// The stages of the lifecycle, in its order.
    pub stages: Vec<String>,
    /// Display scores at the end of each day, by account.
    pub history: BTreeMap<String, Vec<i64>>,
    /// Revenue of the newest quarter, to date or whole.
    pub quarter: Quarter,
    /// The fates of all records, by stage.
    pub ledger: Ledger,
    /// Number of records on the raw topics.
    pub num_events: usize,
}

/// Name of the file that lists the planted accounts. It also marks a folder as the output of a demo.
const PLANTED: &str = "planted.json";

/// Runs the demo and prints the result.
///
/// # Errors
/// When the folder is in use by something else or cannot be written, or a stage stops with a named error.
pub fn run(args: &DemoArgs) -> Result<()> {
    let progress = ProgressBar::new(args.days as u64)
        .with_style(ProgressStyle::with_template("{msg:<38} [{bar:40}] day {pos}/{len} {elapsed}")?);
    let outcome = play(args, &progress)?;
    progress.finish_and_clear();
    process::print(&report::text(&outcome, args)?);
    Ok(())
}

/// Runs the demo.
///
/// # Errors
/// See [`run`].
pub fn play(args: &DemoArgs, progress: &ProgressBar) -> Result<Outcome> {
    let folder = fresh_folder(&args.out)?;
    let mut config = Config::parse("the demo's configuration", CONFIG, &[])?;
    fs::write(folder.join(MODEL_FILE), MODEL)?;
    config.score.model = Some(folder.join(MODEL_FILE));
    let url =
        url::Url::from_directory_path(&folder).map_err(|()| anyhow::anyhow!("{} is no path", folder.display()))?;
    let tables = url.join("tables")?.to_string();
    config.tables = Some(Tables::at(tables, 1 << 30, keepwell_pipeline::config::Span::from_secs(86_400)));
    progress.set_message("making up a fleet");
    let (accounts, events) = fleet::generate(args.seed, args.accounts as usize, args.days, START_MS);
    let planted: Vec<&Account> = accounts.iter().filter(|account| account.fate.is_planted()).collect();
    fs::write(folder.join(PLANTED), serde_json::to_vec_pretty(&planted)?)?;

    let (broker, clock, stages) =
        (broker(&config, RAW_PARTITIONS), SetClock::at(START_MS * 1000), Stages::new(&config)?);
    let mut deployment =
        InProcess::unsaved(&stages, &InMemory { broker: &broker, config: &config, args: &run_args(), clock: &clock })?;
    let mut rest = events.as_slice();
    for until_ms in stops(args.days) {
        let due = rest.partition_point(|event| event.at_ms < until_ms);
        let (now, later) = rest.split_at_checked(due).unwrap_or((rest, &[]));
        for event in now {
            broker.produce(&message(event, &accounts, &config)?)?;
        }
        rest = later;
        clock.set(until_ms * 1000);
        let is_live = until_ms > START_MS + (args.days - 1) * DAY_MS;
        progress.set_message(if is_live { "live, hour by hour" } else { "history: ingest, aggregate, score, sink" });
        deployment.drain()?;
        progress.set_position(((until_ms - START_MS) / DAY_MS) as u64);
    }
    // Two hours after the last midnight: the bound has passed, so the last day closes.
    clock.set((START_MS + args.days * DAY_MS + 2 * HOUR_MS) * 1000);
    let ledger = deployment.drain()?;
    let mut last = LastScores::default();
    last.take_in(&broker.records(&config.topics.scores));
    last.write(&folder.join(SCORES))?;
    let scores = last.into_scores()?;
    let history = report::history(&broker, &config)?;
    let quarter = report::quarter(&broker, &config)?;
    let model = keepwell_score::model::parse(MODEL_FILE, MODEL, config.aggregate.layout().windows())?;
    let stages = model.stages.iter().map(|stage| stage.name.value.to_string()).collect();
    Ok(Outcome { accounts, scores, stages, history, quarter, ledger, num_events: events.len() })
}

/// The times at which the stages run: every ten days of history, then every hour of the last day.
fn stops(days: i64) -> Vec<i64> {
    let last = START_MS + (days - 1) * DAY_MS;
    let history = (1..).map(|n| START_MS + n * STRIDE_DAYS * DAY_MS).take_while(|stop| *stop < last);
    history.chain((0..=24).map(|hour| last + hour * HOUR_MS)).collect()
}

fn run_args() -> RunArgs {
    RunArgs::drained(false)
}

fn message(event: &fleet::RawEvent, accounts: &[Account], config: &Config) -> Result<Message> {
    let source = config.sources.iter().find(|source| source.kind == Some(event.kind));
    let account = accounts.get(event.account).context("an event of no account")?;
    Ok(Message {
        topic: Arc::from(source.map_or("", |source| source.topic.as_str())),
        partition: partition_of(&account.id, RAW_PARTITIONS),
        timestamp_ms: Some(event.at_ms),
        key: (event.kind == Kind::Account).then(|| account.id.clone().into_bytes()),
        value: Some(serde_json::to_vec(&event.value)?),
        headers: Vec::new(),
    })
}

/// Makes an empty folder. Empties one that an earlier demo left; fails on any other that is not empty.
fn fresh_folder(out: &Path) -> Result<PathBuf> {
    if out.join(PLANTED).exists() {
        fs::remove_dir_all(out).with_context(|| format!("replacing {}", out.display()))?;
    } else if out.exists() && fs::read_dir(out)?.next().is_some() {
        bail!("{} is not empty and no demo's: name another folder with --out", out.display());
    }
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    Ok(fs::canonicalize(out)?)
}
