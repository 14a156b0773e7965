//! Ingest: raw bytes to accepted events and rejects.
//!
//! Contract: every record read is emitted or rejected by a stable reason, with its bytes. Accepted events
//! are re-keyed by account. Behind the rows it covers, every record says how far each source has come.
//! No state: the highest event time of a source partition lives in its committed position.

pub mod cli;
pub mod decode;
mod input;
pub mod reason;
pub mod rejects;
pub mod stage;
mod time_of;

pub use stage::{Ingest, State};

use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::Plan;

/// What ingest reads and writes, and its rhythm.
pub fn plan(config: &Config) -> Plan {
    let interval = config.ingest.statement_interval.as_duration();
    Plan {
        sources: config.sources.iter().map(|source| source.topic.clone()).collect(),
        outputs: vec![config.topics.events.clone()],
        tick: interval,
        tick_behind: interval,
        prove_ends: true,
    }
}
