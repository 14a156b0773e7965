//! A source dies on a real Kafka: alerts are held, also by a process that was killed, until an operator decides.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use keepwell_sink::alert::Alert;
use keepwell_verify::dead_source::{ACCOUNTS, DAYS, LEAVES, LEFT, OUTAGE, account, day_of, with_a_hole};

use crate::live::ask_until;
use crate::time::{ALL_BUT_USAGE, with_optional};
use crate::{Deployment, sum};

/// Accounts with an alert that was raised on one of these days.
fn raised(deployment: &Deployment, days: RangeInclusive<i64>) -> BTreeSet<String> {
    let alerts = deployment.records(&deployment.config.topics.alerts).into_iter().filter_map(|record| record.value);
    let alerts = alerts.map(|value| serde_json::from_slice::<Alert>(&value).unwrap());
    let is_of = |alert: &Alert| {
        let since: jiff::Timestamp = alert.since.parse().unwrap();
        alert.event == "raised" && days.contains(&day_of(since.as_millisecond()))
    };
    alerts.filter(is_of).map(|alert| alert.account_id).collect()
}

/// How many alerts sink holds, by its metrics.
fn num_held(metrics: &str) -> Option<u64> {
    let held = metrics.lines().filter(|line| line.starts_with("keepwell_alerts_held{"));
    let values: Option<Vec<u64>> = held.map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    values.filter(|values| values.len() == 3).map(|values| values.iter().sum())
}

#[test]
fn alerts_of_a_dead_source_are_held_through_kills_until_an_operator_drops_them() {
    let raws = with_a_hole();
    let back = raws.partition_point(|raw| day_of(raw.at_ms) <= OUTAGE.end);
    let deployment = with_optional("dead", &ALL_BUT_USAGE, |text| text + "suspect: {settle: 7d}\n");
    deployment.load(&raws[..back]);
    deployment.drain("ingest", &["--complete"]);
    deployment.drain("aggregate", &[]);
    deployment.drain("score", &[]);
    let topics = &deployment.config.topics;
    let small = ["--set", "batch.max_records=5"];
    deployment.kill_at("sink", &small, &topics.scores, &[10, 60]);
    let fates = deployment.drain("sink", &small);
    assert!(sum(&fates, "publish held") > 0, "{fates:?}");
    // The first days change the band of each.
    assert_eq!(raised(&deployment, 20..=DAYS), [account(LEFT)].into());

    // A new process knows them by its snapshot.
    let (sink, http) = deployment.start("sink", &[]);
    ask_until(http, "/metrics", |metrics| num_held(metrics).is_some_and(|held| held >= ACCOUNTS as u64));
    let said = deployment.keepwell(&["alerts", "drop"]);
    assert!(said.status.success(), "{said:?}");
    ask_until(http, "/metrics", |metrics| num_held(metrics) == Some(0));
    assert_eq!(sink.stop(), Some(0));
    assert_eq!(raised(&deployment, 20..=DAYS), [account(LEFT)].into());

    // The source is back. What was dropped stays so; an account that has left is alarmed by what it does from now on.
    deployment.load(&raws[back..]);
    deployment.drain("ingest", &["--complete"]);
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
    assert_eq!(raised(&deployment, OUTAGE.start..=OUTAGE.end), BTreeSet::new());
    assert!(raised(&deployment, OUTAGE.end + 1..=DAYS).contains(&account(LEAVES)));
    deployment.compare();
}
