//! Known event ids, so that an event that comes a second time is a duplicate.
//!
//! An id is stored as 128 bits of SipHash-2-4 over account, kind and id. It is kept under the pane in which it was last
//! observed, until the watermark passes that pane by the allowed lateness. Two different ids collide with probability
//! n^2 / 2^129: below 10^-20 for 10^9 ids.

use std::collections::{BTreeMap, HashSet};

use foldhash::fast::RandomState;
use keepwell_core::event::Kind;
use keepwell_core::pane::Pane;
use keepwell_pipeline::snapshot::parts::{Part, Parts, SavedRevisions, SnapshotBytes};
use siphasher::sip128::{Hasher128, SipHasher24};

/// The key of an event within a partition. It contains the kind, because two source systems may both count from 1.
pub fn event_key(account_id: &str, kind: Kind, event_id: &str) -> u128 {
    use std::hash::Hasher;
    let mut hasher = SipHasher24::new_with_keys(0x6b65_6570_7765_6c6c, 1);
    hasher.write(account_id.as_bytes());
    // 0xff never occurs in UTF-8 text: account "a" with id "bc" differs from "ab" with "c".
    hasher.write_u8(0xff);
    // Most ids are usage ids. They keep the keys from the time before keys contained the kind.
    if kind != Kind::Usage {
        hasher.write_u8(kind.code());
        hasher.write_u8(0xff);
    }
    hasher.write(event_id.as_bytes());
    let hash = hasher.finish128();
    u128::from(hash.h1) << 64 | u128::from(hash.h2)
}

/// The ids of one partition, pane by pane. Forgetting a pane frees its memory at once.
#[derive(Debug, Clone)]
pub struct EventIds {
    panes: BTreeMap<Pane, Ids>,
    /// Number of ids in a full part.
    part_ids: usize,
    /// Number of changes since the restore. It gives each change its own revision, even if a pane becomes empty and
    /// fills again.
    count: u64,
}

impl Default for EventIds {
    fn default() -> Self {
        Self { panes: BTreeMap::new(), part_ids: PART_IDS, count: 0 }
    }
}

/// The ids of one pane, and how they are divided into parts for snapshots.
#[derive(Debug, Clone, Default)]
struct Ids {
    table: HashSet<u128, RandomState>,
    /// Revisions of the full parts.
    full: Vec<u64>,
    /// Ids of full parts that no snapshot contains yet, by part number.
    held: BTreeMap<usize, Vec<u128>>,
    /// Ids that are in no full part yet, in the order of arrival.
    open: Vec<u128>,
    /// Ids that have moved to a later pane. This list saves writing their full parts again.
    gone: Vec<u128>,
    /// Revision of `open` and `gone`.
    revision: u64,
}

impl PartialEq for EventIds {
    /// How the ids are divided into parts does not count as state.
    fn eq(&self, other: &Self) -> bool {
        self.panes
            .iter()
            .map(|(pane, ids)| (pane, &ids.table))
            .eq(other.panes.iter().map(|(pane, ids)| (pane, &ids.table)))
    }
}

/// Memory of one slot of a table in bytes: the id, and one byte for the table itself. At most 7 of 8 slots are used,
/// and a full table doubles. So an id needs between 8/7 and 16/7 of this.
const PLACE_BYTES: u64 = 17;
/// Number of ids in a full part: 16 MiB.
const PART_IDS: usize = 1 << 20;

impl Ids {
    fn insert(&mut self, key: u128, part_ids: usize, revision: u64) {
        self.table.insert(key);
        self.open.push(key);
        self.revision = revision;
        if self.open.len() >= part_ids {
            self.held.insert(self.full.len(), std::mem::take(&mut self.open));
            self.full.push(revision);
        }
    }
}

impl EventIds {
    /// The pane under which an id is kept.
    pub fn pane(&self, key: u128) -> Option<Pane> {
        self.panes.iter().rev().find(|(_, ids)| ids.table.contains(&key)).map(|(pane, _)| *pane)
    }

    /// The panes under which these ids are kept, in the order of `keys`. The search goes pane by pane, so that look-ups
    /// in one table do not wait for each other.
    pub fn panes(&self, keys: &[u128]) -> Vec<Option<Pane>> {
        let mut found = vec![None; keys.len()];
        for (pane, ids) in &self.panes {
            for (key, found) in keys.iter().zip(&mut found) {
                if ids.table.contains(key) {
                    *found = Some(*pane);
                }
            }
        }
        found
    }

    /// Keeps an id under `pane`, or moves it there if `pane` is later than the present one.
    pub fn insert(&mut self, key: u128, pane: Pane) {
        self.remember(key, pane, self.pane(key));
    }

