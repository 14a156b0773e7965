//! How one field of an event gets its value from a record.

use std::borrow::Cow;
use std::fmt::Write;

use serde_json::value::RawValue;

use super::format::Format;
use super::monthly::Monthly;
use super::paths::{Found, Slot};
use crate::input::excerpt;
use crate::reason::{Code, Reason};

/// A value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// Where the path begins.
    pub begins: Begin,
    /// Number of the path.
    pub slot: Slot,
    /// The path as written, for messages.
    pub path: String,
}

/// Where a path begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At the record's value.
    Record,
    /// At the item of its list.
    Item,
    /// At the record's headers.
    Headers,
}

/// A record, and the item of its list, if the rule has one.
#[derive(Debug, Clone, Copy)]
pub struct Look<'l, 'a> {
    /// What the paths of the record lead to.
    pub record: &'l Found<'a>,
    /// What the paths of the item lead to.
    pub item: Option<&'l Found<'a>>,
    /// What the paths of the headers lead to.
    pub headers: &'l Found<'l>,
}

impl<'l, 'a: 'l> Look<'l, 'a> {
    fn get(&self, of: &Ref) -> Option<&'l RawValue> {
        match of.begins {
            Begin::Headers => self.headers.get(of.slot),
            Begin::Record | Begin::Item => self.in_value(of),
        }
    }

    /// The same, but not for headers.
    pub fn in_value(&self, of: &Ref) -> Option<&'a RawValue> {
        match of.begins {
            Begin::Record => self.record.get(of.slot),
            Begin::Item => self.item?.get(of.slot),
            Begin::Headers => None,
        }
    }
}

/// Where a value comes from.
#[derive(Debug)]
pub enum Origin {
    /// The first of these paths with a value that is neither null nor an empty text.
    First(Vec<Ref>),
    /// A text with values in it.
    Text(Vec<Part>),
    /// The same in every record: a JSON text.
    Constant(String),
    /// An object with these fields.
    Object(Vec<(String, Value)>),
    /// An amount of money a month.
    Monthly(Box<Monthly>),
}

/// A part of a text.
#[derive(Debug)]
pub enum Part {
    /// As it is.
    Literal(String),
    /// A value.
    Value(Ref),
}

/// What becomes of a value that is not among the words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    /// The record is rejected.
    #[default]
    Refuse,
    /// There is no event.
    Skip,
}

/// How a field gets its value.
#[derive(Debug)]
pub struct Value {
    /// Where it comes from.
    pub origin: Origin,
    /// Other names for values, as JSON texts.
    pub words: Option<Vec<(String, String)>>,
    /// What becomes of a value that is not among the words.
    pub otherwise: Otherwise,
    /// The JSON text of a missing value.
    pub default: Option<String>,
    /// How its time is written.
    pub format: Option<Format>,
    /// The factor of a number.
    pub times: Option<f64>,
    /// Whether null says nothing. Otherwise it clears what was known.
    pub skips_nulls: bool,
}

/// What became of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It has a value.
    Yes,
    /// It has none.
    Absent,
    /// There is no event.
    Skip,
}

