//! Use of the configured groups of features, by pane: uses, and who used them.

use std::collections::BTreeMap;
use std::ops::Range;

use keepwell_core::interned::Name;
use keepwell_core::pane::Pane;

use crate::feature_groups::GroupSet;
use crate::pane_set::PaneSet;

/// Use of each group that was ever used, by its index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupUses(BTreeMap<u8, GroupUse>);

/// Use of one group.
#[derive(Debug, Clone, Default, PartialEq)]
struct GroupUse {
    /// Uses in each pane with an event, oldest first.
    panes: Vec<(Pane, i64)>,
    /// The panes in which each user used a feature of the group.
    users: BTreeMap<Name, PaneSet>,
}

/// Use of a group within some panes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupSums {
    /// Number of uses.
    pub uses: i64,
    /// Number of distinct users.
    pub users: i64,
    /// Number of panes with an event.
    pub active_days: i64,
}

/// Use of one group in one pane, as a snapshot stores it: index of the group, uses, users.
pub type OfPane<N> = (u8, i64, Vec<N>);

impl GroupUses {
    /// Adds a use of a feature of these groups, by a user if the user is known.
    pub fn add(&mut self, pane: Pane, groups: GroupSet, user: Option<&Name>, count: i64) {
        for index in groups.iter() {
            let group = self.0.entry(index as u8).or_default();
            group.use_in(pane, count);
            if let Some(user) = user {
                group.used_by(user, pane);
            }
        }
    }

    /// Use of a group within panes.
    pub fn within(&self, group: usize, panes: &Range<Pane>) -> GroupSums {
        let Some(group) = self.0.get(&(group as u8)) else { return GroupSums::default() };
        let first = group.panes.partition_point(|(pane, _)| *pane < panes.start);
        let end = group.panes.partition_point(|(pane, _)| *pane < panes.end);
        let within = group.panes.get(first..end).unwrap_or_default();
        let users = group.users.values().filter(|of| of.intersects(panes.start, panes.end));
        GroupSums {
            uses: within.iter().map(|(_, uses)| uses).sum(),
            users: users.count() as i64,
            active_days: within.len() as i64,
        }
    }

    /// The part of a snapshot for a pane.
    pub fn of_pane(&self, pane: Pane) -> Vec<OfPane<&Name>> {
        let of_groups = self.0.iter().filter_map(|(index, group)| {
            let (uses, users) = group.in_pane(pane)?;
            Some((*index, uses, users))
        });
        of_groups.collect()
    }

    /// Restores what a snapshot contains for a pane.
    pub fn take_pane(&mut self, pane: Pane, groups: Vec<OfPane<Name>>) {
        for (index, uses, users) in groups {
            let group = self.0.entry(index).or_default();
            group.use_in(pane, uses);
            users.iter().for_each(|user| group.used_by(user, pane));
        }
    }

    /// Replaces the name of a user.
    pub fn rename(&mut self, user: &str, name: &Name) {
        for group in self.0.values_mut() {
            if let Some(panes) = group.users.remove(user) {
                group.users.entry(name.clone()).or_default().extend(&panes);
            }
        }
    }

    /// Forgets all panes before `first`.
    pub fn forget_before(&mut self, first: Pane) {
        self.0.retain(|_, group| {
            group.panes.retain(|(pane, _)| *pane >= first);
            group.users.retain(|_, panes| {
                panes.forget_before(first);
                !panes.is_empty()
            });
            !group.panes.is_empty()
        });
    }
}

impl GroupUse {
    /// Uses and users in a pane. None without an event in it.
    fn in_pane(&self, pane: Pane) -> Option<(i64, Vec<&Name>)> {
        let at = self.panes.binary_search_by_key(&pane, |(known, _)| *known).ok()?;
        let users = self.users.iter().filter(|(_, panes)| panes.contains(pane)).map(|(name, _)| name);
        Some((self.panes.get(at)?.1, users.collect()))
    }

    fn use_in(&mut self, pane: Pane, count: i64) {
        match self.panes.binary_search_by_key(&pane, |(known, _)| *known) {
            Ok(at) => self.panes[at].1 += count,
            Err(at) => self.panes.insert(at, (pane, count)),
        }
    }

    fn used_by(&mut self, user: &Name, pane: Pane) {
        if let Some(panes) = self.users.get_mut(user.as_str()) {
            panes.insert(pane);
            return;
        }
        let mut panes = PaneSet::default();
        panes.insert(pane);
        self.users.insert(user.clone(), panes);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::feature_groups::FeatureGroups;

    proptest! {
        /// After any forgetting and renaming, and through a snapshot, the state is what the remaining events give.
        #[test]
        fn what_is_left_is_what_the_events_that_are_left_give(
            uses in prop::collection::vec((0..6_i32, 0..3_usize, 0..4_u8, 0..3_i64), 1..60), first in 0..6_i32, renamed in 0..4_u8,
        ) {
            let groups = FeatureGroups::new([vec!["a*".to_owned()], vec!["*b".to_owned()]].iter());
            let features = ["a", "b", "ab"];
            let name = |user: u8, is_renamed: bool| Name::from(if is_renamed && user == renamed { "erased".to_owned() } else { user.to_string() }.as_str());
            let mut state = GroupUses::default();
            for (pane, feature, user, count) in &uses {
                state.add(Pane(*pane), groups.of(features[*feature]), Some(&name(*user, false)), *count);
            }
            state.rename(&renamed.to_string(), &Name::from("erased"));
            state.forget_before(Pane(first));
            let left: Vec<_> = uses.iter().filter(|(pane, ..)| *pane >= first).collect();
            let mut anew = GroupUses::default();
            for (pane, feature, user, count) in &left {
                anew.add(Pane(*pane), groups.of(features[*feature]), Some(&name(*user, true)), *count);
            }
            prop_assert_eq!(&state, &anew);
            let mut restored = GroupUses::default();
            for pane in (0..6).map(Pane) {
                let owned = state.of_pane(pane).into_iter();
                restored.take_pane(pane, owned.map(|(index, uses, users)| (index, uses, users.into_iter().cloned().collect())).collect());
            }
            prop_assert_eq!(&restored, &state);
            let of_a = left.iter().filter(|(pane, feature, ..)| *feature != 1 && (2..5).contains(pane));
            let sums = state.within(0, &(Pane(2)..Pane(5)));
            prop_assert_eq!(sums.uses, of_a.clone().map(|(.., count)| count).sum::<i64>());
            let users: std::collections::BTreeSet<_> = of_a.map(|(_, _, user, _)| user).collect();
            prop_assert_eq!(sums.users, users.len() as i64);
        }
    }
}
