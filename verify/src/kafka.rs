//! A real Apache Kafka for tests and measurements: a named broker, or one started for this process.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::borrow::Borrow;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::log::kafka::tail::Tail;
use keepwell_pipeline::log::kafka::writer::Writer;
use keepwell_pipeline::record::{Message, Record};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

/// Environment variable with the `host:port` of a running broker. Tests then use it instead of starting one.
pub const BROKER_VARIABLE: &str = "KEEPWELL_TEST_KAFKA";

/// Time limit for reading a partition.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time limit for a call to the broker.
const CALL: Duration = Duration::from_secs(20);

/// A broker. It stops when this value is dropped, except if it ran before.
#[derive(Debug)]
pub struct Kafka {
    /// `host:port` of the broker.
    pub address: String,
    child: Option<Child>,
}

/// An open transaction; its records are hidden until it ends.
pub struct OpenTransaction(BaseProducer);

impl OpenTransaction {
    /// Commits the transaction, so that its records become visible.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn commit(&self) -> Result<()> {
        Ok(self.0.commit_transaction(CALL)?)
    }
}

/// Reads records written to some topics after a point in time.
pub struct TopicTail(BaseConsumer);

impl TopicTail {
    /// Waits for a record. Returns false if none comes within the limit.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn wait(&self, limit: Duration) -> Result<bool> {
        Ok(self.0.poll(limit).transpose()?.is_some())
    }
}

