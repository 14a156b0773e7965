//! A membership of a consumer group, and when a lost one is joined again.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::ownership::Ownership;
use super::settings::{Settings, not_made};
use crate::log::LogError;

/// A member fenced this often within this time shares its name with another process: each fences the other at once. A
/// broker that restarts fences its members only once or twice.
const MOST_FENCED: (usize, Duration) = (5, Duration::from_secs(30));

/// Which group a log joins, and under which name.
#[derive(Debug, Clone, Copy)]
pub struct Member<'m> {
    /// The consumer group.
    pub group: &'m str,
    /// Name of the process in the group. It must be the same after a restart.
    pub instance: &'m str,
    /// Topics to read.
    pub topics: &'m [&'m str],
}

/// The group, the instance name and the topics of a member.
#[derive(Debug)]
pub(super) struct Membership {
    group: String,
    instance: String,
    topics: Vec<String>,
    /// When it was fenced recently.
    fenced: Vec<Instant>,
    /// Why the client is unusable, until a new one is made.
    broken: Option<RDKafkaErrorCode>,
    /// Since when the client has known no coordinator of its group.
    lost_since: Option<Instant>,
}

impl std::fmt::Display for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "reading {} as group {}", self.topics.join(", "), self.group)
    }
}

impl Membership {
    pub fn new(group: &str, instance: &str, topics: &[&str]) -> Self {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Self {
            group: group.to_owned(),
            instance: instance.to_owned(),
            topics,
            fenced: Vec::new(),
            broken: None,
            lost_since: None,
        }
    }

    /// A new client that joins the group.
    pub fn join(&self, settings: &Settings) -> Result<BaseConsumer<Ownership>, LogError> {
        let configuration = |error: KafkaError| not_made(&error);
        let config = settings.consumer(&self.group, &self.instance)?;
        let consumer: BaseConsumer<Ownership> =
            config.create_with_context(Ownership::default()).map_err(configuration)?;
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(configuration)?;
        Ok(consumer)
    }

    /// A client that joins without an instance name. This makes every member join again.
    pub fn visit<C: ConsumerContext + Default + 'static>(
        &self,
        settings: &Settings,
    ) -> Result<BaseConsumer<C>, LogError> {
        let configuration = |error: KafkaError| not_made(&error);
        let mut config = settings.consumer(&self.group, "visitor")?;
        let consumer: BaseConsumer<C> =
            config.remove("group.instance.id").create_with_context(C::default()).map_err(configuration)?;
        consumer.subscribe(&self.topics.iter().map(String::as_str).collect::<Vec<_>>()).map_err(configuration)?;
        Ok(consumer)
    }

    /// Name of the group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Topics that the member reads.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Marks the client as unusable, for this reason.
    pub fn break_by(&mut self, code: RDKafkaErrorCode) {
        self.broken = Some(code);
    }

    /// Whether the client is unusable.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether the client has known no coordinator for longer than `limit`. By then the group has given its partitions
    /// away. Such a client never finds the coordinator again. If only the broker is away, a new client costs nothing.
    pub fn is_lost(&mut self, is_in_group: bool, limit: Duration, now: Instant) -> bool {
        self.lost_since = if is_in_group { None } else { self.lost_since.or(Some(now)) };
        let is_lost = self.lost_since.is_some_and(|since| now.duration_since(since) > limit);
        if is_lost {
            // The next client has the same time to find it.
            self.lost_since = None;
        }
        is_lost
    }

    /// Whether a new client must be made.
    ///
    /// A broker that was killed forgets the latest owner of an instance name. It fences that owner, and the owner joins
    /// again. Two processes under one name would fence each other forever.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when joining again does not help.
    pub fn must_join_again(&mut self, now: Instant) -> Result<bool, LogError> {
        let Some(code) = self.broken.take() else { return Ok(false) };
        let (most, within) = MOST_FENCED;
        self.fenced.retain(|before| now.duration_since(*before) < within);
        self.fenced.push(now);
        if code != RDKafkaErrorCode::FencedInstanceId || self.fenced.len() >= most {
            return Err(LogError::Fatal {
                doing: format!("reading as instance {}", self.instance),
                why: format!(
                    "{code}; if another process runs under this instance name, give each its own with --instance"
                ),
            });
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_fenced_joins_again_unless_it_is_fenced_again_and_again() {
        let mut membership = Membership::new("keepwell-score", "0", &["keepwell.windows"]);
        let start = Instant::now();
        assert!(!membership.must_join_again(start).unwrap());
        let again = Some(true);
        for (at_s, is_again) in [(0, again), (5, again), (6, again), (20, again), (21, None), (60, again), (61, again)]
        {
            membership.break_by(RDKafkaErrorCode::FencedInstanceId);
            assert_eq!(membership.must_join_again(start + Duration::from_secs(at_s)).ok(), is_again, "{at_s} s");
        }
        membership.break_by(RDKafkaErrorCode::ClusterAuthorizationFailed);
        assert!(membership.must_join_again(start + Duration::from_secs(900)).is_err());
    }

    #[test]
    fn who_knows_no_coordinator_for_longer_than_the_group_waits_joins_again_and_is_given_as_long_again() {
        let mut membership = Membership::new("keepwell-score", "0", &["keepwell.windows"]);
        let start = Instant::now();
        let looks = [
            (0, true),
            (1, false),
            (9, false),
            (10, true),
            (12, false),
            (20, false),
            (21, false),
            (22, false),
            (31, false),
        ];
        let lost = looks.map(|(at_s, is_in_group)| {
            membership.is_lost(is_in_group, Duration::from_secs(8), start + Duration::from_secs(at_s))
        });
        assert_eq!(lost, [false, false, false, false, false, false, true, false, true]);
    }
}
