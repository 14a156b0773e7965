//! Measures the cost of single steps without Kafka: decode, codec, fold, close, score, snapshot, Parquet.
//!
//! Run `cargo bench --bench micro`. `python3 benches/micro.py compare` lists what became slower than the recorded
//! baseline.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a measurement ends where it fails")]

mod sources;

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use keepwell_benches::fixture::Fixture;
use keepwell_benches::load::Shape;
use keepwell_core::codec;
use keepwell_core::event::Kind;
use keepwell_core::offset::{NextOffset, Offset, Position, TopicPartition};
use keepwell_core::schema::event;
use keepwell_ingest::decode::{Limits, decode};
use keepwell_pipeline::record::Record;
use keepwell_pipeline::snapshot::parts::{SavedRevisions, all_bytes};
use keepwell_pipeline::stage::{Batch, Stage};
use parquet::arrow::ArrowWriter;

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAY_MS: i64 = 86_400_000;
const SHAPE: Shape = Shape {
    seed: 1,
    accounts: 10_000,
    events: 500_000,
    span_ms: 3 * DAY_MS,
    start_ms: 1_704_067_200_000,
    every_account: false,
};
const LIMITS: Limits = Limits {
    max_event_bytes: 10_000,
    max_facts: 1000,
    max_fact_bytes: 10_000,
    latest_us: i64::MAX,
    max_future_us: 0,
    earliest_us: 0,
};

/// Reads the same records as the decoder of Keepwell's own form.
const MAPPING: &str = include_str!("../usage.mapping.yaml");
/// The same file.
const MAPPING_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../usage.mapping.yaml");

/// Folds records, and the closes that they cause. Returns the number of steps.
fn fold<S: Stage>(stage: &S, state: &mut S::State, records: &[Record]) -> usize {
    let mut num_steps = 0;
    for record in records {
        let tp = &record.topic_partition;
        let mut position = Position::at(NextOffset(record.offset.0));
        while position.next.0 <= record.offset.0 {
            let batch = Batch {
                records: BTreeMap::from([(tp.clone(), std::slice::from_ref(record))]),
                positions: BTreeMap::from([(tp.clone(), position)]),
                max_slices: 8,
                ..Batch::default()
            };
            let step = stage.apply(state, &batch).expect("a step");
            position = step.positions.get(tp).copied().expect("a position");
            stage.merge(state, step.changes);
            num_steps += 1;
        }
    }
    num_steps
}

fn fresh<S: Stage<State: Default>>(stage: &S, tp: &TopicPartition) -> S::State {
    let (mut state, start) = (S::State::default(), Position::at(NextOffset(0)));
    stage.restore(&mut state, tp, start, None).expect("an empty state");
    state
}

/// Number of rows of the records.
fn num_rows(records: &[Record], schema: &arrow::datatypes::SchemaRef) -> u64 {
    let rows = |record: &Record| {
        record.value.as_ref().map_or(0, |value| codec::decode(value, schema).expect("a batch").num_rows())
    };
    records.iter().map(rows).sum::<usize>() as u64
}

type Group<'c> = BenchmarkGroup<'c, WallTime>;

fn micro(c: &mut Criterion) {
    let fixture = Fixture::of(SHAPE).expect("a load");
    let mut group = c.benchmark_group("micro");
    group.sample_size(10);
    decoding(&mut group, &fixture);
    sources::presets(&mut group);
    sources::avro(&mut group);
    sources::protobuf(&mut group);
    ingest(&mut group, &fixture);
    aggregate(&mut group, &fixture);
    score_and_tables(&mut group, &fixture);
    group.finish();
}

fn decoding(group: &mut Group<'_>, fixture: &Fixture) {
    let raw = &fixture.raw[..10_000];
    group.throughput(Throughput::Elements(raw.len() as u64));
    group.bench_function("decode", |b| {
        b.iter(|| raw.iter().filter(|value| decode(Kind::Usage, value, &LIMITS).is_ok()).count());
    });
    let mapping = keepwell_ingest::mapping::parse("micro", MAPPING).expect("a mapping");
    let is_read = |value: &[u8]| {
        let flats = mapping.events(value, &Vec::new());
        flats.is_ok_and(|flats| mapping.checked(&flats, &LIMITS).is_ok())
    };
    group.bench_function("decode by a mapping", |b| b.iter(|| raw.iter().filter(|value| is_read(value)).count()));
    let schema = event::schema();
    let values: Vec<&[u8]> = fixture.events.iter().filter_map(|record| record.value.as_deref()).collect();
    group.throughput(Throughput::Elements(num_rows(&fixture.events, &schema)));
    group.bench_function("codec decode", |b| {
        b.iter(|| values.iter().map(|value| codec::decode(value, &schema).expect("a batch").num_rows()).sum::<usize>());
    });
    let batches: Vec<_> = values.iter().map(|value| codec::decode(value, &schema).expect("a batch")).collect();
    group.bench_function("codec encode", |b| {
        b.iter(|| batches.iter().map(|batch| codec::encode(batch).expect("bytes").len()).sum::<usize>());
    });
}

