//! Positions that the client cannot read: bad compression, a bad checksum, or a batch above its limit.
//!
//! The client does not report where the unreadable range ends. If it may be passed by, a second reader tries one offset
//! after the other until one can be read. So the readable neighbours of a bad batch are read, whatever its size.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset as KafkaOffset, consumer::DefaultConsumerContext};

use tracing::warn;

use super::KafkaLog;
use super::settings::{Settings, not_made};
use crate::log::{Log, LogError};
use crate::record::Record;
use keepwell_core::offset::{NextOffset, Offset, TopicPartition};

/// Number of tries before a position counts as unreadable. The connection may have damaged the bytes.
const TRIES: u32 = 3;
/// How long to search for the end of an unreadable range between two polls of the group.
const TURN: Duration = Duration::from_millis(200);
/// Wait for one answer.
const ANSWER: Duration = Duration::from_millis(100);

/// Whether the bytes at a position are not records, or exceed the client's limit.
pub(super) fn is_unreadable(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        BadCompression, BadMessage, InvalidMessage, InvalidMessageSize, MessageSizeTooLarge, NotImplemented,
    };
    matches!(
        error.rdkafka_error_code(),
        Some(BadMessage | BadCompression | NotImplemented | InvalidMessage | InvalidMessageSize | MessageSizeTooLarge)
    )
}

impl KafkaLog {
    /// Reads failed positions again, because the client may have continued behind them.
    pub(super) fn read_again(&mut self, failed: Vec<(TopicPartition, NextOffset, String)>) -> Result<(), LogError> {
        for (tp, at, why) in failed {
            if self.unreadable.failed(&tp, at, why.clone()) {
                warn!(partition = %tp, offset = %at, why, "cannot be read; --pass-by TOPIC:PARTITION=OFFSET passes it by");
            }
            self.start(&BTreeMap::from([(tp, at)]))?;
        }
        Ok(())
    }

    /// Records that replace the positions passed by. Reading continues behind them.
    pub(super) fn passed_by(&mut self) -> Result<Vec<Record>, LogError> {
        if self.unreadable.is_empty() {
            return Ok(Vec::new());
        }
        let settings = self.settings.clone();
        let passed = self.unreadable.pass_by(&settings)?;
        for record in &passed {
            let next = record.offset.next();
            warn!(partition = %record.topic_partition, why = record.unreadable, %next, "passed by");
            self.start(&BTreeMap::from([(record.topic_partition.clone(), next)]))?;
        }
        Ok(passed)
    }
}

/// Replaces a readable record that an operator named to be passed by.
pub(super) fn passed_by(tp: &TopicPartition, message: &BorrowedMessage<'_>) -> Record {
    warn!(partition = %tp, offset = message.offset(), "passed by, as --pass-by says");
    let why = Some(format!("offset {} is passed by, as an operator named it", message.offset()));
    Record { unreadable: why, ..Record::at(tp.clone(), Offset(message.offset())) }
}

/// Partitions that cannot be read at their positions.
#[derive(Default)]
pub(super) struct Unreadable {
    partitions: BTreeMap<TopicPartition, Trouble>,
}

struct Trouble {
    at: NextOffset,
    tries: u32,
    why: String,
    search: Option<Search>,
}

/// A search for the first readable offset.
struct Search {
    reader: BaseConsumer<DefaultConsumerContext>,
    at: NextOffset,
}

impl Unreadable {
    /// Whether everything can be read.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Notes a failed read. Returns true when the position has just become unreadable.
    pub fn failed(&mut self, tp: &TopicPartition, at: NextOffset, why: String) -> bool {
        let trouble = self.partitions.entry(tp.clone()).or_insert_with(|| Trouble {
            at,
            tries: 0,
            why: String::new(),
            search: None,
        });
        if trouble.at != at {
            (trouble.at, trouble.tries, trouble.search) = (at, 0, None);
        }
        trouble.tries = trouble.tries.saturating_add(1);
        trouble.why = why;
        trouble.tries == TRIES
    }

    /// Forgets a partition that is read again or no longer owned.
    pub fn forget(&mut self, tp: &TopicPartition) {
        self.partitions.remove(tp);
    }

    /// The first unreadable partition, its position and the reason.
    pub fn first(&self) -> Option<(TopicPartition, NextOffset, String)> {
        let settled = self.partitions.iter().find(|(_, trouble)| trouble.tries >= TRIES);
        settled.map(|(tp, trouble)| (tp.clone(), trouble.at, trouble.why.clone()))
    }

    /// Continues the search behind positions that may be passed by. Returns a record for each finished search.
    ///
    /// # Errors
    /// [`LogError::Configuration`] when the client rejects its configuration.
    pub fn pass_by(&mut self, settings: &Settings) -> Result<Vec<Record>, LogError> {
        let mut passed = Vec::new();
        for (tp, trouble) in &mut self.partitions {
            if trouble.tries >= TRIES && settings.may_pass(tp, trouble.at) {
                passed.extend(match settings.named_end(tp, trouble.at) {
                    Some(end) => Some(trouble.passed_below(tp, end)),
                    None => trouble.look(settings, tp)?,
                });
            }
        }
        passed.iter().for_each(|record| self.forget(&record.topic_partition));
        Ok(passed)
    }
}

impl Trouble {
    /// A record in place of all positions below `end`.
    fn passed_below(&self, tp: &TopicPartition, end: NextOffset) -> Record {
        let last = Offset(end.0 - 1);
        let why = format!("offsets {} to {} cannot be read: {}", self.at, last.0, self.why);
        Record { unreadable: Some(why), ..Record::at(tp.clone(), last) }
    }

    fn look(&mut self, settings: &Settings, tp: &TopicPartition) -> Result<Option<Record>, LogError> {
        let refused = |error: KafkaError| not_made(&error);
        let search = match &mut self.search {
            Some(search) => search,
            None => {
                let search = Search { reader: settings.prober().create().map_err(refused)?, at: self.at };
                search.ask(tp)?;
                self.search.insert(search)
            }
        };
        let deadline = Instant::now() + TURN;
        while Instant::now() < deadline {
            let is_read = match search.reader.poll(ANSWER) {
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => true,
                Some(Err(error)) if is_unreadable(&error) => false,
                // The broker is away, or has not answered yet.
                Some(Err(_)) | None => continue,
            };
            if is_read && search.at > self.at {
                let end = search.at;
                return Ok(Some(self.passed_below(tp, end)));
            }
            if is_read {
                // The position turned out to be readable.
                self.tries = 0;
                return Ok(None);
            }
            search.at = NextOffset(search.at.0 + 1);
            search.ask(tp)?;
        }
        Ok(None)
    }
}

impl Search {
    fn ask(&self, tp: &TopicPartition) -> Result<(), LogError> {
        let failed =
            |error: KafkaError| LogError::Fatal { doing: format!("looking into {tp}"), why: error.to_string() };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&tp.topic, tp.partition, KafkaOffset::Offset(self.at.0)).map_err(failed)?;
        self.reader.assign(&list).map_err(failed)
    }
}
