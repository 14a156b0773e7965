//! `keepwell alerts`: an operator's word about alerts that are held, because a pane is suspect.

use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use keepwell_pipeline::log::kafka::writer::Writer;
use keepwell_pipeline::process::ConfigArgs;
use keepwell_pipeline::record::Message;
use keepwell_pipeline::suspect::{self, Decision, WORD_HEADER, Word};

/// What to do with alerts that are held.
#[derive(Debug, clap::Args)]
pub struct AlertsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Publish the alerts that are held and whose condition still holds: customers are the cause, not a source.
    Release(WordArgs),
    /// Forget the alerts that are held: a source was the cause, not the customers.
    Drop(WordArgs),
}

#[derive(Debug, clap::Args)]
struct WordArgs {
    /// Do the same with suspect panes that end by this time (RFC 3339), e.g. for a holiday.
    #[arg(long)]
    until: Option<Timestamp>,
    /// The configuration.
    #[command(flatten)]
    config: ConfigArgs,
}

/// Writes the word into every partition of `health`, in all or in none, and returns a report.
///
/// # Errors
/// When the configuration is refused, or the broker does not accept the word.
pub fn run(args: &AlertsArgs) -> Result<String> {
    let (decision, args) = match &args.action {
        Action::Release(args) => (Decision::Release, args),
        Action::Drop(args) => (Decision::Drop, args),
    };
    let config = args.config.read()?;
    let word = Word { decision, until_us: args.until.map(Timestamp::as_microsecond) };
    let health: Arc<str> = Arc::from(config.topics.health.as_str());
    // Asked first: a transaction would wait for a broker without a word.
    let partitions = Writer::open(&config.kafka)?.partitions(&health)?;
    let mut writer = Writer::open_transaction(&config.kafka, "alerts")?;
    for message in messages(word, &health, partitions) {
        writer.write(&message)?;
    }
    writer.commit().with_context(|| format!("nothing was written to {health}"))?;
    let done = match decision {
        Decision::Release => "publishes the alerts that are held and still hold",
        Decision::Drop => "forgets the alerts that are held",
    };
    let until = args.until.map(|until| format!(", and does the same with suspect panes up to {until}"));
    Ok(format!(
        "sink {done}{}: in {partitions} partitions of {health}\nkeepwell_alerts_held shows what is held still\n",
        until.unwrap_or_default()
    ))
}

/// The records of a word, one for each partition of `health`.
pub fn messages(word: Word, health: &Arc<str>, partitions: i32) -> impl Iterator<Item = Message> {
    let message = move |partition| Message {
        topic: Arc::clone(health),
        partition,
        timestamp_ms: None,
        key: None,
        value: None,
        headers: vec![suspect::header(WORD_HEADER, &word)],
    };
    (0..partitions).map(message)
}
