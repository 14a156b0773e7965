//! Events of contracts: they start, change, are renewed, paused, resumed and cancelled.

use std::borrow::Cow;

use keepwell_core::event::{Body, Change, Contract, ContractAction, Event, Terms};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::money::hundredths;
use super::{Form, MAX_COUNT, account_of, text_of, within};
use crate::input::{Accept, Given, Integer, Name, OneOf, Word, excerpt};
use crate::reason::{Code, Reason};
use crate::time_of::When;

/// Id of a contract whose event names none. So an account with one contract needs no ids.
const ONLY: &str = "main";

impl Word for ContractAction {
    const WHAT: &'static str = "contract event";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("started", Self::Started),
        ("changed", Self::Changed),
        ("renewed", Self::Renewed),
        ("paused", Self::Paused),
        ("resumed", Self::Resumed),
        ("cancelled", Self::Cancelled),
    ];
}

/// A currency: three letters. Small letters become capitals.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Currency<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Accept<'de> for Currency<'a> {
    const EXPECTED: &'static str = "a currency of three letters";

    fn text(text: Cow<'de, str>) -> Given<Self> {
        if text.len() != 3 || !text.bytes().all(|letter| letter.is_ascii_alphabetic()) {
            let what = format!("{:?} is no currency of three letters (ISO 4217)", excerpt(&text));
            return Given::Wrong(Reason::new(Code::UnknownValue, what));
        }
        let is_capital = text.bytes().all(|letter| letter.is_ascii_uppercase());
        Given::Is(Self(if is_capital { text } else { Cow::Owned(text.to_ascii_uppercase()) }))
    }
}

/// A number as it is written, so that decimals are exact. None: the field is missing.
#[derive(Default)]
struct Written<'a>(Option<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Written<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(|value| Self(Some(value)))
    }
}

impl Written<'_> {
    /// The change of an amount of money, in hundredths.
    fn money(&self, field: &str) -> Result<Change<i64>, Reason> {
        let Some(text) = self.0.map(RawValue::get) else { return Ok(Change::Kept) };
        if text == "null" || text == "\"\"" {
            return Ok(Change::Cleared);
        }
        let wrong = || {
            let detail = format!("{field}: {}, expected a number from 0 to below 10^13", excerpt(text));
            Reason::new(Code::WrongType, detail)
        };
        hundredths(text).map(Change::Set).ok_or_else(wrong)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    event_id: Given<Name<'a>>,
    account_id: Given<Name<'a>>,
    contract_id: Given<Name<'a>>,
    occurred_at: Given<When>,
    r#type: Given<OneOf<ContractAction>>,
    effective_at: Given<When>,
    #[serde(borrow)]
    mrr: Written<'a>,
    currency: Given<Currency<'a>>,
    seats: Given<Integer>,
    ends_at: Given<When>,
    reason: Given<Name<'a>>,
}

/// Decodes a contract event.
pub(super) fn decode(form: Form<'_>) -> Result<Event<'_>, Reason> {
    let c: Fields<'_> = form.object()?;
    let occurred_us = c.occurred_at.required("occurred_at")?.0;
    let seats = match c.seats.change("seats")?.map(|seats| seats.0) {
        Change::Set(seats) => Change::Set(within("seats", seats, 0, MAX_COUNT)?),
        other => other,
    };
    Ok(Event {
        account_id: account_of(c.account_id)?,
        event_id: c.event_id.required("event_id")?.0,
        occurred_us,
        body: Body::Contract(Contract {
            id: text_of(c.contract_id, "contract_id")?.unwrap_or(Cow::Borrowed(ONLY)),
            action: c.r#type.required("type")?.0,
            effective_us: c.effective_at.optional("effective_at")?.map_or(occurred_us, |time| time.0),
            terms: Terms {
                mrr_hundredths: c.mrr.money("mrr")?,
                currency: c.currency.change("currency")?.map(|currency| currency.0),
                seats,
                ends_us: c.ends_at.change("ends_at")?.map(|time| time.0),
            },
            reason: text_of(c.reason, "reason")?,
        }),
    })
}
