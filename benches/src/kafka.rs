//! A real Apache Kafka for tests and measurements: the one that is named, or one started for this process.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pipeline::log::kafka::tail::Tail;
use pipeline::log::kafka::writer::Writer;
use pipeline::log::{Message, Record};
use pipeline::offset::TopicPartition;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// Names a running broker (`host:port`) to be used instead of one started for the tests.
pub const BROKER_VARIABLE: &str = "KEEPWELL_TEST_KAFKA";

/// How long a partition may take to be read.
const PATIENCE: Duration = Duration::from_secs(120);

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

    /// The same as Keepwell's own clients are told it.
    fn kafka(&self) -> pipeline::config::Kafka {
        pipeline::config::Kafka::at(&self.address)
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
        let mut writer = Writer::open(&self.kafka())?;
        let mut count = 0;
        for message in messages {
            writer.write(message)?;
            count += 1;
        }
        writer.flush()?;
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
