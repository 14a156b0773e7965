//! Checks every raw record and every key for losses, duplicates and inversions.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use keepwell_core::codec;
use keepwell_core::schema::event::{EventRows, schema as event_schema};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::reject::CONTEXT_HEADERS;
use keepwell_sink::alert::Alert;
use serde::{Deserialize, Serialize};

/// Counts of errors. In a correct run all except `sent` are zero.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Number of records of raw topics.
    pub sent: usize,
    /// Number of raw records that are neither a row of `events` nor a reject.
    pub lost: usize,
    /// Number of raw records with several fates, and of repeated records of `scores` and `alerts`.
    pub doubled: usize,
    /// Number of records of `scores` and `alerts` after a newer record of their key.
    pub inverted: usize,
    /// Description of the first error.
    pub example: Option<String>,
}

impl Ledger {
    fn count(&mut self, of: fn(&mut Self) -> &mut usize, what: impl FnOnce() -> String) {
        *of(self) += 1;
        self.example.get_or_insert_with(what);
    }

    /// Whether nothing was lost, doubled or inverted.
    pub fn is_clean(&self) -> bool {
        (self.lost, self.doubled, self.inverted) == (0, 0, 0)
    }
}

/// Checks that each record of each raw topic is one row of `events` or one reject of ingest.
///
/// # Errors
/// When a topic cannot be read or contains something else.
pub fn of_raw(config: &Config, records: impl Fn(&str) -> Result<Vec<Record>>) -> Result<Ledger> {
    let mut fates: BTreeMap<(String, i32, i64), u32> = BTreeMap::new();
    for record in records(&config.topics.events)? {
        let Some(value) = &record.value else { continue };
        let batch = codec::decode(value, &event_schema())?;
        let rows = EventRows::new(&batch);
        for row in 0..rows.len() {
            let origin = rows.origin(row);
            *fates.entry((origin.topic.to_owned(), origin.partition, origin.offset)).or_default() += 1;
        }
    }
    for record in records(&config.topics.rejects)? {
        let header =
            |n: usize| anyhow::Ok(std::str::from_utf8(record.header(CONTEXT_HEADERS[n]).context("no header")?)?);
        if header(4)? == "ingest" {
            *fates.entry((header(0)?.to_owned(), header(1)?.parse()?, header(2)?.parse()?)).or_default() += 1;
        }
    }
    let mut ledger = Ledger::default();
    let topics: BTreeSet<&str> = config.sources.iter().map(|source| source.topic.as_str()).collect();
    for topic in topics {
        for record in records(topic)? {
            let (tp, offset) = (&record.topic_partition, record.offset.0);
            ledger.sent += 1;
            match fates.remove(&(tp.topic.to_string(), tp.partition, offset)).unwrap_or_default() {
                0 => ledger.count(|ledger| &mut ledger.lost, || format!("{tp} offset {offset} has no fate")),
                1 => {}
                num => ledger.count(|ledger| &mut ledger.doubled, || format!("{tp} offset {offset}: {num} fates")),
            }
        }
    }
    for ((topic, partition, offset), _) in fates {
        ledger.count(|ledger| &mut ledger.doubled, || format!("{topic}-{partition} has no offset {offset}"));
    }
    Ok(ledger)
}

/// What is checked of a record of `scores`.
#[derive(Debug, Deserialize)]
struct Published {
    account_id: String,
    provenance: Provenance,
}

/// Position of the input from which a score was made. It never falls for an account; its fields are compared in this
/// order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Provenance {
    epoch: i32,
    partition: i32,
    next_offset: i64,
    ordinal: i64,
    events_next_offset: i64,
    watermark: Option<String>,
}

/// Checks for each key of `scores` and `alerts` that every record is newer than the one before it.
///
/// # Errors
/// When a record has another form.
pub fn of_keys(ledger: &mut Ledger, scores: &[Record], alerts: &[Record]) -> Result<()> {
    let mut last: BTreeMap<String, Provenance> = BTreeMap::new();
    for value in scores.iter().filter_map(|record| record.value.as_deref()) {
        let health: Published = serde_json::from_slice(value)?;
        let before = last.insert(health.account_id.clone(), health.provenance.clone());
        match before.map(|before| before.cmp(&health.provenance)) {
            Some(std::cmp::Ordering::Equal) => ledger.count(|l| &mut l.doubled, || format!("scores: {health:?}")),
            Some(std::cmp::Ordering::Greater) => ledger.count(|l| &mut l.inverted, || format!("scores: {health:?}")),
            _ => {}
        }
    }
    let (mut known, mut newest) = (BTreeSet::new(), BTreeMap::<String, String>::new());
    for value in alerts.iter().filter_map(|record| record.value.as_deref()) {
        let alert: Alert = serde_json::from_slice(value)?;
        if !known.insert((alert.alert_id.clone(), alert.event.clone())) {
            ledger.count(|l| &mut l.doubled, || format!("alerts: {alert:?}"));
        }
        let before = newest.insert(alert.account_id.clone(), alert.as_of.clone());
        if before.is_some_and(|before| before > alert.as_of) {
            ledger.count(|l| &mut l.inverted, || format!("alerts: {alert:?}"));
        }
    }
    Ok(())
}
