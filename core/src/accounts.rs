//! State by account id: one account is found by hash, all are visited in the order of their ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeBounds;

use foldhash::fast::RandomState;
use serde::{Deserialize, Deserializer};

use crate::interned::Name;

/// A map by account id. It has no order.
pub type ById<A> = HashMap<Name, A, RandomState>;

/// The accounts of a partition, with the state of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Accounts<A> {
    /// Boxed, so that a growing table moves only pointers.
    by_id: ById<Box<A>>,
    /// All ids, sorted.
    ids: BTreeSet<Name>,
}

impl<A> Default for Accounts<A> {
    fn default() -> Self {
        Self { by_id: ById::default(), ids: BTreeSet::new() }
    }
}

impl<A> Accounts<A> {
    /// The account with this id.
    pub fn get(&self, id: &str) -> Option<&A> {
        self.by_id.get(id).map(Box::as_ref)
    }

    /// Like [`Accounts::get`], for changing the account.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut A> {
        self.by_id.get_mut(id).map(Box::as_mut)
    }

    /// The account with this id. A new one is added if none exists.
    pub fn get_or_new(&mut self, id: &Name) -> &mut A
    where
        A: Default,
    {
        if !self.by_id.contains_key(id) {
            self.ids.insert(id.clone());
        }
        self.by_id.entry(id.clone()).or_default()
    }

    /// Adds an account, or replaces the one with its id.
    pub fn insert(&mut self, id: Name, account: A) {
        match self.by_id.get_mut(&id) {
            Some(known) => **known = account,
            None => {
                self.ids.insert(id.clone());
                self.by_id.insert(id, Box::new(account));
            }
        }
    }

    /// The stored id of a known account. Cloning it saves an allocation.
    pub fn id(&self, id: &str) -> Option<&Name> {
        self.by_id.get_key_value(id).map(|(id, _)| id)
    }

    /// Removes an account.
    pub fn remove(&mut self, id: &Name) {
        self.by_id.remove(id);
        self.ids.remove(id);
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
        self.by_id.values().map(Box::as_ref)
    }

    /// All accounts, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &A)> {
        self.range(..)
    }

    /// Accounts with ids in a range, in the order of their ids.
    pub fn range(&self, ids: impl RangeBounds<Name>) -> impl Iterator<Item = (&Name, &A)> {
        self.ids.range(ids).filter_map(|id| self.get(id.as_str()).map(|account| (id, account)))
    }

    /// Calls `each` for accounts with ids in a range, in the order of their ids.
    pub fn for_each_mut(&mut self, ids: impl RangeBounds<Name>, mut each: impl FnMut(&mut A)) {
        for id in self.ids.range(ids) {
            if let Some(account) = self.by_id.get_mut(id) {
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
    use std::hash::BuildHasher;

    use super::*;

    /// With one known seed, an attacker can make many ids that collide: 40,000 of them took 39 s instead of 0.3 s.
    #[test]
    fn no_two_maps_hash_an_id_alike() {
        let hashes: BTreeSet<u64> = (0..8).map(|_| ById::<()>::default().hasher().hash_one("acme")).collect();
        assert_eq!(hashes.len(), 8);
    }
}
