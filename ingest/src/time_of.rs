//! Times in JSON values, and the event time of a Segment call.

/// A point in time from the beginning of year 1 to the end of year 9999. RFC 3339 also has a year 0, which many
/// readers of the tables do not have. UTC microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When(pub i64);

/// 0001-01-01T00:00:00Z, in microseconds.
const FIRST_US: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z, in microseconds.
const LAST_US: i64 = 253_402_300_799_999_999;

impl When {
    /// From epoch microseconds.
    pub fn of_us(us: i64) -> Option<Self> {
        (FIRST_US..=LAST_US).contains(&us).then_some(Self(us))
    }

    /// From epoch milliseconds.
    pub fn of_ms(ms: i64) -> Option<Self> {
        Self::of_us(ms.checked_mul(1000)?)
    }

    /// From an RFC 3339 text.
    ///
    /// # Errors
    /// Why the text is not a valid time.
    pub fn of_text(text: &str) -> Result<Self, String> {
        let no_year = || "in no year from 1 to 9999".to_owned();
        if let Some(us) = common_utc_us(text) {
            return Self::of_us(us).ok_or_else(no_year);
        }
        match text.parse::<jiff::Timestamp>() {
            Ok(time) => Self::of_us(time.as_microsecond()).ok_or_else(no_year),
            // Timestamps of `jiff` end a day before year 9999 does, so that each of them has a time in every zone.
            Err(why) => in_the_last_days(text).ok_or_else(|| why.to_string()),
        }
    }
}

/// A time at the end of year 9999, which many systems write for "no end".
fn in_the_last_days(text: &str) -> Option<When> {
    let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let ahead_us = i64::from(pieces.to_numeric_offset()?.seconds()) * 1_000_000;
    When::of_us(civil_us(pieces.date().to_datetime(pieces.time()?))?.checked_sub(ahead_us)?)
}

/// A civil time as if it were UTC, in epoch microseconds.
fn civil_us(time: jiff::civil::DateTime) -> Option<i64> {
    let epoch = jiff::civil::DateTime::new(1970, 1, 1, 0, 0, 0, 0).ok()?;
    i64::try_from(time.duration_since(epoch).as_micros()).ok()
}

/// The time of a text such as `2026-11-24T08:15:30.25Z`, the form of nearly all events, exactly as `jiff` reads it. The
/// digits are at fixed positions, with at most six of the fraction. None means that the text has another form; it may
/// still be a time.
fn common_utc_us(text: &str) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', o1, o2, b'-', d1, d2, b'T', h1, h2, b':', m1, m2, b':', s1, s2, rest @ .., b'Z'] =
        text.as_bytes()
    else {
        return None;
    };
    let fraction = match rest {
        [] => rest,
        [b'.', fraction @ ..] if matches!(fraction.len(), 1..=6) => fraction,
        _ => return None,
    };
    let two = |tens, ones| Some((digit(tens)? * 10 + digit(ones)?) as i8);
    let year = i16::from(two(y1, y2)?) * 100 + i16::from(two(y3, y4)?);
    let mut below_us = 0;
    for place in 0..6 {
        below_us = below_us * 10 + fraction.get(place).map_or(Some(0), digit)?;
    }
    let date = jiff::civil::Date::new(year, two(o1, o2)?, two(d1, d2)?).ok()?;
    let time = jiff::civil::Time::new(two(h1, h2)?, two(m1, m2)?, two(s1, s2)?, below_us * 1000).ok()?;
    let time = jiff::tz::Offset::UTC.to_timestamp(date.to_datetime(time)).ok()?;
    Some(time.as_microsecond())
}

fn digit(byte: &u8) -> Option<i32> {
    byte.is_ascii_digit().then(|| i32::from(byte - b'0'))
}

