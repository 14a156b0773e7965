use std::sync::Mutex;

use keepwell_core::offset::Offset;
use keepwell_core::offset::{NextOffset, Position};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::source_reader::{SourceReader, Sources};
use keepwell_pipeline::stage::{Batch, Fate, Stage};
use proptest::prelude::*;

use super::*;
use crate::Ingest;

const CONFIG: &str = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nschema_registry: {url: 'http://unused'}\nsources: [{topic: raw, kind: usage, encoding: confluent}]\nsnapshots: {url: 'memory:///'}\n";

/// Schemas that become known one after another: each look-up of an unknown one takes from its patience.
#[derive(Debug, Default)]
struct InTime {
    patience: Mutex<BTreeMap<SchemaId, u32>>,
    waiting: Mutex<BTreeSet<TopicPartition>>,
}

impl Schemas for InTime {
    fn lookup(&self, id: SchemaId, partition: &TopicPartition) -> Lookup {
        let mut patience = self.patience.lock().unwrap();
        match patience.get_mut(&id) {
            Some(left) if *left > 0 => {
                *left -= 1;
                self.waiting.lock().unwrap().insert(partition.clone());
                Lookup::Awaited
            }
            _ => {
                self.waiting.lock().unwrap().remove(partition);
                match of_number(id) {
                    0 => Lookup::Unknown("nobody knows it".to_owned()),
                    1 => Lookup::Known(Arc::new(Schema::Unreadable("it is of another kind".to_owned()))),
                    _ => Lookup::Known(Arc::new(Schema::Json)),
                }
            }
        }
    }

    fn waiting(&self) -> BTreeSet<TopicPartition> {
        self.waiting.lock().unwrap().clone()
    }
}

fn of_number(id: SchemaId) -> u32 {
    match id {
        SchemaId::Number(number) => number,
        SchemaId::Guid(_) => 0,
    }
}

