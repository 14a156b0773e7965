//! What every stage of Keepwell needs, named by what it is.
//!
//! `stage` and `watermark` are pure; `log`, `snapshot`, `store`, `clock` and `runner` are the rim. What flows
//! through them stands in `keepwell-core`, which knows nothing of this crate.

pub mod admin;
pub mod clock;
pub mod config;
pub mod crash;
pub mod hidden;
pub mod log;
pub mod metrics;
pub mod piece;
pub mod process;
pub mod reject;
pub mod rights;
pub mod runner;
pub mod shown;
pub mod snapshot;
pub mod stage;
pub mod store;
pub mod topics;
pub mod waiting;
pub mod watermark;

/// Of every program: Arrow and maps take and give back memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
