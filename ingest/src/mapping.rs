//! Mappings: a file says what the records of another system mean.
//!
//! A rule makes an event in Keepwell's own form, as [`crate::decode`] reads it, from values at paths of a record. So a
//! mapped event is checked exactly like one that was sent in that form.

mod file;
mod format;
mod jq;
mod monthly;
mod paths;
pub mod presets;
mod value;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use keepwell_core::event::{Event, Kind};
use keepwell_pipeline::config::{Config, Source};
use keepwell_pipeline::record::Headers;
use serde_json::value::RawValue;

pub use file::{MappingError, parse};

use crate::decode::{self, Decoded, Fields, Form, Limits};
use crate::reason::{Code, Reason};
use jq::Program;
use paths::{Found, Paths, Slot};
pub(crate) use value::push_text;
use value::{Begin, Look, Ref, Value, Written, begins, is, is_there};

/// The most events that one record may become.
const MAX_EVENTS: usize = 1000;
/// The most bytes that the events of one record may have together.
const MAX_EVENTS_BYTES: usize = 4 << 20;

/// A checked mapping.
#[derive(Debug)]
pub struct Mapping {
    envelope: Envelope,
    /// The paths of all rules into the record.
    paths: Paths,
    /// The headers that rules ask for.
    headers: Paths,
    rules: Vec<Rule>,
    /// Records that match one of these are ignored, whatever the rules.
    ignored: Vec<Vec<Condition>>,
    others: Others,
}

/// Where the record may be within another object: the first of these paths with an object. Else it is the whole value.
#[derive(Debug)]
struct Envelope {
    paths: Paths,
    slots: Vec<Slot>,
}

/// What becomes of a record that no rule is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Others {
    /// It is rejected.
    #[default]
    Reject,
    /// It is ignored.
    Ignore,
}

/// What makes an event of a record, or of each item in a list of it.
#[derive(Debug)]
struct Rule {
    /// Its place in the file, from 0.
    number: usize,
    conditions: Vec<Condition>,
    each: Option<Each>,
    kind: Kind,
    /// None: the record itself is in Keepwell's form of this kind.
    fields: Option<Vec<(String, Value)>>,
    /// Makes the events instead.
    program: Option<Program>,
}

/// The list whose items become events.
#[derive(Debug)]
struct Each {
    /// Where the list is. None: the record is the list.
    at: Option<Ref>,
    /// The lists in its items, from the outside in.
    inner: Vec<Inner>,
    paths: Paths,
}

/// A list in the items of another.
#[derive(Debug)]
struct Inner {
    paths: Paths,
    slot: Slot,
}

/// What a record must have for a rule.
#[derive(Debug)]
struct Condition {
    of: Ref,
    wanted: Wanted,
}

/// The value that a condition asks for.
#[derive(Debug)]
enum Wanted {
    /// One of these texts.
    OneOf(Vec<String>),
    /// A text that begins so.
    Begins(String),
    /// A text that does not begin so.
    BeginsNot(String),
    /// Any value, or none.
    There(bool),
}

/// An event in Keepwell's own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flat<'a> {
    /// Its kind.
    pub kind: Kind,
    content: Content<'a>,
    /// Number of the rule that made it.
    rule: usize,
}

/// What an event consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content<'a> {
    /// A JSON text: the record itself, or what a program made.
    Text(Cow<'a, str>),
    /// Fields with values of the record and of the mapping.
    Fields(Fields<'a>),
}

impl Flat<'_> {
    /// The event in Keepwell's own form.
    pub fn form(&self) -> Form<'_> {
        match &self.content {
            Content::Text(text) => Form::Text(text),
            Content::Fields(fields) => Form::Fields(fields),
        }
    }
}

/// The mappings of all sources that have one, by topic.
///
/// # Errors
/// When a preset does not exist, or a file cannot be read or is refused.
pub fn of_sources(config: &Config) -> anyhow::Result<BTreeMap<String, Mapping>> {
    let mut mappings = BTreeMap::new();
    for source in &config.sources {
        if let Some(mapping) = of_source(source)? {
            mappings.insert(source.topic.clone(), mapping);
        }
    }
    Ok(mappings)
}

