//! The program on a real Apache Kafka: processes, transactions, kills, restarts.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "tests wait for processes, with a limit")]

mod backfill;
mod chaos;
mod collect;
mod encodings;
mod hostile;
mod live;
mod mappings;
mod membership;
mod model;
mod process;
mod readers;
mod security;
mod suspect;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use indicatif::ProgressBar;
use keepwell::demo::DemoArgs;
use keepwell_core::schema::event;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::reject::REASON_HEADER;
use keepwell_pipeline::stage::Fates;
use keepwell_verify::fleet::{self, Raw, Shape};
use keepwell_verify::kafka::Kafka;
use keepwell_verify::streamed::Streamed;
use keepwell_verify::{check, compare, deployment};
use tempfile::TempDir;

const RAW_PARTITIONS: i32 = 2;

/// One broker for all tests of this binary. It stops with the process.
fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| Kafka::start().unwrap())
}

/// A separate deployment: its topics, groups and snapshots share one name.
struct Deployment {
    folder: TempDir,
    config: Config,
    path: PathBuf,
}

impl Deployment {
    /// Creates raw topics directly; the program creates the others.
    fn new(name: &str) -> Self {
        Self::edited(name, str::to_owned)
    }

    /// The same with an edited configuration.
    fn edited(name: &str, edit: impl Fn(&str) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keepwell.yaml");
        let text = edit(include_str!("deployment.yaml"))
            .replace("@NAME@", &format!("{name}-{}", std::process::id()))
            .replace("@BROKER@", &kafka().address)
            .replace("@MODEL@", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/memory/model.yaml"))
            .replace("@FOLDER@", &folder.path().display().to_string());
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path, &[]).unwrap();
        for source in &config.sources {
            kafka().create_topic(&source.topic, RAW_PARTITIONS).unwrap();
        }
        let deployment = Self { folder, config, path };
        let applied = deployment.keepwell(&["topics", "--replication", "1", "apply"]);
        assert!(applied.status.success(), "{applied:?}");
        deployment
    }

    fn load(&self, raws: &[Raw]) {
        let messages: Vec<_> = raws
            .iter()
            .enumerate()
            .map(|(serial, raw)| deployment::message(raw, serial, RAW_PARTITIONS, &self.config).unwrap())
            .collect();
        assert_eq!(kafka().produce(&messages).unwrap(), raws.len());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(keepwell_verify::programs::keepwell().unwrap());
        command.args(args).env("KEEPWELL_CONFIG", &self.path).env("KEEPWELL_LOG", "info");
        command
    }

    fn keepwell(&self, args: &[&str]) -> Output {
        process::output(&mut self.command(args), self.folder.path())
    }

    /// Runs a stage until it is drained. Returns its fates, by name and reason.
    fn drain(&self, stage: &str, more: &[&str]) -> BTreeMap<String, u64> {
        let output = self.keepwell(&[&[stage, "--drain"], more].concat());
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stage} failed:\n{log}");
        let lines = String::from_utf8(output.stdout).unwrap();
        lines
            .lines()
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(fate, n)| (fate.to_owned(), n.parse().unwrap()))
            .collect()
    }

    /// Starts a stage and kills it when its output topic has `count` offsets; repeats this for each count.
    fn kill_at(&self, stage: &str, more: &[&str], output: &str, counts: &[i64]) {
        for count in counts {
            let log = std::fs::File::create(self.folder.path().join("killed.log")).unwrap();
            let mut child: Child =
                self.command(&[&[stage, "--drain"], more].concat()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
            let reached = kafka().wait_for(output, *count);
            child.kill().unwrap();
            child.wait().unwrap();
            reached.unwrap();
        }
    }

    fn records(&self, topic: &str) -> Vec<Record> {
        kafka().records(topic).unwrap()
    }

    /// Checks all outputs, and the tables, against the oracle. Returns the oracle's fates.
    fn check(&self) -> BTreeMap<String, u64> {
        let checked = self.compare();
        assert!(checked.windows > 166 && checked.triggers > 0 && checked.published > 5, "{checked:?}");
        checked.fates
    }

    /// The same check without minimum counts.
    fn compare(&self) -> check::Checked {
        let streamed = Streamed::read(&self.config, |topic| kafka().records(topic)).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let checked = runtime.block_on(check::against_oracle(&streamed, &self.config)).unwrap();
        assert!(check::tables(&streamed, &self.folder.path().join("tables")).unwrap() > 0);
        checked
    }

    /// Number of records in the reject topic, by reason.
    fn rejects(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for record in self.records(&self.config.topics.rejects) {
            let reason = String::from_utf8(record.header(REASON_HEADER).unwrap().to_vec()).unwrap();
            *reasons.entry(reason).or_default() += 1;
        }
        reasons
    }

    fn num_events(&self) -> u64 {
        let rows = compare::rows_of(&self.records(&self.config.topics.events), &event::schema()).unwrap();
        rows.num_rows() as u64
    }
}

