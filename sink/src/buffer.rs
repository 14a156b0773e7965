//! What is buffered of one partition: records read and not yet in files.

use std::collections::VecDeque;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use keepwell_core::codec::{self, CodecError};
use keepwell_core::offset::{NextOffset, Offset};
use keepwell_pipeline::record::Record;

use crate::claim::Claim;
use crate::range_files::{File, Source};

/// Rows of live records only are claimed this late: the place to go on from follows the log.
const EMPTY_AGE: Duration = Duration::from_secs(3600);

/// Whether a range is to be cut before it is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// No.
    No,
    /// If it holds rows: too much is buffered.
    Rows,
    /// Also if it holds none: nothing is read after it.
    All,
}

/// One owned partition.
#[derive(Debug)]
pub struct PartitionBuffer {
    /// Its table or tables.
    pub source: Source,
    /// Where the range begins.
    pub first: NextOffset,
    /// Behind the last record taken in.
    pub next: NextOffset,
    /// A claim to be fulfilled: the range ends where it says.
    pub adopted: Option<Claim>,
    /// End of the partition when it was taken up.
    pub drain_to: NextOffset,
    /// Records that hold final rows: those rows, and the size of the record.
    rows: Vec<(Offset, RecordBatch, usize)>,
    bytes: usize,
    since: Option<Duration>,
    /// Records not yet taken in: a range must be cut first.
    waiting: VecDeque<Record>,
    waiting_bytes: usize,
    /// A claimed range whose files are being written.
    pub writing: Option<Writing>,
}

/// A claimed range whose files are being written, one after another.
#[derive(Debug)]
pub struct Writing {
    /// Behind the last record of the range.
    pub end: NextOffset,
    /// Files still to be written.
    pub files: VecDeque<File>,
    /// Files of the range.
    pub num_files: usize,
}

/// What became of the rows of a record.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Rows read.
    pub read: u64,
    /// Live rows: they are dropped.
    pub live: u64,
}

impl PartitionBuffer {
    /// A partition taken up at `first`.
    pub fn new(source: Source, first: NextOffset, adopted: Option<Claim>, drain_to: NextOffset) -> Self {
        Self {
            source,
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

    /// A record that was read.
    pub fn queue(&mut self, record: Record) {
        self.waiting_bytes += record.value.as_ref().map_or(0, Bytes::len);
        self.waiting.push_back(record);
    }

    /// The record that is taken in next.
    pub fn first_waiting(&self) -> Option<Offset> {
        self.waiting.front().map(|record| record.offset)
    }

    /// Records not yet taken in.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of records not yet taken in.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Takes the next record in, unless a range must be cut before it.
    ///
    /// # Errors
    /// [`CodecError`] when it is not of the source's table.
    pub fn decode_waiting(&mut self, now: Duration) -> Result<Option<Counts>, CodecError> {
        let is_beyond = |record: &Record| self.adopted.as_ref().is_some_and(|claim| record.offset.0 >= claim.end.0);
        if self.waiting.front().is_none_or(is_beyond) {
            return Ok(None);
        }
        let Some(record) = self.waiting.pop_front() else { return Ok(None) };
        self.waiting_bytes -= record.value.as_ref().map_or(0, Bytes::len);
        let mut counts = Counts { read: 0, live: 0 };
        if let Some(value) = &record.value {
            let batch = codec::decode_shared(value, &self.source.schema())?;
            let finals = self.source.finals(&batch)?;
            counts = Counts { read: batch.num_rows() as u64, live: (batch.num_rows() - finals.num_rows()) as u64 };
            if finals.num_rows() > 0 {
                self.bytes += value.len();
                self.rows.push((record.offset, finals, value.len()));
            }
        }
        self.next = record.offset.next();
        self.since.get_or_insert(now);
        Ok(Some(counts))
    }

    /// All up to the end is read: the markers there are in the range.
    pub fn pass_markers(&mut self, end: NextOffset, now: Duration) {
        if end > self.next && self.waiting.is_empty() {
            self.next = end;
            self.since.get_or_insert(now);
        }
    }

    /// Where to cut now, if it is time: an adopted claim is complete, what is buffered is old enough, or it is wanted.
    /// Rows of live records alone wait until they are old, or until the last cut: what was read may expire afterwards.
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

    /// Size of the records whose final rows are buffered.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The final rows below `end`.
    pub fn rows_below(&self, end: NextOffset) -> Vec<RecordBatch> {
        self.rows.iter().filter(|(offset, ..)| offset.0 < end.0).map(|(_, rows, _)| rows.clone()).collect()
    }

    /// The range up to `end` is in its files. Returns how many rows that were.
    pub fn written(&mut self, end: NextOffset, now: Duration) -> u64 {
        let below = self.rows.partition_point(|(offset, ..)| offset.0 < end.0);
        let written = self.rows.drain(..below).map(|(_, rows, _)| rows.num_rows() as u64).sum();
        (self.first, self.next, self.adopted, self.writing) = (end, self.next.max(end), None, None);
        self.bytes = self.rows.iter().map(|(.., bytes)| bytes).sum();
        self.since = (self.next > self.first).then_some(now);
        written
    }

    /// Whether nothing is buffered and the partition was read to where it ended when it was taken up.
    pub fn is_drained(&self, met_end: Option<NextOffset>) -> bool {
        let is_read = self.next >= self.drain_to || met_end.is_some_and(|end| end >= self.drain_to);
        self.waiting.is_empty() && self.adopted.is_none() && is_read
    }
}
