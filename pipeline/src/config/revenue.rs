//! How revenue follows from contracts.

use garde::Validate;
use keepwell_core::calendar::{Calendar, PeriodKind};
use serde::{Deserialize, Serialize};

use super::Span;

/// How revenue follows from contracts. Fixed for an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Revenue {
    /// How long a contract goes on after the end of its term, if nobody renews it. Then it has ended.
    #[garde(skip)]
    pub grace: Span,
    /// Lengths of the periods that have rows: week, month, quarter, year. Empty: none.
    #[garde(skip)]
    pub periods: Vec<PeriodKind>,
    /// The month in which a year begins, 1 to 12. Quarters follow from it.
    #[garde(range(min = 1, max = 12))]
    pub year_starts_in: u8,
    /// The time zone in which periods begin, such as Europe/Berlin.
    #[garde(custom(is_known_zone))]
    pub time_zone: String,
    /// What becomes of something that is told after the shortest period with it was reported: restate, or book_now.
    #[garde(skip)]
    pub late: Late,
    /// How long ago a period may have ended and still be restated. What is older counts from when it became known.
    #[garde(skip)]
    pub restate_for: Span,
    /// What revenue lost with the reason `seat_removed` is: contraction, or churn.
    #[garde(skip)]
    pub seat_removal: SeatRemoval,
}

/// What becomes of something that is told after its period was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    /// Periods that have ended are reported again, with the next revision.
    #[default]
    Restate,
    /// It counts from when it became known.
    BookNow,
}

/// What revenue lost with seats is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeatRemoval {
    /// Contraction.
    #[default]
    Contraction,
    /// Churn.
    Churn,
}

impl Default for Revenue {
    fn default() -> Self {
        let days = |days: u64| Span::from_secs(days * 24 * 3600);
        Self {
            grace: days(30),
            periods: vec![PeriodKind::Month, PeriodKind::Quarter, PeriodKind::Year],
            year_starts_in: 1,
            time_zone: "UTC".to_owned(),
            late: Late::Restate,
            restate_for: days(400),
            seat_removal: SeatRemoval::Contraction,
        }
    }
}

impl Revenue {
    /// The calendar of the business.
    ///
    /// # Errors
    /// When no time zone has the configured name. A configuration that was read from a file has been checked for it.
    pub fn calendar(&self) -> Result<Calendar, String> {
        Calendar::new(&self.time_zone, self.year_starts_in)
    }
}

fn is_known_zone(zone: &str, _: &()) -> garde::Result {
    Calendar::new(zone, 1).map(|_| ()).map_err(garde::Error::new)
}
