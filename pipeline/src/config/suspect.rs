//! When a pane is suspect: its input is far from usual, so its alerts are held.

use garde::Validate;
use serde::{Deserialize, Serialize};

use super::{Aggregate, Span};
use crate::suspect::Bounds;

/// When the alerts of a pane are held, because a source may have died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Suspect {
    /// A pane is suspect if a source has fewer events in it than this share of the usual number. 0: never.
    #[garde(range(min = 0.0, max = 1.0))]
    pub below: f64,
    /// The usual number of an hour is the median of the same hour of the week in this many weeks.
    #[garde(range(min = 2, max = 8))]
    pub weeks: u8,
    /// A source with a smaller usual number in a pane is not judged.
    #[garde(range(min = 1))]
    pub min_events: u64,
    /// A pane is suspect if more than this share of the accounts falls into a lower band. 1: never.
    #[garde(range(min = 0.0, max = 1.0))]
    pub max_dropping: f64,
    /// Fewer accounts with a score are not judged by `max_dropping`.
    #[garde(range(min = 1))]
    pub min_accounts: u64,
    /// How long alerts are still held after the last suspect pane. Default: the shortest window.
    #[garde(skip)]
    pub settle: Option<Span>,
}

impl Default for Suspect {
    fn default() -> Self {
        Self { below: 0.5, weeks: 4, min_events: 100, max_dropping: 0.2, min_accounts: 100, settle: None }
    }
}

impl Suspect {
    /// What decides about the alerts of a pane.
    pub fn bounds(&self, aggregate: &Aggregate) -> Bounds {
        let shortest = aggregate.windows.iter().min().copied();
        Bounds {
            max_dropping: (self.max_dropping < 1.0).then_some(self.max_dropping),
            min_accounts: self.min_accounts,
            settle_us: self.settle.or(shortest).map_or(0, Span::as_micros),
        }
    }
}
