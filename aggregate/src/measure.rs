//! Measures: one account as of the end of one pane, over every window, as rows of the `windows` table.
//!
//! Sums are integers. Each quotient is divided only once, in this file.

use std::collections::BTreeSet;
use std::ops::Range;

use keepwell_core::event::{Outcome, Priority, Survey};
use keepwell_core::pane::Pane;
use keepwell_core::schema::RowBuilder;

use crate::account::View;
use crate::account::answers::Answered;
use crate::account::pane_totals::Usage;
use crate::account::people::{Headcount, MilestoneCounts};
use crate::account::tickets::Backlog;
use crate::pane_set::PaneSet;
use crate::settings::Settings;

/// The flags of a row.
#[derive(Debug, Clone, Copy)]
pub struct RowKind {
    /// Whether the pane has closed.
    pub is_final: bool,
    /// Whether the account is silent for so long that this is its last row.
    pub is_retired: bool,
    /// Whether the account was deleted.
    pub is_deleted: bool,
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy)]
pub struct Provenance {
    /// Partition of the events topic.
    pub partition: i32,
    /// The row contains the events below this offset.
    pub next_offset: i64,
    /// Number of the row among rows with the same `next_offset`.
    pub ordinal: i64,
    /// Watermark, UTC microseconds.
    pub watermark_us: Option<i64>,
}

/// The account of a row, and the columns besides its measures.
#[derive(Debug, Clone, Copy)]
pub struct RowOf<'a> {
    /// The account id.
    pub account_id: &'a str,
    /// The flags: final, retired, deleted.
    pub kind: RowKind,
    /// Where the row comes from.
    pub provenance: Provenance,
}

/// Appends one row per window. Ordinals count up from that of the provenance. Facts without a column and outcomes are
/// only on the first row, because an account can have any number of them. Returns how many of them did not fit.
pub fn append_rows(rows: &mut RowBuilder, view: &View<'_>, of: RowOf<'_>, settings: &Settings) -> i64 {
    let RowOf { account_id, kind, provenance } = of;
    let entitled = Entitled::of(view, settings);
    let as_of = AsOf::of(view, settings);
    let mut many = Many::of(view, settings);
    let left_out = many.left_out;
    for (window, ordinal) in settings.windows.iter().zip(provenance.ordinal..) {
        rows.text("account_id", Some(account_id));
        rows.time("as_of", Some(view.end_us));
        rows.text("period", Some(&window.period));
        rows.flag("final", kind.is_final);
        rows.flag("retired", kind.is_retired);
        rows.flag("deleted", kind.is_deleted);
        let end = view.last.next();
        windowed(rows, view, end.back(window.panes)..end, &entitled, settings);
        windowed(rows, view, end.back(2 * window.panes)..end.back(window.panes), &entitled, settings);
        as_of.append(rows, view, &entitled, &many);
        many = Many { left_out, ..Many::default() };
        rows.int32("epoch", settings.epoch as i32);
        rows.int32("partition", provenance.partition);
        rows.int("next_offset", provenance.next_offset);
        rows.int("ordinal", ordinal);
        rows.time("watermark", provenance.watermark_us);
        rows.end_row();
    }
    left_out
}

/// Facts without a column, and outcomes. An account may have any number of them, but its rows must fit into one record.
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
        let others = view.account.facts.keys().filter(|name| !KNOWN_FACTS.contains(&name.as_str()));
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

/// The features and seats that an account is entitled to use.
struct Entitled {
    features: Option<BTreeSet<String>>,
    seats: Option<i64>,
    is_fact: bool,
}

impl Entitled {
    /// The features come from the account's own fact, otherwise from the configured catalogue, otherwise they are
    /// unknown.
    fn of(view: &View<'_>, settings: &Settings) -> Self {
        let fact: Option<BTreeSet<String>> = view.fact("features").and_then(|text| serde_json::from_str(text).ok());
        let is_fact = fact.is_some();
        let catalogue = || (!settings.catalogue.is_empty()).then(|| settings.catalogue.iter().cloned().collect());
        let seats = view.fact("seats").and_then(|text| text.parse().ok());
        Self { features: fact.or_else(catalogue), seats, is_fact }
    }
}

fn ratio(numerator: i64, denominator: i64) -> Option<f64> {
    (denominator != 0).then(|| numerator as f64 / denominator as f64)
}

