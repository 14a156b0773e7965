//! What finding duplicates may cost.

use garde::Validate;
use serde::{Deserialize, Serialize};

/// Memory for the ids of events, by which duplicates are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Duplicates {
    /// Most memory in which a process of aggregate may keep ids; beyond it the process stops by name.
    #[garde(range(min = 1_048_576))]
    pub max_bytes: u64,
    /// Events a day that are expected of all sources together: then the start says what they need.
    #[garde(skip)]
    pub events_per_day: Option<u64>,
}

impl Default for Duplicates {
    fn default() -> Self {
        Self { max_bytes: 4 << 30, events_per_day: None }
    }
}
