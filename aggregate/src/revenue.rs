//! Revenue of accounts by calendar period: rows of the `revenue` table.
//!
//! A row is a function of the contracts as they were known at the close of a pane. So the first report of a period and
//! each restatement of it can be made again from what was told, and from the pane from whose close on that counts.

pub mod figures;

use std::collections::BTreeSet;
use std::ops::Range;

use keepwell_core::calendar::{Calendar, Period, PeriodKind};
use keepwell_core::event::Change;
use keepwell_core::pane::Pane;
use keepwell_core::schema::revenue;
use keepwell_pipeline::config::{Late, Revenue, SeatRemoval};

use crate::account::View;
use crate::account::contracts::{Known, Statement, Step};
use crate::account::locked::Dimensions;
use crate::measure::Provenance;
use crate::settings::Settings;
use figures::{Figures, Gross, Net, Told};

/// The longest period, in microseconds.
const YEAR_US: i64 = 366 * 24 * 3600 * 1_000_000;

/// What the column of an amount cannot hold any more.
const MOST_HUNDREDTHS: i64 = 1_000_000_000_000_000_000;

/// How revenue follows from contracts.
#[derive(Debug, Clone)]
pub struct RevenueRules {
    /// How long a contract goes on after the end of its term without a renewal, in microseconds.
    pub grace_us: i64,
    /// The calendar of the business.
    pub calendar: Calendar,
    /// For how long facts at the starts of periods are needed, in microseconds.
    pub locked_for_us: i64,
    periods: Vec<PeriodKind>,
    late: Late,
    restate_for_us: i64,
    seat_removal: SeatRemoval,
}

impl RevenueRules {
    /// The rules as configured. No rows are made in a time zone that does not exist, which no checked configuration has.
    pub fn new(config: &Revenue) -> Self {
        let restate_for_us = config.restate_for.as_micros();
        let mut periods = config.periods.clone();
        periods.sort();
        periods.dedup();
        Self {
            grace_us: config.grace.as_micros(),
            calendar: config.calendar().unwrap_or_default(),
            locked_for_us: restate_for_us.saturating_add(YEAR_US),
            periods,
            late: config.late,
            restate_for_us,
            seat_removal: config.seat_removal,
        }
    }

    /// From when on a statement counts. What was told after the shortest period with it had been reported restates the
    /// past, or counts from when it became known. What is told first of an account is its past, and no news.
    fn booked_us(&self, statement: &Statement, known_us: i64, is_first: bool) -> i64 {
        if is_first || statement.effective_us >= known_us {
            return statement.effective_us;
        }
        let periods = self.periods.iter().filter_map(|kind| self.calendar.period(*kind, statement.effective_us));
        let reported_us = periods.map(|period| period.end_us).min().unwrap_or(i64::MIN);
        if reported_us > known_us {
            return statement.effective_us;
        }
        let is_forgotten = reported_us < known_us.saturating_sub(self.restate_for_us);
        match self.late {
            Late::Restate if !is_forgotten => statement.effective_us,
            _ => known_us,
        }
    }
}

/// A period, and the months in it.
#[derive(Debug, Clone)]
pub struct Span {
    period: Period,
    months: Vec<Period>,
}

/// The periods that the close of a pane is about.
#[derive(Debug)]
pub struct Periods {
    pane: Pane,
    /// Periods that end in the pane, or with it.
    ended: Vec<Span>,
    /// Periods that go on behind it.
    running: Vec<Span>,
    /// Periods that ended before and may still be restated, oldest first.
    past: Vec<Span>,
}

impl Periods {
    /// The periods at the close of `pane`.
    pub fn at(pane: Pane, settings: &Settings) -> Self {
        let rules = &settings.revenue;
        let calendar = &rules.calendar;
        let (start_us, end_us) = (settings.panes.start_us(pane), settings.panes.end_us(pane));
        let mut periods = Self { pane, ended: Vec::new(), running: Vec::new(), past: Vec::new() };
        let restated_from_us = match rules.late {
            Late::Restate => start_us.saturating_sub(rules.restate_for_us),
            Late::BookNow => i64::MAX,
        };
        for kind in &rules.periods {
            let mut next = calendar.period(*kind, end_us - 1);
            while let Some(period) = next {
                let of = match period.end_us {
                    of if of > end_us => &mut periods.running,
                    of if of > start_us => &mut periods.ended,
                    of if of >= restated_from_us => &mut periods.past,
                    _ => break,
                };
                of.push(Span { period, months: calendar.months(&period) });
                next = calendar.before(&period);
            }
        }
        periods.past.sort_by_key(|span| span.period);
        periods
    }
}

