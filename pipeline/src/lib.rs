//! What every stage of Keepwell needs, named by what it is.
//!
//! `stage` and `watermark` are pure; `log`, `snapshot`, `store`, `clock` and `runner` are the rim. What flows
//! through them stands in `keepwell-core`, which knows nothing of this crate.

pub mod acls;
pub mod clock;
pub mod config;
pub mod crash_points;
pub mod hanging_transactions;
pub mod http;
pub mod log;
pub mod metrics;
pub mod partition_loop;
pub mod process;
pub mod pulse;
pub mod readiness;
pub mod record;
pub mod reject;
pub mod runner;
pub mod shown;
pub mod snapshot;
pub mod stage;
pub mod store;
pub mod topics;
pub mod watermark;

/// Of every program: Arrow and maps take and give back memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
