//! Records of other systems, as those systems document them, through all stages.

use std::path::Path;
use std::process::Command;

use keepwell_ingest::mapping::presets::ALL;
use keepwell_pipeline::config::Source;
use keepwell_pipeline::record::Message;
use serde_json::Value;

use crate::time::ALL_BUT_USAGE;
use crate::{kafka, sum};

/// The records in the tests of a preset, one per line, but those with headers: a file has none.
fn documented(tests: &str) -> String {
    let tests: Vec<Value> = serde_saphyr::from_str(tests).unwrap();
    let texts = |value: &Value| -> Vec<String> {
        let texts = value.as_array().cloned().unwrap_or_default();
        texts.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let of_test = |test: &Value| {
        let rejected = test["rejected"].as_array().cloned().unwrap_or_default();
        let rejected = rejected.into_iter().map(|rejected| rejected["record"].clone());
        let single: Vec<Value> = std::iter::once(test["record"].clone()).chain(rejected).collect();
        [texts(&Value::Array(single)), texts(&test["records"])].concat()
    };
    tests
        .iter()
        .filter(|test| test["headers"].is_null())
        .flat_map(of_test)
        .map(|record| format!("{}\n", record.replace('\n', " ").trim()))
        .collect()
}

/// What `try-input` says about a file: events of all kinds, ignored and rejected records.
fn tried(arguments: &[&str]) -> (u64, u64, u64) {
    let mut command = Command::new(keepwell_verify::programs::keepwell().unwrap());
    let output = command.arg("try-input").args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let count = |is: &dyn Fn(&str) -> bool| {
        let fates = last["summary"].as_object().unwrap().iter();
        fates.filter(|(fate, _)| is(fate)).map(|(_, count)| count.as_u64().unwrap()).sum()
    };
    let (is_ignored, is_rejected) =
        (|fate: &str| fate.starts_with("ignored"), |fate: &str| fate.starts_with("rejected"));
    (count(&|fate| !is_ignored(fate) && !is_rejected(fate)), count(&is_ignored), count(&is_rejected))
}

const ORDERS: &str = "events:
  - each: lines
    kind: usage
    fields: {event_id: {text: '{id}-{.n}'}, account_id: account, occurred_at: at, feature: .sku, count: .quantity}
";

#[test]
fn every_preset_and_a_mapping_run_through_four_stages_and_do_what_try_input_says() {
    let folder = tempfile::tempdir().unwrap();
    let orders = folder.path().join("orders.yaml");
    std::fs::write(&orders, ORDERS).unwrap();
    let mut files: Vec<(String, [String; 2], String)> = ALL
        .iter()
        .map(|preset| (preset.name.to_owned(), ["--preset".into(), preset.name.into()], documented(preset.tests)))
        .collect();
    let order = r#"{"id": "o1", "account": "acme", "at": "2026-03-01T12:00:00Z", "lines": [{"n": 1, "sku": "a", "quantity": 2}, {"n": 2, "sku": "b"}, {"n": 3, "sku": "a"}]}"#;
    let wrong =
        r#"{"id": "o2", "account": "acme", "at": "2026-03-01T12:00:00Z", "lines": [{"n": 1, "sku": "a"}, {"n": 2}]}"#;
    files.push((
        "orders".to_owned(),
        ["--mapping".into(), orders.display().to_string()],
        format!("{order}\n{wrong}\n"),
    ));
    let sources: String = files
        .iter()
        .map(|(name, [option, of], _)| {
            format!("  - {{topic: \"@NAME@.from-{name}\", {}: {of}, optional: true}}\n", option.trim_start_matches('-'))
        })
        .collect();
    let deployment = crate::time::with_optional("mapped", &ALL_BUT_USAGE, |text| {
        text.replace("kind: usage}", "kind: usage, optional: true}")
            .replace("topics:\n", &format!("{sources}topics:\n"))
    });
    let (mut num_lines, mut expected) = (0, (0, 0, 0));
    for (name, [option, of], lines) in &files {
        let file = folder.path().join(format!("{name}.ndjson"));
        std::fs::write(&file, lines).unwrap();
        let (events, ignored, rejected) = tried(&[&file.display().to_string(), option, of]);
        expected = (expected.0 + events, expected.1 + ignored, expected.2 + rejected);
        let topic = deployment.config.sources.iter().find(|s| s.topic.ends_with(&format!(".from-{name}"))).unwrap();
        kafka().produce(lines.lines().map(|line| message(&topic.topic, line))).unwrap();
        num_lines += lines.lines().count() as u64;
    }
    kafka().produce([binary_event(&deployment.config.sources)]).unwrap();
    (num_lines, expected.0) = (num_lines + 1, expected.0 + 1);
    assert!(expected.0 >= 15 && expected.1 > 8 && expected.2 > 12, "{expected:?}");

    let ingest = deployment.drain("ingest", &["--complete"]);
    assert_eq!(ingest["read"], num_lines);
    assert_eq!((sum(&ingest, "ignored"), sum(&ingest, "rejected")), (expected.1, expected.2));
    assert_eq!(ingest["read"], ingest["emitted"] + expected.1 + expected.2);
    assert_eq!(ingest["emitted"] + ingest["further"], expected.0);
    assert!(ingest["further"] > 10, "{ingest:?}");
    let aggregate = deployment.drain("aggregate", &[]);
    assert_eq!(aggregate["read"], expected.0);
    assert!(deployment.drain("score", &[])["scored"] > 0);
    deployment.drain("sink", &[]);
    let explained = deployment.keepwell(&["explain", "acme"]);
    assert!(explained.status.success(), "{explained:?}");
    // A reject keeps the record as it was sent, so that it can be replayed once the mapping is mended.
    let rejects = deployment.records(&deployment.config.topics.rejects);
    assert!(rejects.iter().any(|reject| reject.value.as_deref() == Some(wrong.as_bytes())));
}

/// An event of CloudEvents whose attributes are in headers.
fn binary_event(sources: &[Source]) -> Message {
    let topic = sources.iter().find(|source| source.topic.ends_with(".from-cloudevents")).unwrap();
    let attributes = [
        ("ce_specversion", "1.0"),
        ("ce_type", "report"),
        ("ce_source", "/reports"),
        ("ce_id", "binary"),
        ("ce_time", "2026-03-01T10:00:00Z"),
        ("ce_subject", "acme"),
    ];
    let headers = attributes.map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec())));
    Message { headers: headers.into(), ..message(&topic.topic, "{}") }
}

