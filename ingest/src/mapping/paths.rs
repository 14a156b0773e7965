//! Paths into a JSON value, read together in one pass: what no path leads to is skipped.

use std::fmt;

use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::input::Key;

/// The most names of one object that paths may lead through: one bit for each.
const MAX_NAMES: usize = 128;

/// Number of a path, in the order in which they were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// Paths to read together.
#[derive(Debug, Default)]
pub struct Paths {
    root: Node,
    num_slots: usize,
}

#[derive(Debug, Default)]
struct Node {
    slot: Option<Slot>,
    children: Vec<Child>,
}

/// What a name leads to: a field of an object, or an item of a list if the name is a number.
#[derive(Debug)]
struct Child {
    name: String,
    index: Option<usize>,
    node: Node,
}

/// What the paths lead to in one value, as JSON texts.
#[derive(Debug, Default)]
pub struct Found<'a>(Vec<Option<&'a RawValue>>);

impl<'a> Found<'a> {
    /// The JSON text at a path, if there is one.
    pub fn get(&self, slot: Slot) -> Option<&'a RawValue> {
        self.0.get(slot.0).copied().flatten()
    }
}

impl Paths {
    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.num_slots == 0
    }

    /// The names at which paths begin.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.root.children.iter().map(|child| child.name.as_str())
    }

    /// Adds the path to the whole value.
    pub fn add_whole(&mut self) -> Slot {
        Self::slot(&mut self.root, &mut self.num_slots)
    }

    fn slot(node: &mut Node, num_slots: &mut usize) -> Slot {
        // Two spellings of one path are one path.
        *node.slot.get_or_insert_with(|| {
            *num_slots += 1;
            Slot(*num_slots - 1)
        })
    }

    /// Adds a path such as `detail.id`, or `a."b.c"` where a name contains a point. `list.0.id` leads into the first item
    /// of a list. An equal path keeps its number.
    ///
    /// # Errors
    /// When a name in the path is empty, a quote is not closed, or an object would have too many names.
    pub fn add(&mut self, path: &str) -> Result<Slot, String> {
        let mut node = &mut self.root;
        for name in names(path)? {
            let at = node.children.iter().position(|child| child.name == name).unwrap_or(node.children.len());
            if at == MAX_NAMES {
                return Err(format!("the path {path} is beyond {MAX_NAMES} names of one object"));
            }
            if at == node.children.len() {
                let index = name.parse::<usize>().ok().filter(|index| index.to_string() == name);
                node.children.push(Child { name, index, node: Node::default() });
            }
            node = &mut node.children[at].node;
        }
        Ok(Self::slot(node, &mut self.num_slots))
    }

    /// What the paths lead to in a value.
    ///
    /// # Errors
    /// When the text is not JSON, or a name on a path occurs twice in an object.
    pub fn read<'a>(&self, text: &'a str) -> Result<Found<'a>, serde_json::Error> {
        let mut found = Found(vec![None; self.num_slots]);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Reading { node: &self.root, found: &mut found }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(found)
    }
}

/// The names in a path.
fn names(path: &str) -> Result<Vec<String>, String> {
    let (mut names, mut name, mut is_quoted) = (Vec::new(), String::new(), false);
    for letter in path.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            '.' if !is_quoted => names.push(std::mem::take(&mut name)),
            _ => name.push(letter),
        }
    }
    names.push(name);
    if is_quoted {
        return Err(format!("the path {path} has a quote without an end"));
    }
    if names.iter().any(String::is_empty) {
        return Err(format!("the path {path:?} has an empty name; write names with a point between them: detail.id"));
    }
    Ok(names)
}

/// Reads what a node leads to.
struct Reading<'n, 'f, 'a> {
    node: &'n Node,
    found: &'f mut Found<'a>,
}

impl<'a> DeserializeSeed<'a> for Reading<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        let Some(slot) = self.node.slot else { return deserializer.deserialize_any(self) };
        let raw = <&'a RawValue>::deserialize(deserializer)?;
        self.found.0[slot.0] = Some(raw);
        if self.node.children.is_empty() {
            return Ok(());
        }
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        deserializer.deserialize_any(self).map_err(D::Error::custom)
    }
}

