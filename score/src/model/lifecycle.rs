//! Stages of the customers' lifecycle: when an account enters one, and what counts there.

use keepwell_core::interned::Name;
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// One stage. It has one owner, one action and one headline metric.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LifecycleStage {
    /// Name of the stage, as in the fact `stage` and in `only_for`.
    pub name: Spanned<Name>,
    /// DataFusion SQL over the window row. An account without the fact `stage` is in the last stage of the list whose SQL
    /// counts as true, otherwise in the first, which therefore has none.
    pub when: Option<Spanned<String>>,
    /// How long the SQL must be true before it counts as true, and false before it counts as false.
    #[serde(rename = "for", default = "nothing")]
    pub lasting: Span,
    /// Window of the row that the SQL reads. The default is that of the last model.
    pub period: Option<Spanned<String>>,
    /// Role of the person who looks after accounts in this stage.
    pub owner_role: Name,
    /// What that person does.
    pub action: Name,
    /// The number that shows whether it works.
    pub metric: HeadlineMetric,
}

/// The headline metric of a stage.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadlineMetric {
    /// Name of the metric.
    pub name: Name,
    /// DataFusion SQL over the window row. It gives a number, rounded to 6 decimals.
    pub sql: Spanned<String>,
}

fn nothing() -> Span {
    Span::from_secs(0)
}
