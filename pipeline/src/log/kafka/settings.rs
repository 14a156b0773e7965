//! librdkafka settings. The user's settings pass through; those that our guarantees need are set last.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

use crate::config::Kafka;
use crate::log::{LogError, smaller};
use crate::redact;
use keepwell_core::offset::{NextOffset, TopicPartition};

/// Largest record that `load` and `rejects replay` send to the broker, in bytes.
const WRITER_MAX_BYTES: usize = 100_000_000;

/// Why a client could not be made, without the value of a secret setting.
pub(crate) fn not_made(error: &KafkaError) -> LogError {
    match error {
        KafkaError::ClientConfig(_, _, name, _) if redact::is_secret(name) => {
            LogError::Configuration(format!("{name}: the client does not take its value"))
        }
        error => LogError::Configuration(error.to_string()),
    }
}

/// Settings of all clients of this process.
#[derive(Debug, Clone)]
pub struct Settings {
    base: ClientConfigDebug,
    transaction_timeout_ms: u64,
    session_timeout_ms: u64,
    max_record_bytes: usize,
    /// Reduced request size in bytes, once a request exceeded the broker's limit.
    request_limits: BTreeMap<String, usize>,
    transactional_id: String,
    instance: String,
    pass_by: PassBy,
}

/// Positions that may be passed by. Ingest writes a reject without bytes for each; elsewhere an operator names them.
#[derive(Debug, Clone, Default)]
pub struct PassBy {
    /// Whether every unreadable position may be passed by.
    pub all: bool,
    /// Positions that an operator named.
    pub positions: Vec<PassedBy>,
}

/// Positions of a partition to pass by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedBy {
    /// The partition.
    pub partition: TopicPartition,
    /// The first position.
    pub first: NextOffset,
    /// The position behind the last one.
    pub end: NextOffset,
}

