//! What every stage of Keepwell needs, named by what it is.
//!
//! `schema`, `codec`, `offset`, `pane`, `event`, `watermark` and `stage` are pure; `log`, `snapshot`,
//! `store`, `clock` and `runner` are the rim. The dependency goes one way: rim to core.

pub mod accounts;
pub mod admin;
pub mod clock;
pub mod codec;
pub mod config;
pub mod crash;
pub mod event;
pub mod hidden;
pub mod log;
pub mod metrics;
pub mod name;
pub mod natural;
pub mod offset;
pub mod pane;
pub mod partitioner;
pub mod piece;
pub mod process;
pub mod reject;
pub mod rights;
pub mod runner;
pub mod schema;
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
