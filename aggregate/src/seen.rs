//! Event ids seen, so that a second sighting is a duplicate.
//!
//! An id is kept as 128 bits of SipHash-2-4 over account and id, under the pane of its latest sighting,
//! until the watermark passes that pane by the allowed lateness. Two ids that differ collide with
//! probability n^2 / 2^129: below 10^-20 at a thousand million ids.

use std::collections::{BTreeMap, HashSet};

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

/// The ids of one partition, pane by pane: what is forgotten gives its memory back at once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    panes: BTreeMap<Pane, Ids>,
}

type Ids = HashSet<u128, FixedState>;

/// Memory of a place in a table: the id and a byte of the table's own. At most 7 of 8 places are taken, and
/// a table that is full doubles: an id needs between 8/7 and 16/7 of it.
const PLACE_BYTES: u64 = 17;

impl Seen {
    /// The pane under which an id is kept.
    pub fn pane(&self, key: u128) -> Option<Pane> {
        self.panes.iter().rev().find(|(_, ids)| ids.contains(&key)).map(|(pane, _)| *pane)
    }

    /// Keeps an id under `pane`, or moves it to a later one.
    pub fn insert(&mut self, key: u128, pane: Pane) {
        match self.pane(key) {
            Some(kept) if kept >= pane => return,
            Some(kept) => {
                if let Some(ids) = self.panes.get_mut(&kept) {
                    ids.remove(&key);
                    // Equal content, equal state.
                    if ids.is_empty() {
                        self.panes.remove(&kept);
                    }
                }
            }
            None => {}
        }
        self.panes.entry(pane).or_default().insert(key);
    }

    /// Forgets the ids of all panes for which `is_forgotten` holds, oldest first.
    pub fn forget(&mut self, is_forgotten: impl Fn(Pane) -> bool) {
        while let Some(entry) = self.panes.first_entry().filter(|entry| is_forgotten(*entry.key())) {
            entry.remove();
        }
    }

    /// Number of ids kept.
    pub fn len(&self) -> usize {
        self.panes.values().map(HashSet::len).sum()
    }

    /// Memory of the tables, in bytes.
    pub fn num_bytes(&self) -> u64 {
        self.panes.values().map(|ids| ids.capacity() as u64 * 8 / 7 * PLACE_BYTES).sum()
    }
}

/// Most memory that so many ids need, in bytes: tables that have just doubled.
pub fn most_bytes(num_ids: u64) -> u64 {
    num_ids * 16 / 7 * PLACE_BYTES
}

impl Serialize for Seen {
    /// The same content has one form, whatever its history.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let sorted = |ids: &Ids| {
            let mut sorted: Vec<u128> = ids.iter().copied().collect();
            sorted.sort_unstable();
            sorted
        };
        let canonical: BTreeMap<Pane, Vec<u128>> = self.panes.iter().map(|(pane, ids)| (*pane, sorted(ids))).collect();
        canonical.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let panes = BTreeMap::<Pane, Vec<u128>>::deserialize(deserializer)?;
        Ok(Self { panes: panes.into_iter().map(|(pane, keys)| (pane, keys.into_iter().collect())).collect() })
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
    fn ids_of_a_pane_need_what_is_said_of_them_and_give_it_back() {
        let mut seen = Seen::default();
        for n in 0..100_000_u32 {
            seen.insert(event_key("acme", &n.to_string()), Pane(0));
        }
        assert!((100_000 * PLACE_BYTES..=most_bytes(100_000)).contains(&seen.num_bytes()), "{}", seen.num_bytes());
        seen.forget(|pane| pane <= Pane(0));
        assert_eq!(seen.num_bytes(), 0);
    }

    #[test]
    fn account_and_id_do_not_run_together() {
        assert_ne!(event_key("a", "bc"), event_key("ab", "c"));
    }
}
