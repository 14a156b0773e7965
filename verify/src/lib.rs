//! Tools that check the promises: the oracle, the simulator, the chaos runner, generated and public data, comparisons.

pub mod bad_input;
pub mod chaos;
pub mod check;
pub mod compare;
pub mod datasets;
pub mod dead_source;
pub mod deployment;
pub mod fleet;
pub mod held;
pub mod invariant;
pub mod kafka;
pub mod ledger;
pub mod oracle;
pub mod programs;
pub mod secured;
pub mod segment;
pub mod sim;
pub mod streamed;
pub mod versions;
