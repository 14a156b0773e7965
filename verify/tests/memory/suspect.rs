//! A source that died is told from customers who leave.

use std::collections::BTreeSet;

use keepwell_core::event::Kind;
use keepwell_pipeline::config::Config;
use keepwell_sink::alert::Alert;
use keepwell_verify::check;
use keepwell_verify::fleet::{self, Raw};

use crate::{BOUND_MS, Deployment, config, count};

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;
const DAYS: i64 = 44;
const ACCOUNTS: usize = 30;
/// Days on which nothing of usage arrives.
const OUTAGE: std::ops::Range<i64> = 30..34;
/// This account leaves before the outage.
const LEFT: usize = 4;
/// This account leaves during the outage.
const LEAVES: usize = 17;

fn account(n: usize) -> String {
    format!("account-{n:03}")
}

/// Six uses a day of each account that has not left, in the order of event time.
fn usage() -> Vec<Raw> {
    let mut raws = Vec::new();
    for day in 0..DAYS {
        let is_there = |n: &usize| !(*n == LEFT && day >= 22 || *n == LEAVES && day >= 31);
        for (hour, n) in (9..15).flat_map(|hour| (0..ACCOUNTS).filter(is_there).map(move |n| (hour, n))) {
            let at_ms = START_MS + day * DAY_MS + hour * HOUR_MS + n as i64 * 1000;
            let text = format!(
                r#"{{"event_id":"{day}-{hour}-{n}","account_id":"{}","user_id":"u{}","feature":"export","occurred_at":{at_ms}}}"#,
                account(n),
                hour % 3
            );
            raws.push(Raw { kind: Kind::Usage, key: None, value: Some(text.into_bytes()), at_ms });
        }
    }
    raws
}

fn is_lost(raw: &Raw) -> bool {
    OUTAGE.contains(&((raw.at_ms - START_MS) / DAY_MS))
}

/// The events without those of the outage.
fn with_a_hole() -> Vec<Raw> {
    usage().into_iter().filter(|raw| !is_lost(raw)).collect()
}

/// The events, those of the outage behind the first hour of the day after it.
fn with_a_return() -> Vec<Raw> {
    let (lost, mut raws): (Vec<Raw>, Vec<Raw>) = usage().into_iter().partition(is_lost);
    let back_ms = START_MS + OUTAGE.end * DAY_MS + 10 * HOUR_MS;
    let at = raws.partition_point(|raw| raw.at_ms < back_ms);
    raws.splice(at..at, lost);
    raws
}

fn guarded(set: &[&str]) -> Config {
    config(&[&["time.lateness=7d"], set].concat())
}

const UNGUARDED: [&str; 2] = ["suspect.below=0", "suspect.max_dropping=1"];

/// Day, account, trigger and event of each alert.
fn alerts(deployment: &Deployment) -> BTreeSet<(i64, String, String, String)> {
    let values = deployment.streamed().alerts.into_iter().filter_map(|record| record.value);
    let of = |value: bytes::Bytes| {
        let alert: Alert = serde_json::from_slice(&value).unwrap();
        let as_of: jiff::Timestamp = alert.as_of.parse().unwrap();
        ((as_of.as_millisecond() - START_MS) / DAY_MS, alert.account_id, alert.trigger, alert.event)
    };
    values.map(of).collect()
}

/// Accounts with an alert that was raised on day 20 or later: the first days change the band of each.
fn raised(deployment: &Deployment) -> BTreeSet<String> {
    let late = alerts(deployment).into_iter().filter(|(day, _, _, event)| *day >= 20 && event == "raised");
    late.map(|(_, account, ..)| account).collect()
}

fn check_all(deployment: &Deployment) {
    deployment.check();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(check::suspect_panes(&deployment.streamed(), &deployment.config)).unwrap();
}

#[test]
fn a_dead_source_raises_no_alert_but_those_of_accounts_that_left() {
    let unguarded = Deployment::of(&with_a_hole(), guarded(&UNGUARDED));
    assert_eq!(raised(&unguarded).len(), ACCOUNTS, "without a guard each account is alarmed");
    // What is lost is lost: the hole must leave the window that the triggers read.
    let deployment = Deployment::of(&with_a_hole(), guarded(&["suspect.settle=7d"]));
    assert_eq!(raised(&deployment), [LEFT, LEAVES].map(account).into());
    let publish = &deployment.fates.publish;
    assert!(count(publish, "held") > ACCOUNTS as u64 && count(publish, "dropped") > 0, "{publish:?}");
    assert!(count(publish, "held") <= count(publish, "released") + count(publish, "dropped"), "{publish:?}");
    check_all(&deployment);
}

#[test]
fn what_a_source_brings_when_it_is_back_counts_and_what_was_held_is_dropped() {
    let deployment = Deployment::of(&with_a_return(), guarded(&[]));
    assert_eq!(raised(&deployment), [LEFT, LEAVES].map(account).into());
    deployment.check();
}

#[test]
fn the_same_alerts_go_out_whatever_the_order_the_cut_the_restarts_and_the_partition_count() {
    let raws = with_a_hole();
    let expected = alerts(&Deployment::of(&raws, guarded(&[])));
    for (partitions, cut) in [(1, 1000), (2, 50), (8, 333)] {
        let settings = [format!("partitions={partitions}"), format!("batch.max_records={cut}")];
        let shuffled = fleet::shuffled_within(&raws, partitions, BOUND_MS);
        let parts: Vec<&[Raw]> = shuffled.chunks(shuffled.len() / 4 + 1).collect();
        let deployment = Deployment::in_parts(&parts, guarded(&settings.each_ref().map(String::as_str)));
        assert_eq!(alerts(&deployment), expected, "{partitions} partitions");
        check_all(&deployment);
    }
}

#[test]
fn many_accounts_that_drop_at_once_are_held_though_every_source_is_as_usual() {
    // A third of the accounts stops, and the others use as much more.
    let is_third = |raw: &Raw| {
        let text = String::from_utf8_lossy(raw.value.as_deref().unwrap()).into_owned();
        (0..ACCOUNTS).filter(|n| n % 3 == 0).any(|n| text.contains(&account(n)))
    };
    let mut raws: Vec<Raw> =
        usage().into_iter().filter(|raw| raw.at_ms < START_MS + 30 * DAY_MS || !is_third(raw)).collect();
    let more: Vec<Raw> = raws.iter().filter(|raw| raw.at_ms >= START_MS + 30 * DAY_MS).cloned().collect();
    raws.extend(more.into_iter().map(|raw| {
        let text = String::from_utf8(raw.value.unwrap()).unwrap().replace(r#""event_id":""#, r#""event_id":"more-"#);
        Raw { value: Some(text.into_bytes()), ..raw }
    }));
    raws.sort_by_key(|raw| raw.at_ms);
    let bounds = ["suspect.min_accounts=20", "suspect.settle=3d"];
    let held = Deployment::of(&raws, guarded(&bounds));
    let open = Deployment::of(&raws, guarded(&[&bounds[..], &["suspect.max_dropping=1"]].concat()));
    assert!(count(&held.fates.publish, "held") > 0 && count(&open.fates.publish, "held") == 0);
    let of_third = (0..ACCOUNTS).filter(|n| n % 3 == 0).map(account).collect();
    assert!(raised(&held).is_superset(&of_third), "they have left indeed: {:?}", raised(&held));
    assert!(alerts(&held).is_subset(&alerts(&open)) && alerts(&held) != alerts(&open));
    [held, open].iter().for_each(check_all);
}
