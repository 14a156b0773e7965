//! Which users and features were active in which panes. Breadth and depth of adoption are counted from this.

use std::collections::{BTreeMap, BTreeSet};

use keepwell_core::pane::Pane;
use serde::Serialize;

use super::pane_totals::{Tally, Usage, Uses};
use crate::name_index::NameIndex;
use crate::pane_set::PaneSet;
use keepwell_core::interned::{Name, Names};

/// Users and features of an account.
#[derive(Debug, Clone, Default)]
pub struct Adoption {
    /// Panes in which each user was active. Other structures use the index of a user here instead of the name.
    users: NameIndex<PaneSet>,
    features: NameIndex<Feature>,
    /// Index of the user of the last event. Events of one user often come together.
    recent: u32,
}

/// The state of one feature.
#[derive(Debug, Clone, Default)]
struct Feature {
    /// Panes in which the feature was used.
    panes: PaneSet,
    /// Use of the feature in panes that are still open. There are few of them.
    open: Vec<(Pane, FeatureUse)>,
}

/// Use of one feature in one pane.
#[derive(Debug, Clone, Default)]
struct FeatureUse {
    usage: Tally,
    /// Indexes of the users, sorted.
    users: Vec<u32>,
}

/// Use of each feature in one pane, as a snapshot stores it: the sums, and the names of the users.
pub type ByFeature = BTreeMap<Name, (Usage, BTreeSet<Name>)>;

impl PartialEq for Adoption {
    /// The order in which names arrived does not count as state.
    fn eq(&self, other: &Self) -> bool {
        type Panes<'a> = BTreeMap<&'a Name, &'a PaneSet>;
        type Uses<'a> = BTreeMap<(&'a Name, Pane), (Usage, BTreeSet<&'a Name>)>;
        fn named(adoption: &Adoption) -> (Panes<'_>, Panes<'_>, Uses<'_>) {
            let mut uses = Uses::new();
            for (name, feature) in adoption.features.iter() {
                uses.extend(feature.open.iter().map(|(pane, of)| {
                    let users = adoption.names(of).collect();
                    ((name, *pane), (of.usage.sums(), users))
                }));
            }
            let features = adoption.features.iter().map(|(name, feature)| (name, &feature.panes));
            (adoption.users.iter().collect(), features.collect(), uses)
        }
        named(self) == named(other)
    }
}

impl Adoption {
    /// Adds a use of a feature in a pane, by a user if the user is known.
    pub fn add(&mut self, pane: Pane, feature: &str, user: Option<&str>, uses: Uses, names: &mut Names) {
        let user = user.map(|user| self.user_at(user, pane));
        let of = self.feature(feature, pane, names).in_pane(pane);
        of.usage.add(uses);
        if let Some(user) = user
            && let Err(at) = of.users.binary_search(&user)
        {
            of.users.insert(at, user);
        }
    }

    /// Records that a user was active in a pane, and returns the user's index.
    fn user_at(&mut self, user: &str, pane: Pane) -> u32 {
        if self.users.at(self.recent as usize).is_none_or(|(name, _)| name.as_str() != user) {
            self.recent = self.users.of_or_new(user, |user| Name::from(user)).0 as u32;
        }
        if let Some(panes) = self.users.at_mut(self.recent as usize) {
            panes.insert(pane);
        }
        self.recent
    }

    /// Records that a feature was used in a pane.
    fn feature(&mut self, feature: &str, pane: Pane, names: &mut Names) -> &mut Feature {
        let (_, feature) = self.features.of_or_new(feature, |name| names.shared(name));
        feature.panes.insert(pane);
        feature
    }

    fn names<'a>(&'a self, of: &'a FeatureUse) -> impl Iterator<Item = &'a Name> {
        of.users.iter().filter_map(|user| self.users.at(*user as usize)).map(|(name, _)| name)
    }

    /// Panes in which each user was active.
    pub fn users(&self) -> impl ExactSizeIterator<Item = &PaneSet> {
        self.users.values()
    }

    /// Whether the account has used a feature.
    pub fn knows_feature(&self, feature: &str) -> bool {
        self.features.of(feature).is_some()
    }

