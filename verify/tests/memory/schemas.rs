//! The JSON Schemas that are shipped describe what goes in and out.

use jsonschema::Validator;
use keepwell_core::event::Kind;
use keepwell_ingest::decode::{Decoded, Limits, decode};
use keepwell_ingest::mapping::presets::ALL;
use keepwell_verify::fleet::{self, Shape};
use serde_json::{Value, json};

use super::{Deployment, config};

fn read(page: &str) -> Value {
    let path = super::documents::root().join("docs/reference").join(page);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The schema with this name in the shipped file, with its formats.
fn schema(name: &str) -> Validator {
    validator(name, true)
}

fn validator(name: &str, has_formats: bool) -> Validator {
    let page = read("schemas.json");
    let schema = &page["$defs"][name];
    assert!(schema.is_object(), "{name}");
    jsonschema::draft202012::options().should_validate_formats(has_formats).build(schema).unwrap()
}

fn faults(schema: &Validator, value: &Value) -> Vec<String> {
    schema.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn every_score_and_alert_is_as_its_schema_says() {
    let raws = fleet::dirty(8, Shape { accounts: 12, days: 60, usage: 3 });
    let streamed = Deployment::of(&raws, config(&[])).streamed();
    for (name, records) in [("score", &streamed.scores), ("alert", &streamed.alerts)] {
        let schema = schema(name);
        let values: Vec<Value> =
            records.iter().filter_map(|record| serde_json::from_slice(record.value.as_deref()?).ok()).collect();
        assert!(values.len() > 10, "{name}");
        for value in &values {
            assert_eq!(faults(&schema, value), Vec::<String>::new(), "{name} {value}");
        }
        // It can fail: without a key, and with a value of another type.
        for key in values[0].as_object().unwrap().keys() {
            let mut without = values[0].clone();
            without.as_object_mut().unwrap().remove(key);
            assert!(!schema.is_valid(&without), "{name} without {key}");
            let mut other = values[0].clone();
            other[key] = json!([true]);
            assert!(!schema.is_valid(&other), "{name} with another {key}");
        }
    }
}

const LIMITS: Limits = Limits {
    max_event_bytes: 100_000,
    max_facts: 100,
    max_fact_bytes: 1000,
    latest_us: i64::MAX,
    max_future_us: 0,
    earliest_us: 0,
};

fn is_accepted(kind: Kind, value: &Value) -> bool {
    matches!(decode(kind, value.to_string().as_bytes(), &LIMITS), Ok(Decoded::Event(_)))
}

#[test]
fn what_the_schema_of_an_input_accepts_ingest_accepts() {
    let schemas = [
        (Kind::Usage, "usage"),
        (Kind::Usage, "segment_track"),
        (Kind::Ticket, "ticket"),
        (Kind::Survey, "survey"),
        (Kind::Account, "account"),
        (Kind::Person, "person"),
        (Kind::Contract, "contract"),
    ];
    let schemas = schemas.map(|(kind, name)| (kind, name, schema(name)));
    let mut num_valid = [0; 7];
    for raw in fleet::dirty(9, Shape { accounts: 10, days: 30, usage: 2 }) {
        let Some(value) = raw.value.and_then(|value| serde_json::from_slice::<Value>(&value).ok()) else { continue };
        for (count, (kind, name, schema)) in num_valid.iter_mut().zip(&schemas) {
            if *kind == raw.kind && schema.is_valid(&value) {
                *count += 1;
                assert!(is_accepted(*kind, &value), "{name}: {value}");
            }
        }
    }
    assert!(num_valid.iter().all(|count| *count > 5), "{num_valid:?}");
    let answer = json!({"event_id": "e", "account_id": "a", "occurred_at": 1000, "survey": "ces", "score": 9, "scale_max": null});
    assert!(!schema("survey").is_valid(&answer) && !is_accepted(Kind::Survey, &answer));
}

#[test]
fn events_that_presets_make_are_as_the_schemas_say() {
    let mut num_checked = 0;
    for preset in ALL {
        let tests: Vec<Value> = serde_saphyr::from_str(preset.tests).unwrap();
        for event in tests.iter().filter_map(|test| test["events"].as_array()).flatten() {
            let (kind, mut event) = (event["kind"].as_str().unwrap(), event.clone());
            event.as_object_mut().unwrap().remove("kind");
            let name = if kind == "usage" && !event["messageId"].is_null() { "segment_track" } else { kind };
            // Vendors write zones such as +0100, which Keepwell reads and RFC 3339 does not allow.
            assert_eq!(faults(&validator(name, false), &event), Vec::<String>::new(), "{}: {event}", preset.name);
            num_checked += 1;
        }
    }
    assert!(num_checked > 60, "{num_checked}");
}

#[test]
fn every_reference_in_the_asyncapi_document_leads_somewhere() {
    let page = read("asyncapi.json");
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match value.as_str() {
                Some(reference) if name == "$ref" => found.push(reference),
                _ => references(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&page, &mut found);
    assert!(found.len() > 30);
    for reference in found {
        assert!(page.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    assert_eq!(page["channels"].as_object().unwrap().len(), 14);
    assert_eq!(page["components"]["schemas"], read("schemas.json")["$defs"]);
}
