//! An account in a snapshot: its panes, one by one, and the rest.

use std::collections::BTreeMap;

use keepwell_core::event::Outcome;
use keepwell_core::pane::Pane;
use serde::Serialize;

use super::adoption::ByFeature;
use super::contracts::Contract;
use super::group_use;
use super::histories::All;
use super::history::History;
use super::locked::Locked;
use super::pane_totals::{Cell, Cells, SinceVersion9};
use super::people::{MilestoneEvent, PersonEvent};
use super::tickets::Ticket;
use super::{Account, Deletion, Fact};
use keepwell_core::interned::{Name, Names};

/// The state of an account for one pane: its cell; active users, used features, and use by feature if the pane is open;
/// use of groups; since version 9 of the state also what the cell has since then.
pub type OfPane = (OfPaneBefore9, SinceVersion9);

/// What the versions before 9 have.
pub type OfPaneBefore9 = (Cell, (Vec<Name>, Vec<Name>, Option<ByFeature>), Vec<group_use::OfPane<Name>>);

/// The state of an account besides its panes. In this order: summary of forgotten panes, tickets, facts, people,
/// milestones, outcomes, deletions, and the pane up to which it was pruned; since version 7 of the state also contracts, since
/// version 8 facts at the starts of periods, since version 9 what the summary has since then.
pub type Rest = (RestBefore9, SinceVersion9);

/// What version 8 has.
pub type RestBefore9 = (RestBefore8, Locked);

/// What version 7 has.
pub type RestBefore8 = (RestBefore7, BTreeMap<Name, Contract>);

/// What the versions before 7 have.
pub type RestBefore7 = (
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
    /// The panes in which the account has a cell, oldest first.
    pub fn panes(&self) -> impl Iterator<Item = Pane> {
        self.cells.panes()
    }

    /// The state for a pane, in the form of [`OfPane`].
    pub fn of_pane(&self, pane: Pane) -> Option<impl Serialize> {
        let cell = self.cells.at(pane)?;
        Some(((cell, self.adoption.of_pane(pane), self.groups.of_pane(pane)), cell.since_version_9()))
    }

    /// Restores the state for a pane. Panes must come oldest first.
    pub fn take_pane(&mut self, pane: Pane, of_pane: OfPane, names: &mut Names) {
        let ((mut cell, (users, features, open), groups), more) = of_pane;
        cell.take_since_version_9(more, names);
        self.cells.put(pane, cell);
        self.groups.take_pane(pane, groups);
        self.adoption.take_pane(pane, &users, &features, open, names);
    }

    /// The rest, in the form of [`Rest`].
    pub fn rest(&self) -> impl Serialize {
        let All { tickets, facts, people, milestones, outcomes, contracts, locked, deletions } = &*self.histories;
        let before_7 = (self.cells.settled(), tickets, facts, people, milestones, outcomes, deletions, self.pruned);
        let more = self.cells.settled().map(|(_, cell)| cell.since_version_9()).unwrap_or_default();
        (((before_7, contracts), locked), more)
    }

    /// An account from its rest, without panes.
    pub fn of_rest(rest: Rest, names: &mut Names) -> Self {
        let (((before_7, contracts), locked), more) = rest;
        let (mut settled, tickets, facts, people, milestones, outcomes, deletions, pruned) = before_7;
        if let Some((_, cell)) = &mut settled {
            cell.take_since_version_9(more, names);
        }
        let cells = Cells::of_settled(settled);
        let histories = All { tickets, facts, people, milestones, outcomes, contracts, locked, deletions }.into();
        Self { cells, histories, pruned, ..Self::default() }
    }
}
