//! Why a record is rejected.

use std::fmt;

/// A reason to reject, with the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Which.
    pub code: Code,
    /// The facts, for people.
    pub detail: String,
}

impl Reason {
    /// A reason and its facts.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Stable reason codes: names are never reused and never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }
        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code in headers and metrics.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// No value, on a topic where that means nothing.
    NullValue = "null_value",
    /// Larger than `ingest.max_event_bytes`.
    Oversized = "oversized",
    /// Not UTF-8.
    NotUtf8 = "not_utf8",
    /// Not JSON.
    NotJson = "not_json",
    /// JSON, but no object.
    NotAnObject = "not_an_object",
    /// A field stands twice.
    DuplicateKey = "duplicate_key",
    /// A field that is needed is missing.
    MissingField = "missing_field",
    /// No account: neither `account_id` nor a group. Can be replayed once the producer tells it.
    NoAccount = "no_account",
    /// A field is of another type.
    WrongType = "wrong_type",
    /// A field names something unknown.
    UnknownValue = "unknown_value",
    /// A number or text is outside of what is allowed.
    OutOfRange = "out_of_range",
    /// A time is not RFC 3339 and not epoch milliseconds.
    BadTime = "bad_time",
    /// Nothing of it can be read: bad compression or checksum, or larger than the client takes.
    Unreadable = "unreadable",
    /// The event claims to be later than it was received, or than now, by more than `time.max_future`.
    Future = "future",
    /// The event claims to be before `time.earliest`.
    TooOld = "too_old",
}
