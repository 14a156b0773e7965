//! Permanent refusals of the broker: credentials and rights. Waiting does not fix them.

use std::sync::{Mutex, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::log::LogError;

/// Whether the broker does not know the client, or denies it a right.
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

/// A refusal as an error with its remedy.
pub(super) fn refused(doing: &str, why: impl std::fmt::Display) -> LogError {
    LogError::Refused { doing: doing.to_owned(), why: why.to_string() }
}

/// Keeps a refusal that a client received outside the answers to its calls.
#[derive(Debug, Default)]
pub(super) struct Refusal(Mutex<Option<String>>);

impl Refusal {
    /// Notes an error if it is a refusal.
    pub fn note(&self, error: &KafkaError, reason: &str) {
        if is_refusal(error) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| format!("{error}: {reason}"));
        }
    }

    /// Fails if the client was refused.
    pub fn check(&self, doing: &str) -> Result<(), LogError> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => Err(refused(doing, why)),
            None => Ok(()),
        }
    }
}

/// Converts an error. A fenced client reports its errors as fatal, so these become [`LogError::Fenced`].
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

/// Converts the error of a call on a partition that the client has lost without a revocation, because another process
/// took over its instance name. Then the client is in the wrong state for the call.
pub(super) fn lost(doing: &str, error: &KafkaError) -> LogError {
    match error {
        // A failed seek has no code, only the code's words.
        KafkaError::Seek(why) if RDKafkaErrorCode::State.to_string().ends_with(&format!("({why})")) => {
            LogError::Fenced(doing.to_owned())
        }
        _ => failed(doing, error),
    }
}

/// Converts the error of a call that only a broker could answer. `servers` are the addresses that were asked.
pub(crate) fn unanswered(doing: &str, servers: &str, error: &KafkaError) -> LogError {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, Resolve};
    let (doing, why) = (doing.to_owned(), error.to_string());
    match error.rdkafka_error_code() {
        Some(AllBrokersDown | BrokerTransportFailure | Resolve) => {
            LogError::NoBroker { doing, servers: servers.to_owned(), why }
        }
        _ => LogError::Fatal { doing, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seek_in_the_wrong_state_is_a_lost_membership_and_no_other_failure_is() {
        let of = |words: &str| lost("starting", &KafkaError::Seek(words.to_owned()));
        assert!(matches!(of("Local: Erroneous state"), LogError::Fenced(_)));
        assert!(matches!(of("Local: Timed out"), LogError::Fatal { .. }));
        assert!(matches!(of(""), LogError::Fatal { .. }));
    }
}
