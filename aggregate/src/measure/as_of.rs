//! The state of an account at the end of its windows. It is the same for all windows, so it is computed once.

use keepwell_core::event::{Outcome, Survey};
use keepwell_core::schema::window::{
    self, AsOfRow, activity, answers, backlog, customer, facts, headcount, left_out, milestones, other_facts, outcomes,
    success_plan,
};

use super::Entitled;
use super::first_days::first_days_of;
use crate::account::View;
use crate::account::customer::Customer;
use crate::account::plan::Progress;
use crate::settings::Settings;

/// Ends the row of an account. Returns how many facts and outcomes did not fit.
pub(super) fn append(rows: &mut window::Writer, view: &View<'_>, entitled: &Entitled<'_>, settings: &Settings) -> i64 {
    let Many { facts, outcomes, left_out } = Many::of(view, settings);
    let texts = Texts::of(view);
    let customer = view.customer;
    let started_us = started_us(view);
    let progress = view.progress(&settings.success_plans, started_us);
    let has_facts = customer.is_some() || !view.account.histories.facts.is_empty();
    rows.end_account(AsOfRow {
        backlog: (!view.account.histories.tickets.is_empty()).then(|| backlog_of(view, settings)),
        answers: answers_of(view),
        headcount: (!view.account.histories.people.is_empty()).then(|| {
            let count = view.headcount(&settings.champion_roles);
            headcount::Row { people: count.people, champions: count.champions }
        }),
        activity: Some(activity_of(view, progress.as_ref(), settings)),
        customer: customer.map(customer_of),
        facts: has_facts.then(|| facts_of(view, &texts, entitled)),
        other_facts: (!facts.is_empty()).then_some(other_facts::Row { other_facts: Some(facts) }),
        milestones: (!view.account.histories.milestones.is_empty()).then(|| milestones_of(view)),
        success_plan: progress.as_ref().map(plan_of),
        first_days: first_days_of(view, started_us, settings),
        outcomes: (!outcomes.is_empty()).then(|| {
            let named = outcomes.into_iter().map(|(id, outcome)| (id, outcome.name()));
            outcomes::Row { outcomes: named.collect() }
        }),
        left_out: (left_out > 0).then_some(left_out::Row { left_out: Some(left_out) }),
    });
    left_out
}

/// Facts without a column, and outcomes. An account may have any number of them, but its row must fit into one record.
#[derive(Default)]
struct Many<'v> {
    facts: Vec<(&'v str, &'v str)>,
    outcomes: Vec<(&'v str, Outcome)>,
    /// Number of facts and outcomes that did not fit.
    left_out: i64,
}

impl<'v> Many<'v> {
    /// Facts take at most a quarter of a record: the first ones in the order of names. Outcomes take at most an eighth:
    /// the newest.
    fn of(view: &View<'v>, settings: &Settings) -> Self {
        let others = view.account.histories.facts.keys().filter(|name| !KNOWN_FACTS.contains(&name.as_str()));
        let mut facts: Vec<_> = others.filter_map(|name| Some((name.as_str(), view.fact(name.as_str())?))).collect();
        let fitting = fitting(facts.iter().map(|(name, text)| name.len() + text.len()), settings.max_record_bytes / 4);
        let mut left_out = facts.len() - fitting;
        facts.truncate(fitting);
        let longest_from = view.last.next().back(settings.longest());
        let mut outcomes: Vec<_> = view.outcomes(longest_from, settings).collect();
        let fits = |outcomes: &[(&str, Outcome, i64)]| {
            self::fitting(outcomes.iter().map(|(id, ..)| id.len() + 16), settings.max_record_bytes / 8)
        };
        if fits(&outcomes) < outcomes.len() {
            outcomes.sort_by(|a, b| b.2.cmp(&a.2).then(a.0.cmp(b.0)));
            let fitting = fits(&outcomes);
            left_out += outcomes.len() - fitting;
            outcomes.truncate(fitting);
            outcomes.sort_by(|a, b| a.0.cmp(b.0));
        }
        let outcomes = outcomes.into_iter().map(|(id, outcome, _)| (id, outcome)).collect();
        Self { facts, outcomes, left_out: left_out as i64 }
    }
}

/// How many of the leading items fit into `max_bytes`.
fn fitting(sizes: impl Iterator<Item = usize>, max_bytes: usize) -> usize {
    let mut total = 0;
    sizes
        .take_while(|bytes| {
            total += bytes;
            total <= max_bytes
        })
        .count()
}

/// Names of facts that have a column of their own.
const KNOWN_FACTS: [&str; 12] = [
    "plan",
    "segment",
    "stage",
    "owner",
    "seats",
    "mrr",
    "started_at",
    "renews_at",
    "features",
    "sentiment",
    "trained",
    "invoices",
];

