//! Which alerts must be published, again: over all final rows at once, with the panes as intervals.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use keepwell_core::schema::health;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::suspect::{self, REPORT_HEADER, Report, WORD_HEADER};

/// What the partitions of `health` say about panes that have ended.
#[derive(Debug, Default)]
pub struct Reports {
    /// Up to which time each partition has ended its panes, UTC microseconds.
    ended: BTreeMap<i32, i64>,
    /// Accounts with a score and accounts that dropped, by partition and pane.
    drops: BTreeMap<(i32, i64), (u64, u64)>,
    /// Suspect panes for their sources, by their ends in UTC microseconds.
    pub low: BTreeMap<i64, BTreeSet<String>>,
    /// Whether an operator has decided about alerts.
    pub has_words: bool,
    /// Whether every partition of `health` has the same reports.
    is_same: bool,
    /// How many partitions of `health` have reports.
    num_partitions: usize,
}

impl Reports {
    /// The reports in the records of `health`.
    ///
    /// # Errors
    /// When a report cannot be read.
    pub fn of(records: &[Record]) -> Result<Self> {
        let mut by_partition: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        let mut reports = Self::default();
        for record in records {
            reports.has_words |= record.header(WORD_HEADER).is_some();
            let Some(report) = suspect::of::<Report>(record, REPORT_HEADER).map_err(anyhow::Error::msg)? else {
                continue;
            };
            let text = String::from_utf8_lossy(record.header(REPORT_HEADER).unwrap_or_default()).into_owned();
            by_partition.entry(record.topic_partition.partition).or_default().push(text);
            let ended = reports.ended.entry(report.partition).or_insert(i64::MIN);
            *ended = report.panes.ended_us.max(*ended);
            // Each partition of `health` has a copy of each report.
            let is_own = record.topic_partition.partition == report.partition;
            for (as_of_us, drops) in report.drops.into_iter().filter(|_| is_own) {
                let known = reports.drops.entry((report.partition, as_of_us)).or_default();
                *known = (known.0 + drops.scored, known.1 + drops.dropped);
            }
            for pane in report.panes.suspect {
                reports.low.entry(pane.as_of_us).or_default().extend(pane.sources);
            }
        }
        by_partition.values_mut().for_each(|texts| texts.sort());
        reports.num_partitions = by_partition.len();
        let mut texts = by_partition.values();
        let first = texts.next();
        reports.is_same = texts.all(|other| Some(other) == first);
        Ok(reports)
    }

    /// Whether these say the same about panes, however it was cut into records.
    pub fn say_as(&self, other: &Self) -> bool {
        (&self.ended, &self.drops, &self.low) == (&other.ended, &other.drops, &other.low)
    }

    /// Up to which time every partition has ended its panes.
    pub fn ended_us(&self, partitions: i32) -> Option<i64> {
        self.ended
            .values()
            .min()
            .copied()
            .filter(|_| self.ended.len() == usize::try_from(partitions).unwrap_or_default())
    }
}

/// The events of each episode that must be published, by id. `rows` are all rows of `health` in log order.
///
/// # Errors
/// When partitions have different reports.
pub fn expected(rows: &[health::Row<'_>], reports: &Reports, config: &Config) -> Result<BTreeMap<String, Vec<String>>> {
    let is_whole = [0, usize::try_from(config.partitions)?].contains(&reports.num_partitions);
    ensure!(reports.is_same && is_whole, "partitions of health have other reports");
    let bounds = config.suspect.bounds(&config.aggregate);
    let ended_us = reports.ended_us(config.partitions).unwrap_or(i64::MIN);
    let finals = || rows.iter().filter(|row| row.is_final && row.as_of <= ended_us);
    let mut panes: BTreeMap<i64, (u64, u64)> = reports.low.keys().map(|as_of| (*as_of, (0, 0))).collect();
    for row in finals() {
        let (scored, dropped) = panes.entry(row.as_of).or_default();
        let is_compared = row.previous_as_of.is_some() && row.score.is_some() && !row.is_deleted && !row.is_retired;
        let is_band_known = row.band != Some("unknown") && row.previous_band != Some("unknown");
        *scored += u64::from(is_compared);
        *dropped += u64::from(
            is_compared
                && is_band_known
                && row.score < row.previous_score
                && row.band != row.previous_band
                && row.previous_score.is_some(),
        );
    }
    let is_falling = |(scored, dropped): (u64, u64)| {
        scored >= bounds.min_accounts && bounds.max_dropping.is_some_and(|share| dropped as f64 > share * scored as f64)
    };
    let suspect: Vec<i64> = panes
        .iter()
        .filter(|(as_of, counts)| reports.low.contains_key(*as_of) || is_falling(**counts))
        .map(|(as_of, _)| *as_of)
        .collect();
    let is_held = |as_of: i64| suspect.iter().any(|first| (*first..=first + bounds.settle_us).contains(&as_of));
    // The first pane after this one whose alerts are not held; then those of this one go out, too.
    let last_held = |as_of: i64| {
        suspect.iter().filter(|first| **first <= as_of).max().map_or(as_of, |first| first + bounds.settle_us)
    };
    let out_at = |as_of: i64| -> Option<i64> {
        if !is_held(as_of) {
            return Some(as_of);
        }
        let next = panes.keys().copied().find(|later| *later > as_of && !is_held(*later));
        let last = panes.keys().copied().filter(|later| *later >= as_of && next.is_none_or(|next| *later < next)).max();
        next.or(last.map(last_held).filter(|until| *until < ended_us))
    };
    let mut episodes: BTreeMap<String, Vec<(i64, String)>> = BTreeMap::new();
    for row in finals() {
        for trigger in row.triggers.iter().filter(|trigger| trigger.is_news) {
            let id = health::alert_id(row.account_id, trigger.name, &health::rfc3339(trigger.since));
            episodes.entry(id).or_default().push((row.as_of, trigger.state.to_owned()));
        }
    }
    let published = |events: Vec<(i64, String)>| -> Vec<String> {
        let (Some((begin, _)), end) = (events.first(), events.get(1)) else { return Vec::new() };
        let is_dropped = end.is_some_and(|(end, _)| is_held(*begin) && out_at(*begin).is_some_and(|out| *end <= out));
        if is_dropped {
            Vec::new()
        } else {
            events.into_iter().filter(|(at, _)| out_at(*at).is_some()).map(|(_, event)| event).collect()
        }
    };
    let all = episodes.into_iter().map(|(id, events)| (id, published(events)));
    Ok(all.filter(|(_, events)| !events.is_empty()).collect())
}
