//! Triggers: conditions that raise alerts, when an episode begins and when it ends.

use keepwell_core::interned::Name;
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// One trigger of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Name of the trigger, part of every alert.
    pub name: Spanned<Name>,
    /// DataFusion SQL over the window row, the remembered values and the score. True raises the trigger.
    pub sql: Spanned<String>,
    /// SQL that is true when the episode is over. Without it, the episode is over when `sql` is no longer true.
    pub clear: Option<Spanned<String>>,
    /// Window of the row that the SQL reads. The default is the model's.
    pub period: Option<Spanned<String>>,
    /// How long `sql` must be true before the episode begins.
    #[serde(rename = "for", default = "nothing")]
    pub lasting: Span,
    /// The shortest duration of an episode.
    #[serde(default = "nothing")]
    pub hold: Span,
    /// How long after an episode no new one begins.
    #[serde(default = "nothing")]
    pub cooldown: Span,
    /// How urgent the alert is.
    pub severity: Severity,
    /// Name of the playbook: what to do.
    pub playbook: Name,
    /// Role of the person who is to do it.
    pub owner_role: Name,
}

fn nothing() -> Span {
    Span::from_secs(0)
}

/// How urgent a trigger is.
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
    /// The word in the model file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}
