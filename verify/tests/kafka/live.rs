//! All stages together, live: rows follow events, panes close by the clock, and HTTP reports the state.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use keepwell_core::event::Kind;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_verify::compare;
use keepwell_verify::fleet::Raw;
use keepwell_verify::kafka::free_port;

use crate::process::Running;
use crate::time::LIMIT;
use crate::{Deployment, kafka};

/// The answer of a process to a request, status line first.
pub fn ask(port: u16, method: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Repeats a request until the answer is as expected.
pub fn ask_until(port: u16, path: &str, is_there: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = ask(port, "GET", path).unwrap_or_else(|error| error.to_string());
        if is_there(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within a minute, {path}: {answer}");
    }
}

fn usage(id: &str, at: i64) -> String {
    format!(r#"{{"event_id":"{id}","account_id":"acme","user_id":"u","feature":"export","occurred_at":{at}}}"#)
}

fn one_of_each_kind(at: i64) -> [Raw; 5] {
    let of = |kind, n: i64, more: &str| {
        let text = format!(r#"{{"event_id":"{n}","account_id":"acme","occurred_at":{at},{more}}}"#);
        Raw { kind, key: None, value: Some(text.into_bytes()), at_ms: at }
    };
    [
        of(Kind::Usage, 1, r#""user_id":"u","feature":"export""#),
        of(Kind::Ticket, 2, r#""ticket_id":"t","type":"opened""#),
        of(Kind::Survey, 3, r#""survey":"nps","score":9"#),
        of(Kind::Account, 4, r#""type":"upsert","facts":{"plan":"pro"}"#),
        of(Kind::Person, 5, r#""user_id":"u","type":"added""#),
    ]
}

#[test]
fn live_a_row_follows_each_event_panes_close_by_the_clock_and_sigterm_ends_well() {
    let deployment = Deployment::new("live");
    let stages = ["ingest", "aggregate", "score", "sink"].map(|stage| deployment.start(stage, &[]));
    let ports = [0, 1, 2, 3].map(|n: usize| stages[n].1);
    for port in ports {
        ask_until(port, "/readyz", |answer| answer.starts_with("HTTP/1.1 200"));
        assert!(ask(port, "GET", "/livez").unwrap().ends_with("alive\n"));
        assert!(ask(port, "POST", "/metrics").unwrap().starts_with("HTTP/1.1 405"));
    }
    let now_ms = SystemClock::start().wall_us() / 1000;
    let day_ms = 86_400_000;
    // One event of each kind, three days old. The topics are read to their ends, so the clock closes the days since
    // then.
    let old = now_ms - 3 * day_ms;
    deployment.load(&one_of_each_kind(old));
    let windows = &deployment.config.topics.windows;
    deployment.wait_for_row(windows, |rows| rows.column_by_name("final").unwrap().as_boolean().true_count() >= 2);
    deployment.load(&[Raw {
        kind: Kind::Usage,
        key: None,
        value: Some(usage("6", now_ms).into_bytes()),
        at_ms: now_ms,
    }]);
    // The live row of today, longest window: it contains both uses.
    deployment.wait_for_row(windows, |rows| {
        let events = rows.column_by_name("events_7d").unwrap().as_primitive::<Int64Type>();
        let is_final = rows.column_by_name("final").unwrap().as_boolean();
        (0..rows.num_rows()).any(|row| !is_final.value(row) && events.value(row) == 2)
    });
    let scores = &deployment.config.topics.scores;
    kafka().wait_for(scores, 1).unwrap();
    for (port, stage, fate) in [
        (ports[0], "ingest", "emitted"),
        (ports[1], "aggregate", "on_time"),
        (ports[2], "score", "scored"),
        (ports[3], "publish", "published"),
        (ports[3], "tables", "written"),
    ] {
        let series = format!("keepwell_records_total{{fate=\"{fate}\",reason=\"\",stage=\"{stage}\"}} ");
        let metrics = ask_until(port, "/metrics", |answer| answer.contains(&series));
        for name in ["last_progress_timestamp_seconds", "commit_duration_seconds_count", "build_info"] {
            assert!(metrics.contains(&format!("keepwell_{name}{{")), "{name} is not in {metrics}");
        }
    }
    ask_until(ports[1], "/metrics", |metrics| {
        metrics.contains("keepwell_watermark_timestamp_seconds{") && metrics.contains("keepwell_lag_records{")
    });
    // Everything is read: transaction markers do not count as lag.
    ask_until(ports[1], "/metrics", |metrics| {
        let lags = metrics.lines().filter(|line| line.starts_with("keepwell_lag_records{"));
        lags.clone().count() == 3 && lags.clone().all(|line| line.ends_with("} 0"))
    });
    assert_eq!(stages.map(|(stage, _)| stage.stop()), [Some(0); 4]);
}

impl Deployment {
    /// Starts a stage that runs with the clock until it is stopped. Returns it with its HTTP port.
    pub fn start(&self, stage: &str, more: &[&str]) -> (Running, u16) {
        let port = free_port().unwrap();
        let http = format!("127.0.0.1:{port}");
        let set = ["--set", "time.clock=true", "--set", "aggregate.live_interval=50ms"];
        let args = [&[stage, "--http", &http], set.as_slice(), more].concat();
        (Running::start(&mut self.command(&args), self.folder.path(), &format!("{stage}-{port}")), port)
    }

    /// Reads a topic of window rows after each write to it, until the rows are as expected.
    pub fn wait_for_row(&self, topic: &str, is_there: impl Fn(&RecordBatch) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let news = kafka().tail(&[topic]).unwrap();
            let rows = compare::rows_of(&self.records(topic), &self.config.aggregate.layout().schema()).unwrap();
            if is_there(&rows) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(news.wait(left).unwrap(), "not within {LIMIT:?}; rows so far: {}", rows.num_rows());
        }
    }
}
