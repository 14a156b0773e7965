//! What became of the revenue of an account in a period: amounts, and terms that were due.
//!
//! Definitions: the opening is the revenue just before the start, the closing that just before the end. Net movements
//! compare the two. Gross movements are sums of single rises and falls.

use std::collections::BTreeSet;
use std::ops::Range;

use keepwell_core::event::ContractAction;
use keepwell_pipeline::config::SeatRemoval;

use super::Span;
use crate::account::contracts::Step;
use crate::account::customer::{Moment, moments};

/// The reason of a fall of revenue that is a loss of seats.
const SEAT_REMOVED: &str = "seat_removed";

/// The contracts of an account, as they were known at a time.
pub struct Told<'c> {
    moments: Vec<Moment<'c>>,
    terms: Vec<Term<'c>>,
}

/// A term of a contract that had an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term<'c> {
    ends_us: i64,
    price: Price<'c>,
    /// The price of the next term, if it was renewed.
    renewed: Option<Price<'c>>,
}

/// Revenue in hundredths and its currency, as far as they are known.
type Price<'c> = (Option<i64>, Option<&'c str>);

fn price<'c>(step: &Step<'c>) -> Price<'c> {
    (step.mrr_hundredths, step.currency)
}

impl<'c> Told<'c> {
    /// Contracts with these steps.
    pub fn of(contracts: &[Vec<Step<'c>>]) -> Self {
        Self { moments: moments(contracts), terms: contracts.iter().flat_map(|steps| terms(steps)).collect() }
    }

    /// Whether a contract takes a step in these times, or a term ends in them.
    pub fn is_moved_in(&self, times: &Range<i64>) -> bool {
        let mut times_us = self.moments.iter().map(|moment| moment.from_us);
        times_us.any(|us| times.contains(&us)) || self.terms.iter().any(|term| times.contains(&term.ends_us))
    }
}

/// The terms of a contract that were due: they lapsed, were cancelled at their end, or were renewed, even if late.
fn terms<'c>(steps: &[Step<'c>]) -> Vec<Term<'c>> {
    let mut terms: Vec<Term<'c>> = Vec::new();
    let mut last = Step::default();
    let mut has_lapsed = false;
    for step in steps {
        let ended =
            last.ends_us.filter(|_| last.is_open()).map(|ends_us| Term { ends_us, price: price(&last), renewed: None });
        match step.by {
            None => {
                terms.extend(ended);
                has_lapsed = true;
            }
            Some(ContractAction::Renewed) => {
                let renewed = Some(price(step));
                match terms.last_mut().filter(|_| has_lapsed && !last.is_open()) {
                    Some(lapsed) => lapsed.renewed = renewed,
                    None => terms.extend(ended.map(|term| Term { renewed, ..term })),
                }
                has_lapsed = false;
            }
            Some(ContractAction::Cancelled | ContractAction::Started) => {
                terms.extend(ended.filter(|term| term.ends_us <= step.from_us));
                has_lapsed = false;
            }
            Some(ContractAction::Changed) => {
                // Another end, told when the term was over, is a renewal by another name.
                let over = ended.filter(|term| term.ends_us <= step.from_us && last.ends_us != step.ends_us);
                terms.extend(over.map(|term| Term { renewed: Some(price(step)), ..term }));
            }
            Some(ContractAction::Paused | ContractAction::Resumed) => {}
        }
        last = *step;
    }
    terms
}

/// What a row says of a period.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// The currency, if it is one.
    pub currency: Option<String>,
    /// Revenue just before the start, hundredths.
    pub opening: Option<i64>,
    /// Revenue just before the end, hundredths.
    pub closing: Option<i64>,
    /// Opening against closing.
    pub net: Option<Net>,
    /// Sums of single changes.
    pub gross: Option<Gross>,
    /// What was earned, hundredths.
    pub earned: Option<i64>,
    /// Whether the account paid just before the start.
    pub is_customer: bool,
    /// Whether it paid then, but not just before the end.
    pub is_churned: bool,
    /// Terms that ended in the period.
    pub due: Due,
    /// Whether there is anything to tell.
    pub is_anything: bool,
}

