//! Points and percent as exact decimals with six places: integers of millionths.
//!
//! The value of a factor is rounded once, when it is normalised. Everything after that is integer arithmetic. So
//! contributions sum to the score, and plain SQL gives the same digits.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Millionths in one.
const SCALE: i64 = 1_000_000;

/// A number with six decimals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Points(i64);

impl Points {
    /// 100.
    pub const HUNDRED: Self = Self(100 * SCALE);
    /// 0.
    pub const ZERO: Self = Self(0);

    /// A number of this many millionths.
    pub const fn from_millionths(millionths: i64) -> Self {
        Self(millionths)
    }

    /// The number in millionths.
    pub const fn millionths(self) -> i64 {
        self.0
    }

    /// Rounds half-up to six decimals. None if the value is not a number or too large (10^9).
    pub fn round(value: f64) -> Option<Self> {
        let scaled = (value * SCALE as f64 + 0.5).floor();
        (scaled.abs() < 1e15).then_some(Self(scaled as i64))
    }

    /// Divides by a count above 0 and rounds half-up.
    pub fn over(self, count: i64) -> Self {
        quotient(i128::from(self.0), i128::from(count))
    }

    /// The number as a float. Up to 2^53 millionths the shortest form of the float is the decimal itself.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / SCALE as f64
    }

    /// Rounds half-up to a whole number.
    pub fn whole(self) -> i64 {
        (self.0 + SCALE / 2).div_euclid(SCALE)
    }
}

/// The quotient, rounded half-up. A denominator of 0 gives 0.
fn quotient(numerator: i128, denominator: i128) -> Points {
    if denominator == 0 {
        return Points::ZERO;
    }
    let (doubled, by) = (2 * numerator + denominator, 2 * denominator);
    // Usually both are small, and a 64-bit division is several times faster.
    match (i64::try_from(doubled), i64::try_from(by)) {
        (Ok(doubled), Ok(by)) => Points(doubled.div_euclid(by)),
        _ => Points(doubled.div_euclid(by) as i64),
    }
}

/// A running sum of percentages of points. The sum is exact; only its results are rounded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum100 {
    sum: i128,
}

impl Sum100 {
    /// Adds `percent` of `points`, and returns the sum so far.
    pub fn with(&mut self, points: Points, percent: Points) -> Points {
        self.sum += i128::from(points.0) * i128::from(percent.0);
        quotient(self.sum, i128::from(Points::HUNDRED.0))
    }
}

/// Divides `total` in proportion to the weights. The shares are rounded so that they sum to exactly `total`.
pub fn shared_out(total: Points, weights: &[Points]) -> Vec<Points> {
    let sum: i128 = weights.iter().map(|weight| i128::from(weight.0)).sum();
    let (mut running, mut given) = (0_i128, Points::ZERO);
    let share = |weight: &Points| {
        running += i128::from(weight.0);
        let before = given;
        given = quotient(i128::from(total.0) * running, sum);
        given - before
    };
    weights.iter().map(share).collect()
}

impl Add for Points {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Points {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Sum for Points {
    fn sum<I: Iterator<Item = Self>>(points: I) -> Self {
        points.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0.abs() / SCALE, self.0.abs() % SCALE);
        let sign = if self.0 < 0 { "-" } else { "" };
        let decimals = format!("{rest:06}");
        match decimals.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            decimals => write!(f, "{sign}{whole}.{decimals}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(value: f64) -> Points {
        Points::round(value).unwrap()
    }

    #[test]
    fn values_are_rounded_half_up_to_six_decimals() {
        // value, text
        let cases = [(0.0, "0"), (74.75, "74.75"), (1.0 / 3.0, "0.333333"), (2.0 / 3.0, "0.666667"), (-1.5, "-1.5")];
        for (value, text) in cases {
            assert_eq!(points(value).to_string(), text);
        }
        assert_eq!([f64::NAN, f64::INFINITY, -1e300].map(Points::round), [None; 3]);
    }

    #[test]
    fn shares_sum_to_the_total_and_each_is_within_a_millionth_of_its_own_quotient() {
        // total, weights, shares
        let cases: [(f64, &[f64], &[&str]); 5] = [
            (100.0, &[35.0, 25.0, 25.0, 15.0], &["35", "25", "25", "15"]),
            (100.0, &[1.0, 1.0, 1.0], &["33.333333", "33.333334", "33.333333"]),
            (50.0, &[1.0, 2.0], &["16.666667", "33.333333"]),
            (0.000_001, &[1.0, 1.0], &["0.000001", "0"]),
            (100.0, &[], &[]),
        ];
        for (total, weights, shares) in cases {
            let weights: Vec<Points> = weights.iter().map(|weight| points(*weight)).collect();
            let found: Vec<String> = shared_out(points(total), &weights).iter().map(ToString::to_string).collect();
            assert_eq!(found, shares, "{total} by {weights:?}");
        }
    }

    #[test]
    fn quotients_are_rounded_half_up_also_below_zero() {
        // millionths, count, millionths
        let large = 6_000_000_000_000_000_001;
        for (value, count, expected) in
            [(1, 2, 1), (-1, 2, 0), (-3, 2, -1), (7, 3, 2), (8, 3, 3), (large, 2, large / 2 + 1)]
        {
            assert_eq!(Points::from_millionths(value).over(count).millionths(), expected, "{value} / {count}");
        }
    }

    #[test]
    fn a_score_is_shown_as_the_nearest_whole_number_half_up() {
        assert_eq!([74.75, 74.5, 74.499_999, 0.0, -0.5].map(|value| points(value).whole()), [75, 75, 74, 0, 0]);
    }
}
