//! Tickets: the life of each ticket, folded in the order of event time.
//!
//! A ticket counts for the account that opened it. Nothing can happen to a ticket before its opening. Events with an
//! earlier time therefore take effect at the opening. If an account gets events of a ticket but no opening, the ticket
//! counts as moved. Then none of these events take effect.

use std::collections::BTreeMap;

use keepwell_core::event::{Priority, TicketAction};
use serde::{Deserialize, Serialize};

use super::View;
use super::history::{History, Ordered, Version};
use crate::settings::{Settings, by_priority};
use keepwell_core::interned::Name;

/// Ratings up to this value are low and call for a reply.
const LOW_RATING: u8 = 2;

/// One event of a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketEvent {
    /// The step of the ticket's life.
    pub action: TicketAction,
    /// New priority from this event on, if the event has one.
    pub priority: Option<Priority>,
    /// New category from this event on, if the event has one.
    pub category: Option<Name>,
    /// Rating from 1 to 5, with the action `rated`.
    pub csat: Option<u8>,
}

impl Ordered for TicketEvent {
    /// Steps of a ticket's life in their natural order. It decides between events of the same time.
    fn step(&self) -> u8 {
        match self.action {
            TicketAction::Opened => 0,
            TicketAction::PriorityChanged => 1,
            TicketAction::Escalated => 2,
            TicketAction::Responded => 3,
            TicketAction::Resolved => 4,
            TicketAction::Closed => 5,
            TicketAction::Reopened => 6,
            TicketAction::Rated => 7,
        }
    }
}

/// The state of one ticket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The result of all events that no window looks at any more.
    base: Life,
    /// The events that are not yet folded into `base`.
    pub events: History<TicketEvent>,
}

/// The state of a ticket as of some time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// When this account opened the ticket, UTC microseconds.
    pub opened_us: Option<i64>,
    /// Current priority.
    pub priority: Option<Priority>,
    /// Current category.
    pub category: Option<Name>,
    /// Whether the ticket is open.
    pub is_open: bool,
    /// Whether an agent has responded.
    pub is_answered: bool,
    /// Time of the last resolution without a later reopening (UTC microseconds), and the priority at that time.
    pub resolved: Option<(i64, Option<Priority>)>,
    /// Whether the account has had any event of this ticket.
    pub is_seen: bool,
}

/// The events of a ticket in the order of its life, each with its effective time. The opening comes first. Events with
/// an earlier time follow it and get the time of the opening. Without an opening the events keep their order and time.
fn lived<'e>(base: &Life, events: &'e [Version<TicketEvent>]) -> impl Iterator<Item = (i64, &'e Version<TicketEvent>)> {
    let is_opening = |event: &Version<TicketEvent>| event.value.action == TicketAction::Opened;
    let opening = if base.opened_us.is_some() { None } else { events.iter().position(is_opening) };
    let (before, rest) = events.split_at(opening.unwrap_or_default());
    let opened_us = rest.first().map_or(i64::MIN, |event| event.at_us);
    let dated = |event: &'e Version<TicketEvent>| (event.at_us, event);
    let earlier = before.iter().map(move |event| (opened_us, event));
    let lived = rest.iter().take(1).map(dated).chain(earlier).chain(rest.iter().skip(1).map(dated));
    let reordered =
        if is_ambiguous(events) { reopened_first(base.clone(), lived.clone().collect()) } else { Vec::new() };
    lived.take(if reordered.is_empty() { usize::MAX } else { 0 }).chain(reordered)
}

/// Whether a ticket was both ended and reopened at one time.
fn is_ambiguous(events: &[Version<TicketEvent>]) -> bool {
    // By the order of steps a reopening comes right after what ended the ticket at the same time.
    let is_reopened_at_once = |pair: &[Version<TicketEvent>]| match pair {
        [one, next] => one.at_us == next.at_us && next.value.action == TicketAction::Reopened,
        _ => false,
    };
    events.windows(2).any(is_reopened_at_once)
}

