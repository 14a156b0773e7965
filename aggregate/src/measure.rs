//! Measures: one account as of the end of one pane, over every window, as a row of the `windows` table.
//!
//! Sums are integers. Each quotient is divided only once, in this file.

mod as_of;
mod first_days;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use keepwell_core::event::{Priority, Survey};
use keepwell_core::pane::Pane;
use keepwell_core::schema::window::{
    self, Kept, MeasuresRow, Part, WindowRow, feature_group, key, people, provenance, surveys, tickets, usage,
};

use crate::account::View;
use crate::account::answers::Answered;
use crate::account::pane_totals::Usage;
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

/// Appends a row. Returns how many facts and outcomes did not fit into it.
pub fn append_row(rows: &mut window::Writer, view: &View<'_>, of: RowOf<'_>, settings: &Settings) -> i64 {
    let RowOf { account_id, kind, provenance } = of;
    let entitled = Entitled::of(view, settings);
    let parts = settings.layout.parts();
    let sums = Sums::of_each(view, parts.iter().map(|part| range(part, view.last.next(), settings)), &entitled);
    let measures = sums.into_iter().zip(parts);
    rows.append(WindowRow {
        key: key::Row {
            account_id,
            as_of: view.end_us,
            is_final: kind.is_final,
            is_retired: kind.is_retired,
            is_deleted: kind.is_deleted,
        },
        measures: measures.map(|(sums, part)| sums.measures(view, &entitled, &part.kept, settings)).collect(),
        provenance: provenance::Row {
            epoch: settings.epoch as i32,
            partition: provenance.partition,
            next_offset: provenance.next_offset,
            ordinal: provenance.ordinal,
            watermark: provenance.watermark_us,
        },
    });
    as_of::append(rows, view, &entitled, settings)
}

/// The panes of a window that ends before the pane `end`, or of the window before it.
fn range(part: &Part, end: Pane, settings: &Settings) -> Range<Pane> {
    let num_panes = settings.windows[part.window].panes;
    let from = end.back(num_panes);
    if part.is_previous { from.back(num_panes)..from } else { from..end }
}

/// The features and seats that an account is entitled to use.
struct Entitled<'s> {
    features: Option<Cow<'s, BTreeSet<String>>>,
    seats: Option<i64>,
    is_fact: bool,
}

impl<'s> Entitled<'s> {
    /// The features come from the account's own fact, otherwise from the configured catalogue, otherwise they are
    /// unknown.
    fn of(view: &View<'_>, settings: &'s Settings) -> Self {
        let fact: Option<BTreeSet<String>> = view.fact("features").and_then(|text| serde_json::from_str(text).ok());
        let is_fact = fact.is_some();
        let catalogue = (!settings.catalogue.is_empty()).then_some(Cow::Borrowed(&settings.catalogue));
        let seats = || view.fact("seats").and_then(|text| text.parse().ok());
        let seats = view.customer.map_or_else(seats, |customer| customer.seats());
        Self { features: fact.map(Cow::Owned).or(catalogue), seats, is_fact }
    }
}

fn ratio(numerator: i64, denominator: i64) -> Option<f64> {
    (denominator != 0).then(|| numerator as f64 / denominator as f64)
}

/// Sums over the panes of one window, or of the window before it.
struct Sums<'v> {
    panes: Range<Pane>,
    usage: Usage,
    active_days: i64,
    users: i64,
    user_days: i64,
    features: i64,
    adopted: i64,
    answers: Answered<'v>,
}

impl<'v> Sums<'v> {
    /// The sums of each range of panes. Users and features of the account are visited once for all of them.
    fn of_each(view: &View<'v>, ranges: impl Iterator<Item = Range<Pane>>, entitled: &Entitled<'_>) -> Vec<Self> {
        let nothing = |panes| Self {
            panes,
            usage: Usage::default(),
            active_days: 0,
            users: 0,
            user_days: 0,
            features: 0,
            adopted: 0,
            answers: Answered::default(),
        };
        let mut all: Vec<Self> = ranges.map(nothing).collect();
        for sums in &mut all {
            let visible = sums.panes.start.max(view.first);
            for (_, cell) in view.account.cells.between(visible, sums.panes.end) {
                let usage = cell.usage.sums();
                sums.usage = sums.usage.plus(usage);
                sums.active_days += i64::from(usage.events > 0);
                sums.answers.merge(cell.surveys());
            }
        }
        let adoption = &view.account.adoption;
        for user in adoption.users() {
            for sums in &mut all {
                let days = i64::from(user.count(sums.panes.start.max(view.first), sums.panes.end));
                sums.user_days += days;
                sums.users += i64::from(days > 0);
            }
        }
        for (name, feature) in adoption.features() {
            let is_entitled = entitled.features.as_ref().is_some_and(|features| features.contains(name));
            for sums in &mut all {
                let is_used = feature.intersects(sums.panes.start.max(view.first), sums.panes.end);
                sums.features += i64::from(is_used);
                sums.adopted += i64::from(is_used && is_entitled);
            }
        }
        all
    }

