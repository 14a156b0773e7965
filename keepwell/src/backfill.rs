//! `keepwell backfill`: processes history into separate outputs, with the same code as the live stages and beside them.
//!
//! From files, all stages run in this process, without a broker. From the raw topics, the stages run one after the
//! other on Kafka.
//! They then write to the topics, groups and tables of a configuration that no process uses yet: a new epoch.

pub mod files;
pub mod topics;
mod unconfigured;

use std::path::PathBuf;

use anyhow::Result;
use keepwell_pipeline::process;
use keepwell_pipeline::process::ConfigArgs;
use keepwell_pipeline::stage::Fates;

/// What to fill, and from where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  exports, without configuration: keepwell backfill segment=segment.ndjson zendesk=tickets.ndjson --out history
  from files, without a broker:   keepwell backfill product-usage=usage.ndjson support-tickets=tickets.ndjson --out history
  a new epoch from raw topics:    keepwell backfill --config epoch-2.yaml
  the same from a day on:         keepwell backfill --config epoch-2.yaml --from 2026-01-01T00:00:00Z")]
pub struct BackfillArgs {
    /// TOPIC=FILE: one JSON event per line, ordered by event time. Without any, the raw topics are read. If there is no
    /// configuration file, TOPIC is a preset, a kind, or a mapping file.
    #[arg(value_name = "TOPIC=FILE")]
    pub files: Vec<String>,
    /// From files: a new folder for the tables and the last scores.
    #[arg(long, default_value = "keepwell-backfill")]
    pub out: PathBuf,
    /// From topics: where to begin. A time (RFC 3339), or TOPIC:PARTITION=OFFSET, which may be repeated. Default, also
    /// for partitions that are not named: the first record.
    #[arg(long, conflicts_with = "files")]
    pub from: Vec<topics::From>,
    /// From topics: declare that no earlier event will follow, so that panes close even when `time.clock` is off.
    #[arg(long, conflicts_with = "files")]
    pub complete: bool,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Fills, shows the progress, and prints the fates of all records.
///
/// # Errors
/// When the outputs are in use, a file or topic cannot be read, or a stage stops with a named error.
pub fn run(args: &BackfillArgs) -> Result<()> {
    let is_unconfigured = !args.files.is_empty() && args.config.is_absent();
    let config = if is_unconfigured { unconfigured::config(&args.files)? } else { args.config.read()? };
    if args.files.is_empty() { topics::run(args, &config) } else { files::run(args, config) }
}

/// Prints one line: a stage and the fates of what it read.
fn print_fates(stage: &str, fates: &Fates) {
    let words: Vec<String> = fates
        .iter()
        .map(|(fate, count)| {
            format!("{}{}{} {count}", fate.name, if fate.reason.is_empty() { "" } else { " " }, fate.reason)
        })
        .collect();
    process::print(&format!("{stage}: {}\n", words.join(", ")));
}
