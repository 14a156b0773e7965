//! Folders of events, and disorder as it happens on the way to a topic.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use keepwell_core::event::Kind;
use serde::Deserialize;

use crate::fleet::Raw;

/// The files that a folder may contain.
const FILES: [(&str, Kind); 6] = [
    ("usage", Kind::Usage),
    ("tickets", Kind::Ticket),
    ("surveys", Kind::Survey),
    ("accounts", Kind::Account),
    ("people", Kind::Person),
    ("contracts", Kind::Contract),
];

/// Names of the files found, and the kind of their events.
pub type Sources = Vec<(&'static str, Kind)>;

#[derive(Deserialize)]
struct Glance {
    /// Event time, UTC milliseconds.
    occurred_at: i64,
}

/// Reads the events of a folder with `usage.ndjson`, `tickets.ndjson` and so on, one per line, file by file.
///
/// # Errors
/// When a file cannot be read, a line has no `occurred_at` in milliseconds, or the folder has no events.
pub fn read(folder: &Path) -> Result<(Vec<Raw>, Sources)> {
    let mut raws = Vec::new();
    let mut sources = Vec::new();
    for (name, kind) in FILES {
        let path = folder.join(format!("{name}.ndjson"));
        if path.exists() {
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let glance: Glance = serde_json::from_slice(line).with_context(|| path.display().to_string())?;
                raws.push(Raw { kind, key: None, value: Some(line.to_vec()), at_ms: glance.occurred_at });
            }
            sources.push((name, kind));
        }
    }
    ensure!(!raws.is_empty(), "{} holds none of usage.ndjson, tickets.ndjson, ...", folder.display());
    Ok((raws, sources))
}

/// How to disturb the order and the content of events.
#[derive(Debug, Clone, Copy)]
pub struct Disorder {
    /// Each event arrives at most this long after a later one, in milliseconds.
    pub most_ms: i64,
    /// Percentage of events that come twice.
    pub repeated_percent: u32,
    /// Percentage of events that get an additional damaged copy.
    pub corrupt_percent: u32,
}

/// Puts the events into another order, repeats some, and adds damaged copies. Returns them with the numbers of repeated
/// and of damaged copies.
pub fn disordered(raws: &[Raw], disorder: Disorder, seed: u64) -> (Vec<Raw>, usize, usize) {
    let mut rng = Rng::with_seed(seed);
    let mut arriving: Vec<(i64, Raw)> = Vec::with_capacity(raws.len());
    let (mut num_repeated, mut num_corrupt) = (0, 0);
    for raw in raws {
        let arrives = |rng: &mut Rng| raw.at_ms + rng.i64(0..disorder.most_ms);
        arriving.push((arrives(&mut rng), raw.clone()));
        if rng.u32(0..100) < disorder.repeated_percent {
            arriving.push((arrives(&mut rng), raw.clone()));
            num_repeated += 1;
        }
        if rng.u32(0..100) < disorder.corrupt_percent {
            // Cut before the closing brace, so that it is not JSON.
            let text = raw.value.clone().unwrap_or_default();
            let end = rng.usize(1..text.len().max(2));
            let value = text.get(..end).map(<[u8]>::to_vec);
            arriving.push((arrives(&mut rng), Raw { value, ..raw.clone() }));
            num_corrupt += 1;
        }
    }
    arriving.sort_by_key(|(at_ms, _)| *at_ms);
    (arriving.into_iter().map(|(_, raw)| raw).collect(), num_repeated, num_corrupt)
}
