//! Events over HTTP: real SDKs, webhooks with signatures, kills, and what is refused.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{self, Running};
use crate::{Deployment, kafka, sum};

/// Time limit for a process to take its first request, or for a request to be taken after a kill.
const LIMIT: Duration = Duration::from_secs(120);

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw";

/// An address that nobody uses now.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A deployment with the doors of collect at an address.
fn deployment(name: &str, address: &str) -> Deployment {
    crate::time::with_optional(name, &crate::time::ALL_BUT_USAGE, |text| {
        let calls = "  - {topic: \"@NAME@.calls\", preset: segment, optional: true}\n";
        let doors = format!(
            "collect:\n  listen: {address}\n  segment: [{{write_key: {{file: \"@FOLDER@/key\"}}, topic: \"@NAME@.calls\"}}]\n  \
             webhooks:\n    - {{name: standard, topic: \"@NAME@.usage\", check: {{standard: {{file: \"@FOLDER@/secret\"}}}}}}\n    \
             - {{name: open, topic: \"@NAME@.usage\", check: none}}\n"
        );
        text.replace("kind: usage}", "kind: usage, optional: true}")
            .replace("topics:\n", &format!("{calls}topics:\n"))
            .replace("batch: ", &format!("{doors}batch: "))
    })
}

/// Starts collect and waits until it takes connections.
fn start(deployment: &Deployment, address: &str, more: &[&str]) -> Running {
    std::fs::write(deployment.folder.path().join("key"), "k1\n").unwrap();
    std::fs::write(deployment.folder.path().join("secret"), SECRET).unwrap();
    let mut command = deployment.command(&[&["collect"], more].concat());
    let running = Running::start(&mut command, deployment.folder.path(), "collect");
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < LIMIT, "collect takes no connection");
        std::thread::sleep(Duration::from_millis(20));
    }
    running
}

/// Sends one request and returns status, headers and body. None if the connection broke off.
fn ask(address: &str, head: &str, body: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let length = body.len();
    write!(stream, "{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n").ok()?;
    stream.write_all(body).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some((answer.split(' ').nth(1)?.parse().ok()?, answer))
}

fn track(id: &str) -> String {
    format!(
        r#"{{"messageId":"{id}","event":"export","userId":"u1","context":{{"groupId":"acme"}},"timestamp":"2026-03-01T10:00:00Z"}}"#
    )
}

/// `k1:` in base64.
const TRACK: &str = "POST /v1/track HTTP/1.1\r\nauthorization: Basic azE6";

