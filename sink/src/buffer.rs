//! The buffer of one partition: records that were read and are not in files yet.

use std::collections::VecDeque;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use keepwell_core::codec::{self, CodecError};
use keepwell_core::offset::{NextOffset, Offset};
use keepwell_pipeline::record::Record;

use crate::claim::Claim;
use crate::held::held_bytes;
use crate::range_files::{File, Source};

/// A range without final rows is claimed only at this age. The claim lets the start position follow the log.
const EMPTY_AGE: Duration = Duration::from_secs(3600);

/// Whether a range must be cut before it is old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// No early cut.
    No,
    /// Cut if the range contains final rows: too much is buffered.
    Rows,
    /// Cut even if the range contains no final rows: nothing is read after it.
    All,
}

/// The buffer of one owned partition.
#[derive(Debug)]
pub struct PartitionBuffer {
    /// Source of the rows; it decides which tables they go to.
    pub source: Source,
    /// Schema of its records.
    schema: SchemaRef,
    /// Begin of the range.
    pub first: NextOffset,
    /// Next offset: behind the last record that was decoded.
    pub next: NextOffset,
    /// An unfinished claim that this process must fulfil. The range ends where the claim ends.
    pub adopted: Option<Claim>,
    /// End of the partition when this process took it over.
    pub drain_to: NextOffset,
    /// Records with final rows: the offset, these rows, and the memory they take in bytes.
    rows: Vec<(Offset, RecordBatch, usize)>,
    bytes: usize,
    since: Option<Duration>,
    /// Records that are not decoded yet, because a range must be cut first.
    waiting: VecDeque<Record>,
    waiting_bytes: usize,
    /// A claimed range with files still to be written.
    pub writing: Option<Writing>,
}

/// A claimed range. Its files are written one after another.
#[derive(Debug)]
pub struct Writing {
    /// Next offset: behind the last record of the range.
    pub end: NextOffset,
    /// Files still to be written.
    pub files: VecDeque<File>,
    /// Number of files of the range.
    pub num_files: usize,
}

/// How many rows of a record were read and dropped.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Number of rows read.
    pub read: u64,
    /// Number of live rows. They are dropped.
    pub live: u64,
}

impl PartitionBuffer {
    /// An empty buffer for a partition that starts at `first`. Its records have this schema.
    pub fn new(
        source: Source,
        schema: SchemaRef,
        first: NextOffset,
        adopted: Option<Claim>,
        drain_to: NextOffset,
    ) -> Self {
        Self {
            source,
            schema,
            first,
            next: first,
            adopted,
            drain_to,
            rows: Vec::new(),
            bytes: 0,
            since: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            writing: None,
        }
    }

    /// Adds a record that was read.
    pub fn queue(&mut self, record: Record) {
        self.waiting_bytes += record.value.as_ref().map_or(0, Bytes::len);
        self.waiting.push_back(record);
    }

    /// Offset of the record that is decoded next.
    pub fn first_waiting(&self) -> Option<Offset> {
        self.waiting.front().map(|record| record.offset)
    }

    /// Number of records that are not decoded yet.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Size in bytes of the records that are not decoded yet.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Decodes the next record, unless a range must be cut before it.
    ///
    /// # Errors
    /// [`CodecError`] when the record is not a batch of the source's table.
    pub fn decode_waiting(&mut self, now: Duration) -> Result<Option<Counts>, CodecError> {
        let is_beyond = |record: &Record| self.adopted.as_ref().is_some_and(|claim| record.offset.0 >= claim.end.0);
        if self.waiting.front().is_none_or(is_beyond) {
            return Ok(None);
        }
        let Some(record) = self.waiting.pop_front() else { return Ok(None) };
        self.waiting_bytes -= record.value.as_ref().map_or(0, Bytes::len);
        let mut counts = Counts { read: 0, live: 0 };
        if let Some(value) = &record.value {
            let batch = codec::decode_shared(value, &self.schema)?;
            let finals = self.source.finals(&batch)?;
            counts = Counts { read: batch.num_rows() as u64, live: (batch.num_rows() - finals.num_rows()) as u64 };
            if finals.num_rows() > 0 {
                let bytes = held_bytes(&finals, value);
                self.bytes += bytes;
                self.rows.push((record.offset, finals, bytes));
            }
        }
        self.next = record.offset.next();
        self.since.get_or_insert(now);
        Ok(Some(counts))
    }

