//! Segment's HTTP API, which RudderStack's clients speak, too: calls become records of a raw topic.
//!
//! Source: <https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/>. An event keeps every field
//! that it was sent with. Added are what Segment's servers add: `type` by the path, `receivedAt`, `originalTimestamp`, a
//! `timestamp` without the error of the sender's clock, a `messageId` where it has none, and `context`, `integrations`
//! and `sentAt` of the batch.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use crate::refusal::Refusal;
use crate::request::Request;

/// A call of the API, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// One event of this type.
    One(&'static str),
    /// A list of events.
    Batch,
}

/// The calls that are events, and the first letters by which browsers call them.
const TYPES: [(&str, &str); 6] =
    [("track", "t"), ("identify", "i"), ("group", "g"), ("page", "p"), ("screen", "s"), ("alias", "a")];

impl Call {
    /// The call of a path.
    pub fn of(path: &str) -> Option<Self> {
        let name = path.strip_prefix("/v1/")?;
        if matches!(name, "batch" | "import" | "b") {
            return Some(Self::Batch);
        }
        TYPES.iter().find(|(long, short)| name == *long || name == *short).map(|(long, _)| Self::One(long))
    }
}

/// What is taken of one request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest event, in bytes of JSON.
    pub event_bytes: usize,
    /// Largest body without compression, in bytes.
    pub batch_bytes: usize,
}

/// How much larger events may become by the context of their batch, which each of them gets.
const MOST_TIMES: usize = 16;

/// Most events of one request.
const MAX_EVENTS: usize = 10_000;

/// One record of the raw topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The account, else the user: events of one account stay in order. None if there is neither.
    pub key: Option<String>,
    /// The event as JSON.
    pub value: Vec<u8>,
}

/// A request that was read: its write key, and its events.
#[derive(Debug)]
pub struct Sent<'b> {
    /// The write key, from the user name of basic authentication or from the body.
    pub write_key: Option<String>,
    batch: Batch<'b>,
}

type Fields = BTreeMap<String, Box<RawValue>>;

#[derive(Debug, Default, Deserialize)]
struct Batch<'b> {
    #[serde(borrow)]
    batch: Vec<&'b RawValue>,
    #[serde(default)]
    context: Option<Box<RawValue>>,
    #[serde(default)]
    integrations: Option<Box<RawValue>>,
    #[serde(rename = "sentAt", default)]
    sent_at: Option<Box<RawValue>>,
    #[serde(rename = "writeKey", default)]
    write_key: Option<Box<RawValue>>,
}

/// Reads a body, without compression.
///
/// # Errors
/// [`Refusal::Malformed`] when it is no JSON, or a batch without a list of events.
pub fn sent<'b>(call: Call, request: &Request, body: &'b [u8]) -> Result<Sent<'b>, Refusal> {
    let not_json =
        |error: serde_json::Error| Refusal::Malformed(format!("the body is not what {call:?} takes: {error}"));
    // A list would be read as the fields in their order.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::Malformed("the body is no JSON object".to_owned()));
    }
    let mut batch: Batch<'b> = match call {
        Call::Batch => serde_json::from_slice(body).map_err(not_json)?,
        Call::One(_) => {
            let event: &RawValue = serde_json::from_slice(body).map_err(not_json)?;
            let write_key = serde_json::from_str::<Fields>(event.get()).ok().and_then(|mut of| of.remove("writeKey"));
            Batch { batch: vec![event], write_key, ..Batch::default() }
        }
    };
    let in_body = batch.write_key.take().and_then(|key| text(&key));
    Ok(Sent { write_key: user_name(request).or(in_body), batch })
}

/// The user name of basic authentication.
fn user_name(request: &Request) -> Option<String> {
    let (scheme, encoded) = request.header("authorization")?.split_once(' ')?;
    let decoded = scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(encoded.trim()).ok())??;
    let pair = String::from_utf8(decoded).ok()?;
    let user = pair.split_once(':').map_or(pair.as_str(), |(user, _)| user);
    (!user.is_empty()).then(|| user.to_owned())
}

