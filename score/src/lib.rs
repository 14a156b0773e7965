//! Score: window rows to health scores, explained to the last decimal.
//!
//! Contract: for each account in a record of `windows` one health row, live or final as the window rows
//! are. Factors are SQL compiled once; everything after the normalised value is exact decimal; deltas,
//! drivers and triggers compare final rows only. All of it is a fold over the log.

mod bounds;
pub mod cli;
mod compile;
mod episode;
mod evaluate;
mod evidence;
mod expression;
mod health_row;
pub mod inputs;
pub mod model;
pub mod model_schedule;
mod model_tests;
pub mod normalise;
pub mod points;
mod rate;
pub mod recompute;
mod settings;
mod small_map;
mod snapshot;
mod stage;
mod state;
pub mod tables_reader;
#[cfg(test)]
mod tests;
mod try_model;
mod windows;

pub use stage::Score;
pub use state::{PartitionState, State};

use std::time::Duration;

use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::Plan;

/// Reads, checks and compiles a model file, as a start does; `periods` are the configured windows.
///
/// # Errors
/// [`model::ModelError`] naming file, line and column.
pub fn check_model(file: &str, text: &str, periods: &[String]) -> Result<(), model::ModelError> {
    compile::Compiled::parse(file, text, periods).map(drop)
}

/// Nothing in this stage waits for the clock.
const TICK: Duration = Duration::from_secs(1);

/// What score reads and writes, and its rhythm.
pub fn plan(config: &Config) -> Plan {
    Plan {
        sources: vec![config.topics.windows.clone()],
        outputs: vec![config.topics.health.clone()],
        tick: TICK,
        tick_behind: TICK,
        prove_ends: false,
    }
}