fn record(n: i64, id: Option<u32>) -> Record {
    let json = format!(r#"{{"event_id":"{n}","account_id":"a","feature":"f","occurred_at":1772359200000}}"#);
    let frame = id.map(|id| [&[0], id.to_be_bytes().as_slice()].concat()).unwrap_or_default();
    Record {
        value: Some([frame, json.into_bytes()].concat().into()),
        ..Record::at(TopicPartition::new("raw", 0), Offset(n))
    }
}

/// Reads records step by step, as the loop does. Returns the fates and the values of all rejects, in order.
fn read(records: &[Record], schemas: InTime) -> (BTreeMap<Fate, u64>, Vec<Option<Vec<u8>>>) {
    let stage = Ingest::with_schemas(&Config::parse("test", CONFIG, &[]).unwrap(), Some(Arc::new(schemas))).unwrap();
    let tp = TopicPartition::new("raw", 0);
    let (mut state, mut position, mut fates, mut rejects) =
        (crate::State::new(), Position::at(NextOffset(0)), BTreeMap::new(), Vec::new());
    stage.restore(&mut state, &tp, position, None).unwrap();
    let mut num_steps = 0;
    while (position.next.0 as usize) < records.len() {
        num_steps += 1;
        assert!(num_steps < 1000, "it does not go on at {position:?}");
        let batch = Batch {
            records: BTreeMap::from([(tp.clone(), &records[position.next.0 as usize..])]),
            positions: BTreeMap::from([(tp.clone(), position)]),
            now_us: 1_772_359_200_000_000,
            tick: 0,
            is_tick: true,
            is_early: false,
            max_slices: 1,
            is_last: false,
            record_limits: BTreeMap::new(),
        };
        let step = stage.read(&state, &batch, &Sources::default()).unwrap();
        let is_whole = step.positions.get(&tp).is_some_and(|position| position.next.0 as usize == records.len());
        assert_eq!(stage.ahead(&state, &BTreeMap::new()).contains(&tp), !is_whole);
        keepwell_pipeline::stage::add_fates(&mut fates, &step.fates);
        rejects.extend(
            step.messages
                .iter()
                .filter(|message| message.topic.contains("rejects"))
                .map(|message| message.value.clone()),
        );
        position = step.positions.get(&tp).copied().unwrap_or(position);
        stage.merge(&mut state, step.changes);
    }
    (fates, rejects)
}

proptest! {
    /// However long each schema takes, every record has the same fate, in the same order.
    #[test]
    fn a_schema_that_comes_late_changes_no_fate(
        ids in prop::collection::vec(prop::option::of(0..5_u32), 1..30), patience in prop::collection::btree_map(0..5_u32, 0..4_u32, 0..5),
    ) {
        let records: Vec<Record> = (0..).zip(&ids).map(|(n, id)| record(n, *id)).collect();
        let late = InTime { patience: Mutex::new(patience.into_iter().map(|(id, left)| (SchemaId::Number(id), left)).collect()), ..InTime::default() };
        let (fates, rejects) = read(&records, late);
        prop_assert_eq!((&fates, &rejects), (&read(&records, InTime::default()).0, &read(&records, InTime::default()).1));
        let num_unknown = ids.iter().filter(|id| matches!(id, Some(0 | 1))).count();
        let count = |name, reason| fates.get(&Fate { name, reason }).copied().unwrap_or_default() as usize;
        prop_assert_eq!(count("rejected", "unknown_schema"), num_unknown);
        prop_assert_eq!(count("emitted", ""), ids.len() - num_unknown);
        // A reject keeps the record as it was sent, with its frame.
        prop_assert!(rejects.iter().flatten().all(|value| value.first() == Some(&0)));
    }
}

#[test]
fn a_value_that_ends_within_its_frame_is_a_reject_and_what_has_no_frame_is_json() {
    let found = |value: &'static [u8]| read_frame(None, value);
    assert_eq!([b"\0".as_slice(), b"\0\0\0\0"].map(found), [const { Err(Code::BadFrame) }; 2]);
    assert_eq!([b"{}".as_slice(), b"\x01x"].map(found), [const { Ok(None) }; 2]);
    assert_eq!(found(b"\0\0\0\x01\x02{}"), Ok(Some((SchemaId::Number(258), b"{}".to_vec()))));
}

/// What a record with this header and value names, and what is to be read by it.
fn read_frame(header: Option<&[u8]>, value: &'static [u8]) -> Result<Option<(SchemaId, Vec<u8>)>, Code> {
    let headers = header.map(|header| (ID_HEADER.to_owned(), Some(header.to_vec())));
    let record =
        Record { headers: headers.into_iter().collect(), ..Record::at(TopicPartition::new("raw", 0), Offset(0)) };
    let found = framed(&record, value).map_err(|reason| reason.code)?;
    Ok(found.map(|(id, body)| (id, body.into_owned())))
}

#[test]
fn a_header_names_the_schema_by_guid_or_number_and_the_place_behind_it_belongs_before_the_value() {
    let guid = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128;
    let of = |place: &[u8]| [&[1], guid.to_be_bytes().as_slice(), place].concat();
    assert_eq!(SchemaId::Guid(guid).to_string(), "01234567-89ab-cdef-0123-456789abcdef");
    assert_eq!(read_frame(Some(&of(&[])), b"\0value"), Ok(Some((SchemaId::Guid(guid), b"\0value".to_vec()))));
    assert_eq!(read_frame(Some(&of(&[2, 4])), b"value"), Ok(Some((SchemaId::Guid(guid), b"\x02\x04value".to_vec()))));
    assert_eq!(read_frame(Some(&[0, 0, 0, 0, 9]), b"value"), Ok(Some((SchemaId::Number(9), b"value".to_vec()))));
    for bad in [&of(&[])[..16], &[], &[2, 0, 0, 0, 9], &[0, 0]] {
        assert_eq!(read_frame(Some(bad), b"value"), Err(Code::BadFrame), "{bad:?}");
    }
}

/// Makes a small event of any bytes, as Avro can of a number with a million digits 0.
#[derive(Debug)]
struct Small;

impl Binary for Small {
    fn texts(&self, bodies: &[&[u8]]) -> Vec<Result<Vec<u8>, Reason>> {
        bodies.iter().map(|_| Ok(b"{}".to_vec())).collect()
    }
}

#[derive(Debug)]
struct AllSmall;

impl Schemas for AllSmall {
    fn lookup(&self, _: SchemaId, _: &TopicPartition) -> Lookup {
        Lookup::Known(Arc::new(Schema::Binary(Box::new(Small))))
    }

    fn waiting(&self) -> BTreeSet<TopicPartition> {
        BTreeSet::new()
    }
}

/// The row of an event may hold the record as it was sent, so the record counts, not what it becomes.
#[test]
fn a_record_that_is_too_large_is_refused_however_small_its_text_is() {
    let of = |bytes: usize| Record {
        value: Some([vec![0; 5], vec![7; bytes - 5]].concat().into()),
        ..Record::at(TopicPartition::new("raw", 0), Offset(0))
    };
    let records = [of(100), of(101), of(6)];
    let found = texts(&records, &AllSmall, 100).values;
    let codes: Vec<Option<Code>> = found.iter().map(|text| text.as_ref().err().map(|reason| reason.code)).collect();
    assert_eq!(codes, [None, Some(Code::Oversized), None]);
}
