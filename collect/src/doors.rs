//! What becomes of a request: which door it is for, whether it is genuine, and its records. Pure: no I/O, no clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use keepwell_pipeline::config::Collect;
use keepwell_pipeline::log::kafka::delivery::Keyed;

use crate::credentials::Credentials;
use crate::refusal::Refusal;
use crate::request::Request;
use crate::segment::{self, Call, Limits};

/// The name of Segment's door in metrics.
const SEGMENT: &str = "segment";

/// All doors of a configuration, with their secrets.
#[derive(Debug)]
pub struct Doors {
    /// Raw topics by write key.
    segment: BTreeMap<String, Arc<str>>,
    /// Raw topics and checks by name.
    webhooks: BTreeMap<String, (Arc<str>, Credentials)>,
    limits: Limits,
    max_webhook_bytes: usize,
}

/// The records of a request that is genuine.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// The raw topic.
    pub topic: Arc<str>,
    /// Its records, in order.
    pub records: Vec<Keyed>,
}

/// The door that a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door<'p> {
    /// A call of Segment's API.
    Segment(Call),
    /// A webhook, by its name.
    Webhook(&'p str),
}

impl Door<'_> {
    /// Its name in metrics.
    pub fn name(&self) -> &str {
        match self {
            Self::Segment(_) => SEGMENT,
            Self::Webhook(name) => name,
        }
    }
}

impl Doors {
    /// The doors of a configuration.
    ///
    /// # Errors
    /// When there is no door, a name or a write key stands twice, or a secret cannot be read. The message names the place.
    pub fn new(collect: &Collect) -> Result<Self, String> {
        if collect.segment.is_empty() && collect.webhooks.is_empty() {
            return Err("collect: no door; name write keys under `segment`, or `webhooks`".to_owned());
        }
        let (mut segment, mut webhooks) = (BTreeMap::new(), BTreeMap::new());
        for (number, of) in collect.segment.iter().enumerate() {
            let place = format!("collect.segment[{number}].write_key");
            let key = of.write_key.reveal().map_err(|why| format!("{place}: {why}"))?;
            if key.is_empty() {
                return Err(format!("{place}: it is empty"));
            }
            if segment.insert(key, of.topic.as_str().into()).is_some() {
                return Err(format!("{place}: another topic has the same key"));
            }
        }
        for (number, of) in collect.webhooks.iter().enumerate() {
            let place = format!("collect.webhooks[{number}]");
            let check = Credentials::new(&of.check).map_err(|why| format!("{place}.check: {why}"))?;
            if webhooks.insert(of.name.clone(), (of.topic.as_str().into(), check)).is_some() {
                return Err(format!("{place}.name: another webhook is called {}", of.name));
            }
        }
        let limits = Limits { event_bytes: collect.max_event_bytes, batch_bytes: collect.max_batch_bytes };
        Ok(Self { segment, webhooks, limits, max_webhook_bytes: collect.max_webhook_bytes })
    }

