//! `keepwell model apply`: announces a model file in the log, from which every process of score takes it.
#![allow(clippy::disallowed_methods, reason = "I/O edge: the end of the pane of now")]

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::log::kafka::writer::Writer;
use keepwell_pipeline::process::ConfigArgs;
use keepwell_score::Score;
use keepwell_score::model_schedule::Announcement;

/// What to do with a model file.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Check a model file, run its tests, and announce it in every partition of the windows topic: in all or in none.
    Apply(ApplyArgs),
}

#[derive(Debug, clap::Args)]
struct ApplyArgs {
    /// The model file. Default: `score.model` of the configuration.
    model: Option<PathBuf>,
    /// Use the model for windows that end at this time (RFC 3339) or later. Default: the end of the current pane.
    #[arg(long)]
    at: Option<Timestamp>,
    /// The configuration.
    #[command(flatten)]
    config: ConfigArgs,
}

/// Announces the model and returns a report.
///
/// # Errors
/// When the model is refused (with file, line and column), or the broker does not accept the announcement.
pub fn run(args: &ModelArgs) -> Result<String> {
    let Action::Apply(args) = &args.action;
    let mut config = args.config.read()?;
    config.score.model = args.model.clone().or(config.score.model);
    let score = Score::new(&config)?;
    let num_tests = score.test_model(&config)?;
    let (text, version) = score.model();
    let now_us = SystemClock::start().wall_us();
    let panes = config.time.panes();
    let next_end = Timestamp::from_microsecond(panes.end_us(panes.pane(now_us)))?;
    let from = args.at.unwrap_or(next_end);
    let announcement = Announcement { from, text: text.to_owned() };

    let windows: Arc<str> = Arc::from(config.topics.windows.as_str());
    let partitions = Writer::open(&config.kafka)?.partitions(&windows)?;
    let mut writer = Writer::open_transaction(&config.kafka, "model")?;
    for partition in 0..partitions {
        writer.write(&announcement.message(&windows, partition)?)?;
    }
    writer.commit().with_context(|| format!("nothing was announced in {windows}"))?;
    let past = match from.as_microsecond() <= now_us {
        true => " Final rows of the past do not change.",
        false => "",
    };
    Ok(format!(
        "version {version} ({num_tests} tests passed) is announced in {partitions} partitions of {windows}: it scores windows that end at {from} or later.{past}\n\
         keepwell_model_version shows when it does; a version that does not rise is rejected as model_refused\n"
    ))
}
