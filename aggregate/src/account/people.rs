//! People and milestones: short histories, kept complete.

use keepwell_core::event::{Change, PersonAction};
use keepwell_core::pane::Pane;
use serde::{Deserialize, Serialize};

use super::View;
use super::history::{History, Ordered, Version};
use keepwell_core::interned::Name;

/// One event of a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonEvent {
    /// What happened to the person.
    pub action: PersonAction,
    /// New role from this event on.
    pub role: Change<Name>,
}

impl Ordered for PersonEvent {}

/// One event of a milestone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MilestoneEvent {
    /// New due time, UTC microseconds.
    pub due_us: Change<i64>,
    /// New time of completion, UTC microseconds.
    pub done_us: Change<i64>,
}

impl Ordered for MilestoneEvent {}

/// Number of people as of a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headcount {
    /// People who were added and not removed.
    pub people: i64,
    /// How many of them have a champion role.
    pub champions: i64,
}

/// Changes among people within a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeopleChanges {
    /// Number of people added.
    pub added: i64,
    /// Number of people removed.
    pub removed: i64,
    /// Number of champions who were removed or lost the role.
    pub champions_lost: i64,
}

/// Number of milestones as of a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MilestoneCounts {
    /// Milestones that are known.
    pub known: i64,
    /// Milestones that are done.
    pub done: i64,
    /// Milestones that are due and not done.
    pub overdue: i64,
    /// Due time of the oldest overdue milestone, UTC microseconds.
    pub oldest_overdue_us: Option<i64>,
}

/// One person, folded event by event. The role stays when a person leaves, and counts again when the person returns.
#[derive(Default)]
struct Person<'a> {
    is_member: bool,
    role: Option<&'a str>,
}

impl<'a> Person<'a> {
    fn fold(&mut self, event: &'a Version<PersonEvent>) {
        match event.value.action {
            PersonAction::Added => self.is_member = true,
            PersonAction::Removed => self.is_member = false,
            PersonAction::RoleChanged | PersonAction::Erased => {}
        }
        self.role = event.value.role.as_ref().map(Name::as_str).after(self.role);
    }

    fn is_champion(&self, roles: &[String]) -> bool {
        self.is_member && self.role.is_some_and(|role| roles.iter().any(|champion| champion == role))
    }
}

impl View<'_> {
    /// Counts people as of this view.
    pub fn headcount(&self, champion_roles: &[String]) -> Headcount {
        let mut count = Headcount::default();
        for history in self.account.histories.people.values() {
            let mut person = Person::default();
            history.between(self.floor_us, self.end_us).iter().for_each(|event| person.fold(event));
            count.people += i64::from(person.is_member);
            count.champions += i64::from(person.is_champion(champion_roles));
        }
        count
    }

    /// Number of champions as of `end_us` who were active in the panes `[from, to)`.
    pub fn champions_active(&self, end_us: i64, from: Pane, to: Pane, champion_roles: &[String]) -> i64 {
        let is_active = |user: &Name| self.account.adoption.user(user).is_some_and(|set| set.intersects(from, to));
        let is_champion = |history: &History<PersonEvent>| {
            let mut person = Person::default();
            history.between(self.floor_us, end_us).iter().for_each(|event| person.fold(event));
            person.is_champion(champion_roles)
        };
        let people = self.account.histories.people.iter();
        people.filter(|(user, history)| is_active(user) && is_champion(history)).count() as i64
    }

    /// Counts changes among people in `[from_us, end_us)`.
    pub fn people_changes(&self, from_us: i64, end_us: i64, champion_roles: &[String]) -> PeopleChanges {
        let mut changes = PeopleChanges::default();
        for history in self.account.histories.people.values() {
            let mut person = Person::default();
            for event in history.between(self.floor_us, end_us) {
                let was_champion = person.is_champion(champion_roles);
                person.fold(event);
                if event.at_us >= from_us {
                    changes.added += i64::from(event.value.action == PersonAction::Added);
                    changes.removed += i64::from(event.value.action == PersonAction::Removed);
                    changes.champions_lost += i64::from(was_champion && !person.is_champion(champion_roles));
                }
            }
        }
        changes
    }

    /// Counts milestones as of this view.
    pub fn milestones(&self) -> MilestoneCounts {
        let mut counts = MilestoneCounts::default();
        for history in self.account.histories.milestones.values() {
            let events = history.between(self.floor_us, self.end_us);
            let due_us = events.iter().fold(None, |before, event| event.value.due_us.after(before));
            let done_us = events.iter().fold(None, |before, event| event.value.done_us.after(before));
            let is_done = done_us.is_some_and(|done_us| done_us <= self.end_us);
            let overdue_us = due_us.filter(|due_us| *due_us <= self.end_us && !is_done);
            counts.known += i64::from(!events.is_empty());
            counts.done += i64::from(is_done);
            counts.overdue += i64::from(overdue_us.is_some());
            counts.oldest_overdue_us = [counts.oldest_overdue_us, overdue_us].into_iter().flatten().min();
        }
        counts
    }
}