/// What became of the opening revenue, and what came, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Net {
    /// Of an account that never paid before.
    pub new: i64,
    /// More of what was there.
    pub expansion: i64,
    /// Less of what was there.
    pub contraction: i64,
    /// All of what was there.
    pub churned: i64,
    /// Of an account that paid before.
    pub reactivated: i64,
}

/// Sums of single rises and falls, in hundredths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gross {
    /// Rises.
    pub expansion: i64,
    /// Falls that are not to 0.
    pub contraction: i64,
    /// Falls to 0.
    pub churned: i64,
}

/// Terms that were due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Due {
    /// Number of terms that ended.
    pub due: i64,
    /// Number of those that were renewed.
    pub made: i64,
    /// Revenue of the terms that ended, hundredths.
    pub due_mrr: Option<i64>,
    /// Of it what was renewed, hundredths. What is sold on top is no renewal.
    pub made_mrr: Option<i64>,
}

impl Figures {
    /// The figures of a period up to `cut_us`, which is its end or within it.
    pub fn of(told: &Told<'_>, span: &Span, cut_us: i64, seat_removal: SeatRemoval) -> Self {
        let start_us = span.period.start_us;
        let moments = &told.moments;
        let before = |us: i64| moments.partition_point(|moment| moment.from_us < us);
        let (start, cut) = (before(start_us), before(cut_us.max(start_us)));
        let opening = start.checked_sub(1).and_then(|last| moments.get(last));
        let within = moments.get(start..cut).unwrap_or_default();
        let closing = within.last().or(opening);
        let pays = |moment: Option<&Moment<'_>>| moment.is_some_and(|moment| moment.is_paying);
        let terms: Vec<&Term<'_>> =
            told.terms.iter().filter(|term| (start_us..cut_us).contains(&term.ends_us)).collect();
        let mut figures = Self {
            is_customer: pays(opening),
            is_churned: pays(opening) && !pays(closing),
            is_anything: pays(opening) || !within.is_empty() || !terms.is_empty(),
            ..Self::default()
        };
        let all = opening.into_iter().chain(within);
        let paid = all.filter(|moment| moment.mrr_hundredths != Some(0)).map(|moment| moment.currency);
        let currencies: BTreeSet<Option<&str>> = paid.collect();
        let of_terms = terms.iter().filter(|term| term.price.0 != Some(0)).map(|term| term.price.1);
        let with_terms: BTreeSet<Option<&str>> = of_terms.chain(currencies.iter().copied()).collect();
        figures.due = Due::of(&terms, with_terms.len() <= 1);
        if currencies.len() <= 1 {
            let mrr = |moment: Option<&Moment<'_>>| moment.map_or(Some(0), |moment| moment.mrr_hundredths);
            let shown = if currencies.is_empty() && with_terms.len() == 1 { with_terms } else { currencies };
            figures.currency = shown.into_iter().flatten().next().map(str::to_owned);
            (figures.opening, figures.closing) = (mrr(opening), mrr(closing));
            let changes = figures.opening.and_then(|opening| Changes::of(opening, within));
            figures.gross = changes.map(|changes| changes.gross);
            let has_paid_before = moments.get(..start).unwrap_or_default().iter().any(|moment| moment.is_paying);
            let lost_seats = changes.map(|changes| changes.lost_seats);
            figures.net = figures.opening.zip(figures.closing).map(|(opening, closing)| {
                let net = Net::of(opening, closing, has_paid_before);
                if seat_removal == SeatRemoval::Churn { net.with_churn(lost_seats.unwrap_or_default()) } else { net }
            });
            figures.earned = earned(opening, within, span, cut_us);
        }
        figures
    }
}

impl Net {
    fn of(opening: i64, closing: i64, has_paid_before: bool) -> Self {
        let mut net = Self::default();
        let to = match (opening, closing) {
            (0, _) if has_paid_before => &mut net.reactivated,
            (0, _) => &mut net.new,
            (_, 0) => &mut net.churned,
            _ if closing < opening => &mut net.contraction,
            _ => &mut net.expansion,
        };
        *to = (closing - opening).abs();
        net
    }

