//! The shipped mappings with their tests, and what a mapping file may say.

use std::collections::BTreeMap;

use keepwell_pipeline::record::Headers;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::presets::ALL;
use super::{Flat, Mapping, parse};
use crate::decode::Limits;
use crate::decode::{Form, decode_form};
use crate::form::{self, FORMS};
use crate::reason::{Code, Reason};

const LIMITS: Limits = Limits {
    max_event_bytes: 100_000,
    max_facts: 100,
    max_fact_bytes: 1000,
    latest_us: i64::MAX,
    max_future_us: 0,
    earliest_us: 0,
};

/// One test beside a preset: records and the events they become, or records that are rejected.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    /// Headers of each record.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    record: Option<String>,
    #[serde(default)]
    records: Vec<String>,
    events: Option<Vec<Json>>,
    #[serde(default)]
    rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
struct Rejected {
    record: String,
    words: Vec<String>,
}

/// The events of a record, each checked, as JSON with their kind.
fn events(mapping: &Mapping, record: &str) -> Result<Vec<Json>, Reason> {
    events_with(mapping, record, &Headers::new())
}

fn events_with(mapping: &Mapping, record: &str, headers: &Headers) -> Result<Vec<Json>, Reason> {
    let flats = mapping.events(record.as_bytes(), headers)?;
    // Fields that were read already are decoded like the text that they stand for.
    for flat in &flats {
        let text = flat.form().json();
        let of_text = decode_form(flat.kind, Form::Text(&text), &LIMITS);
        assert_eq!(decode_form(flat.kind, flat.form(), &LIMITS), of_text, "{text}");
    }
    mapping.checked(&flats, &LIMITS)?;
    let fields = |flat: &Flat<'_>| {
        let mut fields: Json = serde_json::from_str(&flat.form().json()).unwrap();
        fields["kind"] = flat.kind.name().into();
        fields
    };
    Ok(flats.iter().map(fields).collect())
}

#[test]
fn every_preset_reads_the_records_that_its_system_documents() {
    for preset in ALL {
        let mapping = preset.mapping().unwrap();
        let tests: Vec<Test> = serde_saphyr::from_str(preset.tests).unwrap();
        assert!(tests.iter().any(|test| !test.rejected.is_empty()), "{}: no test of rejects", preset.name);
        for test in tests {
            let of = format!("{}: {}", preset.name, test.name);
            let headers = test.headers.into_iter().map(|(name, value)| (name, Some(value.into_bytes())));
            let headers: Headers = headers.collect();
            let found: Vec<Json> = test
                .record
                .iter()
                .chain(&test.records)
                .flat_map(|record| {
                    events_with(&mapping, record, &headers).unwrap_or_else(|why| panic!("{of}: {why}: {record}"))
                })
                .collect();
            assert_eq!(json!(found), json!(test.events.unwrap_or_default()), "{of}");
            for Rejected { record, words } in test.rejected {
                let why = events_with(&mapping, &record, &headers).expect_err(&of).to_string();
                assert!(words.iter().all(|word| why.contains(word)), "{of}: {words:?} are not all in: {why}");
            }
        }
    }
}

const RULE: &str = "events:
  - kind: usage
    fields:
      event_id: id
      account_id: account
      occurred_at: at
      feature: name
";

