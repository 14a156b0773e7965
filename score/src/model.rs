//! The model file: factors, weights, bands and triggers as data.

mod band;
mod check;
mod factor;
mod trigger;

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

pub use band::{Band, BandBasis, Basis, Display};
pub use check::parse;
pub use factor::{Against, Carry, Expires, Factor, Fallback, Group, Missing, Reduce};
pub use trigger::{Severity, Trigger};

use crate::points::Points;
use keepwell_core::interned::Name;
use keepwell_core::pane::DAY_US;
use keepwell_pipeline::config::Span;

/// The default model, built in.
pub const DEFAULT: &str = include_str!("../models/default.yaml");

/// Band of an account of which too little is known.
pub const UNKNOWN: &str = "unknown";

/// A model file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Rises with every change of meaning; part of every score.
    pub version: i64,
    /// Values of the fact `segment` that models may name; any, where nothing is said.
    #[serde(default)]
    pub segments: Vec<Spanned<String>>,
    /// Values of the fact `stage` that models may name, in the order of a customer's life; any, where nothing is said.
    #[serde(default)]
    pub lifecycle: Vec<Spanned<String>>,
    /// In order of precedence: the first whose `only_for` fits scores an account. The last fits all.
    pub models: Vec<Model>,
}

/// How accounts of some segments and stages are scored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name; part of every score.
    pub name: Spanned<Name>,
    /// Accounts it is for; all, where nothing is said.
    #[serde(default)]
    pub only_for: OnlyFor,
    /// Window whose row the SQL sees, unless a factor or trigger names another.
    pub period: Spanned<String>,
    /// What stands in for an unknown value, unless a factor says otherwise.
    #[serde(default)]
    pub missing: Missing,
    /// Percent of the weights whose value must be known; below it the band is `unknown`.
    #[serde(default)]
    pub minimum_coverage: f64,
    /// What the weights mean.
    #[serde(default)]
    pub weights: Weights,
    /// With `weights: additive`: the score of an account of which nothing is known.
    #[serde(default)]
    pub start: f64,
    /// Factors that are reduced to one value before they are weighed; none means that all are weighed together.
    #[serde(default)]
    pub groups: Vec<Group>,
    /// What the score is made of.
    pub factors: Vec<Factor>,
    /// Values of earlier final rows that factors and triggers may look at.
    #[serde(default)]
    pub remember: Vec<Remember>,
    /// From the worst to the best.
    pub bands: Vec<Band>,
    /// What the bands go by.
    #[serde(default)]
    pub band_basis: BandBasis,
    /// How the score is shown.
    #[serde(default)]
    pub display: Display,
    /// Age in days at which the score becomes the account's baseline.
    #[serde(default = "thirty")]
    pub baseline_day: f64,
    /// What calls for action.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
}

fn thirty() -> f64 {
    30.0
}

/// Segments and stages; an empty list means any.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnlyFor {
    /// Values of the fact `segment`.
    pub segments: Vec<Spanned<String>>,
    /// Values of the fact `stage`.
    pub stages: Vec<Spanned<String>>,
}

impl OnlyFor {
    /// Whether an account is meant.
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

/// What the weights of a model mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// They sum to exactly 100: the score is the weighted mean.
    #[default]
    Percent,
    /// They count relative to their sum: the score is the weighted mean.
    Raw,
    /// Each factor adds its points, below zero too, times its own percentage (100 unless said), to `start`; the
    /// score is kept within 0 and 100.
    Additive,
}

/// A value of earlier final rows: a column for the SQL of factors and triggers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remember {
    /// Name of the column.
    pub name: Spanned<Name>,
    /// DataFusion SQL over the window row: the value to remember of each final row, rounded to 6 decimals.
    pub sql: Spanned<String>,
    /// Window whose row the SQL sees; the model's, where none is named.
    pub period: Option<Spanned<String>>,
    /// How far back: final rows less than so much older than the row at hand.
    pub over: Span,
    /// What is made of the values; unknown ones do not count.
    pub by: Over,
}

/// What is made of remembered values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Their mean, rounded half-up to 6 decimals.
    Mean,
    /// The lowest.
    Min,
    /// The highest.
    Max,
    /// The oldest.
    First,
    /// The newest.
    Last,
}

impl Over {
    /// One value of those in the order of time; none of none.
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

/// Why a model file is refused: file, line, column, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{file}{place}: {why}")]
pub struct ModelError {
    file: String,
    place: String,
    why: String,
}

impl ModelError {
    /// A fault at a place of the file.
    pub fn at(file: &str, place: Location, why: impl fmt::Display) -> Self {
        let place = format!(":{}:{}", place.line(), place.column());
        Self { file: file.to_owned(), place, why: why.to_string() }
    }

    /// A fault of the file as a whole.
    pub fn of(file: &str, why: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), place: String::new(), why: why.to_string() }
    }
}

/// The text of the model file at `path`.
///
/// # Errors
/// [`ModelError`] when it cannot be read.
pub fn read(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(|error| ModelError::of(&path.display().to_string(), error))
}

/// Days of a window by its name, e.g. `28d`.
///
/// # Errors
/// When the name is no duration.
pub fn period_days(period: &str) -> Result<f64, String> {
    Ok(period.parse::<Span>()?.as_micros() as f64 / DAY_US as f64)
}
