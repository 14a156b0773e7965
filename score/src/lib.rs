//! Score: turns window rows into health scores, explained to the last decimal.
//!
//! Contract: each account in a record of `windows` gets one health row, live or final as the window rows are. Factors
//! are SQL that is compiled once. Everything after the normalised value is an exact decimal. Deltas, drivers and
//! triggers compare with final rows only. All of this is a fold over the log.

mod bounds;
pub mod cli;
mod compile;
mod contributions;
mod drops;
mod episode;
mod evaluate;
mod evidence;
mod expression;
mod factor_lists;
mod health_row;
pub mod inputs;
mod lifecycle;
pub mod model;
pub mod model_schedule;
mod model_tests;
pub mod normalise;
mod planner;
mod rate;
#[cfg(feature = "sql")]
pub mod recompute;
mod settings;
mod small_map;
mod snapshot;
mod stage;
mod state;
#[cfg(feature = "sql")]
pub mod tables_reader;
#[cfg(test)]
mod tests;
mod try_model;
mod windows;

pub use stage::Score;
pub use state::{PartitionState, State};

use std::time::Duration;

use keepwell_core::schema::window::Layout;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::Plan;

/// Reads, checks and compiles a model file, as at the start of the stage. `layout` is that of
/// a window row.
///
/// # Errors
/// [`model::ModelError`] with file, line and column.
pub fn check_model(file: &str, text: &str, layout: &Layout) -> Result<(), model::ModelError> {
    compile::Compiled::parse(file, text, layout).map(drop)
}

/// The tick of the stage. Nothing in it waits for the clock.
const TICK: Duration = Duration::from_secs(1);

/// The topics that score reads and writes, and its ticks.
pub fn plan(config: &Config) -> Plan {
    Plan {
        sources: vec![config.topics.windows.clone()],
        outputs: vec![config.topics.health.clone()],
        tick: TICK,
        tick_behind: TICK,
    }
}
