//! A real Apache Kafka for tests and measurements: the one that is named, or one started for this process.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pipeline::log::{Message, Record};
use pipeline::offset::{Offset, TopicPartition};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

/// Names a running broker (`host:port`) to be used instead of one started for the tests.
pub const BROKER_VARIABLE: &str = "KEEPWELL_TEST_KAFKA";

/// A broker that ends with this value, or one that was there before.
#[derive(Debug)]
pub struct Kafka {
    /// `host:port`.
    pub address: String,
    child: Option<Child>,
}

impl Kafka {
    /// The broker named by [`BROKER_VARIABLE`], or a fresh one from `deploy/kafka`.
    ///
    /// # Errors
    /// When there is no way to get one; says how.
    pub fn start() -> Result<Self> {
        if let Ok(address) = std::env::var(BROKER_VARIABLE) {
            return Ok(Self { address, child: None });
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka/kafka");
        let [port, controller] = [free_port()?, free_port()?];
        let mut child = Command::new(&script)
            .args(["run", &port.to_string(), &controller.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", script.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        match line.trim_end().strip_prefix("READY ") {
            Some(address) => Ok(Self { address: address.to_owned(), child: Some(child) }),
            None => {
                bail!("no Kafka: {} did not start one (see above), and {BROKER_VARIABLE} names none", script.display())
            }
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    /// Makes a topic with one replica.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for result in runtime.block_on(admin.create_topics([&topic], &options))? {
            result.map_err(|(name, code)| anyhow::anyhow!("creating {name}: {code}"))?;
        }
        Ok(())
    }

    /// Waits until a topic holds at least `count` offsets over all partitions.
    ///
    /// # Errors
    /// When that does not happen within two minutes.
    pub fn wait_for(&self, topic: &str, count: i64) -> Result<()> {
        let handle: BaseConsumer = self.config().create()?;
        let metadata = handle.fetch_metadata(Some(topic), Duration::from_secs(20))?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len()) as i32;
        let deadline = Instant::now() + Duration::from_secs(120);
        while Instant::now() < deadline {
            let mut total = 0;
            for partition in 0..partitions {
                total += handle.fetch_watermarks(topic, partition, Duration::from_secs(20))?.1;
            }
            if total >= count {
                return Ok(());
            }
        }
        bail!("{topic} did not reach {count} offsets within two minutes")
    }

    /// Writes messages, in order.
    ///
    /// # Errors
    /// When one cannot be delivered.
    pub fn produce<'m>(&self, messages: impl IntoIterator<Item = &'m Message>) -> Result<usize> {
        let producer: BaseProducer = self.config().set("enable.idempotence", "true").set("linger.ms", "20").create()?;
        let mut count = 0;
        for message in messages {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &message.headers {
                headers = headers.insert(Header { key, value: value.as_deref() });
            }
            let mut record: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to(&message.topic).partition(message.partition).headers(headers);
            (record.key, record.payload, record.timestamp) =
                (message.key.as_deref(), message.value.as_deref(), message.timestamp_ms);
            while let Err((error, returned)) = producer.send(record) {
                ensure!(
                    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull),
                    "producing to {}: {error}",
                    message.topic
                );
                producer.poll(Duration::from_millis(10));
                record = returned;
            }
            count += 1;
        }
        producer.flush(Duration::from_secs(120))?;
        Ok(count)
    }

    /// Leaves a record of an aborted transaction in partition 0 of a topic.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn abort(&self, topic: &str, transactional_id: &str) -> Result<()> {
        let wait = Duration::from_secs(20);
        let producer: BaseProducer = self.config().set("transactional.id", transactional_id).create()?;
        producer.init_transactions(wait)?;
        producer.begin_transaction()?;
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0).payload(b"half");
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(wait)?;
        Ok(producer.abort_transaction(wait)?)
    }

    /// Every committed record of a topic, partition by partition.
    ///
    /// # Errors
    /// When the topic cannot be read within two minutes.
    pub fn records(&self, topic: &str) -> Result<Vec<Record>> {
        let consumer: BaseConsumer = self
            .config()
            .set("group.id", "keepwell-reader")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20))?;
        let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len()) as i32;
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut records = Vec::new();
        for partition in 0..count {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, KafkaOffset::Beginning)?;
            consumer.assign(&list)?;
            loop {
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => records.push(Record {
                        topic_partition: TopicPartition::new(topic, partition),
                        offset: Offset(message.offset()),
                        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().map(<[u8]>::to_vec),
                        headers: message
                            .headers()
                            .map(|headers| {
                                headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
                            })
                            .unwrap_or_default(),
                    }),
                    Some(Err(KafkaError::PartitionEOF(at))) if at == partition => break,
                    Some(Err(KafkaError::PartitionEOF(_))) | None => {
                        ensure!(Instant::now() < deadline, "{topic} was not read within two minutes");
                    }
                    Some(Err(error)) => return Err(error.into()),
                }
            }
        }
        Ok(records)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The script ends the broker when its input closes.
            drop(child.stdin.take());
            if let Err(error) = child.wait() {
                eprintln!("waiting for Kafka to end: {error}");
            }
        }
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
