//! A value over event time: the version with the latest event time wins, whatever the order of arrival.

use std::cmp::Ordering;

use keepwell_core::event::Outcome;
use keepwell_core::interned::Name;
use keepwell_core::natural::natural;
use serde::{Deserialize, Deserializer, Serialize};

/// A value that events change again and again.
pub trait Ordered {
    /// Rank among versions of the same event time. A step that can only follow another has the higher rank.
    fn step(&self) -> u8 {
        0
    }
}

impl Ordered for Outcome {}

/// One version of a value. Versions are ordered by event time, then by `step`, then by event id with digits compared as
/// numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version<T> {
    /// Event time, UTC microseconds.
    pub at_us: i64,
    /// Event id. It decides between equal times and steps.
    pub event_id: Name,
    /// The value.
    pub value: T,
}

impl<T: Ordered> Version<T> {
    /// The order among the versions of one value.
    pub fn order(&self, other: &Self) -> Ordering {
        let by_time = self.at_us.cmp(&other.at_us).then(self.value.step().cmp(&other.value.step()));
        by_time.then_with(|| natural(&self.event_id, &other.event_id))
    }
}

/// All versions that may still matter, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct History<T> {
    versions: Vec<Version<T>>,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self { versions: Vec::new() }
    }
}

impl<'de, T: Ordered + Deserialize<'de>> Deserialize<'de> for History<T> {
    /// Older programs stored versions of the same time in another order, so the versions are sorted again.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Saved<T> {
            versions: Vec<Version<T>>,
        }
        Ok(Saved::deserialize(deserializer)?.versions.into())
    }
}

impl<T: Ordered> From<Vec<Version<T>>> for History<T> {
    fn from(mut versions: Vec<Version<T>>) -> Self {
        versions.sort_by(Version::order);
        Self { versions }
    }
}

impl<T: Ordered> History<T> {
    /// Inserts a version in its order. The same event replaces itself.
    pub fn insert(&mut self, version: Version<T>) {
        match self.versions.binary_search_by(|known| known.order(&version)) {
            Ok(at) => self.versions[at] = version,
            Err(at) => self.versions.insert(at, version),
        }
    }

    /// Takes over all versions of another history.
    pub fn absorb(&mut self, other: Self) {
        other.versions.into_iter().for_each(|version| self.insert(version));
    }
}

impl<T> History<T> {
    /// All versions, oldest first.
    pub fn versions(self) -> Vec<Version<T>> {
        self.versions
    }

    /// The versions after `floor_us` and before `end_us`, both exclusive, oldest first.
    pub fn between(&self, floor_us: i64, end_us: i64) -> &[Version<T>] {
        let from = self.versions.partition_point(|version| version.at_us <= floor_us);
        let to = self.versions.partition_point(|version| version.at_us < end_us);
        self.versions.get(from..to).unwrap_or_default()
    }

    /// The value as of `end_us` (exclusive), from versions after `floor_us`.
    pub fn as_of(&self, floor_us: i64, end_us: i64) -> Option<&T> {
        self.between(floor_us, end_us).last().map(|version| &version.value)
    }

    /// Forgets the versions before `end_us`, except the last of them.
    pub fn settle(&mut self, end_us: i64) {
        let settled = self.versions.partition_point(|version| version.at_us < end_us);
        if settled > 1 {
            self.versions.drain(..settled - 1);
        }
    }

    /// Forgets all versions at or before `floor_us`.
    pub fn erase(&mut self, floor_us: i64) {
        self.versions.retain(|version| version.at_us > floor_us);
    }

    /// Forgets all versions at or before `floor_us`, except those for which `stays` is true.
    pub fn erase_unless(&mut self, floor_us: i64, stays: impl Fn(&T) -> bool) {
        self.versions.retain(|version| version.at_us > floor_us || stays(&version.value));
    }

    /// Whether there is no version.
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }
}
