//! The data of Keepwell: events, tables and their columns, encoded batches, offsets, panes.
//!
//! This crate is pure: it knows no log, process, clock or file. Those are in `keepwell-pipeline`.

pub mod accounts;
pub mod calendar;
pub mod codec;
pub mod event;
pub mod interned;
pub mod natural;
pub mod offset;
pub mod pane;
pub mod partitioner;
pub mod points;
pub mod schema;
