//! Statements of time inside the topics, and the fold that turns them into a watermark.
//!
//! Behind the rows it covers, ingest publishes how far each source partition has come. Values merge by maximum, so
//! ingest keeps no state. Whether more is expected follows the latest statement. The watermark is the minimum over all
//! listed source partitions that may still hold back time. It never falls.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::Record;
use crate::suspect::SourceCount;
use keepwell_core::offset::NextOffset;

/// Header of an `events` record that contains a [`Statement`] as JSON.
pub const STATEMENT_HEADER: &str = "keepwell.statement";
/// Header of a record of any later topic that contains a [`Progress`] as JSON.
pub const PROGRESS_HEADER: &str = "keepwell.progress";

/// What ingest publishes about time in one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Whether the wall clock advances proven sources. Without it, proven sources are left out of the minimum.
    pub clock: bool,
    /// Every source that must report before the watermark exists.
    pub sources: Vec<Source>,
    /// Progress of the partitions that this ingest process owns.
    pub marks: Vec<Mark>,
    /// Events that were read since the last statement and within their bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<SourceCount>,
}

/// A raw topic that holds back the watermark until each of its partitions has reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Topic name.
    pub topic: String,
    /// Rises when the topic is deleted and made again.
    pub epoch: u32,
    /// Number of partitions. Values merge by maximum.
    pub partitions: i32,
}

/// Progress of one source partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Everything below this raw offset has been read.
    pub next: NextOffset,
    /// No event before this time is expected, UTC microseconds. For a complete partition it is the highest event time.
    /// Null if no event was read and the clock does not advance the partition.
    pub value_us: Option<i64>,
    /// Whether the partition is proven read to its end, or declared complete.
    pub state: SourceState,
}

/// Whether more events of a source partition are expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It is still being read, or its end is not proven.
    Reading,
    /// It is proven to be read to its end.
    Proven,
    /// It is declared complete up to its highest event time.
    Complete,
}

/// What aggregate and later stages publish about time in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The stage's watermark for this partition, UTC microseconds.
    pub watermark_us: Option<i64>,
    /// Whether every source was declared complete.
    pub complete: bool,
}

impl Progress {
    /// The progress that a record contains, if any.
    ///
    /// # Errors
    /// When its header cannot be decoded.
    pub fn of(record: &Record) -> Result<Option<Self>, serde_json::Error> {
        record.header(PROGRESS_HEADER).map(serde_json::from_slice).transpose()
    }