/// The account and the place of its rows.
#[derive(Debug, Clone, Copy)]
pub struct Of<'r> {
    /// The account id.
    pub account_id: &'r str,
    /// The account at the end of the pane.
    pub view: &'r View<'r>,
    /// Where the rows come from. Their ordinals begin here.
    pub provenance: Provenance,
}

/// Appends the rows of an account at the close of a pane: of periods that have ended, of those that something told late
/// changes, and of those that run, if there is news. Returns their number.
pub fn append_rows(rows: &mut revenue::Writer, of: Of<'_>, periods: &Periods, settings: &Settings) -> i64 {
    if of.view.account.histories.contracts.is_empty() {
        return 0;
    }
    let end_us = of.view.end_us;
    let times = settings.panes.start_us(periods.pane)..end_us;
    let is_told = of.view.statements().any(|told| told.counts_from == periods.pane);
    let is_deleted = is_deleted_now(of.view);
    let begins = |span: &&Span| times.contains(&span.period.start_us);
    let is_due = !periods.ended.is_empty() || periods.running.iter().any(|span| begins(&span));
    if !is_due && !is_told && !is_deleted && !may_move(of.view, &times, settings) {
        return 0;
    }
    let told = Told::at(of.view, of.view.floor_us, periods.pane, settings);
    let mut made = Rows { rows, of, settings, start_us: times.start, before: None, num_rows: 0 };
    for span in &periods.ended {
        made.append(&told, span, span.period.end_us, true);
    }
    if is_told {
        restate(&mut made, periods);
    }
    let is_news = is_told || is_deleted || told.is_moved_in(&times);
    for span in periods.running.iter().filter(|span| is_news || begins(span)) {
        made.append(&told, span, end_us, false);
    }
    made.num_rows
}

/// Whether this close is the first that knows of a deletion.
fn is_deleted_now(view: &View<'_>) -> bool {
    view.account.histories.deletions.iter().any(|deletion| !deletion.is_announced && deletion.at_us < view.end_us)
}

/// Whether a contract may take a step in these times, or a term may end in them, without anything told. The customer
/// knows it, unless something counts from another time than it holds.
fn may_move(view: &View<'_>, times: &Range<i64>, settings: &Settings) -> bool {
    let last_us = view.customer.and_then(|customer| customer.now).map(|now| now.from_us);
    let booked_us = view.booking(settings);
    last_us.is_some_and(|us| times.contains(&us))
        || view.statements().any(|told| {
            let ends = matches!(told.terms.ends_us, Change::Set(us) if times.contains(&us));
            ends || booked_us(told) != told.effective_us
        })
}

impl<'a> View<'a> {
    /// What was told of contracts, and no deletion has erased.
    fn statements(&self) -> impl Iterator<Item = &'a Statement> {
        let floor_us = self.floor_us;
        let all = self.account.histories.contracts.values().flat_map(|contract| contract.statements());
        all.filter(move |told| told.said_us > floor_us)
    }

    /// From when on each statement counts.
    fn booking<'s>(&self, settings: &'s Settings) -> impl Fn(&Statement) -> i64 + use<'s> {
        let first = self.statements().map(|told| told.counts_from).min();
        move |told| {
            let known_us = settings.panes.start_us(told.counts_from);
            settings.revenue.booked_us(told, known_us, Some(told.counts_from) == first)
        }
    }
}

impl<'v> Told<'v> {
    /// The contracts as they were known at the close of `closed`, without what was said until `floor_us`.
    fn at(view: &View<'v>, floor_us: i64, closed: Pane, settings: &Settings) -> Self {
        let known = Known { floor_us, closed, until_us: i64::MAX, grace_us: settings.revenue.grace_us };
        let booked_us = View { floor_us, ..*view }.booking(settings);
        let contracts = view.account.histories.contracts.values();
        let steps: Vec<Vec<Step<'v>>> = contracts.map(|contract| contract.steps_booked(&known, &booked_us)).collect();
        Self::of(&steps)
    }
}

/// A past period, as one close after another knew it.
struct Reported<'p> {
    span: &'p Span,
    /// The close that reported it first.
    first: Pane,
    /// Number of closes that have changed it.
    revision: i32,
    figures: Option<Figures>,
    /// Whether the last close has changed it.
    is_changed: bool,
}

