//! What flows through Keepwell: events, the tables they become and their columns, batches as bytes, offsets, panes.
//!
//! Pure: nothing here knows of a log, a process, a clock or a file. What does stands in `keepwell-pipeline`.

pub mod accounts;
pub mod codec;
pub mod event;
pub mod interned;
pub mod natural;
pub mod offset;
pub mod pane;
pub mod partitioner;
pub mod schema;
