//! What a record of each preset and encoding costs, up to a checked event.

use std::hint::black_box;

use criterion::Throughput;
use keepwell_ingest::encoding::Binary;
use keepwell_ingest::encoding::avro::AvroSchema;
use keepwell_ingest::encoding::protobuf::ProtobufSchema;
use keepwell_ingest::mapping::presets::ALL;
use serde_json::Value;

use super::{Group, LIMITS};

/// Number of encoded records that are read at once.
const AT_ONCE: usize = 1000;

const SCHEMA: &str = r#"{"type": "record", "name": "Use", "fields": [
    {"name": "event_id", "type": "string"}, {"name": "account_id", "type": "string"}, {"name": "user_id", "type": ["null", "string"]},
    {"name": "feature", "type": "string"}, {"name": "occurred_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "count", "type": "int"}]}"#;

const FILE: &str = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto";
message Use { string event_id = 1; string account_id = 2; string user_id = 3; string feature = 4;
  google.protobuf.Timestamp occurred_at = 5; int32 count = 6; }"#;

/// The records in the tests of a preset.
fn documented(tests: &str) -> Vec<String> {
    let tests: Vec<Value> = serde_saphyr::from_str(tests).expect("tests");
    let of_test = |test: Value| {
        let several = test["records"].as_array().cloned().unwrap_or_default();
        several.into_iter().chain([test["record"].clone()])
    };
    let records = tests.into_iter().filter(|test| test["headers"].is_null()).flat_map(of_test);
    records.filter_map(|record| record.as_str().map(str::to_owned)).collect()
}

/// Events of each preset, from the records that its vendor documents; ignored ones among them.
pub fn presets(group: &mut Group<'_>) {
    for preset in ALL {
        let (records, mapping) = (documented(preset.tests), preset.mapping().expect("a mapping"));
        let read = |record: &String| {
            let flats = mapping.events(record.as_bytes(), &Vec::new());
            flats.is_ok_and(|flats| mapping.checked(&flats, &LIMITS).is_ok())
        };
        group.throughput(Throughput::Elements(records.len() as u64));
        group.bench_function(format!("preset {}", preset.name), |b| {
            b.iter(|| records.iter().filter(|record| read(record)).count());
        });
    }
}

/// Protobuf as JSON. Decoding the JSON comes on top.
pub fn protobuf(group: &mut Group<'_>) {
    let schema = ProtobufSchema::new(FILE, &[]).expect("a schema");
    let text = |field: u8, text: &str| [&[field << 3 | 2, text.len() as u8], text.as_bytes()].concat();
    let body = |n: usize| {
        // The first message; 2026-03-01T10:00:00Z in seconds as a variable-length number, then a count of 2.
        let rest = [5 << 3 | 2, 6, 1 << 3, 0xa0, 0x9c, 0x90, 0xcd, 0x06, 6 << 3, 2];
        let ids = [vec![0], text(1, &format!("event-{n}")), text(2, &format!("account-{}", n % 100))].concat();
        [ids, text(3, "user-7"), text(4, "export"), rest.to_vec()].concat()
    };
    let bodies: Vec<Vec<u8>> = (0..AT_ONCE).map(body).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    assert!(schema.texts(&bodies).iter().all(Result::is_ok), "{:?}", schema.texts(&bodies).first());
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    group.bench_function("protobuf as JSON", |b| b.iter(|| black_box(schema.texts(&bodies)).len()));
}

/// Avro as JSON. Decoding the JSON comes on top.
pub fn avro(group: &mut Group<'_>) {
    let schema = AvroSchema::new(SCHEMA, &[]).expect("a schema");
    let text = |text: &str| [&[(text.len() * 2) as u8], text.as_bytes()].concat();
    let body = |n: usize| {
        // 2026-03-01T10:00:00Z in milliseconds as a variable-length number, then a count of 2.
        let at = [0x80, 0xb4, 0xb9, 0x8d, 0x95, 0x67, 4];
        let user = [vec![2], text("user-7")].concat();
        [text(&format!("event-{n}")), text(&format!("account-{}", n % 100)), user, text("export"), at.to_vec()].concat()
    };
    let bodies: Vec<Vec<u8>> = (0..AT_ONCE).map(body).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    assert!(schema.texts(&bodies).iter().all(Result::is_ok), "{:?}", schema.texts(&bodies).first());
    group.throughput(Throughput::Elements(AT_ONCE as u64));
    group.bench_function("avro as JSON", |b| b.iter(|| black_box(schema.texts(&bodies)).len()));
}
