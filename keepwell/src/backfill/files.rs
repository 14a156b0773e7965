//! Backfill from files: all stages in this process, chunk by chunk. So memory contains the state, but not the history.

use crate::in_process::InMemory;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use keepwell_pipeline::clock::SystemClock;
use keepwell_pipeline::config::{Config, Span, Tables};
use keepwell_pipeline::log::memory::MemoryBroker;
use keepwell_pipeline::process::{self, RunArgs};

use super::{BackfillArgs, print_fates};
use crate::files::Files;
use crate::in_process::{InProcess, Ledger, Stages, broker, expire};
use crate::last_scores::{LastScores, SCORES};

/// Number of partitions of each raw topic.
const RAW_PARTITIONS: i32 = 2;
/// Number of records that go through all stages at once.
const CHUNK: usize = 200_000;
/// Number of records between two updates of the progress bar.
const GLANCE: usize = 10_000;

/// Fills from files.
///
/// # Errors
/// When the folder is not empty, a file cannot be read, or a stage stops with a named error.
pub fn run(args: &BackfillArgs, config: Config) -> Result<()> {
    let progress = ProgressBar::new(0)
        .with_style(ProgressStyle::with_template("{bytes}/{total_bytes} [{bar:40}] {msg}, {elapsed}, {eta} to go")?);
    let Filled { ledger, num_scores, disorder } = fill(args, config, &progress)?;
    progress.finish_and_clear();
    disorder.iter().for_each(|warning| process::print(&format!("{warning}\n")));
    for (stage, fates) in ledger.stages() {
        print_fates(stage, fates);
    }
    process::print(&format!("tables and the last scores of {num_scores} accounts are in {}\n", args.out.display()));
    Ok(())
}

/// Result of a backfill.
struct Filled {
    ledger: Ledger,
    /// Number of accounts that have a score.
    num_scores: usize,
    /// One line for each file that is not in order.
    disorder: Vec<String>,
}

fn fill(args: &BackfillArgs, mut config: Config, progress: &ProgressBar) -> Result<Filled> {
    let folder = new_folder(&args.out)?;
    let url =
        url::Url::from_directory_path(&folder).map_err(|()| anyhow::anyhow!("{} is no path", folder.display()))?;
    config.tables = Some(Tables::at(url.join("tables")?.to_string(), 1 << 30, Span::from_secs(86_400)));
    // In a backfill of history only the events advance time, not the clock.
    config.time.clock = false;
    let broker = broker(&config, RAW_PARTITIONS);
    // No limit on record size here: a line of any length must get a fate.
    config.sources.iter().for_each(|source| broker.limit(&source.topic, usize::MAX));
    let mut files = Files::open(&args.files, &config, |_| Ok(RAW_PARTITIONS))?;
    progress.set_length(files.total_bytes());
    let (stages, clock) = (Stages::new(&config)?, SystemClock::start());
    let mut deployment = InProcess::unsaved(
        &stages,
        &InMemory { broker: &broker, config: &config, args: &RunArgs::drained(false), clock: &clock },
    )?;
    let mut scores = LastScores::default();
    let mut num_records = 0;
    let mut is_last = false;
    let mut ledger = Ledger::default();
    while !is_last {
        progress.set_message(format!("{num_records} records"));
        is_last = produce(&mut files, &broker, &mut num_records, progress)?;
        if is_last {
            deployment.declare_complete();
        }
        progress.set_message(format!("{num_records} records: ingest, aggregate, score, sink"));
        ledger = deployment.drain()?;
        scores.take_in(&broker.records(&config.topics.scores));
        let raw = config.sources.iter().map(|source| source.topic.as_str());
        raw.chain(config.topics.all()).try_for_each(|topic| expire(&broker, topic))?;
    }
    scores.write(&folder.join(SCORES))?;
    Ok(Filled { ledger, num_scores: scores.len(), disorder: files.disorder() })
}

/// Writes the next chunk to the raw topics. Returns true when it was the last.
fn produce(files: &mut Files, broker: &MemoryBroker, num_records: &mut usize, progress: &ProgressBar) -> Result<bool> {
    for n in 0..CHUNK {
        let Some(message) = files.take()? else { return Ok(true) };
        broker.produce(&message)?;
        *num_records += 1;
        if n % GLANCE == 0 {
            progress.set_position(files.bytes());
        }
    }
    Ok(false)
}

/// Makes the folder, or accepts an empty one.
fn new_folder(out: &Path) -> Result<PathBuf> {
    if out.exists() && fs::read_dir(out).with_context(|| out.display().to_string())?.next().is_some() {
        bail!("{} is not empty: name another folder with --out, so that nothing there is mixed up", out.display());
    }
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    Ok(fs::canonicalize(out)?)
}