impl Value {
    /// The JSON text of the value, if it is in the record or in the mapping as it is.
    pub fn as_it_is<'a>(&'a self, look: Look<'_, 'a>) -> Option<&'a str> {
        match &self.origin {
            Origin::Constant(json) => Some(json),
            Origin::First(refs) if !self.is_changed() && refs.iter().all(|of| of.begins != Begin::Headers) => {
                let mut found = refs.iter().filter_map(|of| look.in_value(of)).map(RawValue::get);
                found.find(|json| !matches!(*json, "null" | "\"\""))
            }
            _ => None,
        }
    }

    /// Appends the value as JSON text.
    ///
    /// # Errors
    /// The [`Reason`] for which the record is rejected. It names the path.
    pub fn write(&self, look: Look<'_, '_>, out: &mut String) -> Result<Written, Reason> {
        let written = match &self.origin {
            Origin::Constant(json) => {
                out.push_str(json);
                Written::Yes
            }
            Origin::Object(fields) => object(fields, look, out)?,
            Origin::Monthly(monthly) => monthly.write(look, out)?,
            Origin::Text(parts) => match text(parts, look)? {
                Some(text) => self.write_scalar(&Scalar { text: Cow::Owned(text), is_text: true }, "text", out)?,
                None => Written::Absent,
            },
            Origin::First(refs) => self.first(refs, look, out)?,
        };
        match (written, &self.default) {
            (Written::Absent, Some(json)) => {
                out.push_str(json);
                Ok(Written::Yes)
            }
            (written, _) => Ok(written),
        }
    }

    fn first(&self, refs: &[Ref], look: Look<'_, '_>, out: &mut String) -> Result<Written, Reason> {
        let mut is_null = false;
        for of in refs {
            let Some(raw) = look.get(of) else { continue };
            match raw.get() {
                "null" | "\"\"" => is_null = true,
                json if !self.is_changed() => {
                    out.push_str(json);
                    return Ok(Written::Yes);
                }
                json => return self.write_scalar(&scalar(json, &of.path)?, &of.path, out),
            }
        }
        if is_null && self.default.is_none() && !self.skips_nulls {
            out.push_str("null");
            return Ok(Written::Yes);
        }
        Ok(Written::Absent)
    }

    fn is_changed(&self) -> bool {
        self.words.is_some() || self.format.is_some() || self.times.is_some()
    }

    fn write_scalar(&self, scalar: &Scalar<'_>, path: &str, out: &mut String) -> Result<Written, Reason> {
        if let Some(words) = &self.words {
            return match words.iter().find(|(word, _)| *word == scalar.text) {
                Some((_, json)) => {
                    out.push_str(json);
                    Ok(Written::Yes)
                }
                None if self.default.is_some() => Ok(Written::Absent),
                None if self.otherwise == Otherwise::Skip => Ok(Written::Skip),
                None => {
                    let known: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
                    let what = format!("{path}: {:?} is none of {}", excerpt(&scalar.text), known.join(", "));
                    Err(Reason::new(Code::UnknownValue, what))
                }
            };
        }
        if let Some(format) = self.format {
            let time = format.rfc3339(&scalar.text).ok_or_else(|| {
                Reason::new(
                    Code::BadTime,
                    format!("{path}: {:?} is no time of the format {}", excerpt(&scalar.text), format.name()),
                )
            })?;
            push_text(out, &time);
            return Ok(Written::Yes);
        }
        match self.times {
            Some(factor) => {
                let number = scalar.text.parse::<f64>().ok().map(|number| number * factor);
                let number = number.filter(|number| number.is_finite()).ok_or_else(|| {
                    Reason::new(Code::WrongType, format!("{path}: {:?}, expected a number", excerpt(&scalar.text)))
                })?;
                push_number(out, number);
            }
            None if scalar.is_text => push_text(out, &scalar.text),
            None => out.push_str(&scalar.text),
        }
        Ok(Written::Yes)
    }

    /// The fields of an object.
    pub fn fields(&self) -> Option<&[(String, Self)]> {
        match &self.origin {
            Origin::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// The paths that the value comes from, for messages.
    pub fn paths(&self) -> Vec<&str> {
        match &self.origin {
            Origin::First(refs) => refs.iter().map(|of| of.path.as_str()).collect(),
            Origin::Text(parts) => parts
                .iter()
                .filter_map(|part| match part {
                    Part::Value(of) => Some(of.path.as_str()),
                    Part::Literal(_) => None,
                })
                .collect(),
            Origin::Constant(_) => Vec::new(),
            Origin::Object(fields) => fields.iter().flat_map(|(_, value)| value.paths()).collect(),
            Origin::Monthly(monthly) => monthly.paths(),
        }
    }
}

/// Appends the fields as an object. Absent ones are left out; an object without fields is absent.
fn object(fields: &[(String, Value)], look: Look<'_, '_>, out: &mut String) -> Result<Written, Reason> {
    let begin = out.len();
    out.push('{');
    for (name, value) in fields {
        let before = out.len();
        if before > begin + 1 {
            out.push(',');
        }
        push_text(out, name);
        out.push(':');
        match value.write(look, out)? {
            Written::Yes => {}
            Written::Absent => out.truncate(before),
            Written::Skip => return Ok(Written::Skip),
        }
    }
    if out.len() == begin + 1 {
        out.truncate(begin);
        return Ok(Written::Absent);
    }
    out.push('}');
    Ok(Written::Yes)
}

/// A text, a number, true or false.
struct Scalar<'a> {
    text: Cow<'a, str>,
    is_text: bool,
}

