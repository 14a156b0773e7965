//! Usage events: Segment calls and the flat form.

use std::borrow::Cow;

use keepwell_core::event::{Body, Event};
use serde::Deserialize;

use super::{Form, MAX_COUNT, MAX_DURATION_MS, Received, missing, text_of, within};
use crate::input::{Given, Integer, Milliseconds, Name, Object, excerpt};
use crate::reason::{Code, Reason};
use crate::time_of::{When, segment_time};

/// The fields of both forms. Fields of the other form may contain anything.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage<'a> {
    #[serde(borrow)]
    event_id: Given<Name<'a>>,
    account_id: Given<Name<'a>>,
    user_id: Given<Name<'a>>,
    feature: Given<Name<'a>>,
    occurred_at: Given<When>,
    count: Given<Integer>,
    duration_ms: Given<Milliseconds>,
    errors: Given<Integer>,

    r#type: Given<Name<'a>>,
    #[serde(rename = "messageId")]
    message_id: Given<Name<'a>>,
    event: Given<Name<'a>>,
    #[serde(rename = "userId")]
    segment_user_id: Given<Name<'a>>,
    #[serde(rename = "anonymousId")]
    anonymous_id: Given<Name<'a>>,
    #[serde(rename = "groupId")]
    group_id: Given<Name<'a>>,
    context: Given<Object<Context<'a>>>,
    timestamp: Given<When>,
    #[serde(rename = "originalTimestamp")]
    original_timestamp: Given<When>,
    #[serde(rename = "sentAt")]
    sent_at: Given<When>,
    #[serde(rename = "receivedAt")]
    received_at: Given<When>,
    properties: Given<Object<Numbers>>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Context<'a> {
    #[serde(rename = "groupId", borrow)]
    group_id: Given<Name<'a>>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct Numbers {
    count: Given<Integer>,
    duration_ms: Given<Milliseconds>,
    errors: Given<Integer>,
}

/// The result of decoding a record of a usage topic.
pub(super) enum Call<'a> {
    /// A use of a feature.
    Use(Received<'a>),
    /// Another Segment call, by its name. It is not about usage.
    Other(&'static str),
}

/// Segment calls that are not a use of a feature.
const OTHER_CALLS: [&str; 5] = ["page", "screen", "identify", "group", "alias"];

/// Decodes a usage event.
pub(super) fn decode(form: Form<'_>) -> Result<Call<'_>, Reason> {
    let usage: Usage<'_> = form.object()?;
    // A Segment call may contain a field name of the flat form, but never `feature`.
    let is_segment = usage.message_id.is_there() && !usage.feature.is_there();
    if (usage.event_id.is_there() || usage.occurred_at.is_there()) && !is_segment {
        return flat(usage).map(|event| Call::Use((event, None)));
    }
    segment(usage)
}

fn flat(u: Usage<'_>) -> Result<Event<'_>, Reason> {
    let account_id = super::account_of(u.account_id)?;
    let numbers = Numbers { count: u.count, duration_ms: u.duration_ms, errors: u.errors };
    Ok(Event {
        account_id,
        event_id: u.event_id.required("event_id")?.0,
        occurred_us: u.occurred_at.required("occurred_at")?.0,
        body: used(text_of(u.user_id, "user_id")?, u.feature.required("feature")?.0, numbers)?,
    })
}

fn segment(u: Usage<'_>) -> Result<Call<'_>, Reason> {
    let call = u.r#type.optional("type")?.map_or(Cow::Borrowed("track"), |name| name.0);
    if let Some(other) = OTHER_CALLS.into_iter().find(|other| *other == call) {
        return Ok(Call::Other(other));
    }
    if call != "track" {
        return Err(Reason::new(Code::UnknownValue, format!("type {:?} is no call of Segment's", excerpt(&call))));
    }
    let message_id = u.message_id.optional("messageId")?;
    let message_id = message_id.ok_or_else(|| missing("messageId (or event_id, for the flat form)"))?;
    let within = u.context.optional("context")?.map(|context| context.0.group_id).unwrap_or_default();
    let account_id = match within.optional("context.groupId")? {
        Some(group) => Some(group),
        None => u.group_id.optional("groupId")?,
    };
    let account_id = account_id.ok_or_else(|| Reason::new(Code::NoAccount, "neither context.groupId nor groupId"))?;
    let user_id = match text_of(u.segment_user_id, "userId")? {
        Some(user) => Some(user),
        None => text_of(u.anonymous_id, "anonymousId")?,
    };
    let received = u.received_at.optional("receivedAt")?;
    let occurred_us = segment_time(
        u.timestamp.optional("timestamp")?,
        u.original_timestamp.optional("originalTimestamp")?,
        u.sent_at.optional("sentAt")?,
        received,
    );
    let numbers = u.properties.optional("properties")?.unwrap_or_default().0;
    let event = Event {
        account_id: account_id.0,
        event_id: message_id.0,
        occurred_us: occurred_us.ok_or_else(|| missing("timestamp"))?,
        body: used(user_id, u.event.required("event")?.0, numbers)?,
    };
    Ok(Call::Use((event, received.map(|time| time.0))))
}

fn used<'a>(user_id: Option<Cow<'a, str>>, feature: Cow<'a, str>, numbers: Numbers) -> Result<Body<'a>, Reason> {
    let (count, errors) = (numbers.count.optional("count")?, numbers.errors.optional("errors")?);
    let duration = numbers.duration_ms.optional("duration_ms")?;
    Ok(Body::Usage {
        user_id,
        feature,
        count: within("count", count.map_or(1, |count| count.0), 0, MAX_COUNT)?,
        duration_ms: duration.map(|ms| within("duration_ms", ms.0, 0, MAX_DURATION_MS)).transpose()?,
        errors: errors.map(|errors| within("errors", errors.0, 0, MAX_COUNT)).transpose()?,
    })
}
