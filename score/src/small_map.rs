//! A map for a few values by name.

use std::collections::BTreeMap;

use keepwell_core::interned::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Values by name, for about a dozen names at most. They are a sorted list, so that an account takes little memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmallMap<T>(Vec<(Name, T)>);

impl<T> Default for SmallMap<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> SmallMap<T> {
    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a name.
    pub fn get(&self, name: &Name) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Inserts a value, or replaces the one with the same name.
    pub fn insert(&mut self, name: Name, value: T) {
        match self.0.binary_search_by(|(known, _)| known.cmp(&name)) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (name, value)),
        }
    }

    /// All names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &T)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl<T: Serialize> Serialize for SmallMap<T> {
    /// Written as a map.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for SmallMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(BTreeMap::deserialize(deserializer)?.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_name_replaced_and_written_as_an_ordered_map() {
        let mut values = SmallMap::default();
        for (name, value) in [("b", 1), ("c", 2), ("a", 3), ("b", 4)] {
            values.insert(Name::from(name), value);
        }
        assert_eq!(
            ["a", "b", "c", "d"].map(|name| values.get(&Name::from(name)).copied()),
            [Some(3), Some(4), Some(2), None]
        );
        let bytes = postcard::to_stdvec(&values).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&BTreeMap::from([("b", 4), ("c", 2), ("a", 3)])).unwrap());
        assert_eq!(postcard::from_bytes::<SmallMap<i32>>(&bytes).unwrap(), values);
    }
}