fn sum(fates: &BTreeMap<String, u64>, prefix: &str) -> u64 {
    fates.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
}

#[test]
fn a_dirty_fleet_through_real_kafka_equals_the_oracle_and_every_record_has_a_fate() {
    let deployment = Deployment::new("fleet");
    let raws = fleet::dirty(11, Shape { accounts: 11, days: 40, usage: 4 });
    deployment.load(&raws);
    let ingest = deployment.drain("ingest", &["--complete"]);
    let aggregate = deployment.drain("aggregate", &[]);
    let score = deployment.drain("score", &[]);
    let sink = deployment.drain("sink", &[]);

    assert_eq!(
        score["read"],
        sum(&score, "scored") + sum(&score, "unscored") + sum(&score, "left") + sum(&score, "deleted")
    );
    assert_eq!(sink["publish read"], score["read"]);
    assert_eq!(sink["publish read"], sink["publish published"] + sink["publish unchanged"] + sink["publish tombstone"]);
    assert_eq!(sink["tables read"], sink["tables written"] + sink["tables live"]);
    assert_eq!(ingest["read"], raws.len() as u64);
    assert_eq!(ingest["read"], ingest["emitted"] + sum(&ingest, "rejected"));
    assert_eq!(aggregate["read"], ingest["emitted"]);
    let fates = deployment.check();
    for (fate, count) in &fates {
        assert_eq!(aggregate[fate], *count, "{fate}");
    }
    assert_eq!(fates.values().sum::<u64>(), aggregate["read"]);
    let rejects = deployment.rejects();
    assert_eq!(rejects.values().sum::<u64>(), sum(&ingest, "rejected") + aggregate["too_late"]);
    assert_eq!(rejects["too_late"], aggregate["too_late"]);
}

#[test]
fn killed_in_the_middle_and_restarted_nothing_is_lost_and_nothing_comes_twice() {
    let deployment = Deployment::new("killed");
    let raws = fleet::dirty(12, Shape { accounts: 10, days: 40, usage: 4 });
    deployment.load(&raws);
    let topics = &deployment.config.topics;
    deployment.kill_at("ingest", &["--complete"], &topics.events, &[10, 40]);
    deployment.drain("ingest", &["--complete"]);
    deployment.kill_at("aggregate", &[], &topics.windows, &[10, 60]);
    deployment.drain("aggregate", &[]);
    // Small steps, so that a kill can strike in the middle.
    let small = ["--set", "batch.max_records=2"];
    deployment.kill_at("score", &small, &topics.health, &[6, 20]);
    deployment.drain("score", &small);
    deployment.kill_at("sink", &small, &topics.scores, &[3, 60]);
    deployment.drain("sink", &[]);

    let fates = deployment.check();
    let rejects = deployment.rejects();
    assert_eq!(deployment.num_events() + rejects.values().sum::<u64>() - rejects["too_late"], raws.len() as u64);
    assert_eq!(rejects["too_late"], fates["too_late"]);
}

