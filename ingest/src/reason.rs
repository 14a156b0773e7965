//! Reasons for rejecting a record.

use std::fmt;

/// A reason for a reject, with the facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The code of the reason.
    pub code: Code,
    /// The facts, for people.
    pub detail: String,
}

impl Reason {
    /// A reason with its facts.
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
        /// Stable reason codes: a name is never changed and never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }
        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code as it appears in headers and metrics.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

codes! {
    /// The value is null, on a topic where a null value has no meaning.
    NullValue = "null_value",
    /// The value is larger than `ingest.max_event_bytes`, or than one record of the broker can take.
    Oversized = "oversized",
    /// The value ends within the frame that names its schema.
    BadFrame = "bad_frame",
    /// The schema registry does not know the schema of the record, or the schema cannot be read.
    UnknownSchema = "unknown_schema",
    /// The value does not fit its Avro schema.
    NotAvro = "not_avro",
    /// The value does not fit its Protobuf schema.
    NotProtobuf = "not_protobuf",
    /// The value is not UTF-8.
    NotUtf8 = "not_utf8",
    /// The value is not JSON.
    NotJson = "not_json",
    /// The value is JSON, but not an object.
    NotAnObject = "not_an_object",
    /// A field or a fact occurs twice.
    DuplicateKey = "duplicate_key",
    /// A required field is missing.
    MissingField = "missing_field",
    /// The event has no account: neither `account_id` nor a group. It can be replayed once the account is known.
    NoAccount = "no_account",
    /// A field has the wrong type.
    WrongType = "wrong_type",
    /// A field contains an unknown word.
    UnknownValue = "unknown_value",
    /// A number or a text is outside the allowed range.
    OutOfRange = "out_of_range",
    /// The mapping of the source has no rule for the record.
    NoRule = "no_rule",
    /// A time is neither RFC 3339 nor epoch milliseconds.
    BadTime = "bad_time",
    /// The record cannot be read: bad compression, wrong checksum, or larger than the client accepts.
    Unreadable = "unreadable",
    /// The event time is later than its receive time, the append or the clock, by more than `time.max_future`.
    Future = "future",
    /// The event time is before `time.earliest`.
    TooOld = "too_old",
}
