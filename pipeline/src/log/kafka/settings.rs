//! librdkafka settings: the user's pass through, what the promises need is set last.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::config::Kafka;
use crate::log::{LogError, smaller};
use crate::shown;
use keepwell_core::offset::{NextOffset, TopicPartition};

/// Largest record that `load` and `rejects replay` hand to the broker.
const WRITER_MAX_BYTES: usize = 100_000_000;

/// A client that was not made: why, without the value of a setting that holds a secret.
pub(crate) fn not_made(error: &KafkaError) -> LogError {
    match error {
        KafkaError::ClientConfig(_, _, name, _) if shown::is_secret(name) => {
            LogError::Configuration(format!("{name}: the client does not take its value"))
        }
        error => LogError::Configuration(error.to_string()),
    }
}

/// Settings of this process's clients.
#[derive(Debug, Clone)]
pub struct Settings {
    base: ClientConfigDebug,
    transaction_timeout_ms: u64,
    session_timeout_ms: u64,
    max_record_bytes: usize,
    /// What is tried instead, once a request was above what the broker takes.
    taken_bytes: Option<usize>,
    transactional_id: String,
    instance: String,
    pass_by: PassBy,
}

/// What cannot be read may be passed by: it is set aside as a reject without bytes, or an operator says so.
#[derive(Debug, Clone, Default)]
pub struct PassBy {
    /// Whatever cannot be read.
    pub all: bool,
    /// These positions.
    pub positions: Vec<(TopicPartition, NextOffset)>,
}

/// A client configuration that does not print its secrets.
#[derive(Clone)]
struct ClientConfigDebug(ClientConfig);

impl std::fmt::Debug for ClientConfigDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig").finish_non_exhaustive()
    }
}

impl Settings {
    /// Settings from the configuration, secrets read.
    ///
    /// # Errors
    /// [`LogError::Configuration`] when a secret cannot be read.
    pub fn new(kafka: &Kafka) -> Result<Self, LogError> {
        let mut base = ClientConfig::new();
        // A broker that is back is found within a second; the client's own limit is ten.
        base.set("reconnect.backoff.max.ms", "1000");
        // What was asked over a connection that is dead without a word is asked again; the client's own limit is 60.
        base.set("socket.timeout.ms", "10000");
        // A broker that comes up tells of no brokers for a moment, and librdkafka 2.12 then forgets all it knew: only a
        // client that begins anew from bootstrap.servers finds one again. Its own limit is five minutes.
        base.set("metadata.recovery.strategy", "rebootstrap");
        base.set("metadata.recovery.rebootstrap.trigger.ms", "5000");
        if kafka.properties.contains_key("debug") {
            base.set_log_level(RDKafkaLogLevel::Debug);
        }
        for (name, value) in kafka.properties.iter() {
            base.set(name, value);
        }
        for (name, secret) in &kafka.secrets {
            let value =
                secret.reveal().map_err(|why| LogError::Configuration(format!("kafka.secrets.{name}: {why}")))?;
            base.set(name, value);
        }
        base.set("bootstrap.servers", &kafka.bootstrap_servers);
        base.set("client.id", &kafka.group_prefix);
        Ok(Self {
            base: ClientConfigDebug(base),
            transaction_timeout_ms: kafka.transaction_timeout.as_duration().as_millis() as u64,
            session_timeout_ms: kafka.session_timeout.as_duration().as_millis() as u64,
            max_record_bytes: kafka.max_record_bytes,
            taken_bytes: None,
            transactional_id: String::new(),
            instance: String::new(),
            pass_by: PassBy::default(),
        })
    }

    /// The same, passing by what cannot be read.
    #[must_use]
    pub fn passing_by(mut self, pass_by: PassBy) -> Self {
        self.pass_by = pass_by;
        self
    }

    /// Whether a position that cannot be read may be passed by.
    pub(super) fn may_pass(&self, tp: &TopicPartition, at: NextOffset) -> bool {
        self.pass_by.all || self.is_passed(tp, at)
    }

    /// Whether an operator has told to pass a position by, whatever stands there.
    pub(super) fn is_passed(&self, tp: &TopicPartition, at: NextOffset) -> bool {
        self.pass_by.positions.iter().any(|(known, offset)| known == tp && *offset == at)
    }

    /// Any client: the user's settings only.
    pub fn client(&self) -> ClientConfig {
        self.base.0.clone()
    }