    /// The consumer has read everything up to `end`. The transaction markers before `end` then belong to the range.
    pub fn pass_markers(&mut self, end: NextOffset, now: Duration) {
        if end > self.next && self.waiting.is_empty() {
            self.next = end;
            self.since.get_or_insert(now);
        }
    }

    /// End of the range to cut now, if a cut is due. It is due when an adopted claim is complete, when the buffer is
    /// old enough, or when a cut is wanted.
    /// A range with live rows only waits until it is old, or until the last cut: afterwards the records that were read
    /// may expire.
    pub fn range_due(&self, now: Duration, roll_age: Duration, wanted: Wanted) -> Option<NextOffset> {
        if let Some(writing) = &self.writing {
            return Some(writing.end);
        }
        if let Some(claim) = &self.adopted {
            let is_complete = self.next >= claim.end || self.waiting.front().is_some_and(|r| r.offset.0 >= claim.end.0);
            return is_complete.then_some(claim.end);
        }
        let age = if self.rows.is_empty() { EMPTY_AGE.max(roll_age) } else { roll_age };
        let is_old = self.since.is_some_and(|since| now.saturating_sub(since) >= age);
        let is_wanted = match wanted {
            Wanted::No => false,
            Wanted::Rows => !self.rows.is_empty(),
            Wanted::All => true,
        };
        (self.next > self.first && (is_old || is_wanted)).then_some(self.next)
    }

    /// Memory of the buffered final rows, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The final rows below `end`.
    pub fn rows_below(&self, end: NextOffset) -> Vec<RecordBatch> {
        self.rows.iter().filter(|(offset, ..)| offset.0 < end.0).map(|(_, rows, _)| rows.clone()).collect()
    }

    /// Marks the range up to `end` as written to its files. Returns its number of rows.
    pub fn written(&mut self, end: NextOffset, now: Duration) -> u64 {
        let below = self.rows.partition_point(|(offset, ..)| offset.0 < end.0);
        let written = self.rows.drain(..below).map(|(_, rows, _)| rows.num_rows() as u64).sum();
        (self.first, self.next, self.adopted, self.writing) = (end, self.next.max(end), None, None);
        self.bytes = self.rows.iter().map(|(.., bytes)| bytes).sum();
        self.since = (self.next > self.first).then_some(now);
        written
    }

    /// Whether nothing is buffered and the partition was read up to the end it had when this process took it over.
    pub fn is_drained(&self, met_end: Option<NextOffset>) -> bool {
        let is_read = self.next >= self.drain_to || met_end.is_some_and(|end| end >= self.drain_to);
        self.waiting.is_empty() && self.adopted.is_none() && is_read
    }
}

#[cfg(test)]
mod tests {
    use keepwell_core::codec::encode;
    use keepwell_core::offset::TopicPartition;
    use keepwell_core::schema::feature_day;

    use super::*;

    #[test]
    fn what_is_buffered_counts_as_the_memory_it_takes_and_not_as_the_record_it_came_in() {
        let mut rows = feature_day::Writer::default();
        for row in 0..1000 {
            rows.append(feature_day::Row {
                account_id: "a",
                as_of: 1_700_000_000_000_000,
                feature: "search",
                events: 1,
                uses: 1,
                users: 1,
                duration_ms: None,
                errors: None,
                epoch: 1,
                partition: 2,
                next_offset: 3,
                ordinal: row,
            });
        }
        let value = Bytes::from(encode(&rows.finish().unwrap()).unwrap());
        let mut record = Record::at(TopicPartition { topic: "t".into(), partition: 0 }, Offset(0));
        record.value = Some(value.clone());
        let mut buffer =
            PartitionBuffer::new(Source::FeatureDays, feature_day::schema(), NextOffset(0), None, NextOffset(1));
        buffer.queue(record);
        assert_eq!(buffer.waiting_bytes(), value.len());
        assert_eq!(buffer.decode_waiting(Duration::ZERO).unwrap().unwrap().read, 1000);
        // The time, the feature and the numbers are in the record once, and in memory in every row.
        assert!(buffer.bytes() > value.len() + 1000 * 8, "{} of {}", buffer.bytes(), value.len());
        buffer.written(NextOffset(1), Duration::ZERO);
        assert_eq!(buffer.bytes(), 0);
    }
}
