//! An event in Keepwell's own form: as JSON text, or as fields that a mapping has read.

use std::borrow::Cow;
use std::ops::Range;

use serde::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{DeserializeSeed, MapAccess};

use crate::input::{Given, Object, excerpt};
use crate::mapping::push_text;
use crate::reason::{Code, Reason};

/// Where the fields of an event come from.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// A JSON text.
    Text(&'a str),
    /// Fields that are read already.
    Fields(&'a Fields<'a>),
}

/// Fields by name, each with its value as JSON text. A name occurs once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    fields: Vec<(&'a str, Json<'a>)>,
    /// The values that are not in the record as they are, one after the other.
    written: String,
}

/// A value as JSON text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Json<'a> {
    /// Part of the record, or of the mapping.
    Read(&'a str),
    /// Part of the written values.
    Written(Range<usize>),
}

impl<'a> Fields<'a> {
    /// No fields yet, with room for this many.
    pub fn with_capacity(num_fields: usize) -> Self {
        Self { fields: Vec::with_capacity(num_fields), written: String::new() }
    }

    /// Adds a field with a value that is there already.
    pub fn push(&mut self, name: &'a str, json: &'a str) {
        self.fields.push((name, Json::Read(json)));
    }

    /// Adds a field with the value that `write` appends, if its outcome is `there`. Otherwise there is no field. Returns
    /// the outcome.
    ///
    /// # Errors
    /// That of `write`.
    pub fn write<T: PartialEq>(
        &mut self,
        name: &'a str,
        there: T,
        write: impl FnOnce(&mut String) -> Result<T, Reason>,
    ) -> Result<T, Reason> {
        let begin = self.written.len();
        let outcome = write(&mut self.written)?;
        if outcome == there {
            self.fields.push((name, Json::Written(begin..self.written.len())));
        } else {
            self.written.truncate(begin);
        }
        Ok(outcome)
    }

    fn text(&'a self, json: &Json<'a>) -> &'a str {
        match json {
            Json::Read(text) => text,
            Json::Written(range) => self.written.get(range.clone()).unwrap_or_default(),
        }
    }

    /// The fields as a JSON object.
    pub fn json(&self) -> String {
        let mut out = String::from("{");
        for (index, (name, json)) in self.fields.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            push_text(&mut out, name);
            out.push(':');
            out.push_str(self.text(json));
        }
        out.push('}');
        out
    }

    /// Size of the names and values in bytes.
    pub fn num_bytes(&self) -> usize {
        self.fields.iter().map(|(name, json)| name.len() + self.text(json).len()).sum()
    }
}

impl<'a> Form<'a> {
    /// The fields as `T`.
    ///
    /// # Errors
    /// When the text is not a JSON object, or a field occurs twice.
    pub(super) fn object<T: Deserialize<'a> + Default>(self) -> Result<T, Reason> {
        // Every field takes any value and may be missing. So if the whole text is JSON, the only possible fault in its
        // data is a field that occurs twice.
        let refused = |error: serde_json::Error| {
            let code = if error.is_data() { Code::DuplicateKey } else { Code::NotJson };
            Reason::new(code, error.to_string())
        };
        match self {
            Self::Fields(fields) => T::deserialize(MapAccessDeserializer::new(Reader::of(fields))).map_err(refused),
            Self::Text(text) => match serde_json::from_str::<Given<Object<T>>>(text).map_err(refused)? {
                Given::Is(Object(fields)) if text.trim_start().starts_with('{') => Ok(fields),
                _ => Err(Reason::new(Code::NotAnObject, format!("expected an object, found {:?}", excerpt(text)))),
            },
        }
    }

    /// The event as a JSON object.
    pub fn json(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Fields(fields) => Cow::Owned(fields.json()),
        }
    }

    /// Size of the event in bytes.
    pub fn num_bytes(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Fields(fields) => fields.num_bytes(),
        }
    }
}

/// Gives fields to a decoder one by one.
struct Reader<'a> {
    fields: &'a Fields<'a>,
    next: usize,
}

impl<'a> Reader<'a> {
    fn of(fields: &'a Fields<'a>) -> Self {
        Self { fields, next: 0 }
    }
}

impl<'a> MapAccess<'a> for Reader<'a> {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        let Some((name, _)) = self.fields.fields.get(self.next) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        let json = self.fields.fields.get(self.next.wrapping_sub(1)).map(|(_, json)| self.fields.text(json));
        seed.deserialize(&mut serde_json::Deserializer::from_str(json.unwrap_or("null")))
    }
}
