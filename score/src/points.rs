//! Points and percent as exact decimals with six places: integers of millionths.
//!
//! A factor's value is rounded once, when it is normalised. Everything after is integer arithmetic, so
//! contributions sum to the score and plain SQL gives the same digits.

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

    /// So many millionths.
    pub const fn from_millionths(millionths: i64) -> Self {
        Self(millionths)
    }

    /// In millionths.
    pub const fn millionths(self) -> i64 {
        self.0
    }

    /// Rounds half-up to six decimals. None for what is no number or beyond all use.
    pub fn round(value: f64) -> Option<Self> {
        let scaled = (value * SCALE as f64 + 0.5).floor();
        (scaled.abs() < 1e15).then_some(Self(scaled as i64))
    }

    /// `self * numerator / denominator`, rounded half-up; nothing of nothing is nothing.
    pub fn share(self, numerator: Self, denominator: Self) -> Self {
        Self::quotient(i128::from(self.0) * i128::from(numerator.0), denominator)
    }

    fn quotient(numerator: i128, denominator: Self) -> Self {
        let denominator = i128::from(denominator.0);
        match denominator {
            0 => Self::ZERO,
            _ => Self((2 * numerator + denominator).div_euclid(2 * denominator) as i64),
        }
    }

    /// Rounded half-up to a whole number.
    pub fn whole(self) -> i64 {
        (self.0 + SCALE / 2).div_euclid(SCALE)
    }
}

/// A weighted mean in the making.
#[derive(Debug, Clone, Copy)]
pub struct Mean {
    sum: i128,
    weights: Points,
}

impl Mean {
    /// A mean over weights of this sum.
    pub fn over(weights: Points) -> Self {
        Self { sum: 0, weights }
    }

    /// Takes a value in; the sum so far over all weights, rounded half-up.
    pub fn with(&mut self, value: Points, weight: Points) -> Points {
        self.sum += i128::from(value.0) * i128::from(weight.0);
        Points::quotient(self.sum, self.weights)
    }
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
    fn shares_are_rounded_half_up_also_below_zero() {
        // value, numerator, denominator, text
        let cases = [
            (80.0, 35.0, 100.0, "28"),
            (1.0, 1.0, 3.0, "0.333333"),
            (1.0, 2.0, 3.0, "0.666667"),
            (0.000_001, 1.0, 2.0, "0.000001"),
            (-0.000_001, 1.0, 2.0, "0"),
            (5.0, 1.0, 0.0, "0"),
        ];
        for (value, numerator, denominator, text) in cases {
            assert_eq!(points(value).share(points(numerator), points(denominator)).to_string(), text, "{value}");
        }
    }

    #[test]
    fn a_score_is_shown_as_the_nearest_whole_number_half_up() {
        assert_eq!([74.75, 74.5, 74.499_999, 0.0, -0.5].map(|value| points(value).whole()), [75, 75, 74, 0, 0]);
    }
}
