//! `keepwell backfill`: history into a place of its own, by the same code, beside whatever runs live.
//!
//! From files all stages run in this process without a broker. From the raw topics they run one after the other
//! on Kafka, into the topics, groups and tables of a configuration that no process uses yet: a new epoch.

pub mod files;
pub mod topics;

use std::path::PathBuf;

use anyhow::Result;
use keepwell_pipeline::process;
use keepwell_pipeline::process::ConfigArgs;
use keepwell_pipeline::stage::Fates;

/// What is to be filled, and from where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  from files, without a broker:   keepwell backfill product-usage=usage.ndjson support-tickets=tickets.ndjson --out history
  a new epoch from raw topics:    keepwell backfill --config epoch-2.yaml
  the same from a day on:         keepwell backfill --config epoch-2.yaml --from 2026-01-01T00:00:00Z")]
pub struct BackfillArgs {
    /// TOPIC=FILE, one JSON event a line, in the order of event time. None: the raw topics are read.
    #[arg(value_name = "TOPIC=FILE")]
    pub files: Vec<String>,
    /// From files: a new folder for the tables and the last scores.
    #[arg(long, default_value = "keepwell-backfill")]
    pub out: PathBuf,
    /// From topics: a time (RFC 3339), or TOPIC:PARTITION=OFFSET, which may be repeated; partitions that are not
    /// named begin at their first record, as all do by default.
    #[arg(long, conflicts_with = "files")]
    pub from: Vec<topics::From>,
    /// From topics: declare that no earlier event will follow, so that panes close where the clock is off.
    #[arg(long, conflicts_with = "files")]
    pub complete: bool,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Fills, shows how far it is, and says what became of everything.
///
/// # Errors
/// When the place is in use, a file or topic cannot be read, or a stage stops by name.
pub fn run(args: &BackfillArgs) -> Result<()> {
    let config = args.config.read()?;
    if args.files.is_empty() { topics::run(args, &config) } else { files::run(args, config) }
}

/// One line: a stage and what became of what it read.
fn print_fates(stage: &str, fates: &Fates) {
    let words: Vec<String> = fates
        .iter()
        .map(|(fate, count)| {
            format!("{}{}{} {count}", fate.name, if fate.reason.is_empty() { "" } else { " " }, fate.reason)
        })
        .collect();
    process::print(&format!("{stage}: {}\n", words.join(", ")));
}