    /// The door of a path.
    ///
    /// # Errors
    /// [`Refusal::NoDoor`] when there is none.
    pub fn door<'p>(&self, path: &'p str) -> Result<Door<'p>, Refusal> {
        if let Some(call) = Call::of(path).filter(|_| !self.segment.is_empty()) {
            return Ok(Door::Segment(call));
        }
        let name = path.strip_prefix("/webhooks/").filter(|name| self.webhooks.contains_key(*name));
        name.map(Door::Webhook).ok_or(Refusal::NoDoor)
    }

    /// The largest body that a door takes, without compression, in bytes.
    pub fn max_bytes(&self, door: Door<'_>) -> usize {
        match door {
            Door::Segment(_) => self.limits.batch_bytes,
            Door::Webhook(_) => self.max_webhook_bytes,
        }
    }

    /// The records of a request.
    ///
    /// # Errors
    /// [`Refusal`] when the request is not genuine or not what its door takes. Then nothing of it is taken.
    pub fn take(&self, door: Door<'_>, request: &Request) -> Result<Taken, Refusal> {
        match door {
            Door::Segment(call) => self.calls(call, request),
            Door::Webhook(name) => self.webhook(name, request),
        }
    }

    fn calls(&self, call: Call, request: &Request) -> Result<Taken, Refusal> {
        let body = request.plain(self.limits.batch_bytes)?;
        let sent = segment::sent(call, request, &body)?;
        let topic = sent.write_key.as_ref().and_then(|key| self.segment.get(key)).ok_or_else(|| {
            let what = if sent.write_key.is_some() { "unknown" } else { "missing" };
            Refusal::NotAllowed(format!("the write key is {what}; it is the user name of basic authentication"))
        })?;
        let is_strict = request.header("x-strict-mode") == Some("1");
        let events = sent.events(call, request.received_us, self.limits, is_strict)?;
        let records = events.into_iter().map(|event| Keyed { key: event.key, value: event.value, headers: Vec::new() });
        Ok(Taken { topic: Arc::clone(topic), records: records.collect() })
    }

    fn webhook(&self, name: &str, request: &Request) -> Result<Taken, Refusal> {
        let (topic, check) = self.webhooks.get(name).ok_or(Refusal::NoDoor)?;
        check.check(request)?;
        let value = request.plain(self.max_webhook_bytes)?.into_owned();
        Ok(Taken { topic: Arc::clone(topic), records: vec![Keyed { key: None, value, headers: passed_on(request) }] })
    }
}

