//! The state of one account: integer sums per pane, sets of panes, and short histories.
//!
//! There are two classes of events. Usage, surveys and outcomes belong to a pane. Tickets, facts, milestones, people and
//! contracts keep their exact times. A deletion at time D therefore erases the first class up to the end of D's pane. It erases
//! the second class up to D itself. The deletion takes effect in the windows that end after D.

pub mod adoption;
pub mod answers;
pub mod contracts;
pub mod customer;
mod erasure;
pub mod group_use;
pub mod histories;
pub mod history;
pub mod locked;
pub mod pane_totals;
pub mod people;
pub mod plan;
pub mod snapshot;
pub mod tickets;

use std::collections::BTreeMap;

use keepwell_core::event::{self, Body, Event, Outcome, PersonAction, Survey, Terms};
use keepwell_core::pane::Pane;
use serde::{Deserialize, Serialize};

use crate::settings::Settings;
use adoption::Adoption;
use answers::Answer;
use contracts::{Contract, Statement};
use customer::Customer;
use erasure::erase_people;
use group_use::GroupUses;
use histories::{All, Histories};
use history::{History, Ordered, Version};
use keepwell_core::interned::{Name, Names};
use keepwell_pipeline::config::Limits;
use pane_totals::{Cell, Cells, Uses};
use people::{MilestoneEvent, PersonEvent};
use tickets::TicketEvent;

/// The state of one account.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Sums of usage and surveys, and times of activity, by pane.
    pub cells: Cells,
    /// Panes in which users were active and features were used.
    pub adoption: Adoption,
    /// Use of the configured groups of features.
    pub groups: GroupUses,
    /// Tickets, facts, people, milestones, outcomes, contracts, deletions.
    pub histories: Histories,
    /// The pane up to which the account was last pruned. One pruning per close is enough.
    pruned: Option<Pane>,
}

/// One version of a fact, from one event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The value as canonical JSON text. The text `null` clears the fact.
    pub text: String,
    /// From this time on the fact is unknown again. UTC microseconds.
    pub valid_until_us: Option<i64>,
}

impl Ordered for Fact {}

/// One deletion of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Event time of the deletion, UTC microseconds.
    pub at_us: i64,
    /// Whether a final row has already reported this deletion.
    pub is_announced: bool,
}

/// An account as of the end of a pane, with deletions applied.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The state of the account.
    pub account: &'a Account,
    /// The last pane that counts.
    pub last: Pane,
    /// End of that pane, UTC microseconds.
    pub end_us: i64,
    /// Panes before this one are erased.
    pub first: Pane,
    /// Events at or before this time are erased, UTC microseconds.
    pub floor_us: i64,
    /// The account as a customer. None: nothing is known of any contract.
    pub customer: Option<Customer<'a>>,
}

impl Account {
    /// Applies one event. The result does not depend on the order of events. `closed` is the newest final pane.
    pub fn apply(&mut self, event: &Event<'_>, closed: Option<Pane>, settings: &Settings, names: &mut Names) {
        let at_us = event.occurred_us;
        let pane = settings.panes.pane(at_us);
        if matches!(event.body, Body::Deleted) {
            self.delete(at_us);
            return;
        }
        if self.deleted_us().is_some_and(|deleted_us| at_us <= deleted_us) {
            // The deletion must also erase this event.
            self.pruned = None;
        }
        let user = match &event.body {
            Body::Usage { user_id: Some(id), .. }
            | Body::Survey { user_id: Some(id), .. }
            | Body::Person { user_id: id, .. } => Some(self.name_of(&event.account_id, id, settings)),
            _ => None,
        };
        let cell = self.cells.touch(pane, at_us, is_exact(&event.body));
        match &event.body {
            Body::Usage { feature, count, duration_ms, errors, .. } => {
                let uses = Uses { count: *count, duration_ms: *duration_ms, errors: *errors };
                cell.use_feature(at_us, uses);
                if settings.first_value_feature.as_deref() == Some(feature) {
                    cell.first_value_at(at_us);
                }
                if let Some(feature) = settings.plan_features.get(feature.as_ref()) {
                    cell.first_use_at(feature, at_us);
                }
                self.adoption.add(pane, feature, user.as_deref(), uses, names);
                self.use_groups(pane, feature, user.as_deref(), uses, settings);
            }
            Body::Survey { survey, score, scale_max, .. } => {
                let answer = Answer {
                    at_us,
                    event_id: Name::from(event.event_id.as_ref()),
                    score: *score,
                    scale_max: *scale_max,
                };
                cell.take_answer(*survey, user.as_deref().filter(|_| !settings.counts_all_answers), answer);
            }
            Body::Contract(contract) => {
                let counts_from = closed.map_or(pane, |closed| pane.max(closed.next()));
                self.say(contract, at_us, counts_from, &event.event_id);
            }
            _ => self.remember(event, user.as_deref(), settings),
        }
    }

