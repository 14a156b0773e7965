//! Account events: facts, deletion, milestones and outcomes.
//!
//! Known facts have types. They are stored as canonical JSON texts, so that readers need not know the forms of the
//! input. Times become epoch microseconds, money gets two decimals, and features are sorted.

use std::borrow::Cow;

use keepwell_core::event::{Body, Event, Outcome};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::money::hundredths;
use super::{Form, Limits, account_of, missing, text_of};
use crate::input::{
    Accept, AlertId, Given, GivenFacts, Integer, MAX_NAME_BYTES, Name, Object, OneOf, Word, excerpt, too_long,
};
use crate::reason::{Code, Reason};
use crate::time_of::When;

/// What an account event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Upsert,
    Deleted,
    Milestone,
    Outcome,
}

impl Word for Action {
    const WHAT: &'static str = "account event";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("upsert", Self::Upsert),
        ("deleted", Self::Deleted),
        ("milestone", Self::Milestone),
        ("outcome", Self::Outcome),
    ];
}

impl Word for Outcome {
    const WHAT: &'static str = "outcome of an alert";
    const WORDS: &'static [(&'static str, Self)] =
        &[("accepted", Self::Accepted), ("done", Self::Done), ("dismissed", Self::Dismissed)];
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Account<'a> {
    #[serde(borrow)]
    event_id: Given<Name<'a>>,
    account_id: Given<Name<'a>>,
    occurred_at: Given<When>,
    r#type: Given<OneOf<Action>>,
    facts: Given<GivenFacts<'a>>,
    valid_until: Given<When>,
    author: Given<Name<'a>>,
    milestone: Given<Object<Milestone<'a>>>,
    outcome: Given<Object<AlertOutcome<'a>>>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Milestone<'a> {
    #[serde(borrow)]
    id: Given<Name<'a>>,
    due_at: Given<When>,
    done_at: Given<When>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct AlertOutcome<'a> {
    #[serde(borrow)]
    alert_id: Given<AlertId<'a>>,
    event: Given<OneOf<Outcome>>,
}

/// Decodes an account event.
pub(super) fn decode<'a>(form: Form<'a>, limits: &Limits) -> Result<Event<'a>, Reason> {
    let a: Account<'_> = form.object()?;
    let account_id = account_of(a.account_id)?;
    let body = match a.r#type.required("type")?.0 {
        Action::Upsert => {
            let given = a.facts.optional("facts")?.ok_or_else(|| missing("facts, which `upsert` needs"))?;
            // The account is named, so that the reader of the reject can find it.
            let of_account =
                |Reason { code, detail }| Reason { code, detail: format!("account {account_id:?}: {detail}") };
            Body::Facts {
                facts: facts(given, limits).map_err(of_account)?,
                valid_until_us: a.valid_until.optional("valid_until")?.map(|time| time.0),
                author: text_of(a.author, "author")?,
            }
        }
        Action::Deleted => Body::Deleted,
        Action::Milestone => {
            let m = a.milestone.optional("milestone")?.ok_or_else(|| missing("milestone, which `milestone` needs"))?.0;
            Body::Milestone {
                id: m.id.required("milestone.id")?.0,
                due_us: m.due_at.change("milestone.due_at")?.map(|time| time.0),
                done_us: m.done_at.change("milestone.done_at")?.map(|time| time.0),
            }
        }
        Action::Outcome => {
            let o = a.outcome.optional("outcome")?.ok_or_else(|| missing("outcome, which `outcome` needs"))?.0;
            Body::Outcome {
                alert_id: o.alert_id.required("outcome.alert_id")?.0,
                outcome: o.event.required("outcome.event")?.0,
            }
        }
    };
    Ok(Event {
        account_id,
        event_id: a.event_id.required("event_id")?.0,
        occurred_us: a.occurred_at.required("occurred_at")?.0,
        body,
    })
}

type Fact<'a> = (Cow<'a, str>, Cow<'a, str>);

