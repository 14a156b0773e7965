//! Factors, groups of them, and what stands in for unknown values.

use keepwell_core::interned::Name;
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::normalise::Normalise;
use crate::points::Points;

/// One factor.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Name; part of every score.
    pub name: Spanned<Name>,
    /// The group it belongs to, where the model has groups.
    pub group: Option<Spanned<Name>>,
    /// DataFusion SQL over the window row and what is remembered; null means unknown.
    pub sql: Spanned<String>,
    /// Window whose row the SQL sees; the model's, where none is named.
    pub period: Option<Spanned<String>>,
    /// The value is a quotient, where something is named.
    pub against: Option<Against>,
    /// From when on the value is unknown again.
    pub expires: Option<Expires>,
    /// From the value to points.
    pub normalise: Normalise,
    /// Weight; in groups that do not weigh there is none.
    pub weight: Option<f64>,
    /// What stands in for an unknown value; the model's, where nothing is said.
    pub missing: Option<Missing>,
}

impl Factor {
    /// The weight, exactly; `unsaid` where there is none.
    pub fn weight(&self, unsaid: Points) -> Points {
        self.weight.map_or(unsaid, |weight| Points::round(weight).unwrap_or_default())
    }
}

/// What the value of a factor is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The same SQL over the equal window before; unknown where that gives zero or nothing.
    PreviousWindow,
}

/// From when on a value is unknown again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expires {
    /// SQL for the time the value is from, such as `nps_last_at`.
    pub dated_by: Spanned<String>,
    /// How old it may be at the end of the window.
    pub after: Span,
}

/// Factors that are reduced to one value before they are weighed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name; part of every score.
    pub name: Spanned<Name>,
    /// How.
    #[serde(default)]
    pub by: Reduce,
    /// Weight among the groups.
    pub weight: f64,
}

impl Group {
    /// The weight, exactly.
    pub fn weight(&self) -> Points {
        Points::round(self.weight).unwrap_or_default()
    }
}

/// How the factors of a group become one value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// The mean by their weights.
    #[default]
    Weighted,
    /// The mean.
    Mean,
    /// The lowest; of equal ones the first.
    Min,
    /// The highest; of equal ones the first.
    Max,
}

/// What stands in for an unknown value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The factor is left out; the others carry its weight.
    #[default]
    Reweight,
    /// 0: what is not known to be good is bad.
    Zero,
    /// The middle: 50, or 0 where the weights are additive.
    Neutral,
    /// The value of the last final row that knew it, while that is no older than declared.
    Carry(Carry),
}

/// How long a value is carried, and what stands in for it after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carry {
    /// Greatest age of the final row at the end of the window.
    #[serde(rename = "for")]
    pub ttl: Span,
    /// After that.
    #[serde(default)]
    pub otherwise: Fallback,
}

/// What stands in for an unknown value when there is none to carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// As [`Missing::Reweight`].
    #[default]
    Reweight,
    /// As [`Missing::Zero`].
    Zero,
    /// As [`Missing::Neutral`].
    Neutral,
}

impl Fallback {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reweight => "reweight",
            Self::Zero => "zero",
            Self::Neutral => "neutral",
        }
    }
}

impl Missing {
    /// What stands in when nothing is carried.
    pub fn fallback(self) -> Fallback {
        match self {
            Self::Reweight => Fallback::Reweight,
            Self::Zero => Fallback::Zero,
            Self::Neutral => Fallback::Neutral,
            Self::Carry(carry) => carry.otherwise,
        }
    }

    /// How old a carried value may be, in microseconds; none where nothing is carried.
    pub fn ttl_us(self) -> Option<i64> {
        match self {
            Self::Carry(carry) => Some(carry.ttl.as_micros()),
            _ => None,
        }
    }
}
