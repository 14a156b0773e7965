//! The text of a mapping file, and its checks.

use std::collections::BTreeMap;
use std::fmt;

use keepwell_core::event::Kind;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};

use super::format::Format;
use super::jq::Program;
use super::monthly::Monthly;
use super::paths::Paths;
use super::value::{Begin, Origin, Otherwise, Part, Ref, Value};
use super::{Condition, Each, Envelope, Inner, Mapping, Others, Rule, Wanted};
use crate::form;

/// Why a mapping is refused: file, line, column, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{file}{place}: {why}")]
pub struct MappingError {
    file: String,
    place: String,
    why: String,
}

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    unwrap: Vec<Spanned<String>>,
    events: Vec<Spanned<RuleText>>,
    #[serde(default)]
    ignore: Vec<BTreeMap<String, Spanned<WantedText>>>,
    #[serde(default)]
    others: Others,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    #[serde(default)]
    when: BTreeMap<String, Spanned<WantedText>>,
    each: Option<Spanned<String>>,
    kind: Kind,
    fields: Option<BTreeMap<String, Spanned<FieldText>>>,
    jq: Option<Spanned<String>>,
}

/// What a condition asks for: a text, a whole number, true or false; a list of them; `{there: true}`, `{begins: text}` or
/// `{begins_not: text}`.
#[derive(Debug)]
struct WantedText(Wanted);

/// Where a field comes from: a path, a list of paths, or a description.
#[derive(Debug)]
enum FieldText {
    Paths(Vec<String>),
    Details(Box<Details>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Details {
    path: Option<String>,
    first: Option<Vec<String>>,
    text: Option<String>,
    constant: Option<serde_json::Value>,
    object: Option<BTreeMap<String, FieldText>>,
    monthly: Option<MonthlyText>,
    words: Option<BTreeMap<String, serde_json::Value>>,
    otherwise: Otherwise,
    default: Option<serde_json::Value>,
    format: Option<Format>,
    times: Option<f64>,
    nulls: Nulls,
}

/// An amount a month. Each but `each` and `minor_units_of` is a path or a list of paths; those of an item begin with a
/// point.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MonthlyText {
    each: Option<String>,
    amount: FieldText,
    quantity: Option<FieldText>,
    interval: FieldText,
    every: Option<FieldText>,
    minor_units_of: Option<String>,
}

/// What null means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Nulls {
    /// What was known before is cleared.
    #[default]
    Clear,
    /// Nothing: the field is missing.
    Skip,
}

/// Reads a mapping. `name` is the file, for messages.
///
/// # Errors
/// [`MappingError`] with line and column of the first fault.
pub fn parse(name: &str, text: &str) -> Result<Mapping, MappingError> {
    let refused = |place: String, why: String| MappingError { file: name.to_owned(), place, why };
    let at = |place: Location, why: String| refused(format!(":{}:{}", place.line(), place.column()), why);
    let file: Spanned<File> = serde_saphyr::from_str(text).map_err(|error| {
        let text = error.without_snippet().to_string();
        let place = error.location().unwrap_or(Location::UNKNOWN);
        // The message begins with the place, in other words.
        let why = text.split_once(&format!("column {}: ", place.column())).map_or(text.as_str(), |(_, why)| why);
        at(place, why.to_owned())
    })?;
    let (whole, file) = (file.referenced, file.value);
    let (mut paths, mut headers) = (Paths::default(), Paths::default());
    if file.events.is_empty() {
        return Err(at(whole, "a mapping needs at least one rule under `events`".into()));
    }
    let rules =
        file.events.into_iter().enumerate().map(|(number, rule)| {
            compiled(number, rule, &mut paths, &mut headers).map_err(|(place, why)| at(place, why))
        });
    let rules = rules.collect::<Result<_, _>>()?;
    let none = &mut Paths::default();
    let ignored = file.ignore.into_iter().map(|when| {
        if when.is_empty() {
            return Err(at(whole, "ignore: an entry without a condition would ignore every record".into()));
        }
        let mut places =
            Places { record: &mut paths, item: none, headers: &mut headers, has_items: false, is_list: false };
        conditions(when, &mut places).map_err(|(place, why)| at(place, why))
    });
    let ignored = ignored.collect::<Result<_, _>>()?;
    let envelope = envelope(&file.unwrap).map_err(|(place, why)| at(place, why))?;
    Ok(Mapping { envelope, paths, headers, rules, ignored, others: file.others })
}

