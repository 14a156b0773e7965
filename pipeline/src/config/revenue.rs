//! How revenue follows from contracts.

use garde::Validate;
use serde::{Deserialize, Serialize};

use super::Span;

/// How revenue follows from contracts. Fixed for an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Revenue {
    /// How long a contract goes on after the end of its term, if nobody renews it. Then it has ended.
    #[garde(skip)]
    pub grace: Span,
}

impl Default for Revenue {
    fn default() -> Self {
        Self { grace: Span::from_secs(30 * 24 * 3600) }
    }
}
