//! The parts of the single binary: all stages in one process, the demo, and the tools for loading and inspecting.

pub mod alerts;
#[cfg(feature = "sql")]
pub mod audit;
#[cfg(not(feature = "sql"))]
#[path = "no_sql.rs"]
#[allow(clippy::duplicate_mod, reason = "two commands say the same")]
pub mod audit;
pub mod backfill;
#[cfg(feature = "sql")]
mod beside;
pub mod demo;
pub mod erase;
pub mod explain;
pub mod files;
pub mod in_process;
pub mod infer;
pub mod last_scores;
pub mod lines;
pub mod load;
pub mod model;
pub mod reference;
#[cfg(feature = "sql")]
pub mod report;
#[cfg(not(feature = "sql"))]
#[path = "no_sql.rs"]
#[allow(clippy::duplicate_mod, reason = "two commands say the same")]
pub mod report;
pub mod try_input;
pub mod views;
