//! An account in a snapshot: what is kept of it by pane, pane by pane, and the rest.

use std::collections::BTreeMap;

use keepwell_core::event::Outcome;
use keepwell_core::pane::Pane;
use serde::Serialize;

use super::adoption::ByFeature;
use super::history::History;
use super::pane_totals::{Cell, Cells};
use super::people::{MilestoneEvent, PersonEvent};
use super::tickets::Ticket;
use super::{Account, Deletion, Fact};
use keepwell_core::interned::{Name, Names};

/// What is kept of an account for one pane: its cell, who was active, what was used, and usage by feature where the pane
/// is open.
pub type OfPane = (Cell, (Vec<Name>, Vec<Name>, Option<ByFeature>));

/// What is kept of an account beside its panes: what remains of forgotten ones, tickets, facts, people, milestones,
/// outcomes, deletions, and up to where it is pruned.
pub type Rest = (
    Option<(Pane, Cell)>,
    BTreeMap<Name, Ticket>,
    BTreeMap<Name, History<Fact>>,
    BTreeMap<Name, History<PersonEvent>>,
    BTreeMap<Name, History<MilestoneEvent>>,
    BTreeMap<Name, History<Outcome>>,
    Vec<Deletion>,
    Option<Pane>,
);

impl Account {
    /// The panes of which something is kept, oldest first.
    pub fn panes(&self) -> impl Iterator<Item = Pane> {
        self.cells.panes()
    }

    /// What is kept for a pane, in the form of [`OfPane`].
    pub fn of_pane(&self, pane: Pane) -> Option<impl Serialize> {
        Some((self.cells.at(pane)?, self.adoption.of_pane(pane)))
    }

    /// Takes back what was kept for a pane; panes come oldest first.
    pub fn take_pane(&mut self, pane: Pane, (cell, (users, features, open)): OfPane, names: &mut Names) {
        self.cells.put(pane, cell);
        self.adoption.take_pane(pane, &users, &features, open, names);
    }

    /// The rest, in the form of [`Rest`].
    pub fn rest(&self) -> impl Serialize {
        (
            self.cells.settled(),
            &self.tickets,
            &self.facts,
            &self.people,
            &self.milestones,
            &self.outcomes,
            &self.deletions,
            self.pruned,
        )
    }

    /// An account of which nothing by pane is known yet.
    pub fn of_rest(rest: Rest) -> Self {
        let (settled, tickets, facts, people, milestones, outcomes, deletions, pruned) = rest;
        let cells = Cells::of_settled(settled);
        Self { cells, tickets, facts, people, milestones, outcomes, deletions, pruned, ..Self::default() }
    }
}
