//! `keepwell erase`: an account taken out of the Parquet tables.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use pipeline::config::Config;
use pipeline::partitioner::partition_of;
use pipeline::store::Store;

/// Whom to erase, and where.
#[derive(Debug, clap::Args)]
pub struct EraseArgs {
    /// The account. Delete it first (an account event `deleted`), or its next rows come again.
    #[arg(long)]
    account: String,
    /// The configuration file; of an older epoch, where that is meant.
    #[arg(long, short, env = "KEEPWELL_CONFIG", default_value = "keepwell.yaml")]
    config: PathBuf,
    /// Replaces a value of the configuration: path.to.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Does it, and says what was done.
///
/// # Errors
/// When no tables are configured, their store does not answer, or a claimed file is not written yet.
pub fn run(args: &EraseArgs) -> Result<String> {
    let config = Config::read(&args.config, &args.set)?;
    let tables = config.tables.as_ref().context("no `tables` are configured: there are no files to rewrite")?;
    let store = Store::open(&tables.url, &tables.options)?;
    let partition = partition_of(&args.account, config.partitions);
    let erased = sink::erase::account(&store, config.epoch, partition, &args.account)?;
    ensure!(
        erased.num_missing == 0,
        "{} claimed files are not written yet, {} were rewritten: run it again once `tables` has caught up",
        erased.num_missing,
        erased.num_rewritten
    );
    Ok(format!(
        "{} rows of {} erased from {} of {} files of epoch {}\n",
        erased.num_rows, args.account, erased.num_rewritten, erased.num_files, config.epoch
    ))
}