/// Puts a reopening before the end of the ticket at the same time, where the ticket was not open before: what is closed
/// must be reopened before it can be closed again.
fn reopened_first(mut life: Life, mut steps: Vec<(i64, &Version<TicketEvent>)>) -> Vec<(i64, &Version<TicketEvent>)> {
    for at in 0..steps.len() {
        let (_, ending) = steps[at];
        let is_ending = matches!(ending.value.action, TicketAction::Resolved | TicketAction::Closed);
        if is_ending && life.opened_us.is_some() && !life.is_open {
            let is_reopening = |(_, step): &(i64, &Version<TicketEvent>)| {
                step.at_us == ending.at_us && step.value.action == TicketAction::Reopened
            };
            if let Some(ahead) = steps[at..].iter().position(is_reopening) {
                steps[at..=at + ahead].rotate_right(1);
            }
        }
        let (at_us, step) = steps[at];
        life.fold(at_us, &step.value);
    }
    steps
}

impl Life {
    /// Applies one event that takes effect at `at_us`.
    fn fold(&mut self, at_us: i64, event: &TicketEvent) {
        self.is_seen = true;
        let is_opening = event.action == TicketAction::Opened && self.opened_us.is_none();
        if is_opening {
            (self.opened_us, self.is_open) = (Some(at_us), true);
        }
        if self.opened_us.is_none() {
            return;
        }
        self.priority = event.priority.or(self.priority);
        if event.category.is_some() {
            self.category.clone_from(&event.category);
        }
        match event.action {
            TicketAction::Responded => self.is_answered = true,
            TicketAction::Resolved => (self.is_open, self.resolved) = (false, Some((at_us, self.priority))),
            TicketAction::Closed => self.is_open = false,
            TicketAction::Reopened => (self.is_open, self.resolved) = (true, None),
            _ => {}
        }
    }

    /// Applies all of these events.
    fn live(&mut self, events: &[Version<TicketEvent>]) {
        for (at_us, event) in lived(&self.clone(), events) {
            self.fold(at_us, &event.value);
        }
    }
}

/// Durations until the response, or until the resolution, within a window.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// All durations, in milliseconds.
    pub all_ms: Vec<i64>,
    /// Number of durations, by priority.
    pub count: [i64; 4],
    /// How many of them are within the target, by priority.
    pub within: [i64; 4],
}

impl Durations {
    fn add(&mut self, duration_us: i64, priority: Option<Priority>, target_ms: &[i64; 4]) {
        let duration_ms = duration_us.div_euclid(1000);
        let i = by_priority(priority);
        self.all_ms.push(duration_ms);
        self.count[i] += 1;
        self.within[i] += i64::from(duration_ms <= target_ms[i]);
    }

    /// Mean duration in milliseconds.
    pub fn mean_ms(&self) -> Option<f64> {
        let sum: i64 = self.all_ms.iter().sum();
        (!self.all_ms.is_empty()).then(|| sum as f64 / self.all_ms.len() as f64)
    }

    /// 90th percentile in milliseconds, by nearest rank: the value at rank ceil(0.9 n).
    pub fn p90_ms(&mut self) -> Option<i64> {
        self.all_ms.sort_unstable();
        let rank = (self.all_ms.len() * 9).div_ceil(10);
        self.all_ms.get(rank.checked_sub(1)?).copied()
    }

    /// Share of the durations of this priority that are within the target, from 0 to 1.
    pub fn share_within(&self, priority: Priority) -> Option<f64> {
        let i = by_priority(Some(priority));
        (self.count[i] > 0).then(|| self.within[i] as f64 / self.count[i] as f64)
    }
}

/// Counts of ticket events within a window.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Load<'a> {
    /// Tickets opened, by priority at the opening.
    pub opened: [i64; 4],
    /// Tickets opened, by category at the opening.
    pub opened_by_category: BTreeMap<&'a str, i64>,
    /// Number of escalations.
    pub escalated: i64,
    /// Number of reopenings.
    pub reopened: i64,
    /// Number of ratings.
    pub ratings: i64,
    /// Sum of the ratings.
    pub rating_sum: i64,
    /// Number of ratings of 1 or 2.
    pub low_ratings: i64,
    /// Durations from the opening to the first response.
    pub responses: Durations,
    /// Durations from the opening to the last resolution.
    pub resolutions: Durations,
}

impl Load<'_> {
    fn rate(&mut self, rating: u8) {
        self.ratings += 1;
        self.rating_sum += i64::from(rating);
        self.low_ratings += i64::from(rating <= LOW_RATING);
    }
}

/// Tickets that are open as of a view.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Backlog<'a> {
    /// Open tickets by priority.
    pub open: [i64; 4],
    /// Open tickets by category.
    pub by_category: BTreeMap<&'a str, i64>,
    /// Tickets with events here, but without an opening here.
    pub moved: i64,
}