    /// How long a member may be silent before the group gives its partitions away.
    pub(super) fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms)
    }

    /// The instance name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The id under which transactions are written.
    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// How long a transaction may take.
    pub fn transaction_timeout_ms(&self) -> u64 {
        self.transaction_timeout_ms
    }

    /// From now on half as much is written in one request.
    pub(super) fn take_less(&mut self) {
        self.taken_bytes = Some(smaller(self.taken_bytes, self.max_record_bytes));
    }

    /// Largest record to write, in bytes, where the broker has refused one: a tenth is left to its headers.
    pub(super) fn taken_bytes(&self) -> Option<usize> {
        self.taken_bytes.map(|bytes| bytes - bytes / 10)
    }

    pub(super) fn for_transactions(mut self, group: &str, instance: &str) -> Self {
        self.transactional_id = format!("{group}-{instance}");
        self.instance = instance.to_owned();
        self
    }

    pub(super) fn consumer(&self, group: &str, instance: &str) -> Result<ClientConfig, LogError> {
        if instance.is_empty() || instance.len() > 200 {
            return Err(LogError::Configuration("--instance must have 1 to 200 characters".into()));
        }
        let mut config = self.client();
        config
            .set("group.id", group)
            // A restart under the same name takes up the same partitions without a rebalance.
            .set("group.instance.id", format!("{group}-{instance}"))
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            // Members hear of a rebalance by their heartbeats, one after another in each of its rounds.
            .set("heartbeat.interval.ms", (self.session_timeout_ms / 10).clamp(50, 3000).to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A position outside the log is a named stop, never a reset.
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            // New partitions of a topic are given to a member soon after they were made.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // The statistics tell where the end of a partition was met, transaction markers included.
            .set("statistics.interval.ms", "200")
            // Damaged bytes are no record.
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "32768");
        Ok(config)
    }

    pub(super) fn handle(&self) -> Result<ClientConfig, LogError> {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted").set("enable.auto.commit", "false");
        Ok(config)
    }

    /// A reader without group of committed records.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.client();
        config
            // librdkafka asks for a name although no group is joined.
            .set("group.id", "keepwell-reader")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "true");
        config
    }

    /// A reader that looks for what can be read: it is wrong often, and asks again at once.
    pub(super) fn prober(&self) -> ClientConfig {
        let mut config = self.reader();
        config.set("check.crcs", "true").set("fetch.error.backoff.ms", "0").set("fetch.wait.max.ms", "10");
        config
    }

    /// A producer outside of transactions.
    pub(super) fn writer(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("enable.idempotence", "true").set("linger.ms", "20");
        // The topic's own limit is the broker's to apply.
        config.set("message.max.bytes", WRITER_MAX_BYTES.to_string());
        config
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("transactional.id", &self.transactional_id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            // Must not exceed the transaction timeout, or the producer is refused.
            .set("message.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("message.max.bytes", (self.max_record_bytes + 100_000).to_string())
            // Steps are batches already: waiting for more would only add latency.
            .set("linger.ms", "0")
            // What was delivered leaves the count of what is in flight by itself; only failures are told.
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.kbytes", "262144");
        // A transaction that begins while the markers of the last one are still being written is refused and asked for
        // again; to wait 100 ms for that, as the client does by itself, is longer than most steps take.
        if config.get("retry.backoff.ms").is_none() {
            config.set("retry.backoff.ms", "20");
        }
        if let Some(bytes) = self.taken_bytes {
            config.set("message.max.bytes", bytes.to_string()).set("batch.size", bytes.to_string());
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_promises_rest_on_is_no_users_choice() {
        let mut kafka = Kafka::at("none:9092");
        let wrong = [
            ("isolation.level", "read_uncommitted"),
            ("enable.auto.commit", "true"),
            ("enable.auto.offset.store", "true"),
            ("auto.offset.reset", "latest"),
            ("transactional.id", "mine"),
            ("group.id", "mine"),
            ("enable.idempotence", "false"),
            ("check.crcs", "false"),
        ];
        wrong.iter().for_each(|(name, value)| drop(kafka.properties.0.insert((*name).to_owned(), (*value).to_owned())));
        let settings = Settings::new(&kafka).unwrap().for_transactions("score", "0");
        for (client, config) in [
            ("consumer", settings.consumer("keepwell-score", "0").unwrap()),
            ("reader", settings.reader()),
            ("producer", settings.producer()),
            ("writer", settings.writer()),
        ] {
            for (name, value) in wrong {
                // A client that has no use for a setting is not harmed by it.
                let is_used = match name {
                    "transactional.id" => client == "producer",
                    "enable.idempotence" => client == "writer",
                    "enable.auto.offset.store" | "auto.offset.reset" => client == "consumer",
                    _ => client == "consumer" || client == "reader",
                };
                assert!(!is_used || config.get(name) != Some(value), "{client} {name}");
            }
        }
    }

    #[test]
    fn the_users_own_backoff_stands() {
        let backoff = |kafka: &Kafka| {
            let settings = Settings::new(kafka).unwrap().for_transactions("score", "0");
            settings.producer().get("retry.backoff.ms").map(str::to_owned)
        };
        let mut kafka = Kafka::at("none:9092");
        assert_eq!(backoff(&kafka).as_deref(), Some("20"));
        kafka.properties.0.insert("retry.backoff.ms".to_owned(), "300".to_owned());
        assert_eq!(backoff(&kafka).as_deref(), Some("300"));
    }
}