impl Sent<'_> {
    /// The records of all events. `is_strict` refuses what a later stage would reject for its form.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] with the number of an event that is too large; in strict mode [`Refusal::Malformed`] with the
    /// number of an event and what it lacks.
    pub fn events(&self, call: Call, received_us: i64, limits: Limits, is_strict: bool) -> Result<Vec<Event>, Refusal> {
        if self.batch.batch.len() > MAX_EVENTS {
            let num_events = self.batch.batch.len();
            return Err(Refusal::TooLarge(format!("{num_events} events; {MAX_EVENTS} are taken at once")));
        }
        let context: Option<Fields> = self.batch.context.as_ref().and_then(|of| serde_json::from_str(of.get()).ok());
        let numbered = self.batch.batch.iter().enumerate();
        let (mut total_bytes, most_bytes) = (0, limits.batch_bytes.saturating_mul(MOST_TIMES));
        let events = numbered.map(|(number, raw)| {
            if raw.get().len() > limits.event_bytes {
                let (bytes, most) = (raw.get().len(), limits.event_bytes);
                return Err(Refusal::TooLarge(format!("event {number} has {bytes} bytes; {most} are taken")));
            }
            let fields: Option<Fields> = serde_json::from_str(raw.get()).ok();
            if let Some(lack) = lack(fields.as_ref(), call).filter(|_| is_strict) {
                return Err(Refusal::Malformed(format!("event {number}: {lack}")));
            }
            // What is no object is passed on as it is: ingest rejects it with a reason, and keeps it.
            let Some(mut fields) = fields else {
                return Ok(Event { key: None, value: raw.get().as_bytes().to_vec() });
            };
            let received = Received { at_us: received_us, number, raw: raw.get(), context: context.as_ref() };
            self.complete(&mut fields, call, received);
            let value = serde_json::to_vec(&fields).map_err(|error| Refusal::Malformed(error.to_string()))?;
            total_bytes += value.len();
            if total_bytes > most_bytes {
                return Err(Refusal::TooLarge(format!(
                    "with the batch's context, its events have more than {most_bytes} bytes"
                )));
            }
            Ok(Event { key: key(&fields), value })
        });
        events.collect()
    }

    /// Adds what Segment's servers add.
    fn complete(&self, fields: &mut Fields, call: Call, received: Received<'_>) {
        fields.remove("writeKey");
        // A null says nothing here. Some clients write one for what they do not have.
        for name in ["timestamp", "originalTimestamp", "sentAt", "context", "integrations"] {
            if fields.get(name).is_some_and(|value| value.get() == "null") {
                fields.remove(name);
            }
        }
        if let Call::One(name) = call {
            set(fields, "type", name);
        }
        for (name, value) in [("sentAt", &self.batch.sent_at), ("integrations", &self.batch.integrations)] {
            if let (Some(value), false) = (value, fields.contains_key(name)) {
                fields.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(context) = received.context.and_then(|of| merged(of, fields.get("context").map(Box::as_ref))) {
            fields.insert("context".to_owned(), context);
        }
        if fields.get("messageId").is_none_or(|id| id.get() == "null" || id.get() == "\"\"") {
            set(fields, "messageId", &received.message_id(fields));
        }
        if let (Some(timestamp), false) = (fields.get("timestamp"), fields.contains_key("originalTimestamp")) {
            let timestamp = timestamp.clone();
            fields.insert("originalTimestamp".to_owned(), timestamp);
        }
        let time = |name: &str| fields.get(name).and_then(|value| text(value)?.parse::<jiff::Timestamp>().ok());
        let corrected_us = match (time("originalTimestamp"), time("sentAt")) {
            (Some(original), Some(sent)) => {
                Some(received.at_us.saturating_sub(sent.as_microsecond().saturating_sub(original.as_microsecond())))
            }
            _ => (!fields.contains_key("timestamp") && !fields.contains_key("originalTimestamp"))
                .then_some(received.at_us),
        };
        if let Some(corrected) = corrected_us.and_then(|us| jiff::Timestamp::from_microsecond(us).ok()) {
            set(fields, "timestamp", &corrected.to_string());
        }
        if let Ok(at) = jiff::Timestamp::from_microsecond(received.at_us) {
            set(fields, "receivedAt", &at.to_string());
        }
    }
}

/// How an event was received.
struct Received<'e> {
    at_us: i64,
    /// Number of the event in its request.
    number: usize,
    raw: &'e str,
    /// The context of its batch.
    context: Option<&'e Fields>,
}

