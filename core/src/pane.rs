//! Panes: event time divided into equal, aligned intervals (days by default). A window is a whole number of panes.

use serde::{Deserialize, Serialize};

/// Microseconds in a second.
pub const SECOND_US: i64 = 1_000_000;
/// Microseconds in a day.
pub const DAY_US: i64 = 86_400 * SECOND_US;

/// Index of a pane: pane `n` covers event times `[n * width, (n + 1) * width)` since 1970-01-01 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pane(pub i32);

impl Pane {
    /// The pane after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The pane `panes` before this one.
    pub fn back(self, panes: i32) -> Self {
        Self(self.0 - panes)
    }
}

/// Width of every pane, fixed for an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaneWidth {
    /// Width in microseconds, above 0.
    pub width_us: i64,
}

impl PaneWidth {
    /// The pane that covers `time_us`. Times before 1970 fall into negative panes.
    pub fn pane(self, time_us: i64) -> Pane {
        Pane(time_us.div_euclid(self.width_us) as i32)
    }

    /// First microsecond of `pane`.
    pub fn start_us(self, pane: Pane) -> i64 {
        i64::from(pane.0) * self.width_us
    }

    /// The first microsecond after `pane`: its exclusive end.
    pub fn end_us(self, pane: Pane) -> i64 {
        self.start_us(pane.next())
    }

    /// The newest closed pane: the last one that ends at or before `watermark_us`.
    pub fn last_closed(self, watermark_us: i64) -> Pane {
        self.pane(watermark_us).back(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS: PaneWidth = PaneWidth { width_us: DAY_US };

    #[test]
    fn a_pane_holds_its_start_and_not_its_end() {
        for pane in [Pane(-2), Pane(0), Pane(19_000)] {
            assert_eq!(DAYS.pane(DAYS.start_us(pane)), pane);
            assert_eq!(DAYS.pane(DAYS.end_us(pane) - 1), pane);
            assert_eq!(DAYS.pane(DAYS.end_us(pane)), pane.next());
        }
    }

    #[test]
    fn a_pane_closes_when_the_watermark_reaches_its_end() {
        assert_eq!(DAYS.last_closed(DAY_US - 1), Pane(-1));
        assert_eq!(DAYS.last_closed(DAY_US), Pane(0));
    }
}