impl FromStr for PassedBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (partition, offset) = text.rsplit_once('=')?;
            let (topic, partition) = partition.rsplit_once(':')?;
            let (first, last) = offset.split_once('-').unwrap_or((offset, offset));
            let (first, last): (i64, i64) = (first.parse().ok()?, last.parse().ok()?);
            let partition = TopicPartition::new(topic, partition.parse().ok()?);
            let end = NextOffset(last.checked_add(1).filter(|end| *end > first)?);
            Some(Self { partition, first: NextOffset(first), end })
        };
        parts().ok_or_else(|| format!("{text:?} is not TOPIC:PARTITION=OFFSET or TOPIC:PARTITION=OFFSET-LAST"))
    }
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
    /// Reads the settings and the secrets of the configuration.
    ///
    /// # Errors
    /// [`LogError::Configuration`] when a secret cannot be read.
    pub fn new(kafka: &Kafka) -> Result<Self, LogError> {
        let mut base = ClientConfig::new();
        // Finds a returning broker within a second. The client's default limit is ten seconds.
        base.set("reconnect.backoff.max.ms", "1000");
        // Repeats a request if its connection died silently. The client's default is 60 seconds.
        base.set("socket.timeout.ms", "10000");
        // A starting broker reports for a moment that there are no brokers. librdkafka 2.12 then forgets all it knew.
        // Only a client that starts again from bootstrap.servers finds a broker; its default delay is five minutes.
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
            request_limits: BTreeMap::new(),
            transactional_id: String::new(),
            instance: String::new(),
            pass_by: PassBy::default(),
        })
    }

    /// The same settings, with positions to pass by.
    #[must_use]
    pub fn passing_by(mut self, pass_by: PassBy) -> Self {
        self.pass_by = pass_by;
        self
    }

    /// Whether an unreadable position may be passed by.
    pub(super) fn may_pass(&self, tp: &TopicPartition, at: NextOffset) -> bool {
        self.pass_by.all || self.is_passed(tp, at)
    }

    /// Whether an operator named this position to be passed by, readable or not.
    pub(super) fn is_passed(&self, tp: &TopicPartition, at: NextOffset) -> bool {
        self.named(tp, at).is_some()
    }

    fn named(&self, tp: &TopicPartition, at: NextOffset) -> Option<&PassedBy> {
        self.pass_by.positions.iter().find(|named| named.partition == *tp && named.first <= at && at < named.end)
    }

    /// The position behind the range to pass by at this position, if an operator named more than one position.
    pub(super) fn named_end(&self, tp: &TopicPartition, at: NextOffset) -> Option<NextOffset> {
        let named = self.named(tp, at)?;
        (named.end.0 - named.first.0 > 1).then_some(named.end)
    }

    /// Settings of any client: only those of the user.
    pub fn client(&self) -> ClientConfig {
        self.base.0.clone()
    }

    /// The configured bootstrap servers.
    pub(super) fn servers(&self) -> String {
        self.base.0.get("bootstrap.servers").unwrap_or_default().to_owned()
    }

    /// How long a member may be silent before the group reassigns its partitions.
    pub(super) fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms)
    }

    /// Name of this process in its group.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The id under which transactions are written.
    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Time limit for a transaction, in milliseconds.
    pub fn transaction_timeout_ms(&self) -> u64 {
        self.transaction_timeout_ms
    }

    /// Halves the size of one request to a topic from now on.
    pub(super) fn take_less(&mut self, topic: &str) {
        let before = self.request_limits.get(topic).copied();
        self.request_limits.insert(topic.to_owned(), smaller(before, self.max_record_bytes));
    }

    /// Largest record to write to a topic, in bytes, once the broker has refused one. A tenth is reserved for headers.
    pub(super) fn record_limits(&self) -> BTreeMap<String, usize> {
        self.request_limits.iter().map(|(topic, bytes)| (topic.clone(), bytes - bytes / 10)).collect()
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
            // A restart under the same name gets the same partitions without a rebalance.
            .set("group.instance.id", format!("{group}-{instance}"))
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            // Members learn of a rebalance from heartbeats, one after another in each of its rounds.
            .set("heartbeat.interval.ms", (self.session_timeout_ms / 10).clamp(50, 3000).to_string())
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A position outside the log is a named stop, never a reset.
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            // New partitions of a topic are assigned soon after they are made.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // The statistics report where the end of a partition was reached, transaction markers included.
            .set("statistics.interval.ms", "200")
            // Damaged bytes must not be read as a record.
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

    /// A reader of committed records, without a group.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.client();
        config
            // librdkafka requires a name although no group is joined.
            .set("group.id", "keepwell-reader")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "true");
        config
    }

    /// A reader that searches for readable offsets. It fails often, and must ask again at once.
    pub(super) fn prober(&self) -> ClientConfig {
        let mut config = self.reader();
        config.set("check.crcs", "true").set("fetch.error.backoff.ms", "0").set("fetch.wait.max.ms", "10");
        config
    }

    /// Compresses what is written, unless the user has chosen how: the broker's work goes by bytes.
    fn compress(&self, config: &mut ClientConfig) {
        if ["compression.type", "compression.codec"].iter().all(|name| config.get(name).is_none()) {
            config.set("compression.type", "lz4");
        }
    }

    /// A producer without transactions.
    pub(super) fn writer(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("enable.idempotence", "true").set("linger.ms", "20");
        // The broker applies the topic's own limit.
        config.set("message.max.bytes", WRITER_MAX_BYTES.to_string());
        self.compress(&mut config);
        config
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("transactional.id", &self.transactional_id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            // Must not exceed the transaction timeout, or the producer is rejected.
            .set("message.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("message.max.bytes", (self.max_record_bytes + 100_000).to_string())
            // Steps are batches already, so waiting for more would only add latency.
            .set("linger.ms", "0")
            // Delivered messages leave the in-flight count without a report. Only failures are reported.
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.kbytes", "262144");
        // A transaction that begins while the markers of the last one are being written is refused and retried. The
        // client's own wait of 100 ms is longer than most steps take.
        self.compress(&mut config);
        if config.get("retry.backoff.ms").is_none() {
            config.set("retry.backoff.ms", "20");
        }
        // A batch of records for one topic must fit, too.
        if let Some(bytes) = self.request_limits.values().min() {
            config.set("batch.size", bytes.to_string());
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
                // A client that does not use a setting is not harmed by it.
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
    fn positions_to_pass_by_are_one_or_a_range() {
        let of = |first, end| PassedBy {
            partition: TopicPartition::new("a:b", 3),
            first: NextOffset(first),
            end: NextOffset(end),
        };
        assert_eq!("a:b:3=17".parse(), Ok(of(17, 18)));
        assert_eq!("a:b:3=17-20".parse(), Ok(of(17, 21)));
        for wrong in ["a:3", "a:3=x", "a:3=9-5", "a:3=5-", "a=5", "a:3=-5", "a:3=5-9223372036854775807"] {
            assert!(wrong.parse::<PassedBy>().is_err_and(|why| why.contains(wrong)), "{wrong}");
        }
        let positions = vec![of(17, 21), of(40, 41)];
        let settings = Settings::new(&Kafka::at("none:9092")).unwrap().passing_by(PassBy { all: false, positions });
        let at = |offset| {
            let (tp, at) = (TopicPartition::new("a:b", 3), NextOffset(offset));
            (settings.may_pass(&tp, at), settings.named_end(&tp, at))
        };
        assert_eq!([at(16), at(17), at(20), at(21)].map(|(may, _)| may), [false, true, true, false]);
        assert_eq!([at(18).1, at(40).1], [Some(NextOffset(21)), None]);
    }

    #[test]
    fn what_replays_rejects_can_write_every_record_that_a_stage_can() {
        let largest = Kafka { max_record_bytes: 100_000_000, ..Kafka::at("none:9092") };
        let settings = Settings::new(&largest).unwrap();
        let bytes = settings.writer().get("message.max.bytes").unwrap().parse::<usize>().unwrap();
        assert!(bytes >= largest.max_record_bytes, "{bytes}");
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