    /// The same, with so much of the contraction as churn.
    fn with_churn(self, lost: i64) -> Self {
        let moved = lost.min(self.contraction);
        Self { contraction: self.contraction - moved, churned: self.churned + moved, ..self }
    }
}

/// The single rises and falls of an account that had revenue at the start.
#[derive(Debug, Clone, Copy, Default)]
struct Changes {
    gross: Gross,
    /// Falls because seats were removed, hundredths.
    lost_seats: i64,
}

impl Changes {
    /// None: a price within is not known, or a sum is beyond all money.
    fn of(opening: i64, within: &[Moment<'_>]) -> Option<Self> {
        let mut changes = Self::default();
        let mut now = opening;
        for moment in within.iter().filter(|_| opening != 0) {
            let next = moment.mrr_hundredths?;
            let fall = now - next;
            let Gross { expansion, contraction, churned } = &mut changes.gross;
            let sum = match next {
                _ if fall <= 0 => expansion,
                0 => churned,
                _ => contraction,
            };
            *sum = sum.checked_add(fall.abs())?;
            let is_lost = fall > 0 && next != 0 && moment.reason == Some(SEAT_REMOVED);
            changes.lost_seats += if is_lost { fall } else { 0 };
            now = next;
        }
        Some(changes)
    }
}

/// What was earned from the start of a period to `cut_us`, in hundredths: each price for the share of the month for which
/// it held, rounded half up once a month. None: a price is not known.
fn earned(opening: Option<&Moment<'_>>, within: &[Moment<'_>], span: &Span, cut_us: i64) -> Option<i64> {
    let mut sum = 0;
    for month in &span.months {
        let start_us = month.start_us.max(span.period.start_us);
        let ends = within.iter().map(|moment| moment.from_us).chain([cut_us]);
        let mut weighted = 0_i128;
        for (moment, until_us) in std::iter::once(opening).chain(within.iter().map(Some)).zip(ends) {
            let from_us = moment.map_or(i64::MIN, |moment| moment.from_us).max(start_us);
            let us = until_us.min(month.end_us).saturating_sub(from_us).max(0);
            if us > 0 {
                weighted += i128::from(moment.map_or(Some(0), |moment| moment.mrr_hundredths)?) * i128::from(us);
            }
        }
        let length = i128::from(month.end_us - month.start_us);
        sum += (2 * weighted + length) / (2 * length);
    }
    i64::try_from(sum).ok()
}

