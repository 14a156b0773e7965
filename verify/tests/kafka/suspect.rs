//! A source dies on a real Kafka: alerts are held, also by a process that was killed, until an operator decides.

use std::collections::BTreeSet;

use keepwell_sink::alert::Alert;
use keepwell_verify::dead_source::{ACCOUNTS, LEAVES, LEFT, OUTAGE, account, day_of, with_a_hole};

use crate::live::ask_until;
use crate::time::{ALL_BUT_USAGE, with_optional};
use crate::{Deployment, sum};

/// Accounts with an alert that was raised on day 20 or later: the first days change the band of each.
fn raised(deployment: &Deployment) -> BTreeSet<String> {
    let alerts = deployment.records(&deployment.config.topics.alerts).into_iter().filter_map(|record| record.value);
    let alerts = alerts.map(|value| serde_json::from_slice::<Alert>(&value).unwrap());
    let is_late = |alert: &Alert| {
        let since: jiff::Timestamp = alert.since.parse().unwrap();
        alert.event == "raised" && day_of(since.as_millisecond()) >= 20
    };
    alerts.filter(is_late).map(|alert| alert.account_id).collect()
}

/// How many alerts sink holds, by its metrics.
fn num_held(metrics: &str) -> Option<u64> {
    let held = metrics.lines().filter(|line| line.starts_with("keepwell_alerts_held{"));
    let values: Option<Vec<u64>> = held.map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    values.filter(|values| values.len() == 3).map(|values| values.iter().sum())
}

fn drain_all(deployment: &Deployment) {
    deployment.drain("ingest", &["--complete"]);
    for stage in ["aggregate", "score", "sink"] {
        deployment.drain(stage, &[]);
    }
}

#[test]
fn alerts_of_a_dead_source_are_held_through_kills_until_an_operator_releases_or_drops_them() {
    let raws = with_a_hole();
    let back = raws.partition_point(|raw| day_of(raw.at_ms) <= OUTAGE.end);
    for decision in ["drop", "release"] {
        let deployment =
            with_optional(&format!("dead-{decision}"), &ALL_BUT_USAGE, |text| text + "suspect: {settle: 7d}\n");
        deployment.load(&raws[..back]);
        deployment.drain("ingest", &["--complete"]);
        deployment.drain("aggregate", &[]);
        deployment.drain("score", &[]);
        let topics = &deployment.config.topics;
        deployment.kill_at("sink", &["--set", "batch.max_records=2"], &topics.scores, &[40, 400]);
        let fates = deployment.drain("sink", &[]);
        assert!(sum(&fates, "publish held") > 0, "{fates:?}");
        assert_eq!(raised(&deployment), [account(LEFT)].into());

        // A new process knows them by its snapshot.
        let (sink, http) = deployment.start("sink", &[]);
        ask_until(http, "/metrics", |metrics| num_held(metrics).is_some_and(|held| held >= ACCOUNTS as u64));
        let said = deployment.keepwell(&["alerts", decision]);
        assert!(said.status.success(), "{said:?}");
        ask_until(http, "/metrics", |metrics| num_held(metrics) == Some(0));
        assert_eq!(sink.stop(), Some(0));
        let after_word = raised(&deployment);
        let expected = if decision == "drop" { 1 } else { ACCOUNTS };
        assert_eq!(after_word.len(), expected, "{decision}: {after_word:?}");

        // The source is back: what was dropped stays so, and nothing comes twice.
        deployment.load(&raws[back..]);
        drain_all(&deployment);
        assert_eq!(raised(&deployment), after_word, "{decision}, {} of {}", account(LEAVES), raws.len());
        deployment.compare();
    }
}
