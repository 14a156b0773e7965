//! The order of ids among events with the same time. Digits compare as numbers, so `9` comes before `10`.

use std::cmp::Ordering;

/// Compares two ids: runs of ASCII digits as numbers, everything else byte by byte. If the ids are equal in that order,
/// like `1` and `01`, they are compared as texts. So only equal texts are equal.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    while let (Some(first), Some(second)) = (left.first(), right.first()) {
        let order = if first.is_ascii_digit() && second.is_ascii_digit() {
            let (x, y) = (number(&mut left), number(&mut right));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            let order = first.cmp(second);
            (left, right) = (left.get(1..).unwrap_or_default(), right.get(1..).unwrap_or_default());
            order
        };
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Takes the digits at the beginning and returns them without leading zeros.
fn number<'t>(text: &mut &'t [u8]) -> &'t [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    *text = rest;
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_are_numbers_and_the_rest_is_text() {
        let ordered =
            ["", "-", "1", "01", "2", "9", "10", "99999999999999999999999", "a", "a2", "a10", "a10b", "b1", "é"];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                // `01` and `1` are the same number. As texts, `01` comes first.
                let expected = match (*a, *b) {
                    ("1", "01") => Ordering::Greater,
                    ("01", "1") => Ordering::Less,
                    _ => i.cmp(&j),
                };
                assert_eq!(natural(a, b), expected, "{a:?} {b:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(a in "[a01]{0,4}", b in "[a01]{0,4}", c in "[a01]{0,4}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            prop_assert_eq!(natural(&a, &b).is_eq(), a == b);
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le(), "{} {} {}", a, b, c);
            }
        }
    }
}