pub fn message(topic: &str, line: &str) -> Message {
    Message {
        topic: topic.into(),
        partition: 0,
        timestamp_ms: None,
        key: None,
        value: Some(line.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

#[test]
fn raw_exports_of_segment_and_zendesk_become_explained_scores_with_two_commands() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = write(
        "keepwell.yaml",
        "epoch: 1\npartitions: 2\nkafka: {bootstrap_servers: 'none:1'}\nsnapshots: {url: 'memory:///'}\nsources:\n  - {topic: segment, preset: segment}\n  - {topic: zendesk, preset: zendesk}\n",
    );
    let track = |day: u32| {
        format!(
            "{{\"type\": \"track\", \"messageId\": \"m{day}\", \"event\": \"Report Exported\", \"userId\": \"u{}\", \"context\": {{\"groupId\": \"8009\"}}, \"timestamp\": \"2026-03-{day:02}T10:00:00Z\"}}\n",
            day % 3
        )
    };
    let segment = write("segment.ndjson", &(1..=20).map(track).collect::<String>());
    let zendesk = ALL.iter().find(|preset| preset.name == "zendesk").unwrap();
    let zendesk = write("zendesk.ndjson", &documented(zendesk.tests));
    let out = folder.path().join("out");
    let keepwell = |arguments: &[&str]| {
        let mut command = Command::new(keepwell_verify::programs::keepwell().unwrap());
        let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (segment, zendesk) = (format!("segment={segment}"), format!("zendesk={zendesk}"));
    let out_text = out.display().to_string();
    let filled = keepwell(&["backfill", "--config", &config, &segment, &zendesk, "--out", &out_text]);
    assert!(filled.contains("emitted 28") && filled.contains("ignored by_mapping 5"), "{filled}");
    let scores = out.join("scores.ndjson").display().to_string();
    let explained = keepwell(&["explain", "8009", "--scores", &scores]);
    assert!(explained.contains("8009") && explained.contains("score"), "{explained}");
    let windows = keepwell_verify::streamed::table(
        Path::new(&out.join("tables")),
        "windows",
        &keepwell_pipeline::config::Aggregate::default().layout().schema(),
    )
    .unwrap();
    let opened = keepwell_core::schema::columns::Columns::Batch(&windows).int("tickets_opened_90d").unwrap();
    assert!(opened.iter().flatten().sum::<i64>() > 0, "the ticket of Zendesk is in the windows");
}
