//! What the items of a subscription cost a month: amount times quantity, by how often it is paid.
//!
//! Amounts are exact: they are summed as fractions and rounded half up to hundredths once.

use serde_json::value::RawValue;

use super::paths::Paths;
use super::value::{Look, Ref, Written, found_of, text_at};
use crate::input::excerpt;
use crate::reason::{Code, Reason};

/// Months in each interval, as a fraction: a year has twelve months, 52 weeks and 365 days.
const INTERVALS: [(&str, i128, i128); 5] =
    [("day", 12, 365), ("week", 12, 52), ("month", 1, 1), ("quarter", 3, 1), ("year", 12, 1)];

/// The most digits of a number behind its point.
const MAX_DIGITS: usize = 12;

/// Currencies whose smallest unit is the whole, and those with thousandths, in the APIs of payment providers. All others
/// have hundredths. Source: <https://docs.stripe.com/currencies#zero-decimal>.
const WHOLE: [&str; 15] =
    ["BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"];
const THOUSANDTHS: [&str; 5] = ["BHD", "JOD", "KWD", "OMR", "TND"];

/// A monthly amount.
#[derive(Debug)]
pub struct Monthly {
    /// The list of the items, and the paths into each. None: the record itself has the amount.
    pub list: Option<(Ref, Paths)>,
    /// The amount of an item. Without one the sum is not known.
    pub amount: Vec<Ref>,
    /// How many times it is paid. An item without this number is paid by use, and counts nothing. Empty: once.
    pub quantity: Vec<Ref>,
    /// How often it is paid: one of the intervals.
    pub interval: Vec<Ref>,
    /// In every how many intervals. Empty or missing: in each.
    pub every: Vec<Ref>,
    /// The currency in whose smallest unit amounts are. None: amounts are in whole units.
    pub minor_units_of: Option<Ref>,
}

impl Monthly {
    /// Appends the sum as a JSON number, or null if it is not known. Absent: there is no list of items, or no currency.
    ///
    /// # Errors
    /// The [`Reason`] for which the record is rejected. It names the path.
    pub fn write(&self, look: Look<'_, '_>, out: &mut String) -> Result<Written, Reason> {
        let minor_digits = match &self.minor_units_of {
            None => 0,
            Some(of) => match text_at(look, of) {
                None => return Ok(Written::Absent),
                Some(currency) => minor_digits(&currency),
            },
        };
        let sum = match &self.list {
            None => self.of_item(look)?,
            Some((at, paths)) => {
                let wrong = |_| Reason::new(Code::WrongType, format!("{}: expected a list of objects", at.path));
                let Some(list) = look.in_value(at).map(RawValue::get).filter(|json| *json != "null") else {
                    return Ok(Written::Absent);
                };
                let items: Vec<&RawValue> = serde_json::from_str(list).map_err(wrong)?;
                let mut sum = Some(Fraction::ZERO);
                for item in items {
                    let found = paths.read(item.get()).map_err(wrong)?;
                    let more = self.of_item(Look { item: Some(&found), ..look })?;
                    sum = sum.zip(more).map(|(sum, more)| sum.plus(more).ok_or_else(|| self.too_much())).transpose()?;
                }
                sum
            }
        };
        match sum {
            None => out.push_str("null"),
            Some(sum) => {
                let hundredths = sum.hundredths(minor_digits).ok_or_else(|| self.too_much())?;
                out.push_str(&format!("{}.{:02}", hundredths / 100, hundredths % 100));
            }
        }
        Ok(Written::Yes)
    }

    /// The amount of an item a month. None: it has no amount, or no interval.
    fn of_item(&self, look: Look<'_, '_>) -> Result<Option<Fraction>, Reason> {
        let quantity = match number(&self.quantity, look)? {
            Some(quantity) => quantity,
            None if self.quantity.is_empty() => Fraction::ONE,
            None => return Ok(Some(Fraction::ZERO)),
        };
        let every = number(&self.every, look)?.unwrap_or(Fraction::ONE);
        let interval = self.interval.iter().find_map(|of| Some((of, text_at(look, of)?)));
        let (Some(amount), Some((of, interval))) = (number(&self.amount, look)?, interval) else { return Ok(None) };
        let Some((_, months, parts)) = INTERVALS.iter().find(|(name, ..)| *name == interval) else {
            let known: Vec<&str> = INTERVALS.iter().map(|(name, ..)| *name).collect();
            let what = format!("{}: {:?} is none of {}", of.path, excerpt(&interval), known.join(", "));
            return Err(Reason::new(Code::UnknownValue, what));
        };
        if every.above == 0 {
            let what = format!("{}: expected a number above 0", of_paths(&self.every));
            return Err(Reason::new(Code::OutOfRange, what));
        }
        let months = Fraction { above: *months, below: *parts }.times(every);
        let monthly = amount.times(quantity).zip(months).and_then(|(paid, months)| paid.over(months));
        monthly.map(Some).ok_or_else(|| self.too_much())
    }

    fn too_much(&self) -> Reason {
        Reason::new(Code::OutOfRange, format!("{}: the amount a month is too large", of_paths(&self.amount)))
    }

