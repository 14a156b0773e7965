//! Readers other than Keepwell: an analyst's database, a second Kafka client, another Arrow library.

use std::path::Path;
use std::process::Command;

use indicatif::ProgressBar;
use keepwell::demo::{self, DemoArgs};
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::health;
use keepwell_verify::compare::rows_of;
use keepwell_verify::fleet::{self, Shape};
use serde_json::Value;

use crate::{Deployment, kafka};

/// Runs a script with the pinned packages and parses the JSON that it prints.
fn python(script: &str, args: &[&str]) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(root.join("deploy/python/python"));
    let output = command.arg(root.join(script)).args(args).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn column<'a>(rows: &'a Value, name: &str) -> Vec<&'a Value> {
    rows.as_array().unwrap().iter().map(|row| &row[name]).collect()
}

#[test]
fn duckdb_answers_every_query_and_recomputes_every_score() {
    let folder = tempfile::tempdir().unwrap();
    let args = DemoArgs { seed: 3, accounts: 60, days: 40, out: folder.path().join("demo") };
    let outcome = demo::play(&args, &ProgressBar::hidden()).unwrap();
    let tables = args.out.join("tables").display().to_string();
    let answers = python("deploy/duckdb/run.py", &[&tables, "--json"]);

    assert_eq!(answers["recomputed_scores"], serde_json::json!([]), "scores that plain SQL gives otherwise");
    let latest = column(&answers["latest_score"], "account_id");
    assert_eq!(latest.len(), outcome.scores.len());
    let worst = column(&answers["worst_accounts"], "account_id");
    let mut expected: Vec<&keepwell::last_scores::Score> = outcome.scores.iter().collect();
    expected.sort_by(|a, b| a.score.unwrap().total_cmp(&b.score.unwrap()).then(a.account_id.cmp(&b.account_id)));
    let expected: Vec<&str> = expected.iter().take(20).map(|health| health.account_id.as_str()).collect();
    assert_eq!(worst, expected);
    let days = column(&answers["score_history"], "day").into_iter().collect::<std::collections::HashSet<_>>();
    assert_eq!(days.len(), 40);
    assert_eq!(column(&answers["factor_drift"], "factor").len(), 8);
    assert!(column(&answers["adoption_by_feature"], "feature").len() > 5);
}

#[test]
fn a_second_kafka_client_and_another_arrow_read_the_same() {
    let deployment = Deployment::new("readers");
    deployment.load(&fleet::dirty(5, Shape { accounts: 150, days: 25, usage: 3 }));
    deployment.drain("ingest", &["--complete"]);
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    let topics = &deployment.config.topics;
    let read =
        python("deploy/python/read_topics.py", &[&kafka().address, &topics.scores, &topics.health, &topics.windows]);
    let mut last = serde_json::Map::new();
    for record in deployment.records(&topics.scores) {
        let account = String::from_utf8(record.key.unwrap()).unwrap();
        match record.value {
            Some(value) => last.insert(account, serde_json::from_slice::<Value>(&value).unwrap()["score"].clone()),
            None => last.remove(&account),
        };
    }
    assert!(last.len() > 5);
    assert_eq!(read["last"], Value::Object(last));
    let rows = |topic: &str, schema| rows_of(&deployment.records(topic), &schema).unwrap();
    let scored = rows(&topics.health, health::schema());
    let finals = keepwell_verify::streamed::finals(&scored).unwrap().num_rows();
    let mut factors = serde_json::Map::new();
    for name in health::Reader::of(Columns::Batch(&scored)).unwrap().factors.items.name.iter().flatten() {
        let count = factors.entry(name).or_insert(Value::from(0_u64));
        *count = Value::from(count.as_u64().unwrap() + 1);
    }
    assert!(factors.len() > 3);
    assert_eq!(read["factors"], Value::Object(factors));
    assert_eq!(read["finals"], finals);
    let windows = rows(&topics.windows, deployment.config.aggregate.layout().schema());
    let uses: i64 = Columns::Batch(&windows).int("uses_14d").unwrap().iter().flatten().sum();
    assert_eq!(read["uses"], uses);
    assert!(read["runs"].as_i64().unwrap() > 20, "{} columns that are the same in every row", read["runs"]);
}
