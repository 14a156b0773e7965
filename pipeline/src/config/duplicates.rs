//! Limits for finding duplicates.

use garde::Validate;
use serde::{Deserialize, Serialize};

/// Memory for event ids, by which duplicates are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Duplicates {
    /// Maximum memory for event ids in one process of aggregate, in bytes. Exceeding it is a named stop.
    #[garde(range(min = 1_048_576))]
    pub max_bytes: u64,
    /// Expected number of events per day, of all sources together. If set, the start reports the memory for their ids,
    /// and rejects a `max_bytes` that is too small for one partition.
    #[garde(skip)]
    pub events_per_day: Option<u64>,
}

impl Default for Duplicates {
    fn default() -> Self {
        Self { max_bytes: 4 << 30, events_per_day: None }
    }
}
