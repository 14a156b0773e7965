//! Usage: Segment `track` calls and the flat form.

use pipeline::event::{Body, Event};
use serde::Deserialize;

use super::{MAX_COUNT, MAX_DURATION_MS, missing, object, within};
use crate::input::{Name, Object, When};
use crate::reason::{Code, Reason};
use crate::time_of::segment_time;

/// Both forms in one: `event_id` or `occurred_at` makes it the flat form.
#[derive(Deserialize)]
struct Usage<'a> {
    #[serde(borrow)]
    event_id: Option<Name<'a>>,
    account_id: Option<Name<'a>>,
    user_id: Option<Name<'a>>,
    feature: Option<Name<'a>>,
    occurred_at: Option<When>,
    count: Option<i64>,
    duration_ms: Option<i64>,
    errors: Option<i64>,

    r#type: Option<Name<'a>>,
    #[serde(rename = "messageId")]
    message_id: Option<Name<'a>>,
    event: Option<Name<'a>>,
    #[serde(rename = "userId")]
    segment_user_id: Option<Name<'a>>,
    #[serde(rename = "anonymousId")]
    anonymous_id: Option<Name<'a>>,
    #[serde(rename = "groupId")]
    group_id: Option<Name<'a>>,
    context: Option<Object<Context<'a>>>,
    timestamp: Option<When>,
    #[serde(rename = "originalTimestamp")]
    original_timestamp: Option<When>,
    #[serde(rename = "sentAt")]
    sent_at: Option<When>,
    #[serde(rename = "receivedAt")]
    received_at: Option<When>,
    properties: Option<Object<Properties>>,
}

#[derive(Deserialize, Default)]
struct Context<'a> {
    #[serde(rename = "groupId", borrow)]
    group_id: Option<Name<'a>>,
}

#[derive(Deserialize, Default)]
struct Properties {
    count: Option<i64>,
    duration_ms: Option<i64>,
    errors: Option<i64>,
}

/// The usage event in `text`.
pub(super) fn decode(text: &str) -> Result<Event<'_>, Reason> {
    let usage: Usage<'_> = object(text)?;
    let is_flat = usage.event_id.is_some() || usage.occurred_at.is_some();
    if is_flat { flat(usage) } else { track(usage) }
}

fn flat(u: Usage<'_>) -> Result<Event<'_>, Reason> {
    let numbers = Properties { count: u.count, duration_ms: u.duration_ms, errors: u.errors };
    event(
        u.account_id.ok_or_else(|| Reason::new(Code::NoAccount, "account_id is missing"))?,
        u.event_id.ok_or_else(|| missing("event_id"))?,
        u.occurred_at.ok_or_else(|| missing("occurred_at"))?.0,
        u.user_id,
        u.feature.ok_or_else(|| missing("feature"))?,
        &numbers,
    )
}

fn track(u: Usage<'_>) -> Result<Event<'_>, Reason> {
    if let Some(Name(other)) = u.r#type.as_ref().filter(|name| name.0 != "track") {
        return Err(Reason::new(Code::UnknownValue, format!("type {other:?} is no track call")));
    }
    let message_id = u.message_id.ok_or_else(|| missing("messageId (or event_id, for the flat form)"))?;
    let group = u.context.and_then(|context| context.0.group_id).or(u.group_id);
    event(
        group.ok_or_else(|| Reason::new(Code::NoAccount, "neither context.groupId nor groupId"))?,
        message_id,
        segment_time(u.timestamp, u.original_timestamp, u.sent_at, u.received_at)
            .ok_or_else(|| missing("timestamp"))?,
        u.segment_user_id.or(u.anonymous_id),
        u.event.ok_or_else(|| missing("event"))?,
        &u.properties.unwrap_or_default().0,
    )
}

fn event<'a>(
    account_id: Name<'a>,
    event_id: Name<'a>,
    occurred_us: i64,
    user_id: Option<Name<'a>>,
    feature: Name<'a>,
    numbers: &Properties,
) -> Result<Event<'a>, Reason> {
    let body = Body::Usage {
        user_id: user_id.map(|name| name.0),
        feature: feature.0,
        count: within("count", numbers.count.unwrap_or(1), 1, MAX_COUNT)?,
        duration_ms: numbers.duration_ms.map(|ms| within("duration_ms", ms, 0, MAX_DURATION_MS)).transpose()?,
        errors: numbers.errors.map(|errors| within("errors", errors, 0, MAX_COUNT)).transpose()?,
    };
    Ok(Event { account_id: account_id.0, event_id: event_id.0, occurred_us, body })
}
