//! The records of a load in each topic, in memory. Measurements of single stages start with it.

use anyhow::Result;
use keepwell::in_process::{self, InMemory};
use keepwell_pipeline::clock::FixedClock;
use keepwell_pipeline::config::{Config, Topics};
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::record::Record;

use crate::load::{Load, Shape};

/// Number of partitions of the raw topic.
const RAW_PARTITIONS: i32 = 2;

/// The records of each topic.
#[derive(Debug)]
pub struct Fixture {
    /// The configuration of all stages, with one partition for each topic.
    pub config: Config,
    /// The raw values.
    pub raw: Vec<Vec<u8>>,
    /// Records of `events`.
    pub events: Vec<Record>,
    /// Records of `windows`.
    pub windows: Vec<Record>,
    /// Records of `health`.
    pub health: Vec<Record>,
}

impl Fixture {
    /// Sends a load through ingest, aggregate and score. Every pane that has ended is closed.
    ///
    /// # Errors
    /// When a stage stops with an error.
    pub fn of(shape: Shape) -> Result<Self> {
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scale.yaml");
        let text = format!(
            "epoch: 1\npartitions: 1\nkafka: {{bootstrap_servers: 'none:0'}}\nsources: [{{topic: usage, kind: usage}}]\n\
             time: {{clock: false}}\nsnapshots: {{url: 'memory:///'}}\nscore: {{model: '{}'}}\nbatch: {{max_records: 1000}}\n",
            model.display()
        );
        let config = Config::parse("fixture", &text, &[])?;
        let broker = in_process::broker(&config, RAW_PARTITIONS);
        let mut raw = Vec::with_capacity(shape.events);
        for message in Load::new(shape).messages("usage", RAW_PARTITIONS) {
            broker.produce(&message)?;
            raw.extend(message.value);
        }
        let (args, clock) = (RunArgs::drained(false), FixedClock { wall_us: (shape.start_ms + shape.span_ms) * 1000 });
        let (stage, plan) = (keepwell_ingest::Ingest::new(&config)?, keepwell_ingest::plan(&config));
        InMemory { broker: &broker, config: &config, args: &args, clock: &clock }.drain(&stage, &plan)?;
        let (stage, plan) = (keepwell_aggregate::Aggregate::new(&config), keepwell_aggregate::plan(&config));
        InMemory { broker: &broker, config: &config, args: &args, clock: &clock }.drain(&stage, &plan)?;
        let (stage, plan) = (keepwell_score::Score::new(&config)?, keepwell_score::plan(&config));
        InMemory { broker: &broker, config: &config, args: &args, clock: &clock }.drain(&stage, &plan)?;
        let Topics { events, windows, health, .. } = &config.topics;
        let [events, windows, health] = [events, windows, health].map(|topic| broker.records(topic));
        Ok(Self { raw, events, windows, health, config })
    }
}
