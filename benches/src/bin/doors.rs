//! What a door of collect takes: requests per second when senders never pause, and latency at half of that.
//!
//! Run `cargo run --release --bin doors`. Kafka, collect and the senders share the machine. Requests are answered after the
//! broker has all copies, on connections that stay open.
#![allow(clippy::disallowed_methods, reason = "I/O edge: time is measured, processes are waited for")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use keepwell_benches::rivals::cost::Cost;
use keepwell_benches::rivals::result::Results;
use keepwell_verify::kafka::Kafka;
use serde_json::json;

#[derive(Debug, Parser)]
#[command(about = "Requests per second of collect, and its latency at half of them")]
struct Args {
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Seconds of each part.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Events in a request.
    #[arg(long, default_values_t = [1, 100])]
    events: Vec<usize>,
    /// File to which the measurements are appended.
    #[arg(long, default_value = "benches/measured/doors.ndjson")]
    results: PathBuf,
}

/// Address of the door.
const ADDRESS: &str = "127.0.0.1:19180";

fn main() -> Result<()> {
    let args = Args::parse();
    let kafka = Kafka::start()?;
    kafka.create_topic("calls", 8)?;
    let folder = tempfile::tempdir()?;
    let mut door = Door::start(&kafka, folder.path())?;
    let results = Results::open(&args.results)?;
    for events in args.events {
        let body = batch(events);
        let limit = Duration::from_secs(args.seconds);
        send(args.connections, &body, limit / 2, None)?;
        let before = Cost::of(door.0.id())?;
        let full = send(args.connections, &body, limit, None)?;
        let after = Cost::of(door.0.id())?;
        let per_second = full.len() as f64 / limit.as_secs_f64();
        let half = send(args.connections, &body, limit, Some(per_second / 2.0))?;
        let ms = |latencies: &[Duration], share: f64| {
            let place = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
            latencies.get(place).map(|latency| latency.as_secs_f64() * 1e3)
        };
        results.append(&json!({
            "what": "doors", "events": events, "connections": args.connections, "requests_per_s": per_second,
            "cpu_us_a_request": (after.cpu - before.cpu).as_secs_f64() * 1e6 / full.len() as f64, "peak_kb": after.peak_kb,
            "p50_ms": ms(&half, 0.5), "p99_ms": ms(&half, 0.99), "requests_at_half": half.len(),
        }))?;
    }
    door.0.kill()?;
    door.0.wait()?;
    Ok(())
}

struct Door(Child);

impl Door {
    /// Starts collect and waits until it takes connections.
    fn start(kafka: &Kafka, folder: &std::path::Path) -> Result<Self> {
        std::fs::write(folder.join("key"), "k1")?;
        let config = folder.join("keepwell.yaml");
        let text = format!(
            "epoch: 1\npartitions: 1\nkafka: {{bootstrap_servers: '{}'}}\nsources: [{{topic: calls, preset: segment}}]\n\
             snapshots: {{url: 'memory:///'}}\nhttp: {{collect: 'off'}}\n\
             collect: {{listen: '{ADDRESS}', segment: [{{write_key: {{file: '{}'}}, topic: calls}}]}}\n",
            kafka.address,
            folder.join("key").display()
        );
        std::fs::write(&config, text)?;
        let program = std::env::current_exe()?.with_file_name("keepwell-collect");
        let log = std::fs::File::create(folder.join("collect.log"))?;
        let mut command = Command::new(&program);
        let child = command.arg("--config").arg(&config).stdout(Stdio::null()).stderr(log).spawn();
        let mut child = child.with_context(|| format!("{}: cargo build --release", program.display()))?;
        while TcpStream::connect(ADDRESS).is_err() {
            ensure!(child.try_wait()?.is_none(), std::fs::read_to_string(folder.join("collect.log"))?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self(child))
    }
}

/// A request to `/v1/batch` with this number of events.
fn batch(events: usize) -> Vec<u8> {
    let event = |n: usize| {
        format!(
            r#"{{"type":"track","messageId":"m{n}","event":"Report Exported","userId":"u{}","context":{{"groupId":"account-{}","library":{{"name":"analytics-node","version":"3.1.0"}}}},"properties":{{"count":1,"format":"pdf"}},"timestamp":"2026-03-01T10:00:00.000Z"}}"#,
            n % 7,
            n % 1000
        )
    };
    let events: Vec<String> = (0..events).map(event).collect();
    let body = format!(r#"{{"batch":[{}],"sentAt":"2026-03-01T10:00:01.000Z"}}"#, events.join(","));
    let head = format!(
        "POST /v1/batch HTTP/1.1\r\nhost: x\r\nauthorization: Basic azE6\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

/// Sends requests on all connections, at a rate or without a pause. Returns the latencies in ascending order; at a rate they
/// count from when a request was due.
fn send(connections: usize, request: &[u8], limit: Duration, per_second: Option<f64>) -> Result<Vec<Duration>> {
    let began = Instant::now();
    let one = |number: usize| -> Result<Vec<Duration>> {
        let mut stream = TcpStream::connect(ADDRESS)?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut latencies = Vec::new();
        for turn in 0.. {
            let due = per_second
                .map_or(began.elapsed(), |rate| Duration::from_secs_f64((turn * connections + number) as f64 / rate));
            if due >= limit || began.elapsed() >= limit {
                break;
            }
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            stream.write_all(request)?;
            answered(&mut reader)?;
            latencies.push(began.elapsed().saturating_sub(due));
        }
        Ok(latencies)
    };
    let mut all = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..connections).map(|number| scope.spawn(move || one(number))).collect();
        let answers =
            senders.into_iter().map(|sender| sender.join().map_err(|_| anyhow::anyhow!("a sender has broken off"))?);
        answers.collect::<Result<Vec<_>>>()
    })?
    .concat();
    all.sort_unstable();
    Ok(all)
}

/// Reads one answer, which must be 200.
fn answered(reader: &mut BufReader<TcpStream>) -> Result<()> {
    let (mut length, mut line, mut is_first) = (0, String::new(), true);
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the connection was closed");
        if is_first {
            ensure!(line.contains(" 200 "), "{line}");
            is_first = false;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    Ok(reader.read_exact(&mut body)?)
}