    /// Like [`EventIds::insert`], for an id that is now kept under `before`.
    pub fn remember(&mut self, key: u128, pane: Pane, before: Option<Pane>) {
        if before.is_some_and(|kept| kept >= pane) {
            return;
        }
        self.count += 1;
        if let Some(kept) = before
            && let Some(ids) = self.panes.get_mut(&kept)
        {
            ids.table.remove(&key);
            ids.gone.push(key);
            ids.revision = self.count;
            // Remove the empty pane, so that equal content gives equal state.
            if ids.table.is_empty() {
                self.panes.remove(&kept);
            }
        }
        self.panes.entry(pane).or_default().insert(key, self.part_ids, self.count);
    }

    /// Forgets panes from the oldest on, as long as `is_forgotten` holds.
    pub fn forget(&mut self, is_forgotten: impl Fn(Pane) -> bool) {
        while let Some(entry) = self.panes.first_entry().filter(|entry| is_forgotten(*entry.key())) {
            entry.remove();
        }
    }

    /// Number of ids in all panes.
    pub fn len(&self) -> usize {
        self.panes.values().map(|ids| ids.table.len()).sum()
    }

    /// Memory of the tables, in bytes. In addition, each pane buffers 16 bytes per id for parts that are not full, and
    /// for full parts until the next snapshot.
    pub fn num_bytes(&self) -> u64 {
        self.panes.values().map(|ids| ids.table.capacity() as u64 * 8 / 7 * PLACE_BYTES).sum()
    }

    /// Adds the parts of the ids to a snapshot. Parts with a revision in `known` are added without bytes.
    pub fn parts(&self, known: &SavedRevisions, parts: &mut Parts) {
        for (pane, ids) in &self.panes {
            for (number, revision) in ids.full.iter().enumerate() {
                let name = format!("{PREFIX}{}-{number}", pane.0);
                let bytes =
                    ids.held.get(&number).filter(|_| known.get(&name) != Some(revision)).map(|keys| bytes(keys));
                parts.insert(name, Part::Settled { revision: *revision, bytes });
            }
            for (part, keys) in [(OPEN, &ids.open), (GONE, &ids.gone)] {
                let (name, revision) = (format!("{PREFIX}{}-{part}", pane.0), ids.revision);
                let bytes = (known.get(&name) != Some(&revision)).then(|| bytes(keys));
                if !keys.is_empty() {
                    parts.insert(name, Part::Settled { revision, bytes });
                }
            }
        }
    }

    /// Frees the buffered ids of full parts that a snapshot now contains.
    pub fn saved(&mut self, known: &SavedRevisions) {
        for (pane, ids) in &mut self.panes {
            let full = &ids.full;
            ids.held.retain(|number, _| known.get(&format!("{PREFIX}{}-{number}", pane.0)) != full.get(*number));
        }
    }

    /// Restores the ids from the parts of a snapshot.
    ///
    /// # Errors
    /// When the name of an id part is not valid, or a part ends within an id. The message names the part.
    pub fn restored(whole: &SnapshotBytes) -> Result<Self, String> {
        let mut event_ids = Self::default();
        for (name, bytes) in whole {
            let Some((pane, part)) = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit_once('-')) else { continue };
            let wrong = |_| format!("part {name} is none of ids");
            if bytes.len() % 16 != 0 {
                return Err(format!("part {name} ends within an id"));
            }
            let ids = event_ids.panes.entry(Pane(pane.parse().map_err(wrong)?)).or_default();
            let keys = bytes.chunks_exact(16).map(|key| key.iter().rfold(0, |id, byte| id << 8 | u128::from(*byte)));
            match part {
                GONE => ids.gone = keys.collect(),
                OPEN => ids.open = keys.collect(),
                number => {
                    ids.full.resize(ids.full.len().max(1 + number.parse::<usize>().map_err(wrong)?), 0);
                    ids.table.extend(keys);
                }
            }
        }
        for ids in event_ids.panes.values_mut() {
            ids.table.extend(&ids.open);
            for key in &ids.gone {
                ids.table.remove(key);
            }
        }
        Ok(event_ids)
    }
}

/// Names of id parts: this prefix, the pane, `-`, then the number of a full part or one of the two words below.
const PREFIX: &str = "ids-";
const OPEN: &str = "open";
const GONE: &str = "gone";

fn bytes(keys: &[u128]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.to_le_bytes()).collect()
}

