//! Cases of event time on a real Kafka: sources that lag, are silent, hidden, new, or gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use keepwell_core::codec;
use keepwell_core::event::Kind;
use keepwell_core::schema::event;
use keepwell_core::schema::event::EventRows;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::reject::REASON_HEADER;
use keepwell_pipeline::watermark::{Mark, STATEMENT_HEADER, SourceState, Statement};
use keepwell_sink::alert::Alert;
use keepwell_verify::compare;
use keepwell_verify::fleet::{self, Raw, Shape};

use crate::live::ask_until;
use crate::process::Running;
use crate::{Deployment, kafka, sum};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn now_ms() -> i64 {
    SystemClock::start().wall_us() / 1000
}

fn raw(kind: Kind, at_ms: i64, text: String) -> Raw {
    Raw { kind, key: None, value: Some(text.into_bytes()), at_ms }
}

pub fn usage(id: &str, account: &str, at_ms: i64) -> Raw {
    let text = format!(
        r#"{{"event_id":"{id}","account_id":"{account}","user_id":"u","feature":"export","occurred_at":{at_ms}}}"#
    );
    raw(Kind::Usage, at_ms, text)
}

fn ticket(id: &str, account: &str, at_ms: i64) -> Raw {
    let text = format!(
        r#"{{"event_id":"{id}","account_id":"{account}","ticket_id":"{id}","occurred_at":{at_ms},"type":"opened"}}"#
    );
    raw(Kind::Ticket, at_ms, text)
}

/// A deployment in which the sources of these kinds are optional.
pub fn with_optional(name: &str, kinds: &[&str], edit: impl Fn(String) -> String) -> Deployment {
    Deployment::edited(name, |text| {
        let optional = |text: String, kind: &&str| {
            text.replace(&format!("kind: {kind}}}"), &format!("kind: {kind}, optional: true}}"))
        };
        edit(kinds.iter().fold(text.to_owned(), optional))
    })
}

pub const ALL_BUT_USAGE: [&str; 4] = ["ticket", "survey", "account", "person"];

/// Repeats `look` after each write to a topic, until it returns something.
fn until<T>(deployment: &Deployment, what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        let news = kafka().tail(&deployment.config.topics.all()).unwrap();
        if let Some(found) = look() {
            return found;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(news.wait(left).unwrap(), "not within {LIMIT:?}: {what}");
    }
}

/// Time limit for every wait, even on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(300);

impl Deployment {
    /// The last mark of each source partition, as partition 0 of `events` contains it.
    fn marks(&self) -> BTreeMap<(String, i32), Mark> {
        let mut marks = BTreeMap::new();
        for record in self.records(&self.config.topics.events).iter().filter(|r| r.topic_partition.partition == 0) {
            if let Some(header) = record.header(STATEMENT_HEADER) {
                let statement: Statement = serde_json::from_slice(header).unwrap();
                marks.extend(statement.marks.into_iter().map(|mark| ((mark.topic.clone(), mark.partition), mark)));
            }
        }
        marks
    }

    /// The marks of one source, once both of its partitions are proven to be read to their ends.
    fn proven(&self, n: usize) -> Option<Vec<Mark>> {
        let topic = &self.config.sources[n].topic;
        let of_topic: Vec<Mark> = self.marks().into_values().filter(|mark| mark.topic == *topic).collect();
        let is_proven = of_topic.len() == 2 && of_topic.iter().all(|mark| mark.state == SourceState::Proven);
        is_proven.then_some(of_topic)
    }

    /// The different ends of final windows, UTC milliseconds.
    fn finals(&self) -> Vec<i64> {
        let rows =
            compare::rows_of(&self.records(&self.config.topics.windows), &self.config.aggregate.layout().schema())
                .unwrap();
        let rows = compare::where_flag(&rows, "final", true).unwrap();
        let as_of = rows.column_by_name("as_of").unwrap().as_primitive::<TimestampMicrosecondType>();
        let ends: std::collections::BTreeSet<i64> = as_of.values().iter().map(|us| us / 1000).collect();
        ends.into_iter().collect()
    }

    fn lives(&self) -> usize {
        let rows =
            compare::rows_of(&self.records(&self.config.topics.windows), &self.config.aggregate.layout().schema())
                .unwrap();
        compare::where_flag(&rows, "final", false).unwrap().num_rows()
    }