fn facts<'a>(given: GivenFacts<'a>, limits: &Limits) -> Result<Vec<Fact<'a>>, Reason> {
    let num_facts = given.0.len();
    if num_facts > limits.max_facts {
        let detail = format!("{num_facts} facts in one event, allowed are {} (ingest.max_facts)", limits.max_facts);
        return Err(Reason::new(Code::OutOfRange, detail));
    }
    given.0.into_iter().map(|(name, value)| fact(name, value, limits)).collect()
}

fn fact<'a>(name: Cow<'a, str>, value: &'a RawValue, limits: &Limits) -> Result<Fact<'a>, Reason> {
    if let Some(Reason { code, detail }) = too_long(&name, MAX_NAME_BYTES) {
        return Err(Reason { code, detail: format!("a fact with {detail}") });
    }
    let text = if value.get() == "null" { Cow::Borrowed("null") } else { canonical(&name, value.get())? };
    if text.len() > limits.max_fact_bytes {
        let (num_bytes, allowed) = (text.len(), limits.max_fact_bytes);
        let detail = format!("fact {name} takes {num_bytes} bytes, allowed are {allowed} (ingest.max_fact_bytes)");
        return Err(Reason::new(Code::OutOfRange, detail));
    }
    Ok((name, text))
}

/// The typed value of a fact. None for an empty text, which clears the fact.
fn typed<'a, T: Accept<'a>>(name: &str, text: &'a str) -> Result<Option<T>, Reason> {
    let given: Given<T> = serde_json::from_str(text).map_err(|error| Reason::new(Code::NotJson, error.to_string()))?;
    given.optional(&format!("fact {name}"))
}

/// The canonical JSON text of a fact. Unknown facts keep their text as given.
fn canonical<'a>(name: &str, text: &'a str) -> Result<Cow<'a, str>, Reason> {
    const CLEARED: Cow<'_, str> = Cow::Borrowed("null");
    let wrong = |why: &str| Reason::new(Code::WrongType, format!("fact {name} is {:?}, {why}", excerpt(text)));
    Ok(match name {
        "plan" | "segment" | "stage" | "owner" => match typed::<Name<'_>>(name, text)? {
            None => CLEARED,
            // A whole number becomes a text here too, so that readers find only texts.
            Some(value) if !text.starts_with('"') => Cow::Owned(format!("\"{}\"", value.0)),
            Some(_) => Cow::Borrowed(text),
        },
        "seats" => match typed::<Integer>(name, text)? {
            None => CLEARED,
            Some(seats) => Cow::Owned(super::within("fact seats", seats.0, 0, super::MAX_COUNT)?.to_string()),
        },
        "started_at" | "renews_at" => typed::<When>(name, text)?.map_or(CLEARED, |time| Cow::Owned(time.0.to_string())),
        _ if text == "\"\"" && is_known(name) => CLEARED,
        "mrr" => {
            let cents = hundredths(text).ok_or_else(|| wrong("expected a number from 0 to below 10^13"))?;
            Cow::Owned(format!("{}.{:02}", cents / 100, cents % 100))
        }
        "sentiment" | "trained" | "invoices" => {
            let percent: f64 = serde_json::from_str(text).map_err(|_| wrong("expected a number"))?;
            if !(0.0..=100.0).contains(&percent) {
                let detail = format!("fact {name} is {}, allowed is 0 to 100", excerpt(text));
                return Err(Reason::new(Code::OutOfRange, detail));
            }
            Cow::Borrowed(text)
        }
        "features" => {
            let given: Vec<Given<Name<'_>>> =
                serde_json::from_str(text).map_err(|_| wrong("expected a list of texts"))?;
            let mut features = Vec::with_capacity(given.len());
            for feature in given {
                features.extend(text_of(feature, "an entry of fact features")?);
            }
            features.sort_unstable();
            features.dedup();
            Cow::Owned(serde_json::to_string(&features).map_err(|_| wrong("expected a list of texts"))?)
        }
        _ => Cow::Borrowed(text),
    })
}

fn is_known(name: &str) -> bool {
    ["mrr", "sentiment", "trained", "invoices", "features"].contains(&name)
}
