//! Limits on the size of one account, so that no single account can fill the memory of all.
//!
//! Only the log decides which event is over a limit. The limit is checked against the account's size when the event is
//! judged, however the log is cut into steps. The result does depend on the order of an account's events.

use std::collections::{BTreeMap, BTreeSet};

use keepwell_core::event::{Body, Contract, Event, PersonAction};
use keepwell_pipeline::config::Limits;

use crate::account::adoption::Adoption;
use crate::account::{Account, contracts};
use crate::settings::Settings;
use crate::state::PartitionState;

/// Names that the step has added and the state does not know yet, by account and limit.
#[derive(Debug, Default)]
pub struct Growth(BTreeMap<(String, &'static str), BTreeSet<String>>);

/// Number of names of one kind in an account, and whether a certain name is among them.
#[derive(Debug, Clone, Copy, Default)]
struct KnownNames {
    count: usize,
    holds_it: bool,
}

/// What the account knows, and what it may know.
#[derive(Clone, Copy)]
struct OfUsage<'a> {
    adoption: Option<&'a Adoption>,
    limits: &'a Limits,
}

impl KnownNames {
    fn of(count: usize, holds_it: bool) -> Self {
        Self { count, holds_it }
    }
}

impl Growth {
    /// The limit that an event would exceed. If there is none, the names that it adds are counted.
    pub fn over_limit(
        &mut self,
        event: &Event<'_>,
        state: &PartitionState,
        settings: &Settings,
    ) -> Option<&'static str> {
        let (id, limits) = (event.account_id.as_ref(), &settings.limits);
        let account = || state.accounts.get(id);
        // The account may know a user under the name that replaced an erased id.
        let name_of =
            |user: &str| account().map_or_else(|| user.to_owned(), |a| a.name_of(id, user, settings).into_owned());
        match &event.body {
            Body::Usage { feature, user_id, .. } => {
                // With very large limits no step can go from half of a limit over it. Then only accounts in `large`
                // need a look-up.
                if is_far(limits) && !state.large.contains(id) {
                    return None;
                }
                let user = user_id.as_deref().map(|user| (user, name_of(user)));
                self.over_limit_of_usage(
                    id,
                    feature,
                    user,
                    OfUsage { adoption: account().map(|a| &a.adoption), limits },
                )
            }
            Body::Ticket { ticket_id, .. } => {
                let known = account().map_or(KnownNames::default(), |a| {
                    KnownNames::of(a.histories.tickets.len(), a.histories.tickets.contains_key(ticket_id.as_ref()))
                });
                self.one(id, "tickets", ticket_id, known, limits.tickets)
            }
            Body::Milestone { id: milestone, .. } => {
                let known = account().map_or(KnownNames::default(), |a| {
                    KnownNames::of(
                        a.histories.milestones.len(),
                        a.histories.milestones.contains_key(milestone.as_ref()),
                    )
                });
                self.one(id, "milestones", milestone, known, limits.milestones)
            }
            Body::Outcome { alert_id, .. } => {
                let known = account().map_or(KnownNames::default(), |a| {
                    KnownNames::of(a.histories.outcomes.len(), a.histories.outcomes.contains_key(alert_id.as_ref()))
                });
                self.one(id, "outcomes", alert_id, known, limits.outcomes)
            }
            Body::Person { action, user_id, .. } => {
                let known = account().map_or(KnownNames::default(), |a| {
                    KnownNames::of(a.histories.people.len(), a.histories.people.contains_key(name_of(user_id).as_str()))
                });
                // To forget is never over a limit, but the name that stays is counted.
                let limit = if *action == PersonAction::Erased { usize::MAX } else { limits.people };
                self.one(id, "people", user_id, known, limit)
            }
            Body::Contract(contract) => self.over_limit_of_contract(event, contract, account(), limits),
            Body::Facts { facts, .. } => {
                let is_known = |name: &str| account().is_some_and(|a| a.histories.facts.contains_key(name));
                let new: Vec<&str> =
                    facts.iter().map(|(name, _)| name.as_ref()).filter(|name| !is_known(name)).collect();
                self.all(id, "facts", &new, account().map_or(0, |a| a.histories.facts.len()), limits.facts)
            }
            Body::Survey { .. } | Body::Deleted => None,
        }
    }

    /// The limit that the use of a feature by a user would exceed. The user is given with the name in the account.
    fn over_limit_of_usage(
        &mut self,
        id: &str,
        feature: &str,
        user: Option<(&str, String)>,
        of: OfUsage<'_>,
    ) -> Option<&'static str> {
        let OfUsage { adoption, limits } = of;
        let features =
            adoption.map_or(KnownNames::default(), |a| KnownNames::of(a.features().len(), a.knows_feature(feature)));
        let users = user.map(|(user, name)| {
            (user, adoption.map_or(KnownNames::default(), |a| KnownNames::of(a.users().len(), a.knows_user(&name))))
        });
        // A rejected event adds nothing. So both limits are checked first, and then both names are added.
        if let Some((user, known)) = users
            && !known.holds_it
            && self.is_over(id, "users", &[user], known.count, limits.users)
        {
            return Some("users");
        }
        self.one(id, "features", feature, features, limits.features).or_else(|| {
            let (user, known) = users?;
            self.one(id, "users", user, known, limits.users)
        })
    }

    /// The limit that something said of a contract would exceed.
    fn over_limit_of_contract(
        &mut self,
        event: &Event<'_>,
        contract: &Contract<'_>,
        account: Option<&Account>,
        limits: &Limits,
    ) -> Option<&'static str> {
        let id = event.account_id.as_ref();
        let known = account.map(|account| &account.histories.contracts);
        if known.is_some_and(|known| known.values().any(|contract| contract.holds(&event.event_id))) {
            return None;
        }
        let statements = known.map_or(0, |known| known.values().map(contracts::Contract::len).sum());
        let contracts =
            known.map_or(KnownNames::default(), |known| KnownNames::of(known.len(), known.contains_key(&*contract.id)));
        if self.is_over(id, "contract_events", &[&event.event_id], statements, limits.contract_events) {
            return Some("contract_events");
        }
        self.one(id, "contracts", &contract.id, contracts, limits.contracts)
            .or_else(|| self.all(id, "contract_events", &[&event.event_id], statements, limits.contract_events))
    }

    fn one(
        &mut self,
        id: &str,
        what: &'static str,
        name: &str,
        known: KnownNames,
        limit: usize,
    ) -> Option<&'static str> {
        if known.holds_it { None } else { self.all(id, what, &[name], known.count, limit) }
    }

    /// Adds all of these names, or none.
    fn all(
        &mut self,
        id: &str,
        what: &'static str,
        names: &[&str],
        num_known: usize,
        limit: usize,
    ) -> Option<&'static str> {
        if names.is_empty() {
            return None;
        }
        if self.is_over(id, what, names, num_known, limit) {
            return Some(what);
        }
        let brought = self.0.entry((id.to_owned(), what)).or_default();
        brought.extend(names.iter().map(|name| (*name).to_owned()));
        None
    }

    fn is_over(&self, id: &str, what: &'static str, names: &[&str], num_known: usize, limit: usize) -> bool {
        let brought = self.0.get(&(id.to_owned(), what));
        let is_new = |name: &&&str| brought.is_none_or(|brought| !brought.contains(**name));
        let num_new = names.iter().filter(is_new).count();
        num_new > 0 && num_known + brought.map_or(0, BTreeSet::len) + num_new > limit
    }
}

/// More names than one step can add.
const STEP_NAMES: usize = 500_000;

/// Whether no step can take an account from half of a limit over it.
fn is_far(limits: &Limits) -> bool {
    limits.features.min(limits.users) >= 2 * STEP_NAMES
}