/// Where a record may be within another object.
fn envelope(unwrap: &[Spanned<String>]) -> Result<Envelope, Fault> {
    let mut paths = Paths::default();
    let slots = unwrap.iter().map(|path| paths.add(&path.value).map_err(|why| (path.referenced, why)));
    Ok(Envelope { slots: slots.collect::<Result<_, _>>()?, paths })
}

type Fault = (Location, String);

/// The paths that a rule may use.
struct Places<'p> {
    record: &'p mut Paths,
    item: &'p mut Paths,
    headers: &'p mut Paths,
    has_items: bool,
    /// Whether the record itself is the list.
    is_list: bool,
}

impl Places<'_> {
    fn of(&mut self, path: &str) -> Result<Ref, String> {
        if path == "$" {
            return Err("$ is for `each` only".into());
        }
        if let Some(name) = path.strip_prefix('@') {
            let slot = self.headers.add(&format!("\"{}\"", name.replace('"', "")))?;
            return Ok(Ref { begins: Begin::Headers, slot, path: path.to_owned() });
        }
        let (begins, slot) = match path.strip_prefix('.') {
            Some(_) if !self.has_items => {
                return Err(format!("the path {path} begins at an item, and the rule has no `each`"));
            }
            Some("") => (Begin::Item, self.item.add_whole()),
            Some(within) => (Begin::Item, self.item.add(within)?),
            None if self.is_list => {
                return Err(format!("the record is a list, so that the path {path} leads nowhere; write .{path}"));
            }
            None => (Begin::Record, self.record.add(path)?),
        };
        Ok(Ref { begins, slot, path: path.to_owned() })
    }
}

fn compiled(number: usize, rule: Spanned<RuleText>, record: &mut Paths, headers: &mut Paths) -> Result<Rule, Fault> {
    let (place, rule) = (rule.referenced, rule.value);
    let mut item = Paths::default();
    let is_list = rule.each.as_ref().is_some_and(|each| each.value == "$");
    let mut places = Places { record, item: &mut item, headers, has_items: rule.each.is_some(), is_list };
    let conditions = conditions(rule.when, &mut places)?;
    let lists = rule.each.as_ref().map(|each| lists(&each.value, &mut places).map_err(|why| (each.referenced, why)));
    let lists = lists.transpose()?;
    if let Some(jq) = rule.jq.as_ref().filter(|_| rule.fields.is_some() || rule.each.is_some()) {
        return Err((jq.referenced, "jq makes whole events; a rule with it has neither fields nor each".into()));
    }
    let compiled = |jq: Spanned<String>| Program::compile(&jq.value).map_err(|why| (jq.referenced, why));
    let program = rule.jq.map(compiled).transpose()?;
    let fields = rule.fields.map(|fields| values(rule.kind, place, fields, &mut places)).transpose()?;
    let each = lists.map(|(at, inner)| Each { at, inner, paths: item });
    Ok(Rule { number, conditions, each, kind: rule.kind, fields, program })
}

/// The list that an `each` names, and the lists within its items: `pages.*.questions` is the questions of all pages. No
/// list: the record is the list.
fn lists(each: &str, places: &mut Places<'_>) -> Result<(Option<Ref>, Vec<Inner>), String> {
    if each == "$" {
        return Ok((None, Vec::new()));
    }
    if each.starts_with(['.', '@']) {
        return Err("`each` is a path of the record, or $ where the record is the list".into());
    }
    let mut names = each.split(".*.");
    let first = places.of(names.next().unwrap_or_default())?;
    let inner = |name: &str| {
        let mut paths = Paths::default();
        let slot = paths.add(name)?;
        Ok(Inner { paths, slot })
    };
    Ok((Some(first), names.map(inner).collect::<Result<_, String>>()?))
}