/// `receivedAt - (sentAt - originalTimestamp)`: it corrects a wrong device clock, as Segment's common fields define
/// `timestamp`. Without `originalTimestamp`, `timestamp` is taken as the time of the device. If `sentAt` or
/// `receivedAt` is missing, the time is not corrected. UTC microseconds.
pub fn segment_time(
    timestamp: Option<When>,
    original: Option<When>,
    sent: Option<When>,
    received: Option<When>,
) -> Option<i64> {
    match (original.or(timestamp), sent, received) {
        (Some(original), Some(sent), Some(received)) => {
            Some(received.0.saturating_sub(sent.0.saturating_sub(original.0)))
        }
        _ => timestamp.or(original).map(|time| time.0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_wrong_device_clock_is_taken_out() {
        let minute = 60_000_000;
        // original 10:00:00, sent 10:05:00, received 10:07:30 -> 10:02:30
        let [original, sent, received] = [0, 5 * minute, 7 * minute + minute / 2].map(|us| Some(When(us)));
        let corrected = Some(2 * minute + minute / 2);
        assert_eq!(segment_time(None, original, sent, received), corrected);
        assert_eq!(segment_time(original, None, sent, received), corrected);
        assert_eq!(segment_time(sent, original, None, None), Some(5 * minute));
        assert_eq!(segment_time(None, None, sent, received), None);
    }

    /// `9999-12-31` for "no end": joestelmach/natty issue 271, apache/datafusion issue 1360, apache/arrow issue 41266.
    #[test]
    fn the_last_day_of_the_last_year_is_a_time_and_what_comes_after_it_is_none() {
        let last_day_us = 253_402_214_400_000_000;
        for (text, expected) in [
            ("9999-12-31T00:00:00Z", Some(last_day_us)),
            ("9999-12-31T23:59:59.999999Z", Some(LAST_US)),
            ("9999-12-31T23:59:59.999Z", Some(LAST_US - 999)),
            ("9999-12-31T01:00:00+01:00", Some(last_day_us)),
            ("9999-12-31t00:00:00z", Some(last_day_us)),
            ("9999-12-31T23:59:59-01:00", None),
            ("9999-12-31", None),
            ("9999-12-31T00:00:00", None),
            ("9999-12-32T00:00:00Z", None),
            ("0001-01-01T00:00:00Z", Some(FIRST_US)),
            ("0000-12-31T23:59:59Z", None),
            ("-0001-12-31T00:00:00Z", None),
            ("+033658-09-27T01:46:40Z", None),
        ] {
            assert_eq!(When::of_text(text).ok().map(|time| time.0), expected, "{text}");
        }
        assert_eq!(When::of_ms(LAST_US / 1000).map(|time| time.0), Some(LAST_US - 999));
        for ms in [LAST_US / 1000 + 1, 1_000_000_000_000_000, FIRST_US / 1000 - 1, i64::MAX, i64::MIN] {
            assert_eq!(When::of_ms(ms), None, "{ms}");
        }
    }

    fn by_jiff(text: &str) -> Option<i64> {
        text.parse::<jiff::Timestamp>().ok().map(|time| time.as_microsecond())
    }

    proptest! {
        #[test]
        fn a_text_of_the_common_form_is_the_time_that_jiff_reads(
            seconds in -62_167_219_200_i64..253_402_200_000,
            fraction in "|\\.[0-9]{1,6}",
        ) {
            let text = jiff::Timestamp::from_second(seconds).unwrap().to_string().replace('Z', &fraction) + "Z";
            prop_assert!(by_jiff(&text).is_some());
            prop_assert_eq!(common_utc_us(&text), by_jiff(&text), "{}", text);
        }

        #[test]
        fn a_text_of_about_that_form_is_no_time_that_jiff_does_not_read(
            text in "[0-9+-]{4}-[0-3][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-6][0-9]:[0-6][0-9]([.,][0-9]{0,8})?(Z|z|\\+01:00|)",
        ) {
            prop_assert!(common_utc_us(&text).is_none() || common_utc_us(&text) == by_jiff(&text), "{}", text);
        }

        #[test]
        fn text_and_milliseconds_of_one_time_are_one_time(ms in FIRST_US / 1000..253_402_200_000_000) {
            let text = jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
            prop_assert_eq!(When::of_text(&text).ok(), When::of_ms(ms), "{}", text);
        }
    }
}
