//! The model file: factors, weights, bands and triggers as data.

mod band;
mod check;
mod factor;
mod lifecycle;
mod trigger;

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

pub use band::{Band, BandBasis, Basis, Display};
pub use check::parse;
pub use factor::{Against, Carry, Expires, Factor, Fallback, Group, Missing, Reduce};
pub use lifecycle::{HeadlineMetric, LifecycleStage};
pub use trigger::{Severity, Trigger};

use keepwell_core::interned::Name;
use keepwell_core::pane::DAY_US;
use keepwell_core::points::Points;
use keepwell_pipeline::config::Span;

/// The default model, built into the program.
pub const DEFAULT: &str = include_str!("../models/default.yaml");

/// The band of an account when too little is known about it.
pub const UNKNOWN: &str = "unknown";

/// A model file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// The version of the file, part of every score. It must rise with every change.
    pub version: i64,
    /// Values of the fact `segment` that models may name. Without a list, any value is allowed.
    #[serde(default)]
    pub segments: Vec<Spanned<String>>,
    /// Values of the fact `stage` that models may name, in the order of a customer's life. Without a list, any value is
    /// allowed.
    #[serde(default)]
    pub lifecycle: Vec<Spanned<String>>,
    /// The stages of the lifecycle, in its order, with rules that say which accounts are in which. They stand in place of
    /// `lifecycle`.
    #[serde(default)]
    pub stages: Vec<LifecycleStage>,
    /// Models in order of precedence: the first with a fitting `only_for` scores an account. The last must fit all
    /// accounts.
    pub models: Vec<Model>,
}

/// How accounts of some segments and stages are scored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name of the model, part of every score.
    pub name: Spanned<Name>,
    /// The accounts that the model is for. The default is all accounts.
    #[serde(default)]
    pub only_for: OnlyFor,
    /// Window of the row that the SQL reads, unless a factor or trigger names another.
    pub period: Spanned<String>,
    /// What replaces an unknown value, unless a factor declares its own policy.
    #[serde(default)]
    pub missing: Missing,
    /// Percent of the weights that must have a known value. Below it the band is `unknown`.
    #[serde(default)]
    pub minimum_coverage: f64,
    /// The meaning of the weights.
    #[serde(default)]
    pub weights: Weights,
    /// With `weights: additive`: the points to which the factors add.
    #[serde(default)]
    pub start: f64,
    /// Groups of factors that become one value before they are weighed. Without groups, all factors are weighed
    /// together.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// The factors of the score.
    pub factors: Vec<Factor>,
    /// Values of earlier final rows that factors and triggers may use.
    #[serde(default)]
    pub remember: Vec<Remember>,
    /// Bands from the worst to the best.
    pub bands: Vec<Band>,
    /// Which form of the score decides the band.
    #[serde(default)]
    pub band_basis: BandBasis,
    /// How the score is displayed.
    #[serde(default)]
    pub display: Display,
    /// Age of the account in days at which its score becomes the baseline.
    #[serde(default = "thirty")]
    pub baseline_day: f64,
    /// Conditions that raise alerts.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
}

fn thirty() -> f64 {
    30.0
}

/// Segments and stages. An empty list means any.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnlyFor {
    /// Allowed values of the fact `segment`.
    pub segments: Vec<Spanned<String>>,
    /// Allowed values of the fact `stage`.
    pub stages: Vec<Spanned<String>>,
}

impl OnlyFor {
    /// Whether an account with this segment and stage fits.
    pub fn fits(&self, segment: Option<&str>, stage: Option<&str>) -> bool {
        let is_among = |names: &[Spanned<String>], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|known| known.value == name))
        };
        is_among(&self.segments, segment) && is_among(&self.stages, stage)
    }

    fn is_for_all(&self) -> bool {
        self.segments.is_empty() && self.stages.is_empty()
    }
}

/// The meaning of the weights of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Weights must sum to exactly 100. The score is the weighted mean.
    #[default]
    Percent,
    /// Weights count relative to their sum. The score is the weighted mean.
    Raw,
    /// Each factor adds its points to `start`, multiplied by its own percentage (default 100). Points may be negative.
    /// The score is limited to 0 to 100.
    Additive,
}

/// A value of earlier final rows, as a column for the SQL of factors and triggers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remember {
    /// Name of the column.
    pub name: Spanned<Name>,
    /// DataFusion SQL over the window row. It gives the value to remember of each final row, rounded to 6 decimals.
    pub sql: Spanned<String>,
    /// Window of the row that the SQL reads. The default is the model's.
    pub period: Option<Spanned<String>>,
    /// How far back values count: final rows must be younger than this, relative to the present row.
    pub over: Span,
    /// How the values become one. Unknown values do not count.
    pub by: Over,
}

/// How remembered values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// The mean, rounded half-up to 6 decimals.
    Mean,
    /// The lowest value.
    Min,
    /// The highest value.
    Max,
    /// The oldest value.
    First,
    /// The newest value.
    Last,
}

impl Over {
    /// Reduces values, which must be in order of time, to one. None if there are no values.
    pub fn of(self, values: impl DoubleEndedIterator<Item = Points> + ExactSizeIterator) -> Option<Points> {
        let (count, mut values) = (values.len() as i64, values);
        match self {
            Self::Mean => (count > 0).then(|| values.sum::<Points>().over(count)),
            Self::Min => values.min(),
            Self::Max => values.max(),
            Self::First => values.next(),
            Self::Last => values.next_back(),
        }
    }
}

/// Why a model file is refused: file, line and column of the fault, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{file}{place}: {why}")]
pub struct ModelError {
    file: String,
    place: String,
    why: String,
}

impl ModelError {
    /// A fault at a position in the file.
    pub fn at(file: &str, place: Location, why: impl fmt::Display) -> Self {
        let place = format!(":{}:{}", place.line(), place.column());
        Self { file: file.to_owned(), place, why: why.to_string() }
    }

    /// A fault of the whole file.
    pub fn of(file: &str, why: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), place: String::new(), why: why.to_string() }
    }
}

/// Reads the text of the model file at `path`.
///
/// # Errors
/// [`ModelError`] when it cannot be read.
pub fn read(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(|error| ModelError::of(&path.display().to_string(), error))
}

/// Length of a window in days, from its name, e.g. `28d`.
///
/// # Errors
/// When the name is not a duration.
pub fn period_days(period: &str) -> Result<f64, String> {
    Ok(period.parse::<Span>()?.as_micros() as f64 / DAY_US as f64)
}