fn backlog_of<'s>(view: &View<'s>, settings: &'s Settings) -> backlog::Row<'s> {
    let backlog = view.backlog(settings);
    let [low, normal, high, urgent] = backlog.open;
    backlog::Row {
        tickets_backlog: backlog.open.iter().sum(),
        tickets_backlog_low: low,
        tickets_backlog_normal: normal,
        tickets_backlog_high: high,
        tickets_backlog_urgent: urgent,
        tickets_backlog_by_category: backlog.by_category.into_iter().collect(),
        tickets_moved: backlog.moved,
    }
}

fn answers_of<'r>(view: &View<'_>) -> Option<answers::Row<'r>> {
    let [nps, csat, ces] = view.last_answers_us([Survey::Nps, Survey::Csat, Survey::Ces]);
    let is_any = nps.or(csat).or(ces).is_some();
    is_any.then_some(answers::Row { nps_last_at: nps, csat_last_at: csat, ces_last_at: ces })
}

fn activity_of<'r>(view: &View<'_>, progress: Option<&Progress<'_>>, settings: &Settings) -> activity::Row<'r> {
    let of_plan = progress.filter(|progress| progress.plan.first_value.is_some());
    let first_use = || view.account.cells.earliest(view, |cell| cell.first_value_us());
    activity::Row {
        first_seen_at: view.first_pane().map(|pane| settings.panes.start_us(pane)),
        last_activity_at: view.last_activity_us(),
        last_use_at: view.account.cells.latest(view, |cell| cell.last_use_us),
        first_value_at: of_plan.map_or_else(first_use, |progress| progress.first_value_us),
    }
}

fn plan_of<'s>(progress: &Progress<'s>) -> success_plan::Row<'s> {
    let Progress { plan, due, done, overdue, next, first_value_due_us, .. } = *progress;
    success_plan::Row {
        success_plan: Some(&plan.name),
        plan_items: Some(plan.items.len() as i64),
        plan_items_due: Some(due),
        plan_items_done: Some(done),
        plan_items_overdue: Some(overdue),
        plan_next_item: next.map(|(_, item)| item),
        plan_next_due_at: next.map(|(due_us, _)| due_us),
        first_value_due_at: first_value_due_us,
    }
}

fn milestones_of<'r>(view: &View<'_>) -> milestones::Row<'r> {
    let counts = view.milestones();
    milestones::Row {
        milestones: counts.known,
        milestones_done: counts.done,
        milestones_overdue: counts.overdue,
        oldest_overdue_at: counts.oldest_overdue_us,
    }
}

/// Facts that are texts.
struct Texts {
    plan: Option<String>,
    segment: Option<String>,
    stage: Option<String>,
    owner: Option<String>,
}

impl Texts {
    fn of(view: &View<'_>) -> Self {
        let [plan, segment, stage, owner] = ["plan", "segment", "stage", "owner"]
            .map(|name| view.fact(name).and_then(|text| serde_json::from_str(text).ok()));
        Self { plan, segment, stage, owner }
    }
}

fn customer_of(customer: Customer<'_>) -> customer::Row<'_> {
    customer::Row {
        customer_status: Some(customer.status.name()),
        customer_since: customer.since_us,
        churn_reason: customer.churn_reason,
        contracts: Some(customer.now.map_or(0, |now| now.contracts)),
        currency: customer.now.and_then(|now| now.currency),
    }
}

/// When the account became a customer, by its contracts, without them by the fact. UTC microseconds.
fn started_us(view: &View<'_>) -> Option<i64> {
    let fact = || view.fact("started_at").and_then(|text| text.parse().ok());
    view.customer.map_or_else(fact, |customer| customer.started_us)
}

fn facts_of<'t>(view: &View<'_>, texts: &'t Texts, entitled: &Entitled<'_>) -> facts::Row<'t> {
    let time = |name| view.fact(name).and_then(|text| text.parse().ok());
    let number = |name| view.fact(name).and_then(|text| text.parse().ok());
    let mrr = || view.fact("mrr").and_then(|text| text.replace('.', "").parse().ok());
    // Contracts are nearer to the truth than facts. So with contracts the facts about them do not count.
    let by_contracts = view.customer;
    facts::Row {
        started_at: started_us(view),
        renews_at: by_contracts
            .map_or_else(|| time("renews_at"), |customer| customer.now.and_then(|now| now.renews_us)),
        plan: texts.plan.as_deref(),
        segment: texts.segment.as_deref(),
        stage: texts.stage.as_deref(),
        owner: texts.owner.as_deref(),
        seats: entitled.seats,
        mrr: by_contracts.map_or_else(mrr, |customer| customer.now.and_then(|now| now.mrr_hundredths).map(i128::from)),
        features_entitled: entitled
            .features
            .as_ref()
            .filter(|_| entitled.is_fact)
            .map(|features| features.len() as i64),
        sentiment: number("sentiment"),
        sentiment_at: view.fact_at_us("sentiment"),
        trained: number("trained"),
        invoices: number("invoices"),
    }
}
