//! State by account id: one account is found by hash, all are visited in the order of their ids.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeBounds;

use foldhash::fast::RandomState;
use serde::{Deserialize, Deserializer};

use crate::interned::Name;

/// A map by account id. It has no order.
pub type ById<A> = HashMap<Name, A, RandomState>;

/// The accounts of a partition, with the state of each.
#[derive(Debug, Clone)]
pub struct Accounts<A> {
    by_id: ById<u32>,
    /// All ids, sorted.
    ids: BTreeMap<Name, u32>,
    /// Boxed, so that a growing list moves only pointers. None: free.
    slots: Vec<Option<Box<A>>>,
    free: Vec<u32>,
}

impl<A: PartialEq> PartialEq for Accounts<A> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<A> Default for Accounts<A> {
    fn default() -> Self {
        Self { by_id: ById::default(), ids: BTreeMap::new(), slots: Vec::new(), free: Vec::new() }
    }
}

impl<A> Accounts<A> {
    fn slot(&self, slot: u32) -> Option<&A> {
        self.slots.get(slot as usize).and_then(Option::as_deref)
    }

    /// The account with this id.
    pub fn get(&self, id: &str) -> Option<&A> {
        self.slot(*self.by_id.get(id)?)
    }

    /// Like [`Accounts::get`], for changing the account.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut A> {
        self.slots.get_mut(*self.by_id.get(id)? as usize).and_then(Option::as_deref_mut)
    }

    /// The account with this id. A new one is added if none exists.
    pub fn get_or_new(&mut self, id: &Name) -> &mut A
    where
        A: Default,
    {
        let slot = match self.by_id.get(id) {
            Some(slot) => *slot,
            None => self.place(id.clone()),
        };
        self.slots[slot as usize].get_or_insert_default()
    }

    fn place(&mut self, id: Name) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.ids.insert(id.clone(), slot);
        self.by_id.insert(id, slot);
        slot
    }

    /// Adds an account, or replaces the one with its id.
    pub fn insert(&mut self, id: Name, account: A) {
        match self.by_id.get(&id) {
            Some(slot) => match &mut self.slots[*slot as usize] {
                Some(known) => **known = account,
                free => *free = Some(Box::new(account)),
            },
            None => {
                let slot = self.place(id);
                self.slots[slot as usize] = Some(Box::new(account));
            }
        }
    }

    /// The stored id of a known account. Cloning it saves an allocation.
    pub fn id(&self, id: &str) -> Option<&Name> {
        self.by_id.get_key_value(id).map(|(id, _)| id)
    }

    /// Removes an account.
    pub fn remove(&mut self, id: &Name) {
        if let Some(slot) = self.by_id.remove(id) {
            self.ids.remove(id);
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }

    /// Whether there are no accounts.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Number of accounts.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All accounts, in no order.
    pub fn values(&self) -> impl Iterator<Item = &A> {
        self.slots.iter().filter_map(Option::as_deref)
    }

    /// All accounts, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &A)> {
        self.range(..)
    }

    /// Accounts with ids in a range, in the order of their ids.
    pub fn range(&self, ids: impl RangeBounds<Name>) -> impl Iterator<Item = (&Name, &A)> {
        self.ids.range(ids).filter_map(|(id, slot)| self.slot(*slot).map(|account| (id, account)))
    }

    /// Calls `each` for accounts with ids in a range, in the order of their ids.
    pub fn for_each_mut(&mut self, ids: impl RangeBounds<Name>, mut each: impl FnMut(&mut A)) {
        for (_, slot) in self.ids.range(ids) {
            if let Some(account) = self.slots.get_mut(*slot as usize).and_then(Option::as_deref_mut) {
                each(account);
            }
        }
    }
}

impl<'de, A: Deserialize<'de>> Deserialize<'de> for Accounts<A> {
    /// The format of the first versions: a map.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut accounts = Self::default();
        for (id, account) in BTreeMap::<Name, A>::deserialize(deserializer)? {
            accounts.insert(id, account);
        }
        Ok(accounts)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    use super::*;

    /// With one known seed, an attacker can make many ids that collide: 40,000 of them took 39 s instead of 0.3 s.
    #[test]
    fn no_two_maps_hash_an_id_alike() {
        let hashes: BTreeSet<u64> = (0..8).map(|_| ById::<()>::default().hasher().hash_one("acme")).collect();
        assert_eq!(hashes.len(), 8);
    }

    #[test]
    fn accounts_that_come_and_go_are_those_of_a_sorted_map() {
        let (mut accounts, mut expected) = (Accounts::<u64>::default(), BTreeMap::<Name, u64>::new());
        for step in 0..2000 {
            let random = foldhash::quality::FixedState::with_seed(7).hash_one(step);
            let id = Name::from(format!("a{}", random % 40).as_str());
            match random / 40 % 4 {
                0 => {
                    accounts.insert(id.clone(), step);
                    expected.insert(id, step);
                }
                1 => {
                    accounts.remove(&id);
                    expected.remove(&id);
                }
                2 => *accounts.get_or_new(&id) = *expected.entry(id.clone()).or_default(),
                _ => {
                    accounts.for_each_mut(id.clone().., |account| *account += 1);
                    expected.range_mut(id..).for_each(|(_, account)| *account += 1);
                }
            }
            assert!(accounts.iter().eq(expected.iter()), "step {step}");
            assert_eq!((accounts.len(), accounts.values().count()), (expected.len(), expected.len()));
            assert!(expected.iter().all(|(id, account)| accounts.get(id.as_str()) == Some(account)));
        }
    }
}
