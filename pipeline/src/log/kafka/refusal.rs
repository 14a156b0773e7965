//! What the broker refuses for good: credentials and rights. Waiting does not mend them.

use std::sync::{Mutex, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::log::LogError;

/// Whether the broker does not know the client, or does not let it.
pub(super) fn is_refusal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        Authentication, ClusterAuthorizationFailed, GroupAuthorizationFailed, SaslAuthenticationFailed,
        TopicAuthorizationFailed, TransactionalIdAuthorizationFailed,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(
            Authentication
                | SaslAuthenticationFailed
                | ClusterAuthorizationFailed
                | GroupAuthorizationFailed
                | TopicAuthorizationFailed
                | TransactionalIdAuthorizationFailed
        )
    )
}

/// Why nothing can be done, and what can be.
pub(super) fn refused(doing: &str, why: impl std::fmt::Display) -> LogError {
    LogError::Refused { doing: doing.to_owned(), why: why.to_string() }
}

/// Remembers what a client was told beside the answers to its calls.
#[derive(Debug, Default)]
pub(super) struct Refusal(Mutex<Option<String>>);

impl Refusal {
    /// Takes note of an error where it is a refusal.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        if is_refusal(error) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| format!("{error}: {reason}"));
        }
    }

    /// Fails where the client was refused.
    pub fn check(&self, doing: &str) -> Result<(), LogError> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(refused(doing, why)),
            None => Ok(()),
        }
    }
}

/// What a client that is fenced refuses, it does by the name of a fatal error.
pub(super) fn failed(doing: &str, error: &KafkaError) -> LogError {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::FencedInstanceId) => LogError::Fenced(doing.to_owned()),
        _ => LogError::Fatal { doing: doing.to_owned(), why: error.to_string() },
    }
}

/// Whether waiting does not help.
pub(super) fn is_final(error: &KafkaError) -> bool {
    is_refusal(error) || error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition)
}