    /// Whether a user was active in the account.
    pub fn knows_user(&self, user: &str) -> bool {
        self.users.of(user).is_some()
    }

    /// The name of a user who was active, as it is kept.
    pub fn name_of(&self, user: &str) -> Option<&Name> {
        let recent = self.users.at(self.recent as usize).map(|(name, _)| name).filter(|name| name.as_str() == user);
        recent.or_else(|| self.users.at(self.users.of(user)?).map(|(name, _)| name))
    }

    /// Panes in which a user was active.
    pub fn user(&self, name: &Name) -> Option<&PaneSet> {
        self.users.get(name)
    }

    /// Names of the features, with the panes in which they were used.
    pub fn features(&self) -> impl ExactSizeIterator<Item = (&str, &PaneSet)> {
        self.features.iter().map(|(name, feature)| (name.as_str(), &feature.panes))
    }

    /// The open panes with use by feature. A pane can appear several times.
    pub fn open_panes(&self) -> impl Iterator<Item = Pane> {
        self.features.values().flat_map(|feature| feature.open.iter().map(|(pane, _)| *pane))
    }

    /// Features used in an open pane, sorted by name: the sums and the number of distinct users. Returns the first
    /// `at_most` features with names greater than `behind`, and one more if there are more. So each part of a very long
    /// list costs one walk, and no sort of the whole list.
    pub fn by_feature(&self, pane: Pane, behind: Option<&str>, at_most: usize) -> Vec<(&str, Usage, usize)> {
        let of_pane = self.in_pane(pane).map(|(name, of)| (name.as_str(), of.usage.sums(), of.users.len()));
        let mut used: Vec<_> = of_pane.filter(|(name, ..)| behind.is_none_or(|behind| *name > behind)).collect();
        if used.len() > at_most.saturating_add(1) {
            used.select_nth_unstable_by_key(at_most, |(name, ..)| *name);
            used.truncate(at_most + 1);
        }
        used.sort_unstable_by_key(|(name, ..)| *name);
        used
    }

    fn in_pane(&self, pane: Pane) -> impl Iterator<Item = (&Name, &FeatureUse)> {
        self.features.iter().filter_map(move |(name, feature)| {
            feature.open.iter().find(|(open, _)| *open == pane).map(|(_, of)| (name, of))
        })
    }