/// Writes the measures of the panes `[from, to)`.
fn windowed(rows: &mut RowBuilder, view: &View<'_>, panes: Range<Pane>, entitled: &Entitled, settings: &Settings) {
    let Range { start: from, end: to } = panes;
    let num_panes = i64::from(to.0 - from.0);
    let visible = from.max(view.first);
    let (mut usage, mut surveys, mut active_days) = (Usage::default(), Answered::default(), 0);
    for cell in view.account.cells.between(visible, to) {
        usage = usage.plus(cell.usage);
        surveys.merge(&cell.surveys);
        active_days += i64::from(cell.usage.events > 0);
    }
    let days = |set: &PaneSet| i64::from(set.count(visible, to));
    let user_days: i64 = view.account.adoption.users().map(days).sum();
    let active_users = view.account.adoption.users().filter(|set| set.intersects(visible, to)).count() as i64;
    let used = || view.account.adoption.features().filter(|(_, set)| set.intersects(visible, to)).map(|(name, _)| name);
    let features_used = used().count() as i64;
    let adopted =
        entitled.features.as_ref().map(|features| used().filter(|name| features.contains(*name)).count() as i64);

    rows.int("events", usage.events);
    rows.int("uses", usage.uses);
    rows.int("active_users", active_users);
    rows.int("user_days", user_days);
    rows.int("features_used", features_used);
    rows.int("features_adopted", adopted);
    let num_entitled = entitled.features.as_ref().map(|features| features.len() as i64);
    rows.float("adoption_rate", adopted.zip(num_entitled).and_then(|(adopted, entitled)| ratio(adopted, entitled)));
    rows.float("uses_per_user", ratio(usage.uses, active_users));
    rows.float("events_per_user", ratio(usage.events, active_users));
    rows.float("uses_per_feature", ratio(usage.uses, features_used));
    rows.int("active_days", active_days);
    rows.float("active_day_share", ratio(active_days, num_panes));
    rows.int("duration_ms", usage.known_duration_ms());
    rows.int("errors", usage.known_errors());
    rows.float("error_rate", usage.known_errors().and_then(|errors| ratio(errors, usage.error_uses)));
    rows.float("stickiness", ratio(user_days, num_panes * active_users));
    rows.float("seat_use", entitled.seats.and_then(|seats| ratio(active_users, seats)));

    let (from_us, end_us) = (settings.panes.start_us(from), settings.panes.start_us(to));
    let people = view.people_changes(from_us, end_us, &settings.champion_roles);
    rows.int("people_added", people.added);
    rows.int("people_removed", people.removed);
    rows.int("champions_lost", people.champions_lost);
    rows.int("champions_active", view.champions_active(end_us, visible, to, &settings.champion_roles));
    ticket_load(rows, view, from_us, end_us, settings);
    survey_answers(rows, &surveys);
}

fn ticket_load(rows: &mut RowBuilder, view: &View<'_>, from_us: i64, end_us: i64, settings: &Settings) {
    let mut load = view.load(from_us, end_us, settings);
    let [low, normal, high, urgent] = load.opened;
    rows.int("tickets_opened", load.opened.iter().sum::<i64>());
    rows.int("tickets_opened_low", low);
    rows.int("tickets_opened_normal", normal);
    rows.int("tickets_opened_high", high);
    rows.int("tickets_opened_urgent", urgent);
    rows.count_map("tickets_opened_by_category", load.opened_by_category.iter().map(|(name, count)| (*name, *count)));
    rows.int("tickets_escalated", load.escalated);
    rows.int("tickets_reopened", load.reopened);
    rows.int("first_responses", load.responses.all_ms.len() as i64);
    rows.float("first_response_ms_mean", load.responses.mean_ms());
    rows.int("first_response_ms_p90", load.responses.p90_ms());
    rows.float("first_response_within_target_low", load.responses.share_within(Priority::Low));
    rows.float("first_response_within_target_normal", load.responses.share_within(Priority::Normal));
    rows.float("first_response_within_target_high", load.responses.share_within(Priority::High));
    rows.float("first_response_within_target_urgent", load.responses.share_within(Priority::Urgent));
    rows.int("tickets_resolved", load.resolutions.all_ms.len() as i64);
    rows.float("resolution_ms_mean", load.resolutions.mean_ms());
    rows.int("resolution_ms_p90", load.resolutions.p90_ms());
    rows.float("resolution_within_target_low", load.resolutions.share_within(Priority::Low));
    rows.float("resolution_within_target_normal", load.resolutions.share_within(Priority::Normal));
    rows.float("resolution_within_target_high", load.resolutions.share_within(Priority::High));
    rows.float("resolution_within_target_urgent", load.resolutions.share_within(Priority::Urgent));
    rows.int("ticket_csat_count", load.ratings);
    rows.float("ticket_csat_mean", ratio(load.rating_sum, load.ratings));
    rows.int("ticket_csat_low", load.low_ratings);
}

