//! Sends texts through ingest, each between two good neighbours.

use anyhow::{Context, Result, ensure};
use keepwell::in_process::{self, InMemory};
use keepwell_core::schema::event;
use keepwell_pipeline::clock::FixedClock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::record::Message;
use keepwell_pipeline::reject::{CUT_HEADER, REASON_HEADER, Truncation};
use keepwell_pipeline::stage::Fate;

use crate::compare::rows_of;

const CONFIG: &str = "epoch: 1\npartitions: 2\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: raw, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";
/// The wall clock of the run: 2025-01-01T00:00:00Z.
const WALL_US: i64 = 1_735_689_600_000_000;

/// Result of ingest for one text.
#[derive(Debug)]
pub struct Judged {
    /// Reason of the reject; `None` if ingest accepted the text.
    pub reason: Option<String>,
}

/// Judges each text. Checks that every reject keeps its bytes and that the fates add up. Also checks that ingest
/// accepts all good neighbours: one before each text and one after the last.
///
/// # Errors
/// Names the check that failed.
pub fn judge(texts: &[Vec<u8>]) -> Result<Vec<Judged>> {
    let config = Config::parse("bad input", CONFIG, &[])?;
    let broker = in_process::broker(&config, 1);
    let produce = |value: Vec<u8>| {
        let (topic, key) = ("raw".into(), Some(b"key".to_vec()));
        broker.produce(&Message {
            topic,
            partition: 0,
            timestamp_ms: None,
            key,
            value: Some(value),
            headers: Vec::new(),
        })
    };
    let neighbour = |n: usize| {
        format!(r#"{{"event_id":"good-{n}","account_id":"good","feature":"f","occurred_at":1704067200000}}"#)
            .into_bytes()
    };
    for (n, text) in texts.iter().enumerate() {
        produce(neighbour(n))?;
        produce(text.clone())?;
    }
    produce(neighbour(texts.len()))?;
    let args = RunArgs::drained(true);
    let clock = FixedClock { wall_us: WALL_US };
    let stage = keepwell_ingest::Ingest::new(&config)?;
    let report = InMemory { broker: &broker, config: &config, args: &args, clock: &clock }
        .drain(&stage, &keepwell_ingest::plan(&config))?;

    let mut judged: Vec<Judged> = texts.iter().map(|_| Judged { reason: None }).collect();
    let rejects = broker.records(&config.topics.rejects);
    for record in &rejects {
        let header = |name: &str| {
            anyhow::Ok(String::from_utf8_lossy(record.header(name).context("a header is missing")?).into_owned())
        };
        let offset: usize = header("__connect.errors.offset")?.parse()?;
        ensure!(offset % 2 == 1, "the good neighbour at offset {offset} was rejected: {}", header(REASON_HEADER)?);
        let text = texts.get(offset / 2).context("a reject of no text")?;
        let is_right = match record.header(CUT_HEADER).map(serde_json::from_slice::<Truncation>).transpose()? {
            // A cut reject contains the size and the beginning of the value.
            Some(cut) => {
                cut.value_bytes == Some(text.len()) && text.starts_with(record.value.as_deref().unwrap_or(b"?"))
            }
            None => record.value.as_deref() == Some(text.as_slice()),
        };
        ensure!(is_right && record.key.as_deref() == Some(b"key"), "offset {offset}: other bytes");
        judged.get_mut(offset / 2).context("a reject of no text")?.reason = Some(header(REASON_HEADER)?);
    }
    let accepted = rows_of(&broker.records(&config.topics.events), &event::schema())?.num_rows();
    let read = report.fates.get(&Fate::of("read")).copied().unwrap_or_default() as usize;
    ensure!(
        read == 2 * texts.len() + 1 && read == accepted + rejects.len(),
        "{read} read, {accepted} accepted, {} rejected",
        rejects.len()
    );
    Ok(judged)
}
