//! One partition in memory: records, markers that end transactions, and what open transactions hide.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::log::Ends;
use crate::record::{Message, Record};
use keepwell_core::offset::{NextOffset, Offset, TopicPartition};

/// The number of a transaction.
pub(super) type Serial = u64;

/// Records in order of their offsets. A marker takes an offset but is not a record.
#[derive(Debug, Default)]
pub(super) struct Partition {
    entries: Vec<Entry>,
    first: i64,
    next: i64,
    /// First offset of each open transaction.
    open: BTreeMap<Serial, i64>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Committed,
    Open(Serial),
    Aborted,
}

impl Partition {
    /// Writes a record, in a transaction or outside of one.
    pub fn append(&mut self, of: TopicPartition, message: &Message, within: Option<Serial>) {
        let record = Record {
            timestamp_ms: message.timestamp_ms.unwrap_or_default(),
            key: message.key.clone(),
            value: message.value.clone().map(Bytes::from),
            headers: message.headers.clone(),
            ..Record::at(of, Offset(self.next))
        };
        let state = match within {
            Some(serial) => {
                self.open.entry(serial).or_insert(self.next);
                State::Open(serial)
            }
            None => State::Committed,
        };
        self.entries.push(Entry { record, state });
        self.next += 1;
    }

    /// Adds a record at its own offset, which must not be below the end.
    pub fn put(&mut self, record: &Record) {
        self.next = record.offset.next().0.max(self.next);
        self.entries.push(Entry { record: record.clone(), state: State::Committed });
    }

    /// Ends a transaction in this partition. Does nothing if it wrote nothing here.
    pub fn end(&mut self, serial: Serial, is_commit: bool) {
        let Some(first) = self.open.remove(&serial) else { return };
        let from = self.at(first);
        let state = if is_commit { State::Committed } else { State::Aborted };
        for entry in self.entries.iter_mut().skip(from).filter(|entry| entry.state == State::Open(serial)) {
            entry.state = state;
        }
        self.next += 1;
    }

    /// The last stable offset. Records behind it are not visible, because a transaction that began there is open.
    pub fn stable_end(&self) -> NextOffset {
        NextOffset(self.open.values().copied().min().unwrap_or(self.next))
    }

    pub fn ends(&self) -> Ends {
        Ends { first: NextOffset(self.first), next: NextOffset(self.next) }
    }

    /// Removes the records below an offset, as retention does.
    pub fn expire(&mut self, below: NextOffset) {
        self.first = below.0.clamp(self.first, self.next);
        let kept = self.at(self.first);
        self.entries.drain(..kept);
    }

    /// The committed records from an offset onwards.
    pub fn read(&self, from: NextOffset) -> impl Iterator<Item = &Record> {
        let end = self.stable_end().0;
        let is_shown = |entry: &&Entry| entry.state == State::Committed;
        self.entries
            .iter()
            .skip(self.at(from.0))
            .take_while(move |entry| entry.record.offset.0 < end)
            .filter(is_shown)
            .map(|entry| &entry.record)
    }

    fn at(&self, offset: i64) -> usize {
        self.entries.partition_point(|entry| entry.record.offset.0 < offset)
    }
}
