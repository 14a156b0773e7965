//! `keepwell audit`: computes stored scores again from stored window rows, with plain SQL, and compares the two.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keepwell_core::schema::health::rfc3339;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::config::{Config, Listen, Span};
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::process::{ConfigArgs, print};
use keepwell_score::model::{self, ModelFile};
use keepwell_score::recompute::audit::{Audited, audit};
use keepwell_score::tables_reader::Stored;
use tracing::{error, info};

use crate::beside::repeat;

/// Number of accounts to judge at once. Their whole history is in memory.
const AT_ONCE: usize = 500;
/// At most this many differing rows are printed or logged.
const MOST_NAMED: usize = 20;

/// What to audit.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 no drift, 1 drift or a failure, 2 wrong usage or configuration.")]
pub struct AuditArgs {
    /// Number of accounts to audit, chosen at random. Default: all accounts.
    #[arg(long)]
    accounts: Option<usize>,
    /// Seed for the random choice of accounts. Default: another choice each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Model file of another version that made some of the scores, besides the configured one. May be repeated.
    #[arg(long = "model")]
    models: Vec<PathBuf>,
    /// URL of the tables. Default: the configured one.
    #[arg(long)]
    tables: Option<String>,
    /// Repeat the audit at this interval, beside the pipeline, until stopped.
    #[arg(long)]
    every: Option<Span>,
    /// Address that serves /metrics when --every is used: HOST:PORT, or off.
    #[arg(long, default_value = "127.0.0.1:9106")]
    http: Listen,
    /// The configuration.
    #[command(flatten)]
    config: ConfigArgs,
}

/// Runs the audit and prints the result.
///
/// # Errors
/// When a stored score differs from what its window rows give, or the tables cannot be read.
pub fn run(args: &AuditArgs) -> Result<()> {
    let config = args.config.read()?;
    let files = versions(&config, &args.models)?;
    let Some(every) = args.every else {
        let found = once(args, &config, &files, SystemClock::start().wall_us())?;
        print(&describe(&found));
        ensure!(found.drift.is_empty(), "{} rows drift", found.drift.len());
        return Ok(());
    };
    repeat("audit", every, args.http, |clock, shown| again(args, &config, &files, clock, shown))
}

/// Runs one audit of a series. A failed audit is logged and does not end the series.
fn again(args: &AuditArgs, config: &Config, files: &[ModelFile], clock: &SystemClock, shown: &StageMetrics) {
    match once(args, config, files, clock.wall_us()) {
        Ok(found) => {
            let num_unknown = found.unknown.values().sum();
            shown.audited(found.num_scores, found.drift.len(), num_unknown, clock.wall_us());
            let drift = found.drift.len();
            info!(scores = found.num_scores, drift, unknown_versions = num_unknown, "audited");
            for row in found.drift.iter().take(MOST_NAMED) {
                error!(account = row.account_id, as_of = rfc3339(row.as_of_us), what = row.what, "drift");
            }
        }
        Err(failure) => error!("the audit failed, the next one follows: {failure:#}"),
    }
}

/// The configured model file and the others, ordered by version.
fn versions(config: &Config, others: &[PathBuf]) -> Result<Vec<ModelFile>> {
    let periods = config.aggregate.periods();
    let read = |path: &PathBuf| model::parse(&path.display().to_string(), &model::read(path)?, &periods);
    let configured = match &config.score.model {
        Some(path) => read(path)?,
        None => model::parse("the default model", model::DEFAULT, &periods)?,
    };
    let mut files = BTreeMap::from([(configured.version, configured)]);
    for path in others {
        let file = read(path)?;
        let version = file.version;
        ensure!(files.insert(version, file).is_none(), "{}: version {version} is named twice", path.display());
    }
    Ok(files.into_values().collect())
}

fn once(args: &AuditArgs, config: &Config, files: &[ModelFile], now_us: i64) -> Result<Audited> {
    let stored = Stored::of_config(config, args.tables.as_deref())?;
    let mut accounts = stored.accounts()?;
    if let Some(count) = args.accounts {
        fastrand::Rng::with_seed(args.seed.unwrap_or(now_us.unsigned_abs())).shuffle(&mut accounts);
        accounts.truncate(count);
        accounts.sort();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = Audited::default();
    for some in accounts.chunks(AT_ONCE) {
        let named = || format!("accounts {} to {}", some[0], some[some.len() - 1]);
        let rows = stored.of(some).with_context(named)?;
        let found = runtime
            .block_on(audit(rows, files, &config.aggregate.layout(), config.time.pane.as_micros()))
            .with_context(named)?;
        all.num_scores += found.num_scores;
        all.drift.extend(found.drift);
        for (version, count) in found.unknown {
            *all.unknown.entry(version).or_default() += count;
        }
    }
    Ok(all)
}

fn describe(found: &Audited) -> String {
    let mut lines = vec![format!("{} scores made again, {} rows drift", found.num_scores, found.drift.len())];
    for (version, count) in &found.unknown {
        lines.push(format!("{count} scores of model version {version} were not judged: name the file with --model"));
    }
    let named = found.drift.iter().take(MOST_NAMED);
    lines.extend(named.map(|row| {
        format!("{} {}: {}", keepwell_pipeline::redact::line(&row.account_id), rfc3339(row.as_of_us), row.what)
    }));
    lines.join("\n") + "\n"
}
