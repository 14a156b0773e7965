//! Helpers of tests and measurements for a deployment in this process.

use std::sync::Arc;

use anyhow::{Context, Result};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Message;

use crate::fleet::Raw;

/// The message for a raw record. `serial` spreads the records over the partitions in turn.
///
/// # Errors
/// When no source is configured for its kind.
pub fn message(raw: &Raw, serial: usize, raw_partitions: i32, config: &Config) -> Result<Message> {
    let source = config.sources.iter().find(|source| source.kind == Some(raw.kind));
    let source = source.with_context(|| format!("no source for {:?}", raw.kind))?;
    Ok(Message {
        topic: Arc::from(source.topic.as_str()),
        partition: (serial % raw_partitions as usize) as i32,
        timestamp_ms: None,
        key: raw.key.clone().map(String::into_bytes),
        value: raw.value.clone(),
        headers: vec![("trace".to_owned(), Some(serial.to_string().into_bytes()))],
    })
}
