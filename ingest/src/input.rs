//! JSON texts as typed values: strict, borrowed where possible, objects only where an object is meant.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Longest identifier or name accepted, in bytes: names are kept in state.
pub const MAX_NAME_BYTES: usize = 512;

/// Marks an error message of this module; what follows is a reason code.
pub const MARK: &str = "keepwell:";

/// A JSON object. Serde's structs would also take an array, by position.
#[derive(Debug, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsMap<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AsMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(AsMap(PhantomData)).map(Self)
    }
}

/// A non-empty name of at most [`MAX_NAME_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsName;
        fn check<E: Error>(text: &str) -> Result<(), E> {
            if text.is_empty() || text.len() > MAX_NAME_BYTES {
                let len = text.len();
                return Err(E::custom(format_args!(
                    "{MARK}out_of_range a name of {len} bytes, allowed are 1 to {MAX_NAME_BYTES}"
                )));
            }
            Ok(())
        }
        impl<'de> Visitor<'de> for AsName {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                check(text).map(|()| Name(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                check(text).map(|()| Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(AsName)
    }
}

/// A point in time: RFC 3339 text or epoch milliseconds. Held as UTC microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct When(pub i64);

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsTime;
        impl Visitor<'_> for AsTime {
            type Value = When;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time, RFC 3339 or epoch milliseconds")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<When, E> {
                if let Some(time_us) = common_utc_us(text) {
                    return Ok(When(time_us));
                }
                let time: jiff::Timestamp =
                    text.parse().map_err(|e| E::custom(format_args!("{MARK}bad_time {text:?}: {e}")))?;
                Ok(When(time.as_microsecond()))
            }

            fn visit_i64<E: Error>(self, milliseconds: i64) -> Result<When, E> {
                let in_range = milliseconds.checked_mul(1000).filter(|us| us.unsigned_abs() < 1 << 60);
                in_range.map(When).ok_or_else(|| E::custom(format_args!("{MARK}bad_time {milliseconds} ms")))
            }

            fn visit_u64<E: Error>(self, milliseconds: u64) -> Result<When, E> {
                self.visit_i64(i64::try_from(milliseconds).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_any(AsTime)
    }
}

/// The time in a text such as `2026-11-24T08:15:30.25Z`, the form that nearly all events have, as `jiff` reads it: digits at
/// their places, at most six of the fraction. None where the text has another form, which says nothing of whether it is a time.
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

/// Facts as given, in order, each name once.
#[derive(Debug, Default)]
pub struct GivenFacts<'a>(pub Vec<(Name<'a>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for GivenFacts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsFacts;
        impl<'de> Visitor<'de> for AsFacts {
            type Value = GivenFacts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of facts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut facts: Vec<(Name<'de>, &'de RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if facts.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format_args!("{MARK}duplicate_key fact {:?}", name.0)));
                    }
                    facts.push((name, value));
                }
                Ok(GivenFacts(facts))
            }
        }
        deserializer.deserialize_map(AsFacts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_jiff(text: &str) -> Option<i64> {
        text.parse::<jiff::Timestamp>().ok().map(|time| time.as_microsecond())
    }

    proptest! {
        #[test]
        fn a_text_of_the_common_form_is_the_time_that_jiff_reads(
            seconds in -62_167_219_200_i64..253_402_300_799,
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
    }
}