impl Due {
    /// The sums of terms. Without one currency there is no sum of revenue.
    fn of(terms: &[&Term<'_>], is_one_currency: bool) -> Self {
        let zero = Some(0).filter(|_| is_one_currency || terms.is_empty());
        let mut all = Self { due: 0, made: 0, due_mrr: zero, made_mrr: zero };
        let plus = |sum: Option<i64>, mrr: Option<i64>| sum.zip(mrr).and_then(|(sum, mrr)| sum.checked_add(mrr));
        for Term { price: (mrr, currency), renewed, .. } in terms {
            all.due += 1;
            all.due_mrr = plus(all.due_mrr, *mrr);
            if let Some((next, next_currency)) = renewed {
                all.made += 1;
                let kept = mrr.zip(*next).filter(|_| currency == next_currency).map(|(was, is)| was.min(is));
                all.made_mrr = plus(all.made_mrr, kept);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use keepwell_core::event::{Change, Terms};
    use keepwell_core::interned::Name;
    use keepwell_core::pane::Pane;

    use super::*;
    use crate::account::contracts::{Contract, Known, Statement};

    fn moments(prices: &[i64]) -> Vec<Moment<'static>> {
        let of = |price: &i64| Moment {
            from_us: 0,
            is_paying: *price != 0,
            is_running: true,
            is_paused: false,
            contracts: 1,
            mrr_hundredths: Some(*price),
            currency: None,
            seats: None,
            renews_us: None,
            reason: None,
        };
        prices.iter().map(of).collect()
    }

    /// A statement: when it holds, when it counts, what, and the end of the term, in days.
    type Said = (i64, i64, ContractAction, Option<i64>);

    /// Ends of the terms of a contract, with a + where it was renewed.
    fn ends(all: &[Said]) -> Vec<String> {
        let mut contract = Contract::default();
        for (nth, (effective_us, counts_us, action, ends_us)) in all.iter().enumerate() {
            let terms = Terms { ends_us: ends_us.map_or(Change::Kept, Change::Set), ..Terms::default() };
            contract.insert(Statement {
                effective_us: *effective_us,
                said_us: *counts_us,
                counts_from: Pane(0),
                event_id: Name::from(nth.to_string().as_str()),
                action: *action,
                terms,
                reason: None,
            });
        }
        let known = Known { floor_us: i64::MIN, closed: Pane(1), until_us: 2000, grace_us: 30 };
        let steps = contract.steps_booked(&known, |statement| statement.said_us);
        let of = |term: &Term<'_>| format!("{}{}", term.ends_us, if term.renewed.is_some() { "+" } else { "" });
        terms(&steps).iter().map(of).collect()
    }

    #[test]
    fn a_late_word_ends_only_the_terms_that_it_changes() {
        use ContractAction::{Cancelled, Changed, Renewed, Started};
        let cases: [(&[Said], &[&str]); 6] = [
            // Told late alone: the term that had lapsed is renewed.
            (&[(0, 0, Started, Some(365)), (365, 405, Renewed, Some(730))], &["365+", "730"]),
            // The same with a change that comes after it.
            (
                &[(0, 0, Started, Some(365)), (365, 405, Renewed, Some(730)), (370, 405, Changed, None)],
                &["365+", "730"],
            ),
            // A newer renewal was told before: the term that runs is not renewed.
            (
                &[(0, 0, Started, Some(365)), (730, 730, Renewed, Some(1095)), (365, 770, Renewed, Some(730))],
                &["365+", "1095"],
            ),
            // It stays ended.
            (
                &[(0, 0, Started, Some(180)), (180, 180, Renewed, Some(365)), (150, 405, Renewed, Some(300))],
                &["180+", "365"],
            ),
            // What was cancelled has started again since.
            (
                &[
                    (0, 0, Started, Some(90)),
                    (95, 95, Started, Some(365)),
                    (80, 370, Cancelled, None),
                    (385, 385, Renewed, Some(730)),
                ],
                &["90", "365+", "730"],
            ),
            (&[(0, 0, Started, Some(365)), (300, 310, Cancelled, None)], &[]),
        ];
        for (said, expected) in cases {
            assert_eq!(ends(said), expected, "{said:?}");
        }
    }

    #[test]
    fn single_changes_are_summed_as_long_as_they_are_money() {
        let changes = |prices: &[i64]| Changes::of(100, &moments(prices)).map(|changes| changes.gross);
        assert_eq!(changes(&[130, 110, 0, 40]), Some(Gross { expansion: 70, contraction: 20, churned: 110 }));
        assert_eq!(changes(&[i64::MAX, 0, i64::MAX, 0]), None, "a sum beyond all money is not known");
        assert_eq!(Changes::of(0, &moments(&[5])).map(|changes| changes.gross), Some(Gross::default()));
    }

    #[test]
    fn net_is_one_movement_and_lost_seats_are_at_most_what_was_lost() {
        let net = |opening, closing, has_paid| Net::of(opening, closing, has_paid);
        assert_eq!(net(0, 5, false), Net { new: 5, ..Net::default() });
        assert_eq!(net(0, 5, true), Net { reactivated: 5, ..Net::default() });
        assert_eq!(net(5, 0, true), Net { churned: 5, ..Net::default() });
        assert_eq!(net(5, 8, true), Net { expansion: 3, ..Net::default() });
        assert_eq!(net(5, 3, true).with_churn(9), Net { churned: 2, ..Net::default() });
        assert_eq!(net(5, 1, true).with_churn(3), Net { contraction: 1, churned: 3, ..Net::default() });
    }
}
