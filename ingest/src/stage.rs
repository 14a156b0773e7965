//! The ingest stage: reads raw topics, writes `events` and `rejects`, and adds statements of time.

mod counts;
mod reading;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepwell_core::codec;
use keepwell_core::offset::{Position, SourceTimes, TopicPartition};
use keepwell_core::pane::PaneWidth;
use keepwell_core::schema::event::EventBuilder;
use keepwell_pipeline::config::{Config, Encoding, Secret, Source};
use keepwell_pipeline::record::{Message, Record};
use keepwell_pipeline::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use keepwell_pipeline::source_reader::{Completeness, EndProof, SourceReader, Sources};
use keepwell_pipeline::stage::Gauges;
use keepwell_pipeline::stage::{Batch, Stage, StageError, Step};
use keepwell_pipeline::suspect::SourceCount;
use keepwell_pipeline::watermark::{Mark, STATEMENT_HEADER, SourceState, Statement};

use crate::encoding::{Schemas, Texts, texts};
use crate::mapping::{self, Mapping};
use counts::Counts;
use reading::{READ, Reading};

/// The ingest stage.
#[derive(Debug)]
pub struct Ingest {
    sources: BTreeMap<String, Source>,
    /// The schemas of sources whose records name one.
    schemas: Option<Arc<dyn Schemas>>,
    /// The mappings of sources that have one, by topic.
    mappings: BTreeMap<String, Mapping>,
    events: Arc<str>,
    rejects: Arc<str>,
    partitions: i32,
    max_record_bytes: usize,
    max_event_bytes: usize,
    max_facts: usize,
    max_fact_bytes: usize,
    clock: bool,
    max_future_us: i64,
    earliest_us: i64,
    lateness_us: i64,
    max_skew_us: i64,
    panes: PaneWidth,
    user_id_key: Option<[u8; 16]>,
}

/// The state of the source partitions that this member owns.
pub type State = BTreeMap<TopicPartition, SourcePartition>;

/// The state of one source partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourcePartition {
    /// Highest event time read so far, UTC microseconds.
    high_us: Option<i64>,
    /// The mark in the last statement about this partition.
    stated: Option<Mark>,
    /// How far the partition has come in time, UTC microseconds. None if it does not hold back others.
    reached_us: Option<i64>,
    /// The highest time that was stated, UTC microseconds.
    stated_us: Option<i64>,
}

/// Rows for each partition of `events`.
type Builders = BTreeMap<i32, EventBuilder>;

