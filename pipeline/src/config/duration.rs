//! Durations as people write them: `100ms`, `1h 30m`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration in a configuration file. A day is 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

impl Span {
    /// A duration of this many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A duration of this many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// The duration as a [`Duration`].
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// The duration in microseconds.
    pub const fn as_micros(self) -> i64 {
        let us = self.0.as_micros();
        if us > i64::MAX as u128 { i64::MAX } else { us as i64 }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if self.0.subsec_nanos() > 0 || seconds == 0 {
            return write!(f, "{}ms", self.0.as_millis());
        }
        // Use days, not weeks or months: windows are named 7d, 28d, 90d.
        for (unit, length) in [("d", 86_400), ("h", 3600), ("m", 60)] {
            if seconds.is_multiple_of(length) {
                return write!(f, "{}{unit}", seconds / length);
            }
        }
        write!(f, "{seconds}s")
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why| format!("{text:?} is no duration such as 100ms, 90s, 1h 30m or 7d: {why}");
        humantime::parse_duration(text).map(Self).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["100ms", "0ms", "90s", "90m", "36h", "7d", "1d"] {
            let span: Span = serde_json::from_str(&format!("{text:?}")).unwrap();
            assert_eq!(span.to_string(), text);
        }
    }
}
