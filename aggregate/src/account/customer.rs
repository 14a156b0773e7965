//! An account as a customer: all its contracts together, over time.

use keepwell_core::pane::Pane;
use keepwell_core::schema::window::customer::Status;

use super::View;
use super::contracts::{Known, Phase, Step};
use crate::settings::Settings;

/// All contracts of an account from one time on, until the next moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment<'c> {
    /// Its first time, UTC microseconds.
    pub from_us: i64,
    /// Whether a contract runs that is paid, or whose price is not known.
    pub is_paying: bool,
    /// Whether one runs.
    pub is_running: bool,
    /// Whether one is paused.
    pub is_paused: bool,
    /// Number of contracts that run or are paused.
    pub contracts: i64,
    /// Revenue in hundredths, if that of all running contracts is known, in one currency.
    pub mrr_hundredths: Option<i64>,
    /// The currency of the running contracts, if it is one.
    pub currency: Option<&'c str>,
    /// Seats of the running contracts that tell them.
    pub seats: Option<i64>,
    /// The first end of a term, UTC microseconds.
    pub renews_us: Option<i64>,
    /// Why it came, if somebody said so.
    pub reason: Option<&'c str>,
}

impl<'c> Moment<'c> {
    fn of(from_us: i64, now: &[Step<'c>], reason: Option<&'c str>) -> Self {
        let open = || now.iter().filter(|step| step.is_open());
        let running = || now.iter().filter(|step| step.phase == Phase::Running);
        let currency = running().find_map(|step| step.currency);
        let is_one = running().all(|step| step.currency == currency);
        let sum = running().try_fold(0_i64, |sum, step| sum.checked_add(step.mrr_hundredths?));
        let has_seats = running().any(|step| step.seats.is_some());
        Self {
            from_us,
            is_paying: running().any(|step| step.mrr_hundredths != Some(0)),
            is_running: running().next().is_some(),
            is_paused: now.iter().any(|step| step.phase == Phase::Paused),
            contracts: open().count() as i64,
            mrr_hundredths: sum.filter(|_| is_one),
            currency: currency.filter(|_| is_one),
            seats: has_seats.then(|| running().filter_map(|step| step.seats).sum()),
            renews_us: open().filter_map(|step| step.ends_us).min(),
            reason,
        }
    }

    /// Whether the account is a customer: it pays, or has paused.
    pub fn is_customer(&self) -> bool {
        self.is_paying || self.is_paused
    }
}

/// The moments of contracts with these steps, oldest first.
pub fn moments<'c>(contracts: &[Vec<Step<'c>>]) -> Vec<Moment<'c>> {
    let steps = contracts.iter().enumerate();
    let mut steps: Vec<(usize, Step<'c>)> =
        steps.flat_map(|(n, steps)| steps.iter().map(move |step| (n, *step))).collect();
    // The sort is stable: steps of one contract at one time keep their order.
    steps.sort_by_key(|(_, step)| step.from_us);
    let mut now = vec![Step::default(); contracts.len()];
    let mut moments = Vec::with_capacity(steps.len());
    for same_time in steps.chunk_by(|(_, a), (_, b)| a.from_us == b.from_us) {
        same_time.iter().for_each(|(n, step)| now[*n] = *step);
        let reason = same_time.iter().rev().find_map(|(_, step)| step.reason);
        moments.extend(same_time.first().map(|(_, first)| Moment::of(first.from_us, &now, reason)));
    }
    moments
}

/// What the contracts of an account say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Customer<'c> {
    /// Whether it is a customer.
    pub status: Status,
    /// When it became a customer for the first time, UTC microseconds.
    pub started_us: Option<i64>,
    /// When it became a customer or ceased to be one, at last; else when its first contract started. UTC microseconds.
    pub since_us: Option<i64>,
    /// Why it left, if it has.
    pub churn_reason: Option<&'c str>,
    /// Its contracts now. None: the first has not started.
    pub now: Option<Moment<'c>>,
    /// The newest pane in which something of its contracts became known.
    pub known_from: Pane,
}

impl<'c> Customer<'c> {
    /// The customer at the end of these moments.
    pub fn of(moments: &[Moment<'c>], known_from: Pane) -> Self {
        let now = moments.last().copied();
        let turns = moments.iter().enumerate().filter(|(n, moment)| match n.checked_sub(1) {
            None => true,
            Some(before) => moments[before].is_customer() != moment.is_customer(),
        });
        let turn = turns.map(|(_, moment)| moment).next_back();
        let started_us = moments.iter().find(|moment| moment.is_customer()).map(|moment| moment.from_us);
        let status = match now {
            None => Status::Upcoming,
            Some(now) if now.is_paying => Status::Active,
            Some(now) if now.is_paused => Status::Paused,
            Some(_) if started_us.is_some() => Status::Churned,
            Some(now) if now.is_running => Status::Trial,
            Some(_) => Status::Expired,
        };
        let churn_reason = turn.and_then(|turn| turn.reason).filter(|_| status == Status::Churned);
        Self { status, started_us, since_us: turn.map(|turn| turn.from_us), churn_reason, now, known_from }
    }

    /// Seats bought.
    pub fn seats(&self) -> Option<i64> {
        self.now.and_then(|now| now.seats)
    }
}

impl<'a> View<'a> {
    /// The last time at which the contracts of the account count as activity, UTC microseconds: the end of this view for a
    /// customer, the churn of one that has left, and in any case the pane in which something of them became known.
    pub fn contracts_active_us(&self, settings: &Settings) -> Option<i64> {
        let customer = self.customer?;
        let as_customer_us = match customer.status {
            Status::Active | Status::Paused => Some(self.end_us),
            Status::Churned => customer.since_us,
            Status::Upcoming | Status::Trial | Status::Expired => None,
        };
        as_customer_us.max(Some(settings.panes.start_us(customer.known_from)))
    }

