//! A set of panes: the panes in which a user or a feature was active. It is exact for every trailing window.

use keepwell_core::pane::Pane;
use serde::Deserialize;

const BITS: i32 = 64;

/// A set of panes as sparse 64-bit blocks. The newest block is stored inline, because nearly every event uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<(i32, u64)>")]
pub struct PaneSet {
    /// Number and bits of the newest block. No bits mean that the set is empty.
    newest: (i32, u64),
    /// The other blocks, oldest first, each with at least one bit.
    older: Box<[(i32, u64)]>,
}

impl From<Vec<(i32, u64)>> for PaneSet {
    /// A set from blocks, oldest first.
    fn from(mut blocks: Vec<(i32, u64)>) -> Self {
        let newest = blocks.pop().unwrap_or_default();
        Self { newest, older: blocks.into() }
    }
}

impl PaneSet {
    /// Adds a pane.
    pub fn insert(&mut self, pane: Pane) {
        self.add(pane.0.div_euclid(BITS), 1 << pane.0.rem_euclid(BITS));
    }

    /// Adds all panes of another set.
    pub fn extend(&mut self, other: &Self) {
        other.blocks().for_each(|(block, bits)| self.add(block, bits));
    }

    fn add(&mut self, block: i32, bits: u64) {
        if self.newest.0 == block || self.is_empty() {
            self.newest = (block, self.newest.1 | bits);
        } else if self.newest.0 < block {
            let passed = std::mem::replace(&mut self.newest, (block, bits));
            self.with_older(|older| older.push(passed));
        } else {
            match self.older.binary_search_by_key(&block, |(known, _)| *known) {
                Ok(at) => self.older[at].1 |= bits,
                Err(at) => self.with_older(|older| older.insert(at, (block, bits))),
            }
        }
    }

    fn with_older(&mut self, change: impl FnOnce(&mut Vec<(i32, u64)>)) {
        let mut older = std::mem::take(&mut self.older).into_vec();
        change(&mut older);
        self.older = older.into();
    }

    fn blocks(&self) -> impl Iterator<Item = (i32, u64)> {
        self.older.iter().copied().chain((!self.is_empty()).then_some(self.newest))
    }

    /// Whether a pane is in the set.
    pub fn contains(&self, pane: Pane) -> bool {
        self.intersects(pane, pane.next())
    }

    /// Number of panes of `[from, to)` that are in the set.
    pub fn count(&self, from: Pane, to: Pane) -> u32 {
        self.blocks().map(|(block, bits)| (bits & mask(block, from, to)).count_ones()).sum()
    }

    /// Whether any pane of `[from, to)` is in the set.
    pub fn intersects(&self, from: Pane, to: Pane) -> bool {
        self.blocks().any(|(block, bits)| bits & mask(block, from, to) != 0)
    }

    /// Removes all panes before `first`.
    pub fn forget_before(&mut self, first: Pane) {
        let oldest = self.older.first().unwrap_or(&self.newest).0;
        if oldest * BITS < first.0 {
            let kept = |(block, bits): (i32, u64)| (block, bits & mask(block, first, Pane(i32::MAX)));
            self.older.iter_mut().for_each(|block| *block = kept(*block));
            if self.older.first().is_some_and(|(_, bits)| *bits == 0) {
                self.with_older(|older| older.retain(|(_, bits)| *bits != 0));
            }
            self.newest = kept(self.newest);
            if self.is_empty() {
                *self = Self::default();
            }
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.newest.1 == 0
    }
}
/// The bits of `block` that are in `[from, to)`.
fn mask(block: i32, from: Pane, to: Pane) -> u64 {
    let clamp = |pane: Pane| (i64::from(pane.0) - i64::from(block) * i64::from(BITS)).clamp(0, i64::from(BITS)) as u32;
    let below = |bit: u32| if bit == 64 { u64::MAX } else { (1 << bit) - 1 };
    below(clamp(to)) & !below(clamp(from))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_panes(panes in prop::collection::vec(-200..400i32, 0..60), from in -250..450i32, len in 0..300i32, cut in -250..450i32) {
            let mut set = PaneSet::default();
            let mut model = BTreeSet::new();
            for pane in panes {
                set.insert(Pane(pane));
                model.insert(pane);
            }
            let count = |model: &BTreeSet<i32>| model.range(from..from + len).count() as u32;
            prop_assert_eq!(set.count(Pane(from), Pane(from + len)), count(&model));
            prop_assert_eq!(set.intersects(Pane(from), Pane(from + len)), count(&model) > 0);
            // The sum of the set and of its later panes must be the set itself.
            let mut later = set.clone();
            later.forget_before(Pane(cut));
            let mut sum = PaneSet::default();
            [&later, &set, &later].into_iter().for_each(|part| sum.extend(part));
            prop_assert_eq!(&sum, &set);
            set.forget_before(Pane(cut));
            model.retain(|pane| *pane >= cut);
            prop_assert_eq!(set.count(Pane(from), Pane(from + len)), count(&model));
            prop_assert_eq!(set.is_empty(), model.is_empty());
        }
    }
}