    /// Adds an event that is neither usage nor a survey nor one of a contract to its history.
    fn remember(&mut self, event: &Event<'_>, user: Option<&str>, settings: &Settings) {
        let at_us = event.occurred_us;
        let name = |text: &str| Name::from(text);
        match &event.body {
            Body::Outcome { alert_id, outcome } => {
                let version = Version { at_us, event_id: name(&event.event_id), value: *outcome };
                self.histories.for_adding().outcomes.entry(name(alert_id)).or_default().insert(version);
            }
            Body::Ticket { ticket_id, action, priority, category, csat, .. } => {
                let value = TicketEvent {
                    action: *action,
                    priority: *priority,
                    category: category.as_deref().map(name),
                    csat: *csat,
                };
                let ticket = self.histories.for_adding().tickets.entry(name(ticket_id)).or_default();
                ticket.events.insert(Version { at_us, event_id: name(&event.event_id), value });
            }
            Body::Facts { facts, valid_until_us, .. } => {
                for (fact, text) in facts {
                    let value = Fact { text: text.as_ref().to_owned(), valid_until_us: *valid_until_us };
                    let version = Version { at_us, event_id: name(&event.event_id), value };
                    self.histories.for_adding().facts.entry(name(fact)).or_default().insert(version);
                }
            }
            Body::Milestone { id, due_us, done_us } => {
                let value = MilestoneEvent { due_us: *due_us, done_us: *done_us };
                let version = Version { at_us, event_id: name(&event.event_id), value };
                self.histories.for_adding().milestones.entry(name(id)).or_default().insert(version);
            }
            Body::Person { action, user_id, role } => {
                let person = match action {
                    PersonAction::Erased => self.forget_user(&event.account_id, user_id, settings),
                    _ => name(user.unwrap_or_default()),
                };
                let value = PersonEvent { action: *action, role: role.as_ref().map(|role| name(role)) };
                let version = Version { at_us, event_id: name(&event.event_id), value };
                self.histories.for_adding().people.entry(person).or_default().insert(version);
            }
            Body::Usage { .. } | Body::Survey { .. } | Body::Contract(_) | Body::Deleted => {}
        }
    }

    /// Adds what was said of a contract.
    fn say(&mut self, contract: &event::Contract<'_>, said_us: i64, counts_from: Pane, event_id: &str) {
        // Ids are forgotten with their pane, statements are not. So an id counts once, however late it is sent again.
        if self.histories.contracts.values().any(|known| known.holds(event_id)) {
            return;
        }
        let terms = &contract.terms;
        let statement = Statement {
            effective_us: contract.effective_us,
            said_us,
            counts_from,
            event_id: Name::from(event_id),
            action: contract.action,
            terms: Terms {
                mrr_hundredths: terms.mrr_hundredths,
                currency: terms.currency.as_ref().map(|currency| Name::from(currency.as_ref())),
                seats: terms.seats,
                ends_us: terms.ends_us,
            },
            reason: contract.reason.as_deref().map(Name::from),
        };
        let contracts = &mut self.histories.for_adding().contracts;
        contracts.entry(Name::from(contract.id.as_ref())).or_default().insert(statement);
    }

    /// Adds a use of a feature, which [`Adoption`] knows, to the groups that it belongs to.
    fn use_groups(&mut self, pane: Pane, feature: &str, user: Option<&str>, uses: Uses, settings: &Settings) {
        if settings.feature_groups.is_empty() {
            return;
        }
        let user = user.and_then(|user| self.adoption.name_of(user));
        self.groups.add(pane, settings.feature_groups.of(feature), user, uses.count);
    }

    fn delete(&mut self, at_us: i64) {
        self.pruned = None;
        let deletions = &mut self.histories.for_adding().deletions;
        let at = deletions.partition_point(|deletion| deletion.at_us < at_us);
        if deletions.get(at).is_none_or(|deletion| deletion.at_us != at_us) {
            deletions.insert(at, Deletion { at_us, is_announced: false });
        }
    }

