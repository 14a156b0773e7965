//! Hostile records among good ones: the kinds, and the fate that each must have.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use keepwell_core::codec;
use keepwell_core::event::Kind as Source;
use keepwell_core::offset::TopicPartition;
use keepwell_core::schema::event::{EventRows, schema as event_schema};
use keepwell_ingest::reason::Code;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::{Headers, MODEL_HEADER, Message, Record};
use keepwell_pipeline::reject::{CONTEXT_HEADERS, REASON_HEADER};
use serde_json::json;

use crate::ledger::Ledger;

/// The fate that a record must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The record becomes a row of `events`.
    Emitted,
    /// The record is only counted.
    Ignored,
    /// Ingest rejects the record with this reason.
    Rejected(Code),
    /// Score rejects the record: a model that does not take over.
    Refused,
}

/// A kind of hostile record.
pub struct Kind {
    /// Name of the kind: what is wrong or unusual.
    pub name: &'static str,
    /// Kind of the source topic it is sent to; `None` for the topic of the window rows.
    pub source: Option<Source>,
    /// The fate it must have.
    pub fate: Fate,
    make: fn(&Slot) -> Made,
}

/// Number and time of a hostile record.
struct Slot {
    n: usize,
    /// How many records of this kind were sent before it.
    round: usize,
    at_ms: i64,
}

/// Content of a record.
#[derive(Default)]
struct Made {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Headers,
    timestamp_ms: Option<i64>,
}