impl Received<'_> {
    /// An id made of what was sent, so that a repeated request is a duplicate. Without a time of its own two equal events
    /// are two events; then the time of receipt is part of the id.
    fn message_id(&self, fields: &Fields) -> String {
        let mut digest = Sha256::new();
        digest.update(self.raw);
        if !fields.contains_key("timestamp") && !fields.contains_key("originalTimestamp") {
            digest.update(self.at_us.to_be_bytes());
            digest.update(self.number.to_be_bytes());
        }
        let hex: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("keepwell-{hex}")
    }
}

/// Both contexts as one. What the event says of a field counts. None if that of the event is no object, and stays as it is.
fn merged(of_batch: &Fields, of_event: Option<&RawValue>) -> Option<Box<RawValue>> {
    let of_event = match of_event {
        None => Fields::new(),
        Some(of_event) => serde_json::from_str(of_event.get()).ok()?,
    };
    let rest = of_batch.iter().filter(|(name, _)| !of_event.contains_key(*name));
    let all: BTreeMap<&String, &Box<RawValue>> = rest.chain(&of_event).collect();
    to_raw_value(&all).ok()
}

fn set(fields: &mut Fields, name: &str, value: &str) {
    // A text is always JSON.
    if let Ok(value) = to_raw_value(value) {
        fields.insert(name.to_owned(), value);
    }
}

fn text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn key(fields: &Fields) -> Option<String> {
    let of = |fields: &Fields, name: &str| fields.get(name).and_then(|id| text(id)).filter(|id| !id.is_empty());
    let context: Option<Fields> = fields.get("context").and_then(|context| serde_json::from_str(context.get()).ok());
    let group = context.and_then(|context| of(&context, "groupId"));
    group.or_else(|| ["groupId", "userId", "anonymousId"].into_iter().find_map(|name| of(fields, name)))
}