impl Ingest {
    /// The stage as configured.
    ///
    /// # Errors
    /// When the key for user ids cannot be read or is not 32 hex digits, or a mapping or the registry is refused.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Self::with_schemas(config, schemas(config)?)
    }

    /// The same with these schemas, instead of those of the registry.
    ///
    /// # Errors
    /// See [`Ingest::new`].
    pub fn with_schemas(config: &Config, schemas: Option<Arc<dyn Schemas>>) -> anyhow::Result<Self> {
        let user_id_key = config.ingest.user_id_key.as_ref().map(Secret::reveal_key).transpose();
        let user_id_key = user_id_key.map_err(|why| anyhow::anyhow!("ingest.user_id_key: {why}"))?;
        Ok(Self {
            sources: config.sources.iter().map(|source| (source.topic.clone(), source.clone())).collect(),
            schemas,
            mappings: mapping::of_sources(config)?,
            events: config.topics.events.as_str().into(),
            rejects: config.topics.rejects.as_str().into(),
            partitions: config.partitions,
            max_record_bytes: config.kafka.max_record_bytes,
            max_event_bytes: config.ingest.max_event_bytes,
            max_facts: config.ingest.max_facts,
            max_fact_bytes: config.ingest.max_fact_bytes,
            clock: config.time.clock,
            max_future_us: config.time.max_future.as_micros(),
            earliest_us: config.time.earliest.as_microsecond(),
            lateness_us: config.time.lateness.as_micros(),
            max_skew_us: config.time.max_skew().as_micros(),
            panes: config.time.panes(),
            user_id_key,
        })
    }

    /// The time of a source partition for the watermark, UTC microseconds, and the state of the partition.
    fn progress(
        &self,
        source: &Source,
        known: &SourcePartition,
        proof: Option<(EndProof, Completeness)>,
        now_us: i64,
    ) -> (Option<i64>, SourceState) {
        let own_us = known.high_us.map(|high_us| high_us.min(now_us) - source.bound.as_micros());
        match proof {
            Some((_, Completeness::ToLastEvent)) => (known.high_us.map(|high| high.min(now_us)), SourceState::Complete),
            Some((_, Completeness::ToEndOfPane)) => {
                (known.high_us.map(|high| self.panes.end_us(self.panes.pane(high))), SourceState::Complete)
            }
            // A topic that never contained an event gives no information about time, unless the source is optional.
            Some((proof, _)) if proof.is_topic_empty && !source.optional => (own_us, SourceState::Reading),
            Some((proof, _)) if self.clock => {
                (own_us.max(Some(proof.at_us - source.delay().as_micros())), SourceState::Proven)
            }
            Some(_) => (own_us, SourceState::Proven),
            None => (own_us, SourceState::Reading),
        }
    }

    /// How far a source partition has come in time, UTC microseconds, or none if it does not hold back others. It
    /// ignores bounds and delays. So sources with different delays are equal when both are read to their ends.
    fn reached_us(&self, mark: &Mark, known: &SourcePartition, proof: Option<EndProof>) -> Option<i64> {
        match mark.state {
            // Time does not go back when a quiet source brings an old event.
            SourceState::Reading => known.high_us.max(known.reached_us),
            SourceState::Proven if self.clock => {
                known.reached_us.max(known.high_us).max(proof.map(|proof| proof.at_us))
            }
            SourceState::Proven | SourceState::Complete => None,
        }
    }

    /// The values of records as JSON.
    fn texts<'r>(&self, source: &Source, records: &'r [Record]) -> Texts<'r> {
        match &self.schemas {
            Some(schemas) if source.encoding == Encoding::Confluent => {
                texts(records, schemas.as_ref(), self.max_event_bytes)
            }
            _ => {
                Texts { values: records.iter().map(|record| Ok(record.value.as_deref().map(Cow::Borrowed))).collect() }
            }
        }
    }

    fn statement(&self, marks: Vec<Mark>, counts: Vec<SourceCount>, known: &Sources) -> Statement {
        let partitions = |topic: &str| known.partition_counts.get(topic).copied().unwrap_or_default();
        let sources = self.sources.values().map(|source| keepwell_pipeline::watermark::Source {
            topic: source.topic.clone(),
            epoch: source.epoch,
            partitions: partitions(&source.topic),
        });
        Statement { clock: self.clock, sources: sources.collect(), marks, counts }
    }

    /// The records for one partition of `events`. The statement is on the last of them, after all rows.
    fn events_records(
        &self,
        partition: i32,
        builder: Option<&mut EventBuilder>,
        statement: &[u8],
        max_bytes: usize,
    ) -> Result<Vec<Message>, StageError> {
        let mut values: Vec<Option<Vec<u8>>> = match builder {
            Some(builder) => codec::encode_split(&builder.finish()?, max_bytes)?.into_iter().map(Some).collect(),
            None => vec![None],
        };
        let last = values.len() - 1;
        Ok(values
            .iter_mut()
            .enumerate()
            .map(|(i, value)| Message {
                topic: Arc::clone(&self.events),
                partition,
                timestamp_ms: None,
                key: None,
                value: value.take(),
                headers: if i == last {
                    vec![(STATEMENT_HEADER.to_owned(), Some(statement.to_vec()))]
                } else {
                    Vec::new()
                },
            })
            .collect())
    }
}

/// The schemas of the configured registry, if a source needs them.
fn schemas(config: &Config) -> anyhow::Result<Option<Arc<dyn Schemas>>> {
    let is_needed = config.sources.iter().any(|source| source.encoding == Encoding::Confluent);
    match config.schema_registry.as_ref().filter(|_| is_needed) {
        None => Ok(None),
        #[cfg(feature = "registry")]
        Some(registry) => Ok(Some(Arc::new(crate::encoding::registry::Registry::open(registry)?))),
        #[cfg(not(feature = "registry"))]
        Some(_) => anyhow::bail!("encoding confluent: this program was built without the feature `registry`"),
    }
}