#[test]
fn what_is_wrong_in_a_mapping_is_named_with_its_place() {
    // text to replace, replacement, words that the message must contain
    let cases: [(&str, &str, &[&str]); 31] = [
        ("feature: name", "", &["feature", ":2:"]),
        ("feature: name", "featur: name", &["feature", ":2:"]),
        ("feature: name", "feature: name\n      colour: c", &["colour", "no field", "usage", ":8:"]),
        ("feature: name", "feature: a..b", &["empty name", ":7:"]),
        ("feature: name", "feature: .name", &["each", ":7:"]),
        ("feature: name", "feature: {path: a, text: b}", &["exactly one", ":7:"]),
        ("feature: name", "feature: {path: a, wrds: {b: c}}", &["wrds", "words", ":7:"]),
        ("feature: name", "feature: {path: a, format: weeks}", &["weeks", "seconds", ":7:"]),
        ("feature: name", "feature: {path: a, times: 2, format: seconds}", &["at most one", ":7:"]),
        ("feature: name", "feature: {text: '{a'}", &["without", ":7:"]),
        ("feature: name", "feature: 7", &["path", ":7:"]),
        ("feature: name", "feature: $", &["$", ":7:"]),
        ("feature: name", "feature: {constant: x, words: {x: y}}", &["values of the record", ":7:"]),
        ("feature: name", "feature: {object: {a: b}, times: 2}", &["values of the record", ":7:"]),
        ("feature: name", "feature: {path: a, otherwise: skip}", &["for words", ":7:"]),
        ("feature: name", "feature: {path: a, words: {b: c}, otherwise: skip, default: d}", &["for words", ":7:"]),
        ("feature: name", "feature: {path: a, times: .inf}", &["times", ":7:"]),
        ("feature: name", "feature: {text: '{a}', nulls: skip}", &["nulls", ":7:"]),
        ("feature: name", "feature: {path: a, default: b, nulls: skip}", &["nulls", ":7:"]),
        ("kind: usage", "kind: usage\n    each: a.*..b", &["empty name", ":3:"]),
        ("events:", "unwrap: [a.]\nevents:", &["empty name", ":1:"]),
        ("kind: usage", "kind: usage\n    each: $", &["list", "write .", ":6:"]),
        ("kind: usage", "kind: usage\n    when: {a: []}", &["there", ":3:"]),
        ("kind: usage", "kind: usage\n    when: {a: 1.10}", &["quotes", ":3:"]),
        ("      feature: name", "      feature: name\nignore: [{}]", &["every record", ":1:"]),
        ("kind: usage", "kind: usage\n    kind: usage", &["kind", ":3:"]),
        ("kind: usage", "kind: use", &["use", "usage"]),
        ("kind: usage", "kind: usage\n    each: .a", &["each", "$", ":3:"]),
        ("kind: usage", "kind: usage\n    when: {a: {is: b}}", &["there"]),
        ("events:", "event:", &["event", "events"]),
        (RULE, "events: []", &["at least one", ":1:"]),
    ];
    for (from, to, words) in cases {
        assert!(RULE.contains(from), "{from}");
        let why = parse("m.yaml", &RULE.replacen(from, to, 1)).expect_err(to).to_string();
        assert!(words.iter().chain(&["m.yaml"]).all(|word| why.contains(word)), "{words:?} are not all in: {why}");
    }
}

/// The values of one field, `feature`, for a record.
fn feature(how: &str, record: &str) -> Result<Option<Json>, String> {
    let text = RULE.replacen("feature: name", &format!("feature: {how}"), 1);
    let mapping = parse("m.yaml", &text).unwrap();
    let flats = mapping.events(record.as_bytes(), &Vec::new()).map_err(|why| why.to_string())?;
    let fields = flats.first().map(|flat| serde_json::from_str::<Json>(&flat.form().json()).unwrap());
    Ok(fields.map(|fields| fields.get("feature").cloned().unwrap_or_default()))
}