#[test]
fn sdks_of_segment_and_rudderstack_and_a_signed_webhook_arrive_in_scores() {
    let address = free_address();
    let deployment = deployment("collected", &address);
    let running = start(&deployment, &address, &[]);
    let sdks = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/sdks");
    let url = format!("http://{address}");
    let said = |command: &mut Command| -> Value {
        let output = process::output(command, deployment.folder.path());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/python/python");
    let mut python = Command::new(python);
    python.env("KEEPWELL_REQUIREMENTS", sdks.join("requirements.txt"));
    let by_python = said(python.arg(sdks.join("send.py")).args([&url, "k1", SECRET]));
    assert_eq!(by_python, serde_json::json!({"failed": [], "signed": 200, "changed": 401}));
    let by_node = said(Command::new(sdks.join("node")).arg(sdks.join("send.mjs")).args([&url, "k1"]));
    assert_eq!(by_node, serde_json::json!({"failed": []}));
    assert_eq!(running.stop(), Some(0));

    // Four SDKs, each with a group, an identify, 250 uses and a page; and the webhook.
    let ingest = deployment.drain("ingest", &["--complete"]);
    assert_eq!(
        (ingest["read"], ingest["emitted"], sum(&ingest, "ignored")),
        (4 * 253 + 1, 4 * 252 + 1, 4),
        "{ingest:?}"
    );
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    for account in ["segment-python", "rudder-python", "segment-node", "rudder-node", "by-webhook"] {
        let explained = deployment.keepwell(&["explain", account]);
        assert!(explained.status.success(), "{account}: {explained:?}");
    }
}

/// Two senders repeat each event until it is acknowledged, as SDKs do, while the door is killed four times.
#[test]
fn what_a_door_acknowledged_is_in_the_topic_whatever_kills_it() {
    let address = free_address();
    let deployment = deployment("struck", &address);
    let topic = &deployment.config.collect.as_ref().unwrap().segment[0].topic;
    let mut running = start(&deployment, &address, &[]);
    let is_over = AtomicBool::new(false);
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let send = |sender: usize| {
            let mut acknowledged = BTreeSet::new();
            for n in 0.. {
                let id = format!("{sender}-{n}");
                let began = Instant::now();
                while ask(&address, TRACK, track(&id).as_bytes()).is_none_or(|(status, _)| status != 200) {
                    assert!(began.elapsed() < LIMIT, "event {id} is not taken");
                    std::thread::sleep(Duration::from_millis(5));
                }
                acknowledged.insert(id);
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
            acknowledged
        };
        let senders = [0, 1].map(|sender| scope.spawn(move || send(sender)));
        for strike in 1..=4 {
            kafka().wait_for(topic, strike * 60).unwrap();
            running.signal("KILL");
            running = start(&deployment, &address, &[]);
        }
        kafka().wait_for(topic, 300).unwrap();
        is_over.store(true, Ordering::Relaxed);
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    assert_eq!(running.stop(), Some(0));
    let id = |value: &[u8]| serde_json::from_slice::<Value>(value).unwrap()["messageId"].as_str().unwrap().to_owned();
    let records = deployment.records(topic);
    let found: BTreeSet<String> = records.iter().map(|record| id(record.value.as_ref().unwrap())).collect();
    assert_eq!(found, acknowledged);
    let fates = deployment.drain("ingest", &["--complete"]);
    assert_eq!(fates["emitted"], records.len() as u64);
    // What was sent twice counts once.
    assert_eq!(
        deployment.drain("aggregate", &[]).get("duplicate").copied().unwrap_or(0) as usize,
        records.len() - found.len()
    );
}

#[test]
fn a_request_that_is_not_taken_is_told_why_and_whether_to_repeat_it() {
    let address = free_address();
    let deployment = deployment("refusals", &address);
    let running = start(&deployment, &address, &["--set", "collect.max_webhook_bytes=2000"]);
    let large = vec![b'x'; 2001];
    let post = |path: &str| format!("POST {path} HTTP/1.1");
    let cases: [(String, &[u8], u16, &str); 9] = [
        (TRACK.to_owned(), b"{}", 200, "success\":true"),
        (TRACK.to_owned(), b"{", 400, "not what"),
        (format!("{TRACK}\r\nx-strict-mode: 1"), b"{}", 400, "event 0: event is missing"),
        (post("/v1/track"), b"{}", 401, "the write key is missing"),
        (format!("{}\r\nauthorization: Basic azI6", post("/v1/track")), b"{}", 401, "the write key is unknown"),
        (post("/webhooks/standard"), b"{}", 401, "header webhook-id is missing"),
        (post("/webhooks/nobody"), b"{}", 404, "no door"),
        ("GET /webhooks/open HTTP/1.1".to_owned(), b"", 405, "takes POST"),
        (post("/webhooks/open"), &large, 413, "more than 2000 bytes"),
    ];
    for (head, body, status, why) in cases {
        let (found, answer) = ask(&address, &head, body).unwrap();
        assert!(found == status && answer.contains(why), "{head}: {answer}");
    }
    let (status, answer) = ask(&address, "OPTIONS /v1/t HTTP/1.1", b"").unwrap();
    assert!(status == 204 && answer.contains("access-control-allow-origin: *"), "{answer}");
    assert_eq!(running.stop(), Some(0));

    // Without a broker nothing is acknowledged, and the sender is asked to come again.
    let away = ["--set", "kafka.bootstrap_servers=127.0.0.1:1"];
    let running = start(&deployment, &address, &away);
    let (status, answer) = ask(&address, TRACK, b"{}").unwrap();
    assert!(status == 503 && answer.contains("retry-after: 1") && answer.contains("broker"), "{answer}");
    assert_eq!(running.stop(), Some(0));

    let missing = deployment.keepwell(&["collect", "--set", "collect.segment=[]", "--set", "collect.webhooks=[]"]);
    assert!(
        missing.status.code() == Some(2) && String::from_utf8_lossy(&missing.stderr).contains("no door"),
        "{missing:?}"
    );
    let text = std::fs::read_to_string(&deployment.path).unwrap();
    let unread = text.replacen(".calls\", preset", ".other\", preset", 1);
    std::fs::write(&deployment.path, unread).unwrap();
    let unread = deployment.keepwell(&["collect"]);
    let said = String::from_utf8_lossy(&unread.stderr);
    assert!(unread.status.code() == Some(2) && said.contains("line ") && said.contains("nothing would read"), "{said}");
}