    /// The kept measures.
    fn measures<'s>(
        self,
        view: &View<'s>,
        entitled: &Entitled<'_>,
        kept: &Kept,
        settings: &'s Settings,
    ) -> MeasuresRow<'s> {
        let Range { start: from, end: to } = self.panes;
        let (from_us, end_us) = (settings.panes.start_us(from), settings.panes.start_us(to));
        let has_usage = self.usage.events > 0 || self.users > 0 || self.features > 0;
        let is_measured = has_usage || entitled.features.is_some() || entitled.seats.is_some();
        MeasuresRow {
            usage: (is_measured && !kept.usage.is_empty()).then(|| self.usage(entitled)),
            people: (!view.account.histories.people.is_empty() && !kept.people.is_empty()).then(|| {
                let changes = view.people_changes(from_us, end_us, &settings.champion_roles);
                let visible = from.max(view.first);
                people::Row {
                    people_added: changes.added,
                    people_removed: changes.removed,
                    champions_lost: changes.champions_lost,
                    champions_active: view.champions_active(end_us, visible, to, &settings.champion_roles),
                }
            }),
            tickets: (!view.account.histories.tickets.is_empty() && !kept.tickets.is_empty())
                .then(|| ticket_load(view, from_us, end_us, settings)),
            surveys: (!self.answers.is_empty() && !kept.surveys.is_empty()).then(|| survey_answers(&self.answers)),
            groups: self.group_uses(view, kept),
        }
    }

    /// Use of each group of which something is kept.
    fn group_uses<'r>(&self, view: &View<'_>, kept: &Kept) -> Vec<Option<feature_group::Row<'r>>> {
        let visible = self.panes.start.max(view.first)..self.panes.end;
        let of_group = |(group, kept): (usize, &Vec<usize>)| {
            if kept.is_empty() || self.usage.events == 0 {
                return None;
            }
            let sums = view.account.groups.within(group, &visible);
            let is_there = sums.active_days > 0 || self.users > 0;
            is_there.then(|| feature_group::Row {
                uses: sums.uses,
                users: sums.users,
                active_days: sums.active_days,
                user_share: ratio(sums.users, self.users),
            })
        };
        kept.groups.iter().enumerate().map(of_group).collect()
    }

    fn usage<'r>(&self, entitled: &Entitled<'_>) -> usage::Row<'r> {
        let num_panes = i64::from(self.panes.end.0 - self.panes.start.0);
        let Usage { events, uses, .. } = self.usage;
        let num_entitled = entitled.features.as_ref().map(|features| features.len() as i64);
        usage::Row {
            events,
            uses,
            active_users: self.users,
            user_days: self.user_days,
            features_used: self.features,
            features_adopted: num_entitled.map(|_| self.adopted),
            adoption_rate: num_entitled.and_then(|entitled| ratio(self.adopted, entitled)),
            uses_per_user: ratio(uses, self.users),
            events_per_user: ratio(events, self.users),
            uses_per_feature: ratio(uses, self.features),
            active_days: self.active_days,
            active_day_share: ratio(self.active_days, num_panes).unwrap_or_default(),
            duration_ms: self.usage.known_duration_ms(),
            errors: self.usage.known_errors(),
            error_rate: self.usage.known_errors().and_then(|errors| ratio(errors, self.usage.error_uses)),
            stickiness: ratio(self.user_days, num_panes * self.users),
            seat_use: entitled.seats.and_then(|seats| ratio(self.users, seats)),
        }
    }
}

fn ticket_load<'s>(view: &View<'s>, from_us: i64, end_us: i64, settings: &'s Settings) -> tickets::Row<'s> {
    let mut load = view.load(from_us, end_us, settings);
    let [low, normal, high, urgent] = load.opened;
    tickets::Row {
        tickets_opened: load.opened.iter().sum(),
        tickets_opened_low: low,
        tickets_opened_normal: normal,
        tickets_opened_high: high,
        tickets_opened_urgent: urgent,
        tickets_opened_by_category: load.opened_by_category.into_iter().collect(),
        tickets_escalated: load.escalated,
        tickets_reopened: load.reopened,
        first_responses: load.responses.all_ms.len() as i64,
        first_response_ms_mean: load.responses.mean_ms(),
        first_response_ms_p90: load.responses.p90_ms(),
        first_response_within_target_low: load.responses.share_within(Priority::Low),
        first_response_within_target_normal: load.responses.share_within(Priority::Normal),
        first_response_within_target_high: load.responses.share_within(Priority::High),
        first_response_within_target_urgent: load.responses.share_within(Priority::Urgent),
        tickets_resolved: load.resolutions.all_ms.len() as i64,
        resolution_ms_mean: load.resolutions.mean_ms(),
        resolution_ms_p90: load.resolutions.p90_ms(),
        resolution_within_target_low: load.resolutions.share_within(Priority::Low),
        resolution_within_target_normal: load.resolutions.share_within(Priority::Normal),
        resolution_within_target_high: load.resolutions.share_within(Priority::High),
        resolution_within_target_urgent: load.resolutions.share_within(Priority::Urgent),
        ticket_csat_count: load.ratings,
        ticket_csat_mean: ratio(load.rating_sum, load.ratings),
        ticket_csat_low: load.low_ratings,
    }
}

fn survey_answers<'r>(answers: &Answered<'_>) -> surveys::Row<'r> {
    let [nps, csat, ces] = [Survey::Nps, Survey::Csat, Survey::Ces].map(|survey| answers.of(survey));
    surveys::Row {
        nps_responses: nps.responses,
        nps: ratio(100 * nps.score, nps.responses),
        nps_detractors: nps.low,
        csat_responses: csat.responses,
        csat: ratio(csat.score, csat.best),
        csat_low: csat.low,
        ces_responses: ces.responses,
        ces: ratio(ces.score, ces.best),
        csat_satisfied: csat.known_high(),
        ces_easy: ces.known_high(),
    }
}
