//! Factors, groups of factors, and the policies for unknown values.

use keepwell_core::interned::Name;
use keepwell_pipeline::config::Span;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::normalise::Normalise;
use keepwell_core::points::Points;

/// One factor of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Name of the factor, part of every score.
    pub name: Spanned<Name>,
    /// The group of the factor, if the model has groups.
    pub group: Option<Spanned<Name>>,
    /// DataFusion SQL over the window row and the remembered values. Null means unknown.
    pub sql: Spanned<String>,
    /// Window of the row that the SQL reads. The default is the model's.
    pub period: Option<Spanned<String>>,
    /// If set, the value is divided by this.
    pub against: Option<Against>,
    /// When the value becomes unknown again.
    pub expires: Option<Expires>,
    /// How the value becomes points.
    pub normalise: Normalise,
    /// The weight. A factor has none if its group does not use weights.
    pub weight: Option<f64>,
    /// What replaces an unknown value. The default is the model's policy.
    pub missing: Option<Missing>,
}

impl Factor {
    /// The weight as an exact decimal, or `unsaid` if there is none.
    pub fn weight(&self, unsaid: Points) -> Points {
        self.weight.map_or(unsaid, |weight| Points::round(weight).unwrap_or_default())
    }
}

/// The divisor of a factor's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Against {
    /// The result of the same SQL over the equal window before. If that is zero or null, the factor is unknown.
    PreviousWindow,
}

/// When a value becomes unknown again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expires {
    /// SQL for the time of the value, such as `nps_last_at`.
    pub dated_by: Spanned<String>,
    /// The greatest age that the value may have at the end of the window.
    pub after: Span,
}

/// Factors that become one value before they are weighed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Name of the group, part of every score.
    pub name: Spanned<Name>,
    /// How the factors become one value.
    #[serde(default)]
    pub by: Reduce,
    /// Weight of the group among the groups.
    pub weight: f64,
}

impl Group {
    /// The weight as an exact decimal.
    pub fn weight(&self) -> Points {
        Points::round(self.weight).unwrap_or_default()
    }
}

/// How the factors of a group become one value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// The mean, weighted with the factors' weights.
    #[default]
    Weighted,
    /// The mean without weights.
    Mean,
    /// The lowest. Of equal ones, the first.
    Min,
    /// The highest. Of equal ones, the first.
    Max,
}

/// What replaces an unknown value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The factor is left out, and the other factors take its weight.
    #[default]
    Reweight,
    /// 0 points: what is not known to be good counts as bad.
    Zero,
    /// The middle: 50 points, or 0 if the weights are additive.
    Neutral,
    /// The value from the last final row where it was known, if that row is not older than declared.
    Carry(Carry),
}

/// How long a value is carried, and what replaces it after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carry {
    /// Greatest age of that final row at the end of the window.
    #[serde(rename = "for")]
    pub ttl: Span,
    /// The policy when there is no value to carry.
    #[serde(default)]
    pub otherwise: Fallback,
}

/// What replaces an unknown value when there is no value to carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// See [`Missing::Reweight`].
    #[default]
    Reweight,
    /// See [`Missing::Zero`].
    Zero,
    /// See [`Missing::Neutral`].
    Neutral,
}

impl Fallback {
    /// The word in the model file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reweight => "reweight",
            Self::Zero => "zero",
            Self::Neutral => "neutral",
        }
    }
}

impl Missing {
    /// The policy when no value is carried.
    pub fn fallback(self) -> Fallback {
        match self {
            Self::Reweight => Fallback::Reweight,
            Self::Zero => Fallback::Zero,
            Self::Neutral => Fallback::Neutral,
            Self::Carry(carry) => carry.otherwise,
        }
    }

    /// How old a carried value may be, in microseconds. None if the policy does not carry values.
    pub fn ttl_us(self) -> Option<i64> {
        match self {
            Self::Carry(carry) => Some(carry.ttl.as_micros()),
            _ => None,
        }
    }
}