/// Headers of a CloudEvent in binary mode, as they are named in Kafka, and the type of the content.
fn passed_on(request: &Request) -> Vec<(String, String)> {
    let named = request.headers.iter().filter_map(|(name, value)| {
        let name = match name.strip_prefix("ce-") {
            Some(attribute) => format!("ce_{attribute}"),
            None if name == "content-type" => name.clone(),
            None => return None,
        };
        Some((name, value.clone()))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use keepwell_pipeline::config::{Check, Secret, Webhook, WriteKey};
    use proptest::prelude::*;

    use super::*;

    fn doors() -> Doors {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "k1\n").unwrap();
        let write_key = Secret::File(file.path().display().to_string());
        let webhook = |name: &str, check| Webhook { name: name.into(), topic: format!("raw-{name}"), check };
        Doors::new(&Collect {
            segment: vec![WriteKey { write_key: write_key.clone(), topic: "calls".into() }],
            webhooks: vec![
                webhook("open", Check::None),
                webhook("secret", Check::Header { name: "X-Api-Key".into(), value: write_key }),
            ],
            max_batch_bytes: 2000,
            max_webhook_bytes: 1024,
            ..Collect::default()
        })
        .unwrap()
    }

    fn request(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Request {
        Request {
            method: "POST".into(),
            path: path.into(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: Bytes::copy_from_slice(body),
            received_us: 0,
        }
    }

    fn taken(request: &Request) -> Result<Taken, Refusal> {
        let doors = doors();
        doors.take(doors.door(&request.path)?, request)
    }

    fn zipped(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_path_leads_to_a_door_or_to_none() {
        for (path, expected) in [
            ("/v1/track", Some("segment")),
            ("/v1/b", Some("segment")),
            ("/webhooks/open", Some("open")),
            ("/webhooks/other", None),
            ("/webhooks/", None),
            ("/v1/", None),
            ("/v1/tracks", None),
            ("/", None),
        ] {
            let doors = doors();
            assert_eq!(doors.door(path).ok().map(|door| door.name().to_owned()).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn a_body_is_taken_compressed_or_not_up_to_its_size_without_compression() {
        let body = format!(r#"{{"batch":[],"writeKey":"k1","x":"{}"}}"#, "x".repeat(1000));
        let bomb = format!(r#"{{"batch":[],"writeKey":"k1","x":"{}"}}"#, "x".repeat(1_000_000));
        let gzip = [("content-encoding", "gzip")];
        let of = |headers: &[(&str, &str)], body: &[u8]| {
            taken(&request("/v1/batch", headers, body)).map(|taken| taken.topic)
        };
        assert_eq!(of(&[], body.as_bytes()), Ok("calls".into()));
        assert_eq!(of(&gzip, &zipped(&body)), Ok("calls".into()));
        assert!(matches!(of(&gzip, &zipped(&bomb)), Err(Refusal::TooLarge(_))));
        assert!(matches!(of(&[], bomb.as_bytes()), Err(Refusal::TooLarge(_))));
        assert!(matches!(of(&gzip, body.as_bytes()), Err(Refusal::Malformed(_))));
        assert!(matches!(of(&[("content-encoding", "br")], body.as_bytes()), Err(Refusal::Malformed(_))));
    }

    #[test]
    fn a_webhook_is_one_record_as_it_was_sent_and_a_cloud_event_keeps_its_attributes() {
        let headers = [("ce-id", "7"), ("content-type", "application/json"), ("x-other", "y")];
        let kept =
            [("ce_id", "7"), ("content-type", "application/json")].map(|(name, value)| (name.into(), value.into()));
        let record = Keyed { key: None, value: b"not { json".to_vec(), headers: kept.to_vec() };
        let found = taken(&request("/webhooks/open", &headers, b"not { json"));
        assert_eq!(found, Ok(Taken { topic: "raw-open".into(), records: vec![record] }));
        let secret = |key: &str| taken(&request("/webhooks/secret", &[("x-api-key", key)], b"{}")).is_ok();
        assert_eq!([secret("k1"), secret("k2"), secret("")], [true, false, false]);
    }

    #[test]
    fn doors_that_cannot_be_told_apart_stop_the_start() {
        let hook = |name: &str| Webhook { name: name.into(), topic: "t".into(), check: Check::None };
        let refused = |collect: Collect| Doors::new(&collect).unwrap_err();
        assert!(refused(Collect::default()).contains("no door"));
        let twice = refused(Collect { webhooks: vec![hook("a"), hook("a")], ..Collect::default() });
        assert!(twice.contains("collect.webhooks[1].name"), "{twice}");
        let secret = Secret::Env("KEEPWELL_NO_SUCH_VARIABLE".into());
        let unknown =
            refused(Collect { segment: vec![WriteKey { write_key: secret, topic: "t".into() }], ..Collect::default() });
        assert!(unknown.contains("collect.segment[0].write_key") && unknown.contains("NO_SUCH"), "{unknown}");
    }

    proptest! {
        /// Whatever is sent to a door becomes records or a reason; with the right key each event of a list is a record.
        #[test]
        fn no_body_of_any_form_stops_a_door(body in prop::collection::vec(any::<u8>(), 0..300), is_gzip: bool, path in "/(v1/(track|batch|i)|webhooks/(open|secret))") {
            let headers: &[(&str, &str)] = if is_gzip { &[("content-encoding", "gzip")] } else { &[] };
            match taken(&request(&path, headers, &body)) {
                Ok(taken) => prop_assert!(path == "/webhooks/open", "{:?}", taken),
                Err(refusal) => prop_assert!(refusal.status() >= 400 && refusal.status() < 500),
            }
        }

        /// A list of any JSON values is as many records, or is refused as a whole.
        #[test]
        fn each_value_of_a_list_is_a_record(
            values in prop::collection::vec(
                prop::sample::select(vec![
                    "null", "7", "\"x\"", "[]", "{}", r#"{"type":"track"}"#, r#"{"type":7,"userId":"u"}"#, r#"{"context":7}"#,
                    r#"{"context":null,"timestamp":null}"#, r#"{"messageId":"","sentAt":"x","timestamp":{}}"#,
                ]),
                0..9,
            ),
            context in prop::sample::select(vec!["null", "7", "{}", r#"{"groupId":"acme"}"#]),
        ) {
            let body = format!(r#"{{"batch":[{}],"context":{context},"writeKey":"k1"}}"#, values.join(","));
            let found = taken(&request("/v1/batch", &[], body.as_bytes())).unwrap();
            prop_assert_eq!(found.records.len(), values.len());
            for record in found.records {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&record.value).is_ok());
            }
            let strict = taken(&request("/v1/batch", &[("x-strict-mode", "1")], body.as_bytes()));
            prop_assert_eq!(strict.is_ok(), values.is_empty());
        }
    }
}