    /// Time of the last known deletion, UTC microseconds.
    pub fn deleted_us(&self) -> Option<i64> {
        self.histories.deletions.last().map(|deletion| deletion.at_us)
    }

    /// The account as of the end of pane `last`.
    pub fn view(&self, last: Pane, settings: &Settings) -> View<'_> {
        let end_us = settings.panes.end_us(last);
        let floor_us = self.deleted_before_us(end_us);
        let view = View {
            account: self,
            last,
            end_us,
            first: floor_us.map_or(Pane(i32::MIN), |at_us| settings.panes.pane(at_us).next()),
            floor_us: floor_us.unwrap_or(i64::MIN),
            customer: None,
        };
        View { customer: view.as_customer(settings), ..view }
    }

    /// The pane for which a live row is made: the newest pane of any event of the account, or the open pane if that is
    /// newer.
    pub fn newest_pane(&self, open: Option<Pane>, settings: &Settings) -> Option<Pane> {
        let deleted = self.histories.deletions.last().map(|deletion| settings.panes.pane(deletion.at_us));
        open.max(self.cells.newest()).max(deleted)
    }

    /// The oldest pane of any event of the account, deletions included.
    pub fn oldest_pane(&self, settings: &Settings) -> Option<Pane> {
        let deleted = self.histories.deletions.first().map(|deletion| settings.panes.pane(deletion.at_us));
        [self.cells.oldest(), deleted].into_iter().flatten().min()
    }

    /// Whether something is known about the account that no final row up to pane `closed` contains.
    pub fn is_ahead_of(&self, closed: Pane, settings: &Settings) -> bool {
        self.newest_pane(None, settings).is_some_and(|newest| newest > closed)
    }

    /// Whether pruning at pane `closed` would forget nothing.
    pub fn is_pruned(&self, closed: Pane) -> bool {
        self.pruned == Some(closed)
    }

    /// Forgets what no later row can show. All rows up to pane `closed` are final.
    pub fn prune(&mut self, closed: Pane, settings: &Settings) {
        if self.is_pruned(closed) {
            return;
        }
        self.pruned = Some(closed);
        let closed_us = settings.panes.end_us(closed);
        if let Some(deleted_us) = self.deleted_before_us(closed_us) {
            self.erase(deleted_us, settings);
        }
        self.lock(closed_us, settings);
        let horizon = settings.horizon(closed);
        self.cells.settle(horizon);
        self.adoption.close(closed);
        self.adoption.forget_before(horizon);
        self.groups.forget_before(horizon);
        let horizon_us = settings.panes.start_us(horizon);
        self.histories.change(|all| {
            all.deletions.retain(|deletion| {
                !deletion.is_announced || !settings.is_forgotten(settings.panes.pane(deletion.at_us), closed_us)
            });
            all.facts.values_mut().for_each(|history| history.settle(closed_us));
            all.tickets.values_mut().for_each(|ticket| ticket.settle(horizon_us));
            erase_all(&mut all.outcomes, horizon_us - 1);
        });
    }

    fn erase(&mut self, deleted_us: i64, settings: &Settings) {
        let pane = settings.panes.pane(deleted_us);
        self.cells.erase(pane, deleted_us);
        self.adoption.forget_before(pane.next());
        self.groups.forget_before(pane.next());
        self.histories.change(|all| {
            all.tickets.retain(|_, ticket| ticket.erase(deleted_us));
            erase_all(&mut all.facts, deleted_us);
            erase_people(&mut all.people, deleted_us);
            erase_all(&mut all.milestones, deleted_us);
            all.locked.erase(deleted_us);
            // The close that tells of a deletion compares revenue with what was reported before it.
            if let Some(told) = all.deletions.iter().rev().find(|deletion| deletion.is_announced) {
                let told_us = told.at_us;
                all.contracts.retain(|_, contract| {
                    contract.erase(told_us);
                    !contract.is_empty()
                });
            }
            erase_all(&mut all.outcomes, settings.panes.end_us(pane) - 1);
        });
    }

    /// Whether users or features fill more than half of their limit, so that one step may reach the limit.
    pub fn is_large(&self, limits: &Limits) -> bool {
        self.adoption.features().len() * 2 > limits.features || self.adoption.users().len() * 2 > limits.users
    }

    /// Number of users, features, tickets, people, statements of contracts and other things with names. The cost of a row grows with it.
    pub fn size(&self) -> usize {
        let All { tickets, people, facts, milestones, outcomes, contracts, .. } = &*self.histories;
        let statements = contracts.values().map(Contract::len).sum();
        let named = [tickets.len(), people.len(), facts.len(), milestones.len(), outcomes.len(), statements];
        self.adoption.users().len() + self.adoption.features().len() + named.iter().sum::<usize>()
    }

    /// Whether the account holds nothing, so that it can be removed.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.histories.deletions.is_empty()
    }
}