impl<'a> Visitor<'a> for Reading<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let node = self.node;
        let mut known = 0_u128;
        while let Some(Key(name)) = map.next_key::<Key<'a>>()? {
            match node.children.iter().position(|child| child.name == *name) {
                Some(at) if known & (1 << at) != 0 => {
                    return Err(A::Error::custom(format!("duplicate field `{name}`")));
                }
                Some(at) => {
                    known |= 1 << at;
                    map.next_value_seed(Reading { node: &node.children[at].node, found: &mut *self.found })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        let item = |at: usize| self.node.children.iter().find(|child| child.index == Some(at));
        for at in 0.. {
            let is_there = match item(at) {
                Some(child) => {
                    list.next_element_seed(Reading { node: &child.node, found: &mut *self.found })?.is_some()
                }
                None => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !is_there {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_json_texts_and_other_fields_are_skipped() {
        let text = r#"{"a": {"b": [1, 2], "x.y": "z", "skipped": {"a": 1}}, "c": 1.50, "d": null, "e": "text",
            "list": [{"id": 7}, {"id": 8}], "numbered": {"1": "a field"}}"#;
        // path, what it leads to
        let cases = [
            ("a.b", Some("[1, 2]")),
            (r#"a."x.y""#, Some(r#""z""#)),
            ("a", Some(r#"{"b": [1, 2], "x.y": "z", "skipped": {"a": 1}}"#)),
            ("c", Some("1.50")),
            ("d", Some("null")),
            ("c.inside", None),
            ("e.inside", None),
            ("missing", None),
            ("a.b.1", Some("2")),
            ("a.b.2", None),
            ("list.0.id", Some("7")),
            ("list.1", Some(r#"{"id": 8}"#)),
            ("list.1.id", Some("8")),
            ("list.01.id", None),
            ("numbered.1", Some(r#""a field""#)),
        ];
        let mut paths = Paths::default();
        let slots: Vec<Slot> = cases.iter().map(|(path, _)| paths.add(path).unwrap()).collect();
        assert_eq!(["a.b", "\"a\".b"].map(|path| paths.add(path).unwrap()), [slots[0]; 2]);
        let found = paths.read(text).unwrap();
        for ((path, expected), slot) in cases.iter().zip(&slots) {
            assert_eq!(found.get(*slot).map(RawValue::get), *expected, "{path}");
        }
        for text in ["[1]", "3", "null", "\"a\"", "true"] {
            assert!(paths.read(text).unwrap().0.iter().all(Option::is_none), "{text}");
        }
        let whole = paths.add_whole();
        for text in ["[1]", "\"a\"", r#"{"a": {"b": 1}}"#] {
            assert_eq!(paths.read(text).unwrap().get(whole).map(RawValue::get), Some(text));
        }
        assert_eq!(paths.read(r#"{"a": {"b": 1}}"#).unwrap().get(slots[0]).map(RawValue::get), Some("1"));
    }

    #[test]
    fn a_name_on_a_path_that_is_there_twice_is_an_error_and_others_are_not() {
        let mut paths = Paths::default();
        paths.add("a.b").unwrap();
        for (text, is_read) in [
            (r#"{"a": {"b": 1}, "x": 1, "x": 2}"#, true),
            (r#"{"a": {"b": 1, "b": 2}}"#, false),
            (r#"{"a": {"b": 1}, "a": {"b": 2}}"#, false),
            (r#"{"a": {"b": 1}"#, false),
            (r#"{"a": {"b": 1}} more"#, false),
        ] {
            assert_eq!(paths.read(text).is_ok(), is_read, "{text}");
        }
    }

    #[test]
    fn a_path_without_names_is_refused() {
        for path in ["", "a.", ".a", "a..b", "a.\"b"] {
            assert!(Paths::default().add(path).is_err(), "{path}");
        }
        let mut paths = Paths::default();
        let refused = (0..=MAX_NAMES).find(|n| paths.add(&format!("a.n{n}")).is_err());
        assert_eq!(refused, Some(MAX_NAMES));
    }
}
