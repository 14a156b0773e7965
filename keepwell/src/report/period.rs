//! Periods as people name them: `2026`, `2026-Q3`, `2026-07`, `2026-W31`.

use anyhow::{Context, Result};
use jiff::ToSpan;
use jiff::civil::{Date, ISOWeekDate, Weekday};
use keepwell_core::calendar::{Period, PeriodKind};
use keepwell_pipeline::config::Revenue;

/// A period, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Such as `2026-Q3`.
    pub name: String,
    /// When it is.
    pub period: Period,
}

/// The period of a name. A year, and the quarters of it, begin in the month that the business has configured; a year has
/// the number of the calendar year in which it begins.
///
/// # Errors
/// When the name is none of a period.
pub fn named(name: &str, rules: &Revenue) -> Result<Named> {
    let first = first_day(name, rules.year_starts_in);
    let (kind, date) =
        first.with_context(|| format!("{name:?} is no period: expected 2026, 2026-Q3, 2026-07 or 2026-W31"))?;
    let calendar = rules.calendar().map_err(anyhow::Error::msg)?;
    // Noon of the second day is in the period, whatever the time zone. No period is shorter than a week.
    let noon = date.saturating_add(1.day()).at(12, 0, 0, 0).in_tz("UTC")?;
    let period = calendar.period(kind, noon.timestamp().as_microsecond());
    let period = period.with_context(|| format!("{name} has no calendar"))?;
    Ok(Named { name: name.to_owned(), period })
}

/// The period of this length with this time, UTC microseconds.
///
/// # Errors
/// When the time is outside of the years that have a calendar.
pub fn around(kind: PeriodKind, at_us: i64, rules: &Revenue) -> Result<Named> {
    let year = jiff::Timestamp::from_microsecond(at_us)?.to_zoned(jiff::tz::TimeZone::UTC).year();
    let parts = match kind {
        PeriodKind::Week => 1..=53,
        PeriodKind::Month => 1..=12,
        PeriodKind::Quarter => 1..=4,
        PeriodKind::Year => 1..=1,
    };
    let name = |year: i16, part: i32| match kind {
        PeriodKind::Week => format!("{year:04}-W{part:02}"),
        PeriodKind::Month => format!("{year:04}-{part:02}"),
        PeriodKind::Quarter => format!("{year:04}-Q{part}"),
        PeriodKind::Year => format!("{year:04}"),
    };
    let near = (year - 1..=year + 1).flat_map(|year| parts.clone().map(move |part| name(year, part)));
    let found = near.filter_map(|name| named(&name, rules).ok());
    let mut found = found.filter(|named| (named.period.start_us..named.period.end_us).contains(&at_us));
    found.next().with_context(|| format!("there is no {} around the year {year}", kind.name()))
}

fn first_day(name: &str, year_starts_in: u8) -> Option<(PeriodKind, Date)> {
    let (year, rest) = name.split_once('-').map_or((name, None), |(year, rest)| (year, Some(rest)));
    let year: i16 = (year.len() == 4).then(|| year.parse().ok())??;
    let first_month = i8::try_from(year_starts_in).ok()?;
    let after = |months: i64| Date::new(year, first_month, 1).ok()?.checked_add(months.months()).ok();
    match rest {
        None => Some((PeriodKind::Year, after(0)?)),
        Some(rest) => match (rest.strip_prefix('Q'), rest.strip_prefix('W')) {
            (Some(quarter), _) => {
                let quarter: i64 = quarter.parse().ok().filter(|quarter| (1..=4).contains(quarter))?;
                Some((PeriodKind::Quarter, after(3 * (quarter - 1))?))
            }
            (_, Some(week)) => {
                let week = ISOWeekDate::new(year, week.parse().ok()?, Weekday::Monday).ok()?;
                Some((PeriodKind::Week, week.date()))
            }
            _ => Some((PeriodKind::Month, Date::new(year, rest.parse().ok()?, 1).ok()?)),
        },
    }
}

#[cfg(test)]
mod tests {
    use keepwell_core::schema::health::rfc3339;

    use super::*;

    #[test]
    fn a_period_has_the_name_that_people_give_it() {
        // name, zone, first month of the year, start and end
        let cases = [
            ("2026", "UTC", 1, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2026", "UTC", 4, "2026-04-01T00:00:00Z", "2027-04-01T00:00:00Z"),
            ("2026-Q3", "UTC", 1, "2026-07-01T00:00:00Z", "2026-10-01T00:00:00Z"),
            ("2026-Q4", "UTC", 4, "2027-01-01T00:00:00Z", "2027-04-01T00:00:00Z"),
            ("2026-02", "Asia/Kolkata", 4, "2026-01-31T18:30:00Z", "2026-02-28T18:30:00Z"),
            ("2026-W01", "America/New_York", 1, "2025-12-29T05:00:00Z", "2026-01-05T05:00:00Z"),
        ];
        for (name, zone, year_starts_in, start, end) in cases {
            let rules = Revenue { time_zone: zone.to_owned(), year_starts_in, ..Revenue::default() };
            let period = named(name, &rules).unwrap().period;
            assert_eq!(around(period.kind, period.start_us, &rules).unwrap().name, name);
            assert_eq!(around(period.kind, period.end_us - 1, &rules).unwrap().name, name);
            assert_eq!((rfc3339(period.start_us).as_str(), rfc3339(period.end_us).as_str()), (start, end), "{name}");
        }
        for wrong in ["", "26", "2026-13", "2026-Q5", "2026-W54", "2026-Qx", "Q3"] {
            assert!(named(wrong, &Revenue::default()).unwrap_err().to_string().contains("2026-Q3"), "{wrong}");
        }
    }
}