fn conditions(when: BTreeMap<String, Spanned<WantedText>>, places: &mut Places<'_>) -> Result<Vec<Condition>, Fault> {
    let condition = |(path, wanted): (String, Spanned<WantedText>)| {
        let of = places.of(&path).map_err(|why| (wanted.referenced, why))?;
        Ok(Condition { of, wanted: wanted.value.0 })
    };
    when.into_iter().map(condition).collect()
}

fn values(
    kind: Kind,
    place: Location,
    fields: BTreeMap<String, Spanned<FieldText>>,
    places: &mut Places<'_>,
) -> Result<Vec<(String, Value)>, Fault> {
    let known = form::of_kind(kind).map(|form| form.fields).unwrap_or_default();
    if let Some(missing) = known.iter().find(|known| known.is_needed && !fields.contains_key(known.name)) {
        return Err((place, format!("an event of the kind {} needs the field {}", kind.name(), missing.name)));
    }
    let field = |(name, field): (String, Spanned<FieldText>)| {
        let fault = |why: String| (field.referenced, format!("{name}: {why}"));
        if !known.iter().any(|known| known.name == name) {
            let names: Vec<&str> = known.iter().map(|known| known.name).collect();
            return Err(fault(format!("no field of the kind {}; it has {}", kind.name(), names.join(", "))));
        }
        let value = value(field.value, places).map_err(fault)?;
        Ok((name, value))
    };
    fields.into_iter().map(field).collect()
}

fn value(field: FieldText, places: &mut Places<'_>) -> Result<Value, String> {
    let details = match field {
        FieldText::Paths(paths) => Details { first: Some(paths), ..Details::default() },
        FieldText::Details(details) => *details,
    };
    let Details { path, first, text, constant, object, monthly, words, otherwise, default, format, times, nulls } =
        details;
    let origins = [
        path.map(|path| refs(vec![path], places).map(Origin::First)),
        first.filter(|paths| !paths.is_empty()).map(|paths| refs(paths, places).map(Origin::First)),
        text.map(|text| parts(&text, places).map(Origin::Text)),
        constant.map(|constant| Ok(Origin::Constant(constant.to_string()))),
        object.map(|object| {
            let field = |(name, field): (String, FieldText)| Ok((name, value(field, places)?));
            object.into_iter().map(field).collect::<Result<_, String>>().map(Origin::Object)
        }),
        monthly.map(|text| monthly_of(text, places).map(|monthly| Origin::Monthly(Box::new(monthly)))),
    ];
    let mut origins = origins.into_iter().flatten();
    let (Some(origin), None) = (origins.next(), origins.next()) else {
        return Err("exactly one of path, first, text, constant, object and monthly".into());
    };
    let origin = origin?;
    let has_others = otherwise != Otherwise::Refuse;
    let is_fixed = matches!(origin, Origin::Constant(_) | Origin::Object(_) | Origin::Monthly(_));
    if is_fixed && (words.is_some() || format.is_some() || times.is_some() || default.is_some()) {
        return Err("words, format, times and default are for values of the record".into());
    }
    if has_others && (words.is_none() || default.is_some()) {
        return Err("otherwise: skip is for words, without a default".into());
    }
    if times.is_some_and(|times| !times.is_finite()) {
        return Err("times must be a number".into());
    }
    if [words.is_some(), format.is_some(), times.is_some()].into_iter().filter(|is| *is).count() > 1 {
        return Err("at most one of words, format and times".into());
    }
    let words = words.map(|words| words.into_iter().map(|(word, to)| (word, to.to_string())).collect());
    let skips_nulls = nulls == Nulls::Skip;
    let is_of_record = matches!(origin, Origin::First(_));
    if skips_nulls && (!is_of_record || default.is_some()) {
        return Err("nulls: skip is for a value at a path, without a default".into());
    }
    Ok(Value { origin, words, otherwise, default: default.map(|json| json.to_string()), format, times, skips_nulls })
}