#[test]
fn rejected_records_keep_key_value_and_headers_and_say_why_and_where_from() {
    let deployment = Deployment::new("rejects");
    let raw = Raw {
        kind: keepwell_core::event::Kind::Usage,
        key: Some("k".into()),
        value: Some(b"\xff not json".to_vec()),
        at_ms: 0,
    };
    deployment.load(std::slice::from_ref(&raw));
    deployment.drain("ingest", &["--complete"]);
    let records = deployment.records(&deployment.config.topics.rejects);
    let [record] = records.as_slice() else { panic!("{} rejects", records.len()) };
    let header = |name: &str| String::from_utf8(record.header(name).unwrap().to_vec()).unwrap();
    assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(b"k".as_slice()), raw.value.as_deref()));
    assert_eq!(header("trace"), "0");
    assert_eq!(header(REASON_HEADER), "not_utf8");
    assert_eq!(header("__connect.errors.topic"), deployment.config.sources[0].topic);
    assert_eq!(header("__connect.errors.offset"), "0");

    let rejects = |args: &[&str]| {
        let output = deployment.keepwell(&[&["ingest", "rejects"], args].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(rejects(&["list"]), "not_utf8 1\n");
    assert_eq!(rejects(&["list", "--reason", "not_json"]), "");
    let line = rejects(&["list", "--each"]);
    assert!(line.starts_with(&format!("not_utf8\t{}-0 0\t", deployment.config.sources[0].topic)), "{line}");
    assert_eq!(rejects(&["replay", "--reason", "not_utf8"]), "not_utf8 1\n");
    let raw_records = deployment.records(&deployment.config.sources[0].topic);
    let [first, again] = raw_records.as_slice() else { panic!("{raw_records:?}") };
    assert_eq!((&again.key, &again.value, &again.headers), (&first.key, &first.value, &first.headers));
    deployment.drain("ingest", &[]);
    assert_eq!(rejects(&["list"]), "not_utf8 2\n");
}

#[test]
fn topics_are_checked_and_a_foreign_partition_count_stops_a_stage_by_name() {
    let deployment = Deployment::new("topics");
    let check = deployment.keepwell(&["topics", "check"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    // Exactly-once and tombstones depend on these settings.
    let scores = &deployment.config.topics.scores;
    kafka().set(scores, "delete.retention.ms", "0").unwrap();
    let unfit = deployment.keepwell(&["topics", "check"]);
    let text = String::from_utf8_lossy(&unfit.stdout);
    assert_eq!(unfit.status.code(), Some(1));
    for setting in ["delete.retention.ms", "cleanup.policy", "max.compaction.lag.ms"] {
        assert!(text.contains(&format!("set {setting} of {scores} to")), "{setting} is not in {text}");
    }
    kafka().set(&deployment.config.topics.events, "retention.bytes", "1000000").unwrap();
    assert!(deployment.keepwell(&["topics", "--replication", "1", "apply"]).status.success());
    let check = deployment.keepwell(&["topics", "check"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let other = deployment.keepwell(&["topics", "check", "--set", "partitions=5"]);
    let text = String::from_utf8_lossy(&other.stdout);
    assert_eq!(other.status.code(), Some(1));
    assert!(text.contains("has 3 partitions, the epoch is pinned to 5"), "{text}");
    let stage = deployment.keepwell(&["aggregate", "--drain", "--set", "partitions=5"]);
    let text = String::from_utf8_lossy(&stage.stderr);
    assert_eq!(stage.status.code(), Some(1));
    assert!(text.contains("the epoch is pinned to 5"), "{text}");
}

#[test]
fn output_without_a_committed_position_is_a_named_stop() {
    let deployment = Deployment::new("lost");
    deployment.load(&fleet::dirty(1, Shape { accounts: 2, days: 5, usage: 2 }));
    deployment.drain("ingest", &["--complete"]);
    // Another group prefix has no positions, as after an expiry of the group's offsets.
    let stopped = deployment.keepwell(&["ingest", "--drain", "--set", "kafka.group_prefix=other"]);
    let text = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{text}");
    assert!(text.contains("no committed position") && text.contains("--from beginning"), "{text}");
}

#[test]
fn records_of_an_aborted_transaction_are_no_output() {
    let deployment = Deployment::new("aborted");
    deployment.load(&fleet::dirty(1, Shape { accounts: 2, days: 5, usage: 2 }));
    kafka().abort(&deployment.config.topics.events, "aborted").unwrap();
    assert!(deployment.drain("ingest", &["--complete"])["emitted"] > 0);
}

#[test]
fn the_demo_finds_what_was_planted_and_the_same_seed_gives_the_same_result() {
    let folder = tempfile::tempdir().unwrap();
    let play = |name: &str, accounts: u64| {
        let args = DemoArgs { seed: 1, accounts, days: 90, out: folder.path().join(name) };
        keepwell::demo::play(&args, &ProgressBar::hidden()).unwrap()
    };
    let outcome = play("whole", 500);
    let planted: BTreeSet<&str> =
        outcome.accounts.iter().filter(|account| account.fate.is_planted()).map(|a| a.id.as_str()).collect();
    assert!(planted.len() > 30, "{} planted", planted.len());
    let mut worst: Vec<_> =
        outcome.scores.iter().filter_map(|health| Some((health.score?, health.account_id.as_str()))).collect();
    worst.sort_by(|a, b| a.0.total_cmp(&b.0));
    let found = worst.iter().take(planted.len()).filter(|(_, account)| planted.contains(account)).count();
    assert!(found * 100 >= planted.len() * 80, "{found} of {} planted are among as many worst", planted.len());
    let fates = |fates: &Fates, name: &str| fates.iter().filter(|(f, _)| f.name == name).map(|(_, n)| n).sum::<u64>();
    assert_eq!(fates(&outcome.ledger.ingest, "emitted"), outcome.num_events as u64);
    assert!(fates(&outcome.ledger.tables, "live") > 1000, "the last day went live");

    let files = |name: &str| {
        let files = walk(&folder.path().join(name)).into_iter();
        files
            .map(|path| {
                (path.strip_prefix(folder.path().join(name)).unwrap().to_owned(), std::fs::read(&path).unwrap())
            })
            .collect::<BTreeMap<_, _>>()
    };
    assert_eq!((play("once", 20).scores, files("once")), (play("again", 20).scores, files("again")));
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn files_are_loaded_in_the_order_of_time_and_a_score_is_explained_down_to_its_factors() {
    let deployment = Deployment::new("loaded");
    let day_ms = 86_400_000_i64;
    let start_ms = 1_704_067_200_000;
    let (mut usage, mut tickets) = (String::new(), String::new());
    for n in 0..40_i64 {
        let at = start_ms + n * day_ms / 4;
        usage += &format!(
            "{{\"event_id\":\"u{n}\",\"account_id\":\"acme\",\"user_id\":\"u\",\"feature\":\"export\",\"occurred_at\":{at}}}\n"
        );
        let kind = if n % 2 == 0 { "opened" } else { "resolved" };
        tickets += &format!(
            "{{\"event_id\":\"t{n}\",\"account_id\":\"acme\",\"ticket_id\":\"T{}\",\"type\":\"{kind}\",\"occurred_at\":{}}}\n",
            n / 2,
            at + 1
        );
    }
    let source = |n: usize| deployment.config.sources[n].topic.clone();
    let file = |name: &str, content: &str| {
        let path = deployment.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let arguments = [
        format!("{}={}", source(1), file("t.ndjson", &tickets)),
        format!("{}={}", source(0), file("u.ndjson", &usage)),
    ];
    let loaded = deployment.keepwell(&["load", &arguments[0], &arguments[1]]);
    assert_eq!(String::from_utf8_lossy(&loaded.stdout), "80 records\n", "{loaded:?}");
    let stamps: Vec<i64> = deployment.records(&source(0)).iter().map(|record| record.timestamp_ms).collect();
    assert!(stamps.len() == 40 && stamps.is_sorted() && stamps[0] == start_ms, "{stamps:?}");
    let wrong = deployment.keepwell(&["load", "nowhere=t.ndjson"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("not among the configured sources"), "{wrong:?}");

    deployment.drain("ingest", &["--complete"]);
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    let explained = deployment.keepwell(&["explain", "acme"]);
    let text = String::from_utf8_lossy(&explained.stdout);
    for word in [
        "acme: ",
        "breadth",
        "contribution",
        "model newcomers version 7",
        "before: ",
        "stage: customer's renewal",
        "for the account-executive",
        "events below offset",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let json = deployment.keepwell(&["explain", "acme", "--output", "json"]);
    let health: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let sum: f64 =
        health["factors"].as_array().unwrap().iter().filter_map(|factor| factor["contribution"].as_f64()).sum();
    assert!((sum - health["score"].as_f64().unwrap()).abs() < 1e-9, "{health:?}");
    let unknown = deployment.keepwell(&["explain", "nobody"]);
    assert!(
        unknown.status.code() == Some(1) && String::from_utf8_lossy(&unknown.stderr).contains("nobody has no score")
    );
}