impl Kafka {
    /// Follows these topics from their current ends.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn tail(&self, topics: &[&str]) -> Result<TopicTail> {
        let consumer: BaseConsumer =
            self.config().set("group.id", "news").set("isolation.level", "read_uncommitted").create()?;
        let mut ends = TopicPartitionList::new();
        for topic in topics {
            for partition in 0..Writer::open(&self.kafka())?.partitions(topic)? {
                let (_, end) = consumer.fetch_watermarks(topic, partition, CALL)?;
                ends.add_partition_offset(topic, partition, Offset::Offset(end))?;
            }
        }
        consumer.assign(&ends)?;
        Ok(TopicTail(consumer))
    }

    /// The broker named by [`BROKER_VARIABLE`], or a new one from `deploy/kafka`.
    ///
    /// # Errors
    /// When there is no broker and none can be started.
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

    /// A broker that already runs and keeps running.
    pub fn at(address: &str) -> Self {
        Self { address: address.to_owned(), child: None }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    /// The same address as a configuration of Keepwell's own clients.
    fn kafka(&self) -> keepwell_pipeline::config::Kafka {
        keepwell_pipeline::config::Kafka::at(&self.address)
    }

    /// Creates a topic with one replica.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<()> {
        self.create_topic_with(name, partitions, &[])
    }

    /// Creates a topic with one replica and these settings.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let (admin, options) = self.admin()?;
        // Loads have old timestamps. By default a broker keeps a week, so it would delete the beginning of a large
        // load.
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("retention.ms", "-1");
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        all_done(wait(admin.create_topics([&topic], &options))?)
    }

    fn admin(&self) -> Result<(AdminClient<DefaultClientContext>, AdminOptions)> {
        Ok((self.config().create()?, AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)))))
    }

    /// Sets one setting of a topic and resets all its other settings to the defaults. Returns when the broker reports
    /// the new value.
    ///
    /// # Errors
    /// When the broker refuses, or does not report it in time.
    pub fn set(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        let (admin, options) = self.admin()?;
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        for result in wait(admin.alter_configs([&change], &options))? {
            result.map_err(|(_, code)| anyhow::anyhow!("{topic}: {code}"))?;
        }
        let started = Instant::now();
        while self.own_settings(topic)? != [(name.to_owned(), value.to_owned())] {
            ensure!(started.elapsed() < CALL, "the broker does not show {name}={value} of {topic}");
            std::thread::yield_now();
        }
        Ok(())
    }

    fn own_settings(&self, topic: &str) -> Result<Vec<(String, String)>> {
        let (admin, options) = self.admin()?;
        let mut described = wait(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options))?;
        let described = described.pop().context("no answer")?;
        let entries = described.map_err(|code| anyhow::anyhow!("{topic}: {code}"))?.entries.into_iter();
        let own = entries.filter(|entry| entry.source == ConfigSource::DynamicTopic);
        Ok(own.filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }

    /// End offset of a partition: behind its last record.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn ends(&self, topic: &str, partition: i32) -> Result<i64> {
        let handle: BaseConsumer = self.config().create()?;
        Ok(handle.fetch_watermarks(topic, partition, CALL)?.1)
    }

    /// Increases a topic to this number of partitions.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn grow_topic(&self, name: &str, partitions: usize) -> Result<()> {
        let (admin, options) = self.admin()?;
        all_done(wait(admin.create_partitions([&NewPartitions::new(name, partitions)], &options))?)
    }

    /// Deletes a topic and waits until it is gone.
    ///
    /// # Errors
    /// When the broker refuses, or the topic still exists after two minutes.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let (admin, options) = self.admin()?;
        all_done(wait(admin.delete_topics(&[name], &options))?)?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // A metadata request that names a topic would create it again, so ask for all.
            let all = admin.inner().fetch_metadata(None, Duration::from_secs(20))?;
            if all.topics().iter().all(|topic| topic.name() != name) {
                return Ok(());
            }
        }
        bail!("{name} was not deleted within two minutes")
    }

    /// Deletes all topics with this prefix. Returns their number.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn delete_topics(&self, prefix: &str) -> Result<usize> {
        let (admin, options) = self.admin()?;
        let all = admin.inner().fetch_metadata(None, CALL)?;
        let names: Vec<&str> =
            all.topics().iter().map(|topic| topic.name()).filter(|name| name.starts_with(prefix)).collect();
        all_done(wait(admin.delete_topics(&names, &options))?)?;
        Ok(names.len())
    }

    /// Process id of the broker, if this value started it.
    pub fn process_id(&self) -> Option<u32> {
        let script = self.child.as_ref()?.id();
        std::fs::read_to_string(format!("/proc/{script}/task/{script}/children")).ok()?.split_whitespace().find_map(
            |id| {
                let command = std::fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?;
                command.contains("kafka.Kafka").then(|| id.parse().ok())?
            },
        )
    }

    /// Changes one byte of a record in a partition's first segment, as a bad disk does. Its checksum is then wrong.
    ///
    /// # Errors
    /// When this value has not started the broker, or no record contains these bytes.
    pub fn damage(&self, topic: &str, partition: i32, bytes: &[u8]) -> Result<()> {
        crate::segment::rewrite(&self.segment(topic, partition)?, |content| crate::segment::damage(content, bytes))
    }

    /// Replaces the first of these bytes in a partition's first segment by 0xff, and mends the checksum, as a producer
    /// would write it that sends any bytes.
    ///
    /// # Errors
    /// See [`Kafka::damage`].
    pub fn forge(&self, topic: &str, partition: i32, bytes: &[u8]) -> Result<()> {
        crate::segment::rewrite(&self.segment(topic, partition)?, |content| crate::segment::forge(content, bytes))
    }

    fn segment(&self, topic: &str, partition: i32) -> Result<PathBuf> {
        let id = self
            .process_id()
            .with_context(|| format!("the broker's files are not at hand: run without {BROKER_VARIABLE}"))?;
        let command = std::fs::read_to_string(format!("/proc/{id}/cmdline"))?;
        let settings = command.split('\0').rfind(|word| !word.is_empty()).context("no settings")?;
        let folder = Path::new(settings).parent().context("no folder")?.join("log");
        Ok(folder.join(format!("{topic}-{partition}")).join(format!("{:020}.log", 0)))
    }

    /// Removes the records of a partition below an offset, as retention does.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn expire(&self, topic: &str, partition: i32, below: i64) -> Result<()> {
        let (admin, options) = self.admin()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(below))?;
        let expired = wait(admin.delete_records(&list, &options))?;
        Ok(expired.elements().iter().try_for_each(|element| element.error())?)
    }

    /// Sets a group's position, as an operator does with Kafka's own tools. The group must have no members.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn reset(&self, group: &str, topic: &str, partition: i32, next: i64) -> Result<()> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(next))?;
        Ok(consumer.commit(&list, CommitMode::Sync)?)
    }

    /// Number of offsets of a topic, including transaction markers; `None` if there is no such topic.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub fn count(&self, topic: &str) -> Result<Option<i64>> {
        let handle: BaseConsumer = self.config().create()?;
        let metadata = handle.fetch_metadata(Some(topic), CALL)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let Some(found) = found.filter(|found| !found.partitions().is_empty()) else { return Ok(None) };
        let mut count = 0;
        for partition in found.partitions() {
            let (first, next) = handle.fetch_watermarks(topic, partition.id(), CALL)?;
            count += next - first;
        }
        Ok(Some(count))
    }

    /// Waits until the ends of all partitions of a topic sum to at least `count`.
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
    /// When a message cannot be delivered.
    pub fn produce<M: Borrow<Message>>(&self, messages: impl IntoIterator<Item = M>) -> Result<usize> {
        let mut writer = Writer::open(&self.kafka())?;
        let mut count = 0;
        for message in messages {
            writer.write(message.borrow())?;
            count += 1;
        }
        writer.flush()?;
        Ok(count)
    }

    /// Writes a value as a compressed batch of its own: a few kilobytes that unpack to many megabytes.
    ///
    /// # Errors
    /// When it cannot be delivered.
    pub fn produce_compressed(&self, message: &Message, codec: &str) -> Result<()> {
        let mut config = self.config();
        config.set("compression.type", codec).set("message.max.bytes", "900000000").set("linger.ms", "0");
        config.set("queue.buffering.max.kbytes", "2000000");
        let producer: BaseProducer = config.create()?;
        let value = message.value.as_deref().unwrap_or_default();
        let record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&message.topic).partition(message.partition).payload(value);
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.flush(PATIENCE)?)
    }

    /// Leaves a record of an aborted transaction in partition 0 of a topic.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn abort(&self, topic: &str, transactional_id: &str) -> Result<()> {
        Ok(self.write_open(topic, transactional_id, b"half")?.0.abort_transaction(CALL)?)
    }

    /// Writes a record to partition 0 of a topic in a transaction. It stays open until the producer ends it.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn write_open(&self, topic: &str, transactional_id: &str, value: &[u8]) -> Result<OpenTransaction> {
        let mut config = self.config();
        // Longer than any test: only its producer or an operator ends the transaction.
        config.set("transactional.id", transactional_id).set("transaction.timeout.ms", "600000");
        let producer: BaseProducer = config.create()?;
        producer.init_transactions(CALL)?;
        producer.begin_transaction()?;
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(0).payload(value);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(CALL)?;
        Ok(OpenTransaction(producer))
    }

    /// Aborts the transaction that begins at an offset, as an operator does with `kafka-transactions.sh abort`.
    ///
    /// # Errors
    /// When the tool fails; the error contains its output.
    pub fn end_hanging(&self, topic: &str, partition: i32, start_offset: i64) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka/kafka");
        let [partition, start_offset] = [partition.to_string(), start_offset.to_string()];
        let output = Command::new(script)
            .args(["transactions", "--bootstrap-server", &self.address, "abort", "--topic", topic])
            .args(["--partition", &partition, "--start-offset", &start_offset])
            .output()?;
        if !output.status.success() {
            bail!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Every committed record of a topic, partition by partition.
    ///
    /// # Errors
    /// When a partition cannot be read within two minutes.
    pub fn records(&self, topic: &str) -> Result<Vec<Record>> {
        let kafka = self.kafka();
        let (tail, count) = (Tail::open(&kafka)?, Writer::open(&kafka)?.partitions(topic)?);
        let mut records = Vec::new();
        for partition in 0..count {
            tail.read(&TopicPartition::new(topic, partition), PATIENCE, &Arc::default(), |record| {
                records.push(record);
                ControlFlow::Continue(())
            })?;
        }
        Ok(records)
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // The script stops the broker when its input closes.
            drop(child.stdin.take());
            if let Err(error) = child.wait() {
                eprintln!("waiting for Kafka to end: {error}");
            }
        }
    }
}

/// Blocks until the answer comes.
fn wait<T>(answer: impl Future<Output = KafkaResult<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(answer)?)
}

fn all_done(results: Vec<TopicResult>) -> Result<()> {
    results
        .into_iter()
        .try_for_each(|result| result.map(|_| ()).map_err(|(name, code)| anyhow::anyhow!("{name}: {code}")))
}

/// Ports for servers. They are below the range for outgoing connections, which could take a port while its server is
/// down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port that nobody uses. This process gets each port only once, until all have been used.
///
/// # Errors
/// When no port is free.
pub fn free_port() -> Result<u16> {
    static NUM_TRIED: AtomicU16 = AtomicU16::new(0);
    // Parallel processes start at different ports.
    let start = std::process::id().wrapping_mul(97) % u32::from(PORTS.end - PORTS.start);
    for _ in PORTS {
        let tried = u32::from(NUM_TRIED.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + ((start + tried) % u32::from(PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free", PORTS.start, PORTS.end)
}