fn refs(paths: Vec<String>, places: &mut Places<'_>) -> Result<Vec<Ref>, String> {
    paths.iter().map(|path| places.of(path)).collect()
}

/// An amount a month: of the items in a list, or of the record itself.
fn monthly_of(text: MonthlyText, places: &mut Places<'_>) -> Result<Monthly, String> {
    let MonthlyText { each, amount, quantity, interval, every, minor_units_of } = text;
    let at = each.map(|each| places.of(&each)).transpose()?;
    let minor_units_of = minor_units_of.map(|path| places.of(&path)).transpose()?;
    let mut item = Paths::default();
    let (has_items, is_list) = (at.is_some() || places.has_items, at.is_none() && places.is_list);
    let items = if at.is_some() { &mut item } else { &mut *places.item };
    let mut within =
        Places { record: &mut *places.record, item: items, headers: &mut *places.headers, has_items, is_list };
    let mut of = |field: Option<FieldText>| match field {
        None => Ok(Vec::new()),
        Some(FieldText::Paths(paths)) if !paths.is_empty() => refs(paths, &mut within),
        Some(_) => Err("amount, quantity, interval and every are paths".to_owned()),
    };
    let (amount, quantity) = (of(Some(amount))?, of(quantity)?);
    let (interval, every) = (of(Some(interval))?, of(every)?);
    Ok(Monthly { list: at.map(|at| (at, item)), amount, quantity, interval, every, minor_units_of })
}

/// The parts of a text such as `{id}:{status}`.
fn parts(text: &str, places: &mut Places<'_>) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let (path, after) = after.split_once('}').ok_or_else(|| format!("{text:?}: a {{ without }}"))?;
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.to_owned()));
        }
        parts.push(Part::Value(places.of(path)?));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Ok(parts)
}

/// The text of a scalar, as it is compared.
fn scalar_text(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text.clone()),
        // YAML changes how a fraction is written, and texts are compared.
        serde_json::Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        serde_json::Value::Bool(is) => Some(is.to_string()),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for WantedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "expected a text, a whole number, true or false, a list of them, {there: true}, {begins: a text} or {begins_not: a text}; write other numbers in quotes";
        let value = serde_json::Value::deserialize(deserializer)?;
        let wanted = match &value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                items.iter().map(scalar_text).collect::<Option<_>>().map(Wanted::OneOf)
            }
            serde_json::Value::Object(fields) if fields.len() == 1 => {
                let there = fields.get("there").and_then(serde_json::Value::as_bool).map(Wanted::There);
                let text = |key: &str| fields.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
                there
                    .or_else(|| text("begins").map(Wanted::Begins))
                    .or_else(|| text("begins_not").map(Wanted::BeginsNot))
            }
            value => scalar_text(value).map(|text| Wanted::OneOf(vec![text])),
        };
        wanted.map(Self).ok_or_else(|| D::Error::custom(format!("{expected}, not {value}")))
    }
}

impl<'de> Deserialize<'de> for FieldText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsField;
        impl<'de> Visitor<'de> for AsField {
            type Value = FieldText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, a list of paths, or a description such as {path: detail.status, words: {...}}")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<FieldText, E> {
                Ok(FieldText::Paths(vec![path.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FieldText, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element::<String>()? {
                    paths.push(path);
                }
                Ok(FieldText::Paths(paths))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FieldText, A::Error> {
                Details::deserialize(MapAccessDeserializer::new(map))
                    .map(|details| FieldText::Details(Box::new(details)))
            }
        }
        deserializer.deserialize_any(AsField)
    }
}
