//! Rejects: records set aside with their bytes, the reason and where they came from.

use std::fmt::Display;
use std::sync::Arc;

use crate::log::{Headers, Message};

/// Stable reason code; the one to filter by.
pub const REASON_HEADER: &str = "keepwell.reason";

/// Headers added to a rejected record besides [`REASON_HEADER`], under Kafka Connect's names.
pub const CONTEXT_HEADERS: [&str; 6] = [
    "__connect.errors.topic",
    "__connect.errors.partition",
    "__connect.errors.offset",
    "__connect.errors.connector.name",
    "__connect.errors.stage",
    "__connect.errors.exception.message",
];

/// Where a rejected record came from and why it was set aside.
pub struct Cause<'c> {
    /// Stage that set it aside.
    pub stage: &'c str,
    /// Stable reason code.
    pub reason: &'c str,
    /// The same for people, with the facts.
    pub message: &'c dyn Display,
    /// Raw topic.
    pub topic: &'c str,
    /// Raw partition.
    pub partition: i32,
    /// Raw offset.
    pub offset: i64,
}

/// The record for the reject topic: key, value and headers untouched, context headers added under Kafka
/// Connect's names, which tools know. Of a record rejected again the last header of each name is the newest.
pub fn reject(
    topic: &Arc<str>,
    partition: i32,
    cause: &Cause<'_>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    mut headers: Headers,
) -> Message {
    let context = [
        cause.topic.to_owned(),
        cause.partition.to_string(),
        cause.offset.to_string(),
        "keepwell".to_owned(),
        cause.stage.to_owned(),
        cause.message.to_string(),
    ];
    let context = CONTEXT_HEADERS.into_iter().zip(context).chain([(REASON_HEADER, cause.reason.to_owned())]);
    headers.extend(context.map(|(name, text)| (name.to_owned(), Some(text.into_bytes()))));
    Message { topic: Arc::clone(topic), partition, timestamp_ms: None, key, value, headers }
}
