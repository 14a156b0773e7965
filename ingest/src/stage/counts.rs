//! Counts of the events of a source: by hour for aggregate, and by kind for the metrics.

use std::collections::BTreeMap;

use keepwell_core::event::Kind;
use keepwell_pipeline::suspect::{HOUR_US, SourceCount};

/// Hours since 1970-01-01 UTC, and the number of events in each.
pub(super) type Hours = BTreeMap<i64, u64>;

/// The events that one step reads from a source partition.
///
/// Only events within the bound of the source count by hour. They reach every partition of `events` before the watermark
/// passes their time, so that all partitions see the same count.
#[derive(Debug)]
pub(super) struct Counts {
    /// What was stated: no event before this time counts, UTC microseconds.
    floor_us: Option<i64>,
    bound_us: i64,
    /// Wall-clock time. Time does not run ahead of it.
    now_us: i64,
    hours: Hours,
    /// The hour of the last event, and how many follow each other in it.
    run: (i64, u64),
    kinds: [u64; Kind::ALL.len()],
}

impl Counts {
    /// No events yet, of a source partition that stated this time and has this bound.
    pub fn above(floor_us: Option<i64>, bound_us: i64, now_us: i64) -> Self {
        Self { floor_us, bound_us, now_us, hours: Hours::new(), run: (0, 0), kinds: [0; Kind::ALL.len()] }
    }

    /// Adds an event. `high_us` is the highest event time so far, this event included.
    pub fn add(&mut self, kind: Kind, occurred_us: i64, high_us: i64) {
        self.kinds[usize::from(kind.code()) - 1] += 1;
        if Some(occurred_us) < self.floor_us || occurred_us < high_us.min(self.now_us).saturating_sub(self.bound_us) {
            return;
        }
        let hour = occurred_us.div_euclid(HOUR_US);
        if self.run.0 != hour {
            self.end_run();
            self.run.0 = hour;
        }
        self.run.1 += 1;
    }

    fn end_run(&mut self) {
        let (hour, count) = std::mem::take(&mut self.run);
        if count > 0 {
            *self.hours.entry(hour).or_default() += count;
        }
    }

    /// Adds the counts to those of the step.
    pub fn add_to<'t>(
        mut self,
        topic: &'t str,
        hours: &mut BTreeMap<&'t str, Hours>,
        kinds: &mut BTreeMap<(String, &'static str), u64>,
    ) {
        self.end_run();
        if !self.hours.is_empty() {
            let of_topic = hours.entry(topic).or_default();
            self.hours.into_iter().for_each(|(hour, count)| *of_topic.entry(hour).or_default() += count);
        }
        for (kind, count) in Kind::ALL.iter().zip(self.kinds).filter(|(_, count)| *count > 0) {
            *kinds.entry((topic.to_owned(), kind.name())).or_default() += count;
        }
    }
}

/// The most hours in one header.
const MAX_HOURS: usize = 10_000;

/// The counts in pieces that each fit into a header: those that need headers of their own, and the last one.
pub(super) fn pieces(counts: BTreeMap<&str, Hours>) -> (Vec<Vec<SourceCount>>, Vec<SourceCount>) {
    let (mut pieces, mut piece, mut num_hours) = (Vec::new(), Vec::new(), 0);
    for (topic, hours) in counts {
        let hours: Vec<(i64, u64)> = hours.into_iter().collect();
        for hours in hours.chunks(MAX_HOURS) {
            num_hours += hours.len();
            if num_hours > MAX_HOURS {
                num_hours = hours.len();
                pieces.push(std::mem::take(&mut piece));
            }
            piece.push(SourceCount { topic: topic.to_owned(), hours: hours.to_vec() });
        }
    }
    (pieces, piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(floor_us: Option<i64>, bound_h: i64, at: &[i64]) -> Vec<(i64, u64)> {
        let mut counts = Counts::above(floor_us, bound_h * HOUR_US, 99 * HOUR_US);
        let mut high_us = i64::MIN;
        for hour in at {
            let at_us = hour * HOUR_US + 5;
            high_us = high_us.max(at_us);
            counts.add(Kind::Usage, at_us, high_us);
        }
        let (mut by_topic, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        counts.add_to("t", &mut by_topic, &mut kinds);
        assert_eq!(kinds, BTreeMap::from([(("t".to_owned(), "usage"), at.len() as u64)]));
        by_topic.remove("t").unwrap_or_default().into_iter().collect()
    }

    #[test]
    fn counts_of_many_hours_go_into_several_headers_and_none_is_lost() {
        let hours = |count: i64| (0..count).map(|hour| (hour, 1)).collect::<Hours>();
        let (earlier, last) = pieces([("a", hours(25_000)), ("b", hours(3)), ("c", hours(9_999))].into());
        let num_hours = |piece: &Vec<SourceCount>| piece.iter().map(|count| count.hours.len()).collect::<Vec<_>>();
        let all: Vec<Vec<usize>> = earlier.iter().chain([&last]).map(num_hours).collect();
        assert_eq!(all, [vec![10_000], vec![10_000], vec![5_000, 3], vec![9_999]]);
        assert_eq!(pieces(BTreeMap::new()), (Vec::new(), Vec::new()));
    }

    #[test]
    fn events_count_in_their_hour_unless_they_are_beyond_the_bound_or_what_was_stated() {
        assert_eq!(hours(None, 2, &[5, 5, 6, 5, 4, 6]), [(4, 1), (5, 3), (6, 2)]);
        assert_eq!(hours(None, 1, &[5, 7, 5, 6]), [(5, 1), (6, 1), (7, 1)]);
        assert_eq!(hours(Some(6 * HOUR_US), 9, &[5, 6, 7, 5]), [(6, 1), (7, 1)]);
        assert_eq!(hours(None, 1, &[-1, 0]), [(-1, 1), (0, 1)]);
        // A clock that is ahead makes no other event late.
        assert_eq!(hours(None, 1, &[98, 99, 105, 98]), [(98, 2), (99, 1), (105, 1)]);
    }
}
