//! Accounts by id: one is found by hash, all are walked in the order of their ids.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeBounds;

use foldhash::fast::FixedState;
use serde::{Deserialize, Deserializer};

use crate::account::Account;
use crate::name::Name;

/// The accounts of a partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accounts {
    /// Boxed: a table that grows moves pointers.
    by_id: HashMap<Name, Box<Account>, FixedState>,
    /// The ids, in order.
    ids: BTreeSet<Name>,
}

impl Accounts {
    /// The account with this id.
    pub fn get(&self, id: &str) -> Option<&Account> {
        self.by_id.get(id).map(Box::as_ref)
    }

    /// As [`Accounts::get`].
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Account> {
        self.by_id.get_mut(id).map(Box::as_mut)
    }

    /// The account with this id, an empty one where it is new.
    pub fn get_or_new(&mut self, id: &Name) -> &mut Account {
        if !self.by_id.contains_key(id) {
            self.ids.insert(id.clone());
        }
        self.by_id.entry(id.clone()).or_default()
    }

    /// Puts an account in the place of the one with its id.
    pub fn insert(&mut self, id: Name, account: Account) {
        *self.get_or_new(&id) = account;
    }

    /// Forgets an account.
    pub fn remove(&mut self, id: &Name) {
        self.by_id.remove(id);
        self.ids.remove(id);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// All of them, in no order.
    pub fn values(&self) -> impl Iterator<Item = &Account> {
        self.by_id.values().map(Box::as_ref)
    }

    /// Those whose ids lie in a range, by id.
    pub fn range(&self, ids: impl RangeBounds<Name>) -> impl Iterator<Item = (&Name, &Account)> {
        self.ids.range(ids).filter_map(|id| self.get(id.as_str()).map(|account| (id, account)))
    }

    /// Hands out those whose ids lie in a range, by id.
    pub fn for_each_mut(&mut self, ids: impl RangeBounds<Name>, mut each: impl FnMut(&mut Account)) {
        for id in self.ids.range(ids) {
            if let Some(account) = self.by_id.get_mut(id) {
                each(account);
            }
        }
    }
}

impl<'de> Deserialize<'de> for Accounts {
    /// The form of version 2: a map.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut accounts = Self::default();
        for (id, account) in BTreeMap::<Name, Account>::deserialize(deserializer)? {
            accounts.insert(id, account);
        }
        Ok(accounts)
    }
}
