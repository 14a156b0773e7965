//! Decoders: one raw value gives one event, an ignored call, or a reject reason. They are pure and accept any input.

pub(crate) mod account;
mod contract;
mod fields;
mod money;
mod usage;

pub use fields::{Fields, Form};

use std::borrow::Cow;

use keepwell_core::event::{Body, Event, Kind, PersonAction, Priority, Survey, TicketAction};
use keepwell_core::schema::health::rfc3339;
use serde::Deserialize;

use crate::input::{Given, Integer, Name, OneOf, Word, too_long};
use crate::reason::{Code, Reason};
use crate::time_of::When;

/// Limits for accepted events.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest value, in bytes.
    pub max_event_bytes: usize,
    /// The most facts in one event.
    pub max_facts: usize,
    /// Longest JSON text of one fact, in bytes.
    pub max_fact_bytes: usize,
    /// Events after this time are `future`, UTC microseconds. It is the clock or the append time of the record,
    /// whichever is earlier, plus `time.max_future`.
    pub latest_us: i64,
    /// `time.max_future` in microseconds. An event may be later than its own receive time by this much.
    pub max_future_us: i64,
    /// Events before this time are `too_old`, UTC microseconds.
    pub earliest_us: i64,
}

/// The result of decoding a raw value.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<'a> {
    /// An accepted event.
    Event(Event<'a>),
    /// A valid call that is not about usage. It contains the kind of the call.
    Ignored(&'static str),
}

/// An event and the receive time that it contains, UTC microseconds.
type Received<'a> = (Event<'a>, Option<i64>);

/// Counts, errors and seats are at most this, so that no sum overflows.
pub(crate) const MAX_COUNT: i64 = 1_000_000_000;
/// Longest duration of one usage event, in milliseconds (116 days).
pub(crate) const MAX_DURATION_MS: i64 = 10_000_000_000;
/// Some editors and exports write this before a text. It has no meaning.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Decodes `value`, which was read from a topic of this kind.
///
/// # Errors
/// The [`Reason`] for which the record is rejected.
pub fn decode<'a>(kind: Kind, value: &'a [u8], limits: &Limits) -> Result<Decoded<'a>, Reason> {
    check_size(value.len(), limits)?;
    decode_form(kind, Form::Text(text(value)?), limits)
}

/// Decodes an event in Keepwell's own form of this kind.
///
/// # Errors
/// The [`Reason`] for which the record is rejected.
pub fn decode_form<'a>(kind: Kind, form: Form<'a>, limits: &Limits) -> Result<Decoded<'a>, Reason> {
    let (event, received_us) = match kind {
        Kind::Usage => match usage::decode(form)? {
            usage::Call::Use(received) => received,
            usage::Call::Other(name) => return Ok(Decoded::Ignored(name)),
        },
        Kind::Ticket => (ticket(form)?, None),
        Kind::Survey => (survey(form)?, None),
        Kind::Account => (account::decode(form, limits)?, None),
        Kind::Person => (person(form)?, None),
        Kind::Contract => (contract::decode(form)?, None),
    };
    check_time(&event, received_us, limits)?;
    Ok(Decoded::Event(event))
}

/// Checks the size of a raw value.
///
/// # Errors
/// [`Code::Oversized`] when it is above the limit.
pub fn check_size(num_bytes: usize, limits: &Limits) -> Result<(), Reason> {
    if num_bytes > limits.max_event_bytes {
        let detail = format!("{num_bytes} bytes, allowed are {}", limits.max_event_bytes);
        return Err(Reason::new(Code::Oversized, detail));
    }
    Ok(())
}

/// The text of a raw value.
///
/// # Errors
/// [`Code::NotUtf8`] when it is not UTF-8.
pub fn text(value: &[u8]) -> Result<&str, Reason> {
    let value = value.strip_prefix(BYTE_ORDER_MARK).unwrap_or(value);
    std::str::from_utf8(value).map_err(|e| Reason::new(Code::NotUtf8, e.to_string()))
}