impl Ticket {
    fn base(&self, floor_us: i64) -> Life {
        // A deletion is younger than everything in the base, so it erases the base.
        if floor_us == i64::MIN { self.base.clone() } else { Life::default() }
    }

    /// Folds all events into the base, if all of them are before `horizon_us`.
    pub(super) fn settle(&mut self, horizon_us: i64) {
        if self.events.is_empty() || !self.events.between(horizon_us - 1, i64::MAX).is_empty() {
            return;
        }
        self.base.live(self.events.between(i64::MIN, horizon_us));
        self.events = History::default();
    }

    /// Erases everything up to `deleted_us`. Returns whether anything is left.
    pub(super) fn erase(&mut self, deleted_us: i64) -> bool {
        self.base = Life::default();
        self.events.erase(deleted_us);
        !self.events.is_empty()
    }
}

impl View<'_> {
    /// Counts ticket events in `[from_us, end_us)`.
    pub fn load<'s>(&self, from_us: i64, end_us: i64, settings: &'s Settings) -> Load<'s>
    where
        Self: 's,
    {
        let mut load = Load::default();
        for ticket in self.account.histories.tickets.values() {
            if !ticket.events.between(self.floor_us.max(from_us - 1), end_us).is_empty() {
                self.add_ticket(ticket, from_us, end_us, settings, &mut load);
            }
        }
        load
    }

    fn add_ticket<'s>(&self, ticket: &Ticket, from_us: i64, end_us: i64, settings: &'s Settings, load: &mut Load<'s>) {
        let mut life = ticket.base(self.floor_us);
        let mut rating = None;
        for (at_us, event) in lived(&life.clone(), ticket.events.between(self.floor_us, end_us)) {
            let was_open_here = life.opened_us.is_some();
            let was_answered = life.is_answered;
            life.fold(at_us, &event.value);
            let (Some(opened_us), true) = (life.opened_us, at_us >= from_us) else { continue };
            if !was_open_here {
                load.opened[by_priority(life.priority)] += 1;
                let category = counted_under(settings, life.category.as_ref().map(Name::as_str));
                *load.opened_by_category.entry(category).or_default() += 1;
            }
            match event.value.action {
                TicketAction::Escalated => load.escalated += 1,
                TicketAction::Reopened => load.reopened += 1,
                TicketAction::Rated => {
                    // A ticket has one rating: a later rating replaces the earlier one, except with `answers: all`.
                    let earlier = rating.replace(event.value.csat.unwrap_or_default());
                    earlier.filter(|_| settings.counts_all_answers).into_iter().for_each(|earlier| load.rate(earlier));
                }
                TicketAction::Responded if !was_answered => {
                    load.responses.add(at_us - opened_us, life.priority, &settings.first_response_target_ms);
                }
                _ => {}
            }
        }
        rating.into_iter().for_each(|rating| load.rate(rating));
        if let (Some(opened_us), Some((resolved_us, priority))) = (life.opened_us, life.resolved)
            && resolved_us >= from_us
        {
            load.resolutions.add(resolved_us - opened_us, priority, &settings.resolution_target_ms);
        }
    }

    /// Counts tickets that are open as of this view.
    pub fn backlog<'s>(&self, settings: &'s Settings) -> Backlog<'s> {
        let mut backlog = Backlog::default();
        for ticket in self.account.histories.tickets.values() {
            let events = ticket.events.between(self.floor_us, self.end_us);
            let is_settled = events.is_empty() && !ticket.base.is_open && ticket.base.opened_us.is_some();
            if is_settled {
                continue;
            }
            let mut life = ticket.base(self.floor_us);
            life.live(events);
            backlog.moved += i64::from(life.is_seen && life.opened_us.is_none());
            if life.is_open {
                backlog.open[by_priority(life.priority)] += 1;
                let category = counted_under(settings, life.category.as_ref().map(Name::as_str));
                *backlog.by_category.entry(category).or_default() += 1;
            }
        }
        backlog
    }
}

/// The configured name under which a category counts, or `other`.
fn counted_under<'s>(settings: &'s Settings, category: Option<&str>) -> &'s str {
    let found = category.and_then(|name| settings.categories.iter().find(|known| *known == name));
    found.map_or("other", String::as_str)
}
