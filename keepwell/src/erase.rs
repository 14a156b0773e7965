//! `keepwell erase`: removes an account from the Parquet tables.

pub mod leftovers;

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use keepwell_core::partitioner::partition_of;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::ConfigArgs;
use keepwell_pipeline::redact;
use keepwell_pipeline::store::Store;

/// Which account to erase, and where.
#[derive(Debug, clap::Args)]
pub struct EraseArgs {
    /// The account to erase. Delete it first (an account event of type `deleted`); otherwise new rows of it follow.
    #[arg(long)]
    account: String,
    /// The configuration. To erase from an older epoch, name the configuration of that epoch.
    #[command(flatten)]
    config: ConfigArgs,
}

/// Erases the account and returns a report.
///
/// # Errors
/// When no tables are configured, their store does not answer, or a claimed file is not written yet.
pub fn run(args: &EraseArgs) -> Result<String> {
    let config = args.config.read()?;
    let tables = config.tables.as_ref().context("no `tables` are configured: there are no files to rewrite")?;
    let options = tables.all_options().map_err(anyhow::Error::msg)?;
    let store = Store::open(&tables.url, &options)?;
    let partition = partition_of(&args.account, config.partitions);
    let erased = keepwell_sink::erase::account(&store, config.epoch, partition, &args.account)?;
    ensure!(
        erased.num_missing == 0,
        "{} claimed files are not written yet, {} were rewritten: run it again once `tables` has caught up",
        erased.num_missing,
        erased.num_rewritten
    );
    let mut out = format!(
        "{} rows of {} erased from {} of {} files of epoch {}\n",
        erased.num_rows,
        redact::line(&args.account),
        erased.num_rewritten,
        erased.num_files,
        config.epoch
    );
    let now = SystemTime::UNIX_EPOCH + Duration::from_micros(SystemClock::start().wall_us().unsigned_abs());
    for (what, url) in [("tables", &tables.url), ("snapshots", &config.snapshots.url)] {
        let left = leftovers::remove(url, now).with_context(|| format!("leftovers of {what}"))?;
        out += &left.describe(what);
    }
    out += &remaining_copies(&config);
    Ok(out)
}

/// Lists where records of the account remain until retention removes them.
fn remaining_copies(config: &Config) -> String {
    let raw = config.sources.iter().map(|source| source.topic.as_str());
    let is_deleted = |topic: &&str| *topic != config.topics.scores;
    let own = config.topics.all().into_iter().filter(is_deleted);
    let topics: Vec<&str> = raw.chain(own).collect();
    format!(
        "still held until their retention has passed: topics {}; {} until it is compacted (max.compaction.lag.ms); \
         snapshots until newer ones replace them; tables of other epochs: run it again with their configuration\n",
        topics.join(", "),
        config.topics.scores,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_that_may_still_hold_the_account_is_named() {
        let text = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: raw, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";
        let config = Config::parse("test", text, &[]).unwrap();
        let named = remaining_copies(&config);
        let own = ["events", "rejects", "windows", "feature_days", "revenue", "health"]
            .map(|name| format!("keepwell.{name}"));
        for topic in own.iter().map(String::as_str).chain(["raw", "scores", "alerts"]) {
            assert!(named.contains(topic), "{topic} is not in {named}");
        }
    }
}
