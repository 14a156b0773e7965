//! Typed positions: the offset of a record, the next record to read, and the progress of a stage.
//!
//! An [`Offset`] names a record. A [`NextOffset`] names the record to read next, as Kafka commits it. They differ by
//! one, and separate types keep them from being confused.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The offset of one record in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Offset(pub i64);

impl Offset {
    /// The position behind this record.
    pub fn next(self) -> NextOffset {
        NextOffset(self.0 + 1)
    }
}

/// The offset of the record to read next: everything below it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NextOffset(pub i64);

impl fmt::Display for NextOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The progress of a stage in one partition. `next` is the record to read next. `slice` is how many slices of that
/// record's output are already written (0: none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Record to read next.
    pub next: NextOffset,
    /// Number of slices of record `next` that are already written.
    pub slice: u32,
    /// What ingest remembers of a raw topic.
    pub times: SourceTimes,
}

/// What ingest remembers of a partition of a raw topic. It is all of its state, so it is kept in the committed position
/// instead of a snapshot. For other stages it is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceTimes {
    /// Highest event time read so far, UTC microseconds.
    pub high_us: Option<i64>,
    /// Progress of the partition in event time, UTC microseconds. It is the highest event time, or the clock if the
    /// partition is proven read to its end. None if the partition holds nothing back. Other members read it, too.
    pub reached_us: Option<i64>,
    /// The highest time that was stated of the partition, UTC microseconds: no event before it is expected.
    pub stated_us: Option<i64>,
}

impl Position {
    /// The position in front of record `next`.
    pub fn at(next: NextOffset) -> Self {
        Self { next, slice: 0, times: SourceTimes::default() }
    }

    /// Metadata of this position for a Kafka commit, e.g. `slice=2 high_us=1700000000000000`.
    pub fn metadata(&self) -> String {
        let mut words = format!("slice={}", self.slice);
        for (name, time_us) in [
            ("high_us", self.times.high_us),
            ("reached_us", self.times.reached_us),
            ("stated_us", self.times.stated_us),
        ] {
            if let Some(time_us) = time_us {
                words += &format!(" {name}={time_us}");
            }
        }
        words
    }

    /// Parses the result of [`Position::metadata`]. Empty metadata, as after a reset by another tool, means slice 0.
    ///
    /// # Errors
    /// [`MetadataError`] when a word has another form. Then another program wrote the position.
    pub fn parse(next: NextOffset, metadata: &str) -> Result<Self, MetadataError> {
        let mut position = Self::at(next);
        for word in metadata.split_ascii_whitespace() {
            let wrong = || MetadataError { metadata: metadata.to_owned(), word: word.to_owned() };
            match word.split_once('=').ok_or_else(wrong)? {
                ("slice", n) => position.slice = u32::from_str(n).map_err(|_| wrong())?,
                ("high_us", n) => position.times.high_us = Some(i64::from_str(n).map_err(|_| wrong())?),
                ("reached_us", n) => position.times.reached_us = Some(i64::from_str(n).map_err(|_| wrong())?),
                ("stated_us", n) => position.times.stated_us = Some(i64::from_str(n).map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
        }
        Ok(position)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.next)?;
        if self.slice > 0 {
            write!(f, " (slice {})", self.slice)?;
        }
        Ok(())
    }
}

/// Commit metadata that [`Position::parse`] cannot read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "commit metadata {metadata:?} has the unknown word {word:?}; was this group's position written by another program?"
)]
pub struct MetadataError {
    metadata: String,
    word: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_its_metadata() {
        let position = Position {
            next: NextOffset(7),
            slice: 3,
            times: SourceTimes { high_us: Some(-5), reached_us: Some(8), stated_us: Some(9) },
        };
        assert_eq!(Position::parse(NextOffset(7), &position.metadata()), Ok(position));
        assert_eq!(Position::parse(NextOffset(7), ""), Ok(Position::at(NextOffset(7))));
    }

    #[test]
    fn foreign_metadata_is_refused_by_name() {
        let error = Position::parse(NextOffset(7), "leader=4").unwrap_err();
        assert!(error.to_string().contains("leader=4"), "{error}");
    }

    #[test]
    fn an_offset_and_its_next_differ_by_one() {
        assert_eq!(Offset(41).next(), NextOffset(42));
    }
}
