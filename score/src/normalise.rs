//! Normalisers: they turn a value in its own unit into points, 0 to 100; in additive models from -100.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use keepwell_core::points::Points;

/// How a value becomes points.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalise {
    /// A straight line. With `from` above `to`, higher values give the points of `from`.
    Linear(Linear),
    /// 0 at 0, and 100 from the target on.
    Ratio {
        /// The value that gives 100.
        target: f64,
    },
    /// 100 at 0, and 0 from the limit on: 1 - value / limit.
    InverseRatio {
        /// The value that gives 0.
        limit: f64,
    },
    /// Straight lines between `[value, points]` pairs with rising values. Outside of the pairs, the points of the
    /// nearest pair.
    Piecewise(Vec<[f64; 2]>),
    /// Points per range of values. The ranges follow each other from -inf to inf without gap or overlap.
    Steps(Vec<Step>),
}

/// A straight line from one value to another.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// The value that gives the first of `points`.
    pub from: f64,
    /// The value that gives the second of `points`.
    pub to: f64,
    /// Points at `from` and at `to`.
    #[serde(default = "zero_to_hundred")]
    pub points: [f64; 2],
    /// The points of values outside of the line.
    #[serde(default)]
    pub outside: Outside,
}

fn zero_to_hundred() -> [f64; 2] {
    [0.0, 100.0]
}

/// The points of values outside of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// The points of the nearer end.
    #[default]
    Clamp,
    /// 0 points.
    Zero,
}

/// The points of one range of values.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The range of values.
    #[serde(rename = "in")]
    pub range: Range,
    /// The points for these values.
    pub points: f64,
}

/// A range of values with declared ends: `(0, 10]` contains 10 but not 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Lower end, or -inf.
    pub low: f64,
    /// Whether the range contains its lower end.
    pub has_low: bool,
    /// Upper end, or inf.
    pub high: f64,
    /// Whether the range contains its upper end.
    pub has_high: bool,
}

impl Range {
    /// Whether the range contains a value.
    pub fn holds(&self, value: f64) -> bool {
        let above = if self.has_low { value >= self.low } else { value > self.low };
        above && if self.has_high { value <= self.high } else { value < self.high }
    }

    fn parse(text: &str) -> Option<Self> {
        let inner = text.trim().strip_prefix(['(', '['])?.strip_suffix([')', ']'])?;
        let (low, high) = inner.split_once(',')?;
        let end = |end: &str| end.trim().parse::<f64>().ok().filter(|end| !end.is_nan());
        let (low, high) = (end(low)?, end(high)?);
        let (has_low, has_high) = (text.trim().starts_with('['), text.trim().ends_with(']'));
        let is_one_value = low.total_cmp(&high).is_eq() && has_low && has_high;
        let is_closed_at_infinity = has_low && low.is_infinite() || has_high && high.is_infinite();
        ((low < high || is_one_value) && !is_closed_at_infinity).then_some(Self { low, has_low, high, has_high })
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || {
            format!("{text:?} is no range such as \"(-inf, 5]\" or \"[5, 10)\": [ and ] hold their end, ( and ) do not")
        };
        Self::parse(&text).ok_or_else(|| D::Error::custom(wrong()))
    }
}

impl Normalise {
    /// The straight line, if the normaliser is one.
    pub fn line(&self) -> Option<Linear> {
        let between = |from, to| Linear { from, to, points: zero_to_hundred(), outside: Outside::Clamp };
        match self {
            Self::Linear(linear) => Some(*linear),
            Self::Ratio { target } => Some(between(0.0, *target)),
            Self::InverseRatio { limit } => Some(between(*limit, 0.0)),
            _ => None,
        }
    }

    /// The first fault of the normaliser, if any. Points must be between `least` and 100.
    pub fn fault(&self, least: f64) -> Option<String> {
        let are_points = |points: &[f64]| points.iter().all(|points| (least..=100.0).contains(points));
        let out_of_range = || format!("points must lie in {least} to 100");
        if let Some(Linear { from, to, points, .. }) = self.line() {
            if !(to - from).is_finite() || (to - from).abs() < f64::MIN_POSITIVE {
                return Some("the two ends of a line must be different numbers".into());
            }
            return (!are_points(&points)).then(out_of_range);
        }
        match self {
            Self::Piecewise(pairs) => {
                let values: Vec<f64> = pairs.iter().map(|[value, _]| *value).collect();
                let rises = values.is_sorted_by(|a, b| a < b) && values.iter().all(|value| value.is_finite());
                if pairs.len() < 2 || !rises {
                    return Some("piecewise: at least two pairs [value, points] with rising values".into());
                }
                (!pairs.iter().all(|[_, points]| are_points(&[*points]))).then(out_of_range)
            }
            Self::Steps(steps) => gap_or_overlap(steps)
                .or_else(|| (!steps.iter().all(|step| are_points(&[step.points]))).then(out_of_range)),
            _ => None,
        }
    }

    /// Points for a value. None if the value is not a finite number.
    pub fn points(&self, value: f64) -> Option<Points> {
        if !value.is_finite() {
            return None;
        }
        let points = match (self.line(), self) {
            (Some(line), _) => line.points(value),
            (None, Self::Piecewise(pairs)) => piecewise(pairs, value),
            (None, Self::Steps(steps)) => steps.iter().find(|step| step.range.holds(value))?.points,
            (None, _) => return None,
        };
        Points::round(points)
    }
}

impl Linear {
    fn points(&self, value: f64) -> f64 {
        let [first, last] = self.points;
        let is_outside = value < self.from.min(self.to) || value > self.from.max(self.to);
        match self.outside {
            Outside::Zero if is_outside => 0.0,
            _ => {
                let on_the_line = first + (last - first) * (value - self.from) / (self.to - self.from);
                on_the_line.clamp(first.min(last), first.max(last))
            }
        }
    }
}

