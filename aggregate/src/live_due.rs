//! Which live rows are due. An account's first change since a tick is sent before the next tick; further changes wait
//! for it.

use std::collections::{BTreeSet, HashMap, HashSet};

use foldhash::fast::RandomState;
use keepwell_core::interned::Name;

/// The accounts with a change to send, and the accounts that got a row since the last tick.
///
/// Snapshots and comparisons contain only the names of accounts with a change. Which accounts rest depends on the
/// clock.
#[derive(Debug, Clone, Default)]
pub struct LiveDue {
    /// Accounts that changed and do not rest.
    due: HashSet<Name, RandomState>,
    /// Accounts that got a row since the last tick, and whether they have changed since then.
    resting: HashMap<Name, bool, RandomState>,
    /// The tick to which `resting` belongs.
    tick: u64,
}

impl LiveDue {
    /// Marks an account as changed.
    pub fn mark(&mut self, id: &str) {
        if let Some(is_changed) = self.resting.get_mut(id) {
            *is_changed = true;
        } else if !self.due.contains(id) {
            self.due.insert(Name::from(id));
        }
    }

    /// Whether `resting` belongs to another tick, so that no account rests at this one.
    fn is_over(&self, tick: u64) -> bool {
        self.tick != tick
    }

    /// Whether an account must wait for a tick after this one.
    pub fn is_resting(&self, id: &str, tick: u64) -> bool {
        !self.is_over(tick) && self.resting.contains_key(id)
    }

    /// The accounts that can get a row at this tick, in no particular order.
    pub fn due(&self, tick: u64) -> impl Iterator<Item = &Name> {
        let resting = self.is_over(tick).then_some(&self.resting).into_iter().flatten();
        self.due.iter().chain(resting.filter_map(|(name, is_changed)| is_changed.then_some(name)))
    }

    /// Records that the current rows of these accounts were sent at this tick.
    pub fn sent(&mut self, names: Vec<Name>, tick: u64) {
        if names.is_empty() {
            return;
        }
        if self.is_over(tick) {
            self.due.extend(self.resting.drain().filter_map(|(name, is_changed)| is_changed.then_some(name)));
            self.tick = tick;
        }
        for name in names {
            self.due.remove(&name);
            self.resting.insert(name, false);
        }
    }

    /// Drops the pending changes of all accounts for which `is_kept` is false.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&Name) -> bool) {
        self.due.retain(&mut is_kept);
        for (name, is_changed) in &mut self.resting {
            *is_changed = *is_changed && is_kept(name);
        }
    }

    /// The accounts with a change to send, resting or not.
    pub fn names(&self) -> BTreeSet<Name> {
        let changed = self.resting.iter().filter_map(|(name, is_changed)| is_changed.then_some(name));
        self.due.iter().chain(changed).cloned().collect()
    }
}

impl From<BTreeSet<Name>> for LiveDue {
    fn from(names: BTreeSet<Name>) -> Self {
        Self { due: names.into_iter().collect(), ..Self::default() }
    }
}

impl PartialEq for LiveDue {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::collections::{BTreeMap, BTreeSet};

    use keepwell_core::codec;
    use keepwell_core::event::{Body, Event};
    use keepwell_core::interned::Name;
    use keepwell_core::offset::{NextOffset, Position};
    use keepwell_core::pane::DAY_US;
    use keepwell_pipeline::config::Aggregate;
    use keepwell_pipeline::stage::{Batch, Stage};
    use proptest::prelude::*;

    use super::LiveDue;
    use crate::State;
    use crate::golden::{partition, record_of, stage};
    use arrow::array::AsArray;

    /// Steps: the accounts that change, whether a tick comes with the step, and the most rows it can send.
    fn steps() -> impl Strategy<Value = Vec<(BTreeSet<u8>, bool, usize)>> {
        let accounts = proptest::collection::btree_set(0..6_u8, 0..4);
        proptest::collection::vec((accounts, any::<bool>(), 1..5_usize), 1..40)
    }

