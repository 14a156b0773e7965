//! The HTTP door: who may write which raw topic.

use std::net::{Ipv4Addr, SocketAddr};

use garde::Validate;
use serde::{Deserialize, Serialize};

use super::{Kafka, Secret, Source};

/// The doors of `keepwell-collect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Collect {
    /// Address at which requests are taken. TLS is the work of what stands before it.
    #[garde(skip)]
    pub listen: SocketAddr,
    /// Write keys of Segment's HTTP API. Each has its raw topic.
    #[garde(dive)]
    pub segment: Vec<WriteKey>,
    /// Webhooks. Each has its path and its raw topic.
    #[garde(dive)]
    pub webhooks: Vec<Webhook>,
    /// Most connections at a time. Further ones wait.
    #[garde(range(min = 1, max = 100_000))]
    pub max_connections: usize,
    /// Most bytes of bodies that are being read or written to Kafka. Beyond it a request is answered with 503.
    #[garde(range(min = 1_000_000, max = 100_000_000_000))]
    pub max_pending_bytes: usize,
    /// Largest event of Segment's API, in bytes.
    #[garde(range(min = 1024, max = 10_000_000))]
    pub max_event_bytes: usize,
    /// Largest body of Segment's API, without compression, in bytes.
    #[garde(range(min = 1024, max = 10_000_000))]
    pub max_batch_bytes: usize,
    /// Largest body of a webhook, without compression, in bytes.
    #[garde(range(min = 1024, max = 10_000_000))]
    pub max_webhook_bytes: usize,
}

impl Default for Collect {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)),
            segment: Vec::new(),
            webhooks: Vec::new(),
            max_connections: 1024,
            max_pending_bytes: 64 << 20,
            max_event_bytes: 32 << 10,
            max_batch_bytes: 512_000,
            max_webhook_bytes: 262_144,
        }
    }
}

/// A write key of Segment's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct WriteKey {
    /// The key.
    #[garde(skip)]
    pub write_key: Secret,
    /// The raw topic of its events.
    #[garde(length(min = 1, max = 249))]
    pub topic: String,
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The door is `/webhooks/<name>`.
    #[garde(length(min = 1, max = 100), custom(of_a_path))]
    pub name: String,
    /// The raw topic of its bodies.
    #[garde(length(min = 1, max = 249))]
    pub topic: String,
    /// How a request shows that it is genuine.
    #[garde(skip)]
    pub check: Check,
}

fn of_a_path(name: &str, _: &()) -> garde::Result {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if is_plain { Ok(()) } else { Err(garde::Error::new("may have letters, digits, - and _: it is part of a path")) }
}

/// How a request shows that it is genuine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// A signature as Standard Webhooks defines it, by a secret `whsec_...`.
    Standard(Secret),
    /// Zendesk's signature, by the secret of the webhook.
    Zendesk(Secret),
    /// Intercom's signature, by the client secret of the app.
    Intercom(Secret),
    /// HubSpot's signature, version 3.
    Hubspot {
        /// The client secret of the app.
        secret: Secret,
        /// The URL of this door as HubSpot knows it.
        url: String,
    },
    /// A header with a secret value.
    Header {
        /// Name of the header.
        name: String,
        /// Its value.
        value: Secret,
    },
    /// Anybody may write.
    None,
}

/// A value that does not fit another.
#[derive(Debug)]
pub(super) struct Misfit {
    /// Where it is.
    pub place: Place,
    /// The key to change.
    pub key: &'static str,
    /// The rule that it violates.
    pub why: String,
}

/// Where a value is in the section `collect`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// The topic of a write key, by its index.
    Segment(usize),
    /// The topic of a webhook, by its index.
    Webhook(usize),
    /// The value of the key.
    Key,
}

impl Collect {
    /// What does not fit the rest of the configuration.
    pub(super) fn misfit(&self, sources: &[Source], kafka: &Kafka) -> Option<Misfit> {
        let keys = self.segment.iter().enumerate().map(|(number, key)| (Place::Segment(number), &key.topic));
        let hooks = self.webhooks.iter().enumerate().map(|(number, hook)| (Place::Webhook(number), &hook.topic));
        let unread = keys.chain(hooks).find(|(_, topic)| !sources.iter().any(|source| source.topic == **topic));
        if let Some((place, topic)) = unread {
            let why = format!("topic {topic} is not among `sources`: nothing would read what is written to it");
            let key = if matches!(place, Place::Webhook(_)) { "collect.webhooks" } else { "collect.segment" };
            return Some(Misfit { place, key, why });
        }
        let records =
            [("collect.max_event_bytes", self.max_event_bytes), ("collect.max_webhook_bytes", self.max_webhook_bytes)];
        if let Some((key, bytes)) = records.into_iter().find(|(_, bytes)| *bytes > kafka.max_record_bytes) {
            let most = kafka.max_record_bytes;
            let why = format!("{bytes} bytes do not fit into a record: kafka.max_record_bytes is {most}");
            return Some(Misfit { place: Place::Key, key, why });
        }
        let most = self.max_batch_bytes.max(self.max_webhook_bytes);
        (self.max_pending_bytes < 2 * most).then(|| {
            let why = format!("must be at least twice the largest body, which may have {most} bytes");
            Misfit { place: Place::Key, key: "collect.max_pending_bytes", why }
        })
    }

    /// The raw topics that are written, each once, in their order.
    pub fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = self
            .segment
            .iter()
            .map(|key| key.topic.as_str())
            .chain(self.webhooks.iter().map(|hook| hook.topic.as_str()))
            .collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }
}
