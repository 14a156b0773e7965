//! TLS, SASL and least rights. A program needs exactly the rights that `topics rights` lists, and it names a missing
//! right.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use keepwell_pipeline::config::Config;
use keepwell_verify::fleet::{self, Shape};
use keepwell_verify::secured::Secured;
use keepwell_verify::streamed::Streamed;
use keepwell_verify::{check, deployment};

use crate::{RAW_PARTITIONS, process};

const NAME: &str = "secured";
const PROGRAMS: [&str; 4] = ["ingest", "aggregate", "score", "sink"];
const PASSWORD: &str = "open-sesame";

/// A configuration for an address, with or without TLS and SASL.
fn configuration(folder: &Path, address: &str, certificate: Option<&Path>) -> PathBuf {
    let secured = certificate.map(|certificate| {
        format!(
            "properties: {{security.protocol: SASL_SSL, sasl.mechanism: PLAIN, ssl.ca.location: '{}'}}, \
             secrets: {{sasl.username: {{env: KAFKA_USER}}, sasl.password: {{env: KAFKA_PASSWORD}}}}, ",
            certificate.display()
        )
    });
    let text = include_str!("deployment.yaml")
        .replace("kafka: {", &format!("kafka: {{{}", secured.clone().unwrap_or_default()))
        .replace("@NAME@", NAME)
        .replace("@BROKER@", address)
        .replace("@MODEL@", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/memory/model.yaml"))
        .replace("@FOLDER@", &folder.display().to_string());
    let path = folder.join(if secured.is_some() { "secured.yaml" } else { "open.yaml" });
    std::fs::write(&path, text).unwrap();
    path
}

fn keepwell(config: &Path, user: &str, password: &str, args: &[&str]) -> Output {
    let mut command = Command::new(keepwell_verify::programs::keepwell().unwrap());
    command.args(args).env("KEEPWELL_CONFIG", config).env("KEEPWELL_LOG", "debug");
    command.env("KAFKA_USER", format!("{NAME}-{user}")).env("KAFKA_PASSWORD", password);
    process::output(&mut command, config.parent().unwrap())
}

#[test]
fn with_the_listed_rights_and_no_more_all_stages_work_and_what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let users = PROGRAMS.map(|program| (format!("{NAME}-{program}"), PASSWORD));
    let kafka = Secured::start(&folder.path().join("kafka"), &users).unwrap();
    let open = configuration(folder.path(), &kafka.open.address, None);
    let secured = configuration(folder.path(), &kafka.address, Some(&kafka.certificate));
    let config = Config::read(&open, &[]).unwrap();
    for source in &config.sources {
        kafka.open.create_topic(&source.topic, RAW_PARTITIONS).unwrap();
    }
    assert!(keepwell(&open, "", "", &["topics", "--replication", "1", "apply"]).status.success());
    let raws = fleet::dirty(43, Shape { accounts: 6, days: 16, usage: 3 });
    let messages =
        raws.iter().enumerate().map(|(n, raw)| deployment::message(raw, n, RAW_PARTITIONS, &config).unwrap());
    kafka.open.produce(messages.collect::<Vec<_>>()).unwrap();

    // Arguments: the program, its user, its password, and words that its last log line must contain.
    let refused = |program: &str, user: &str, password: &str, words: &[&str]| {
        let output = keepwell(&secured, user, password, &[program, "--drain"]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        for word in [&["refuses", "keepwell topics rights"], words].concat() {
            assert!(log.lines().next_back().unwrap().contains(word), "{word:?} is not the last word of {log}");
        }
        assert!(!log.contains(password), "a secret is told: {log}");
    };
    refused("ingest", "ingest", "guessed-wrong", &["Authentication"]);
    refused("ingest", "ingest", PASSWORD, &["secured-ingest", "authorization failed"]);

    let rights = keepwell(&secured, "ingest", PASSWORD, &["topics", "rights"]);
    let rights = String::from_utf8(rights.stdout).unwrap();
    let rights: Vec<&str> = rights.lines().collect();
    // The tool starts slowly, so run two at once.
    std::thread::scope(|threads| {
        for half in rights.chunks(rights.len().div_ceil(2)) {
            threads.spawn(|| half.iter().for_each(|right| kafka.acls(right).unwrap()));
        }
    });
    for (program, more) in PROGRAMS.into_iter().zip([&["--complete"][..], &[], &[], &[]]) {
        let output = keepwell(&secured, program, PASSWORD, &[&[program, "--drain"], more].concat());
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !log.contains(PASSWORD), "{log}");
    }
    let streamed = Streamed::read(&config, |topic| kafka.open.records(topic)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let checked = runtime.block_on(check::against_oracle(&streamed, &config)).unwrap();
    assert!(checked.windows > 33 && checked.published > 3, "{checked:?}");
    assert!(check::tables(&streamed, &folder.path().join("tables")).unwrap() > 0);

    // Each user may do only its own work.
    refused("score", "aggregate", PASSWORD, &["secured-score", "authorization failed"]);
    kafka
        .acls(&format!("--remove --force --allow-principal User:{NAME}-score --operation Read --topic {NAME}.windows"))
        .unwrap();
    kafka.open.produce(copies(&kafka, &config)).unwrap();
    refused("score", "score", PASSWORD, &["secured.windows", "authorization failed"]);
    let printed = keepwell(&secured, "score", PASSWORD, &["score", "check"]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("KAFKA_PASSWORD") && !printed.contains(PASSWORD), "{printed}");
}

/// One more record of windows for each partition, so that there is something to read.
fn copies(kafka: &Secured, config: &Config) -> Vec<keepwell_pipeline::record::Message> {
    let records = kafka.open.records(&config.topics.windows).unwrap();
    let by_partition: BTreeMap<i32, _> = records.into_iter().map(|r| (r.topic_partition.partition, r)).collect();
    let message = |record: keepwell_pipeline::record::Record| keepwell_pipeline::record::Message {
        topic: record.topic_partition.topic.clone(),
        partition: record.topic_partition.partition,
        timestamp_ms: None,
        key: record.key,
        value: record.value.map(Vec::from),
        headers: record.headers,
    };
    by_partition.into_values().map(message).collect()
}

/// `check` once printed all five of these secrets.
#[test]
fn no_secret_is_shown_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keepwell.yaml");
    let text = "epoch: 1\npartitions: 1\nsources: [{topic: usage, kind: usage}]\n\
        kafka: {bootstrap_servers: 'none:1', properties: {sasl.password: hunter2, ssl.key.password: hunter2}}\n\
        snapshots: {url: 's3://user:hunter2@bucket/snapshots'}\n\
        tables: {url: 's3://user:hunter2@bucket/tables', options: {aws_secret_access_key: hunter2, aws_region: here}}\n";
    std::fs::write(&path, text).unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(keepwell_verify::programs::keepwell().unwrap());
        let output = command.args(args).env("KEEPWELL_CONFIG", &path).output().unwrap();
        let both = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(both).unwrap())
    };
    for stage in ["ingest", "aggregate", "score", "sink"] {
        let (code, output) = run(&[stage, "check"]);
        assert!(code == Some(0) && !output.contains("hunter2"), "{output}");
        for shown in ["sasl.password", "aws_region", "here", "bucket/tables"] {
            assert!(output.contains(shown), "{shown} is not in {output}");
        }
    }
    for wrong in ["tables.url=nowhere://user:hunter2@bucket/x?sig=hunter2", "snapshots.url=s3//user:hunter2@bucket"] {
        let (code, output) = run(&["explain", "acme", "--as-of", "2026-01-01T00:00:00Z", "--set", wrong]);
        assert!(code != Some(0) && !output.contains("hunter2"), "{output}");
    }
}
