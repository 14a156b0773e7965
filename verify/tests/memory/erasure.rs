//! Erased user ids: they leave the state, and no row changes.

use keepwell_core::event::Kind;
use keepwell_core::offset::{NextOffset, Position, TopicPartition};
use keepwell_pipeline::snapshot::Snapshots;
use keepwell_verify::fleet::{self, Raw, Shape};

use crate::{BOUND_MS, Deployment, config};

/// The parts of the states in the newest snapshots of aggregate.
fn states(folder: &std::path::Path) -> Vec<Vec<u8>> {
    let mut snapshots = Snapshots::open(&format!("file://{}", folder.display()), 3).unwrap();
    let end = Position::at(NextOffset(i64::MAX));
    let newest = (0..16).filter_map(|partition| {
        snapshots.newest("aggregate", 1, &TopicPartition::new("keepwell.events", partition), end).unwrap()
    });
    newest.flat_map(|(_, state)| state.into_values()).collect()
}

#[test]
fn an_erased_user_id_is_in_no_state_and_every_row_is_the_oracles_as_before() {
    let raws = fleet::punctual(27, Shape { accounts: 5, days: 20, usage: 6 });
    let erased = ["account-000-user-0", "account-002-user-1", "account-004-user-4"];
    let stays = "account-000-user-1";
    let mut with = raws.clone();
    for (n, user) in erased.into_iter().enumerate() {
        let account = &user[..11];
        // The user has events before and after the erasure.
        let at = with.len() * (n + 1) / 5;
        let at_ms = with[at].at_ms;
        let text = format!(
            r#"{{"event_id":"forget-{n}","account_id":"{account}","user_id":"{user}","occurred_at":{at_ms},"type":"erased"}}"#
        );
        with.insert(at, Raw { kind: Kind::Person, key: None, value: Some(text.into_bytes()), at_ms });
    }
    let read = |raws: &[Raw]| {
        let folder = tempfile::tempdir().unwrap();
        // The last pane stays open; its content must be erased too.
        let url = format!("snapshots.url=file://{}", folder.path().display());
        let deployment = Deployment::of(raws, config(&[&url]));
        let names = |user: &str| {
            states(folder.path()).iter().any(|state| state.windows(user.len()).any(|part| part == user.as_bytes()))
        };
        let found = [erased.as_slice(), &[stays]].concat().into_iter().map(names).collect::<Vec<_>>();
        assert!(deployment.check() > 66);
        (deployment.finals(), found)
    };
    let (before, found) = read(&raws);
    assert_eq!(found, [true; 4]);
    let (after, found) = read(&with);
    assert_eq!(found, [false, false, false, true]);
    let (shuffled, found) = read(&fleet::shuffled_within(&with, 1, BOUND_MS));
    assert_eq!(found, [false, false, false, true]);
    shuffled.assert_same(&after);
    // The erasure is an event of its account, but it creates no additional rows.
    assert_eq!(after.windows.num_rows(), before.windows.num_rows());
}