    /// The account as a customer at the end of this view.
    pub(super) fn as_customer(&self, settings: &Settings) -> Option<Customer<'a>> {
        let contracts = self.account.histories.contracts.values();
        let known = Known {
            floor_us: self.floor_us,
            closed: self.last,
            until_us: self.end_us,
            grace_us: settings.revenue.grace_us,
        };
        let known_from = contracts.clone().filter_map(|contract| contract.counts_from(&known)).max()?;
        let steps: Vec<Vec<Step<'a>>> = contracts.map(|contract| contract.steps(&known)).collect();
        Some(Customer::of(&moments(&steps), known_from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(from_us: i64, phase: Phase, mrr_hundredths: Option<i64>, currency: &'static str) -> Step<'static> {
        Step { from_us, phase, mrr_hundredths, currency: Some(currency), reason: Some("why"), ..Step::default() }
    }

    fn status(contracts: &[Vec<Step<'static>>]) -> (Status, Option<i64>, Option<i64>) {
        let customer = Customer::of(&moments(contracts), Pane(0));
        (customer.status, customer.started_us, customer.since_us)
    }

    #[test]
    fn the_status_follows_from_all_contracts_together() {
        use Phase::{Ended, Paused, Running};
        use Status::{Active, Churned, Expired, Trial, Upcoming};
        let eur = |from_us, phase, mrr| step(from_us, phase, mrr, "EUR");
        // contracts; status, first start, since
        let cases = [
            (vec![vec![]], (Upcoming, None, None)),
            (vec![vec![eur(1, Running, Some(0))]], (Trial, None, Some(1))),
            (vec![vec![eur(1, Running, Some(0)), eur(5, Ended, Some(0))]], (Expired, None, Some(1))),
            (vec![vec![eur(1, Running, Some(0)), eur(5, Running, Some(9))]], (Active, Some(5), Some(5))),
            (vec![vec![eur(1, Running, None)]], (Active, Some(1), Some(1))),
            (vec![vec![eur(1, Running, Some(9)), eur(5, Paused, Some(9))]], (Status::Paused, Some(1), Some(1))),
            (vec![vec![eur(1, Running, Some(9)), eur(5, Ended, Some(9))]], (Churned, Some(1), Some(5))),
            // To go on without paying is to leave, as far as money goes.
            (vec![vec![eur(1, Running, Some(9)), eur(5, Running, Some(0))]], (Churned, Some(1), Some(5))),
            // Another contract keeps the customer.
            (
                vec![vec![eur(1, Running, Some(9)), eur(5, Ended, Some(9))], vec![eur(3, Running, Some(1))]],
                (Active, Some(1), Some(1)),
            ),
            (
                vec![vec![eur(1, Running, Some(9)), eur(5, Ended, None), eur(8, Running, Some(2))]],
                (Active, Some(1), Some(8)),
            ),
            // One ends as the other begins: no break.
            (
                vec![vec![eur(1, Running, Some(9)), eur(5, Ended, None)], vec![eur(5, Running, Some(2))]],
                (Active, Some(1), Some(1)),
            ),
        ];
        for (contracts, expected) in cases {
            assert_eq!(status(&contracts), expected, "{contracts:?}");
        }
    }

    #[test]
    fn revenue_is_the_sum_of_what_runs_if_it_is_known_and_in_one_currency() {
        use Phase::{Paused, Running};
        let mrr = |steps: &[Step<'static>]| {
            let contracts: Vec<Vec<_>> = steps.iter().map(|step| vec![*step]).collect();
            let now = *moments(&contracts).last().unwrap();
            (now.mrr_hundredths, now.currency)
        };
        let (eur, usd) = (step(1, Running, Some(9), "EUR"), step(1, Running, Some(5), "USD"));
        assert_eq!(mrr(&[eur, eur]), (Some(18), Some("EUR")));
        assert_eq!(mrr(&[eur, usd]), (None, None));
        assert_eq!(mrr(&[eur, Step { phase: Paused, ..usd }]), (Some(9), Some("EUR")));
        assert_eq!(mrr(&[eur, Step { mrr_hundredths: None, ..eur }]), (None, Some("EUR")));
        assert_eq!(mrr(&[eur, Step { currency: None, ..eur }]), (None, None));
        assert_eq!(mrr(&[Step { mrr_hundredths: Some(i64::MAX), ..eur }, eur]), (None, Some("EUR")), "no overflow");
    }
}