impl SourceReader<State, State> for Ingest {
    fn read(&self, state: &State, batch: &Batch<'_>, sources: &Sources) -> Result<Step<State>, StageError> {
        let mut step = Step::default();
        let mut builders = Builders::new();
        let mut counts = BTreeMap::new();
        for (tp, position) in &batch.positions {
            let Some(source) = self.sources.get(tp.topic.as_ref()) else { continue };
            let records = batch.records.get(tp).copied().unwrap_or_default();
            let mut known = state.get(tp).cloned().unwrap_or_default();
            let texts = self.texts(source, records);
            // Behind a record whose schema is not known yet nothing is read: the order stays.
            let (all, records) = (records, records.get(..texts.values.len()).unwrap_or(records));
            let mut counted = Counts::above(known.stated_us, source.bound.as_micros(), batch.now_us);
            self.decode_all(
                source,
                (records, texts),
                batch,
                Reading { builders: &mut builders, known: &mut known, counts: &mut counted, step: &mut step },
            )?;
            counted.add_to(&source.topic, &mut counts, &mut step.source_events);
            let next = records.last().map_or(position.next, |record| record.offset.next());
            let proof = sources.ends.get(tp).copied().filter(|_| all.is_empty());
            let complete = proof.map(|proof| (proof, sources.complete));
            let (value_us, state) = self.progress(source, &known, complete, batch.now_us);
            let mark = Mark { topic: tp.topic.to_string(), partition: tp.partition, next, value_us, state };
            known.reached_us = self.reached_us(&mark, &known, proof);
            known.stated_us = known.stated_us.max(mark.value_us);
            let SourcePartition { high_us, reached_us, stated_us, .. } = known;
            let times = SourceTimes { high_us, reached_us, stated_us };
            let position = Position { next, slice: 0, times };
            let is_news = known.stated.as_ref() != Some(&mark);
            if !records.is_empty() || is_news {
                known.stated = Some(mark);
                step.positions.insert(tp.clone(), position);
                step.changes.insert(tp.clone(), known);
            }
        }
        let is_due = builders.values().any(|builder| builder.num_rows() > 0) || !step.messages.is_empty();
        let has_read = step.fates.contains_key(&READ);
        if step.changes.is_empty() || !(is_due || has_read || batch.is_tick) {
            // Nothing was read, and the statement can wait for the tick.
            step.positions.clear();
            step.changes.clear();
            return Ok(step);
        }
        let marks = step.changes.values().filter_map(|known| known.stated.clone()).collect();
        let (earlier, counts) = counts::pieces(counts);
        // Counts that do not fit into one header go before the statement of time that covers them.
        for counts in earlier {
            let counts = Statement { clock: self.clock, sources: Vec::new(), marks: Vec::new(), counts };
            let counts = serde_json::to_vec(&counts).map_err(arrow_external)?;
            for partition in 0..self.partitions {
                step.messages.extend(self.events_records(partition, None, &counts, self.max_record_bytes)?);
            }
        }
        let statement = serde_json::to_vec(&self.statement(marks, counts, sources)).map_err(arrow_external)?;
        let max_bytes = batch.record_bytes(&self.events, self.max_record_bytes);
        for partition in 0..self.partitions {
            step.messages.extend(self.events_records(
                partition,
                builders.get_mut(&partition),
                &statement,
                max_bytes,
            )?);
        }
        Ok(step)
    }

