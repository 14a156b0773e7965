//! Backfill of history into separate outputs: from files, from offsets, and as a new epoch beside the running one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::TimestampMicrosecondType;
use keepwell_core::pane::DAY_US;
use keepwell_pipeline::config::Aggregate;
use keepwell_pipeline::log::kafka::group::Group;
use keepwell_pipeline::record::Message;
use keepwell_verify::compare::same_rows;
use keepwell_verify::fleet::{self, Shape};
use keepwell_verify::sim::promises::without_provenance;
use keepwell_verify::streamed::{Streamed, finals, table};

use crate::{Deployment, kafka, sum};

/// The fates that `backfill` prints for a stage, e.g. `ingest: emitted 10, read 10`.
fn counts(stdout: &[u8], stage: &str) -> BTreeMap<String, u64> {
    let text = String::from_utf8_lossy(stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{stage}: "))).unwrap_or_default();
    let fates = line.split(", ").filter_map(|fate| fate.rsplit_once(' '));
    fates.map(|(fate, count)| (fate.to_owned(), count.parse().unwrap())).collect()
}

#[test]
fn a_backfill_from_files_needs_no_broker_and_gives_the_final_rows_of_the_same_events_on_kafka() {
    let deployment = Deployment::new("files");
    let mut raws = fleet::punctual(5, Shape { accounts: 9, days: 30, usage: 4 });
    raws.sort_by_key(|raw| raw.at_ms);
    deployment.load(&raws);
    deployment.drain("ingest", &["--complete"]);
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    let out = deployment.folder.path().join("history");
    let mut args = vec!["backfill".to_owned(), "--out".into(), out.display().to_string()];
    args.extend(["--set", "kafka.bootstrap_servers=none:1"].map(str::to_owned));
    for source in &deployment.config.sources {
        let lines: Vec<_> =
            raws.iter().filter(|raw| Some(raw.kind) == source.kind).flat_map(|raw| raw.value.clone()).collect();
        let path = deployment.folder.path().join(&source.topic);
        std::fs::write(&path, lines.join(&b'\n')).unwrap();
        args.push(format!("{}={}", source.topic, path.display()));
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let filled = deployment.keepwell(&args);
    assert!(filled.status.success(), "{filled:?}");
    assert_eq!(counts(&filled.stdout, "ingest")["emitted"], raws.len() as u64);
    let rows = table(&out.join("tables"), "windows", &deployment.config.aggregate.layout().schema()).unwrap();
    let streamed = Streamed::read(&deployment.config, |topic| kafka().records(topic)).unwrap();
    let expected = without_provenance(&finals(&streamed.windows).unwrap()).unwrap();
    assert!(expected.num_rows() > 160);
    // Nothing follows a history, so the day of the last event is closed too.
    let (known, last_day) = until(&without_provenance(&rows).unwrap(), last_time(&expected));
    same_rows(&known, &[expected], &["account_id", "as_of"]).unwrap();
    assert_eq!((last_day.num_rows(), last_time(&last_day)), (9, last_time(&known) + DAY_US));
    let scores = std::fs::read_to_string(out.join("scores.ndjson")).unwrap();
    assert_eq!(scores.lines().count(), 9);
    // A folder that is in use stays unchanged.
    let again = deployment.keepwell(&args);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is not empty"), "{again:?}");
}

fn last_time(rows: &RecordBatch) -> i64 {
    let times = rows.column_by_name("as_of").unwrap().as_primitive::<TimestampMicrosecondType>();
    arrow::compute::max(times).unwrap()
}

/// The rows up to a time, and the rows after it.
fn until(rows: &RecordBatch, last_us: i64) -> (RecordBatch, RecordBatch) {
    let times = rows.column_by_name("as_of").unwrap().as_primitive::<TimestampMicrosecondType>();
    let is_known: BooleanArray = times.values().iter().map(|time| Some(*time <= last_us)).collect();
    (filter_record_batch(rows, &is_known).unwrap(), filter_record_batch(rows, &not(&is_known).unwrap()).unwrap())
}

/// Runs `backfill` on lines of the usage topic. Returns the folder and the printed text.
fn backfilled(lines: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let (config, events, out) =
        (folder.path().join("keepwell.yaml"), folder.path().join("usage.ndjson"), folder.path().join("out"));
    let text = "epoch: 1\npartitions: 4\nkafka: {bootstrap_servers: 'none:1'}\nsources: [{topic: usage, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";
    std::fs::write(&config, text).unwrap();
    std::fs::write(&events, lines).unwrap();
    let mut command = std::process::Command::new(keepwell_verify::programs::keepwell().unwrap());
    let files = format!("usage={}", events.display());
    let done = command.arg("backfill").arg(files).arg("--out").arg(&out).arg("--config").arg(&config).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    (folder, String::from_utf8_lossy(&done.stdout).into_owned())
}

fn use_of(account: &str, at: &str) -> String {
    format!(
        "{{\"event_id\":\"{account}-{at}\",\"account_id\":\"{account}\",\"feature\":\"f\",\"occurred_at\":\"{at}\"}}\n"
    )
}

#[test]
fn a_file_of_one_day_gives_the_rows_of_that_day_and_lines_in_the_wrong_order_are_said_to_be_so() {
    let lines = [use_of("a", "2026-03-01T10:00:00Z"), use_of("b", "2026-03-01T09:00:00Z")].concat();
    let (folder, counts) = backfilled(&lines);
    let rows = table(&folder.path().join("out/tables"), "windows", &Aggregate::default().layout().schema()).unwrap();
    // Two accounts at the end of the day.
    assert_eq!((rows.num_rows(), last_time(&rows)), (2, 1_772_409_600_000_000));
    assert!(counts.contains("1 of 2 lines are earlier") && counts.contains("line 2"), "{counts}");
}

/// Accounts made in 2001 once gave 13,064 files of 27 kB, in 54 s.
#[test]
fn a_history_of_many_years_is_few_files() {
    let lines: String = (0..24)
        .flat_map(|year| [use_of(&format!("a{}", year % 3), &format!("{}-06-01T10:00:00Z", 2001 + year))])
        .collect();
    let (folder, _) = backfilled(&lines);
    let tables = folder.path().join("out/tables");
    let rows = table(&tables, "windows", &Aggregate::default().layout().schema()).unwrap();
    let count = |folder: &std::path::Path| std::fs::read_dir(folder).unwrap().count();
    let folders = std::fs::read_dir(tables.join("windows")).unwrap().map(|entry| count(&entry.unwrap().path()));
    let num_files: usize = folders.sum();
    assert!(rows.num_rows() > 3_000 && num_files < 300, "{} rows, {num_files} files", rows.num_rows());
}

#[test]
fn a_new_epoch_with_other_windows_bound_and_partitions_is_filled_beside_the_running_one_and_goes_on() {
    let first = Deployment::new("epoch");
    let raws = fleet::dirty(21, Shape { accounts: 9, days: 30, usage: 4 });
    let (history, news) = raws.split_at(raws.len() * 3 / 4);
    first.load(history);
    let live = ["ingest", "aggregate", "score", "sink"].map(|stage| first.start(stage, &["--set", "time.clock=false"]));
    kafka().wait_for(&first.config.topics.scores, 5).unwrap();
    let refused = first.keepwell(&["backfill"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has members"), "{refused:?}");

    let second = next_epoch(&first);
    let filled = second.keepwell(&["backfill"]);
    let log = String::from_utf8_lossy(&filled.stderr);
    assert!(filled.status.success(), "{log}");
    assert_eq!(counts(&filled.stdout, "ingest")["read"], history.len() as u64);
    assert!(counts(&filled.stdout, "sink")["tables written"] > 100, "{filled:?}");

    // Both epochs get the next events; the old epoch is not disturbed.
    first.load(news);
    assert_eq!(live.map(|(stage, _)| stage.stop()), [Some(0); 4]);
    for deployment in [&first, &second] {
        // Wait until the static members have left the groups.
        for stage in ["ingest", "aggregate", "score", "publish", "tables"] {
            wait_until_empty(deployment, stage);
        }
        let more = deployment.drain("ingest", &["--complete"]);
        // The running epoch may have read any part of the next events before it stopped. The new epoch has read none of
        // them.
        if deployment.config.epoch == second.config.epoch {
            assert_eq!(sum(&more, "read"), news.len() as u64);
        }
        for stage in ["aggregate", "score", "sink"] {
            deployment.drain(stage, &[]);
        }
        let checked = deployment.compare();
        assert!(checked.windows > 166 && checked.published > 5, "{checked:?}");
    }
    let events = |deployment: &Deployment| deployment.num_events();
    assert_eq!(events(&first), events(&second));
}

/// The same sources with other windows, another bound and partition count, and separate outputs.
fn next_epoch(first: &Deployment) -> Deployment {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("epoch-2.yaml");
    let mut text = std::fs::read_to_string(&first.path).unwrap();
    for topic in first.config.topics.all() {
        text = text.replace(&format!("\"{topic}\""), &format!("\"{topic}-2\""));
    }
    for (before, after) in [
        ("epoch: 1".to_owned(), "epoch: 2".to_owned()),
        ("partitions: 3".into(), "partitions: 5".into()),
        ("windows: [2d, 7d, 14d]".into(), "windows: [2d, 3d, 7d, 14d]".into()),
        ("kind: usage}".into(), "kind: usage, bound: 3h}".into()),
        (first.config.kafka.group_prefix.clone() + "\", ", first.config.kafka.group_prefix.clone() + "-2\", "),
        (first.folder.path().display().to_string(), folder.path().display().to_string()),
    ] {
        assert!(text.contains(&before), "{before} is not in {text}");
        text = text.replace(&before, &after);
    }
    std::fs::write(&path, text).unwrap();
    let config = keepwell_pipeline::config::Config::read(&path, &[]).unwrap();
    let second = Deployment { folder, config, path };
    let applied = second.keepwell(&["topics", "--replication", "1", "apply"]);
    assert!(applied.status.success(), "{applied:?}");
    second
}

fn wait_until_empty(deployment: &Deployment, stage: &str) {
    let group = format!("{}-{stage}", deployment.config.kafka.group_prefix);
    let group = Group::open(&deployment.config.kafka, &group).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !group.members("").unwrap().is_empty() {
        assert!(Instant::now() < deadline, "{} still has members", group.name());
    }
}

#[test]
fn a_backfill_begins_at_a_time_or_an_offset_and_goes_on_where_it_was_stopped() {
    let day_ms = 86_400_000;
    let start_ms = 1_704_067_200_000;
    for (name, from, num_read) in [("at-time", "2024-01-05T00:00:00Z", 6), ("at-offset", "@USAGE@:1=4", 6)] {
        let deployment = Deployment::new(name);
        let topic = deployment.config.sources[0].topic.clone();
        let message = |n: i64| Message {
            topic: topic.as_str().into(),
            partition: (n % 2) as i32,
            timestamp_ms: Some(start_ms + n * day_ms),
            key: None,
            value: Some(
                format!(
                    r#"{{"event_id":"{n}","account_id":"a","user_id":"u","feature":"f","occurred_at":{}}}"#,
                    start_ms + n * day_ms
                )
                .into_bytes(),
            ),
            headers: Vec::new(),
        };
        let messages: Vec<Message> = (0..10).map(message).collect();
        kafka().produce(&messages).unwrap();
        let from = from.replace("@USAGE@", &topic);
        let filled = deployment.keepwell(&["backfill", "--from", &from, "--complete"]);
        assert!(filled.status.success(), "{filled:?}");
        assert_eq!(counts(&filled.stdout, "ingest")["read"], num_read, "{filled:?}");
        // It joins at once, because it has the same instance name as the process that has ended.
        let again = deployment.keepwell(&["backfill", "--from", &from]);
        assert!(String::from_utf8_lossy(&again.stderr).contains("this epoch has begun"), "{again:?}");
    }
}

#[test]
fn a_backfill_says_which_records_have_expired_before_its_first() {
    let deployment = Deployment::new("expired-before");
    deployment.load(&fleet::dirty(3, Shape { accounts: 3, days: 3, usage: 2 }));
    let topic = deployment.config.sources[0].topic.clone();
    kafka().expire(&topic, 0, 2).unwrap();
    let filled = deployment.keepwell(&["backfill", "--complete"]);
    let told = String::from_utf8_lossy(&filled.stderr);
    assert!(filled.status.success(), "{told}");
    let warnings: Vec<&str> = told.lines().filter(|line| line.contains("have expired")).collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains(&format!("{topic}-0")) && warnings[0].contains("first=2"),
        "{told}"
    );
}
