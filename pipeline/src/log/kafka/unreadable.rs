//! A position that the client cannot read: bad compression, a bad checksum, a batch larger than it takes.
//!
//! The client names no end of what it cannot read. Where it may be passed by, a reader beside it asks for one offset after
//! the other until one can be read; so the good neighbours of a bad batch are read, whatever its size.

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

/// So often a position is tried before it counts as unreadable: a connection may have done the damage.
const TRIES: u32 = 3;
/// How long is looked for the end of what is unreadable between two polls of the group.
const TURN: Duration = Duration::from_millis(200);
/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_millis(100);

/// Whether the bytes at a position are no records, or more than the client takes.
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
    /// What could not be read is asked for again, from where its partition stands: the client may have gone on behind it.
    pub(super) fn read_again(&mut self, failed: Vec<(TopicPartition, NextOffset, String)>) -> Result<(), LogError> {
        for (tp, at, why) in failed {
            if self.unreadable.failed(&tp, at, why.clone()) {
                warn!(partition = %tp, offset = %at, why, "cannot be read; --pass-by TOPIC:PARTITION=OFFSET passes it by");
            }
            self.start(&BTreeMap::from([(tp, at)]))?;
        }
        Ok(())
    }

    /// What stands for positions that were passed by: behind them their partitions are read on.
    pub(super) fn passed_by(&mut self) -> Result<Vec<Record>, LogError> {
        if self.unreadable.is_empty() {
            return Ok(Vec::new());
        }
        let settings = self.settings.clone();
        let passed = self.unreadable.pass_by(&settings, |tp, at| settings.may_pass(tp, at))?;
        for record in &passed {
            let next = record.offset.next();
            warn!(partition = %record.topic_partition, why = record.unreadable, %next, "passed by");
            self.start(&BTreeMap::from([(record.topic_partition.clone(), next)]))?;
        }
        Ok(passed)
    }
}

/// What stands for a record that can be read and that an operator has told to pass by.
pub(super) fn passed_by(tp: &TopicPartition, message: &BorrowedMessage<'_>) -> Record {
    warn!(partition = %tp, offset = message.offset(), "passed by, as told");
    let why = Some(format!("offset {} is passed by, as an operator has told", message.offset()));
    Record { unreadable: why, ..Record::at(tp.clone(), Offset(message.offset())) }
}

/// Partitions that cannot be read from where they stand.
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

/// A look for the first offset that can be read.
struct Search {
    reader: BaseConsumer<DefaultConsumerContext>,
    at: NextOffset,
}

impl Unreadable {
    /// Whether everything can be read.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// A position could not be read. True when that is settled now.
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

    /// A partition is read again, or is another's.
    pub fn forget(&mut self, tp: &TopicPartition) {
        self.partitions.remove(tp);
    }

    /// The first partition that cannot be read, where, and why.
    pub fn first(&self) -> Option<(TopicPartition, NextOffset, String)> {
        let settled = self.partitions.iter().find(|(_, trouble)| trouble.tries >= TRIES);
        settled.map(|(tp, trouble)| (tp.clone(), trouble.at, trouble.why.clone()))
    }

    /// Looks on for what can be read behind the positions that may be passed by: what stands for each, once that is known.
    ///
    /// # Errors
    /// [`LogError::Configuration`] when the client refuses its configuration.
    pub fn pass_by(
        &mut self,
        settings: &Settings,
        may_pass: impl Fn(&TopicPartition, NextOffset) -> bool,
    ) -> Result<Vec<Record>, LogError> {
        let mut passed = Vec::new();
        for (tp, trouble) in &mut self.partitions {
            if trouble.tries >= TRIES && may_pass(tp, trouble.at) {
                passed.extend(trouble.look(settings, tp)?);
            }
        }
        passed.iter().for_each(|record| self.forget(&record.topic_partition));
        Ok(passed)
    }
}

impl Trouble {
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
                let last = Offset(search.at.0 - 1);
                let why = format!("offsets {} to {} cannot be read: {}", self.at, last.0, self.why);
                return Ok(Some(Record { unreadable: Some(why), ..Record::at(tp.clone(), last) }));
            }
            if is_read {
                // It was readable in the end.
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
