//! What goes in and out of Keepwell for programs: one JSON Schema for each form, and an AsyncAPI document of all topics.

use anyhow::{Result, bail};
use keepwell_core::schema::json_schema::json_schema;
use keepwell_core::schema::{event, feature_day, health, revenue, window};
use keepwell_ingest::form::{FORMS, Form};
use keepwell_pipeline::config::{Config, Topics};
use keepwell_sink::alert;
use keepwell_sink::publish::SCORE;
use serde_json::{Map, Value, json};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
const JSON: &str = "application/json";
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// The JSON Schemas of all inputs and outputs, by name.
fn schemas() -> Map<String, Value> {
    let mut schemas: Map<String, Value> = FORMS.iter().map(|form| (form.name.to_owned(), form.json_schema())).collect();
    let mut score = json_schema(health::COLUMNS, Some(SCORE));
    score["description"] = "The last health of an account: the value of a record of scores.".into();
    let mut alert = json_schema(alert::COLUMNS, Some(alert::ALERT));
    alert["description"] = "A trigger that was raised, closed or cleared: the value of a record of alerts.".into();
    schemas.extend([("score".to_owned(), score), ("alert".to_owned(), alert)]);
    schemas
}

/// The JSON Schemas as one document: each is under `$defs`, by its name.
///
/// # Errors
/// None in practice.
pub fn schemas_page() -> Result<String> {
    let about =
        "Inputs and outputs of Keepwell. Written by `keepwell reference schemas`; a test compares it with this file.";
    text(&json!({"$schema": DIALECT, "$comment": about, "$defs": schemas()}))
}

fn text(page: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(page)? + "\n")
}

/// A topic in the document.
struct Channel<'c> {
    /// Its name in the document.
    name: &'c str,
    /// Its name in Kafka.
    topic: &'c str,
    /// `receive`: Keepwell reads it. `send`: Keepwell writes it.
    action: &'static str,
    doc: &'static str,
    /// Names of its messages.
    messages: Vec<&'static str>,
}

/// The AsyncAPI document of a configuration's topics.
///
/// # Errors
/// When the configuration has no topic for a kind.
pub fn asyncapi_page(config: &Config) -> Result<String> {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    let channels_of_config = inputs(config)?.into_iter().chain(outputs(&config.topics));
    for Channel { name, topic, action, doc, messages } in channels_of_config {
        let of = |message: &&str| ((*message).to_owned(), json!({"$ref": format!("#/components/messages/{message}")}));
        let all: Map<String, Value> = messages.iter().map(of).collect();
        channels.insert(name.to_owned(), json!({"address": topic, "description": doc, "messages": all}));
        let channel = json!({"$ref": format!("#/channels/{name}")});
        operations.insert(format!("{action}_{name}"), json!({"action": action, "channel": channel}));
    }
    text(&json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Keepwell",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What Keepwell reads from Kafka and what it writes, with the topics of `deploy/keepwell.yaml`. Written by `keepwell reference asyncapi`; a test compares it with this file."
        },
        "defaultContentType": JSON,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages(), "schemas": schemas()}
    }))
}

/// The raw topics of a configuration, one for each kind.
fn inputs(config: &Config) -> Result<Vec<Channel<'_>>> {
    let mut channels: Vec<Channel<'_>> = Vec::new();
    for Form { name, kind, .. } in FORMS {
        if let Some(known) = channels.iter_mut().find(|channel| channel.name == kind.name()) {
            known.messages.push(name);
            continue;
        }
        let Some(source) = config.sources.iter().find(|source| source.kind == Some(*kind)) else {
            bail!("no source of the kind {}", kind.name());
        };
        let doc = "Raw events of this kind. What is refused goes to the rejects, with its reason.";
        channels.push(Channel {
            name: kind.name(),
            topic: &source.topic,
            action: "receive",
            doc,
            messages: vec![name],
        });
    }
    Ok(channels)
}

fn outputs(topics: &Topics) -> Vec<Channel<'_>> {
    let sent = |name, topic, message, doc| Channel { name, topic, action: "send", doc, messages: vec![message] };
    vec![
        sent(
            "scores",
            &topics.scores,
            "score",
            "The last health of each account; compacted. Key: the account. A deleted account is a tombstone.",
        ),
        sent("alerts", &topics.alerts, "alert", "Each trigger raised, closed or cleared. Key: the account."),
        sent("rejects", &topics.rejects, "reject", "Records that were not accepted, as they were sent."),
        sent("events", &topics.events, "events", "Accepted events, by account."),
        sent("windows", &topics.windows, "windows", "Measures per account over all windows, live and final rows."),
        sent(
            "feature_days",
            &topics.feature_days,
            "feature_days",
            "Adoption per account, feature and day, final rows.",
        ),
        sent("revenue", &topics.revenue, "revenue", "Revenue of accounts by month, quarter and year."),
        sent("health", &topics.health, "health", "Score, factors, drivers and triggers, live and final rows."),
    ]
}

fn messages() -> Map<String, Value> {
    let of_json = |name: &str| {
        let payload = json!({"$ref": format!("#/components/schemas/{name}")});
        (name.to_owned(), json!({"name": name, "contentType": JSON, "payload": payload}))
    };
    let of_arrow = |(name, table): (&str, &str)| {
        let summary = format!("An Arrow IPC stream with rows of {table}; see tables.md and outputs.md#arrow-records.");
        (name.to_owned(), json!({"name": name, "contentType": ARROW, "summary": summary}))
    };
    let texts = [
        "keepwell.reason",
        "__connect.errors.topic",
        "__connect.errors.partition",
        "__connect.errors.offset",
        "__connect.errors.exception.message",
    ];
    let headers: Map<String, Value> =
        texts.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
    let reject = json!({
        "name": "reject",
        "contentType": "application/octet-stream",
        "summary": "Key and value are those of the record. The headers say why and where it was.",
        "headers": {"type": "object", "properties": headers}
    });
    let tables = [
        ("events", event::TABLE),
        ("windows", window::TABLE),
        ("feature_days", feature_day::TABLE),
        ("revenue", revenue::TABLE),
        ("health", health::TABLE),
    ];
    let of_forms = FORMS.iter().map(|form| form.name).chain(["score", "alert"]).map(of_json);
    of_forms.chain(tables.map(of_arrow)).chain([("reject".to_owned(), reject)]).collect()
}