/// The first fault in the sequence of ranges, if any.
fn gap_or_overlap(steps: &[Step]) -> Option<String> {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else {
        return Some("steps: at least one".into());
    };
    if first.range.low.is_finite() || last.range.high.is_finite() {
        return Some("steps: the first range must begin at -inf and the last one end at inf".into());
    }
    steps.windows(2).find_map(|pair| {
        let [Step { range: one, .. }, Step { range: next, .. }] = pair else { return None };
        if one.high < next.low {
            return Some(format!("steps: nothing covers what lies between {} and {}", one.high, next.low));
        }
        if one.high > next.low {
            return Some(format!("steps: what lies between {} and {} is covered twice", next.low, one.high));
        }
        match (one.has_high, next.has_low) {
            (true, true) => Some(format!("steps: {} is in two ranges", one.high)),
            (false, false) => Some(format!("steps: {} is in no range", one.high)),
            _ => None,
        }
    })
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

    fn normaliser(text: &str) -> Normalise {
        serde_saphyr::from_str(text).unwrap()
    }

    #[test]
    fn values_become_points_at_within_and_beyond_the_ends() {
        // normaliser, value, points
        let cases = [
            ("linear: {from: 2, to: 4}", 1.0, "0"),
            ("linear: {from: 2, to: 4}", 2.5, "25"),
            ("linear: {from: 2, to: 4}", 9.0, "100"),
            ("linear: {from: 21, to: 0}", 0.0, "100"),
            ("linear: {from: 21, to: 0}", 7.0, "66.666667"),
            ("linear: {from: 21, to: 0}", 30.0, "0"),
            ("linear: {from: 0, to: 10, points: [-50, 50]}", -3.0, "-50"),
            ("linear: {from: 0, to: 10, points: [20, 50], outside: zero}", 10.0, "50"),
            ("linear: {from: 0, to: 10, points: [20, 50], outside: zero}", 10.001, "0"),
            ("linear: {from: 0, to: 10, points: [20, 50], outside: zero}", -0.001, "0"),
            ("ratio: {target: 80}", 60.0, "75"),
            ("ratio: {target: 80}", 90.0, "100"),
            ("inverse_ratio: {limit: 20}", 5.0, "75"),
            ("inverse_ratio: {limit: 20}", 25.0, "0"),
            ("piecewise: [[0, 0], [0.5, 30], [1, 80], [2, 100]]", -1.0, "0"),
            ("piecewise: [[0, 0], [0.5, 30], [1, 80], [2, 100]]", 0.5, "30"),
            ("piecewise: [[0, 0], [0.5, 30], [1, 80], [2, 100]]", 0.75, "55"),
            ("piecewise: [[0, 0], [0.5, 30], [1, 80], [2, 100]]", 3.0, "100"),
            (STEPS, 0.999, "100"),
            (STEPS, 1.0, "100"),
            (STEPS, 1.001, "40"),
            (STEPS, 5.0, "0"),
            (STEPS, -1e300, "100"),
        ];
        for (text, value, points) in cases {
            assert_eq!(normaliser(text).points(value).unwrap().to_string(), points, "{text} of {value}");
        }
        assert_eq!(normaliser(STEPS).points(f64::NAN), None);
    }

    const STEPS: &str =
        "steps: [{in: '(-inf, 1]', points: 100}, {in: '(1, 5)', points: 40}, {in: '[5, inf)', points: 0}]";

    #[test]
    fn what_is_not_total_not_disjoint_or_not_rising_is_refused_and_says_where() {
        let faulty = [
            ("linear: {from: 1, to: 1}", "different"),
            ("linear: {from: 0, to: -0.0}", "different"),
            ("linear: {from: -1e308, to: 1e308}", "different"),
            ("linear: {from: 0, to: 1, points: [0, 101]}", "0 to 100"),
            ("ratio: {target: 0}", "different"),
            ("piecewise: [[0, 0]]", "two pairs"),
            ("piecewise: [[1, 0], [0, 100]]", "rising"),
            ("piecewise: [[0, 0], [1, 101]]", "0 to 100"),
            ("steps: []", "at least one"),
            ("steps: [{in: '(0, inf)', points: 1}]", "-inf"),
            ("steps: [{in: '(-inf, 1]', points: 1}]", "inf"),
            ("steps: [{in: '(-inf, 1]', points: 1}, {in: '[1, inf)', points: 1}]", "1 is in two ranges"),
            ("steps: [{in: '(-inf, 1)', points: 1}, {in: '(1, inf)', points: 1}]", "1 is in no range"),
            ("steps: [{in: '(-inf, 3)', points: 1}, {in: '[2, inf)', points: 1}]", "between 2 and 3 is covered twice"),
            ("steps: [{in: '(-inf, 2)', points: 1}, {in: '[3, inf)', points: 1}]", "between 2 and 3"),
            ("steps: [{in: '(-inf, inf)', points: -1}]", "0 to 100"),
        ];
        for (text, why) in faulty {
            let fault = normaliser(text).fault(0.0);
            assert!(fault.as_ref().is_some_and(|fault| fault.contains(why)), "{text}: {fault:?}");
        }
        for text in ["5, 6", "(6, 5)", "(5, 5)", "[-inf, 5]", "(a, b)", "(1, nan)", "(1 2)"] {
            assert!(Range::parse(text).is_none(), "{text}");
        }
        assert_eq!(normaliser("steps: [{in: '(-inf, inf)', points: -1}]").fault(-100.0), None);
    }
}
