//! Why a request is not taken, and what its sender should do.

use std::time::Duration;

/// Why a request is not taken. Nothing of it counts as taken; a part of it may still be in the topic after [`Refusal::Unavailable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No door has this path.
    NoDoor,
    /// The door takes another method.
    Method,
    /// Key, password or signature are missing or wrong. The text names which.
    NotAllowed(String),
    /// The body is not what this door takes. The text names what is wrong.
    Malformed(String),
    /// The body, or an event in it, is too large. The text names size and limit.
    TooLarge(String),
    /// The body did not arrive in time.
    Slow,
    /// The door or the broker cannot take more now. The sender should repeat the request.
    Unavailable(String),
}

impl Refusal {
    /// The HTTP status code.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoDoor => 404,
            Self::Method => 405,
            Self::NotAllowed(_) => 401,
            Self::Malformed(_) => 400,
            Self::TooLarge(_) => 413,
            Self::Slow => 408,
            Self::Unavailable(_) => 503,
        }
    }

    /// A word for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoDoor => "no_door",
            Self::Method => "method",
            Self::NotAllowed(_) => "not_allowed",
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too_large",
            Self::Slow => "slow",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// How long the sender should wait before it repeats the request.
    pub fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Unavailable(_)).then_some(Duration::from_secs(1))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoDoor => f.write_str("no door has this path; `collect` in the configuration names them"),
            Self::Method => f.write_str("this door takes POST"),
            Self::Slow => f.write_str("the body did not arrive in time"),
            Self::NotAllowed(why) | Self::Malformed(why) | Self::TooLarge(why) | Self::Unavailable(why) => {
                f.write_str(why)
            }
        }
    }
}