/// The mapping of a source, if it has one.
///
/// # Errors
/// See [`of_sources`].
pub fn of_source(source: &Source) -> anyhow::Result<Option<Mapping>> {
    match (&source.preset, &source.mapping) {
        (Some(name), _) => preset(name).map(Some),
        (None, Some(path)) => read(path).map(Some),
        (None, None) => Ok(None),
    }
}

/// The mapping of a preset.
///
/// # Errors
/// When there is none with this name. The error names all.
pub fn preset(name: &str) -> anyhow::Result<Mapping> {
    let known = || presets::ALL.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ");
    let preset = presets::Preset::named(name);
    Ok(preset.ok_or_else(|| anyhow::anyhow!("there is no preset {name}; there are {}", known()))?.mapping()?)
}

/// Reads a mapping file.
///
/// # Errors
/// When it cannot be read, or [`MappingError`] with line and column.
pub fn read(path: &Path) -> anyhow::Result<Mapping> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
    Ok(parse(&name, &text)?)
}

impl Envelope {
    /// The text of the record in a value.
    fn content<'a>(&self, text: &'a str) -> Result<&'a str, Reason> {
        if self.slots.is_empty() {
            return Ok(text);
        }
        let found = self.paths.read(text).map_err(|error| unreadable(&error, ""))?;
        let objects = self.slots.iter().filter_map(|slot| found.get(*slot)).map(RawValue::get);
        Ok(objects.into_iter().find(|json| json.starts_with('{')).unwrap_or(text))
    }
}

impl Condition {
    fn holds(&self, look: Look<'_, '_>) -> bool {
        match &self.wanted {
            Wanted::OneOf(texts) => is(look, &self.of, texts),
            Wanted::Begins(text) => begins(look, &self.of, text),
            Wanted::BeginsNot(text) => is_there(look, &self.of) && !begins(look, &self.of, text),
            Wanted::There(wanted) => is_there(look, &self.of) == *wanted,
        }
    }
}

/// Why a record or an item cannot be read.
fn unreadable(error: &serde_json::Error, before: &str) -> Reason {
    let text = error.to_string();
    let is_twice = error.is_data() && text.starts_with("duplicate field");
    Reason::new(if is_twice { Code::DuplicateKey } else { Code::NotJson }, format!("{before}{text}"))
}

fn all_hold(conditions: &[Condition], look: Look<'_, '_>) -> bool {
    conditions.iter().all(|condition| condition.holds(look))
}

