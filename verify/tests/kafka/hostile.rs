//! Records of strangers, and effects of retention, on a real Kafka. No record ends a stage, and a quiet topic is no
//! loss. The advice in each named stop solves the problem.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::log::kafka::group::Group;
use keepwell_pipeline::record::Message;
use keepwell_pipeline::reject::CUT_HEADER;
use keepwell_verify::chaos::fault::Fault;
use keepwell_verify::chaos::hostile::kinds;
use keepwell_verify::chaos::processes::Programs;
use keepwell_verify::chaos::run::{Load, Run};

use crate::live::ask_until;
use crate::time::{ALL_BUT_USAGE, usage, with_optional};
use crate::{Deployment, kafka, sum};

const START_MS: i64 = 1_704_067_200_000;
const DAY_MS: i64 = 86_400_000;

/// A record for partition 0 of a source. `source` is its index in the configuration.
fn raw(deployment: &Deployment, source: usize, value: Option<Vec<u8>>) -> Message {
    Message {
        topic: deployment.config.sources[source].topic.as_str().into(),
        partition: 0,
        timestamp_ms: None,
        key: None,
        value,
        headers: Vec::new(),
    }
}

fn uses(deployment: &Deployment, ids: std::ops::Range<i64>) {
    let uses: Vec<_> =
        ids.map(|n| usage(&n.to_string(), &format!("acme-{}", n % 3), START_MS + n * DAY_MS / 4)).collect();
    deployment.load(&uses);
}

fn drain_all(deployment: &Deployment) -> BTreeMap<String, u64> {
    let ingest = deployment.drain("ingest", &["--complete"]);
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    ingest
}

/// Each of these records once ended a stage at every restart, on a broker with default limits.
#[test]
fn what_fits_into_no_record_has_a_fate_and_ends_no_stage() {
    let deployment = Deployment::new("sizes");
    let mut header = raw(&deployment, 0, Some(b"x".to_vec()));
    header.headers.push(("h".to_owned(), Some(vec![b'h'; 1_000_000])));
    let marks = format!(
        r#"{{"event_id":"b1","account_id":"evil","feature":"f","occurred_at":"{}"}}"#,
        "\u{300}".repeat(130_000)
    );
    let mut tombstone = raw(&deployment, 3, None);
    tombstone.key = Some(vec![b'k'; 310_000]);
    let upsert = |id: &str, facts: String| {
        let text = format!(
            r#"{{"event_id":"{id}","account_id":"evil","occurred_at":{START_MS},"type":"upsert","facts":{{{facts}}}}}"#
        );
        raw(&deployment, 3, Some(text.into_bytes()))
    };
    let many: Vec<String> = (10_000..34_000).map(|n| format!("\"{n}\":1")).collect();
    let long: Vec<String> = (0..16).map(|n| format!("\"f{n}\":\"{}\"", "x".repeat(15_000))).collect();
    let outcomes = (0..700).map(|n| {
        let alert = format!("{}{n}", "a".repeat(500));
        let text = format!(r#"{{"event_id":"o{n}","account_id":"evil","occurred_at":{START_MS},"type":"outcome","outcome":{{"alert_id":"{alert}","event":"done"}}}}"#);
        raw(&deployment, 3, Some(text.into_bytes()))
    });
    kafka()
        .produce([
            raw(&deployment, 0, Some(vec![b'a'; 1_040_000])),
            raw(&deployment, 0, Some(marks.into_bytes())),
            header,
            tombstone,
            upsert("many", many.join(",")),
            upsert("long", long.join(",")),
            upsert("again", long.join(",").replace("\"f", "\"g")),
        ])
        .unwrap();
    kafka().produce(outcomes).unwrap();
    uses(&deployment, 0..12);
    let ingest = drain_all(&deployment);
    assert_eq!(ingest["read"], 719);
    assert_eq!(ingest["emitted"], 714);
    for (reason, count) in [("oversized", 1), ("bad_time", 1), ("not_json", 1), ("out_of_range", 2)] {
        assert_eq!(ingest[&format!("rejected {reason}")], count, "{reason}");
    }
    let cut =
        deployment.records(&deployment.config.topics.rejects).into_iter().filter(|r| r.header(CUT_HEADER).is_some());
    assert_eq!(cut.count(), 2);
    // Other users of the machine must not be able to read data about people.
    for folder in ["tables", "snapshots"] {
        for path in crate::walk(&deployment.folder.path().join(folder)) {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o007, 0, "{} {mode:o}", path.display());
        }
    }
    // The neighbours have scores, and so has the account that was too large.
    for account in ["acme-0", "acme-1", "acme-2", "evil"] {
        let explained = deployment.keepwell(&["explain", account]);
        assert!(explained.status.success(), "{account}: {explained:?}");
    }
}