    /// The part of a snapshot for a pane, sorted by name: users, features, and use by feature if the pane is open.
    pub fn of_pane(&self, pane: Pane) -> impl Serialize {
        fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
            let mut items: Vec<T> = items.collect();
            items.sort_unstable();
            items
        }
        let users = sorted(self.users.iter().filter(|(_, panes)| panes.contains(pane)).map(|(name, _)| name));
        let used = self.features.iter().filter(|(_, feature)| feature.panes.contains(pane));
        let features = sorted(used.map(|(name, _)| name));
        let open: BTreeMap<_, _> =
            self.in_pane(pane).map(|(name, of)| (name, (of.usage.sums(), sorted(self.names(of))))).collect();
        (users, features, (!open.is_empty()).then_some(open))
    }

    /// Restores what a snapshot contains for a pane.
    pub fn take_pane(
        &mut self,
        pane: Pane,
        users: &[Name],
        features: &[Name],
        open: Option<ByFeature>,
        names: &mut Names,
    ) {
        for user in users {
            self.user_at(user.as_str(), pane);
        }
        for feature in features {
            self.feature(feature.as_str(), pane, names);
        }
        for (feature, (usage, users)) in open.into_iter().flatten() {
            let mut users: Vec<u32> = users.iter().map(|user| self.user_at(user.as_str(), pane)).collect();
            users.sort_unstable();
            *self.feature(feature.as_str(), pane, names).in_pane(pane) = FeatureUse { usage: Tally::of(usage), users };
        }
    }

    /// Replaces the name of a user.
    pub fn rename(&mut self, user: &str, name: &Name) {
        let Some(from) = self.users.of(user) else { return };
        match self.users.of(name) {
            // The new name is not in use. References use the index, so they stay valid.
            None => self.users.rename(from, name.clone()),
            Some(to) => {
                let panes = self.users.at_mut(from).map(std::mem::take);
                if let Some((into, panes)) = self.users.at_mut(to).zip(panes) {
                    into.extend(&panes);
                }
                self.leave_out_idle(|place| if place == from { to } else { place });
            }
        }
    }

    /// Forgets the use by feature in panes up to `closed`: their final rows are written.
    pub fn close(&mut self, closed: Pane) {
        for feature in self.features.values_mut() {
            feature.open.retain(|(pane, _)| *pane > closed);
            feature.open.shrink_to_fit();
        }
    }

    /// Forgets all panes before `first`, and users and features without any other pane.
    pub fn forget_before(&mut self, first: Pane) {
        self.features.retain(|feature| {
            feature.open.retain(|(pane, _)| *pane >= first);
            feature.panes.forget_before(first);
            !feature.panes.is_empty()
        });
        self.users.values_mut().for_each(|panes| panes.forget_before(first));
        self.leave_out_idle(|place| place);
    }

    /// Removes users without a pane. `moved` maps an old index to the index that replaces it before the removal.
    fn leave_out_idle(&mut self, moved: impl Fn(usize) -> usize) {
        if self.users.values().all(|panes| !panes.is_empty()) {
            return;
        }
        let mut num_left = 0;
        let places: Vec<Option<u32>> = self
            .users
            .values()
            .map(|panes| {
                let place = (!panes.is_empty()).then_some(num_left);
                num_left += u32::from(place.is_some());
                place
            })
            .collect();
        for (_, of) in self.features.values_mut().flat_map(|feature| &mut feature.open) {
            let left = of.users.iter().filter_map(|user| places.get(moved(*user as usize)).copied().flatten());
            let mut users: Vec<u32> = left.collect();
            users.sort_unstable();
            users.dedup();
            of.users = users;
        }
        self.users.retain(|panes| !panes.is_empty());
        self.recent = 0;
    }
}

impl Feature {
    /// Use of the feature in an open pane. Creates it if needed.
    fn in_pane(&mut self, pane: Pane) -> &mut FeatureUse {
        let at = self.open.iter().rposition(|(open, _)| *open == pane).unwrap_or_else(|| {
            self.open.reserve_exact(1);
            self.open.push((pane, FeatureUse::default()));
            self.open.len() - 1
        });
        &mut self.open[at].1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// After any mix of forgetting, closing and renaming, the state equals the state from the remaining events
        /// alone.
        #[test]
        fn what_is_left_is_what_the_events_that_are_left_give(
            steps in prop::collection::vec((0..3_i32, 0..5_u8, 0..6_u8, 0..8_u8), 1..80),
        ) {
            let (mut adoption, mut names, mut left, mut open) = (Adoption::default(), Names::default(), Vec::new(), 0);
            for (ahead, feature, user, then) in steps {
                let (pane, feature, user) = (Pane(open + ahead), format!("f{feature}"), format!("u{user}"));
                adoption.add(pane, &feature, Some(&user), Uses { count: 1, duration_ms: None, errors: None }, &mut names);
                left.push((pane, feature, user.clone()));
                match then {
                    // The open pane closes. Two panes before the new open pane are kept.
                    0 | 1 => {
                        adoption.close(Pane(open));
                        open += 1;
                        adoption.forget_before(Pane(open - 2));
                        left.retain(|(pane, ..)| *pane >= Pane(open - 2));
                    }
                    2 => {
                        adoption.rename(&user, &Name::from("erased"));
                        left.iter_mut().filter(|(.., of)| *of == user).for_each(|(.., of)| *of = "erased".to_owned());
                    }
                    _ => {}
                }
                let mut anew = Adoption::default();
                for (pane, feature, user) in &left {
                    anew.add(*pane, feature, Some(user), Uses { count: 1, duration_ms: None, errors: None }, &mut names);
                }
                anew.close(Pane(open - 1));
                prop_assert_eq!(&adoption, &anew);
            }
        }
    }
}
