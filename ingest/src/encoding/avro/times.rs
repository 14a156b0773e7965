//! Times as JSON: RFC 3339, and as their number where they are no time in a year from 1 to 9999.

use std::io::Write;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Date32Type, Time32MillisecondType, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType,
};
use arrow::json::Encoder;
use arrow::json::writer::NullableEncoder;
use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::Offset;

/// What a number means.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// A point in time, in nanoseconds each unit.
    Instant(i64),
    /// A date and time of no zone, in nanoseconds each unit.
    Local(i64),
    /// Days since 1970.
    Date,
    /// A time of day, in nanoseconds each unit.
    TimeOfDay(i64),
}

struct OfTime<'a, T: ArrowPrimitiveType> {
    values: &'a PrimitiveArray<T>,
    meaning: Meaning,
}

impl<T: ArrowPrimitiveType<Native: Into<i64>>> Encoder for OfTime<'_, T> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let number: i64 = self.values.value(row).into();
        let written = match text(number, self.meaning) {
            Some(text) => write!(out, "\"{text}\""),
            None => write!(out, "{number}"),
        };
        debug_assert!(written.is_ok(), "memory takes all that is written");
    }
}

/// The text of a time, if it has one.
fn text(number: i64, meaning: Meaning) -> Option<String> {
    let instant = |unit_ns: i64| Timestamp::from_nanosecond(i128::from(number) * i128::from(unit_ns)).ok();
    let local = |at: Timestamp| -> Option<DateTime> { Some(Offset::UTC.to_datetime(at)).filter(|at| at.year() > 0) };
    match meaning {
        Meaning::Instant(unit_ns) => instant(unit_ns).filter(|at| local(*at).is_some()).map(|at| at.to_string()),
        Meaning::Local(unit_ns) => local(instant(unit_ns)?).map(|at| at.to_string()),
        Meaning::Date => {
            local(Timestamp::from_second(number.checked_mul(86_400)?).ok()?).map(|at| at.date().to_string())
        }
        Meaning::TimeOfDay(unit_ns) => {
            let ns = number.checked_mul(unit_ns).filter(|ns| (0..86_400_000_000_000).contains(ns))?;
            let (seconds, below) = (ns / 1_000_000_000, ns % 1_000_000_000);
            let part = |number: i64| i8::try_from(number).ok();
            let time = Time::new(
                part(seconds / 3600)?,
                part(seconds / 60 % 60)?,
                part(seconds % 60)?,
                i32::try_from(below).ok()?,
            );
            time.ok().map(|time| time.to_string())
        }
    }
}

/// The encoder of an array of times. None if it is no such array.
pub fn encoder(array: &dyn Array) -> Option<NullableEncoder<'_>> {
    let instant = |has_zone: bool, unit_ns| if has_zone { Meaning::Instant(unit_ns) } else { Meaning::Local(unit_ns) };
    Some(match array.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            of::<TimestampMillisecondType>(array, instant(zone.is_some(), 1_000_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            of::<TimestampMicrosecondType>(array, instant(zone.is_some(), 1000))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            of::<TimestampNanosecondType>(array, instant(zone.is_some(), 1))
        }
        DataType::Date32 => of::<Date32Type>(array, Meaning::Date),
        DataType::Time32(TimeUnit::Millisecond) => of::<Time32MillisecondType>(array, Meaning::TimeOfDay(1_000_000)),
        DataType::Time64(TimeUnit::Microsecond) => of::<Time64MicrosecondType>(array, Meaning::TimeOfDay(1000)),
        _ => return None,
    })
}

fn of<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array, meaning: Meaning) -> NullableEncoder<'_> {
    let values = array.as_primitive::<T>();
    NullableEncoder::new(Box::new(OfTime { values, meaning }), values.nulls().cloned())
}