fn scalar<'a>(json: &'a str, path: &str) -> Result<Scalar<'a>, Reason> {
    let wrong = |what: &str| Reason::new(Code::WrongType, format!("{path}: {what}, expected a text or a number"));
    match json.as_bytes().first() {
        Some(b'"') => {
            let text: Text<'a> = serde_json::from_str(json).map_err(|error| wrong(&error.to_string()))?;
            Ok(Scalar { text: text.0, is_text: true })
        }
        Some(b'{') => Err(wrong("an object")),
        Some(b'[') => Err(wrong("a list")),
        _ => Ok(Scalar { text: Cow::Borrowed(json), is_text: false }),
    }
}

#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text of a template. None if one of its values is missing.
fn text(parts: &[Part], look: Look<'_, '_>) -> Result<Option<String>, Reason> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text.push_str(literal),
            Part::Value(of) => match look.get(of).map(RawValue::get) {
                None | Some("null" | "\"\"") => return Ok(None),
                Some(json) => {
                    let part = scalar(json, &of.path)?;
                    // 1000 and 1e3 are one number and two texts.
                    let is_number = !part.is_text && part.text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
                    if is_number && part.text.contains(['.', 'e', 'E']) {
                        let what = format!("{}: {}, expected a text or a whole number", of.path, excerpt(&part.text));
                        return Err(Reason::new(Code::WrongType, what));
                    }
                    text.push_str(&part.text);
                }
            },
        }
    }
    Ok(Some(text))
}

/// Whether a value in the record is this text. Numbers are compared by their digits.
pub fn is(look: Look<'_, '_>, of: &Ref, wanted: &[String]) -> bool {
    text_at(look, of).is_some_and(|found| wanted.iter().any(|wanted| *wanted == found))
}

/// Whether a text in the record begins so.
pub fn begins(look: Look<'_, '_>, of: &Ref, with: &str) -> bool {
    text_at(look, of).is_some_and(|found| found.starts_with(with))
}

/// The first of these paths with a value that is neither null nor an empty text, and its text.
///
/// # Errors
/// When it is an object or a list.
pub fn found_of<'l, 'r>(refs: &'r [Ref], look: Look<'l, '_>) -> Result<Option<(&'r Ref, Cow<'l, str>)>, Reason> {
    let mut found = refs.iter().filter_map(|of| Some((of, look.get(of)?.get())));
    let found = found.find(|(_, json)| !matches!(*json, "null" | "\"\""));
    found.map(|(of, json)| Ok((of, scalar(json, &of.path)?.text))).transpose()
}

/// The text of a scalar. None if there is no value.
pub fn text_at<'l>(look: Look<'l, '_>, of: &Ref) -> Option<Cow<'l, str>> {
    let raw = look.get(of).map(RawValue::get).filter(|json| *json != "null")?;
    scalar(raw, &of.path).ok().map(|scalar| scalar.text)
}

/// Whether there is a value, neither null nor an empty text.
pub fn is_there(look: Look<'_, '_>, of: &Ref) -> bool {
    look.get(of).is_some_and(|raw| !matches!(raw.get(), "null" | "\"\""))
}

/// Appends a JSON string.
pub fn push_text(out: &mut String, text: &str) {
    out.push('"');
    // Most texts need no change.
    if !text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{0}'..='\u{1f}' => {
                // Writing to a text does not fail.
                write!(out, "\\u{:04x}", letter as u32).unwrap_or_default();
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

/// Appends a number; a whole one without a fraction.
fn push_number(out: &mut String, number: f64) {
    let is_whole = number.fract().abs() < f64::MIN_POSITIVE && number.abs() < 9e15;
    let written = if is_whole { write!(out, "{}", number as i64) } else { write!(out, "{number}") };
    written.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_json_whatever_is_in_them() {
        for text in ["plain", "quote \" and \\", "line\nand\tzero\0", "ü 漢 🙂"] {
            let mut out = String::new();
            push_text(&mut out, text);
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
