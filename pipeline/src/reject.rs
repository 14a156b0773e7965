//! Rejects: records set aside with their bytes, a reason and their origin.

use std::fmt::{Display, Write};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::record::{Headers, Message, headers_bytes};

/// Header with the stable reason code. Filter rejects by it.
pub const REASON_HEADER: &str = "keepwell.reason";

/// Header of a reject that does not contain the whole record. It describes what was left out, as JSON ([`Truncation`]).
pub const CUT_HEADER: &str = "keepwell.cut";

/// Headers added to a rejected record besides [`REASON_HEADER`]. The names are those of Kafka Connect.
pub const CONTEXT_HEADERS: [&str; 6] = [
    "__connect.errors.topic",
    "__connect.errors.partition",
    "__connect.errors.offset",
    "__connect.errors.connector.name",
    STAGE_HEADER,
    "__connect.errors.exception.message",
];

/// Header with the stage that rejected the record.
pub const STAGE_HEADER: &str = "__connect.errors.stage";

/// Longest error message in a reject, in bytes.
const MAX_MESSAGE_BYTES: usize = 1000;
/// Bytes of a value that are kept if the record does not fit.
const KEPT_VALUE_BYTES: usize = 4096;
/// Bytes of a key that are kept if the record does not fit.
const KEPT_KEY_BYTES: usize = 1024;
/// Maximum size of a reject without the original key, value and headers, and without its context headers, in bytes.
const OVERHEAD_BYTES: usize = 2048;

/// Where a rejected record came from, and why it was rejected.
pub struct Cause<'c> {
    /// Stage that rejected it.
    pub stage: &'c str,
    /// Stable reason code.
    pub reason: &'c str,
    /// The reason for people, with the facts.
    pub message: &'c dyn Display,
    /// Topic of the original record.
    pub topic: &'c str,
    /// Partition of the original record.
    pub partition: i32,
    /// Offset of the original record.
    pub offset: i64,
}

/// A rejected record as it was read.
#[derive(Debug, Clone, Default)]
pub struct Original {
    /// Its key, if there is one.
    pub key: Option<Vec<u8>>,
    /// Its value. None is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers, in order.
    pub headers: Headers,
}

/// How much of the record a reject contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Everything if the reject fits into this many bytes. Otherwise only the beginning.
    Within(usize),
    /// Nothing, because it may name a person who must not be named. The record is still at its origin.
    Nothing,
}

/// Describes what was left out of a reject. Sizes and SHA-256 of the whole identify the record at its origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// Size of the key in bytes. None if it had none.
    pub key_bytes: Option<usize>,
    /// SHA-256 of the key, as hexadecimal digits.
    pub key_sha256: Option<String>,
    /// Size of the value in bytes. None if it had none.
    pub value_bytes: Option<usize>,
    /// SHA-256 of the value, as hexadecimal digits.
    pub value_sha256: Option<String>,
    /// Number of headers. All of them are left out.
    pub headers: usize,
    /// Size of their names and values in bytes.
    pub headers_bytes: usize,
}

/// The record for the reject topic. Key, value and headers are unchanged. Context headers are added under Kafka
/// Connect's names, which many tools know. In a record that was rejected again, the last header of each name is the
/// newest. A shortened record has a [`CUT_HEADER`].
pub fn reject(topic: &Arc<str>, partition: i32, cause: &Cause<'_>, original: Original, kept: Kept) -> Message {
    let context = [
        cause.topic.to_owned(),
        cause.partition.to_string(),
        cause.offset.to_string(),
        "keepwell".to_owned(),
        cause.stage.to_owned(),
        short(cause.message),
    ];
    let context = CONTEXT_HEADERS.into_iter().zip(context).chain([(REASON_HEADER, cause.reason.to_owned())]);
    let context: Headers = context.map(|(name, text)| (name.to_owned(), Some(text.into_bytes()))).collect();
    let Original { key, value, mut headers } = original;
    let whole = key.as_ref().map_or(0, Vec::len) + value.as_ref().map_or(0, Bytes::len) + headers_bytes(&headers);
    let fits = |max_bytes: usize| whole + headers_bytes(&context) + OVERHEAD_BYTES <= max_bytes;
    let (max_value, max_key) = match kept {
        Kept::Within(max_bytes) if fits(max_bytes) => {
            headers.extend(context);
            let value = value.map(|value| value.to_vec());
            return Message { topic: Arc::clone(topic), partition, timestamp_ms: None, key, value, headers };
        }
        Kept::Within(_) => (KEPT_VALUE_BYTES, KEPT_KEY_BYTES),
        Kept::Nothing => (0, 0),
    };
    let cut = Truncation {
        key_bytes: key.as_ref().map(Vec::len),
        key_sha256: key.as_deref().map(sha256),
        value_bytes: value.as_ref().map(Bytes::len),
        value_sha256: value.as_deref().map(sha256),
        headers: headers.len(),
        headers_bytes: headers_bytes(&headers),
    };
    let cut = serde_json::to_vec(&cut).unwrap_or_default();
    let beginning = |bytes: &[u8], most: usize| bytes.get(..most.min(bytes.len())).unwrap_or_default().to_vec();
    Message {
        topic: Arc::clone(topic),
        partition,
        timestamp_ms: None,
        key: key.map(|key| beginning(&key, max_key)).filter(|key| !key.is_empty()),
        value: value.map(|value| beginning(&value, max_value)).filter(|value| !value.is_empty()),
        headers: context.into_iter().chain([(CUT_HEADER.to_owned(), Some(cut))]).collect(),
    }
}

