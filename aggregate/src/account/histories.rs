//! What an account has besides usage and surveys: tickets, facts, people, milestones, outcomes, contracts, deletions.

use std::collections::BTreeMap;
use std::ops::Deref;

use keepwell_core::event::Outcome;
use keepwell_core::interned::Name;

use super::contracts::Contract;
use super::history::History;
use super::locked::Locked;
use super::people::{MilestoneEvent, PersonEvent};
use super::tickets::Ticket;
use super::{Deletion, Fact};

/// All histories of an account.
#[derive(Debug, Clone, PartialEq)]
pub struct All {
    /// Tickets by ticket id.
    pub tickets: BTreeMap<Name, Ticket>,
    /// Facts by name of the fact.
    pub facts: BTreeMap<Name, History<Fact>>,
    /// People by user id.
    pub people: BTreeMap<Name, History<PersonEvent>>,
    /// Milestones by milestone id.
    pub milestones: BTreeMap<Name, History<MilestoneEvent>>,
    /// What became of alerts, by alert id.
    pub outcomes: BTreeMap<Name, History<Outcome>>,
    /// Contracts by contract id.
    pub contracts: BTreeMap<Name, Contract>,
    /// Facts as they were when periods started.
    pub locked: Locked,
    /// Deletions that may still matter, oldest first.
    pub deletions: Vec<Deletion>,
}

static NOTHING: All = All {
    tickets: BTreeMap::new(),
    facts: BTreeMap::new(),
    people: BTreeMap::new(),
    milestones: BTreeMap::new(),
    outcomes: BTreeMap::new(),
    contracts: BTreeMap::new(),
    locked: Locked::NOTHING,
    deletions: Vec::new(),
};

/// The histories of an account. One that has only usage and surveys pays for a pointer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histories(Option<Box<All>>);

impl From<All> for Histories {
    fn from(all: All) -> Self {
        Self((all != NOTHING).then(|| Box::new(all)))
    }
}

impl Deref for Histories {
    type Target = All;

    fn deref(&self) -> &All {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl Histories {
    /// For adding something.
    pub fn for_adding(&mut self) -> &mut All {
        self.0.get_or_insert_with(|| Box::new(NOTHING.clone()))
    }

    /// Changes or forgets what is there.
    pub fn change(&mut self, change: impl FnOnce(&mut All)) {
        if let Some(all) = &mut self.0 {
            change(all);
            if **all == NOTHING {
                self.0 = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histories_that_have_become_empty_are_as_if_they_had_never_been() {
        let mut histories = Histories::default();
        histories.for_adding().deletions.push(Deletion { at_us: 1, is_announced: false });
        assert_ne!(histories, Histories::default());
        histories.change(|all| all.deletions.clear());
        assert_eq!(histories, Histories::default());
        assert_eq!(histories, Histories::from(NOTHING.clone()));
    }
}
