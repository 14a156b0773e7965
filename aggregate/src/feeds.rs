//! The usual number of events of each source, and the panes in which a source has far fewer.
//!
//! The counts come with the statements of ingest, the same in every partition of `events`. When the watermark passes the
//! end of a pane, the hours that end in it are complete. A pane is judged before its hours become part of what is usual.

use std::collections::BTreeMap;

use keepwell_pipeline::config::Suspect;
use keepwell_pipeline::suspect::{HOUR_US, SourceCount, SuspectPane};
use serde::{Deserialize, Serialize};

/// Hours of a week. Hour 0 is that of 1970-01-01 00:00 UTC, a Thursday.
const HOURS: usize = 168;
/// The most weeks that are kept. How many of them count is configured.
const WEEKS: usize = 8;
/// The smallest usual number of an hour of which a share is shown. Half of it or less comes by chance once in a hundred
/// hours.
const LEAST_SHOWN: u64 = 20;

/// What each source usually sends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Feeds {
    sources: BTreeMap<String, Feed>,
    /// Hours before this one are complete. None before the first pane has ended.
    complete: Option<i64>,
}

/// What one source usually sends.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Feed {
    /// Events of hours that are not complete.
    open: BTreeMap<i64, u64>,
    /// Counts of the last weeks: by hour of the week, then newest first.
    past: Vec<[u32; WEEKS]>,
    /// How many weeks are known, by hour of the week.
    num_weeks: Vec<u8>,
    /// The first hour with an event. What is before it counts for nothing.
    first: i64,
    /// Whether the source had far fewer events than usual in the last hours that were judged.
    is_low: bool,
    /// Events in the last hour that is part of the past, and the usual number before.
    last: Option<(u64, u64)>,
}

impl Feed {
    /// The usual number of events in an hour, from at least two weeks. Of an even number of weeks the greater of the two
    /// in the middle counts: so an outage in half of the weeks is not usual.
    fn usual(&self, hour: i64, weeks: usize) -> Option<u64> {
        let known = usize::from(*self.num_weeks.get(of_week(hour))?).min(weeks);
        let mut last = *self.past.get(of_week(hour))?;
        let last = last.get_mut(..known)?;
        last.sort_unstable();
        last.get(known / 2).filter(|_| known >= 2).map(|count| u64::from(*count))
    }

    fn remember(&mut self, hour: i64, count: u64) {
        self.past.resize(HOURS, [0; WEEKS]);
        self.num_weeks.resize(HOURS, 0);
        if let (Some(past), Some(known)) = (self.past.get_mut(of_week(hour)), self.num_weeks.get_mut(of_week(hour))) {
            past.rotate_right(1);
            past[0] = u32::try_from(count).unwrap_or(u32::MAX);
            *known = (*known + 1).min(WEEKS as u8);
        }
    }

    /// Judges hours that are complete now, and adds them to the past.
    fn complete(&mut self, hours: std::ops::Range<i64>, suspect: &Suspect) {
        let (mut events, mut usually, mut is_any) = (0, 0, false);
        for hour in hours.start.max(self.first)..hours.end {
            let count = self.open.remove(&hour).unwrap_or_default();
            let usual = self.usual(hour, usize::from(suspect.weeks));
            self.last = usual.map(|usual| (count, usual));
            if let Some(usual) = usual {
                (events, usually, is_any) = (count.saturating_add(events), usual.saturating_add(usually), true);
            }
            self.remember(hour, count);
        }
        self.open.retain(|hour, _| *hour >= hours.end);
        if is_any {
            let is_judged = usually >= suspect.min_events;
            self.is_low = is_judged && (events as f64) < suspect.below * usually as f64;
        }
    }
}

/// Index of an hour in its week.
fn of_week(hour: i64) -> usize {
    hour.rem_euclid(HOURS as i64) as usize
}