/// The most memory in bytes that this number of ids can need: tables that have just doubled.
pub fn most_bytes(num_ids: u64) -> u64 {
    num_ids * 16 / 7 * PLACE_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_kept_under_its_latest_sighting_and_forgotten_with_it() {
        let mut event_ids = EventIds::default();
        let key = event_key("acme", Kind::Usage, "1");
        event_ids.insert(key, Pane(3));
        event_ids.insert(key, Pane(5));
        event_ids.insert(key, Pane(4));
        event_ids.forget(|pane| pane <= Pane(4));
        assert_eq!(event_ids.pane(key), Some(Pane(5)));
        event_ids.forget(|pane| pane <= Pane(5));
        assert_eq!((event_ids.pane(key), event_ids.len()), (None, 0));
    }

    #[test]
    fn ids_of_a_pane_need_what_is_said_of_them_and_give_it_back() {
        let mut event_ids = EventIds::default();
        for n in 0..100_000_u32 {
            event_ids.insert(event_key("acme", Kind::Usage, &n.to_string()), Pane(0));
        }
        assert!(
            (100_000 * PLACE_BYTES..=most_bytes(100_000)).contains(&event_ids.num_bytes()),
            "{}",
            event_ids.num_bytes()
        );
        event_ids.forget(|pane| pane <= Pane(0));
        assert_eq!(event_ids.num_bytes(), 0);
    }

    #[test]
    fn account_and_id_do_not_run_together() {
        assert_ne!(event_key("a", Kind::Usage, "bc"), event_key("ab", Kind::Usage, "c"));
        assert_ne!(event_key("a", Kind::Usage, "1"), event_key("a", Kind::Survey, "1"));
    }

    #[test]
    fn a_full_piece_is_written_once_and_what_is_restored_is_what_was_saved() {
        let mut event_ids = EventIds { part_ids: 10, ..EventIds::default() };
        let mut saved = SnapshotBytes::new();
        let mut known = SavedRevisions::new();
        let mut num_written = 0;
        for n in 0..100_u32 {
            event_ids.insert(event_key("acme", Kind::Usage, &n.to_string()), Pane(-1));
            // Every third id comes again, some panes later.
            if n % 3 == 0 {
                event_ids.insert(event_key("acme", Kind::Usage, &n.to_string()), Pane(5));
            }
            if n % 7 == 0 {
                let mut parts = Parts::new();
                event_ids.parts(&known, &mut parts);
                saved.retain(|name, _| parts.contains_key(name));
                known.clear();
                for (name, part) in parts {
                    let Part::Settled { revision, bytes } = part else { panic!("{name} changes") };
                    known.insert(name.clone(), revision);
                    if let Some(bytes) = bytes {
                        num_written += usize::from(!name.ends_with(OPEN) && !name.ends_with(GONE));
                        saved.insert(name, bytes);
                    }
                }
                event_ids.saved(&known);
                let restored = EventIds { part_ids: 10, ..EventIds::restored(&saved).unwrap() };
                assert_eq!(restored, event_ids);
                // The run goes on from the restored state.
                event_ids = restored;
                known.values_mut().for_each(|revision| *revision = 0);
            }
        }
        assert_eq!((num_written, event_ids.len()), (9 + 3, 100));
        assert!(EventIds::restored(&SnapshotBytes::from([("ids-x-1".to_owned(), Vec::new())])).is_err());
    }

    /// Writes a snapshot over the saved parts, with only the parts that `known` does not have. Then updates `known`.
    fn save(event_ids: &mut EventIds, saved: &mut SnapshotBytes, known: &mut SavedRevisions) {
        let mut parts = Parts::new();
        event_ids.parts(known, &mut parts);
        saved.retain(|name, _| parts.contains_key(name));
        known.clear();
        for (name, part) in parts {
            let Part::Settled { revision, bytes } = part else { panic!("{name} changes") };
            known.insert(name.clone(), revision);
            saved.extend(bytes.map(|bytes| (name, bytes)));
        }
        event_ids.saved(known);
    }

    proptest! {
        /// Ids come, move and are forgotten between snapshots. A pane may also become empty and fill again.
        #[test]
        fn whatever_was_saved_is_what_is_restored(
            steps in prop::collection::vec((0..12_u32, 0..3_i32, 0..6_u8), 1..60),
        ) {
            let of = |event_ids: EventIds| EventIds { part_ids: 3, ..event_ids };
            let (mut event_ids, mut saved, mut known) = (of(EventIds::default()), SnapshotBytes::new(), SavedRevisions::new());
            for (id, pane, then) in steps {
                event_ids.insert(event_key("acme", Kind::Usage, &id.to_string()), Pane(pane));
                match then {
                    0 | 1 => save(&mut event_ids, &mut saved, &mut known),
                    2 => event_ids.forget(|pane| pane <= Pane(0)),
                    3 => {
                        save(&mut event_ids, &mut saved, &mut known);
                        event_ids = of(EventIds::restored(&saved).unwrap());
                        known.values_mut().for_each(|revision| *revision = 0);
                    }
                    _ => {}
                }
                let (mut now, mut after, mut known) = (event_ids.clone(), saved.clone(), known.clone());
                save(&mut now, &mut after, &mut known);
                prop_assert_eq!(of(EventIds::restored(&after).unwrap()), event_ids.clone());
            }
        }
    }
}
