//! Calendar periods of a business: weeks, months, quarters and years in its time zone.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZoneDatabase;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// Length of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeriodKind {
    /// Monday to Sunday.
    Week,
    /// A calendar month.
    Month,
    /// Three months.
    Quarter,
    /// Twelve months.
    Year,
}

impl PeriodKind {
    /// The word in rows and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }

    /// Number of weeks or months in it.
    fn length(self) -> usize {
        match self {
            Self::Week | Self::Month => 1,
            Self::Quarter => 3,
            Self::Year => 12,
        }
    }
}

/// One period: from its start, inclusive, to its end, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    /// Its first time, UTC microseconds.
    pub start_us: i64,
    /// The first time behind it, UTC microseconds.
    pub end_us: i64,
    /// Its length.
    pub kind: PeriodKind,
}

/// Years that have periods: those of which events tell, with room on both sides.
const YEARS: std::ops::Range<i16> = 1970..2200;

/// The calendar of a business, whose periods are those of the years 1970 to 2199. The default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calendar {
    /// Starts of all months, and the end of the last, UTC microseconds.
    months_us: Vec<i64>,
    /// Starts of all weeks, in the same way.
    weeks_us: Vec<i64>,
    /// Number of months before the first start of a year.
    first_month: usize,
}

impl Calendar {
    /// The calendar in a time zone, such as `UTC` or `Asia/Kolkata`, whose year begins in month `first_month`, 1 to 12.
    ///
    /// # Errors
    /// When no zone has this name.
    pub fn new(zone: &str, first_month: u8) -> Result<Self, String> {
        // Zones are part of the program: rows must not depend on the machine that makes them.
        let zone = TimeZoneDatabase::bundled()
            .get(zone)
            .map_err(|_| format!("there is no time zone {zone:?}; expected one such as UTC or Asia/Kolkata"))?;
        let start_us = |date: Date| Some(Timestamp::from(date.to_zoned(zone.clone()).ok()?).as_microsecond());
        let months = YEARS.flat_map(|year| (1..=12).map(move |month| (year, month))).chain([(YEARS.end, 1)]);
        let months_us = months.filter_map(|(year, month)| start_us(Date::new(year, month, 1).ok()?)).collect();
        let first = Date::new(YEARS.start, 1, 1).ok();
        let days = first.map(|first| first.series(1.day())).into_iter().flatten();
        let mondays = days.take_while(|day| YEARS.contains(&day.year())).filter(|day| day.weekday() == Weekday::Monday);
        let weeks_us = mondays.filter_map(start_us).collect();
        Ok(Self { months_us, weeks_us, first_month: usize::from(first_month.clamp(1, 12)) - 1 })
    }

    /// The period of this kind that contains a time in UTC microseconds. None: its year has no periods.
    pub fn period(&self, kind: PeriodKind, at_us: i64) -> Option<Period> {
        let starts_us = if kind == PeriodKind::Week { &self.weeks_us } else { &self.months_us };
        let at = starts_us.partition_point(|start_us| *start_us <= at_us).checked_sub(1)?;
        let behind = if kind == PeriodKind::Week { 0 } else { (at + 12 - self.first_month) % kind.length() };
        let start = at.checked_sub(behind)?;
        Some(Period { start_us: *starts_us.get(start)?, end_us: *starts_us.get(start + kind.length())?, kind })
    }

    /// The period before. None: its year has no periods.
    pub fn before(&self, period: &Period) -> Option<Period> {
        self.period(period.kind, period.start_us - 1)
    }