    /// The header of a record that contains this progress.
    pub fn header(&self) -> (String, Option<Vec<u8>>) {
        // A structure of numbers always has a JSON form.
        (PROGRESS_HEADER.to_owned(), Some(serde_json::to_vec(self).unwrap_or_default()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SourceProgress {
    next: NextOffset,
    value_us: Option<i64>,
    state: SourceState,
}

/// The fold of all statements of one `events` partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Watermarks {
    clock: bool,
    /// Topic -> (epoch, partitions).
    sources: BTreeMap<String, (u32, i32)>,
    progress: BTreeMap<(String, i32), SourceProgress>,
    watermark_us: Option<i64>,
}

impl Watermarks {
    /// Adds a statement and returns whether the watermark rose.
    pub fn observe(&mut self, statement: &Statement) -> bool {
        self.clock = statement.clock;
        for source in &statement.sources {
            let known = self.sources.entry(source.topic.clone()).or_insert((source.epoch, 0));
            // A topic that was made again contains other records, so its earlier statements are void.
            if source.epoch > known.0 {
                self.progress.retain(|(topic, _), _| *topic != source.topic);
                *known = (source.epoch, source.partitions);
            }
            known.1 = known.1.max(source.partitions);
        }
        for mark in &statement.marks {
            let progress = self.progress.entry((mark.topic.clone(), mark.partition)).or_insert(SourceProgress {
                next: mark.next,
                value_us: mark.value_us,
                state: mark.state,
            });
            progress.value_us = progress.value_us.max(mark.value_us);
            // The log contains statements in the order in which they were true, because a former owner is fenced. A
            // position falls only if the topic was made again, or is read once more.
            (progress.next, progress.state) = (mark.next, mark.state);
        }
        let before = self.watermark_us;
        self.watermark_us = before.max(self.minimum());
        self.watermark_us > before
    }

    /// No event before this time is expected. Null until every source has reported.
    pub fn watermark_us(&self) -> Option<i64> {
        self.watermark_us
    }

    /// Whether every listed source partition is declared complete.
    pub fn is_complete(&self) -> bool {
        let mut partitions = self.listed().peekable();
        partitions.peek().is_some()
            && partitions.all(|progress| progress.is_some_and(|h| h.state == SourceState::Complete))
    }

    /// Name, for people, of the listed partition that holds the watermark back.
    pub fn holder(&self) -> Option<String> {
        let names = self.sources.iter().flat_map(|(topic, (_, count))| (0..*count).map(move |p| (topic.clone(), p)));
        names
            .filter(|name| self.progress.get(name).is_none_or(|progress| self.holds_back(progress)))
            .min_by_key(|name| self.progress.get(name).and_then(|progress| progress.value_us))
            .map(|(topic, partition)| format!("{topic}-{partition}"))
    }

    fn listed(&self) -> impl Iterator<Item = Option<&SourceProgress>> {
        self.sources.iter().flat_map(|(topic, (_, count))| (0..*count).map(|p| self.progress.get(&(topic.clone(), p))))
    }

    fn holds_back(&self, progress: &SourceProgress) -> bool {
        match progress.state {
            SourceState::Reading => true,
            SourceState::Proven => self.clock,
            SourceState::Complete => false,
        }
    }

    /// The minimum over the listed partitions that hold back time. When all are complete, the maximum, which is the
    /// highest event time of all. Null if a partition has not reported.
    fn minimum(&self) -> Option<i64> {
        let mut minimum: Option<i64> = None;
        let mut maximum: Option<i64> = None;
        let mut all_complete = true;
        for progress in self.listed() {
            let progress = progress?;
            all_complete &= progress.state == SourceState::Complete;
            maximum = maximum.max(progress.value_us);
            if self.holds_back(progress) {
                let value_us = progress.value_us?;
                minimum = Some(minimum.map_or(value_us, |least| least.min(value_us)));
            }
        }
        if all_complete { maximum } else { minimum }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statement(clock: bool, partitions: i32, marks: &[(i32, i64, Option<i64>, SourceState)]) -> Statement {
        Statement {
            clock,
            sources: vec![Source { topic: "usage".into(), epoch: 0, partitions }],
            marks: marks.iter().map(|m| mark(*m)).collect(),
            counts: Vec::new(),
        }
    }

    fn mark((partition, next, value_us, state): (i32, i64, Option<i64>, SourceState)) -> Mark {
        Mark { topic: "usage".into(), partition, next: NextOffset(next), value_us, state }
    }

    use SourceState::{Complete, Proven, Reading};

    #[test]
    fn the_watermark_is_the_minimum_over_the_listed_partitions() {
        // clock, marks -> watermark
        #[allow(clippy::type_complexity, reason = "a table of cases")]
        let cases: [(bool, &[(i32, i64, Option<i64>, SourceState)], Option<i64>); 8] = [
            (true, &[(0, 1, Some(50), Reading)], None),
            (true, &[(0, 1, Some(50), Reading), (1, 1, Some(30), Reading)], Some(30)),
            (true, &[(0, 1, Some(50), Reading), (1, 1, Some(30), Proven)], Some(30)),
            (false, &[(0, 1, Some(50), Reading), (1, 1, Some(30), Proven)], Some(50)),
            (false, &[(0, 1, Some(50), Reading), (1, 0, None, Reading)], None),
            (false, &[(0, 1, Some(50), Proven), (1, 1, Some(30), Proven)], None),
            (false, &[(0, 1, Some(50), Complete), (1, 1, Some(30), Complete)], Some(50)),
            (true, &[(0, 1, Some(50), Complete), (1, 0, None, Complete)], Some(50)),
        ];
        for (clock, marks, expected) in cases {
            let mut watermarks = Watermarks::default();
            watermarks.observe(&statement(clock, 2, marks));
            assert_eq!(watermarks.watermark_us(), expected, "{clock} {marks:?}");
        }
    }

    #[test]
    fn a_source_that_was_read_to_its_end_holds_back_again_when_more_arrives() {
        let mut watermarks = Watermarks::default();
        watermarks.observe(&statement(false, 2, &[(0, 5, Some(50), Proven), (1, 1, Some(30), Reading)]));
        watermarks.observe(&statement(false, 2, &[(0, 6, Some(52), Reading), (1, 9, Some(90), Reading)]));
        assert_eq!(watermarks.watermark_us(), Some(52));
    }

    #[test]
    fn a_partition_never_heard_from_holds_back_time_and_is_named() {
        let mut watermarks = Watermarks::default();
        watermarks.observe(&statement(true, 3, &[(0, 1, Some(50), Reading), (2, 1, Some(30), Reading)]));
        assert_eq!((watermarks.watermark_us(), watermarks.holder()), (None, Some("usage-1".into())));
    }

    #[test]
    fn completion_ends_when_a_partition_is_read_further() {
        let mut watermarks = Watermarks::default();
        watermarks.observe(&statement(false, 1, &[(0, 5, Some(50), Complete)]));
        assert!(watermarks.is_complete());
        watermarks.observe(&statement(false, 1, &[(0, 6, Some(60), Reading)]));
        assert!(!watermarks.is_complete());
    }

    proptest! {
        #[test]
        fn the_watermark_never_falls_and_a_value_said_again_moves_nothing(
            marks in prop::collection::vec((0..3i32, 0..20i64, prop::option::of(0..100i64), 0..3usize), 1..40),
        ) {
            let states = [Reading, Proven, Complete];
            let mut watermarks = Watermarks::default();
            let mut before = None;
            for (partition, next, value_us, state) in &marks {
                watermarks.observe(&statement(true, 3, &[(*partition, *next, *value_us, states[*state])]));
                prop_assert!(watermarks.watermark_us() >= before);
                before = watermarks.watermark_us();
            }
            let settled = watermarks.clone();
            for ((topic, partition), progress) in &settled.progress {
                let again = (*partition, progress.next.0, progress.value_us.map(|us| us - 1), progress.state);
                prop_assert_eq!(topic, "usage");
                prop_assert!(!watermarks.observe(&statement(true, 3, &[again])));
            }
            prop_assert_eq!(watermarks, settled);
        }
    }
}
