//! The configuration of aggregate, with times in panes and microseconds.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::feature_groups::FeatureGroups;
use crate::revenue::RevenueRules;
use keepwell_core::event::Priority;
use keepwell_core::interned::Name;
use keepwell_core::pane::{Pane, PaneWidth};
use keepwell_core::schema::window::{self, Layout};
use keepwell_pipeline::config::{Aggregate, Answers, Config, Limits, Revenue, SuccessPlan, Suspect, Targets};

/// Rows in a slice of a close.
const SLICE_ROWS: usize = 2000;

/// One trailing window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Name of the window as configured, e.g. `28d`.
    pub period: String,
    /// Length of the window in panes.
    pub panes: i32,
}

/// The settings of aggregate. Those in the fingerprint are fixed for an epoch.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Epoch of the log.
    pub epoch: u32,
    /// Partition count of Keepwell's topics.
    pub partitions: i32,
    /// Topic of accepted events.
    pub events: Arc<str>,
    /// Topic of window rows.
    pub windows_topic: Arc<str>,
    /// Topic of feature days.
    pub feature_days_topic: Arc<str>,
    /// Topic of revenue by period.
    pub revenue_topic: Arc<str>,
    /// Topic of rejects.
    pub rejects: Arc<str>,
    /// Size of the largest record to write, in bytes.
    pub max_record_bytes: usize,
    /// Width of a pane.
    pub panes: PaneWidth,
    /// Allowed lateness in microseconds.
    pub lateness_us: i64,
    /// Trailing windows, shortest first.
    pub windows: Vec<Window>,
    /// The columns of a window row.
    pub layout: Arc<Layout>,
    /// Groups of features, in the order of their names.
    pub feature_groups: FeatureGroups,
    /// An account without events for this time is retired. Microseconds.
    pub retire_after_us: i64,
    /// Features of accounts that have no `features` fact, sorted.
    pub catalogue: BTreeSet<String>,
    /// Ticket categories that are counted under their own name, sorted.
    pub categories: Vec<String>,
    /// Roles that make a person a champion.
    pub champion_roles: Vec<String>,
    /// The feature that gives an account its first value when it is first used.
    pub first_value_feature: Option<String>,
    /// Success plans, in order of precedence.
    pub success_plans: Vec<SuccessPlan>,
    /// Features whose first use a plan asks for.
    pub plan_features: BTreeSet<Name>,
    /// Targets for the first response, in milliseconds by [`Priority`].
    pub first_response_target_ms: [i64; 4],
    /// Targets for the resolution, in milliseconds by [`Priority`].
    pub resolution_target_ms: [i64; 4],
    /// Whether all answers of a person and all ratings of a ticket count, instead of the last one only.
    pub counts_all_answers: bool,
    /// The most users, features, tickets and so on that one account may have.
    pub limits: Limits,
    /// Key of the hash that replaces an erased user id.
    pub erasure_key: [u8; 16],
    /// The most memory that this process may use for event ids, in bytes.
    pub max_id_bytes: u64,
    /// Number of rows after which a slice of a close ends. A slice ends only after an account, or between features of a
    /// large one. The number must not change during a close.
    pub slice_rows: usize,
    /// How revenue follows from contracts.
    pub revenue: RevenueRules,
    /// When a source is far below its usual number of events.
    pub suspect: Suspect,
    /// The settings that shape state and rows, as text. A snapshot with a different fingerprint is refused.
    pub fingerprint: String,
}

/// The erasure key when none is configured.
const UNKEYED: [u8; 16] = *b"keepwell.erased.";