/// What an event lacks by Segment's specification.
fn lack(fields: Option<&Fields>, call: Call) -> Option<String> {
    let Some(fields) = fields else { return Some("it is no object".to_owned()) };
    let of = |name: &str| fields.get(name).and_then(|value| text(value)).filter(|value| !value.is_empty());
    let name = match call {
        Call::One(name) => name.to_owned(),
        Call::Batch => of("type").unwrap_or_default(),
    };
    let needed = match name.as_str() {
        "track" => Some("event"),
        "group" => Some("groupId"),
        "alias" => Some("previousId"),
        "identify" | "page" | "screen" => None,
        _ => return Some(format!("type {name:?} is no call of Segment's")),
    };
    if let Some(needed) = needed.filter(|needed| of(needed).is_none()) {
        return Some(format!("{needed} is missing"));
    }
    (of("userId").is_none() && of("anonymousId").is_none()).then(|| "userId and anonymousId are missing".to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-11-30T10:07:30Z";
    const LIMITS: Limits = Limits { event_bytes: 32_768, batch_bytes: 512_000 };

    fn now_us() -> i64 {
        NOW.parse::<jiff::Timestamp>().unwrap().as_microsecond()
    }

    fn request(body: &str) -> Request {
        Request {
            method: "POST".into(),
            path: "/v1/batch".into(),
            headers: Vec::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            received_us: now_us(),
        }
    }

    fn values(call: Call, body: &Value) -> Vec<(Option<String>, Value)> {
        let body = body.to_string();
        let events =
            sent(call, &request(&body), body.as_bytes()).unwrap().events(call, now_us(), LIMITS, false).unwrap();
        events.into_iter().map(|event| (event.key, serde_json::from_slice(&event.value).unwrap())).collect()
    }

    #[test]
    fn a_call_gets_its_type_the_time_of_receipt_and_the_fields_of_its_batch() {
        let track = json!({"event": "export", "userId": "u1", "messageId": "m1", "timestamp": "2026-11-30T10:00:00Z",
            "context": {"groupId": "acme", "app": "mine"}, "n": 12_345_678_901_234_567_u64});
        let mut in_batch = track.clone();
        in_batch["type"] = "track".into();
        let batch = json!({"batch": [in_batch], "context": {"app": "batch", "ip": "1.2.3.4"}, "sentAt": "2026-11-30T10:05:00Z",
            "writeKey": "k"});
        let [(key, event)] = &values(Call::Batch, &batch)[..] else { panic!() };
        assert_eq!(key.as_deref(), Some("acme"));
        // original 10:00:00, sent 10:05:00, received 10:07:30 -> 10:02:30
        assert_eq!(
            *event,
            json!({"type": "track", "event": "export", "userId": "u1", "messageId": "m1", "n": 12_345_678_901_234_567_u64,
                "context": {"groupId": "acme", "app": "mine", "ip": "1.2.3.4"}, "sentAt": "2026-11-30T10:05:00Z",
                "originalTimestamp": "2026-11-30T10:00:00Z", "timestamp": "2026-11-30T10:02:30Z", "receivedAt": NOW})
        );
        let [(key, event)] = &values(Call::of("/v1/t").unwrap(), &track)[..] else { panic!() };
        assert_eq!(key.as_deref(), Some("acme"));
        assert_eq!(
            (&event["type"], &event["timestamp"], &event["receivedAt"]),
            (&json!("track"), &track["timestamp"], &json!(NOW))
        );
        let [(_, event)] = &values(Call::One("page"), &json!({"anonymousId": "a"}))[..] else { panic!() };
        assert_eq!(event["timestamp"], NOW);
    }

    #[test]
    fn an_event_without_an_id_gets_one_that_is_the_same_when_the_request_is_repeated() {
        let id = |event: &Value| values(Call::One("track"), event)[0].1["messageId"].as_str().unwrap().to_owned();
        let timed = json!({"event": "export", "userId": "u1", "timestamp": "2026-11-30T10:00:00Z"});
        assert_eq!(id(&timed), id(&timed));
        assert_ne!(id(&timed), id(&json!({"event": "export", "userId": "u2", "timestamp": "2026-11-30T10:00:00Z"})));
        let untimed = json!({"type": "track", "event": "export", "userId": "u1"});
        let two = values(Call::Batch, &json!({"batch": [untimed, untimed]}));
        assert_ne!(two[0].1["messageId"], two[1].1["messageId"]);
    }

    #[test]
    fn what_is_no_event_is_passed_on_as_it_is_and_refused_in_strict_mode() {
        let call = Call::Batch;
        let cases = [
            ("7", "it is no object"),
            (r#"{"type":"track","userId":"u"}"#, "event is missing"),
            (r#"{"type":"track","event":"e"}"#, "userId and anonymousId are missing"),
            (r#"{"type":"group","userId":"u"}"#, "groupId is missing"),
            (r#"{"type":"blink","userId":"u"}"#, "no call of Segment's"),
            (r#"{"userId":"u"}"#, "no call of Segment's"),
        ];
        for (event, why) in cases {
            let body = format!(r#"{{"batch":[{{"type":"page","userId":"u"}},{event}]}}"#);
            let sent = sent(call, &request(&body), body.as_bytes()).unwrap();
            assert_eq!(sent.events(call, now_us(), LIMITS, false).unwrap().len(), 2, "{event}");
            match sent.events(call, now_us(), LIMITS, true) {
                Err(Refusal::Malformed(found)) => assert!(found.contains("event 1") && found.contains(why), "{found}"),
                other => panic!("{event}: {other:?}"),
            }
        }
        let body = r#"{"batch":[7]}"#;
        let events =
            sent(call, &request(body), body.as_bytes()).unwrap().events(call, now_us(), LIMITS, false).unwrap();
        assert_eq!(events, [Event { key: None, value: b"7".to_vec() }]);
    }

    #[test]
    fn an_event_may_have_as_many_bytes_as_segment_takes_and_no_more() {
        let event = |bytes: usize| {
            let empty = r#"{"type":"page","userId":""}"#.len();
            format!(r#"{{"type":"page","userId":"{}"}}"#, "u".repeat(bytes - empty))
        };
        for (bytes, is_taken) in [(32_768, true), (32_769, false)] {
            let body = format!(r#"{{"batch":[{}]}}"#, event(bytes));
            let events =
                sent(Call::Batch, &request(&body), body.as_bytes()).unwrap().events(Call::Batch, 0, LIMITS, false);
            assert_eq!(events.is_ok(), is_taken, "{bytes}");
        }
    }

    /// 10,000 small events with a large context would be gigabytes.
    #[test]
    fn a_large_context_of_a_batch_cannot_make_its_events_huge() {
        let events = vec![r#"{"type":"page","userId":"u"}"#; 1000].join(",");
        for (context, is_taken) in [(1000, true), (100_000, false)] {
            let body = format!(r#"{{"batch":[{events}],"context":{{"x":"{}"}}}}"#, "x".repeat(context));
            let sent = sent(Call::Batch, &request(&body), body.as_bytes()).unwrap();
            assert_eq!(sent.events(Call::Batch, 0, LIMITS, false).is_ok(), is_taken, "{context}");
        }
    }

    #[test]
    fn a_null_is_as_if_nothing_were_there() {
        let event = r#"{"type":"page","userId":"u","timestamp":null,"sentAt":null,"context":null}"#;
        let body = format!(r#"{{"batch":[{event}],"context":{{"groupId":"acme"}},"sentAt":"2026-11-30T10:05:00Z"}}"#);
        let [(key, event)] = &values(Call::Batch, &serde_json::from_str(&body).unwrap())[..] else { panic!() };
        assert_eq!((key.as_deref(), &event["timestamp"]), (Some("acme"), &json!(NOW)));
        assert_eq!((&event["sentAt"], event.get("originalTimestamp")), (&json!("2026-11-30T10:05:00Z"), None));
    }

    #[test]
    fn a_body_without_a_list_of_events_is_refused_and_so_are_more_than_are_taken_at_once() {
        for body in ["{}", "[]", r#"{"events":[]}"#, r#"{"event":"export","userId":"u"}"#, r#"[[{"type":"page"}]]"#] {
            assert!(matches!(sent(Call::Batch, &request(body), body.as_bytes()), Err(Refusal::Malformed(_))), "{body}");
        }
        for (num_events, is_taken) in [(10_000, true), (10_001, false)] {
            let body = format!(r#"{{"batch":[{}]}}"#, vec!["7"; num_events].join(","));
            let sent = sent(Call::Batch, &request(&body), body.as_bytes()).unwrap();
            assert_eq!(sent.events(Call::Batch, 0, LIMITS, false).is_ok(), is_taken, "{num_events}");
        }
    }

    #[test]
    fn the_write_key_is_in_the_header_or_in_the_body_and_never_in_the_record() {
        let body = r#"{"type":"page","userId":"u","writeKey":"in_body"}"#;
        let mut with = request(body);
        let key = |request: &Request| sent(Call::One("page"), request, body.as_bytes()).unwrap().write_key;
        assert_eq!(key(&with).as_deref(), Some("in_body"));
        with.headers.push(("authorization".into(), format!("Basic {}", BASE64.encode("in_header:"))));
        assert_eq!(key(&with).as_deref(), Some("in_header"));
        let [(_, event)] = &values(Call::One("page"), &serde_json::from_str(body).unwrap())[..] else { panic!() };
        assert!(event.get("writeKey").is_none());
    }
}
