//! How many accounts drop in a pane: a sign that its input, not its customers, is the cause.

use std::sync::Arc;

use keepwell_pipeline::record::Message;
use keepwell_pipeline::suspect::{self, REPORT_HEADER, Report};

use crate::evaluate::Verdict;
use crate::model::UNKNOWN;
use crate::settings::Settings;
use crate::state::{Memory, OpenDrops, PartitionChanges, PartitionState, merge_drops};
use crate::windows::Case;

/// Counts a row: only a final one with a score, of an account that had a final row before.
pub fn count(drops: &mut OpenDrops, case: &Case<'_>, verdict: &Verdict<'_>, past: &Memory) {
    let (Some(score), Some(last)) = (verdict.rating.score, &past.last) else { return };
    if !case.is_final || !case.is_scored() || case.is_retired {
        return;
    }
    let of_pane = drops.entry(case.as_of_us).or_default();
    of_pane.scored += 1;
    let is_known = *last.band != *UNKNOWN && verdict.band != UNKNOWN;
    let is_lower = last.score.is_some_and(|before| score < before);
    of_pane.dropped += u64::from(is_known && is_lower && *last.band != *verdict.band);
}

/// The reports of a step about panes that have ended: one for every partition of `health`.
pub fn reports(
    state: &PartitionState,
    changes: &PartitionChanges,
    partition: i32,
    settings: &Settings,
) -> Vec<Message> {
    let Some(panes) = changes.ended.clone() else { return Vec::new() };
    let drops = merge_drops(&mut state.drops.clone(), changes.drops.clone(), Some(panes.ended_us));
    let reports = Report { partition, panes, drops, bounds: settings.bounds }.pieces();
    let headers = reports.iter().map(|report| suspect::header(REPORT_HEADER, report));
    let message = |(to, header): (i32, (String, Option<Vec<u8>>))| Message {
        topic: Arc::clone(&settings.health),
        partition: to,
        timestamp_ms: None,
        key: None,
        value: None,
        headers: vec![header],
    };
    headers.flat_map(|header| (0..settings.partitions).map(move |to| (to, header.clone()))).map(message).collect()
}
