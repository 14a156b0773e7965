//! Amounts of money as they are written in JSON.

/// The most digits before the point.
const MAX_WHOLE_DIGITS: i64 = 13;

/// A number from 0 to below 10^13 in hundredths, rounded half up, without a detour over binary fractions. None: anything else.
pub(crate) fn hundredths(text: &str) -> Option<i64> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i16>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_plain = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || !is_plain(whole) || !is_plain(fraction) {
        return None;
    }
    let digits = || whole.bytes().chain(fraction.bytes()).map(|digit| i64::from(digit - b'0'));
    // Number of digits before the point, once leading zeros are gone.
    let zeros = digits().take_while(|digit| *digit == 0).count();
    let num_whole = whole.len() as i64 + i64::from(exponent) - zeros as i64;
    if digits().all(|digit| digit == 0) {
        return Some(0);
    }
    if num_whole > MAX_WHOLE_DIGITS {
        return None;
    }
    // Hundredths have two digits more. The digit behind them decides how they are rounded.
    let wanted = num_whole + 2;
    if wanted < 0 {
        return Some(0);
    }
    let mut significant = digits().skip(zeros);
    let sum = (0..wanted).fold(0, |sum, _| sum * 10 + significant.next().unwrap_or(0));
    Some(sum + i64::from(significant.next().unwrap_or(0) >= 5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_rounded_half_up_to_hundredths() {
        let cases = [
            ("12", Some(1200)),
            ("0.5", Some(50)),
            ("1.005", Some(101)),
            ("1.0049", Some(100)),
            ("9.999", Some(1000)),
            ("0.005", Some(1)),
            ("0.0049", Some(0)),
            ("0.0009", Some(0)),
            ("0", Some(0)),
            ("0.00", Some(0)),
            ("0e99", Some(0)),
            ("1e3", Some(100_000)),
            ("4E+3", Some(400_000)),
            ("12345e-2", Some(12_345)),
            ("5e-3", Some(1)),
            ("5e-4", Some(0)),
            ("007.5", Some(750)),
            ("9999999999999.99", Some(999_999_999_999_999)),
            ("10000000000000", None),
            ("1e13", None),
            ("1e99999999", None),
            ("-1", None),
            (".5", None),
            ("1.2.3", None),
            ("1e", None),
            ("\"1\"", None),
            ("true", None),
        ];
        for (text, expected) in cases {
            assert_eq!(hundredths(text), expected, "{text}");
        }
    }
}
