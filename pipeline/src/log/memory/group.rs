//! A consumer group in memory: its members, who owns which partition, and who is fenced.
//!
//! The rules are those of cooperative-sticky assignment with static members. A partition is assigned only after its
//! owner has released it or was expelled. A former member can commit nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepwell_core::offset::{Position, TopicPartition};

/// Members and positions of a group.
#[derive(Debug, Default)]
pub(super) struct Group {
    members: BTreeMap<String, Membership>,
    targets: BTreeMap<String, BTreeSet<TopicPartition>>,
    num_joined: u64,
    /// Committed positions.
    pub positions: BTreeMap<TopicPartition, Position>,
}

#[derive(Debug)]
struct Membership {
    id: u64,
    topics: Vec<Arc<str>>,
    owned: BTreeSet<TopicPartition>,
}

/// The state of a member in its group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It must release these partitions.
    Revoked(Vec<TopicPartition>),
    /// It owns these partitions from now on.
    Assigned(Vec<TopicPartition>),
    /// Nothing changed.
    Settled,
    /// It was away for too long and is no longer a member.
    Expelled,
    /// Another process has joined under its instance name.
    Replaced,
}

impl Group {
    /// Joins under an instance name. The previous member with this name is fenced.
    pub fn join(&mut self, instance: &str, topics: Vec<Arc<str>>, partitions: &[TopicPartition]) -> u64 {
        self.num_joined += 1;
        let membership = Membership { id: self.num_joined, topics, owned: BTreeSet::new() };
        self.members.insert(instance.to_owned(), membership);
        self.assign(partitions);
        self.num_joined
    }

    /// Ends a membership, by session timeout or by leaving.
    pub fn expel(&mut self, instance: &str, partitions: &[TopicPartition]) {
        self.members.remove(instance);
        self.assign(partitions);
    }

    /// Distributes the partitions again. The shares are equal, and a partition stays with its owner as far as that
    /// allows.
    pub fn assign(&mut self, partitions: &[TopicPartition]) {
        let before = std::mem::take(&mut self.targets);
        for instance in self.members.keys() {
            self.targets.insert(instance.clone(), BTreeSet::new());
        }
        let num_readers = self.members.len().max(1);
        let room = partitions.len().div_ceil(num_readers);
        let owner = |tp: &TopicPartition| before.iter().find(|(_, owned)| owned.contains(tp)).map(|(name, _)| name);
        let mut orphans = Vec::new();
        for tp in partitions {
            match owner(tp).and_then(|name| self.targets.get_mut(name)).filter(|owned| owned.len() < room) {
                Some(owned) => {
                    owned.insert(tp.clone());
                }
                None => orphans.push(tp),
            }
        }
        for tp in orphans {
            let readers = self.members.iter().filter(|(_, member)| member.topics.contains(&tp.topic));
            let least = readers.min_by_key(|(name, _)| self.targets.get(*name).map_or(0, BTreeSet::len));
            if let Some(owned) = least.and_then(|(name, _)| self.targets.get_mut(name)) {
                owned.insert(tp.clone());
            }
        }
    }

    /// The state of a member at its poll. Partitions assigned here are owned at once.
    pub fn standing(&mut self, instance: &str, id: u64, held: &BTreeSet<TopicPartition>) -> Standing {
        let target = self.targets.get(instance).cloned().unwrap_or_default();
        match self.members.get(instance) {
            None => return Standing::Expelled,
            Some(member) if member.id < id => return Standing::Expelled,
            Some(member) if member.id > id => return Standing::Replaced,
            Some(_) => {}
        }
        let revoked: Vec<_> = held.difference(&target).cloned().collect();
        if !revoked.is_empty() {
            return Standing::Revoked(revoked);
        }
        let taken: BTreeSet<_> =
            self.members.iter().filter(|(name, _)| *name != instance).flat_map(|(_, m)| m.owned.clone()).collect();
        let assigned: Vec<_> = target.difference(held).filter(|tp| !taken.contains(tp)).cloned().collect();
        if assigned.is_empty() {
            return Standing::Settled;
        }
        if let Some(member) = self.members.get_mut(instance) {
            member.owned.extend(assigned.iter().cloned());
        }
        Standing::Assigned(assigned)
    }

    /// Releases partitions of a member.
    pub fn release(&mut self, instance: &str, id: u64, partitions: &[TopicPartition]) {
        if let Some(member) = self.members.get_mut(instance).filter(|member| member.id == id) {
            member.owned.retain(|tp| !partitions.contains(tp));
        }
    }

    /// Whether this membership is the current one with its name.
    pub fn is_member(&self, instance: &str, id: u64) -> bool {
        self.members.get(instance).is_some_and(|member| member.id == id)
    }

    /// Whether a member owns a partition.
    pub fn owns(&self, instance: &str, tp: &TopicPartition) -> bool {
        self.members.get(instance).is_some_and(|member| member.owned.contains(tp))
    }

    /// Instance names of the members.
    pub fn instances(&self) -> impl Iterator<Item = &String> {
        self.members.keys()
    }

    /// Topics that any member reads.
    pub fn topics(&self) -> BTreeSet<Arc<str>> {
        self.members.values().flat_map(|member| member.topics.iter().cloned()).collect()
    }
}
