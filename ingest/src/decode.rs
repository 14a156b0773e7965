//! Decoders: one raw value to one event, or the reason why not. Pure and total.

mod account;
mod usage;

use std::borrow::Cow;

use pipeline::event::{Body, Event, Kind, PersonAction, Priority, Survey, TicketAction};
use pipeline::schema::health::rfc3339;
use serde::Deserialize;

use crate::input::{MARK, Name, Object, When};
use crate::reason::{Code, Reason};

/// Limits of what is accepted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest value, in bytes.
    pub max_event_bytes: usize,
    /// Events after this time are `future`, UTC microseconds.
    pub latest_us: i64,
    /// Events before this time are `too_old`, UTC microseconds.
    pub earliest_us: i64,
}

/// Counts, durations and scores stay below this, so that no sum overflows.
const MAX_COUNT: i64 = 1_000_000_000;
/// Longest duration of one usage event, in milliseconds (116 days).
const MAX_DURATION_MS: i64 = 10_000_000_000;

/// The event in `value`, which was read from a topic of this kind.
///
/// # Errors
/// The [`Reason`] for which the record is rejected.
pub fn decode<'a>(kind: Kind, value: &'a [u8], limits: &Limits) -> Result<Event<'a>, Reason> {
    if value.len() > limits.max_event_bytes {
        let detail = format!("{} bytes, allowed are {}", value.len(), limits.max_event_bytes);
        return Err(Reason::new(Code::Oversized, detail));
    }
    let text = std::str::from_utf8(value).map_err(|e| Reason::new(Code::NotUtf8, e.to_string()))?;
    let event = match kind {
        Kind::Usage => usage::decode(text)?,
        Kind::Ticket => ticket(text)?,
        Kind::Survey => survey(text)?,
        Kind::Account => account::decode(text)?,
        Kind::Person => person(text)?,
    };
    let time = |code, what| Reason::new(code, format!("event time {} {what}", rfc3339(event.occurred_us)));
    if event.occurred_us > limits.latest_us {
        return Err(time(Code::Future, format!("is after {}", rfc3339(limits.latest_us))));
    }
    if event.occurred_us < limits.earliest_us {
        return Err(time(Code::TooOld, format!("is before {}", rfc3339(limits.earliest_us))));
    }
    Ok(event)
}

/// The event that a null value on the accounts topic stands for: deletion of the account in the key.
///
/// # Errors
/// [`Code::NoAccount`] when the key is no account id.
pub fn tombstone<'a>(key: Option<&'a [u8]>, event_id: String, occurred_us: i64) -> Result<Event<'a>, Reason> {
    let account_id = key.and_then(|key| std::str::from_utf8(key).ok()).filter(|id| !id.is_empty());
    let account_id =
        account_id.ok_or_else(|| Reason::new(Code::NoAccount, "a null value whose key is no account id"))?;
    Ok(Event {
        account_id: Cow::Borrowed(account_id),
        event_id: Cow::Owned(event_id),
        occurred_us,
        body: Body::Deleted,
    })
}

/// The object in `text` as `T`.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Reason> {
    serde_json::from_str::<Object<T>>(text).map(|object| object.0).map_err(|error| reason_of(text, &error))
}

fn reason_of(text: &str, error: &serde_json::Error) -> Reason {
    let message = error.to_string();
    let code = if let Some(marked) = message.strip_prefix(MARK) {
        let code = Code::ALL.iter().find(|code| marked.starts_with(code.as_str()));
        code.copied().unwrap_or(Code::WrongType)
    } else if !error.is_data() || serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        Code::NotJson
    } else if !text.trim_start().starts_with('{') {
        Code::NotAnObject
    } else if message.starts_with("missing field") {
        Code::MissingField
    } else if message.starts_with("duplicate field") {
        Code::DuplicateKey
    } else if message.starts_with("unknown variant") {
        Code::UnknownValue
    } else {
        Code::WrongType
    };
    Reason::new(code, message.strip_prefix(MARK).unwrap_or(&message))
}

fn missing(field: &str) -> Reason {
    Reason::new(Code::MissingField, field)
}

fn account_of<'a>(account_id: Option<Name<'a>>) -> Result<Cow<'a, str>, Reason> {
    account_id.map(|name| name.0).ok_or_else(|| Reason::new(Code::NoAccount, "account_id is missing"))
}

fn within(field: &str, value: i64, least: i64, most: i64) -> Result<i64, Reason> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Reason::new(Code::OutOfRange, format!("{field} is {value}, allowed is {least} to {most}")))
}

fn ticket(text: &str) -> Result<Event<'_>, Reason> {
    #[derive(Deserialize)]
    struct Ticket<'a> {
        #[serde(borrow)]
        event_id: Name<'a>,
        account_id: Option<Name<'a>>,
        ticket_id: Name<'a>,
        occurred_at: When,
        r#type: TicketAction,
        priority: Option<Priority>,
        category: Option<Name<'a>>,
        csat: Option<i64>,
        user_id: Option<Name<'a>>,
    }
    let t: Ticket<'_> = object(text)?;
    let csat = match (t.r#type, t.csat) {
        (TicketAction::Rated, None) => return Err(missing("csat, which `rated` needs")),
        (_, csat) => csat.map(|csat| within("csat", csat, 1, 5)).transpose()?,
    };
    Ok(Event {
        account_id: account_of(t.account_id)?,
        event_id: t.event_id.0,
        occurred_us: t.occurred_at.0,
        body: Body::Ticket {
            ticket_id: t.ticket_id.0,
            action: t.r#type,
            priority: t.priority,
            category: t.category.map(|name| name.0),
            csat: csat.map(|csat| csat as u8),
            user_id: t.user_id.map(|name| name.0),
        },
    })
}

fn survey(text: &str) -> Result<Event<'_>, Reason> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        event_id: Name<'a>,
        account_id: Option<Name<'a>>,
        user_id: Option<Name<'a>>,
        occurred_at: When,
        survey: Survey,
        score: i64,
        scale_max: Option<i64>,
    }
    let a: Answer<'_> = object(text)?;
    let scale_max = match a.survey {
        Survey::Nps => within("scale_max of an NPS survey", a.scale_max.unwrap_or(10), 10, 10)?,
        Survey::Csat => within("scale_max", a.scale_max.unwrap_or(5), 1, 1000)?,
        Survey::Ces => within("scale_max", a.scale_max.unwrap_or(7), 1, 1000)?,
    };
    Ok(Event {
        account_id: account_of(a.account_id)?,
        event_id: a.event_id.0,
        occurred_us: a.occurred_at.0,
        body: Body::Survey {
            survey: a.survey,
            score: within("score", a.score, 0, scale_max)?,
            scale_max,
            user_id: a.user_id.map(|name| name.0),
        },
    })
}

fn person(text: &str) -> Result<Event<'_>, Reason> {
    #[derive(Deserialize)]
    struct Membership<'a> {
        #[serde(borrow)]
        event_id: Name<'a>,
        account_id: Option<Name<'a>>,
        user_id: Name<'a>,
        occurred_at: When,
        r#type: PersonAction,
        role: Option<Name<'a>>,
    }
    let m: Membership<'_> = object(text)?;
    Ok(Event {
        account_id: account_of(m.account_id)?,
        event_id: m.event_id.0,
        occurred_us: m.occurred_at.0,
        body: Body::Person { action: m.r#type, user_id: m.user_id.0, role: m.role.map(|name| name.0) },
    })
}

#[cfg(test)]
mod tests;
