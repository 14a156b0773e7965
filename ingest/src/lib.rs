//! Ingest: turns raw bytes into accepted events and rejects.
//!
//! Contract: every record that is read is emitted, ignored, or rejected with a stable reason. A reject contains the
//! record's bytes as far as they fit; with `ingest.user_id_key` it contains none. Accepted events are partitioned by
//! account. In each partition of `events`, the last record of a step reports how far the step has read the sources,
//! after the rows that this covers. Ingest has no snapshots: the highest event time of a source partition is in its
//! committed position.

pub mod cli;
pub mod decode;
pub mod encoding;
pub mod form;
mod input;
pub mod mapping;
pub mod reason;
pub mod rejects;
pub mod stage;
mod time_of;

pub use stage::{Ingest, State};

use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::Plan;

/// The topics that ingest reads and writes, and its ticks.
pub fn plan(config: &Config) -> Plan {
    let interval = config.ingest.statement_interval.as_duration();
    Plan {
        sources: config.sources.iter().map(|source| source.topic.clone()).collect(),
        outputs: vec![config.topics.events.clone()],
        tick: interval,
        tick_behind: interval,
    }
}
