//! Aggregate: turns accepted events into window rows, per account, in event time.
//!
//! Contract: every event that is read gets exactly one fate, and the fates are counted: on time, late, duplicate, too
//! late, deleted or over a limit. When the watermark passes the end of a pane, one final row per known account
//! is sent, exactly once. Between final rows, live rows follow the events, see `live_due`. All of this is a fold
//! over the log, see `fold` and `close`.

pub mod account;
mod close;
mod dedup;
mod dedup_sizing;
mod dirty;
mod feature_groups;
mod feeds;
mod fold;
#[cfg(test)]
mod golden;
mod growth;
mod live_due;
pub mod measure;
mod name_index;
mod pane_set;
pub mod revenue;
mod settings;
mod snapshot;
mod stage;
mod state;

pub use dedup_sizing::MemoryEstimate;
pub use keepwell_core::interned::Name;
pub use settings::Settings;
pub use stage::Aggregate;
pub use state::{PartitionState, State};

use std::time::Duration;

use anyhow::Result;
use keepwell_pipeline::config::{Config, Secret};
use keepwell_pipeline::process::Plan;
use tracing::info;

/// While a backlog waits to be read, live rows are sent only this often: throughput goes first.
const LIVE_INTERVAL_BEHIND: Duration = Duration::from_secs(10);

/// The configured stage with its plan. Logs how much memory the ids of the expected events need.
///
/// # Errors
/// When one partition needs more than `duplicates.max_bytes`, or the key for erased user ids cannot be read.
pub fn build(config: &Config) -> Result<(Aggregate, Plan)> {
    if let Some(need) = MemoryEstimate::of(config) {
        info!(
            ids = need.num_ids,
            bytes = need.num_bytes,
            partition_bytes = need.partition_bytes,
            processes = need.num_processes,
            "memory that the expected events' ids need at most, for all partitions, and the fewest processes that have it"
        );
        need.check(config)?;
    }
    Ok((stage(config)?, plan(config)))
}

/// The configured stage, with its secrets read.
///
/// # Errors
/// When the key for erased user ids cannot be read.
pub fn stage(config: &Config) -> Result<Aggregate> {
    let key = |name: &'static str, secret: &Secret| {
        secret.reveal_key().map(Some).map_err(|why| anyhow::anyhow!("{name}: {why}"))
    };
    let key = match (&config.aggregate.erasure_key, &config.ingest.user_id_key) {
        (Some(secret), _) => key("aggregate.erasure_key", secret)?,
        (None, Some(secret)) => key("ingest.user_id_key", secret)?,
        (None, None) => None,
    };
    let stage = Aggregate::new(config);
    Ok(match key {
        Some(key) => stage.with_erasure_key(key),
        None => stage,
    })
}

/// The topics that aggregate reads and writes, and its ticks.
pub fn plan(config: &Config) -> Plan {
    let interval = config.aggregate.live_interval.as_duration();
    Plan {
        sources: vec![config.topics.events.clone()],
        outputs: [&config.topics.windows, &config.topics.feature_days, &config.topics.revenue]
            .map(String::clone)
            .into(),
        tick: interval,
        tick_behind: interval.max(LIVE_INTERVAL_BEHIND),
    }
}