/// The settings that shape state and rows, as text. Settings that were added later appear only if they differ from
/// their default.
fn fingerprint(config: &Config, layout: &Layout) -> String {
    let Aggregate {
        windows,
        retire_after,
        catalogue,
        ticket_categories,
        champion_roles,
        first_value_feature,
        first_response_target,
        resolution_target,
        answers,
        limits,
        ..
    } = &config.aggregate;
    // The text keeps the form of the first versions, so that their snapshots can still be read.
    let mut text = format!(
        "{:?} {:?} Aggregate {{ windows: {windows:?}, retire_after: {retire_after:?}, catalogue: {catalogue:?}, \
         ticket_categories: {ticket_categories:?}, champion_roles: {champion_roles:?}, first_value_feature: {first_value_feature:?}, \
         first_response_target: {first_response_target:?}, resolution_target: {resolution_target:?}, live_interval: {:?} }}",
        config.time.pane,
        config.time.lateness,
        Aggregate::default().live_interval,
    );
    if *answers != Answers::default() {
        text += &format!(" answers: {answers:?}");
    }
    let Limits { facts, outcomes, milestones, contracts, contract_events, people, tickets, features, users } = *limits;
    let of_contracts = (contracts, contract_events);
    let default = Limits::default();
    if (Limits { contracts: default.contracts, contract_events: default.contract_events, ..*limits }) != default {
        text += &format!(
            " limits: Limits {{ facts: {facts}, outcomes: {outcomes}, milestones: {milestones}, people: {people}, \
             tickets: {tickets}, features: {features}, users: {users} }}"
        );
    }
    if of_contracts != (default.contracts, default.contract_events) {
        text += &format!(" limits of contracts: {of_contracts:?}");
    }
    let Revenue { grace, .. } = config.revenue;
    if grace != Revenue::default().grace {
        text += &format!(" revenue: Revenue {{ grace: {grace:?} }}");
    }
    if (Revenue { grace, ..Revenue::default() }) != config.revenue {
        text += &format!(" periods: {:?}", config.revenue);
    }
    if !config.aggregate.feature_groups.is_empty() {
        text += &format!(" feature_groups: {:?}", config.aggregate.feature_groups);
    }
    if !config.aggregate.success_plans.is_empty() {
        text += &format!(" success_plans: {:?}", config.aggregate.success_plans);
    }
    // Rows of another table or with other measures cannot follow in the same topic.
    text += &format!(" {}: {}", window::TABLE, layout.measures());
    text
}

fn features_of(plans: &[SuccessPlan]) -> BTreeSet<Name> {
    plans.iter().flat_map(SuccessPlan::features).map(|feature| Name::from(feature.as_str())).collect()
}

impl Settings {
    /// The settings from a configuration.
    pub fn new(config: &Config) -> Self {
        let panes = config.time.panes();
        let mut lengths = config.aggregate.windows.clone();
        lengths.sort();
        lengths.dedup();
        let layout = Arc::new(config.aggregate.layout());
        let windows = lengths
            .iter()
            .map(|length| Window { period: length.to_string(), panes: (length.as_micros() / panes.width_us) as i32 });
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.dedup();
            names
        };
        let target_ms = |t: &Targets| [t.low, t.normal, t.high, t.urgent].map(|span| span.as_micros() / 1000);
        Self {
            epoch: config.epoch,
            partitions: config.partitions,
            events: config.topics.events.as_str().into(),
            windows_topic: config.topics.windows.as_str().into(),
            feature_days_topic: config.topics.feature_days.as_str().into(),
            revenue_topic: config.topics.revenue.as_str().into(),
            rejects: config.topics.rejects.as_str().into(),
            max_record_bytes: config.kafka.max_record_bytes,
            panes,
            lateness_us: config.time.lateness.as_micros(),
            windows: windows.collect(),
            fingerprint: fingerprint(config, &layout),
            layout,
            feature_groups: FeatureGroups::new(config.aggregate.feature_groups.values()),
            retire_after_us: config.aggregate.retire_after.as_micros(),
            catalogue: config.aggregate.catalogue.iter().cloned().collect(),
            categories: sorted(&config.aggregate.ticket_categories),
            champion_roles: config.aggregate.champion_roles.clone(),
            first_value_feature: config.aggregate.first_value_feature.clone(),
            success_plans: config.aggregate.success_plans.clone(),
            plan_features: features_of(&config.aggregate.success_plans),
            first_response_target_ms: target_ms(&config.aggregate.first_response_target),
            resolution_target_ms: target_ms(&config.aggregate.resolution_target),
            counts_all_answers: config.aggregate.answers == Answers::All,
            limits: config.aggregate.limits,
            erasure_key: UNKEYED,
            max_id_bytes: config.duplicates.max_bytes,
            slice_rows: SLICE_ROWS,
            revenue: RevenueRules::new(&config.revenue),
            suspect: config.suspect.clone(),
        }
    }

    /// Length of the longest window, in panes.
    pub fn longest(&self) -> i32 {
        self.windows.last().map_or(1, |window| window.panes)
    }

    /// The oldest pane that any window ending after `closed` needs. All older panes can be forgotten.
    pub fn horizon(&self, closed: Pane) -> Pane {
        closed.back(2 * self.longest() - 2)
    }

    /// Whether no event of `pane` can be accepted any more at this watermark. Facts are an exception.
    pub fn is_forgotten(&self, pane: Pane, watermark_us: i64) -> bool {
        self.panes.end_us(pane) + self.lateness_us <= watermark_us
    }
}

/// Index of a priority in an array by priority. No priority counts as normal.
pub fn by_priority(priority: Option<Priority>) -> usize {
    usize::from(priority.unwrap_or(Priority::Normal).code()) - 1
}