/// A message, shortened if it is long.
fn short(message: &dyn Display) -> String {
    let mut text = message.to_string();
    if text.len() > MAX_MESSAGE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
        text.push('…');
    }
    text
}

fn sha256(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: usize = 100_000;

    fn rejected(original: Original, message: &str, kept: Kept) -> Message {
        let cause =
            Cause { stage: "ingest", reason: "not_json", message: &message, topic: "raw", partition: 1, offset: 7 };
        reject(&Arc::from("rejects"), 0, &cause, original, kept)
    }

    fn header<'m>(message: &'m Message, name: &str) -> Option<&'m [u8]> {
        message.headers.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref())
    }

    #[test]
    fn a_record_that_fits_is_whole_and_one_that_does_not_is_cut_and_says_so() {
        let headers = |bytes: usize| vec![("trace".to_owned(), Some(vec![b'h'; bytes]))];
        // bytes of key, value and header, and whether the reject is whole
        for (key, value, header_bytes, is_whole) in [
            (3, 10, 5, true),
            (3, MAX_BYTES - 3000, 5, true),
            (3, MAX_BYTES, 5, false),
            (MAX_BYTES, 3, 5, false),
            (3, 3, MAX_BYTES, false),
            (3, 1_040_000, 5, false),
            (3, 3, 0, true),
        ] {
            let original = Original {
                key: Some(vec![b'k'; key]),
                value: Some(vec![b'v'; value].into()),
                headers: headers(header_bytes),
            };
            let message = rejected(original, "why", Kept::Within(MAX_BYTES));
            let case = format!("{key} {value} {header_bytes}");
            assert!(message.num_bytes() + 100 <= MAX_BYTES, "{case}: {}", message.num_bytes());
            assert_eq!(header(&message, REASON_HEADER), Some(b"not_json".as_slice()), "{case}");
            assert_eq!(header(&message, "trace").is_some(), is_whole, "{case}");
            let cut = header(&message, CUT_HEADER).map(|json| serde_json::from_slice::<Truncation>(json).unwrap());
            assert_eq!(cut.is_none(), is_whole, "{case}");
            if let Some(cut) = cut {
                assert_eq!((cut.key_bytes, cut.value_bytes, cut.headers), (Some(key), Some(value), 1), "{case}");
                assert_eq!(cut.value_sha256.unwrap().len(), 64);
            }
        }
    }

    #[test]
    fn headers_without_bytes_have_a_size() {
        let headers = |count| (0..count).map(|_| (String::new(), None)).collect::<Headers>();
        for (count, is_whole) in [(1_000, true), (MAX_BYTES / 10, false)] {
            let original = Original { headers: headers(count), ..Original::default() };
            let message = rejected(original, "why", Kept::Within(MAX_BYTES));
            assert_eq!(header(&message, CUT_HEADER).is_none(), is_whole, "{count}");
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters_and_a_hidden_record_leaves_only_its_hash() {
        let message = rejected(Original::default(), &"\u{300}".repeat(130_000), Kept::Within(MAX_BYTES));
        let words = header(&message, CONTEXT_HEADERS[5]).unwrap();
        assert!(words.len() <= MAX_MESSAGE_BYTES + 3 && std::str::from_utf8(words).is_ok());
        let secret = Original { key: Some(b"eve".to_vec()), value: Some("abc".into()), headers: Headers::new() };
        let message = rejected(secret, "why", Kept::Nothing);
        assert_eq!((&message.key, &message.value), (&None, &None));
        let cut: Truncation = serde_json::from_slice(header(&message, CUT_HEADER).unwrap()).unwrap();
        // FIPS 180-2, appendix B.1.
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((cut.value_sha256.as_deref(), cut.value_bytes), (Some(of_abc), Some(3)));
    }
}
