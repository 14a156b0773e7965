//! Aggregate: accepted events to window rows, per account, in event time.
//!
//! Contract: every event read is on time, late, duplicate, too late or deleted, and counted so. When the
//! watermark passes the end of a pane, one final row per known account and window is sent, exactly once;
//! between finals live rows follow the events. All of it is a fold over the log: see `fold` and `close`.

pub mod account;
mod close;
mod fold;
#[cfg(test)]
mod golden;
pub mod measure;
mod name;
mod pane_set;
mod seen;
mod settings;
mod stage;
mod state;

pub use name::Name;
pub use settings::Settings;
pub use stage::Aggregate;
pub use state::{PartitionState, State};

use std::time::Duration;

use pipeline::config::Config;
use pipeline::process::Plan;

/// While records wait to be read, live rows are sent only this often: throughput goes first.
const LIVE_INTERVAL_BEHIND: Duration = Duration::from_secs(10);

/// What aggregate reads and writes, and its rhythm.
pub fn plan(config: &Config) -> Plan {
    let interval = config.aggregate.live_interval.as_duration();
    Plan {
        sources: vec![config.topics.events.clone()],
        outputs: vec![config.topics.windows.clone(), config.topics.feature_days.clone()],
        tick: interval,
        tick_behind: interval.max(LIVE_INTERVAL_BEHIND),
        prove_ends: false,
    }
}
