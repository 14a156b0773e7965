//! Facts as they were when a period started: segment, owner and plan.
//!
//! Facts forget their past at each close. So those that revenue of a period is told by are kept at the start of each
//! week and month, as they were known at the close of the pane before it. They never change, whatever is told later.

use keepwell_core::interned::Name;
use serde::{Deserialize, Serialize};

use super::{Account, View};
use crate::settings::Settings;

/// Segment, owner and plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimensions {
    /// The fact `segment`.
    pub segment: Option<Name>,
    /// The fact `owner`.
    pub owner: Option<Name>,
    /// The fact `plan`.
    pub plan: Option<Name>,
}

/// The dimensions at starts of weeks and months, for an account with contracts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// Starts up to this one are decided, UTC microseconds.
    until_us: Option<i64>,
    /// The last deletion that has erased what was kept, UTC microseconds.
    floor_us: Option<i64>,
    /// Start and dimensions, oldest first. A start with the dimensions of the one before is left out.
    starts: Vec<(i64, Dimensions)>,
}

impl Locked {
    /// Nothing is kept, and all starts up to this time are decided: states before version 8 did not keep them.
    pub fn decided(until_us: i64) -> Self {
        Self { until_us: Some(until_us), ..Self::NOTHING }
    }

    /// Nothing is kept.
    pub const NOTHING: Self = Self { until_us: None, floor_us: None, starts: Vec::new() };

    /// The dimensions at a start, if no deletion has erased them.
    fn at(&self, floor_us: i64, start_us: i64) -> Option<&Dimensions> {
        if floor_us > self.floor_us.unwrap_or(i64::MIN) {
            return None;
        }
        let behind = self.starts.partition_point(|(us, _)| *us <= start_us);
        self.starts.get(behind.checked_sub(1)?).map(|(_, dimensions)| dimensions)
    }

    fn add(&mut self, start_us: i64, dimensions: Dimensions) {
        if self.starts.last().is_none_or(|(_, last)| *last != dimensions) {
            self.starts.push((start_us, dimensions));
        }
    }

    /// Forgets what was kept until a deletion became known. What is kept afterwards knows of it.
    pub fn erase(&mut self, floor_us: i64) {
        if self.until_us.is_some() && self.floor_us < Some(floor_us) {
            self.floor_us = Some(floor_us);
            self.starts.clear();
        }
    }

    /// Forgets starts before this time, except the last of them.
    fn settle(&mut self, before_us: i64) {
        let settled = self.starts.partition_point(|(us, _)| *us < before_us);
        self.starts.drain(..settled.saturating_sub(1));
    }
}

impl Account {
    /// The dimensions just before `start_us`, as they are known now.
    fn dimensions(&self, floor_us: i64, start_us: i64) -> Dimensions {
        let fact = |name: &str| {
            let fact = self.histories.facts.get(name)?.as_of(floor_us, start_us)?;
            let is_valid = fact.text != "null" && fact.valid_until_us.is_none_or(|until_us| until_us > start_us);
            is_valid.then(|| Name::from(fact.text.as_str()))
        };
        Dimensions { segment: fact("segment"), owner: fact("owner"), plan: fact("plan") }
    }

    /// The time from which on something of contracts counts, if only what was said after `floor_us` does.
    fn contracts_from_us(&self, floor_us: i64, settings: &Settings) -> Option<i64> {
        let statements = self.histories.contracts.values().flat_map(|contract| contract.statements());
        let said = statements.filter(|statement| statement.said_us > floor_us);
        said.map(|statement| settings.panes.start_us(statement.counts_from)).min()
    }

    /// Keeps the dimensions at the starts of weeks and months up to `closed_us`.
    pub(super) fn lock(&mut self, closed_us: i64, settings: &Settings) {
        if self.histories.contracts.is_empty() {
            return;
        }
        let rules = &settings.revenue;
        let from_us = self.contracts_from_us(i64::MIN, settings).max(self.histories.locked.until_us);
        let starts = from_us.map_or_else(Vec::new, |from_us| rules.calendar.starts_us(from_us, closed_us));
        if starts.is_empty() {
            return;
        }
        let mut locked = self.histories.locked.clone();
        let deleted_us = self.deleted_before_us(closed_us);
        locked.floor_us = locked.floor_us.max(deleted_us);
        for start_us in starts {
            locked.until_us = Some(start_us);
            // What was before a deletion is not known any more.
            if Some(start_us) > deleted_us {
                locked.add(start_us, self.dimensions(deleted_us.unwrap_or(i64::MIN), start_us));
            }
        }
        locked.settle(closed_us.saturating_sub(rules.locked_for_us));
        self.histories.for_adding().locked = locked;
    }

    /// The last deletion before this time, UTC microseconds.
    pub(super) fn deleted_before_us(&self, end_us: i64) -> Option<i64> {
        self.histories.deletions.iter().rev().map(|deletion| deletion.at_us).find(|at_us| *at_us < end_us)
    }
}

impl View<'_> {
    /// Segment, owner and plan as of the start of a period. An account that had no contracts then, or whose facts of then
    /// a deletion has erased, has those of this view.
    pub fn dimensions_at(&self, start_us: i64, settings: &Settings) -> Dimensions {
        let locked = &self.account.histories.locked;
        let has_contracts = self.account.contracts_from_us(self.floor_us, settings).is_some_and(|from| from < start_us);
        let is_decided = locked.until_us.is_some_and(|until_us| start_us <= until_us);
        let kept = locked.at(self.floor_us, start_us).filter(|_| has_contracts && start_us > self.floor_us);
        match kept {
            Some(dimensions) if is_decided => dimensions.clone(),
            _ if is_decided || !has_contracts || start_us <= self.floor_us => {
                self.account.dimensions(self.floor_us, self.end_us)
            }
            _ => self.account.dimensions(self.floor_us, start_us),
        }
    }
}
