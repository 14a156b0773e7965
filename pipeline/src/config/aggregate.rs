//! What aggregate measures, and its limits.

use std::collections::BTreeMap;

use garde::Validate;
use keepwell_core::schema::window::{Layout, Wanted};
use serde::{Deserialize, Serialize};

use super::{Measures, Secret, Span, SuccessPlan};

/// What aggregate measures. Fixed for an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Aggregate {
    /// Lengths of the trailing windows. Each is a whole number of panes.
    #[garde(length(min = 1, max = 8))]
    pub windows: Vec<Span>,
    /// Measures of the windows that a row keeps.
    #[garde(length(min = 1))]
    pub measures: Vec<Measures>,
    /// Groups of features, by name: names of features, in which `*` stands for any text.
    #[garde(length(max = 32))]
    pub feature_groups: BTreeMap<String, Vec<String>>,
    /// How long an account must be silent before its last row is sent.
    #[garde(skip)]
    pub retire_after: Span,
    /// Features that an account could use, if it has no `features` fact of its own.
    #[garde(skip)]
    pub catalogue: Vec<String>,
    /// Ticket categories that are counted separately. All others count as `other`.
    #[garde(skip)]
    pub ticket_categories: Vec<String>,
    /// Roles of people whom a customer must not lose.
    #[garde(skip)]
    pub champion_roles: Vec<String>,
    /// The first use of this feature counts as the first value.
    #[garde(skip)]
    pub first_value_feature: Option<String>,
    /// Success plans. The first that is for an account's segment is its plan.
    #[garde(skip)]
    pub success_plans: Vec<SuccessPlan>,
    /// Time limits for the first response to a ticket, by priority.
    #[garde(skip)]
    pub first_response_target: Targets,
    /// Time limits for the resolution of a ticket, by priority.
    #[garde(skip)]
    pub resolution_target: Targets,
    /// Which of several answers of one person, or ratings of one ticket, count in a window.
    #[garde(skip)]
    pub answers: Answers,
    /// Limits per account.
    #[garde(dive)]
    pub limits: Limits,
    /// Key of the hash that replaces an erased user id, 32 hex digits. Default: `ingest.user_id_key`.
    #[garde(skip)]
    pub erasure_key: Option<Secret>,
    /// Minimum interval between live rows of an account. A first change is published at once, or within a tenth of
    /// this.
    #[garde(skip)]
    pub live_interval: Span,
}

impl Default for Aggregate {
    fn default() -> Self {
        let hours = |n: u64| Span::from_secs(n * 3600);
        Self {
            windows: [7, 28, 90].map(|days| hours(24 * days)).to_vec(),
            measures: ["usage", "people", "tickets", "surveys"]
                .map(Measures::of)
                .into_iter()
                .chain([Measures { previous: true, ..Measures::of("uses") }])
                .collect(),
            feature_groups: BTreeMap::new(),
            retire_after: hours(24 * 180),
            catalogue: Vec::new(),
            ticket_categories: Vec::new(),
            champion_roles: vec!["champion".into()],
            first_value_feature: None,
            success_plans: Vec::new(),
            first_response_target: Targets { low: hours(48), normal: hours(24), high: hours(8), urgent: hours(1) },
            resolution_target: Targets { low: hours(240), normal: hours(120), high: hours(48), urgent: hours(8) },
            answers: Answers::Last,
            limits: Limits::default(),
            erasure_key: None,
            live_interval: Span::from_millis(100),
        }
    }
}

impl Aggregate {
    /// Names of the windows, shortest first, each once.
    pub fn periods(&self) -> Vec<String> {
        let mut windows = self.windows.clone();
        windows.sort();
        windows.dedup();
        windows.iter().map(ToString::to_string).collect()
    }

    /// The measures as the layout of a row takes them.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        self.measures.iter().map(Measures::wanted).collect()
    }

    /// Names of the feature groups, in order.
    pub(super) fn groups(&self) -> Vec<String> {
        self.feature_groups.keys().cloned().collect()
    }

    /// The columns of a window row.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.periods(), &self.groups(), &self.wanted())
    }
}

/// Which of several answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// The last answer of each person, and the last rating of each ticket. A later one is a correction.
    #[default]
    Last,
    /// Every answer and every rating.
    All,
}

/// Limits per account. An event above a limit is rejected as `over_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Maximum number of facts, counted by name.
    #[garde(range(min = 1))]
    pub facts: usize,
    /// Maximum number of alerts with an outcome.
    #[garde(range(min = 1))]
    pub outcomes: usize,
    /// Maximum number of milestones.
    #[garde(range(min = 1))]
    pub milestones: usize,
    /// Maximum number of contracts.
    #[garde(range(min = 1))]
    pub contracts: usize,
    /// Maximum number of events of contracts.
    #[garde(range(min = 1))]
    pub contract_events: usize,
    /// Maximum number of people.
    #[garde(range(min = 1))]
    pub people: usize,
    /// Maximum number of tickets, including those that ended.
    #[garde(range(min = 1))]
    pub tickets: usize,
    /// Maximum number of features used within the windows.
    #[garde(range(min = 1))]
    pub features: usize,
    /// Maximum number of users active within the windows.
    #[garde(range(min = 1))]
    pub users: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            facts: 2000,
            outcomes: 10_000,
            milestones: 10_000,
            contracts: 100,
            contract_events: 2000,
            people: 100_000,
            tickets: 1_000_000,
            features: 1_000_000,
            users: 10_000_000,
        }
    }
}

/// A time limit for each ticket priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// Limit for priority low.
    pub low: Span,
    /// Limit for priority normal, and for tickets without a priority.
    pub normal: Span,
    /// Limit for priority high.
    pub high: Span,
    /// Limit for priority urgent.
    pub urgent: Span,
}