fn survey_answers(rows: &mut RowBuilder, surveys: &Answered<'_>) {
    let nps = surveys.of(Survey::Nps);
    rows.int("nps_responses", nps.responses);
    rows.float("nps", ratio(100 * nps.score, nps.responses));
    rows.int("nps_detractors", nps.low);
    let csat = surveys.of(Survey::Csat);
    rows.int("csat_responses", csat.responses);
    rows.float("csat", ratio(csat.score, csat.best));
    rows.int("csat_low", csat.low);
    let ces = surveys.of(Survey::Ces);
    rows.int("ces_responses", ces.responses);
    rows.float("ces", ratio(ces.score, ces.best));
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

/// Measures as of the end of the view. They are equal on the rows of all windows, so they are computed once.
struct AsOf<'s> {
    backlog: Backlog<'s>,
    last_answers_us: [Option<i64>; 3],
    headcount: Headcount,
    milestones: MilestoneCounts,
    last_use_us: Option<i64>,
    first_value_us: Option<i64>,
    first_seen_us: Option<i64>,
}

impl<'s> AsOf<'s> {
    fn of(view: &View<'_>, settings: &'s Settings) -> Self {
        Self {
            backlog: view.backlog(settings),
            last_answers_us: [Survey::Nps, Survey::Csat, Survey::Ces].map(|survey| view.last_answer_us(survey)),
            headcount: view.headcount(&settings.champion_roles),
            milestones: view.milestones(),
            last_use_us: view.account.cells.latest(view, |cell| cell.last_use_us),
            first_value_us: view.account.cells.earliest(view, |cell| cell.first_value_us),
            first_seen_us: view.first_pane().map(|pane| settings.panes.start_us(pane)),
        }
    }

    fn append(&self, rows: &mut RowBuilder, view: &View<'_>, entitled: &Entitled, many: &Many<'_>) {
        let [low, normal, high, urgent] = self.backlog.open;
        rows.int("tickets_backlog", self.backlog.open.iter().sum::<i64>());
        rows.int("tickets_backlog_low", low);
        rows.int("tickets_backlog_normal", normal);
        rows.int("tickets_backlog_high", high);
        rows.int("tickets_backlog_urgent", urgent);
        let by_category = self.backlog.by_category.iter().map(|(name, count)| (*name, *count));
        rows.count_map("tickets_backlog_by_category", by_category);
        rows.int("tickets_moved", self.backlog.moved);
        let [nps_us, csat_us, ces_us] = self.last_answers_us;
        rows.time("nps_last_at", nps_us);
        rows.time("csat_last_at", csat_us);
        rows.time("ces_last_at", ces_us);
        rows.int("people", self.headcount.people);
        rows.int("champions", self.headcount.champions);
        rows.time("first_seen_at", self.first_seen_us);
        rows.time("last_activity_at", view.last_activity_us());
        rows.time("last_use_at", self.last_use_us);
        rows.time("first_value_at", self.first_value_us);
        facts(rows, view, entitled, many);
        rows.int("milestones", self.milestones.known);
        rows.int("milestones_done", self.milestones.done);
        rows.int("milestones_overdue", self.milestones.overdue);
        rows.time("oldest_overdue_at", self.milestones.oldest_overdue_us);
        rows.text_map("outcomes", Some(many.outcomes.iter().map(|(id, outcome)| (*id, outcome.name()))));
        rows.int("left_out", (many.left_out > 0).then_some(many.left_out));
    }
}

fn facts(rows: &mut RowBuilder, view: &View<'_>, entitled: &Entitled, many: &Many<'_>) {
    let time = |name| view.fact(name).and_then(|text| text.parse().ok());
    rows.time("started_at", time("started_at"));
    rows.time("renews_at", time("renews_at"));
    for name in ["plan", "segment", "stage", "owner"] {
        let text: Option<String> = view.fact(name).and_then(|text| serde_json::from_str(text).ok());
        rows.text(name, text.as_deref());
    }
    rows.int("seats", entitled.seats);
    rows.money("mrr", view.fact("mrr").and_then(|text| text.replace('.', "").parse().ok()));
    let num_features = entitled.features.as_ref().filter(|_| entitled.is_fact).map(|features| features.len() as i64);
    rows.int("features_entitled", num_features);
    let number = |name| view.fact(name).and_then(|text| text.parse().ok());
    rows.float("sentiment", number("sentiment"));
    rows.time("sentiment_at", view.fact_at_us("sentiment"));
    rows.float("trained", number("trained"));
    rows.float("invoices", number("invoices"));
    rows.text_map("other_facts", (!many.facts.is_empty()).then(|| many.facts.iter().copied()));
}
