//! Keepwell's topics: compares their settings with what is required, and applies the differences.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::Config;
use crate::log::LogError;
use crate::log::kafka::refusal::unanswered;
use crate::log::kafka::settings::{Settings, not_made};

/// Time limit for one request to the broker.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often to check whether the broker reports a change.
const SHOWN_POLL: Duration = Duration::from_millis(50);

const WEEK_MS: i64 = 7 * 86_400_000;
/// With this many replicas or more, a write counts only after two replicas have it.
const REPLICAS_FOR_TWO: usize = 3;

/// A topic with its required settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Topic name.
    pub name: String,
    /// Partition count. None for raw topics, which may have any.
    pub partitions: Option<i32>,
    /// Settings with a required value.
    pub settings: BTreeMap<&'static str, String>,
    /// Settings with a minimum. The value -1 means no limit and is always enough.
    pub at_least: BTreeMap<&'static str, i64>,
    /// Settings with a maximum.
    pub at_most: BTreeMap<&'static str, i64>,
}

impl Topic {
    /// Adds what a number of replicas requires: with enough replicas, two must have a record before it counts as
    /// written.
    fn of_replicas(&self, replicas: usize) -> Self {
        let mut topic = self.clone();
        if replicas >= REPLICAS_FOR_TWO && !topic.settings.is_empty() {
            topic.at_least.insert("min.insync.replicas", 2);
        }
        topic
    }
}

/// A difference between a topic and its requirements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The topic does not exist.
    Missing(Topic),
    /// The number of partitions differs.
    Partitions {
        /// Topic name.
        topic: String,
        /// Number of partitions now.
        found: i32,
        /// Number of partitions that the epoch requires.
        expected: i32,
    },
    /// A setting differs.
    Setting {
        /// Topic name.
        topic: String,
        /// Name of the setting.
        name: &'static str,
        /// Value now.
        found: String,
        /// Required value, or its limit.
        expected: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(topic) => match topic.partitions {
                Some(partitions) => {
                    write!(f, "create {} with {partitions} partitions, {:?}", topic.name, topic.settings)
                }
                None => write!(f, "create {} (a raw topic: make it with its producer's settings)", topic.name),
            },
            Self::Partitions { topic, found, expected } => {
                write!(
                    f,
                    "{topic} has {found} partitions, the epoch is pinned to {expected}: start a new epoch, or set `partitions`"
                )
            }
            Self::Setting { topic, name, found, expected } => {
                write!(f, "set {name} of {topic} to {expected} (it is {found})")
            }
        }
    }
}

/// The topics that a configuration needs.
pub fn wanted(config: &Config) -> Vec<Topic> {
    // A replay may start at the oldest kept snapshot, and one more day covers an outage.
    let snapshots = config.snapshots.interval.as_duration() * config.snapshots.keep as u32;
    let min_retention_ms = (snapshots + Duration::from_secs(86_400)).as_millis() as i64;
    let own = |name: &str| {
        // The last score of each account is kept forever.
        let is_compacted = name == config.topics.scores;
        let policy = if is_compacted { "compact" } else { "delete" };
        Topic {
            name: name.to_owned(),
            partitions: Some(config.partitions),
            settings: BTreeMap::from([
                ("cleanup.policy", policy.to_owned()),
                ("max.message.bytes", (config.kafka.max_record_bytes + 100_000).to_string()),
                // The retention depends on time only, not on size.
                ("retention.bytes", "-1".to_owned()),
                // A replica without all committed records must not become the leader: exactly-once depends on them.
                ("unclean.leader.election.enable", "false".to_owned()),
            ]),
            at_least: match is_compacted {
                // A reader that is away for less time reads every tombstone.
                true => BTreeMap::from([("delete.retention.ms", WEEK_MS)]),
                false => BTreeMap::from([("retention.ms", min_retention_ms)]),
            },
            // Deleted data leaves the log soon, even if nothing else is written.
            at_most: match is_compacted {
                true => BTreeMap::from([("max.compaction.lag.ms", WEEK_MS)]),
                false => BTreeMap::new(),
            },
        }
    };
    let raw = |name: &str| Topic {
        name: name.to_owned(),
        partitions: None,
        settings: BTreeMap::new(),
        at_least: BTreeMap::new(),
        at_most: BTreeMap::new(),
    };
    config.topics.all().into_iter().map(own).chain(config.sources.iter().map(|source| raw(&source.topic))).collect()
}

