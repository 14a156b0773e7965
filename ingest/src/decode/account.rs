//! Accounts: facts, deletion, milestones and outcomes.
//!
//! Known facts have types. They are written as canonical JSON texts, so that what reads them need not
//! know the input's forms: times as epoch microseconds, money with two decimals, features sorted.

use std::borrow::Cow;

use pipeline::event::{Body, Event, Outcome};
use serde::Deserialize;

use super::{account_of, missing, object, reason_of};
use crate::input::{GivenFacts, Name, Object, When};
use crate::reason::{Code, Reason};

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Upsert,
    Deleted,
    Milestone,
    Outcome,
}

#[derive(Deserialize)]
struct Account<'a> {
    #[serde(borrow)]
    event_id: Name<'a>,
    account_id: Option<Name<'a>>,
    occurred_at: When,
    r#type: Action,
    facts: Option<GivenFacts<'a>>,
    valid_until: Option<When>,
    author: Option<Name<'a>>,
    milestone: Option<Object<Milestone<'a>>>,
    outcome: Option<Object<AlertOutcome<'a>>>,
}

#[derive(Deserialize)]
struct Milestone<'a> {
    #[serde(borrow)]
    id: Name<'a>,
    due_at: Option<When>,
    done_at: Option<When>,
}

#[derive(Deserialize)]
struct AlertOutcome<'a> {
    #[serde(borrow)]
    alert_id: Name<'a>,
    event: Outcome,
}

/// The account event in `text`.
pub(super) fn decode(text: &str) -> Result<Event<'_>, Reason> {
    let a: Account<'_> = object(text)?;
    let body = match a.r#type {
        Action::Upsert => Body::Facts {
            facts: facts(a.facts.ok_or_else(|| missing("facts, which `upsert` needs"))?)?,
            valid_until_us: a.valid_until.map(|time| time.0),
            author: a.author.map(|name| name.0),
        },
        Action::Deleted => Body::Deleted,
        Action::Milestone => {
            let m = a.milestone.ok_or_else(|| missing("milestone, which `milestone` needs"))?.0;
            Body::Milestone { id: m.id.0, due_us: m.due_at.map(|t| t.0), done_us: m.done_at.map(|t| t.0) }
        }
        Action::Outcome => {
            let o = a.outcome.ok_or_else(|| missing("outcome, which `outcome` needs"))?.0;
            Body::Outcome { alert_id: o.alert_id.0, outcome: o.event }
        }
    };
    Ok(Event { account_id: account_of(a.account_id)?, event_id: a.event_id.0, occurred_us: a.occurred_at.0, body })
}

type Fact<'a> = (Cow<'a, str>, Cow<'a, str>);

fn facts<'a>(given: GivenFacts<'a>) -> Result<Vec<Fact<'a>>, Reason> {
    given
        .0
        .into_iter()
        .map(|(name, value)| {
            let text = if value.get() == "null" { Cow::Borrowed("null") } else { canonical(&name.0, value.get())? };
            Ok((name.0, text))
        })
        .collect()
}

/// The canonical JSON text of a fact; texts of unknown facts stay as given.
fn canonical<'a>(name: &str, text: &'a str) -> Result<Cow<'a, str>, Reason> {
    let wrong = |why: &str| Reason::new(Code::WrongType, format!("fact {name} is {text}, {why}"));
    let text_of = |expected| serde_json::from_str::<Name<'_>>(text).map_err(|_| wrong(expected));
    Ok(match name {
        "plan" | "segment" | "stage" | "owner" => {
            text_of("expected a text")?;
            Cow::Borrowed(text)
        }
        "seats" => {
            let seats: i64 = serde_json::from_str(text).map_err(|_| wrong("expected an integer"))?;
            super::within("fact seats", seats, 0, super::MAX_COUNT)?;
            Cow::Borrowed(text)
        }
        "mrr" => {
            let cents = hundredths(text).ok_or_else(|| wrong("expected a plain number from 0 to below 10^13"))?;
            Cow::Owned(format!("{}.{:02}", cents / 100, cents % 100))
        }
        "started_at" | "renews_at" => {
            let time: When = serde_json::from_str(text).map_err(|error| reason_of("{}", &error))?;
            Cow::Owned(time.0.to_string())
        }
        "sentiment" | "trained" | "invoices" => {
            let percent: f64 = serde_json::from_str(text).map_err(|_| wrong("expected a number"))?;
            if !(0.0..=100.0).contains(&percent) {
                return Err(Reason::new(Code::OutOfRange, format!("fact {name} is {text}, allowed is 0 to 100")));
            }
            Cow::Borrowed(text)
        }
        "features" => {
            let mut features: Vec<Name<'_>> =
                serde_json::from_str(text).map_err(|_| wrong("expected a list of texts"))?;
            features.sort_by(|a, b| a.0.cmp(&b.0));
            features.dedup();
            let names: Vec<_> = features.iter().map(|name| name.0.as_ref()).collect();
            Cow::Owned(serde_json::to_string(&names).map_err(|_| wrong("expected a list of texts"))?)
        }
        _ => Cow::Borrowed(text),
    })
}

/// A plain decimal number in hundredths, rounded half up.
fn hundredths(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_plain = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || whole.len() > 13 || !is_plain(whole) || !is_plain(fraction) {
        return None;
    }
    let digit = |place: usize| fraction.as_bytes().get(place).map_or(0, |digit| i64::from(digit - b'0'));
    Some(whole.parse::<i64>().ok()? * 100 + digit(0) * 10 + digit(1) + i64::from(digit(2) >= 5))
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
            ("1e3", None),
            ("-1", None),
            (".5", None),
        ];
        for (text, expected) in cases {
            assert_eq!(hundredths(text), expected, "{text}");
        }
    }
}