impl<'a> View<'a> {
    /// Whether the account exists in this view: at least one event survives the deletions.
    pub fn is_known(&self) -> bool {
        self.first_pane().is_some()
    }

    /// Pane of the first surviving event.
    pub fn first_pane(&self) -> Option<Pane> {
        self.account.cells.first_pane(self)
    }

    /// Time of the last surviving event of any kind, UTC microseconds.
    pub fn last_activity_us(&self) -> Option<i64> {
        self.account.cells.last_activity_us(self)
    }

    /// Whether the account is retired: silent for at least `retire_after` at the end of the view. A customer is not, and
    /// one that has left not before it has been gone, and known to be gone, for as long. None means that the account has
    /// no row: nothing is known of it, or an earlier pane already retired it.
    pub fn retired(&self, settings: &Settings) -> Option<bool> {
        let silent_from_us = self.last_activity_us()?.max(self.contracts_active_us(settings).unwrap_or(i64::MIN));
        let silence_us = self.end_us - silent_from_us;
        let is_told = silence_us < settings.retire_after_us + settings.panes.width_us;
        is_told.then_some(silence_us >= settings.retire_after_us)
    }

    /// The JSON text of a fact, or none if the fact is unknown, cleared or expired.
    pub fn fact(&self, name: &str) -> Option<&'a str> {
        let fact = self.account.histories.facts.get(name)?.as_of(self.floor_us, self.end_us)?;
        let is_valid = fact.valid_until_us.is_none_or(|until_us| until_us > self.end_us);
        (is_valid && fact.text != "null").then_some(fact.text.as_str())
    }

    /// Event time of the current version of a fact, UTC microseconds. None if the fact is not valid.
    pub fn fact_at_us(&self, name: &str) -> Option<i64> {
        self.fact(name)?;
        let versions = self.account.histories.facts.get(name)?.between(self.floor_us, self.end_us);
        versions.last().map(|version| version.at_us)
    }

    /// The last outcome of each alert since pane `from`: alert id, outcome, and its event time in UTC microseconds.
    pub fn outcomes(&self, from: Pane, settings: &Settings) -> impl Iterator<Item = (&'a str, Outcome, i64)> {
        let floor_us = settings.panes.start_us(from.max(self.first)) - 1;
        let outcomes = self.account.histories.outcomes.iter();
        let end_us = self.end_us;
        outcomes.filter_map(move |(id, history)| {
            let last = history.between(floor_us, end_us).last()?;
            Some((id.as_str(), last.value, last.at_us))
        })
    }

    /// Times of the last answers to these surveys, UTC microseconds.
    pub fn last_answers_us<const N: usize>(&self, surveys: [Survey; N]) -> [Option<i64>; N] {
        surveys.map(|survey| self.account.cells.latest(self, |cell: &Cell| cell.surveys().last_us(survey)))
    }
}

/// Whether an event keeps its exact time. Others are only known by their pane.
fn is_exact(body: &Body<'_>) -> bool {
    !matches!(body, Body::Usage { .. } | Body::Survey { .. } | Body::Outcome { .. })
}

/// Whether a deletion at `deleted_us` erases this event.
pub fn is_erased(event: &Event<'_>, deleted_us: i64, settings: &Settings) -> bool {
    if is_exact(&event.body) {
        event.occurred_us <= deleted_us
    } else {
        settings.panes.pane(event.occurred_us) <= settings.panes.pane(deleted_us)
    }
}

fn erase_all<T: Ordered>(histories: &mut BTreeMap<Name, History<T>>, floor_us: i64) {
    histories.retain(|_, history| {
        history.erase(floor_us);
        !history.is_empty()
    });
}
