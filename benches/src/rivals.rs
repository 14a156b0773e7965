//! Runs Keepwell and its peers one after another on the same broker, topic and job. Compares rows, processor time,
//! memory and latency.
#![allow(clippy::disallowed_methods, reason = "I/O edge: time is measured, processes are waited for")]

pub mod cost;
pub mod latency;
pub mod result;
pub mod rows;
pub mod system;
pub mod throughput;