/// Checks that the event time is not in the future and not too old.
fn check_time(event: &Event<'_>, received_us: Option<i64>, limits: &Limits) -> Result<(), Reason> {
    let time = |code, what| Reason::new(code, format!("event time {} {what}", rfc3339(event.occurred_us)));
    if event.occurred_us > limits.latest_us {
        return Err(time(Code::Future, format!("is after {}", rfc3339(limits.latest_us))));
    }
    if let Some(received_us) = received_us
        && event.occurred_us > received_us.saturating_add(limits.max_future_us)
    {
        return Err(time(Code::Future, format!("is after it was received, {}", rfc3339(received_us))));
    }
    if event.occurred_us < limits.earliest_us {
        return Err(time(Code::TooOld, format!("is before {}", rfc3339(limits.earliest_us))));
    }
    Ok(())
}

/// The event of a null value on the accounts topic. It deletes the account in the key, at the time of the record.
///
/// # Errors
/// [`Code::NoAccount`] when the key is not an account id, [`Code::BadTime`] when the time of the record is not valid,
/// and the reasons that apply to every event.
pub fn tombstone<'a>(
    key: Option<&'a [u8]>,
    event_id: String,
    written_ms: i64,
    limits: &Limits,
) -> Result<Event<'a>, Reason> {
    let account_id = key.and_then(|key| std::str::from_utf8(key).ok()).filter(|id| !id.is_empty());
    let account_id =
        account_id.ok_or_else(|| Reason::new(Code::NoAccount, "a null value whose key is no account id"))?;
    if let Some(reason) = too_long(account_id, crate::input::MAX_NAME_BYTES) {
        return Err(reason);
    }
    let no_time = || Reason::new(Code::BadTime, format!("the record's time is {written_ms} ms"));
    let event = Event {
        account_id: Cow::Borrowed(account_id),
        event_id: Cow::Owned(event_id),
        occurred_us: When::of_ms(written_ms).ok_or_else(no_time)?.0,
        body: Body::Deleted,
    };
    check_time(&event, None, limits)?;
    Ok(event)
}

fn missing(field: &str) -> Reason {
    Reason::new(Code::MissingField, field)
}

fn account_of<'a>(account_id: Given<Name<'a>>) -> Result<Cow<'a, str>, Reason> {
    let no_account = || Reason::new(Code::NoAccount, "account_id is missing");
    Ok(account_id.optional("account_id")?.ok_or_else(no_account)?.0)
}

fn text_of<'a>(given: Given<Name<'a>>, field: &str) -> Result<Option<Cow<'a, str>>, Reason> {
    Ok(given.optional(field)?.map(|name| name.0))
}

fn within(field: &str, value: i64, least: i64, most: i64) -> Result<i64, Reason> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Reason::new(Code::OutOfRange, format!("{field} is {value}, allowed is {least} to {most}")))
}

impl Word for TicketAction {
    const WHAT: &'static str = "step of a ticket";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("opened", Self::Opened),
        ("responded", Self::Responded),
        ("resolved", Self::Resolved),
        ("reopened", Self::Reopened),
        ("escalated", Self::Escalated),
        ("priority_changed", Self::PriorityChanged),
        ("rated", Self::Rated),
        ("closed", Self::Closed),
    ];
}

impl Word for Priority {
    const WHAT: &'static str = "priority";
    const WORDS: &'static [(&'static str, Self)] =
        &[("low", Self::Low), ("normal", Self::Normal), ("high", Self::High), ("urgent", Self::Urgent)];
}

impl Word for Survey {
    const WHAT: &'static str = "survey";
    const WORDS: &'static [(&'static str, Self)] = &[("nps", Self::Nps), ("csat", Self::Csat), ("ces", Self::Ces)];
}