    fn reasons(&self) -> Vec<String> {
        let reason =
            |record: &keepwell_pipeline::record::Record| String::from_utf8(record.header(REASON_HEADER)?.to_vec()).ok();
        let mut reasons: Vec<String> = self.records(&self.config.topics.rejects).iter().filter_map(reason).collect();
        reasons.sort();
        reasons
    }
}

fn wait_for_fate(aggregate: &(Running, u16), fate: &str, count: u64) {
    let series = format!("keepwell_records_total{{fate=\"{fate}\",reason=\"\",stage=\"aggregate\"}} {count}\n");
    ask_until(aggregate.1, "/metrics", |metrics| metrics.contains(&series));
}

#[test]
fn a_source_months_behind_another_holds_the_leader_back_and_nothing_is_late() {
    let deployment = with_optional("behind", &["survey", "account", "person"], |text| text);
    let start_ms = 1_704_067_200_000;
    let mut raws = Vec::new();
    for day in 0..30 {
        let at_ms = start_ms + day * DAY_MS;
        raws.push(ticket(&format!("t{day}"), &format!("acme-{}", day % 8), at_ms));
        for n in 0..30 {
            raws.push(usage(&format!("u{day}-{n}"), &format!("acme-{}", n % 8), at_ms + n * 60_000));
        }
    }
    // Load each topic separately, so that its partitions get equal shares.
    for kind in [Kind::Usage, Kind::Ticket] {
        deployment.load(&raws.iter().filter(|raw| raw.kind == kind).cloned().collect::<Vec<_>>());
    }
    deployment.drain("ingest", &["--complete", "--set", "batch.max_records=20"]);
    // The largest lead of an event over the last mark of the slowest source.
    let mut marks: BTreeMap<(String, i32), i64> = BTreeMap::new();
    let mut lead_ms = i64::MIN;
    for record in deployment.records(&deployment.config.topics.events) {
        if record.topic_partition.partition != 0 {
            continue;
        }
        if let Some(value) = &record.value {
            let batch = codec::decode(value, &event::schema()).unwrap();
            let rows = EventRows::new(&batch);
            let newest = (0..rows.len()).map(|row| rows.occurred_us(row)).max();
            if let (Some(newest), Some(least), 4) = (newest, marks.values().min(), marks.len()) {
                lead_ms = lead_ms.max((newest - least) / 1000);
            }
        }
        if let Some(header) = record.header(STATEMENT_HEADER) {
            let statement: Statement = serde_json::from_slice(header).unwrap();
            for mark in statement.marks {
                if let (Some(value_us), SourceState::Reading) = (mark.value_us, mark.state) {
                    marks.insert((mark.topic, mark.partition), value_us);
                }
            }
        }
    }
    // A pane of skew, the bound, and the two records for each partition that a step takes.
    assert!(lead_ms > DAY_MS && lead_ms < 8 * DAY_MS, "{} days ahead", lead_ms / DAY_MS);
    let fates = deployment.drain("aggregate", &[]);
    assert_eq!((fates["on_time"], fates.get("late"), fates.get("too_late")), (raws.len() as u64, None, None));
    deployment.drain("score", &[]);
    deployment.drain("sink", &[]);
    assert!(deployment.compare().windows > 166);
}