impl Mapping {
    /// The value to read of a record. One without a value may be in its headers alone, or be ignored; then it is an empty
    /// object. None: it is a reject.
    pub fn or_empty<'a>(&self, value: Option<&'a [u8]>) -> Option<&'a [u8]> {
        let may_be_empty = !self.headers.is_empty() || self.others == Others::Ignore;
        value.or(may_be_empty.then_some(b"{}"))
    }

    /// The events of a record, in the order of the rules and items. No events: the record is ignored.
    ///
    /// # Errors
    /// The [`Reason`] for which the whole record is rejected. It names the path.
    pub fn events<'a>(&'a self, value: &'a [u8], headers: &Headers) -> Result<Vec<Flat<'a>>, Reason> {
        let text = self.envelope.content(decode::text(value)?)?;
        let record = self.paths.read(text).map_err(|error| unreadable(&error, ""))?;
        let is_list = self.rules.iter().any(|rule| rule.each.as_ref().is_some_and(|each| each.at.is_none()));
        let first = text.trim_start().chars().next();
        if first != Some('{') && (!is_list || first != Some('[')) {
            let begin = crate::input::excerpt(text);
            return Err(Reason::new(Code::NotAnObject, format!("expected an object, found {begin:?}")));
        }
        let headers = if self.headers.is_empty() { String::new() } else { self.headers_of(headers) };
        let headers = match headers.as_str() {
            "" => Found::default(),
            headers => self.headers.read(headers).map_err(|error| unreadable(&error, "headers: "))?,
        };
        let look = Look { record: &record, item: None, headers: &headers };
        let mut events = Vec::new();
        if self.ignored.iter().any(|conditions| all_hold(conditions, look)) {
            return Ok(events);
        }
        let mut is_known = self.others == Others::Ignore;
        for rule in &self.rules {
            let mut of_record = rule.conditions.iter().filter(|condition| condition.of.begins != Begin::Item);
            if !of_record.all(|condition| condition.holds(look)) {
                continue;
            }
            is_known = true;
            match &rule.each {
                None => rule.event(text, look, &mut events)?,
                Some(each) => rule.events_of(each, text, look, &mut events)?,
            }
        }
        if is_known {
            return Ok(events);
        }
        let begin = crate::input::excerpt(text);
        Err(Reason::new(Code::NoRule, format!("no rule of the mapping is for the record {begin:?}")))
    }

    /// The headers that rules ask for, as a JSON object. Of equal names the last counts; what is not UTF-8 is no value.
    fn headers_of(&self, headers: &Headers) -> String {
        let mut json = String::from("{");
        for name in self.headers.names() {
            let value = headers.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref());
            let Some(value) = value.and_then(|value| std::str::from_utf8(value).ok()) else { continue };
            if json.len() > 1 {
                json.push(',');
            }
            push_text(&mut json, name);
            json.push(':');
            push_text(&mut json, value);
        }
        json.push('}');
        json
    }

    /// Checks the events of a record and reads their values. Empty: the record is ignored.
    ///
    /// # Errors
    /// The [`Reason`] for which the whole record is rejected. It names the field and the path.
    pub fn checked<'f>(&self, flats: &'f [Flat<'_>], limits: &Limits) -> Result<Vec<Event<'f>>, Reason> {
        let mut events: Vec<Event<'f>> = Vec::with_capacity(flats.len());
        let mut ids: HashSet<(Kind, Cow<'f, str>, Cow<'f, str>)> = HashSet::new();
        for flat in flats {
            let Some(event) = self.event(flat, limits)? else { continue };
            // A later one with the same id would be taken for a duplicate.
            if flats.len() > 1 && !ids.insert((flat.kind, event.account_id.clone(), event.event_id.clone())) {
                let what = format!(
                    "two events of the record are of the kind {} and have the event_id {:?}; make it of more values in the mapping",
                    flat.kind.name(),
                    crate::input::excerpt(&event.event_id)
                );
                return Err(Reason::new(Code::DuplicateKey, what));
            }
            events.push(event);
        }
        Ok(events)
    }

    /// Checks an event and reads its values. None: it is a call that is ignored.
    ///
    /// # Errors
    /// See [`Mapping::checked`].
    pub fn event<'f>(&self, flat: &'f Flat<'_>, limits: &Limits) -> Result<Option<Event<'f>>, Reason> {
        let form = flat.form();
        let decoded =
            decode::check_size(form.num_bytes(), limits).and_then(|()| decode::decode_form(flat.kind, form, limits));
        match decoded {
            Ok(Decoded::Event(event)) => Ok(Some(event)),
            Ok(Decoded::Ignored(_)) => Ok(None),
            Err(reason) => Err(self.with_path(flat, reason)),
        }
    }

    /// The reason with the path that its field is read from.
    fn with_path(&self, flat: &Flat<'_>, reason: Reason) -> Reason {
        let fields = self.rules.get(flat.rule).and_then(|rule| rule.fields.as_deref());
        let field = fields.and_then(|fields| match reason.code {
            Code::Future | Code::TooOld => fields.iter().find(|(name, _)| name == "occurred_at"),
            _ => field_of(&reason.detail, fields),
        });
        match field.map(|(name, value)| (name, value.paths())) {
            Some((name, paths)) if !paths.is_empty() => {
                Reason { detail: format!("{} ({name} is read from {})", reason.detail, paths.join(", ")), ..reason }
            }
            _ => reason,
        }
    }
}