    proptest! {
        #[test]
        fn every_change_is_told_and_nobody_twice_between_two_ticks(steps in steps()) {
            let (mut live_due, mut tick) = (LiveDue::default(), 0_u64);
            // By account: whether it has a change that is not sent, and the tick at which it was last sent.
            let mut unsent: BTreeMap<u8, bool> = BTreeMap::new();
            let mut sent: BTreeMap<u8, u64> = BTreeMap::new();
            for (changed, is_tick, most) in steps {
                tick += u64::from(is_tick);
                for account in changed {
                    live_due.mark(&account.to_string());
                    unsent.insert(account, true);
                }
                let may = |account: &u8| unsent[account] && sent.get(account) != Some(&tick);
                let expected: BTreeSet<u8> = unsent.keys().copied().filter(may).collect();
                let due: BTreeSet<u8> = live_due.due(tick).map(|name| name.parse().unwrap()).collect();
                prop_assert_eq!(&due, &expected);
                for account in 0..6 {
                    prop_assert_eq!(live_due.is_resting(&account.to_string(), tick), sent.get(&account) == Some(&tick));
                }
                let now: Vec<u8> = due.into_iter().take(most).collect();
                live_due.sent(now.iter().map(|account| Name::from(account.to_string().as_str())).collect(), tick);
                for account in now {
                    unsent.insert(account, false);
                    sent.insert(account, tick);
                }
                let names: BTreeSet<u8> = live_due.names().iter().map(|name| name.parse().unwrap()).collect();
                prop_assert_eq!(names, unsent.iter().filter_map(|(account, is)| is.then_some(*account)).collect());
            }
        }
    }

    #[test]
    fn what_final_rows_have_told_is_not_due() {
        let mut live_due = LiveDue::default();
        let names = |names: &[&str]| names.iter().map(|name| Name::from(*name)).collect::<Vec<_>>();
        live_due.sent(names(&["rests"]), 1);
        ["rests", "new", "ahead"].iter().for_each(|id| live_due.mark(id));
        live_due.retain(|name| name.as_str() == "ahead");
        assert_eq!(live_due.due(2).cloned().collect::<Vec<_>>(), names(&["ahead"]));
    }

    /// A step with uses of features: account and feature of each. Returns the accounts that got rows.
    fn step(state: &mut State, offset: i64, uses: &[(&str, String)], tick: u64, is_early: bool) -> Vec<String> {
        let (stage, at) = (stage(), 19_800 * DAY_US);
        let event = |(n, (id, feature)): (usize, &(&str, String))| Event {
            account_id: Cow::Owned((*id).to_owned()),
            event_id: Cow::Owned(format!("{offset}-{n}")),
            occurred_us: at,
            body: Body::Usage {
                user_id: None,
                feature: feature.clone().into(),
                count: 1,
                duration_ms: None,
                errors: None,
            },
        };
        let record = record_of(offset, uses.iter().enumerate().map(event), at);
        let batch = Batch {
            records: [(partition(), std::slice::from_ref(&record))].into(),
            positions: [(partition(), Position::at(NextOffset(offset)))].into(),
            tick,
            is_early,
            ..Batch::default()
        };
        let step = stage.apply(state, &batch).unwrap();
        let mut sent = BTreeSet::new();
        for value in step.messages.iter().filter_map(|message| message.value.as_ref()) {
            let rows = codec::decode(value, &Aggregate::default().layout().schema()).unwrap();
            sent.extend(rows["account_id"].as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        stage.merge(state, step.changes);
        sent.into_iter().collect()
    }

    fn started() -> State {
        let mut state = State::default();
        stage().restore(&mut state, &partition(), Position::at(NextOffset(0)), None).unwrap();
        state
    }

    #[test]
    fn an_account_is_told_of_in_the_step_of_its_event_and_then_with_a_tick() {
        let mut state = started();
        let mut step = |offset, ids: &[&'static str], tick, is_early| {
            let uses: Vec<_> = ids.iter().map(|id| (*id, "f".to_owned())).collect();
            step(&mut state, offset, &uses, tick, is_early)
        };
        assert_eq!(step(0, &["acme", "beta"], 1, true), ["acme", "beta"], "at once");
        assert_eq!(step(1, &["acme", "gamma"], 1, true), ["gamma"], "acme has been sent of");
        assert_eq!(step(2, &[], 2, true), ["acme"], "with the tick");
        assert_eq!(step(3, &["delta"], 2, false), [""; 0], "throughput goes first");
        assert_eq!(step(4, &["beta"], 2, true), ["beta", "delta"], "beta rested");
    }

    /// A live row of an account is counted from the start. So one account must not fill every tick for all others.
    #[test]
    fn an_account_of_20_000_features_gets_a_row_every_second_tick() {
        let mut state = started();
        let many: Vec<_> = (0..20_000).map(|n| ("acme", format!("/orders/{n}"))).collect();
        step(&mut state, 0, &many, 1, true);
        let uses = [("acme", "/orders/1".to_owned()), ("beta", "f".to_owned())];
        let sent: Vec<_> = (2..6).map(|tick| step(&mut state, tick as i64, &uses, tick, true)).collect();
        let (both, beta) = (vec!["acme".to_owned(), "beta".to_owned()], vec!["beta".to_owned()]);
        assert_eq!(sent, [both.clone(), beta.clone(), both, beta]);
    }
}
