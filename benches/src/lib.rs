//! What the promises are checked and measured with: the oracle, generated and public data, comparisons.

pub mod bad_input;
pub mod chaos;
pub mod check;
pub mod compare;
pub mod datasets;
pub mod deployment;
pub mod fixture;
pub mod fleet;
pub mod invariant;
pub mod kafka;
pub mod ledger;
pub mod load;
pub mod oracle;
pub mod rivals;
pub mod secured;
pub mod sim;
pub mod streamed;
pub mod versions;