impl Word for PersonAction {
    const WHAT: &'static str = "change of a person";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("added", Self::Added),
        ("removed", Self::Removed),
        ("role_changed", Self::RoleChanged),
        ("erased", Self::Erased),
    ];
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Ticket<'a> {
    #[serde(borrow)]
    event_id: Given<Name<'a>>,
    account_id: Given<Name<'a>>,
    ticket_id: Given<Name<'a>>,
    occurred_at: Given<When>,
    r#type: Given<OneOf<TicketAction>>,
    priority: Given<OneOf<Priority>>,
    category: Given<Name<'a>>,
    csat: Given<Integer>,
    user_id: Given<Name<'a>>,
}

fn ticket(form: Form<'_>) -> Result<Event<'_>, Reason> {
    let t: Ticket<'_> = form.object()?;
    let action = t.r#type.required("type")?.0;
    let csat = match (action, t.csat.optional("csat")?) {
        (TicketAction::Rated, None) => return Err(missing("csat, which `rated` needs")),
        (_, csat) => csat.map(|csat| within("csat", csat.0, 1, 5)).transpose()?,
    };
    Ok(Event {
        account_id: account_of(t.account_id)?,
        event_id: t.event_id.required("event_id")?.0,
        occurred_us: t.occurred_at.required("occurred_at")?.0,
        body: Body::Ticket {
            ticket_id: t.ticket_id.required("ticket_id")?.0,
            action,
            priority: t.priority.optional("priority")?.map(|priority| priority.0),
            category: text_of(t.category, "category")?,
            csat: csat.and_then(|csat| u8::try_from(csat).ok()),
            user_id: text_of(t.user_id, "user_id")?,
        },
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer<'a> {
    #[serde(borrow)]
    event_id: Given<Name<'a>>,
    account_id: Given<Name<'a>>,
    user_id: Given<Name<'a>>,
    occurred_at: Given<When>,
    survey: Given<OneOf<Survey>>,
    score: Given<Integer>,
    scale_max: Given<Integer>,
}

fn survey(form: Form<'_>) -> Result<Event<'_>, Reason> {
    let a: Answer<'_> = form.object()?;
    let survey = a.survey.required("survey")?.0;
    let scale_max = a.scale_max.optional("scale_max")?.map(|best| best.0);
    let scale_max = match survey {
        Survey::Nps => within("scale_max of an NPS survey", scale_max.unwrap_or(10), 10, 10)?,
        Survey::Csat => within("scale_max", scale_max.unwrap_or(5), 1, 1000)?,
        Survey::Ces => within("scale_max", scale_max.unwrap_or(7), 1, 1000)?,
    };
    Ok(Event {
        account_id: account_of(a.account_id)?,
        event_id: a.event_id.required("event_id")?.0,
        occurred_us: a.occurred_at.required("occurred_at")?.0,
        body: Body::Survey {
            survey,
            score: within("score", a.score.required("score")?.0, 0, scale_max)?,
            scale_max,
            user_id: text_of(a.user_id, "user_id")?,
        },
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Membership<'a> {
    #[serde(borrow)]
    event_id: Given<Name<'a>>,
    account_id: Given<Name<'a>>,
    user_id: Given<Name<'a>>,
    occurred_at: Given<When>,
    r#type: Given<OneOf<PersonAction>>,
    role: Given<Name<'a>>,
}

fn person(form: Form<'_>) -> Result<Event<'_>, Reason> {
    let m: Membership<'_> = form.object()?;
    Ok(Event {
        account_id: account_of(m.account_id)?,
        event_id: m.event_id.required("event_id")?.0,
        occurred_us: m.occurred_at.required("occurred_at")?.0,
        body: Body::Person {
            action: m.r#type.required("type")?.0,
            user_id: m.user_id.required("user_id")?.0,
            role: m.role.change("role")?.map(|name| name.0),
        },
    })
}

#[cfg(test)]
mod tests;