/// Access to the topics of a cluster.
pub struct Topics {
    admin: AdminClient<DefaultClientContext>,
    handle: BaseConsumer,
    runtime: tokio::runtime::Runtime,
    replication: i32,
    servers: String,
}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

fn failed(doing: &str, why: impl fmt::Display) -> LogError {
    LogError::Fatal { doing: doing.to_owned(), why: why.to_string() }
}

impl Topics {
    /// A client of the configured cluster. New topics get this replication factor.
    ///
    /// # Errors
    /// [`LogError`] when the client rejects its configuration.
    pub fn connect(config: &Config, replication: i32) -> Result<Self, LogError> {
        let client = Settings::new(&config.kafka)?.client();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            admin: client.create().map_err(|e| not_made(&e))?,
            handle: client.create().map_err(|e| not_made(&e))?,
            runtime: runtime.map_err(|e| failed("starting a runtime", e))?,
            replication,
            servers: config.kafka.bootstrap_servers.clone(),
        })
    }

    /// The differences from `wanted`.
    ///
    /// # Errors
    /// [`LogError`] when the cluster does not answer.
    pub fn check(&self, wanted: &[Topic]) -> Result<Vec<Finding>, LogError> {
        let metadata = self
            .handle
            .fetch_metadata(None, PATIENCE)
            .map_err(|e| unanswered("asking for topics", &self.servers, &e))?;
        let counts: BTreeMap<&str, i32> =
            metadata.topics().iter().map(|topic| (topic.name(), topic.partitions().len() as i32)).collect();
        let replicas: BTreeMap<&str, usize> = metadata
            .topics()
            .iter()
            .map(|topic| (topic.name(), topic.partitions().iter().map(|p| p.replicas().len()).min().unwrap_or(0)))
            .collect();
        let mut findings = Vec::new();
        for topic in wanted {
            let Some(found) = counts.get(topic.name.as_str()).copied() else {
                findings.push(Finding::Missing(topic.clone()));
                continue;
            };
            if let Some(expected) = topic.partitions.filter(|expected| *expected != found) {
                findings.push(Finding::Partitions { topic: topic.name.clone(), found, expected });
            }
            let replicas = replicas.get(topic.name.as_str()).copied().unwrap_or(0);
            findings.extend(self.check_settings(&topic.of_replicas(replicas))?);
        }
        Ok(findings)
    }

    fn check_settings(&self, topic: &Topic) -> Result<Vec<Finding>, LogError> {
        if topic.settings.is_empty() {
            return Ok(Vec::new());
        }
        let resource = self.describe(&topic.name)?;
        let values: BTreeMap<&str, &str> = resource
            .entries
            .iter()
            .map(|entry| (entry.name.as_str(), entry.value.as_deref().unwrap_or_default()))
            .collect();
        let found = |name: &str| values.get(name).copied().unwrap_or_default();
        let finding = |name, expected: &String| Finding::Setting {
            topic: topic.name.clone(),
            name,
            found: found(name).to_owned(),
            expected: expected.clone(),
        };
        let mut findings: Vec<Finding> = topic
            .settings
            .iter()
            .filter(|(name, expected)| found(name) != expected.as_str())
            .map(|(name, expected)| finding(name, expected))
            .collect();
        let number = |name: &str| found(name).parse::<i64>().unwrap_or(-1);
        let is_less = |(name, least): &(&&'static str, &i64)| number(name) >= 0 && number(name) < **least;
        let is_more = |(name, most): &(&&'static str, &i64)| number(name) < 0 || number(name) > **most;
        let bounded = topic.at_least.iter().filter(is_less).chain(topic.at_most.iter().filter(is_more));
        findings.extend(bounded.map(|(name, bound)| finding(*name, &bound.to_string())));
        Ok(findings)
    }

    fn describe(&self, topic: &str) -> Result<ConfigResource, LogError> {
        let doing = format!("asking for the settings of {topic}");
        let options = admin_options();
        let resource = [ResourceSpecifier::Topic(topic)];
        let answer = self.runtime.block_on(self.admin.describe_configs(&resource, &options));
        let mut described = answer.map_err(|e| failed(&doing, e))?;
        described.pop().ok_or_else(|| failed(&doing, "no answer"))?.map_err(|e| failed(&doing, e))
    }

    /// The settings that were made for this topic itself.
    fn own_settings(&self, topic: &str) -> Result<Vec<(String, String)>, LogError> {
        let entries = self.describe(topic)?.entries.into_iter();
        let own = entries.filter(|entry| entry.source == ConfigSource::DynamicTopic);
        Ok(own.filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }

    /// Applies the differences, if that loses no data, and returns once the broker reports the new settings. It never
    /// changes partition counts.
    ///
    /// # Errors
    /// [`LogError`] when the cluster refuses, or does not report the change in time.
    pub fn apply(&self, wanted: &[Topic], findings: &[Finding]) -> Result<(), LogError> {
        let mut changes: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        let mut unfit = None;
        for finding in findings {
            match finding {
                Finding::Missing(topic) => self.create(topic)?,
                Finding::Setting { topic, name, expected, .. } => {
                    changes.entry(topic).or_default().insert(name, expected);
                }
                Finding::Partitions { .. } => unfit = Some(failed("applying topics", finding)),
            }
        }
        for (topic, settings) in &changes {
            self.alter(topic, settings)?;
        }
        // Everything else is applied by then.
        unfit.map_or_else(|| self.await_applied(wanted), Err)
    }

    fn create(&self, topic: &Topic) -> Result<(), LogError> {
        let doing = format!("creating {}", topic.name);
        let partitions = topic.partitions.unwrap_or(1);
        let mut new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(self.replication));
        let topic = topic.of_replicas(usize::try_from(self.replication).unwrap_or(0));
        for (name, value) in &topic.settings {
            new = new.set(name, value);
        }
        // The default retention is a week, or more if required.
        let roomy = |name: &str, least: i64| if name.ends_with(".ms") { least.max(WEEK_MS) } else { least };
        let bounds = topic.at_least.iter().map(|(name, least)| (*name, roomy(name, *least)));
        let bounds = bounds.chain(topic.at_most.iter().map(|(name, most)| (*name, *most)));
        let bounds: Vec<_> = bounds.map(|(name, bound)| (name, bound.to_string())).collect();
        for (name, bound) in &bounds {
            new = new.set(name, bound);
        }
        let created = self.runtime.block_on(self.admin.create_topics([&new], &admin_options()));
        let mut created = created.map_err(|e| failed(&doing, e))?.into_iter();
        created.try_for_each(|result| result.map(|_| ()).map_err(|(_, code)| failed(&doing, code)))
    }

    /// One call for each topic: the call replaces all of the topic's own settings, so the existing ones are sent, too.
    /// The broker may report a change late, so a second call could restore an old value.
    fn alter(&self, topic: &str, settings: &BTreeMap<&str, &str>) -> Result<(), LogError> {
        let names: Vec<&str> = settings.keys().copied().collect();
        let doing = format!("setting {} of {topic}", names.join(", "));
        let own = self.own_settings(topic)?;
        let kept = own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let kept = kept.filter(|(name, _)| !settings.contains_key(name));
        let all = kept.chain(settings.iter().map(|(name, value)| (*name, *value)));
        let change = all
            .fold(AlterConfig::new(ResourceSpecifier::Topic(topic)), |change, (name, value)| change.set(name, value));
        let altered = self.runtime.block_on(self.admin.alter_configs([&change], &admin_options()));
        let mut altered = altered.map_err(|e| failed(&doing, e))?.into_iter();
        altered.try_for_each(|result| result.map(|_| ()).map_err(|(_, code)| failed(&doing, code)))
    }

    /// A broker applies a change shortly after the controller accepted it. A program started next must find it applied.
    fn await_applied(&self, wanted: &[Topic]) -> Result<(), LogError> {
        let started = std::time::Instant::now();
        loop {
            let open = self.check(wanted)?;
            let Some(first) = open.first() else { return Ok(()) };
            if started.elapsed() > PATIENCE {
                let why = format!(
                    "the broker does not show it after {} s: {first}; ask again with `topics check`",
                    PATIENCE.as_secs()
                );
                return Err(failed("applying topics", why));
            }
            std::thread::sleep(SHOWN_POLL);
        }
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With one replica in sync, an acknowledged record can be lost with one broker.
    #[test]
    fn a_topic_with_three_replicas_must_have_two_in_sync() {
        let text = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: raw, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";
        let wanted = wanted(&Config::parse("test", text, &[]).unwrap());
        for (replicas, expected) in [(1, None), (2, None), (3, Some(2)), (5, Some(2))] {
            for topic in &wanted {
                let is_own = topic.name != "raw";
                let least = topic.of_replicas(replicas).at_least.get("min.insync.replicas").copied();
                assert_eq!(least, expected.filter(|_| is_own), "{} with {replicas}", topic.name);
            }
        }
    }
}