    fn ahead(&self, state: &State, positions: &BTreeMap<TopicPartition, Position>) -> BTreeSet<TopicPartition> {
        let mut waiting = self.schemas.as_ref().map(|schemas| schemas.waiting()).unwrap_or_default();
        waiting.retain(|tp| state.contains_key(tp));
        let others =
            positions.iter().filter(|(tp, _)| !state.contains_key(*tp)).map(|(_, position)| position.times.reached_us);
        let own = || state.iter().filter_map(|(tp, known)| Some((tp, known.reached_us?)));
        let Some(least_us) = others.flatten().chain(own().map(|(_, reached_us)| reached_us)).min() else {
            return waiting;
        };
        let is_ahead = |reached_us: i64| reached_us.saturating_sub(least_us) > self.max_skew_us;
        waiting.extend(own().filter(|(_, reached_us)| is_ahead(*reached_us)).map(|(tp, _)| tp.clone()));
        waiting
    }
}

impl Stage for Ingest {
    type State = State;
    type Changes = State;

    fn name(&self) -> &'static str {
        "ingest"
    }

    fn is_stateful(&self) -> bool {
        false
    }

    fn apply(&self, state: &State, batch: &Batch<'_>) -> Result<Step<State>, StageError> {
        self.read(state, batch, &Sources::default())
    }

    fn source_reader(&self) -> Option<&dyn SourceReader<State, State>> {
        Some(self)
    }

    fn merge(&self, state: &mut State, changes: State) {
        state.extend(changes);
    }

    fn restore(
        &self,
        state: &mut State,
        partition: &TopicPartition,
        position: Position,
        _snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError> {
        let SourceTimes { high_us, reached_us, stated_us } = position.times;
        state.insert(partition.clone(), SourcePartition { high_us, stated: None, reached_us, stated_us });
        Ok(())
    }

    fn forget(&self, state: &mut State, partition: &TopicPartition) {
        state.remove(partition);
    }

    fn gauges(&self, _state: &State, _partition: &TopicPartition) -> Gauges {
        Gauges::default()
    }

    fn snapshot(
        &self,
        _state: &State,
        _partition: &TopicPartition,
        _known: &SavedRevisions,
    ) -> Result<Parts, StageError> {
        Ok(Parts::new())
    }
}

fn arrow_external(error: serde_json::Error) -> StageError {
    StageError::Arrow(arrow::error::ArrowError::ExternalError(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use keepwell_core::offset::NextOffset;

    use keepwell_pipeline::stage::Fate;

    use super::*;

    const HOUR_US: i64 = 3_600_000_000;
    const NOW_US: i64 = 1_772_359_200_000_000;

    /// If the broker sets the time of a record, nothing in it can be later. A replay judges a history as the live run
    /// did.
    #[test]
    fn an_event_later_than_its_append_is_future_however_much_later_it_is_read() {
        let text = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: raw, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";
        let stage = Ingest::new(&Config::parse("test", text, &[]).unwrap()).unwrap();
        let tp = TopicPartition::new("raw", 0);
        let record = |n: i64, appended_us: Option<i64>, occurred_us: i64| Record {
            value: Some(
                format!(r#"{{"event_id":"{n}","account_id":"a","feature":"f","occurred_at":{}}}"#, occurred_us / 1000)
                    .into(),
            ),
            appended_ms: appended_us.map(|us| us / 1000),
            ..Record::at(tp.clone(), keepwell_core::offset::Offset(n))
        };
        let long_ago = NOW_US - 240 * HOUR_US;
        let records = [
            record(0, Some(long_ago), long_ago + HOUR_US / 2),
            record(1, Some(long_ago), long_ago + 2 * HOUR_US),
            record(2, None, long_ago + 2 * HOUR_US),
            record(3, None, NOW_US + 2 * HOUR_US),
            record(4, Some(NOW_US + 9 * HOUR_US), NOW_US + 2 * HOUR_US),
        ];
        let batch = Batch {
            records: BTreeMap::from([(tp.clone(), records.as_slice())]),
            positions: BTreeMap::from([(tp.clone(), Position::at(NextOffset(0)))]),
            now_us: NOW_US,
            tick: 0,
            is_tick: true,
            is_early: false,
            max_slices: 1,
            is_last: false,
            record_limits: BTreeMap::new(),
        };
        let step = stage.apply(&State::new(), &batch).unwrap();
        let count = |name, reason| step.fates.get(&Fate { name, reason }).copied().unwrap_or_default();
        assert_eq!((count("emitted", ""), count("rejected", "future")), (2, 3));
    }
}
