//! Tools to measure Keepwell: a load of known content, and comparisons with its peers.

pub mod fixture;
pub mod fleet;
pub mod load;
pub mod rivals;