    /// The paths that it is made of, for messages.
    pub fn paths(&self) -> Vec<&str> {
        let list = self.list.iter().map(|(at, _)| at.path.as_str());
        let of_items = [&self.amount, &self.quantity, &self.interval, &self.every].into_iter().flatten();
        list.chain(of_items.map(|of| of.path.as_str())).collect()
    }
}

fn of_paths(refs: &[Ref]) -> String {
    refs.iter().map(|of| of.path.as_str()).collect::<Vec<_>>().join(", ")
}

/// Digits of a currency behind the point, as amounts in its smallest unit have them.
fn minor_digits(currency: &str) -> u32 {
    let is_in = |of: &[&str]| of.iter().any(|known| known.eq_ignore_ascii_case(currency));
    match (is_in(&WHOLE), is_in(&THOUSANDTHS)) {
        (true, _) => 0,
        (_, true) => 3,
        _ => 2,
    }
}

/// The number at the first of these paths that has a value.
fn number(refs: &[Ref], look: Look<'_, '_>) -> Result<Option<Fraction>, Reason> {
    let Some((of, text)) = found_of(refs, look)? else { return Ok(None) };
    let wrong = || {
        let what = format!(
            "{}: {:?}, expected a number of at most {MAX_DIGITS} digits behind its point",
            of.path,
            excerpt(&text)
        );
        Reason::new(Code::WrongType, what)
    };
    Fraction::parse(&text).map(Some).ok_or_else(wrong)
}

/// A number that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fraction {
    above: i128,
    below: i128,
}

impl Fraction {
    const ZERO: Self = Self { above: 0, below: 1 };
    const ONE: Self = Self { above: 1, below: 1 };

    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let fraction = fraction.trim_end_matches('0');
        let is_plain = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
        if whole.is_empty() || !is_plain(whole) || !is_plain(fraction) || fraction.len() > MAX_DIGITS {
            return None;
        }
        let above = format!("{whole}{fraction}").parse().ok()?;
        Some(Self { above, below: 10_i128.pow(fraction.len() as u32) }.reduced())
    }

    /// The same number of the least terms, so that sums of many stay small.
    fn reduced(self) -> Self {
        let (mut a, mut b) = (self.above, self.below);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Self { above: self.above / a.max(1), below: self.below / a.max(1) }
    }

    fn plus(self, other: Self) -> Option<Self> {
        let left = self.above.checked_mul(other.below)?;
        let above = left.checked_add(other.above.checked_mul(self.below)?)?;
        Some(Self { above, below: self.below.checked_mul(other.below)? }.reduced())
    }

    fn times(self, other: Self) -> Option<Self> {
        let (above, below) = (self.above.checked_mul(other.above)?, self.below.checked_mul(other.below)?);
        Some(Self { above, below }.reduced())
    }

    /// This divided by a number above zero.
    fn over(self, other: Self) -> Option<Self> {
        self.times(Self { above: other.below, below: other.above })
    }

    /// Hundredths of a whole, rounded half up, if this is in units of 10 to the power of minus `minor_digits`.
    fn hundredths(self, minor_digits: u32) -> Option<i128> {
        let Self { above, below } = self.times(Self { above: 200, below: 10_i128.pow(minor_digits) })?;
        Some(above.checked_add(below)? / below.checked_mul(2)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monthly(items: &[(&str, &str, i128, i128, &str)], minor_digits: u32) -> Option<i128> {
        let mut sum = Fraction::ZERO;
        for (amount, quantity, months, parts, every) in items {
            let paid = Fraction::parse(amount)?.times(Fraction::parse(quantity)?)?;
            let months = Fraction { above: *months, below: *parts }.times(Fraction::parse(every)?)?;
            sum = sum.plus(paid.over(months)?)?;
        }
        sum.hundredths(minor_digits)
    }

    #[test]
    fn a_month_has_its_share_of_what_is_paid_and_is_rounded_once() {
        let cases: [(&[_], u32, Option<i128>); 8] = [
            (&[("1000", "25", 1, 1, "1")], 2, Some(25_000)),
            (&[("12000", "1", 12, 1, "1")], 2, Some(1000)),
            // Three items of a third of a cent are a cent.
            (&[("4", "1", 12, 1, "1"), ("4", "1", 12, 1, "1"), ("4", "1", 12, 1, "1")], 2, Some(1)),
            (&[("0.5", "1", 1, 1, "1")], 2, Some(1)),
            (&[("0.49", "1", 1, 1, "1")], 2, Some(0)),
            // A week is 52 times a year; two weeks are half of it.
            (&[("300", "1", 12, 52, "2")], 2, Some(650)),
            (&[("5000", "2", 1, 1, "3")], 0, Some(333_333)),
            (&[("99999999999999999999999999999999999999", "9", 1, 1, "1")], 2, None),
        ];
        for (items, minor_digits, expected) in cases {
            assert_eq!(monthly(items, minor_digits), expected, "{items:?}");
        }
        for text in ["", "-1", "1e3", "1.2.3", "many", "0.1234567890123", ".5"] {
            assert_eq!(Fraction::parse(text), None, "{text}");
        }
        assert_eq!(Fraction::parse("1.50000000000000000"), Some(Fraction { above: 3, below: 2 }));
    }

    #[test]
    fn smallest_units_go_by_the_currency() {
        assert_eq!(["usd", "JPY", "kwd", "xyz"].map(minor_digits), [2, 0, 3, 2]);
    }
}