/// The field that a reason is about: it begins with its name, or names the fact.
fn field_of<'f>(detail: &str, fields: &'f [(String, Value)]) -> Option<&'f (String, Value)> {
    let facts = fields.iter().find(|(name, _)| name == "facts");
    let (of, fields) = match (detail.split_once("fact "), facts) {
        (Some((_, fact)), Some((_, facts))) if facts.fields().is_some() => (fact, facts.fields().unwrap_or_default()),
        (Some(_), Some(facts)) => return Some(facts),
        _ => (detail, fields),
    };
    let is_named = |(name, _): &&(String, Value)| {
        of.strip_prefix(name.as_str()).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    fields.iter().filter(is_named).max_by_key(|(name, _)| name.len())
}

impl Rule {
    /// Adds the event of a record, or of an item.
    fn event<'a>(&'a self, text: &'a str, look: Look<'_, 'a>, events: &mut Vec<Flat<'a>>) -> Result<(), Reason> {
        let flat = |content| Flat { kind: self.kind, content, rule: self.number };
        if let Some(program) = &self.program {
            let outputs = program.run(text)?.into_iter();
            events.extend(outputs.map(|json| flat(Content::Text(Cow::Owned(json)))));
            return Ok(());
        }
        let Some(fields) = &self.fields else {
            events.push(flat(Content::Text(Cow::Borrowed(text))));
            return Ok(());
        };
        let mut read = Fields::with_capacity(fields.len());
        for (name, value) in fields {
            match value.as_it_is(look) {
                Some(json) => read.push(name, json),
                None if read.write(name, Written::Yes, |out| value.write(look, out))? == Written::Skip => return Ok(()),
                None => {}
            }
        }
        events.push(flat(Content::Fields(read)));
        Ok(())
    }

    /// Adds the events of the items in the list of a record.
    fn events_of<'a>(
        &'a self,
        each: &'a Each,
        text: &'a str,
        look: Look<'_, 'a>,
        events: &mut Vec<Flat<'a>>,
    ) -> Result<(), Reason> {
        let path = each.at.as_ref().map_or("$", |at| at.path.as_str());
        let mut num_bytes = 0;
        for item in each.items(text, look.record)? {
            let found = each.paths.read(item.get()).map_err(|error| unreadable(&error, &format!("{path}: ")))?;
            let look = Look { item: Some(&found), ..look };
            let before = events.len();
            if all_hold(&self.conditions, look) {
                self.event(item.get(), look, events)?;
            }
            num_bytes += events.iter().skip(before).map(|event| event.form().num_bytes()).sum::<usize>();
            if events.len() > MAX_EVENTS || num_bytes > MAX_EVENTS_BYTES {
                let most = format!("at most {MAX_EVENTS} events with {MAX_EVENTS_BYTES} bytes");
                return Err(Reason::new(Code::OutOfRange, format!("{path}: a record becomes {most}")));
            }
        }
        Ok(())
    }
}

impl Each {
    /// The items of the list, and of the lists in them.
    fn items<'a>(&self, text: &'a str, record: &Found<'a>) -> Result<Vec<&'a RawValue>, Reason> {
        let path = self.at.as_ref().map_or("$", |at| at.path.as_str());
        let of_list = |json: Option<&'a str>| -> Result<Vec<&'a RawValue>, Reason> {
            let wrong = |_| Reason::new(Code::WrongType, format!("{path}: expected a list"));
            json.filter(|json| *json != "null").map_or(Ok(Vec::new()), |json| serde_json::from_str(json).map_err(wrong))
        };
        let mut items = of_list(match &self.at {
            None => Some(text),
            Some(at) => record.get(at.slot).map(RawValue::get),
        })?;
        for Inner { paths, slot } in &self.inner {
            let mut all = Vec::new();
            for item in items {
                let found = paths.read(item.get()).map_err(|error| unreadable(&error, &format!("{path}: ")))?;
                all.append(&mut of_list(found.get(*slot).map(RawValue::get))?);
            }
            items = all;
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests;
