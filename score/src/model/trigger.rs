//! Triggers: what calls for action, when it begins and when it ends.

use keepwell_core::interned::Name;
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// One trigger.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Name; part of every alert.
    pub name: Spanned<Name>,
    /// DataFusion SQL over the window row, what is remembered and the score that is true when action is called for.
    pub sql: Spanned<String>,
    /// SQL that is true when the episode is over; where `sql` is no longer true, unless something is said.
    pub clear: Option<Spanned<String>>,
    /// Window whose row the SQL sees; the model's, where none is named.
    pub period: Option<Spanned<String>>,
    /// How long it must have been true before the episode begins.
    #[serde(rename = "for", default = "nothing")]
    pub lasting: Span,
    /// How long an episode lasts at least.
    #[serde(default = "nothing")]
    pub hold: Span,
    /// How long after an episode none begins.
    #[serde(default = "nothing")]
    pub cooldown: Span,
    /// How much it matters.
    pub severity: Severity,
    /// What to do.
    pub playbook: Name,
    /// Who is to do it.
    pub owner_role: Name,
}

fn nothing() -> Span {
    Span::from_secs(0)
}

/// How much a trigger matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Look at it some time.
    Low,
    /// Look at it this week.
    Medium,
    /// Look at it today.
    High,
}

impl Severity {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}
