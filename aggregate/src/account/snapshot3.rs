//! An account in a snapshot of version 3. It has sums of survey answers instead of the last answer of each person. Its
//! events of people and milestones cannot express that a null clears a value.

use std::collections::BTreeMap;

use keepwell_core::event::{Change, Outcome, PersonAction};
use keepwell_core::interned::Name;
use keepwell_core::pane::Pane;
use serde::Deserialize;

use super::adoption::ByFeature;
use super::answers::{Answers, Surveys};
use super::history::{History, Ordered, Version};
use super::pane_totals::{Cell, Usage};
use super::people::{MilestoneEvent, PersonEvent};
use super::snapshot::{OfPane, Rest};
use super::tickets::Ticket;
use super::{Deletion, Fact};

/// The totals of one pane of an account.
#[derive(Debug, Deserialize)]
pub struct Cell3 {
    last_activity_us: i64,
    last_exact_us: Option<i64>,
    last_use_us: Option<i64>,
    first_value_us: Option<i64>,
    usage: Usage,
    surveys: [Answers; 3],
}

/// One event of a person.
#[derive(Debug, Clone, Deserialize)]
pub struct PersonEvent3 {
    action: PersonAction,
    role: Option<Name>,
}

impl Ordered for PersonEvent3 {}

/// One event of a milestone.
#[derive(Debug, Clone, Deserialize)]
pub struct MilestoneEvent3 {
    due_us: Option<i64>,
    done_us: Option<i64>,
}

impl Ordered for MilestoneEvent3 {}

/// Version 3 of [`OfPane`].
pub type OfPane3 = (Cell3, (Vec<Name>, Vec<Name>, Option<ByFeature>));

/// Version 3 of [`Rest`].
pub type Rest3 = (
    Option<(Pane, Cell3)>,
    BTreeMap<Name, Ticket>,
    BTreeMap<Name, History<Fact>>,
    BTreeMap<Name, History<PersonEvent3>>,
    BTreeMap<Name, History<MilestoneEvent3>>,
    BTreeMap<Name, History<Outcome>>,
    Vec<Deletion>,
    Option<Pane>,
);

impl From<Cell3> for Cell {
    fn from(old: Cell3) -> Self {
        let Cell3 { last_activity_us, last_exact_us, last_use_us, first_value_us, usage, surveys } = old;
        let surveys = Surveys::of_sums(surveys);
        Self { last_activity_us, last_exact_us, last_use_us, first_value_us, usage, surveys }
    }
}

fn change<T>(value: Option<T>) -> Change<T> {
    value.map_or(Change::Kept, Change::Set)
}

fn each<A: Ordered, B: Ordered>(
    histories: BTreeMap<Name, History<A>>,
    of: impl Fn(A) -> B,
) -> BTreeMap<Name, History<B>> {
    let version =
        |version: Version<A>| Version { at_us: version.at_us, event_id: version.event_id, value: of(version.value) };
    let history = |history: History<A>| history.versions().into_iter().map(version).collect::<Vec<_>>().into();
    histories.into_iter().map(|(name, old)| (name, history(old))).collect()
}

/// Converts a pane of an account into the present format.
pub fn of_pane((cell, adoption): OfPane3) -> OfPane {
    (cell.into(), adoption)
}

/// Converts the rest of an account into the present format.
pub fn rest(old: Rest3) -> Rest {
    let (settled, tickets, facts, people, milestones, outcomes, deletions, pruned) = old;
    let people = each(people, |old| PersonEvent { action: old.action, role: change(old.role) });
    let milestone = |old: MilestoneEvent3| MilestoneEvent { due_us: change(old.due_us), done_us: change(old.done_us) };
    let settled = settled.map(|(pane, cell)| (pane, cell.into()));
    (settled, tickets, facts, people, each(milestones, milestone), outcomes, deletions, pruned)
}
