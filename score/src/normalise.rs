//! Normalisers: from a value in its own unit to 0-100.

use serde::{Deserialize, Serialize};

use crate::points::Points;

/// How a value becomes 0-100.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalise {
    /// 0 at `from`, 100 at `to`, straight in between, never beyond. `from` above `to` turns it round.
    Linear {
        /// Value that gives 0.
        from: f64,
        /// Value that gives 100.
        to: f64,
    },
    /// Straight lines between `[value, points]` pairs with rising values; flat outside.
    Piecewise(Vec<[f64; 2]>),
    /// Points by range: the first step whose `below` is above the value, else `rest`.
    Steps {
        /// In rising order of `below`.
        steps: Vec<Step>,
        /// At or above the last step.
        rest: f64,
    },
}

/// Everything below a value, and not below the step before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// End of the range, exclusive.
    pub below: f64,
    /// What it gives.
    pub points: f64,
}

impl Normalise {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        let is_point = |points: f64| (0.0..=100.0).contains(&points);
        let rises = |values: &[f64]| values.is_sorted_by(|a, b| a < b) && values.iter().all(|value| value.is_finite());
        match self {
            Self::Linear { from, to } => (!(to - from).is_finite() || (to - from).abs() < f64::MIN_POSITIVE)
                .then(|| "linear: `from` and `to` must be two different numbers".into()),
            Self::Piecewise(pairs) => {
                let values: Vec<f64> = pairs.iter().map(|[value, _]| *value).collect();
                if pairs.len() < 2 || !rises(&values) {
                    return Some("piecewise: at least two pairs [value, points] with rising values".into());
                }
                (!pairs.iter().all(|[_, points]| is_point(*points)))
                    .then(|| "piecewise: points must lie in 0-100".into())
            }
            Self::Steps { steps, rest } => {
                let ends: Vec<f64> = steps.iter().map(|step| step.below).collect();
                if steps.is_empty() || !rises(&ends) {
                    return Some("steps: at least one, with rising `below`".into());
                }
                let all = steps.iter().map(|step| step.points).chain([*rest]);
                (!all.into_iter().all(is_point)).then(|| "steps: points must lie in 0-100".into())
            }
        }
    }

    /// 0-100 for a value; none for what is no number.
    pub fn points(&self, value: f64) -> Option<Points> {
        if !value.is_finite() {
            return None;
        }
        let points = match self {
            Self::Linear { from, to } => 100.0 * (value - from) / (to - from),
            Self::Piecewise(pairs) => piecewise(pairs, value),
            Self::Steps { steps, rest } => {
                steps.iter().find(|step| value < step.below).map_or(*rest, |step| step.points)
            }
        };
        Points::round(points.clamp(0.0, 100.0))
    }
}

fn piecewise(pairs: &[[f64; 2]], value: f64) -> f64 {
    let above = pairs.partition_point(|[x, _]| *x <= value);
    match (above.checked_sub(1).and_then(|below| pairs.get(below)), pairs.get(above)) {
        (Some([x0, y0]), Some([x1, y1])) => y0 + (y1 - y0) * (value - x0) / (x1 - x0),
        (Some([_, y]), None) | (None, Some([_, y])) => *y,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_points_at_within_and_beyond_the_ends() {
        let linear = Normalise::Linear { from: 2.0, to: 4.0 };
        let inverse = Normalise::Linear { from: 21.0, to: 0.0 };
        let piecewise = Normalise::Piecewise(vec![[0.0, 0.0], [0.5, 30.0], [1.0, 80.0], [2.0, 100.0]]);
        let steps = Normalise::Steps {
            steps: vec![Step { below: 1.0, points: 100.0 }, Step { below: 5.0, points: 40.0 }],
            rest: 0.0,
        };
        // normaliser, value, points
        let cases = [
            (&linear, 1.0, "0"),
            (&linear, 2.5, "25"),
            (&linear, 9.0, "100"),
            (&inverse, 0.0, "100"),
            (&inverse, 7.0, "66.666667"),
            (&inverse, 30.0, "0"),
            (&piecewise, -1.0, "0"),
            (&piecewise, 0.5, "30"),
            (&piecewise, 0.75, "55"),
            (&piecewise, 3.0, "100"),
            (&steps, 0.999, "100"),
            (&steps, 1.0, "40"),
            (&steps, 5.0, "0"),
        ];
        for (normalise, value, points) in cases {
            assert_eq!(normalise.points(value).unwrap().to_string(), points, "{normalise:?} of {value}");
        }
        assert_eq!(linear.points(f64::NAN), None);
    }

    #[test]
    fn what_is_not_total_or_not_rising_is_refused() {
        let step = |below| Step { below, points: 1.0 };
        let faulty = [
            Normalise::Linear { from: 1.0, to: 1.0 },
            Normalise::Linear { from: 0.0, to: -0.0 },
            Normalise::Linear { from: -1e308, to: 1e308 },
            Normalise::Piecewise(vec![[0.0, 0.0]]),
            Normalise::Piecewise(vec![[1.0, 0.0], [0.0, 100.0]]),
            Normalise::Piecewise(vec![[0.0, 0.0], [1.0, 101.0]]),
            Normalise::Steps { steps: vec![], rest: 0.0 },
            Normalise::Steps { steps: vec![step(2.0), step(1.0)], rest: 0.0 },
            Normalise::Steps { steps: vec![step(2.0)], rest: -1.0 },
        ];
        for normalise in faulty {
            assert!(normalise.fault().is_some(), "{normalise:?}");
        }
    }
}