impl Feeds {
    /// Adds the counts of a statement. Hours that are complete already do not change.
    pub fn add(&mut self, counts: &[SourceCount]) {
        for SourceCount { topic, hours } in counts {
            let Some(first) = hours.iter().map(|(hour, _)| *hour).min() else { continue };
            let feed = self.sources.entry(topic.clone()).or_insert_with(|| Feed { first, ..Feed::default() });
            if feed.past.is_empty() {
                feed.first = feed.first.min(first);
            }
            for (hour, count) in hours.iter().filter(|(hour, _)| Some(*hour) >= self.complete) {
                let known = feed.open.entry(*hour).or_default();
                *known = known.saturating_add(*count);
            }
        }
    }

    /// Completes the hours up to the end of a pane, UTC microseconds. Returns the pane if a source is far below its usual
    /// number in them. A pane in which no hour ends is judged as the one before.
    pub fn end(&mut self, end_us: i64, suspect: &Suspect) -> Option<SuspectPane> {
        if self.sources.is_empty() {
            return None;
        }
        let end = end_us.div_euclid(HOUR_US);
        let start = self.complete.unwrap_or(i64::MIN);
        if start < end {
            self.sources.values_mut().for_each(|feed| feed.complete(start..end, suspect));
            self.complete = Some(end);
        }
        let low = self.sources.iter().filter(|(_, feed)| feed.is_low).map(|(topic, _)| topic.clone());
        let sources: Vec<String> = low.collect();
        (!sources.is_empty()).then_some(SuspectPane { as_of_us: end_us, sources })
    }

    /// The first hour with an event of any source.
    pub fn first(&self) -> Option<i64> {
        self.sources.values().map(|feed| feed.first).min()
    }

