//! What Keepwell is measured with: a load of known content, and its rivals.

pub mod fixture;
pub mod load;
pub mod rivals;
