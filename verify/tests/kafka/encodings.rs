//! Records by a schema registry: a real one, real writers, and a registry that is away.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::Value;

use crate::live::{ask, ask_until};
use crate::time::ALL_BUT_USAGE;
use crate::{Deployment, kafka, process, sum};

const COUNT: usize = 300;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/registry")
}

/// A running registry. It stops with this value.
struct Registry {
    child: Child,
    url: String,
    _input: Option<ChildStdin>,
}

impl Registry {
    fn start(port: u16) -> Self {
        let mut command = Command::new(folder().join("registry"));
        let mut child =
            command.args(["run", &port.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("READY ").unwrap_or_else(|| panic!("no registry: {line:?}")).to_owned();
        Self { child, url, _input: input }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self._input.take());
        if let Err(error) = self.child.wait() {
            eprintln!("registry: {error}");
        }
    }
}

/// A registry that also knows GUIDs, before one that does not. The number of a schema is the last part of its GUID. Returns the
/// port. It serves until the test process ends.
fn with_guids(registry: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            head.read_line(&mut line).unwrap();
            let mut rest = String::new();
            while rest != "\r\n" {
                rest.clear();
                head.read_line(&mut rest).unwrap();
            }
            let path = line.split(' ').nth(1).unwrap();
            let by_guid = path.split_once("/schemas/guids/").map(|(base, guid)| {
                let number = u64::from_str_radix(guid.rsplit('-').next().unwrap(), 16).unwrap();
                format!("{base}/schemas/ids/{number}")
            });
            let answer = ask(registry, "GET", by_guid.as_deref().unwrap_or(path)).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A deployment whose usage is written by Avro and JSON Schema.
fn deployment(name: &str, registry: &str) -> Deployment {
    crate::time::with_optional(name, &ALL_BUT_USAGE, |text| {
        text.replace("kind: usage}", "kind: usage, encoding: confluent}")
            .replace("batch: ", &format!("schema_registry: {{url: \"{registry}\"}}\nbatch: "))
    })
}

fn written(deployment: &Deployment, registry: &str) {
    let mut python = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/python/python"));
    python.env("KEEPWELL_REQUIREMENTS", folder().join("requirements.txt"));
    let topic = &deployment.config.sources[0].topic;
    let count = COUNT.to_string();
    let arguments = [kafka().address.as_str(), registry, topic, &count];
    let output = process::output(python.arg(folder().join("write.py")).args(arguments), deployment.folder.path());
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["guid"], COUNT);
}

#[test]
fn what_real_serializers_write_becomes_scores_and_a_registry_that_is_away_is_waited_for() {
    let port = free_port();
    let registry = Registry::start(port);
    let known = registry.url.replace(&port.to_string(), &with_guids(port).to_string());
    let deployment = deployment("encoded", &known);
    written(&deployment, &registry.url);

    // While nobody answers, the topic waits; a topic that needs no schema goes on.
    let away = format!("schema_registry.url=\"http://127.0.0.1:{}\"", free_port());
    let people = &deployment.config.sources[4].topic;
    let person = r#"{"event_id":"p1","account_id":"by-avro","user_id":"u1","type":"added","occurred_at":"2026-03-01T10:00:00Z"}"#;
    kafka().produce([crate::mappings::message(people, person)]).unwrap();
    let (ingest, http) = deployment.start("ingest", &["--set", &away]);
    let usage = &deployment.config.sources[0].topic;
    let waits = format!("keepwell_source_waiting{{partition=\"0\",stage=\"ingest\",topic=\"{usage}\"}} 1\n");
    let emitted = "keepwell_records_total{fate=\"emitted\",reason=\"\",stage=\"ingest\"} 1\n";
    ask_until(http, "/metrics", |metrics| metrics.contains(&waits) && metrics.contains(emitted));
    assert_eq!(ingest.stop(), Some(0));
    assert_eq!(deployment.num_events(), 1);

    let fates = deployment.drain("ingest", &["--complete"]);
    assert_eq!(fates["emitted"], 5 * COUNT as u64 + 1, "{fates:?}");
    assert_eq!(sum(&fates, "rejected"), 3);
    assert_eq!(
        deployment.rejects(),
        [("bad_frame", 1), ("not_avro", 1), ("unknown_schema", 1)].map(|(name, count)| (name.to_owned(), count)).into()
    );
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    for account in ["by-avro", "by-json", "by-protobuf", "by-text", "by-guid", "by-none"] {
        let explained = deployment.keepwell(&["explain", account]);
        assert!(explained.status.success(), "{account}: {explained:?}");
    }
}
