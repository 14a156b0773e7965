//! A source that died is told from customers who leave.

use std::collections::BTreeSet;

use keepwell_pipeline::config::Config;
use keepwell_sink::alert::Alert;
use keepwell_verify::check;
use keepwell_verify::dead_source::{ACCOUNTS, LEAVES, LEFT, account, day_of, usage, with_a_hole, with_a_return};
use keepwell_verify::fleet::{self, Raw};

use crate::{BOUND_MS, Deployment, config, count};

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
        (day_of(as_of.as_millisecond()), alert.account_id, alert.trigger, alert.event)
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
    let mut raws: Vec<Raw> = usage().into_iter().filter(|raw| day_of(raw.at_ms) < 30 || !is_third(raw)).collect();
    let more: Vec<Raw> = raws.iter().filter(|raw| day_of(raw.at_ms) >= 30).cloned().collect();
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