#[test]
fn a_field_gets_its_value_as_the_mapping_says() {
    // how, record, value: none is no event
    let cases = [
        ("a.b", r#"{"a": {"b": "x"}}"#, Some(json!("x"))),
        ("a.b", r#"{"a": {"b": 7.50}}"#, Some(json!(7.5))),
        ("a.b", r#"{"a": {}}"#, Some(json!(null))),
        ("[a, b]", r#"{"a": "", "b": "x"}"#, Some(json!("x"))),
        ("[a, b]", r#"{"a": null}"#, Some(json!(null))),
        ("{path: a, default: none}", r#"{"a": null}"#, Some(json!("none"))),
        ("{constant: [1, two]}", "{}", Some(json!([1, "two"]))),
        ("{text: '{a}/{b.c}!'}", r#"{"a": "x", "b": {"c": 3}}"#, Some(json!("x/3!"))),
        ("{text: '{a}/{b.c}!'}", r#"{"a": "x"}"#, Some(json!(null))),
        ("{text: '{a}', default: d}", r#"{"b": "x"}"#, Some(json!("d"))),
        ("{text: '{a}/{b}'}", r#"{"a": true, "b": false}"#, Some(json!("true/false"))),
        ("{path: a, words: {'1': one, 'true': so}}", r#"{"a": 1}"#, Some(json!("one"))),
        ("{path: a, words: {'1': one, 'true': so}}", r#"{"a": true}"#, Some(json!("so"))),
        ("{path: a, words: {x: y}, otherwise: skip}", r#"{"a": "z"}"#, None),
        ("{path: a, words: {x: y}, default: d}", r#"{"a": "z"}"#, Some(json!("d"))),
        ("{path: a, times: 60}", r#"{"a": 1.5}"#, Some(json!(90))),
        ("{path: a, times: 0.001}", r#"{"a": "1500"}"#, Some(json!(1.5))),
        ("{path: a, format: seconds}", r#"{"a": 0}"#, Some(json!("1970-01-01T00:00:00Z"))),
        ("{object: {x: a, y: {constant: 2}, z: missing}}", r#"{"a": 1}"#, Some(json!({"x": 1, "y": 2}))),
        ("{object: {z: missing}}", r#"{"a": 1}"#, Some(json!(null))),
        (r#"'a."b.c"'"#, r#"{"a": {"b.c": "x"}}"#, Some(json!("x"))),
        ("a.1.b", r#"{"a": [{"b": 1}, {"b": 2}]}"#, Some(json!(2))),
        ("[a.0, a]", r#"{"a": "x"}"#, Some(json!("x"))),
        ("[a.0, a]", r#"{"a": ["y"]}"#, Some(json!("y"))),
        ("{object: {x: {path: a, nulls: skip}, y: a}}", r#"{"a": null}"#, Some(json!({"y": null}))),
        ("a", r#"{"a": "\u00fc\"\n"}"#, Some(json!("ü\"\n"))),
        ("{text: '{a}'}", r#"{"a": "\u00fc\"\n"}"#, Some(json!("ü\"\n"))),
    ];
    for (how, record, expected) in cases {
        assert_eq!(feature(how, record), Ok(expected), "{how} of {record}");
    }
    // how, record, words of the reject
    let refused: [(&str, &str, &[&str]); 9] = [
        ("{path: a.b, words: {x: y}}", r#"{"a": {"b": "z"}}"#, &["unknown_value", "a.b", "z", "x"]),
        ("{path: a, format: seconds}", r#"{"a": "now"}"#, &["bad_time", "a:", "now"]),
        ("{path: a, times: 2}", r#"{"a": [1]}"#, &["wrong_type", "a:", "a list"]),
        ("{text: '{a}'}", r#"{"a": {}}"#, &["wrong_type", "a:", "an object"]),
        ("{text: '{a}'}", r#"{"a": 1e3}"#, &["wrong_type", "a:", "1e3", "whole"]),
        ("a", r#""text""#, &["not_an_object"]),
        ("a", "[1]", &["not_an_object"]),
        ("a", r#"{"a": 1, "a": 2}"#, &["duplicate_key", "`a`"]),
        ("a", r#"{"\ud800": 1}"#, &["not_json"]),
    ];
    for (how, record, words) in refused {
        let why = feature(how, record).unwrap_err();
        assert!(words.iter().all(|word| why.contains(word)), "{words:?} are not all in: {why}");
    }
}

#[test]
fn items_of_a_list_become_events_and_a_record_may_become_several() {
    let text = "events:
  - when: {type: order}
    each: lines
    kind: usage
    fields: {event_id: {text: '{id}-{.n}'}, account_id: account, occurred_at: at, feature: .sku, count: .quantity}
  - when: {type: order, .gift: true}
    each: lines
    kind: usage
    fields: {event_id: {text: '{id}-gift-{.n}'}, account_id: account, occurred_at: at, feature: {constant: gift}}
  - when: {type: order}
    kind: account
    fields: {event_id: id, account_id: account, occurred_at: at, type: {constant: upsert}, facts: {object: {plan: plan}}}
";
    let mapping = parse("m.yaml", text).unwrap();
    let order = |lines: &str| {
        format!(r#"{{"type": "order", "id": "o1", "account": "acme", "at": 1000, "plan": "pro", "lines": {lines}}}"#)
    };
    let found =
        events(&mapping, &order(r#"[{"n": 1, "sku": "a", "quantity": 2}, {"n": 2, "sku": "b", "gift": true}]"#));
    let ids: Vec<String> = found.unwrap().iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, ["o1-1", "o1-2", "o1-gift-2", "o1"]);
    assert_eq!(events(&mapping, &order("null")).unwrap().len(), 1);
    for (lines, word) in [
        (r#"{"n": 1}"#, "lines: expected a list"),
        (r#"[{"n": 1}]"#, "feature is read from .sku"),
        (r#"[{"n": 1, "n": 2, "sku": "a"}]"#, "duplicate"),
    ] {
        let why = events(&mapping, &order(lines)).unwrap_err().to_string();
        assert!(why.contains(word), "{why}");
    }
    // Later events of one id would be taken for duplicates of the first.
    let why = events(&mapping, &order(r#"[{"n": 1, "sku": "a"}, {"n": 1, "sku": "b"}]"#)).unwrap_err().to_string();
    assert!(why.contains("two events") && why.contains("o1-1"), "{why}");
    let long = "x".repeat(60_000);
    let many = vec![format!(r#"{{"n": 1, "sku": "{long}"}}"#); 80].join(",");
    assert!(events(&mapping, &order(&format!("[{many}]"))).unwrap_err().to_string().contains("bytes"));
    let many = vec![r#"{"n": 1, "sku": "a"}"#; super::MAX_EVENTS + 1].join(",");
    assert!(events(&mapping, &order(&format!("[{many}]"))).unwrap_err().to_string().contains("1000 events"));
    // Items that no event is made of do not count.
    let of_gifts = text.split("  - when").nth(2).unwrap();
    let mapping = parse("m.yaml", &format!("events:\n  - when{of_gifts}")).unwrap();
    let mut lines = vec![r#"{"n": 1, "gift": true}"#];
    lines.resize(80_000, "{}");
    assert_eq!(events(&mapping, &order(&format!("[{}]", lines.join(",")))).unwrap().len(), 1);
    // A record that is itself a list.
    let of_list =
        "events: [{each: $, kind: usage, fields: {event_id: .id, account_id: .a, occurred_at: .t, feature: .f}}]";
    let mapping = parse("m.yaml", of_list).unwrap();
    let found = events(&mapping, r#"[{"id": 1, "a": "x", "t": 0, "f": "f"}, {"id": 2, "a": "x", "t": 0, "f": "f"}]"#);
    assert_eq!(found.unwrap().len(), 2);
}

#[test]
fn a_record_may_be_within_another_have_headers_and_lists_in_lists() {
    let text = "unwrap: [data.payload, payload]
events:
  - each: pages.*.answers
    when: {'@kind': answers}
    kind: usage
    fields: {event_id: {text: '{@id}-{.}'}, account_id: account, occurred_at: at, feature: .}
";
    let mapping = parse("m.yaml", text).unwrap();
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    // The last of equal headers counts.
    let headers =
        vec![header("kind", "others"), header("kind", "answers"), header("id", "h \" 1"), ("id2".into(), None)];
    let record = r#"{"account": "acme", "at": 1000, "pages": [{"answers": ["a"]}, {}, {"answers": null}, {"answers": ["b", "c"]}]}"#;
    for record in [
        record.to_owned(),
        format!(r#"{{"payload": {record}}}"#),
        format!(r#"{{"data": {{"payload": {record}}}, "payload": 7}}"#),
    ] {
        let found = events_with(&mapping, &record, &headers).unwrap();
        let ids: Vec<&str> = found.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["h \" 1-a", "h \" 1-b", "h \" 1-c"], "{record}");
    }
    let why = events_with(&mapping, record, &headers[..1].to_vec()).unwrap_err();
    assert!(why.to_string().contains("no_rule"), "{why}");
    let not_utf8 = vec![("kind".to_owned(), Some(b"answers\xff".to_vec()))];
    assert!(events_with(&mapping, record, &not_utf8).is_err());
    let why = events_with(&mapping, &record.replace(r#"["a"]"#, "7"), &headers).unwrap_err();
    assert!(why.to_string().contains("pages: expected a list"), "{why}");
}

#[test]
fn a_record_without_a_value_is_one_of_headers_alone_or_ignored_or_a_reject() {
    let read = |text: &str| parse("m.yaml", text).unwrap().or_empty(None).is_some();
    assert_eq!(
        [read(RULE), read(&format!("{RULE}others: ignore")), read(&RULE.replace("feature: name", "feature: '@name'"))],
        [false, true, true]
    );
    let mapping = parse("m.yaml", RULE).unwrap();
    assert_eq!(mapping.or_empty(Some(b"[1]")), Some(&b"[1]"[..]));
}

#[test]
fn a_rule_may_be_a_program_with_its_own_conditions() {
    let text = r#"events:
  - when: {type: cart}
    kind: usage
    jq: '.account as $a | .items | to_entries[] | {event_id: "\(.value.id)-\(.key)", account_id: $a, occurred_at: .value.at, feature: .value.sku}'
"#;
    let with_fields = text.replace("    jq:", "    fields: {}\n    jq:");
    let why = parse("m.yaml", &with_fields).unwrap_err().to_string();
    assert!(why.contains("m.yaml:5:9") && why.contains("neither fields"), "{why}");
    if cfg!(not(feature = "jq")) {
        let why = parse("m.yaml", text).unwrap_err().to_string();
        assert!(why.contains("m.yaml:4:9") && why.contains("--features jq"), "{why}");
        return;
    }
    let mapping = parse("m.yaml", text).unwrap();
    let record = r#"{"type": "cart", "account": "acme", "items": [{"id": "i", "at": 1000, "sku": "a"}, {"id": "i", "at": 2000, "sku": "b"}]}"#;
    let found = events(&mapping, record).unwrap();
    let expected = |id: &str, at: i64, sku: &str| json!({"kind": "usage", "event_id": id, "account_id": "acme", "occurred_at": at, "feature": sku});
    assert_eq!(found, [expected("i-0", 1000, "a"), expected("i-1", 2000, "b")]);
    let why = events(&mapping, r#"{"type": "cart", "items": 3}"#).unwrap_err();
    assert!(why.code == Code::WrongType && why.detail.starts_with("jq: "), "{why}");
    let why =
        events(&mapping, r#"{"type": "cart", "account": "acme", "items": [{"id": "i", "at": "soon", "sku": "a"}]}"#);
    assert_eq!(why.unwrap_err().code, Code::BadTime);
    assert_eq!(events(&mapping, r#"{"type": "other"}"#).unwrap_err().code, Code::NoRule);
    let wrong = text.replace("to_entries[]", "no_such_filter[]");
    let why = parse("m.yaml", &wrong).unwrap_err().to_string();
    assert!(why.contains("m.yaml:4:9") && why.contains("no_such_filter"), "{why}");
}

/// All values that a record becomes when one of its values is another, or is not there.
fn spoilt(record: &Json) -> Vec<Json> {
    let others =
        [json!(null), json!(-1), json!(1.5e300), json!(""), json!("x"), json!([]), json!([{}]), json!({}), json!(true)];
    let mut all = Vec::new();
    match record {
        Json::Object(fields) => {
            for (name, value) in fields {
                let with = |value: Json| {
                    let mut record = record.clone();
                    record[name] = value;
                    record
                };
                all.extend(others.iter().cloned().map(with));
                all.extend(spoilt(value).into_iter().map(with));
                let mut without = fields.clone();
                without.remove(name);
                all.push(without.into());
            }
        }
        Json::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                all.extend(others.iter().cloned().chain(spoilt(item)).map(|value| {
                    let mut record = record.clone();
                    record[at] = value;
                    record
                }));
            }
        }
        _ => {}
    }
    all
}

#[test]
fn a_spoilt_record_of_every_preset_is_an_event_or_a_reason_that_names_a_path() {
    for preset in ALL {
        let mapping = preset.mapping().unwrap();
        let rules = mapping.rules.iter().flat_map(|rule| rule.fields.iter().flatten());
        let mut paths: Vec<&str> = rules.flat_map(|(_, value)| value.paths()).collect();
        paths
            .extend(mapping.rules.iter().filter_map(|rule| rule.each.as_ref()?.at.as_ref()).map(|at| at.path.as_str()));
        // A rule without fields takes a record in Keepwell's form, whose names are the paths.
        let own = mapping.rules.iter().filter(|rule| rule.fields.is_none()).filter_map(|rule| form::of_kind(rule.kind));
        let own = own.flat_map(|own| FORMS.iter().filter(|form| form.kind == own.kind));
        paths.extend(own.flat_map(|form| form.fields).map(|field| field.name));
        let tests: Vec<Test> = serde_saphyr::from_str(preset.tests).unwrap();
        for test in tests {
            let headers = test.headers.into_iter().map(|(name, value)| (name, Some(value.into_bytes()))).collect();
            for record in test.record.iter().chain(&test.records) {
                for spoilt in spoilt(&serde_json::from_str(record).unwrap()) {
                    let Err(why) = events_with(&mapping, &spoilt.to_string(), &headers) else { continue };
                    let is_named = why.code == Code::NoRule || paths.iter().any(|path| why.detail.contains(path));
                    assert!(is_named, "{}: {why}: {spoilt}", preset.name);
                }
            }
        }
    }
}

#[test]
fn whatever_is_in_a_record_is_an_event_or_a_reason_and_no_panic() {
    let records = [
        "",
        " ",
        "null",
        "3",
        "\"\"",
        "[]",
        "[[]]",
        "{",
        "{}",
        "{\"type\"}",
        "\u{feff}{}",
        "{\"type\": {}}",
        "[{}, 1]",
        r#"{"type": "track"}"#,
        r#"{"type": "group", "traits": []}"#,
        r#"{"type": "group", "traits": 5}"#,
        r#"{"event": {"comment": 1}, "type": "zen:event-type:ticket.comment_added"}"#,
        r#"{"event_type": "survey_response.created", "event_data": []}"#,
        r#"{"event": "x", "properties": {"$groups": "acme"}}"#,
    ];
    for preset in ALL {
        let mapping = preset.mapping().unwrap();
        for record in records {
            for end in 0..=record.len() {
                let Some(record) = record.get(..end) else { continue };
                if let Err(why) = events(&mapping, record) {
                    assert!(!why.detail.is_empty(), "{}: {record}", preset.name);
                }
            }
        }
    }
}
