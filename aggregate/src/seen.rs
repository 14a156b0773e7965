//! Event ids seen, so that a second sighting is a duplicate.
//!
//! An id is kept as 128 bits of SipHash-2-4 over account and id, under the pane of its latest sighting,
//! until the watermark passes that pane by the allowed lateness. Two ids that differ collide with
//! probability n^2 / 2^129: below 10^-20 at a thousand million ids.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;
use pipeline::pane::Pane;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip128::{Hasher128, SipHasher24};

/// The key of an event within a partition.
pub fn event_key(account_id: &str, event_id: &str) -> u128 {
    use std::hash::Hasher;
    let mut hasher = SipHasher24::new_with_keys(0x6b65_6570_7765_6c6c, 1);
    hasher.write(account_id.as_bytes());
    // 0xff is in no UTF-8 text: account "a" with id "bc" differs from "ab" with "c".
    hasher.write_u8(0xff);
    hasher.write(event_id.as_bytes());
    let hash = hasher.finish128();
    u128::from(hash.h1) << 64 | u128::from(hash.h2)
}

/// The ids of one partition.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    panes: HashMap<u128, Pane, FixedState>,
    ids: BTreeMap<Pane, Vec<u128>>,
}

impl Seen {
    /// The pane under which an id is kept.
    pub fn pane(&self, key: u128) -> Option<Pane> {
        self.panes.get(&key).copied()
    }

    /// Keeps an id under `pane`, or moves it to a later one.
    pub fn insert(&mut self, key: u128, pane: Pane) {
        let kept = self.panes.entry(key).or_insert(Pane(i32::MIN));
        if pane > *kept {
            *kept = pane;
            self.ids.entry(pane).or_default().push(key);
        }
    }

    /// Forgets the ids of all panes for which `is_forgotten` holds, oldest first.
    pub fn forget(&mut self, is_forgotten: impl Fn(Pane) -> bool) {
        while let Some(entry) = self.ids.first_entry().filter(|entry| is_forgotten(*entry.key())) {
            let (pane, keys) = entry.remove_entry();
            for key in keys {
                if self.panes.get(&key) == Some(&pane) {
                    self.panes.remove(&key);
                }
            }
        }
    }

    /// Number of ids kept.
    pub fn len(&self) -> usize {
        self.panes.len()
    }

    /// The same content has one form, whatever its history.
    fn canonical(&self) -> BTreeMap<Pane, Vec<u128>> {
        let mut canonical: BTreeMap<Pane, Vec<u128>> = BTreeMap::new();
        for (key, pane) in &self.panes {
            canonical.entry(*pane).or_default().push(*key);
        }
        canonical.values_mut().for_each(|keys| keys.sort_unstable());
        canonical
    }
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.panes == other.panes
    }
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.canonical().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ids = BTreeMap::<Pane, Vec<u128>>::deserialize(deserializer)?;
        let panes = ids.iter().flat_map(|(pane, keys)| keys.iter().map(|key| (*key, *pane))).collect();
        Ok(Self { panes, ids })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_kept_under_its_latest_sighting_and_forgotten_with_it() {
        let mut seen = Seen::default();
        let key = event_key("acme", "1");
        seen.insert(key, Pane(3));
        seen.insert(key, Pane(5));
        seen.insert(key, Pane(4));
        seen.forget(|pane| pane <= Pane(4));
        assert_eq!(seen.pane(key), Some(Pane(5)));
        seen.forget(|pane| pane <= Pane(5));
        assert_eq!((seen.pane(key), seen.len()), (None, 0));
    }

    #[test]
    fn account_and_id_do_not_run_together() {
        assert_ne!(event_key("a", "bc"), event_key("ab", "c"));
    }
}