/// Once, a topic with a lowered `max.message.bytes` made every step fail, without end.
#[test]
fn a_topic_that_takes_smaller_records_than_configured_gets_smaller_records() {
    let deployment = with_optional("lowered", &ALL_BUT_USAGE, |text| text);
    let topics = &deployment.config.topics;
    for topic in [&topics.events, &topics.windows, &topics.health, &topics.rejects] {
        kafka().set(topic, "max.message.bytes", "120000").unwrap();
    }
    uses(&deployment, 0..400);
    kafka().produce([raw(&deployment, 0, Some(vec![b'a'; 200_000]))]).unwrap();
    let ingest = drain_all(&deployment);
    assert_eq!((ingest["read"], ingest["emitted"]), (401, 400));
    assert!(deployment.compare().windows > 166);
}

/// 150 MB of one letter become a batch of 4.6 kB, which no client can read.
#[test]
fn a_batch_that_no_client_can_read_is_a_reject_without_bytes_and_its_neighbours_are_read() {
    let deployment = with_optional("bomb", &ALL_BUT_USAGE, |text| text);
    uses(&deployment, 0..10);
    kafka().produce_compressed(&raw(&deployment, 0, Some(vec![b'a'; 150_000_000])), "zstd").unwrap();
    uses(&deployment, 10..20);
    let ingest = deployment.drain("ingest", &["--complete"]);
    assert_eq!((ingest["read"], ingest["emitted"], ingest["rejected unreadable"]), (21, 20, 1));
    let listed = deployment.keepwell(&["ingest", "rejects", "list", "--each"]);
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(text.contains("unreadable") && text.contains("offsets 5 to 5 cannot be read"), "{text}");
    assert_eq!(deployment.drain("aggregate", &[])["on_time"], 20);
}

#[test]
fn a_batch_with_a_wrong_checksum_is_a_reject_without_bytes_and_its_neighbours_are_read() {
    let deployment = with_optional("damaged", &ALL_BUT_USAGE, |text| text);
    uses(&deployment, 0..10);
    let value = r#"{"event_id":"x","account_id":"acme-0","feature":"damaged-one","occurred_at":1704067200000}"#;
    kafka().produce([raw(&deployment, 0, Some(value.into()))]).unwrap();
    uses(&deployment, 10..20);
    kafka().damage(&deployment.config.sources[0].topic, 0, b"damaged-one").unwrap();
    let ingest = deployment.drain("ingest", &["--complete"]);
    assert_eq!((ingest["read"], ingest["emitted"], ingest["rejected unreadable"]), (21, 20, 1));
    assert_eq!(deployment.drain("aggregate", &[])["on_time"], 20);
}

/// The client's own code panics on such a name. A record with it once ended a stage at every restart.
#[test]
fn a_header_whose_name_is_no_text_is_left_out_and_its_record_is_read() {
    let deployment = with_optional("header-names", &ALL_BUT_USAGE, |text| text);
    for (value, name) in [
        ("garbage", "trace-one"),
        (r#"{"event_id":"x","account_id":"acme-0","feature":"f","occurred_at":1704067200000}"#, "trace-two"),
    ] {
        let headers = vec![(name.to_owned(), Some(b"v".to_vec())), ("known".to_owned(), None)];
        kafka().produce([Message { headers, ..raw(&deployment, 0, Some(value.into())) }]).unwrap();
        kafka().forge(&deployment.config.sources[0].topic, 0, name.as_bytes()).unwrap();
    }
    let ingest = deployment.drain("ingest", &["--complete"]);
    assert_eq!((ingest["read"], ingest["emitted"], ingest["rejected not_json"]), (2, 1, 1));
    let rejects = deployment.records(&deployment.config.topics.rejects);
    let names: Vec<&str> = rejects[0].headers.iter().take(2).map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["keepwell-unreadable-name", "known"]);
}

