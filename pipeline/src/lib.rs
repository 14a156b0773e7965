//! What every stage of Keepwell needs. Each module is named after its content.
//!
//! `stage` and `watermark` are pure; `log`, `snapshot`, `store`, `clock` and `runner` do the I/O around them. The data
//! types are in `keepwell-core`, which does not depend on this crate.

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
pub mod redact;
pub mod reject;
pub mod runner;
pub mod snapshot;
pub mod source_reader;
pub mod stage;
pub mod step;
pub mod store;
pub mod suspect;
pub mod topics;
pub mod watermark;
