//! Line and column of the keys that must fit each other, for messages.

use super::collect::Place as OfCollect;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

type Place = Option<Spanned<IgnoredAny>>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Keys {
    aggregate: Aggregate,
    time: Time,
    ingest: Ingest,
    kafka: Kafka,
    sources: Vec<Source>,
    collect: Collect,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Collect {
    segment: Vec<Source>,
    webhooks: Vec<Source>,
    max_event_bytes: Place,
    max_webhook_bytes: Place,
    max_pending_bytes: Place,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Aggregate {
    windows: Place,
    measures: Place,
    feature_groups: Place,
    success_plans: Place,
    retire_after: Place,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Time {
    lateness: Place,
    pane: Place,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ingest {
    max_event_bytes: Place,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Kafka {
    max_record_bytes: Place,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Source {
    topic: Place,
}

/// Positions of keys in a text that was parsed before.
pub(super) struct Places(Keys);

impl Places {
    /// Positions of the keys in a text. A text that cannot be parsed has none.
    pub fn of(text: &str) -> Self {
        Self(serde_saphyr::from_str(text).unwrap_or_default())
    }

    /// `line 3, column 7: ` for the first of these keys that is in the file. Empty if all of them have their defaults.
    pub fn first(&self, keys: &[&str]) -> String {
        let place = keys.iter().find_map(|key| self.place(key).as_ref());
        shown(place)
    }

    /// The same for the topic of a source, by its index.
    pub fn of_source(&self, number: usize) -> String {
        shown(self.0.sources.get(number).and_then(|source| source.topic.as_ref()))
    }

    /// The same for a value in the section `collect`.
    pub fn of_collect(&self, place: OfCollect, key: &str) -> String {
        let collect = &self.0.collect;
        match place {
            OfCollect::Segment(number) => shown(collect.segment.get(number).and_then(|door| door.topic.as_ref())),
            OfCollect::Webhook(number) => shown(collect.webhooks.get(number).and_then(|door| door.topic.as_ref())),
            OfCollect::Key => self.first(&[key]),
        }
    }

    fn place(&self, key: &str) -> &Place {
        let keys = &self.0;
        match key {
            "aggregate.windows" => &keys.aggregate.windows,
            "aggregate.measures" => &keys.aggregate.measures,
            "aggregate.feature_groups" => &keys.aggregate.feature_groups,
            "aggregate.success_plans" => &keys.aggregate.success_plans,
            "aggregate.retire_after" => &keys.aggregate.retire_after,
            "time.lateness" => &keys.time.lateness,
            "time.pane" => &keys.time.pane,
            "ingest.max_event_bytes" => &keys.ingest.max_event_bytes,
            "collect.max_event_bytes" => &keys.collect.max_event_bytes,
            "collect.max_webhook_bytes" => &keys.collect.max_webhook_bytes,
            "collect.max_pending_bytes" => &keys.collect.max_pending_bytes,
            "kafka.max_record_bytes" => &keys.kafka.max_record_bytes,
            _ => &None,
        }
    }
}

fn shown(place: Option<&Spanned<IgnoredAny>>) -> String {
    place.map_or_else(String::new, |place| {
        format!("line {}, column {}: ", place.referenced.line(), place.referenced.column())
    })
}