#[test]
fn a_topic_never_written_to_holds_time_unless_it_is_optional() {
    for (name, optional) in [("required", &["ticket", "account", "person"][..]), ("optional", &ALL_BUT_USAGE)] {
        let deployment = with_optional(name, optional, |text| text);
        let _stages = ["ingest", "aggregate"].map(|stage| deployment.start(stage, &[]));
        let old = now_ms() - 3 * DAY_MS;
        deployment.load(&[usage("1", "acme", old)]);
        if name == "required" {
            until(&deployment, "usage read to its end, and a live row", || {
                deployment.proven(0).filter(|_| deployment.lives() > 0)
            });
            assert!(deployment.finals().is_empty());
            let text =
                format!(r#"{{"event_id":"2","account_id":"acme","occurred_at":{old},"survey":"nps","score":9}}"#);
            deployment.load(&[raw(Kind::Survey, old, text)]);
        }
        until(&deployment, "final rows", || (!deployment.finals().is_empty()).then_some(()));
    }
}

#[test]
fn a_source_that_returns_from_silence_with_old_events_has_them_late_or_too_late() {
    let deployment = with_optional("returns", &ALL_BUT_USAGE, |text| text);
    let _ingest = deployment.start("ingest", &[]);
    let aggregate = deployment.start("aggregate", &[]);
    let now = now_ms();
    deployment.load(&[usage("1", "acme", now - 3 * DAY_MS)]);
    until(&deployment, "yesterday closed", || {
        deployment.finals().last().filter(|end| **end > now - DAY_MS - HOUR_MS).copied()
    });
    let too_late = usage("3", "acme", now - 5 * DAY_MS);
    deployment.load(&[usage("2", "acme", now - 36 * HOUR_MS), too_late.clone(), usage("4", "acme", now_ms())]);
    wait_for_fate(&aggregate, "late", 1);
    wait_for_fate(&aggregate, "too_late", 1);
    wait_for_fate(&aggregate, "on_time", 2);
    assert_eq!(deployment.reasons(), ["too_late"]);
    assert_eq!(deployment.records(&deployment.config.topics.rejects)[0].value.as_deref(), too_late.value.as_deref());
}

#[test]
fn a_daily_load_with_a_delay_of_a_day_is_not_late() {
    let edit = |text: String| text.replace("kind: ticket}", "kind: ticket, delay: 1d}");
    let deployment = with_optional("daily", &["survey", "account", "person"], edit);
    let _ingest = deployment.start("ingest", &[]);
    let aggregate = deployment.start("aggregate", &[]);
    let now = now_ms();
    deployment.load(&[usage("1", "acme", now - 3 * DAY_MS), ticket("2", "acme", now - 3 * DAY_MS)]);
    let marks = until(&deployment, "both read to their ends", || {
        deployment.proven(0)?;
        deployment.proven(1)
    });
    let is_a_day_behind = |mark: &Mark| mark.value_us.is_some_and(|us| us / 1000 <= now_ms() - DAY_MS);
    assert!(marks.iter().all(is_a_day_behind), "{marks:?}");
    deployment.load(&[usage("3", "acme", now_ms()), ticket("4", "acme", now_ms() - 23 * HOUR_MS)]);
    wait_for_fate(&aggregate, "on_time", 4);
}

#[test]
fn all_sources_silent_inactivity_grows_and_an_alert_is_raised_ingest_started_last() {
    let deployment = with_optional("silent", &ALL_BUT_USAGE, |text| text);
    let now = now_ms();
    deployment.load(&[usage("1", "acme", now - 6 * DAY_MS)]);
    let _others = ["sink", "score", "aggregate"].map(|stage| deployment.start(stage, &[]));
    let _ingest = deployment.start("ingest", &[]);
    let alert = until(&deployment, "an alert", || {
        let alerts = deployment.records(&deployment.config.topics.alerts);
        let alerts = alerts.iter().filter_map(|record| serde_json::from_slice::<Alert>(record.value.as_deref()?).ok());
        alerts.into_iter().find(|alert| alert.trigger == "inactivity")
    });
    assert_eq!((alert.event.as_str(), alert.account_id.as_str(), alert.playbook.as_str()), ("raised", "acme", "write"));
    let ends = until(&deployment, "yesterday closed", || {
        let ends = deployment.finals();
        (ends.last()? > &(now - DAY_MS - HOUR_MS)).then_some(ends)
    });
    assert!(ends.len() >= 5 && ends.windows(2).all(|pair| pair[1] - pair[0] == DAY_MS), "{ends:?}");
}

#[test]
fn producers_a_day_ahead_and_in_1970_are_rejected_and_move_no_time() {
    let deployment = with_optional("clocks", &ALL_BUT_USAGE, |text| text);
    let _ingest = deployment.start("ingest", &[]);
    let now = now_ms();
    deployment.load(&[usage("1", "acme", now + DAY_MS), usage("2", "acme", 0), usage("3", "acme", now - 2 * DAY_MS)]);
    until(&deployment, "both rejects", || (deployment.reasons() == ["future", "too_old"]).then_some(()));
    let marks = until(&deployment, "usage read to its end", || deployment.proven(0));
    assert!(marks.iter().all(|mark| mark.value_us.is_some_and(|us| us / 1000 < now_ms())), "{marks:?}");
}

#[test]
fn an_open_raw_transaction_hides_data_and_holds_time() {
    let deployment = with_optional("hidden", &ALL_BUT_USAGE, |text| text);
    let now = now_ms();
    let topic = deployment.config.sources[0].topic.clone();
    // One event for each partition; the transaction is in partition 0.
    deployment.load(&[usage("0", "acme", now - 3 * DAY_MS), usage("1", "acme", now - 3 * DAY_MS)]);
    // This event is on time only if the time of partition 0 waits for it.
    let hidden = usage("2", "acme", now - 2 * DAY_MS);
    let hidden_by = kafka().write_open(&topic, &format!("{topic}-open"), hidden.value.as_deref().unwrap()).unwrap();
    let ingest = deployment.start("ingest", &[]);
    let aggregate = deployment.start("aggregate", &[]);
    // The mark of partition 1 moves with the clock, that of partition 0 does not.
    until(&deployment, "what is not hidden read, and a live row", || {
        let of = |partition| deployment.marks().remove(&(topic.clone(), partition));
        (of(1)?.state == SourceState::Proven && of(0)?.state == SourceState::Reading && deployment.lives() > 0)
            .then_some(())
    });
    assert!(deployment.finals().is_empty());
    let series = format!("keepwell_hidden_records{{partition=\"0\",stage=\"ingest\",topic=\"{topic}\"}}");
    ask_until(ingest.1, "/metrics", |metrics| metrics.contains(&format!("{series} 1\n")));
    hidden_by.commit().unwrap();
    ask_until(ingest.1, "/metrics", |metrics| metrics.contains(&format!("{series} 0\n")));
    wait_for_fate(&aggregate, "on_time", 3);
    until(&deployment, "final rows", || (!deployment.finals().is_empty()).then_some(()));
}

#[test]
fn a_transaction_whose_producer_is_gone_is_shown_and_ended_by_the_operators_command() {
    let deployment = with_optional("hanging", &ALL_BUT_USAGE, |text| text);
    let now = now_ms();
    let topic = deployment.config.sources[0].topic.clone();
    deployment.load(&[usage("0", "acme", now - 3 * DAY_MS), usage("1", "acme", now - 3 * DAY_MS)]);
    // The producer disappears without ending its transaction. The broker would wait for ten minutes.
    drop(kafka().write_open(&topic, &format!("{topic}-gone"), b"half").unwrap());
    deployment.load(&[usage("2", "acme", now - 2 * DAY_MS), usage("3", "acme", now - 2 * DAY_MS)]);
    let ingest = deployment.start("ingest", &[]);
    let series = format!("keepwell_hidden_records{{partition=\"0\",stage=\"ingest\",topic=\"{topic}\"}}");
    ask_until(ingest.1, "/metrics", |metrics| metrics.contains(&format!("{series} 2\n")));
    // In partition 0 one record is before the transaction.
    kafka().end_hanging(&topic, 0, 1).unwrap();
    ask_until(ingest.1, "/metrics", |metrics| metrics.contains(&format!("{series} 0\n")));
    until(&deployment, "all of usage read to its end", || deployment.proven(0));
    assert_eq!(deployment.num_events(), 4);
}

#[test]
fn of_two_aggregates_one_stops_for_long_and_wakes_and_nothing_is_lost_or_doubled() {
    let deployment = Deployment::new("stopped");
    let raws = fleet::dirty(13, Shape { accounts: 9, days: 30, usage: 4 });
    let (first, second) = raws.split_at(raws.len() / 2);
    deployment.load(first);
    let no_clock = ["--set", "time.clock=false"];
    let ingest = deployment.start("ingest", &no_clock);
    let of =
        |instance: &'static str| deployment.start("aggregate", &["--instance", instance, "--set", "time.clock=false"]);
    let [a, b] = ["a", "b"].map(of);
    let lags = |metrics: &str| {
        let lags: Vec<String> =
            metrics.lines().filter(|line| line.starts_with("keepwell_lag_records{")).map(str::to_owned).collect();
        lags
    };
    for (_, port) in [&a, &b] {
        ask_until(*port, "/metrics", |metrics| !lags(metrics).is_empty());
    }
    a.0.signal("STOP");
    deployment.load(second);
    ask_until(b.1, "/metrics", |metrics| {
        let lags = lags(metrics);
        lags.len() == 3 && lags.iter().all(|line| line.ends_with("} 0"))
    });
    a.0.signal("CONT");
    ask_until(a.1, "/metrics", |metrics| (1..3).contains(&lags(metrics).len()));
    assert_eq!([ingest, a, b].map(|(stage, _)| stage.stop()), [Some(0); 3]);
    let more = deployment.drain("ingest", &["--complete"]);
    assert_eq!(sum(&more, "rejected"), 0);
    // Static members keep their partitions for a while after they have ended, so each drains its own.
    for instance in ["a", "b"] {
        deployment.drain("aggregate", &["--instance", instance]);
    }
    for stage in ["score", "sink"] {
        deployment.drain(stage, &[]);
    }
    deployment.check();
}

#[test]
fn new_partitions_of_a_raw_topic_are_read_while_running() {
    let deployment = with_optional("grown", &ALL_BUT_USAGE, |text| text);
    let _ingest = deployment.start("ingest", &[]);
    let aggregate = deployment.start("aggregate", &[]);
    let topic = &deployment.config.sources[0].topic;
    deployment.load(&[usage("1", "acme", now_ms())]);
    wait_for_fate(&aggregate, "on_time", 1);
    kafka().grow_topic(topic, 3).unwrap();
    let mut message =
        keepwell_verify::deployment::message(&usage("2", "acme", now_ms()), 2, 3, &deployment.config).unwrap();
    message.partition = 2;
    kafka().produce([&message]).unwrap();
    wait_for_fate(&aggregate, "on_time", 2);
    assert!(deployment.marks().contains_key(&(topic.clone(), 2)));
}

#[test]
fn a_raw_topic_made_again_is_read_from_its_start_and_a_position_beyond_its_end_is_a_named_stop() {
    let deployment = with_optional("again", &ALL_BUT_USAGE, |text| text);
    let start_ms = 1_704_067_200_000;
    let of_days = |days: std::ops::Range<i64>| {
        let of_day = |day| usage(&format!("u{day}"), &format!("acme-{}", day % 8), start_ms + day * DAY_MS);
        days.map(of_day).collect::<Vec<_>>()
    };
    deployment.load(&of_days(0..20));
    deployment.drain("ingest", &["--complete"]);
    let topic = deployment.config.sources[0].topic.clone();
    // Kafka deletes the group's positions together with the topic.
    kafka().delete_topic(&topic).unwrap();
    kafka().create_topic(&topic, 2).unwrap();
    deployment.load(&of_days(20..30));
    assert_eq!(deployment.drain("ingest", &["--complete"])["emitted"], 10);
    assert_eq!(deployment.drain("aggregate", &[])["on_time"], 30);
    for stage in ["score", "sink"] {
        deployment.drain(stage, &[]);
    }
    assert!(deployment.compare().windows > 100);
    // For example, positions that come from a backup.
    kafka().reset(&format!("{}-ingest", deployment.config.kafka.group_prefix), &topic, 0, 1000).unwrap();
    let stopped = deployment.keepwell(&["ingest", "--drain"]);
    let text = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{text}");
    for words in ["beyond the log's end", "made again", &format!("{topic}-0")] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}

#[test]
fn records_that_expired_unread_are_a_named_stop() {
    let deployment = with_optional("expired", &ALL_BUT_USAGE, |text| text);
    let events =
        |from: i64| (from..from + 10).map(|n| usage(&n.to_string(), "acme", 1_704_067_200_000 + n)).collect::<Vec<_>>();
    deployment.load(&events(0));
    deployment.drain("ingest", &[]);
    deployment.load(&events(10));
    let topic = &deployment.config.sources[0].topic;
    kafka().expire(topic, 0, 8).unwrap();
    let stopped = deployment.keepwell(&["ingest", "--drain"]);
    let text = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{text}");
    assert!(
        text.contains("expired unread") && text.contains(&format!("{topic}-0")) && text.contains("retention"),
        "{text}"
    );
}
