//! Times as other systems write them.

use keepwell_core::pane::DAY_US;

/// How a time is written, if it is neither RFC 3339 nor epoch milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Epoch seconds, milliseconds or microseconds, whichever gives a time between 1973 and 5138.
    Epoch,
    /// Epoch seconds, as a number or a text; a fraction is allowed.
    Seconds,
    /// Epoch milliseconds, as a number or a text.
    Milliseconds,
    /// Epoch microseconds, as a number or a text.
    Microseconds,
    /// `2026-03-01`, or days or milliseconds since 1970: midnight, UTC.
    Date,
    /// `2026-03-01 10:00:00` or `2026-03-01T10:00:00`, without a zone: UTC. `+0100` is a zone, too.
    DateTime,
}

impl Format {
    /// The word in a mapping.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Microseconds => "microseconds",
            Self::Date => "date",
            Self::DateTime => "date_time",
        }
    }

    /// The time as RFC 3339. None if the text is no such time.
    pub fn rfc3339(self, text: &str) -> Option<String> {
        let text = text.trim();
        let of_us =
            |us: i128| jiff::Timestamp::from_microsecond(i64::try_from(us).ok()?).ok().map(|time| time.to_string());
        match self {
            Self::Epoch => match decimal(text, 6)? / 1_000_000 {
                ..100_000_000_000 => Self::Seconds.rfc3339(text),
                100_000_000_000..100_000_000_000_000 => Self::Milliseconds.rfc3339(text),
                _ => Self::Microseconds.rfc3339(text),
            },
            Self::Seconds => of_us(decimal(text, 6)?),
            Self::Milliseconds => of_us(decimal(text, 3)?),
            Self::Microseconds => of_us(decimal(text, 0)?),
            // Numbers up to six digits are days, longer ones milliseconds.
            Self::Date if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
                match text.parse().ok()? {
                    days @ 0..1_000_000_i128 => of_us(days * i128::from(DAY_US)),
                    ms => of_us(ms.checked_mul(1000)?),
                }
            }
            // A longer text has a time or a zone, which would be lost.
            Self::Date if text.len() != "2026-03-01".len() => None,
            Self::Date => {
                let date: jiff::civil::Date = text.parse().ok()?;
                Some(format!("{date}T00:00:00Z"))
            }
            // A zone that is there all the same counts.
            Self::DateTime if text.parse::<jiff::Timestamp>().is_ok() => Some(text.to_owned()),
            Self::DateTime if text.contains('[') => None,
            Self::DateTime => {
                let time: jiff::civil::DateTime = text.replacen(' ', "T", 1).parse().ok()?;
                Some(format!("{time}Z"))
            }
        }
    }
}

/// A decimal number with its point moved right by `places`; further digits are dropped.
fn decimal(text: &str, places: usize) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || digits.len() > 18 || !are_digits(digits) || !are_digits(fraction) {
        return None;
    }
    let fraction: String = fraction.chars().chain(std::iter::repeat('0')).take(places).collect();
    let value: i128 = format!("{digits}{fraction}").parse().ok()?;
    Some(if whole.starts_with('-') { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_other_systems_are_read_as_they_mean_them() {
        // format, text, time
        let cases = [
            (Format::Seconds, "1772359200", Some("2026-03-01T10:00:00Z")),
            (Format::Epoch, "1772359200", Some("2026-03-01T10:00:00Z")),
            (Format::Epoch, "1772359200123", Some("2026-03-01T10:00:00.123Z")),
            (Format::Epoch, "1772359200123456", Some("2026-03-01T10:00:00.123456Z")),
            (Format::Seconds, "1772359200.25", Some("2026-03-01T10:00:00.25Z")),
            (Format::Seconds, "-1.5", Some("1969-12-31T23:59:58.5Z")),
            (Format::Milliseconds, "1772359200123", Some("2026-03-01T10:00:00.123Z")),
            (Format::Microseconds, "1772359200123456", Some("2026-03-01T10:00:00.123456Z")),
            (Format::Date, "2026-03-01", Some("2026-03-01T00:00:00Z")),
            (Format::DateTime, "2026-03-01 10:00:00", Some("2026-03-01T10:00:00Z")),
            (Format::DateTime, "2026-03-01T10:00:00.5", Some("2026-03-01T10:00:00.5Z")),
            (Format::DateTime, "2026-03-01T10:00:00+01:00", Some("2026-03-01T10:00:00+01:00")),
            (Format::DateTime, "2026-03-01T10:00:00Z", Some("2026-03-01T10:00:00Z")),
            (Format::DateTime, "2026-03-01T10:00:00.250+0100", Some("2026-03-01T10:00:00.250+0100")),
            (Format::DateTime, "2026-03-01T10:00:00[Europe/Berlin]", None),
            (Format::Date, "2026-03-01T23:00:00-05:00", None),
            (Format::Seconds, "1772359200000000", None),
            (Format::Seconds, "yesterday", None),
            (Format::Seconds, "", None),
            (Format::Date, "01/03/2026", None),
            (Format::Date, "20513", Some("2026-03-01T00:00:00Z")),
            (Format::Date, "1772323200000", Some("2026-03-01T00:00:00Z")),
            (Format::Date, "99999999999999999999999999999999999999999", None),
            (Format::Date, "", None),
            (Format::DateTime, "2026-02-30 10:00:00", None),
        ];
        for (format, text, time) in cases {
            assert_eq!(format.rfc3339(text).as_deref(), time, "{format:?} {text}");
        }
    }
}
