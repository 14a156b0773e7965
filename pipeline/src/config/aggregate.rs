//! What aggregate measures, and of how much.

use garde::Validate;
use serde::{Deserialize, Serialize};

use super::{Secret, Span};

/// What aggregate measures. Fixed for an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Aggregate {
    /// Lengths of the trailing windows, whole panes each.
    #[garde(length(min = 1, max = 8))]
    pub windows: Vec<Span>,
    /// Silence after which an account's last row is sent.
    #[garde(skip)]
    pub retire_after: Span,
    /// Features an account could use, where it has no `features` fact of its own.
    #[garde(skip)]
    pub catalogue: Vec<String>,
    /// Ticket categories that are counted by name; the rest is `other`.
    #[garde(skip)]
    pub ticket_categories: Vec<String>,
    /// Roles of people whose loss matters.
    #[garde(skip)]
    pub champion_roles: Vec<String>,
    /// Feature whose first use is the first value.
    #[garde(skip)]
    pub first_value_feature: Option<String>,
    /// Targets for the first response to a ticket, by priority.
    #[garde(skip)]
    pub first_response_target: Targets,
    /// Targets for the resolution of a ticket, by priority.
    #[garde(skip)]
    pub resolution_target: Targets,
    /// Which of several answers of one person, or ratings of one ticket, count within a window.
    #[garde(skip)]
    pub answers: Answers,
    /// Most of each that is kept of one account.
    #[garde(dive)]
    pub limits: Limits,
    /// Key of the hash that stands for an erased user id, 32 hex digits; `ingest.user_id_key` unless told.
    #[garde(skip)]
    pub erasure_key: Option<Secret>,
    /// Live rows of an account are sent at most this often; a first change is told at once, or within a tenth of this.
    #[garde(skip)]
    pub live_interval: Span,
}

impl Default for Aggregate {
    fn default() -> Self {
        let hours = |n: u64| Span::from_secs(n * 3600);
        Self {
            windows: [7, 28, 90].map(|days| hours(24 * days)).to_vec(),
            retire_after: hours(24 * 180),
            catalogue: Vec::new(),
            ticket_categories: Vec::new(),
            champion_roles: vec!["champion".into()],
            first_value_feature: None,
            first_response_target: Targets { low: hours(48), normal: hours(24), high: hours(8), urgent: hours(1) },
            resolution_target: Targets { low: hours(240), normal: hours(120), high: hours(48), urgent: hours(8) },
            answers: Answers::Last,
            limits: Limits::default(),
            erasure_key: None,
            live_interval: Span::from_millis(100),
        }
    }
}

/// Which of several answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answers {
    /// The last of each person, and the last rating of each ticket: what is told again was changed.
    #[default]
    Last,
    /// Every one.
    All,
}

/// Most of each that is kept of one account. An event beyond it is rejected as `over_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Facts, by name.
    #[garde(range(min = 1))]
    pub facts: usize,
    /// Alerts with an outcome.
    #[garde(range(min = 1))]
    pub outcomes: usize,
    /// Milestones.
    #[garde(range(min = 1))]
    pub milestones: usize,
    /// People.
    #[garde(range(min = 1))]
    pub people: usize,
    /// Tickets, those that ended included.
    #[garde(range(min = 1))]
    pub tickets: usize,
    /// Features used within the windows.
    #[garde(range(min = 1))]
    pub features: usize,
    /// Users active within the windows.
    #[garde(range(min = 1))]
    pub users: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            facts: 2000,
            outcomes: 10_000,
            milestones: 10_000,
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
    /// For priority low.
    pub low: Span,
    /// For priority normal, and for none.
    pub normal: Span,
    /// For priority high.
    pub high: Span,
    /// For priority urgent.
    pub urgent: Span,
}