/// Lengths and numbers that are summed or multiplied: a hundred thousand headers almost without bytes, and a time at the
/// end of its type. Each alone in its step.
#[test]
fn headers_with_few_bytes_have_a_size_and_times_at_the_end_of_their_type_end_no_stage() {
    let deployment = with_optional("edges", &ALL_BUT_USAGE, |text| text);
    let headers = (0..100_000).map(|_| ("h".to_owned(), None)).collect();
    kafka().produce([Message { headers, ..raw(&deployment, 0, Some(b"x".to_vec())) }]).unwrap();
    assert_eq!(deployment.drain("ingest", &[])["rejected not_json"], 1);
    let reject = &deployment.records(&deployment.config.topics.rejects)[0];
    assert!(reject.header(CUT_HEADER).is_some(), "{} headers", reject.headers.len());
    let far = Message { timestamp_ms: Some(-9_000_000_000_000_000_000), ..raw(&deployment, 0, Some(b"y".to_vec())) };
    kafka().produce([far]).unwrap();
    assert_eq!(deployment.drain("ingest", &[])["rejected not_json"], 1);
}

#[test]
fn a_bad_batch_among_window_rows_is_named_by_readyz_and_passed_by_when_an_operator_says_so() {
    let deployment = with_optional("stuck", &ALL_BUT_USAGE, |text| text);
    uses(&deployment, 0..20);
    deployment.drain("ingest", &["--complete"]);
    deployment.drain("aggregate", &[]);
    let windows = deployment.config.topics.windows.clone();
    let first = kafka().ends(&windows, 0).unwrap();
    let bomb = Message { topic: windows.as_str().into(), ..raw(&deployment, 0, Some(vec![b'a'; 150_000_000])) };
    kafka().produce_compressed(&bomb, "zstd").unwrap();
    let (score, port) = deployment.start("score", &[]);
    // The offset counts from the last record that was read; a marker does not count.
    let at = first - 1;
    let named = format!("score waits for {windows}-0, which cannot be read at offset {at}");
    ask_until(port, "/readyz", |answer| answer.contains(&named));
    ask_until(port, "/metrics", |metrics| {
        metrics.contains("keepwell_waiting_for{stage=\"score\",what=\"partition\"} 1")
    });
    assert_eq!(score.stop(), Some(0));
    // A record that can be read but is not a batch is a named stop. Its message contains the remedy.
    kafka()
        .produce([Message { topic: windows.as_str().into(), ..raw(&deployment, 0, Some(b"garbage".to_vec())) }])
        .unwrap();
    let [bomb, garbage] = [at, first + 1].map(|offset| format!("--pass-by={windows}:0={offset}"));
    let stopped = deployment.keepwell(&["score", "--drain", &bomb]);
    let text = String::from_utf8_lossy(&stopped.stderr);
    let advice = format!("--pass-by {windows}:0={}", first + 1);
    assert!(stopped.status.code() == Some(1) && text.contains(&advice), "{text}");
    assert_eq!(sum(&deployment.drain("score", &[&bomb, &garbage]), "rejected"), 0);
    // After the commit of the new positions, no option is needed.
    deployment.drain("score", &[]);
    // A range names both at once.
    deployment.drain("sink", &[&format!("--pass-by={windows}:0={at}-{}", first + 1)]);
}

