//! Contracts: what was said of each, kept complete, and what each is at a time.
//!
//! A statement has two times. It was said at its event time, and it holds from its effective time on. Statements act in
//! the order of effective time, then of event time, then of event id. So a statement that is late, repeated or corrected
//! gives the same result as one in time.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use keepwell_core::event::{Change, ContractAction, Terms};
use keepwell_core::interned::Name;
use keepwell_core::natural::natural;
use keepwell_core::pane::Pane;
use serde::{Deserialize, Serialize};

/// One thing that was said of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// From when on it holds, UTC microseconds.
    pub effective_us: i64,
    /// When it was said, UTC microseconds.
    pub said_us: i64,
    /// The pane from whose close on it counts: that of its event time, or the first that was open when it arrived.
    pub counts_from: Pane,
    /// Event id. It decides between equal times.
    pub event_id: Name,
    /// What happened.
    pub action: ContractAction,
    /// The terms from then on.
    pub terms: Terms<Name>,
    /// Why, as a word of the sender.
    pub reason: Option<Name>,
}

impl Statement {
    fn order(&self, other: &Self) -> Ordering {
        let by_time = self.effective_us.cmp(&other.effective_us).then(self.said_us.cmp(&other.said_us));
        by_time.then_with(|| natural(&self.event_id, &other.event_id))
    }
}

/// All that was said of a contract, in the order in which it acts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contract(Vec<Statement>);

/// Whether a contract earns money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has not started.
    #[default]
    Ahead,
    /// It runs.
    Running,
    /// It is paused.
    Paused,
    /// It was cancelled, or its term ended and nobody renewed it.
    Ended,
}

/// A contract from one time on, until its next step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step<'c> {
    /// The first time of the step, UTC microseconds.
    pub from_us: i64,
    /// Whether it earns money.
    pub phase: Phase,
    /// Monthly recurring revenue in hundredths, if known.
    pub mrr_hundredths: Option<i64>,
    /// Currency, if known.
    pub currency: Option<&'c str>,
    /// Seats, if known.
    pub seats: Option<i64>,
    /// End of the term, UTC microseconds. None: it has no end, or none is known.
    pub ends_us: Option<i64>,
    /// Why this step came, if somebody said so.
    pub reason: Option<&'c str>,
    /// What was said that made it. None: nobody renewed the contract.
    pub by: Option<ContractAction>,
}

/// Why a contract ended that nobody renewed.
pub const NOT_RENEWED: &str = "not_renewed";

/// Which statements count.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Those said after this time, UTC microseconds. A deletion has erased the others.
    pub floor_us: i64,
    /// Those that count at the close of this pane.
    pub closed: Pane,
    /// Steps before this time, UTC microseconds.
    pub until_us: i64,
    /// How long a contract goes on after the end of its term, in microseconds.
    pub grace_us: i64,
}

impl Known {
    fn counts(&self, statement: &Statement) -> bool {
        statement.said_us > self.floor_us && statement.counts_from <= self.closed
    }
}

impl<'c> Step<'c> {
    /// The step that a statement makes at a time.
    fn after(self, from_us: i64, statement: &'c Statement) -> Self {
        let Statement { action, terms, reason, .. } = statement;
        // A start, or a term without a known end, forgets what was before.
        let before = if *action == ContractAction::Started { Self::default() } else { self };
        let ends_us = match terms.ends_us {
            Change::Kept if *action == ContractAction::Renewed => None,
            change => change.after(before.ends_us),
        };
        Self {
            from_us,
            phase: self.phase.after(*action),
            mrr_hundredths: terms.mrr_hundredths.after(before.mrr_hundredths),
            currency: terms.currency.as_ref().map(Name::as_str).after(before.currency),
            seats: terms.seats.after(before.seats),
            ends_us,
            reason: reason.as_deref(),
            by: Some(*action),
        }
    }

