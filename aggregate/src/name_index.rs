//! Values by name. Each name has an index number, which other structures use instead of the name.
//!
//! There are many accounts, and most have few users and features. A few names are kept in a list of exactly their
//! number. Only more names get a hash index. Without the index, a look-up first compares a part of the hash that is
//! stored beside the name. So it does not read names elsewhere in memory for nothing.

use std::hash::BuildHasher;
use std::sync::LazyLock;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use keepwell_core::interned::Name;

/// Up to this number of names is searched one by one.
const LISTED: usize = 8;

/// Values by name. Indexes count from 0 in the order in which the names arrived. They move when a name is removed.
#[derive(Debug, Clone)]
pub struct NameIndex<V> {
    rows: Vec<Row<V>>,
    /// Indexes by hash, if there are more than a few names.
    index: Option<Box<HashTable<u32>>>,
}

#[derive(Debug, Clone)]
struct Row<V> {
    hash: u32,
    name: Name,
    value: V,
}

impl<V> Default for NameIndex<V> {
    fn default() -> Self {
        Self { rows: Vec::new(), index: None }
    }
}

/// Names come from strangers. If the seed were known, anyone could send many names with the same hash.
static SEEDED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

fn hash_of(name: &str) -> u32 {
    SEEDED.hash_one(name) as u32
}

/// A hash table uses the top seven bits of a hash as a tag and the low bits for the position, so the 32 bits are used
/// for both halves.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl<V> NameIndex<V> {
    /// The index of a name.
    pub fn of(&self, name: &str) -> Option<usize> {
        let hash = hash_of(name);
        let is_it = |row: &Row<V>| row.hash == hash && row.name.as_str() == name;
        match &self.index {
            None => self.rows.iter().position(is_it),
            Some(index) => {
                let found = index.find(spread(hash), |place| self.rows.get(*place as usize).is_some_and(is_it));
                found.map(|place| *place as usize)
            }
        }
    }

    /// The index and value of a name. A new name is appended, as `named` creates it.
    pub fn of_or_new(&mut self, name: &str, named: impl FnOnce(&str) -> Name) -> (usize, &mut V)
    where
        V: Default,
    {
        let place = self.of(name).unwrap_or_else(|| self.push(named(name), V::default()));
        (place, &mut self.rows[place].value)
    }

    fn push(&mut self, name: Name, value: V) -> usize {
        let (place, hash) = (self.rows.len(), hash_of(&name));
        if place < LISTED {
            self.rows.reserve_exact(1);
        }
        self.rows.push(Row { hash, name, value });
        match &mut self.index {
            Some(index) => {
                let rows = &self.rows;
                index.insert_unique(spread(hash), place as u32, |place| spread(rows[*place as usize].hash));
            }
            None => self.find_anew(),
        }
        place
    }

    /// Builds the hash index again from the current indexes.
    fn find_anew(&mut self) {
        self.index = (self.rows.len() > LISTED).then(|| {
            let mut index = HashTable::with_capacity(self.rows.len());
            for (place, row) in self.rows.iter().enumerate() {
                index.insert_unique(spread(row.hash), place as u32, |place| spread(self.rows[*place as usize].hash));
            }
            Box::new(index)
        });
    }

    /// The name and value at an index.
    pub fn at(&self, place: usize) -> Option<(&Name, &V)> {
        self.rows.get(place).map(|row| (&row.name, &row.value))
    }

    /// The value at an index.
    pub fn at_mut(&mut self, place: usize) -> Option<&mut V> {
        self.rows.get_mut(place).map(|row| &mut row.value)
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.at(self.of(name)?).map(|(_, value)| value)
    }

    /// Names and values, in the order of their indexes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &V)> {
        self.rows.iter().map(|row| (&row.name, &row.value))
    }

    /// The values, in the order of their indexes.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &V> {
        self.rows.iter().map(|row| &row.value)
    }

    /// Like [`NameIndex::values`], for changes.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.rows.iter_mut().map(|row| &mut row.value)
    }

    /// Keeps the values for which `keeps` is true. Those after a removed one move up.
    pub fn retain(&mut self, mut keeps: impl FnMut(&mut V) -> bool) {
        let before = self.rows.len();
        self.rows.retain_mut(|row| keeps(&mut row.value));
        if self.rows.len() < before {
            self.rows.shrink_to_fit();
            self.find_anew();
        }
    }

    /// Replaces the name at an index by a name that is not yet known.
    pub fn rename(&mut self, place: usize, name: Name) {
        if let Some(row) = self.rows.get_mut(place) {
            (row.hash, row.name) = (hash_of(&name), name);
            self.find_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// It behaves like a list, with few or many names and any mix of adding, removing and renaming.
        #[test]
        fn a_name_is_found_where_a_list_of_all_has_it(
            steps in prop::collection::vec((0..40_u8, 0..12_u8), 1..120),
        ) {
            let (mut places, mut list) = (NameIndex::default(), Vec::<(String, u8)>::new());
            for (number, then) in steps {
                let name = format!("n{number}");
                match then {
                    0 => {
                        places.retain(|value| *value % 3 != number % 3);
                        list.retain(|(_, value)| *value % 3 != number % 3);
                    }
                    1 if !list.is_empty() => {
                        let (place, new) = (usize::from(number) % list.len(), format!("new{}", list.len()));
                        if places.of(&new).is_none() {
                            places.rename(place, Name::from(new.as_str()));
                            list[place].0 = new;
                        }
                    }
                    _ => {
                        let known = list.iter().position(|(known, _)| *known == name);
                        let (place, value) = places.of_or_new(&name, |name| Name::from(name));
                        *value = then;
                        prop_assert_eq!(place, known.unwrap_or(list.len()));
                        match known {
                            Some(known) => list[known].1 = then,
                            None => list.push((name, then)),
                        }
                    }
                }
                for (place, (name, value)) in list.iter().enumerate() {
                    prop_assert_eq!(places.of(name), Some(place));
                    prop_assert_eq!(places.get(name), Some(value));
                }
                let all: Vec<_> = places.iter().map(|(name, value)| (name.to_string(), *value)).collect();
                prop_assert_eq!(&all, &list);
            }
        }
    }
}