/// The whole stage: decode, re-key by account, batches of events.
fn ingest(group: &mut Group<'_>, fixture: &Fixture) {
    let mut mapped = fixture.config.clone();
    (mapped.sources[0].kind, mapped.sources[0].mapping) = (None, Some(MAPPING_FILE.into()));
    let tp = TopicPartition::new(mapped.sources[0].topic.as_str(), 0);
    let record = |(offset, value): (i64, &Vec<u8>)| Record {
        value: Some(value.clone().into()),
        timestamp_ms: DAY_MS * 20_000,
        ..Record::at(tp.clone(), Offset(offset))
    };
    let records: Vec<Record> = (0..).zip(&fixture.raw[..10_000]).map(record).collect();
    group.throughput(Throughput::Elements(records.len() as u64));
    for (name, config) in [("ingest", &fixture.config), ("ingest by a mapping", &mapped)] {
        let stage = keepwell_ingest::Ingest::new(config).expect("a stage");
        let state = fresh(&stage, &tp);
        let batch = Batch {
            records: BTreeMap::from([(tp.clone(), records.as_slice())]),
            positions: BTreeMap::from([(tp.clone(), Position::at(NextOffset(0)))]),
            now_us: DAY_MS * 20_000 * 1000,
            ..Batch::default()
        };
        let step = stage.apply(&state, &batch).expect("a step");
        let num_emitted: u64 = step.fates.iter().filter(|(fate, _)| fate.name == "emitted").map(|(_, n)| n).sum();
        assert_eq!(num_emitted, records.len() as u64, "{name}: {:?}", step.fates);
        group.bench_function(name, |b| b.iter(|| black_box(stage.apply(&state, &batch).expect("a step"))));
    }
}

fn aggregate(group: &mut Group<'_>, fixture: &Fixture) {
    let stage = keepwell_aggregate::Aggregate::new(&fixture.config);
    let tp = TopicPartition::new(fixture.config.topics.events.as_str(), 0);
    let open = |record: &Record| Record { headers: Vec::new(), ..record.clone() };
    let open: Vec<Record> = fixture.events.iter().map(open).collect();
    group.bench_function("fold", |b| {
        b.iter_batched(
            || fresh(&stage, &tp),
            |mut state| {
                fold(&stage, &mut state, &open);
                state
            },
            BatchSize::PerIteration,
        );
    });
    // Find the last record that closes a pane, and the state before it.
    let mut state = fresh(&stage, &tp);
    let mut before_close = None;
    for record in &fixture.events {
        let before =
            all_bytes(stage.snapshot(&state, &tp, &SavedRevisions::new()).expect("a snapshot")).expect("all parts");
        if fold(&stage, &mut state, std::slice::from_ref(record)) > 1 {
            before_close = Some((before, record));
        }
    }
    let parts = || stage.snapshot(&state, &tp, &SavedRevisions::new()).expect("a snapshot");
    let (saved, closing) = before_close.expect("a pane that closes");
    let restored = || {
        let (mut state, at) = (keepwell_aggregate::State::default(), Position::at(NextOffset(closing.offset.0)));
        stage.restore(&mut state, &tp, at, Some(&saved)).expect("a state");
        state
    };
    let accounts = stage.gauges(&state, &tp).num_accounts.unwrap_or_default() as u64;
    group.throughput(Throughput::Elements(accounts));
    group.bench_function("snapshot", |b| b.iter(|| black_box(parts())));
    group.bench_function("restore", |b| b.iter(restored));
    group.bench_function("close", |b| {
        let closing = std::slice::from_ref(closing);
        b.iter_batched(
            restored,
            |mut state| {
                fold(&stage, &mut state, closing);
                state
            },
            BatchSize::PerIteration,
        );
    });
}

fn score_and_tables(group: &mut Group<'_>, fixture: &Fixture) {
    let schema = fixture.config.aggregate.layout().schema();
    let windows = &fixture.windows;
    let score = keepwell_score::Score::new(&fixture.config).expect("a model");
    let tp = TopicPartition::new(fixture.config.topics.windows.as_str(), 0);
    group.throughput(Throughput::Elements(num_rows(windows, &schema)));
    group.bench_function("score", |b| {
        b.iter_batched(
            || fresh(&score, &tp),
            |mut state| {
                fold(&score, &mut state, windows);
                state
            },
            BatchSize::PerIteration,
        );
    });
    let publish = keepwell_sink::publish::Publish::new(&fixture.config);
    let tp = TopicPartition::new(fixture.config.topics.health.as_str(), 0);
    group.bench_function("publish", |b| {
        b.iter_batched(
            || fresh(&publish, &tp),
            |mut state| {
                fold(&publish, &mut state, &fixture.health);
                state
            },
            BatchSize::PerIteration,
        );
    });
    let values = windows.iter().filter_map(|record| record.value.as_deref());
    let batches: Vec<_> = values.map(|value| codec::decode(value, &schema).expect("a batch")).collect();
    group.throughput(Throughput::Elements(num_rows(windows, &schema)));
    group.bench_function("parquet", |b| {
        b.iter(|| {
            let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), None).expect("a writer");
            batches.iter().for_each(|batch| writer.write(batch).expect("rows"));
            writer.into_inner().expect("a file").len()
        });
    });
}

criterion_group!(benches, micro);
criterion_main!(benches);