    /// Starts of weeks and months after `from_us`, exclusive, to `to_us`, inclusive, in order. Each period starts with one.
    pub fn starts_us(&self, from_us: i64, to_us: i64) -> Vec<i64> {
        let between = |starts: &[i64]| {
            let behind = |us: i64| starts.partition_point(|start_us| *start_us <= us);
            starts.get(behind(from_us)..behind(to_us)).unwrap_or_default().to_vec()
        };
        let mut starts = between(&self.months_us);
        starts.extend(between(&self.weeks_us));
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// The months that a period is in, oldest first.
    pub fn months(&self, period: &Period) -> Vec<Period> {
        let first = self.period(PeriodKind::Month, period.start_us);
        let months = std::iter::successors(first, |month| self.period(PeriodKind::Month, month.end_us));
        months.take_while(|month| month.start_us < period.end_us).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use PeriodKind::{Month, Quarter, Week, Year};

    fn us(time: &str) -> i64 {
        time.parse::<Timestamp>().unwrap().as_microsecond()
    }

    #[test]
    fn periods_are_those_of_the_business() {
        // zone, first month of the year, kind, time, start and end
        let cases = [
            ("UTC", 1, Month, "2026-02-28T23:59:59Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("UTC", 1, Month, "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            ("UTC", 1, Quarter, "2026-12-31T23:00:00Z", "2026-10-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("UTC", 4, Quarter, "2026-03-31T00:00:00Z", "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            ("UTC", 2, Quarter, "2026-03-31T00:00:00Z", "2026-02-01T00:00:00Z", "2026-05-01T00:00:00Z"),
            ("UTC", 4, Year, "2026-03-31T00:00:00Z", "2025-04-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            ("Asia/Kolkata", 4, Year, "2026-03-31T18:30:00Z", "2026-03-31T18:30:00Z", "2027-03-31T18:30:00Z"),
            ("UTC", 1, Week, "2026-02-28T23:59:59Z", "2026-02-23T00:00:00Z", "2026-03-02T00:00:00Z"),
            // Clocks go forward on 29 March and back on 25 October.
            ("Europe/Berlin", 1, Month, "2026-03-31T22:00:00Z", "2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"),
            ("Europe/Berlin", 1, Week, "2026-10-25T12:00:00Z", "2026-10-18T22:00:00Z", "2026-10-25T23:00:00Z"),
            ("Europe/Berlin", 1, Quarter, "2026-10-01T00:00:00Z", "2026-09-30T22:00:00Z", "2026-12-31T23:00:00Z"),
        ];
        for (zone, first_month, kind, at, start, end) in cases {
            let period = Calendar::new(zone, first_month).unwrap().period(kind, us(at));
            assert_eq!(period, Some(Period { start_us: us(start), end_us: us(end), kind }), "{zone} {kind:?} {at}");
        }
        let why = Calendar::new("Mars/Olympus", 1).unwrap_err();
        assert!(why.contains("Mars/Olympus") && why.contains("such as UTC"), "{why}");
    }

    #[test]
    fn times_beyond_every_calendar_have_no_period() {
        let calendar = Calendar::new("UTC", 4).unwrap();
        for (at, kind) in
            [("1969-12-31T23:59:59Z", Month), ("1970-03-01T00:00:00Z", Year), ("2200-01-01T00:00:00Z", Month)]
        {
            assert_eq!(calendar.period(kind, us(at)), None, "{at}");
        }
        assert!([i64::MIN, i64::MAX].iter().all(|at_us| calendar.period(Year, *at_us).is_none()));
        let first = calendar.period(Year, us("1970-04-01T00:00:00Z")).unwrap();
        assert_eq!(calendar.before(&first), None, "the year before begins in 1969");
    }

    proptest! {
        #[test]
        fn periods_follow_each_other_without_gap_and_nest(
            // From 1973: the year before has its whole in the calendar, whatever month it begins in.
            at_us in 100_000_000_000_000..7_000_000_000_000_000_i64,
            zone in prop::sample::select(vec!["UTC", "America/New_York", "Pacific/Apia", "Asia/Kolkata"]),
            first_month in 1..13_u8,
        ) {
            let calendar = Calendar::new(zone, first_month).unwrap();
            let [week, month, quarter, year] =
                [Week, Month, Quarter, Year].map(|kind| calendar.period(kind, at_us).unwrap());
            for period in [week, month, quarter, year] {
                prop_assert!((period.start_us..period.end_us).contains(&at_us));
                prop_assert_eq!(calendar.before(&period).unwrap().end_us, period.start_us);
                prop_assert_eq!(calendar.period(period.kind, period.end_us).unwrap().start_us, period.end_us);
                let months = calendar.months(&period);
                prop_assert!(months.contains(&month));
                prop_assert!(months.windows(2).all(|two| two[0].end_us == two[1].start_us));
                let (first, last) = (months[0], months[months.len() - 1]);
                match period.kind {
                    Week => prop_assert!(first.start_us <= period.start_us && period.end_us <= last.end_us && months.len() <= 2),
                    kind => prop_assert_eq!((first.start_us, last.end_us, months.len()), (period.start_us, period.end_us, kind.length())),
                }
                let starts = calendar.starts_us(period.start_us - 1, period.end_us);
                prop_assert_eq!((starts[0], starts[starts.len() - 1]), (period.start_us, period.end_us));
            }
            prop_assert!(quarter.start_us <= month.start_us && month.end_us <= quarter.end_us);
            prop_assert!(year.start_us <= quarter.start_us && quarter.end_us <= year.end_us);
        }
    }
}