    /// Events of each source in the last hour that ended by a watermark, as a share of the usual number. NaN where that is
    /// unknown or so small that chance decides.
    pub fn shares(&self, watermark_us: i64, suspect: &Suspect) -> Vec<(String, f64)> {
        let share = |(count, usual): (u64, u64)| count as f64 / usual as f64;
        let hour = watermark_us.div_euclid(HOUR_US) - 1;
        let of_feed = |feed: &Feed| {
            let is_open = self.complete.is_some_and(|complete| hour >= complete);
            let open = || {
                Some((feed.open.get(&hour).copied().unwrap_or_default(), feed.usual(hour, usize::from(suspect.weeks))?))
            };
            let last = if is_open { open() } else { feed.last };
            last.filter(|(_, usual)| *usual >= LEAST_SHOWN).map_or(f64::NAN, share)
        };
        self.sources.iter().map(|(topic, feed)| (topic.clone(), of_feed(feed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges days with these numbers of events an hour, `hours` hours a pane. Returns a letter a pane: `.` as usual, `S`
    /// suspect.
    fn judged(suspect: &Suspect, hours: i64, per_hour: &[u64]) -> String {
        let mut feeds = Feeds::default();
        let panes = per_hour.iter().zip(0..).map(|(count, pane)| {
            let of_pane = (pane * hours..(pane + 1) * hours).map(|hour| (hour, *count)).filter(|(_, count)| *count > 0);
            feeds.add(&[SourceCount { topic: "usage".into(), hours: of_pane.collect() }]);
            let suspect = feeds.end((pane + 1) * hours * HOUR_US, suspect);
            if suspect.is_some() { 'S' } else { '.' }
        });
        panes.collect()
    }

    fn weeks(of_days: &[u64; 7], count: usize) -> Vec<u64> {
        of_days.repeat(count)
    }

    #[test]
    fn a_day_without_events_is_suspect_once_two_weeks_told_what_is_usual() {
        let mut days = weeks(&[10; 7], 3);
        days.extend([0, 10, 4, 5]);
        assert_eq!(judged(&Suspect::default(), 24, &days), format!("{}S.S.", ".".repeat(21)));
        let mut early = weeks(&[10; 7], 1);
        early.extend([0; 7]);
        assert_eq!(judged(&Suspect::default(), 24, &early), ".".repeat(14));
    }

    #[test]
    fn a_quiet_weekend_is_usual_and_a_small_source_is_not_judged() {
        let mut days = weeks(&[10, 10, 10, 10, 10, 0, 0], 4);
        assert_eq!(judged(&Suspect::default(), 24, &days), ".".repeat(28));
        days.extend([10, 0]);
        assert_eq!(judged(&Suspect::default(), 24, &days), format!("{}S", ".".repeat(29)));
        let mut small = weeks(&[4; 7], 4);
        small.push(0);
        assert_eq!(judged(&Suspect::default(), 24, &small), ".".repeat(29), "96 events a day are fewer than 100");
    }

    #[test]
    fn what_has_lasted_for_more_than_half_of_the_weeks_is_the_new_usual() {
        let mut days = weeks(&[10; 7], 4);
        days.extend([1; 28]);
        assert_eq!(
            judged(&Suspect::default(), 24, &days),
            format!("{}{}{}", ".".repeat(28), "S".repeat(21), ".".repeat(7))
        );
        let of_eight = Suspect { weeks: 8, ..Suspect::default() };
        assert_eq!(judged(&of_eight, 24, &days).matches('S').count(), 28);
    }

    #[test]
    fn a_pane_of_minutes_is_judged_as_the_last_hour_that_ended() {
        let suspect = Suspect { min_events: 5, ..Suspect::default() };
        let mut feeds = Feeds::default();
        let mut line = String::new();
        for quarter in 0..(2 * 168 + 2) * 4 {
            let (hour, end_us) = (quarter / 4, (quarter + 1) * HOUR_US / 4);
            let count = if hour == 2 * 168 { 0 } else { 5 };
            feeds.add(&[SourceCount { topic: "usage".into(), hours: vec![(hour, count)] }]);
            line.push(if feeds.end(end_us, &suspect).is_some() { 'S' } else { '.' });
        }
        assert_eq!(&line[line.len() - 8..], "...SSSS.");
    }

    #[test]
    fn a_share_is_told_from_the_first_hour_behind_the_last_pane_on() {
        let mut feeds = Feeds::default();
        for week in 0..3 {
            feeds.add(&[SourceCount { topic: "usage".into(), hours: vec![(week * 168, 20), (week * 168 + 1, 40)] }]);
            feeds.end((week * 168 + 1) * HOUR_US, &Suspect::default());
        }
        feeds.add(&[SourceCount { topic: "usage".into(), hours: vec![(2 * 168 + 1, 20)] }]);
        let (_, share) = feeds.shares((2 * 168 + 2) * HOUR_US, &Suspect::default())[0];
        assert!((share - 1.5).abs() < f64::EPSILON, "{share}");
    }

    #[test]
    fn what_is_told_of_an_hour_that_is_complete_changes_nothing_and_a_share_is_that_of_the_last_hour() {
        let mut feeds = Feeds::default();
        for week in 0..3 {
            feeds.add(&[SourceCount { topic: "usage".into(), hours: vec![(week * 168, 20)] }]);
            feeds.end((week * 168 + 1) * HOUR_US, &Suspect::default());
        }
        let share = |feeds: &Feeds, hour: i64| feeds.shares(hour * HOUR_US, &Suspect::default())[0].1;
        assert!((share(&feeds, 2 * 168 + 1) - 1.0).abs() < f64::EPSILON);
        let before = feeds.clone();
        feeds.add(&[SourceCount { topic: "usage".into(), hours: vec![(2, 5)] }]);
        assert_eq!(feeds, before);
        feeds.add(&[SourceCount { topic: "usage".into(), hours: vec![(3 * 168, 5)] }]);
        // The hour is told when it has ended, before its pane has.
        assert!((share(&feeds, 3 * 168 + 1) - 0.25).abs() < f64::EPSILON);
        assert!(share(&feeds, 3 * 168 + 2).is_nan(), "nobody knows what is usual in the hour behind it");
        feeds.end((3 * 168 + 1) * HOUR_US, &Suspect::default());
        assert!((share(&feeds, 3 * 168 + 1) - 0.25).abs() < f64::EPSILON);
    }
}