/// Appends the rows of past periods that are otherwise by what counts first at this close.
fn restate(made: &mut Rows<'_, '_>, periods: &Periods) {
    let (view, settings) = (made.of.view, made.settings);
    let reported = |span| Reported {
        span,
        first: settings.panes.pane(span.period.end_us - 1),
        revision: 0,
        figures: None,
        is_changed: false,
    };
    let mut past: Vec<Reported<'_>> = periods.past.iter().map(reported).collect();
    let told_at: BTreeSet<Pane> = view.statements().map(|told| told.counts_from).collect();
    let first: BTreeSet<Pane> = past.iter().map(|reported| reported.first).collect();
    let from = first.first().copied().unwrap_or(periods.pane);
    for close in first.union(&told_at).copied().filter(|close| (from..=periods.pane).contains(close)) {
        let told = Told::at(view, view.floor_us, close, settings);
        let is_told = told_at.contains(&close);
        for of in past.iter_mut().filter(|of| close == of.first || (close > of.first && is_told)) {
            let now = Figures::of(&told, of.span, of.span.period.end_us, settings.revenue.seat_removal);
            of.is_changed = of.figures.as_ref().is_some_and(|before| *before != now);
            of.revision += i32::from(of.is_changed);
            of.figures = Some(now);
        }
    }
    for of in past.iter().filter(|of| of.is_changed) {
        if let Some(figures) = &of.figures {
            made.write(of.span, figures, Some(of.revision));
        }
    }
}

/// The rows of an account.
struct Rows<'w, 'r> {
    rows: &'w mut revenue::Writer,
    of: Of<'r>,
    settings: &'r Settings,
    /// Start of the pane, UTC microseconds.
    start_us: i64,
    /// The contracts as the close before knew them, once that is asked for.
    before: Option<Told<'r>>,
    num_rows: i64,
}

impl<'r> Rows<'_, 'r> {
    /// Appends the row of a period up to `cut_us`, if there is anything to tell, or was at the close before.
    fn append(&mut self, told: &Told<'_>, span: &Span, cut_us: i64, is_final: bool) {
        let figures = Figures::of(told, span, cut_us, self.settings.revenue.seat_removal);
        if figures.is_anything || self.was_anything(span) {
            self.write(span, &figures, is_final.then_some(0));
        }
    }

    /// Whether the close before had anything to tell of a period.
    fn was_anything(&mut self, span: &Span) -> bool {
        let Self { of, settings, start_us, .. } = *self;
        if span.period.start_us >= start_us {
            return false;
        }
        let announced = of.view.account.histories.deletions.iter().rev().filter(|deletion| deletion.is_announced);
        let floor_us = announced.map(|deletion| deletion.at_us).next().unwrap_or(i64::MIN);
        let before = || Told::at(of.view, floor_us, of.view.last.back(1), settings);
        let before = self.before.get_or_insert_with(before);
        Figures::of(before, span, start_us, settings.revenue.seat_removal).is_anything
    }

    /// Writes a row. A revision makes it final.
    fn write(&mut self, span: &Span, figures: &Figures, revision: Option<i32>) {
        let Of { account_id, view, provenance } = self.of;
        let period = &span.period;
        let money = |hundredths: i64| (hundredths < MOST_HUNDREDTHS).then_some(i128::from(hundredths));
        let net = |of: fn(&Net) -> i64| figures.net.as_ref().map(of).and_then(money);
        let gross = |of: fn(&Gross) -> i64| figures.gross.as_ref().map(of).and_then(money);
        let Dimensions { segment, owner, plan } = view.dimensions_at(period.start_us, self.settings);
        let [segment, owner, plan] = [segment, owner, plan].map(|text| serde_json::from_str::<String>(&text?).ok());
        self.rows.append(revenue::Row {
            account_id,
            period: period.kind.name(),
            period_start: period.start_us,
            period_end: period.end_us,
            as_of: view.end_us,
            is_final: revision.is_some(),
            revision: revision.unwrap_or_default(),
            currency: figures.currency.as_deref(),
            opening: figures.opening.and_then(money),
            new: net(|net| net.new),
            expansion: net(|net| net.expansion),
            contraction: net(|net| net.contraction),
            churned: net(|net| net.churned),
            reactivated: net(|net| net.reactivated),
            closing: figures.closing.and_then(money),
            gross_expansion: gross(|gross| gross.expansion),
            gross_contraction: gross(|gross| gross.contraction),
            gross_churned: gross(|gross| gross.churned),
            earned: figures.earned.and_then(money),
            is_customer: figures.is_customer,
            is_churned: figures.is_churned,
            renewals_due: figures.due.due,
            renewals_made: figures.due.made,
            renewals_due_mrr: figures.due.due_mrr.and_then(money),
            renewals_made_mrr: figures.due.made_mrr.and_then(money),
            segment: segment.as_deref(),
            owner: owner.as_deref(),
            plan: plan.as_deref(),
            epoch: self.settings.epoch as i32,
            partition: provenance.partition,
            next_offset: provenance.next_offset,
            ordinal: provenance.ordinal + self.num_rows,
        });
        self.num_rows += 1;
    }
}