    /// The same state from a time on, at which statements begin to count that are late. What happened then is what changes
    /// the state before, whatever they say: others may have said more since.
    fn entered(self, before: Self, from_us: i64, late: &[&'c Statement]) -> Self {
        let is_renewal = late.iter().any(|statement| statement.action == ContractAction::Renewed);
        let is_other = !before.is_open() || before.ends_us != self.ends_us;
        let by = match (before.is_open(), self.is_open()) {
            (_, true) if is_renewal && is_other => ContractAction::Renewed,
            (true, false) => ContractAction::Cancelled,
            _ => ContractAction::Changed,
        };
        let reason = late.iter().rev().find_map(|statement| statement.reason.as_deref());
        Self { from_us, by: Some(by), reason, ..self }
    }

    /// Whether the contract runs or is paused.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }

    /// The step by which the contract lapses, if nothing else happens before.
    fn lapse(self, grace_us: i64) -> Option<Self> {
        let lapses_us = self.ends_us?.saturating_add(grace_us).max(self.from_us);
        let lapse = Self { from_us: lapses_us, phase: Phase::Ended, reason: Some(NOT_RENEWED), by: None, ..self };
        self.is_open().then_some(lapse)
    }
}

impl Phase {
    /// A contract that has ended comes back only by a start or a renewal.
    fn after(self, action: ContractAction) -> Self {
        match (action, self) {
            (ContractAction::Started | ContractAction::Renewed, _) => Self::Running,
            (ContractAction::Cancelled, _) | (_, Self::Ended) => Self::Ended,
            (ContractAction::Paused, _) => Self::Paused,
            (ContractAction::Resumed, _) => Self::Running,
            (ContractAction::Changed, Self::Ahead) => Self::Running,
            (ContractAction::Changed, phase) => phase,
        }
    }
}

impl Contract {
    /// Adds a statement in its order. The same event again changes nothing.
    pub fn insert(&mut self, statement: Statement) {
        if let Err(at) = self.0.binary_search_by(|known| known.order(&statement)) {
            self.0.insert(at, statement);
        }
    }

    /// Whether it was said by an event with this id.
    pub fn holds(&self, event_id: &str) -> bool {
        self.0.iter().any(|known| known.event_id.as_str() == event_id)
    }

    /// The newest pane from whose close on anything of it counts.
    pub fn counts_from(&self, known: &Known) -> Option<Pane> {
        self.0.iter().filter(|statement| known.counts(statement)).map(|statement| statement.counts_from).max()
    }

    /// All that was said, in the order in which it acts.
    pub fn statements(&self) -> &[Statement] {
        &self.0
    }

    /// Number of statements.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what was said at this time or before.
    pub fn erase(&mut self, floor_us: i64) {
        self.0.retain(|statement| statement.said_us > floor_us);
    }

    /// The steps of the contract, oldest first.
    pub fn steps(&self, known: &Known) -> Vec<Step<'_>> {
        folded(self.0.iter().filter(|statement| known.counts(statement)), known)
    }

    /// The steps of the contract, oldest first, if each statement counts from the time that `booked_us` gives. Until then
    /// the contract is what the others say; from then on, what all of them say.
    pub fn steps_booked(&self, known: &Known, booked_us: impl Fn(&Statement) -> i64) -> Vec<Step<'_>> {
        let counting = self.0.iter().filter(|statement| known.counts(statement));
        let booked: Vec<(i64, &Statement)> = counting.map(|statement| (booked_us(statement), statement)).collect();
        let mut late: BTreeMap<i64, Vec<&Statement>> = BTreeMap::new();
        for (from_us, statement) in &booked {
            if *from_us > statement.effective_us && *from_us < known.until_us {
                late.entry(*from_us).or_default().push(statement);
            }
        }
        let ends = late.keys().copied().chain([known.until_us]);
        let begins = late.iter().map(|(from_us, by)| Some((*from_us, by.as_slice())));
        let mut steps: Vec<Step<'_>> = Vec::new();
        for (begin, until_us) in std::iter::once(None).chain(begins).zip(ends) {
            let told = booked.iter().filter(|(from_us, _)| *from_us < until_us).map(|(_, statement)| *statement);
            let all = folded(told, &Known { until_us, ..*known });
            let (from_us, late) = begin.unwrap_or((i64::MIN, &[]));
            let (until_then, since) = all.split_at(all.partition_point(|step| step.from_us < from_us));
            let before = steps.last().copied().unwrap_or_default();
            steps.extend(until_then.last().map(|state| state.entered(before, from_us, late)));
            steps.extend(since);
        }
        steps
    }
}

