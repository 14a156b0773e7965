//! `keepwell load`: loads NDJSON and CSV files into raw topics, merged by event time.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use keepwell_pipeline::log::kafka::writer::Writer;
use keepwell_pipeline::process;
use keepwell_pipeline::process::ConfigArgs;

use crate::files::Files;

/// What to load.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: keepwell load product-usage=usage.ndjson support-tickets=tickets.ndjson")]
pub struct LoadArgs {
    /// TOPIC=FILE: one JSON event per line, or CSV with a header line if the name ends in .csv; ordered by event time. A line without a time gets the time of the line
    /// before it.
    #[arg(required = true, value_name = "TOPIC=FILE")]
    pub files: Vec<String>,
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Loads the files and returns the number of records.
///
/// # Errors
/// When a file cannot be read, a topic is not a source, or a record cannot be delivered. The error names it.
pub fn run(args: &LoadArgs) -> Result<u64> {
    let config = args.config.read()?;
    let mut writer = Writer::open(&config.kafka)?;
    let mut files = Files::open(&args.files, &config, |topic| Ok(writer.partitions(topic)?))?;
    let style = "{bytes}/{total_bytes} [{bar:40}] {msg} records, {elapsed}, {eta} to go";
    let progress = ProgressBar::new(files.total_bytes()).with_style(ProgressStyle::with_template(style)?);
    let mut count = 0_u64;
    while let Some(message) = files.take()? {
        writer.write(&message)?;
        count += 1;
        if count.is_multiple_of(10_000) {
            progress.set_position(files.bytes());
            progress.set_message(count.to_string());
        }
    }
    writer.flush()?;
    progress.finish_and_clear();
    files.disorder().iter().for_each(|warning| process::print(&format!("{warning}\n")));
    Ok(count)
}
