//! The single binary's parts: all stages in one process, the demo, loading and looking.

pub mod audit;
pub mod backfill;
pub mod demo;
pub mod erase;
pub mod explain;
pub mod files;
pub mod in_process;
pub mod last_scores;
pub mod load;
pub mod model;