/// The steps that these statements make, which are in the order in which they act.
fn folded<'c>(statements: impl Iterator<Item = &'c Statement>, known: &Known) -> Vec<Step<'c>> {
    let mut steps: Vec<Step<'c>> = Vec::new();
    let lapse_before = |steps: &mut Vec<Step<'c>>, until_us: i64| {
        let lapse = steps.last().and_then(|last| last.lapse(known.grace_us));
        steps.extend(lapse.filter(|lapse| lapse.from_us <= until_us));
    };
    for statement in statements.filter(|statement| statement.effective_us < known.until_us) {
        let from_us = statement.effective_us;
        // What is said for the same time may correct the end of the term: nothing lapses between.
        if steps.last().is_some_and(|last| last.from_us < from_us) {
            lapse_before(&mut steps, from_us);
        }
        let last = steps.last().copied().unwrap_or_default();
        steps.push(last.after(from_us, statement));
    }
    lapse_before(&mut steps, known.until_us.saturating_sub(1));
    steps
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use ContractAction::{Cancelled, Changed, Paused, Renewed, Resumed, Started};

    const ALL: Known = Known { floor_us: i64::MIN, closed: Pane(i32::MAX), until_us: 1000, grace_us: 30 };

    fn said(at: i64, action: ContractAction, mrr: Option<i64>, ends: Option<i64>) -> Statement {
        let terms = Terms {
            mrr_hundredths: mrr.map_or(Change::Kept, Change::Set),
            ends_us: ends.map_or(Change::Kept, Change::Set),
            ..Terms::default()
        };
        let event_id = Name::from(format!("{at}-{action:?}").as_str());
        Statement { effective_us: at, said_us: at, counts_from: Pane(0), event_id, action, terms, reason: None }
    }

    fn contract(statements: &[Statement]) -> Contract {
        let mut contract = Contract::default();
        statements.iter().for_each(|statement| contract.insert(statement.clone()));
        contract
    }

    /// Time, phase and revenue of each step.
    fn story(statements: &[Statement]) -> Vec<(i64, Phase, Option<i64>)> {
        let contract = contract(statements);
        contract.steps(&ALL).iter().map(|step| (step.from_us, step.phase, step.mrr_hundredths)).collect()
    }

    #[test]
    fn a_contract_lives_from_its_start_to_its_end() {
        let life = [
            said(10, Started, Some(100), None),
            said(20, Changed, Some(130), None),
            said(30, Paused, None, None),
            said(40, Resumed, None, None),
            said(50, Cancelled, None, None),
        ];
        let expected = [
            (10, Phase::Running, Some(100)),
            (20, Phase::Running, Some(130)),
            (30, Phase::Paused, Some(130)),
            (40, Phase::Running, Some(130)),
            (50, Phase::Ended, Some(130)),
        ];
        assert_eq!(story(&life), expected);
    }

    #[test]
    fn a_term_that_nobody_renews_ends_after_the_grace() {
        let term = said(10, Started, Some(100), Some(200));
        assert_eq!(story(std::slice::from_ref(&term)).last(), Some(&(230, Phase::Ended, Some(100))));
        // Renewed in time, without a new end: it goes on for ever.
        let in_time = [term.clone(), said(230, Renewed, None, None)];
        assert_eq!(story(&in_time).last(), Some(&(230, Phase::Running, Some(100))));
        assert_eq!(story(&in_time)[1], (230, Phase::Ended, Some(100)), "a lapse at the same time comes first");
        let before = [term.clone(), said(229, Renewed, Some(120), Some(900))];
        assert_eq!(story(&before)[1..], [(229, Phase::Running, Some(120)), (930, Phase::Ended, Some(120))]);
        // Neither a change nor a resumption brings it back, a renewal does.
        for action in [Changed, Resumed] {
            let changed = [term.clone(), said(300, action, Some(90), None)];
            assert_eq!(story(&changed).last(), Some(&(300, Phase::Ended, Some(90))));
        }
        // An end in the past, which is corrected for the same time.
        let wrong = said(10, Started, Some(100), Some(-500));
        let corrected = Statement { said_us: 20, ..said(10, Changed, None, Some(200)) };
        let expected =
            [(10, Phase::Running, Some(100)), (10, Phase::Running, Some(100)), (230, Phase::Ended, Some(100))];
        assert_eq!(story(&[wrong.clone(), corrected]), expected);
        assert_eq!(story(&[wrong]).last(), Some(&(10, Phase::Ended, Some(100))));
        let back = [term, said(300, Renewed, Some(90), Some(900))];
        assert_eq!(story(&back)[1..3], [(230, Phase::Ended, Some(100)), (300, Phase::Running, Some(90))]);
    }

    #[test]
    fn a_start_forgets_the_terms_before_and_null_makes_them_unknown() {
        let again =
            [said(10, Started, Some(100), Some(200)), said(20, Cancelled, None, None), said(60, Started, None, None)];
        assert_eq!(story(&again).last(), Some(&(60, Phase::Running, None)));
        let mut cleared = said(30, Changed, None, None);
        cleared.terms.mrr_hundredths = Change::Cleared;
        cleared.terms.ends_us = Change::Cleared;
        let steps = [said(10, Started, Some(100), Some(200)), cleared];
        assert_eq!(story(&steps).last(), Some(&(30, Phase::Running, None)));
    }

    #[test]
    fn what_counts_late_does_not_override_what_was_said_since() {
        let late = Statement { said_us: 90, ..said(20, Changed, Some(50), None) };
        let life = [said(10, Started, Some(100), None), said(40, Changed, Some(130), None), late];
        let booked_us = |statement: &Statement| if statement.said_us == 90 { 80 } else { statement.effective_us };
        let contract = contract(&life);
        let steps = contract.steps_booked(&ALL, booked_us);
        let steps: Vec<_> = steps.iter().map(|step| (step.from_us, step.mrr_hundredths)).collect();
        assert_eq!(steps, [(10, Some(100)), (40, Some(130)), (80, Some(130))]);
    }

    #[test]
    fn only_what_was_said_by_then_counts() {
        let mut late = said(20, Changed, Some(50), None);
        (late.said_us, late.counts_from) = (500, Pane(5));
        let contract = contract(&[said(10, Started, Some(100), None), late]);
        let mrr = |closed| {
            let steps = contract.steps(&Known { closed: Pane(closed), ..ALL });
            steps.last().and_then(|step| step.mrr_hundredths)
        };
        assert_eq!((mrr(4), mrr(5)), (Some(100), Some(50)));
        let after_deletion = contract.steps(&Known { floor_us: 10, ..ALL });
        assert_eq!(after_deletion.iter().map(|step| step.from_us).collect::<Vec<_>>(), [20]);
    }

    fn anything() -> impl Strategy<Value = Vec<Statement>> {
        let action = prop::sample::select(ContractAction::ALL.to_vec());
        let mrr = prop::option::of(prop::option::of(0..3_i64));
        let one = (0..6_i64, 0..6_i64, action, mrr, prop::option::of(0..9_i64));
        prop::collection::vec(one, 0..8).prop_map(|all| {
            type One = (i64, i64, ContractAction, Option<Option<i64>>, Option<i64>);
            let statement = |(n, (at, later, action, mrr, ends)): (usize, One)| {
                let mut statement = said(at * 10, action, mrr.flatten(), ends.map(|ends| ends * 10));
                if mrr == Some(None) {
                    statement.terms.mrr_hundredths = Change::Cleared;
                }
                (statement.said_us, statement.event_id) = (later * 10, Name::from(n.to_string().as_str()));
                statement
            };
            all.into_iter().enumerate().map(statement).collect()
        })
    }

    proptest! {
        #[test]
        fn neither_order_of_arrival_nor_repeats_matter(
            (all, shuffled) in anything().prop_flat_map(|all| (Just(all.clone()), Just([all.clone(), all].concat()).prop_shuffle())),
        ) {
            prop_assert_eq!(contract(&all), contract(&shuffled));
        }

        #[test]
        fn steps_before_a_time_do_not_depend_on_what_comes_later(all in anything(), until_us in 0..120_i64) {
            let contract = contract(&all);
            let part = contract.steps(&Known { until_us, ..ALL });
            let whole: Vec<_> = contract.steps(&ALL).into_iter().take_while(|step| step.from_us < until_us).collect();
            prop_assert_eq!(part, whole);
        }

        #[test]
        fn at_each_time_a_contract_is_what_all_that_counts_by_then_says(all in anything(), at_us in 0..120_i64) {
            // Some count later than they hold.
            let booked_us = |statement: &Statement| statement.effective_us + (statement.said_us % 30).max(statement.said_us - 35);
            let all = contract(&all);
            let counting: Vec<Statement> =
                all.statements().iter().filter(|statement| booked_us(statement) <= at_us).cloned().collect();
            let state = |steps: &[Step<'_>]| {
                let last = steps.iter().rev().find(|step| step.from_us <= at_us);
                last.map(|step| (step.phase, step.mrr_hundredths, step.ends_us))
            };
            let counting = contract(&counting);
            let expected = counting.steps(&Known { until_us: at_us + 1, ..ALL }).last().copied();
            prop_assert_eq!(state(&all.steps_booked(&ALL, booked_us)), state(expected.as_slice()));
        }
    }
}
