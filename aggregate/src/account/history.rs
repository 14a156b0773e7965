//! A value over event time: the last one told wins, whatever the order of arrival.

use serde::{Deserialize, Serialize};

use pipeline::name::Name;

/// One telling of a value. Ordered by event time, then by event id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version<T> {
    /// Event time, UTC microseconds.
    pub at_us: i64,
    /// Event id; decides between equal times.
    pub event_id: Name,
    /// The value.
    pub value: T,
}

/// All tellings that may still matter, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History<T> {
    versions: Vec<Version<T>>,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self { versions: Vec::new() }
    }
}

impl<T> History<T> {
    /// Adds a telling in its order; the same event told again replaces itself.
    pub fn insert(&mut self, version: Version<T>) {
        let key = |v: &Version<T>| (v.at_us, v.event_id.clone());
        match self.versions.binary_search_by_key(&key(&version), key) {
            Ok(at) => self.versions[at] = version,
            Err(at) => self.versions.insert(at, version),
        }
    }

    /// The tellings after `floor_us` and before `end_us`, oldest first.
    pub fn between(&self, floor_us: i64, end_us: i64) -> &[Version<T>] {
        let from = self.versions.partition_point(|version| version.at_us <= floor_us);
        let to = self.versions.partition_point(|version| version.at_us < end_us);
        self.versions.get(from..to).unwrap_or_default()
    }

    /// The value as of `end_us` (exclusive), told after `floor_us`.
    pub fn as_of(&self, floor_us: i64, end_us: i64) -> Option<&T> {
        self.between(floor_us, end_us).last().map(|version| &version.value)
    }

    /// Forgets what is superseded before `end_us`: the last telling before it stays.
    pub fn settle(&mut self, end_us: i64) {
        let settled = self.versions.partition_point(|version| version.at_us < end_us);
        if settled > 1 {
            self.versions.drain(..settled - 1);
        }
    }

    /// Forgets everything told at or before `floor_us`.
    pub fn erase(&mut self, floor_us: i64) {
        self.versions.retain(|version| version.at_us > floor_us);
    }

    /// Forgets everything told at or before `floor_us` but what must stay.
    pub fn erase_unless(&mut self, floor_us: i64, stays: impl Fn(&T) -> bool) {
        self.versions.retain(|version| version.at_us > floor_us || stays(&version.value));
    }

    /// Takes in all that another holds.
    pub fn absorb(&mut self, other: Self) {
        other.versions.into_iter().for_each(|version| self.insert(version));
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }
}