/// A record that is sent, and its expected fate.
#[derive(Debug)]
pub struct Sent {
    /// The record.
    pub message: Message,
    /// Name of the kind and expected fate; `None` for good records: their fates depend on the fleet.
    pub fate: Option<(&'static str, Fate)>,
    /// Whether it is sent in a compressed batch of its own.
    pub is_bomb: bool,
}

/// An account that grows beyond the size of a record. Its rows are cut, which the oracle does not do.
pub const HUGE: &str = "huge";

/// Uncompressed size of a batch of about 7 kB: more than a client accepts.
const BOMB_BYTES: usize = 150_000_000;
const DAY_MS: i64 = 86_400_000;
const YEAR_33658_MS: i64 = 1_000_000_000_000_000;
const YEAR_2100_MS: i64 = 4_102_444_800_000;

fn of(value: impl Into<Vec<u8>>) -> Made {
    Made { value: Some(value.into()), ..Made::default() }
}

/// A flat usage event with more fields. `more` starts with a comma.
fn usage(slot: &Slot, more: &str) -> Made {
    let Slot { n, at_ms, .. } = slot;
    of(format!(r#"{{"event_id":"h-{n}","account_id":"stranger-{}","feature":"f","occurred_at":{at_ms}{more}}}"#, n % 5))
}

/// The same event with a part of it replaced.
fn other(slot: &Slot, from: &str, to: &str) -> Made {
    let text = String::from_utf8_lossy(&usage(slot, "").value.unwrap_or_default()).into_owned();
    of(text.replace(from, to))
}

/// A Segment call of a type.
fn call(slot: &Slot, kind: &str, more: &str) -> Made {
    let (n, at) = (slot.n, rfc3339(slot.at_ms));
    of(format!(
        r#"{{"type":"{kind}","messageId":"h-{n}","event":"f","userId":"u","context":{{"groupId":"stranger-{}"}},"timestamp":"{at}"{more}}}"#,
        n % 5
    ))
}

/// An event for a topic other than usage.
fn event(slot: &Slot, account: &str, more: &str) -> Made {
    let Slot { n, at_ms, .. } = slot;
    of(format!(r#"{{"event_id":"h-{n}","account_id":"{account}","occurred_at":{at_ms},{more}}}"#))
}

fn facts(slot: &Slot, account: &str, count: usize, bytes: usize) -> Made {
    let facts: Vec<String> = (0..count).map(|i| format!(r#""f{}-{i}":"{}""#, slot.n, "x".repeat(bytes))).collect();
    event(slot, account, &format!(r#""type":"upsert","facts":{{{}}}"#, facts.join(",")))
}

fn tombstone(key: Vec<u8>, timestamp_ms: Option<i64>) -> Made {
    Made { key: Some(key), timestamp_ms, ..Made::default() }
}

fn rfc3339(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |time| time.to_string())
}

const fn kind(name: &'static str, source: Source, fate: Fate, make: fn(&Slot) -> Made) -> Kind {
    Kind { name, source: Some(source), fate, make }
}

fn announced(header: String) -> Made {
    Made { headers: vec![(MODEL_HEADER.to_owned(), Some(header.into()))], ..Made::default() }
}

/// An announcement of a model with this SQL.
fn with_sql(sql: &str) -> String {
    let text = format!(
        "version: 99\nmodels:\n  - {{name: m, period: 7d, factors: [{{name: f, sql: \"{sql}\", normalise: {{ratio: {{target: 1}}}}, \
         weight: 100}}], bands: [{{name: red, from: 0}}]}}\n"
    );
    json!({"from": "2024-01-01T00:00:00Z", "text": text}).to_string()
}

/// Models announced in a record of `windows` that must not take over.
fn model_kinds() -> Vec<Kind> {
    let refused = |name, make| Kind { name, source: None, fate: Fate::Refused, make };
    vec![
        refused("a model of 1,500 terms", |_| announced(with_sql(&vec!["1"; 1500].join("+")))),
        refused("a model of 40 nested cases", |_| {
            announced(with_sql(&format!("{}uses{}", "case when ".repeat(40), " > 1 then true end".repeat(40))))
        }),
        refused("a model that makes a text of 1 GB", |_| announced(with_sql("length(repeat('x', 1000000000))"))),
        refused("a model in a header of 640 kB", |_| {
            announced(with_sql(&format!("nothing + {}", "1 + ".repeat(160_000) + "1")))
        }),
        refused("a model that is no JSON", |_| announced("{".to_owned())),
    ]
}

/// Every hostile kind.
pub fn kinds() -> Vec<Kind> {
    [usage_kinds(), form_kinds(), ticket_kinds(), account_kinds(), model_kinds()].into_iter().flatten().collect()
}

/// Values that are not usage events, and values over a bound.
fn usage_kinds() -> Vec<Kind> {
    use Code::{
        BadTime, DuplicateKey, Future, MissingField, NoAccount, NotAnObject, NotJson, NotUtf8, NullValue, OutOfRange,
        Oversized, TooOld, WrongType,
    };
    let usage_of = |name, code, make| kind(name, Source::Usage, Fate::Rejected(code), make);
    vec![
        usage_of("no JSON", NotJson, |slot| of(format!("not json {}", slot.n))),
        usage_of("nothing", NotJson, |_| of("")),
        usage_of("a number too large for any type", NotJson, |_| of("1e400")),
        usage_of("nested 5,000 deep", NotJson, |_| of("{\"a\":".repeat(5000))),
        usage_of("two objects", NotJson, |slot| {
            let one = usage(slot, "").value.unwrap_or_default();
            of([one.clone(), one].concat())
        }),
        usage_of("a list", NotAnObject, |_| of("[1,2,3]")),
        usage_of("100,000 lists", NotAnObject, |_| of("[".repeat(100_000) + &"]".repeat(100_000))),
        usage_of("UTF-16", NotUtf8, |_| of(vec![0xff, 0xfe, b'{', 0, b'}', 0])),
        usage_of("half a character", NotUtf8, |slot| other_bytes(slot, b"\xed\xa0\x80")),
        usage_of("null", NullValue, |_| Made { key: Some(b"k".to_vec()), ..Made::default() }),
        usage_of("a field twice", DuplicateKey, |slot| usage(slot, r#","event_id":"again""#)),
        usage_of("no id", MissingField, |slot| other(slot, "event_id", "eventid")),
        usage_of("no account", NoAccount, |slot| other(slot, "account_id", "account")),
        usage_of("an empty account", NoAccount, |slot| other(slot, &format!("stranger-{}", slot.n % 5), "")),
        usage_of("a count in words", WrongType, |slot| usage(slot, r#","count":"many""#)),
        usage_of("a count below 0", OutOfRange, |slot| usage(slot, r#","count":-1"#)),
        usage_of("an id of 2,000 bytes", OutOfRange, |slot| other(slot, "h-", &"i".repeat(2000))),
        usage_of("a feature of 10,000 bytes", OutOfRange, |slot| {
            other(slot, r#""f""#, &format!("\"{}\"", "f".repeat(10_000)))
        }),
        usage_of("300 kB", Oversized, |slot| usage(slot, &format!(r#","x":"{}""#, "x".repeat(300_000)))),
        usage_of("as large as the broker takes", Oversized, |_| of("a".repeat(1_040_000))),
        usage_of("a header of 1 MB", NotJson, |_| Made {
            headers: vec![("h".to_owned(), Some(vec![b'h'; 1_000_000]))],
            ..of("x")
        }),
        usage_of("a time of 130,000 marks", BadTime, |slot| {
            other(slot, &slot.at_ms.to_string(), &format!("\"{}\"", "\u{300}".repeat(120_000)))
        }),
        usage_of("the year 33658", BadTime, |slot| other(slot, &slot.at_ms.to_string(), &YEAR_33658_MS.to_string())),
        usage_of("the year 2100", Future, |slot| other(slot, &slot.at_ms.to_string(), &YEAR_2100_MS.to_string())),
        usage_of("the year 1990", TooOld, |slot| other(slot, &slot.at_ms.to_string(), "631152000000")),
        usage_of("received before it happened", Future, |slot| {
            call(slot, "track", &format!(r#","receivedAt":"{}""#, rfc3339(slot.at_ms - 90 * 86_400_000)))
        }),
        kind("a batch that becomes 150 MB", Source::Usage, Fate::Rejected(Code::Unreadable), |_| {
            of(vec![b'a'; BOMB_BYTES])
        }),
    ]
}

fn other_bytes(slot: &Slot, bytes: &[u8]) -> Made {
    let mut made = usage(slot, r#","x":""#);
    if let Some(value) = &mut made.value {
        value.truncate(value.len() - 1);
        value.extend_from_slice(bytes);
        value.extend_from_slice(b"\"}");
    }
    made
}

/// Unusual usage events that are accepted, and calls that are not usage.
fn form_kinds() -> Vec<Kind> {
    let emitted = |name, make| kind(name, Source::Usage, Fate::Emitted, make);
    let ignored = |name, make| kind(name, Source::Usage, Fate::Ignored, make);
    vec![
        emitted("a BOM", |slot| of(["\u{feff}".as_bytes(), &usage(slot, "").value.unwrap_or_default()].concat())),
        emitted("ids that are numbers", |slot| {
            let text = format!(
                r#"{{"event_id":{},"account_id":4711,"user_id":7,"feature":"f","occurred_at":{}}}"#,
                9_000_000 + slot.n,
                slot.at_ms
            );
            of(text)
        }),
        emitted("fields of the other form", |slot| {
            usage(slot, r#","context":"web","timestamp":"soon","properties":[],"type":7"#)
        }),
        emitted("a list for no properties", |slot| call(slot, "track", r#","properties":[]"#)),
        emitted("an empty user", |slot| {
            let made = call(slot, "track", r#","anonymousId":"v""#);
            of(String::from_utf8_lossy(&made.value.unwrap_or_default()).replace(r#""userId":"u""#, r#""userId":"""#))
        }),
        emitted("a count of 0 with errors", |slot| usage(slot, r#","count":0,"errors":3"#)),
        emitted("what a terminal obeys", |slot| other(slot, r#""f""#, r#""\u001b[2J\nFAKE \u202e""#)),
        emitted("a value within a value", |slot| usage(slot, r#","unknown":{"x":[null,{"y":"\u0000"}]}"#)),
        emitted("many features", |slot| other(slot, r#""f""#, &format!("\"/orders/{}\"", slot.n))),
        ignored("a page", |slot| call(slot, "page", r#","name":"Home""#)),
        ignored("a screen", |slot| call(slot, "screen", r#","name":"Home""#)),
        ignored("an identity", |slot| call(slot, "identify", r#","traits":{"email":"eve@example.com"}"#)),
        ignored("a group", |slot| call(slot, "group", r#","traits":{}"#)),
        ignored("an alias", |slot| call(slot, "alias", r#","previousId":"v""#)),
    ]
}

fn ticket_kinds() -> Vec<Kind> {
    let of_ticket = |name, fate, make| kind(name, Source::Ticket, fate, make);
    let of_survey = |name, fate, make| kind(name, Source::Survey, fate, make);
    vec![
        of_ticket("two steps in one second", Fate::Emitted, |slot| {
            let step = if slot.round.is_multiple_of(2) { "resolved" } else { "opened" };
            let slot = Slot { at_ms: slot.at_ms / DAY_MS * DAY_MS, ..*slot };
            event(&slot, "stranger-0", &format!(r#""ticket_id":"t{}","type":"{step}""#, slot.round / 2))
        }),
        of_ticket("answered and never opened", Fate::Emitted, |slot| {
            event(slot, "stranger-1", &format!(r#""ticket_id":"u{}","type":"responded""#, slot.n))
        }),
        of_ticket("empty texts", Fate::Emitted, |slot| {
            event(
                slot,
                "stranger-1",
                &format!(r#""ticket_id":"v{}","type":"opened","priority":"","category":"""#, slot.n),
            )
        }),
        of_ticket("an unknown priority", Fate::Rejected(Code::UnknownValue), |slot| {
            event(slot, "stranger-1", r#""ticket_id":"w","type":"opened","priority":"whenever""#)
        }),
        of_ticket("a rating of 99", Fate::Rejected(Code::OutOfRange), |slot| {
            event(slot, "stranger-1", r#""ticket_id":"w","type":"rated","csat":99"#)
        }),
        of_survey("a second answer", Fate::Emitted, |slot| {
            event(slot, "stranger-2", &format!(r#""survey":"nps","user_id":"u","score":{}"#, slot.n % 11))
        }),
        of_survey("an answer of 11", Fate::Rejected(Code::OutOfRange), |slot| {
            event(slot, "stranger-2", r#""survey":"nps","user_id":"u","score":11"#)
        }),
        of_survey("an unknown survey", Fate::Rejected(Code::UnknownValue), |slot| {
            event(slot, "stranger-2", r#""survey":"behaviour","user_id":"u","score":1"#)
        }),
        kind("a role that is cleared", Source::Person, Fate::Emitted, |slot| {
            let role = if slot.round.is_multiple_of(2) { "null" } else { r#""champion""# };
            event(slot, "stranger-3", &format!(r#""user_id":"u","type":"role_changed","role":{role}"#))
        }),
        kind("an unknown change of a person", Source::Person, Fate::Rejected(Code::UnknownValue), |slot| {
            event(slot, "stranger-3", r#""user_id":"u","type":"promoted""#)
        }),
    ]
}

fn account_kinds() -> Vec<Kind> {
    use Code::{BadTime, Future, NoAccount, OutOfRange};
    let emitted = |name, make| kind(name, Source::Account, Fate::Emitted, make);
    let rejected = |name, code, make| kind(name, Source::Account, Fate::Rejected(code), make);
    vec![
        emitted("facts beyond what a record holds", |slot| facts(slot, HUGE, 60, 1000)),
        emitted("long alert ids", |slot| {
            let alert = format!("{}-{}", "a".repeat(490), slot.n);
            event(slot, HUGE, &format!(r#""type":"outcome","outcome":{{"alert_id":"{alert}","event":"done"}}"#))
        }),
        emitted("no end", |slot| {
            event(slot, "stranger-4", r#""type":"upsert","facts":{"plan":"pro"},"valid_until":"9999-12-31T23:59:59Z""#)
        }),
        emitted("a milestone that is cleared", |slot| {
            let done = if slot.round.is_multiple_of(2) { "null".to_owned() } else { slot.at_ms.to_string() };
            event(slot, "stranger-4", &format!(r#""type":"milestone","milestone":{{"id":"m","done_at":{done}}}"#))
        }),
        rejected("10,000 facts", OutOfRange, |slot| facts(slot, "stranger-4", 10_000, 1)),
        rejected("a fact of 20 kB", OutOfRange, |slot| facts(slot, "stranger-4", 1, 20_000)),
        rejected("valid until the year 33658", BadTime, |slot| {
            event(
                slot,
                "stranger-4",
                &format!(r#""type":"upsert","facts":{{"plan":"pro"}},"valid_until":{YEAR_33658_MS}"#),
            )
        }),
        rejected("an id as tombstones have", OutOfRange, |slot| {
            other_event(slot, "h-", "keepwell:tombstone:0:accounts-0:")
        }),
        rejected("a tombstone from 2100", Future, |slot| {
            tombstone(format!("stranger-{}", slot.n % 5).into(), Some(YEAR_2100_MS))
        }),
        rejected("a tombstone from the end of time", BadTime, |slot| {
            tombstone(format!("stranger-{}", slot.n % 5).into(), Some(i64::MAX))
        }),
        rejected("a tombstone with a key of 310,000 bytes", OutOfRange, |_| tombstone(vec![b'k'; 310_000], None)),
        rejected("a tombstone without a key", NoAccount, |_| Made::default()),
    ]
}

fn other_event(slot: &Slot, from: &str, to: &str) -> Made {
    let made = event(slot, "stranger-4", r#""type":"upsert","facts":{"plan":"pro"}"#);
    of(String::from_utf8_lossy(&made.value.unwrap_or_default()).replace(from, to))
}

/// Spreads `of_each` records of each kind evenly among good records. Each takes the time of its neighbour.
///
/// # Errors
/// When a kind has no configured source, or there are too few good records.
pub fn among(good: Vec<(Message, i64)>, of_each: usize, partitions: i32, config: &Config) -> Result<Vec<Sent>> {
    let kinds = kinds();
    let total = kinds.len() * of_each;
    let gap = (good.len() / total.max(1)).max(1);
    let mut sent = Vec::new();
    let mut n = 0;
    for (i, (message, at_ms)) in good.into_iter().enumerate() {
        sent.push(Sent { message, fate: None, is_bomb: false });
        if i % gap == 0 && n < total {
            let kind = kinds.get(n % kinds.len()).context("no kinds")?;
            sent.push(kind.sent(&Slot { n, round: n / kinds.len(), at_ms }, partitions, config)?);
            n += 1;
        }
    }
    ensure!(n == total, "{n} of {total} hostile records have a good one before them");
    Ok(sent)
}

impl Kind {
    fn sent(&self, slot: &Slot, partitions: i32, config: &Config) -> Result<Sent> {
        let of_kind =
            |kind| config.sources.iter().find(|source| source.kind == Some(kind)).map(|source| source.topic.as_str());
        let topic = self.source.map_or(Some(config.topics.windows.as_str()), of_kind);
        let topic = topic.with_context(|| format!("no source for {:?}", self.source))?;
        let Made { key, value, headers, timestamp_ms } = (self.make)(slot);
        let message = Message {
            topic: Arc::from(topic),
            partition: slot.round as i32 % partitions,
            timestamp_ms,
            key,
            value,
            headers,
        };
        let is_bomb = self.fate == Fate::Rejected(Code::Unreadable);
        Ok(Sent { message, fate: Some((self.name, self.fate)), is_bomb })
    }
}

/// Checks that each sent record has exactly one fate, and that it is the fate of its kind. Offsets follow the order of
/// sending, because nobody else writes to the topics and no transaction adds markers.
///
/// # Errors
/// When a topic cannot be read.
pub fn ledger(sent: &[Sent], config: &Config, records: impl Fn(&str) -> Result<Vec<Record>>) -> Result<Ledger> {
    let mut fates: BTreeMap<(TopicPartition, i64), Vec<String>> = BTreeMap::new();
    let mut num_refused = 0;
    for record in records(&config.topics.events)? {
        let Some(value) = &record.value else { continue };
        let batch = codec::decode(value, &event_schema())?;
        let rows = EventRows::new(&batch);
        for row in 0..rows.len() {
            let origin = rows.origin(row);
            let slot = (TopicPartition::new(origin.topic, origin.partition), origin.offset);
            fates.entry(slot).or_default().push("emitted".to_owned());
        }
    }
    for record in records(&config.topics.rejects)? {
        let header = |name: &str| anyhow::Ok(std::str::from_utf8(record.header(name).context("no header")?)?);
        let [topic, partition, offset, _, stage, _] = CONTEXT_HEADERS;
        if header(stage)? == "score" {
            num_refused += 1;
        } else if header(stage)? == "ingest" {
            let slot = (TopicPartition::new(header(topic)?, header(partition)?.parse()?), header(offset)?.parse()?);
            fates.entry(slot).or_default().push(header(REASON_HEADER)?.to_owned());
        }
    }
    let mut ledger = Ledger { sent: sent.len(), ..Ledger::default() };
    let mut next: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let is_model = |sent: &&Sent| matches!(sent.fate, Some((_, Fate::Refused)));
    let expected = sent.iter().filter(is_model).count();
    if num_refused != expected {
        *(if num_refused > expected { &mut ledger.doubled } else { &mut ledger.lost }) +=
            expected.abs_diff(num_refused);
        ledger.example.get_or_insert_with(|| format!("{num_refused} of {expected} models were refused"));
    }
    for Sent { message, fate, .. } in sent.iter().filter(|sent| !is_model(sent)) {
        let tp = TopicPartition::new(Arc::clone(&message.topic), message.partition);
        let offset = next.entry(tp.clone()).or_default();
        let found = fates.remove(&(tp.clone(), *offset)).unwrap_or_default();
        let name = fate.map_or("good", |(name, _)| name);
        let is_right = match fate {
            None => found.len() == 1,
            Some((_, Fate::Emitted)) => found == ["emitted"],
            Some((_, Fate::Ignored | Fate::Refused)) => found.is_empty(),
            Some((_, Fate::Rejected(code))) => found == [code.as_str()],
        };
        if !is_right {
            *(if found.len() > 1 { &mut ledger.doubled } else { &mut ledger.lost }) += 1;
            ledger
                .example
                .get_or_insert_with(|| format!("{name}, {tp} offset {offset}: {found:?} instead of {fate:?}"));
        }
        *offset += 1;
    }
    if let Some(((tp, offset), found)) = fates.into_iter().next() {
        ledger.doubled += 1;
        ledger.example.get_or_insert_with(|| format!("{tp} has no offset {offset}, and yet {found:?}"));
    }
    Ok(ledger)
}

/// For each kind, how many records were sent and which fate each must have.
pub fn counts(sent: &[Sent]) -> BTreeMap<String, String> {
    let mut counts: BTreeMap<&str, (usize, Fate)> = BTreeMap::new();
    for (name, fate) in sent.iter().filter_map(|sent| sent.fate) {
        counts.entry(name).or_insert((0, fate)).0 += 1;
    }
    let words = |fate| match fate {
        Fate::Emitted => "emitted".to_owned(),
        Fate::Ignored => "ignored".to_owned(),
        Fate::Rejected(code) => format!("rejected {}", code.as_str()),
        Fate::Refused => "rejected model_refused".to_owned(),
    };
    counts.into_iter().map(|(name, (count, fate))| (name.to_owned(), format!("{count} {}", words(fate)))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_more_than_forty_kinds_each_with_a_name_of_its_own() {
        let kinds = kinds();
        let names: BTreeSet<&str> = kinds.iter().map(|kind| kind.name).collect();
        assert!(names.len() == kinds.len() && kinds.len() > 50, "{}", kinds.len());
    }
}