/// Retention moves the first offset behind a marker, and nothing is lost.
#[test]
fn topics_that_were_quiet_for_their_retention_are_read_on() {
    let deployment = with_optional("quiet", &ALL_BUT_USAGE, |text| text);
    let topic = deployment.config.sources[0].topic.clone();
    uses(&deployment, 0..20);
    // As exactly-once producers write: the last entry of the partition is a marker.
    let value =
        format!(r#"{{"event_id":"t","account_id":"acme-0","feature":"f","occurred_at":{}}}"#, START_MS + 6 * DAY_MS);
    kafka().write_open(&topic, "quiet-source", value.as_bytes()).unwrap().commit().unwrap();
    assert_eq!(drain_all(&deployment)["emitted"], 21);
    let config = &deployment.config;
    let own = [
        &config.topics.events,
        &config.topics.windows,
        &config.topics.feature_days,
        &config.topics.revenue,
        &config.topics.health,
    ];
    for (topic, partitions) in own.map(|topic| (topic, config.partitions)).into_iter().chain([(&topic, 2)]) {
        for partition in 0..partitions {
            kafka().expire(topic, partition, kafka().ends(topic, partition).unwrap()).unwrap();
        }
    }
    assert_eq!(drain_all(&deployment).get("emitted"), None);
    uses(&deployment, 40..60);
    assert_eq!(drain_all(&deployment)["emitted"], 20);
}

#[test]
fn a_state_that_is_lost_is_a_named_stop_and_its_advice_leads_out_of_it() {
    let deployment = with_optional("forgotten", &ALL_BUT_USAGE, |text| text);
    uses(&deployment, 0..20);
    drain_all(&deployment);
    let events = deployment.config.topics.events.clone();
    for partition in 0..deployment.config.partitions {
        kafka().expire(&events, partition, kafka().ends(&events, partition).unwrap()).unwrap();
    }
    std::fs::remove_dir_all(deployment.folder.path().join("snapshots")).unwrap();
    let stopped = deployment.keepwell(&["aggregate", "--drain"]);
    let text = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{text}");
    assert!(!text.contains('\u{1b}'), "a log in a file has no colours: {text}");
    for words in ["no usable snapshot", "snapshots.url", "--from beginning", "keepwell backfill", &events] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    deployment.drain("aggregate", &["--from", "beginning"]);
    uses(&deployment, 40..60);
    assert_eq!(deployment.drain("ingest", &["--complete"])["emitted"], 20);
    assert_eq!(deployment.drain("aggregate", &[])["on_time"], 20);
}

#[test]
fn records_that_expired_unread_are_done_without_when_an_operator_says_so() {
    let deployment = with_optional("done-without", &ALL_BUT_USAGE, |text| text);
    uses(&deployment, 0..20);
    deployment.drain("ingest", &["--complete"]);
    uses(&deployment, 20..40);
    kafka().expire(&deployment.config.sources[0].topic, 0, 15).unwrap();
    let stopped = deployment.keepwell(&["ingest", "--drain"]);
    let text = String::from_utf8_lossy(&stopped.stderr);
    assert!(stopped.status.code() == Some(1) && text.contains("start once with --from beginning"), "{text}");
    assert_eq!(deployment.drain("ingest", &["--from", "beginning"])["read"], 15);
    let name = format!("{}-ingest", deployment.config.kafka.group_prefix);
    let topic = &deployment.config.sources[0].topic;
    let positions = Group::open(&deployment.config.kafka, &name).unwrap().positions(topic).unwrap();
    assert_eq!(positions[&TopicPartition::new(topic.as_str(), 0)].0, 20);
}

#[test]
fn hostile_records_of_every_kind_among_good_ones_and_kills_end_no_stage_and_harm_no_neighbour() {
    let folder = tempfile::tempdir().unwrap();
    let programs = Programs::One(keepwell_verify::programs::keepwell().unwrap());
    let faults = [Fault::Kill("ingest"), Fault::Kill("aggregate"), Fault::Kill("score"), Fault::Kill("sink")];
    // Enough good records for one record of each hostile kind.
    let load = Load { build: "test", seed: 5, num_cycles: 4, hostile: 1 };
    let mut run = Run::start(programs, folder.path(), &load).unwrap();
    for fault in faults {
        run.cycle(fault).unwrap_or_else(|error| panic!("{fault}: {error:#}"));
    }
    let verified = run.judged().unwrap();
    assert!(verified.ledger.is_clean() && verified.surprises.is_empty(), "{verified:?}");
    assert!(verified.ledger.sent > 200 + kinds().len() && verified.finals > 200, "{verified:?}");
}
