//! Paths into a JSON object, read together in one pass: what no path leads to is skipped.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
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
    children: Vec<(String, Node)>,
}

/// What the paths lead to in one object, as JSON texts.
#[derive(Debug)]
pub struct Found<'a>(Vec<Option<&'a RawValue>>);

impl<'a> Found<'a> {
    /// The JSON text at a path, if there is one.
    pub fn get(&self, slot: Slot) -> Option<&'a RawValue> {
        self.0.get(slot.0).copied().flatten()
    }
}

impl Paths {
    /// Adds a path such as `detail.id`, or `a."b.c"` where a name contains a point. An equal path keeps its number.
    ///
    /// # Errors
    /// When a name in the path is empty, a quote is not closed, or an object would have too many names.
    pub fn add(&mut self, path: &str) -> Result<Slot, String> {
        let mut node = &mut self.root;
        for name in names(path)? {
            let at = node.children.iter().position(|(known, _)| *known == name).unwrap_or(node.children.len());
            if at == MAX_NAMES {
                return Err(format!("the path {path} is beyond {MAX_NAMES} names of one object"));
            }
            if at == node.children.len() {
                node.children.push((name, Node::default()));
            }
            node = &mut node.children[at].1;
        }
        // Two spellings of one path are one path.
        Ok(*node.slot.get_or_insert_with(|| {
            self.num_slots += 1;
            Slot(self.num_slots - 1)
        }))
    }

    /// What the paths lead to in an object. In any other value they lead to nothing.
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

/// Reads the object of a node.
struct Reading<'n, 'f, 'a> {
    node: &'n Node,
    found: &'f mut Found<'a>,
}

impl<'a> Reading<'_, '_, 'a> {
    /// Reads the value of a known name.
    fn child<A: MapAccess<'a>>(&mut self, child: &Node, map: &mut A) -> Result<(), A::Error> {
        let Some(slot) = child.slot else {
            return map.next_value_seed(Reading { node: child, found: self.found });
        };
        let raw: &'a RawValue = map.next_value()?;
        self.found.0[slot.0] = Some(raw);
        if child.children.is_empty() {
            return Ok(());
        }
        let mut deserializer = serde_json::Deserializer::from_str(raw.get());
        Reading { node: child, found: self.found }.deserialize(&mut deserializer).map_err(A::Error::custom)
    }
}

impl<'a> DeserializeSeed<'a> for Reading<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Reading<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        let node = self.node;
        let mut known = 0_u128;
        while let Some(Key(name)) = map.next_key::<Key<'a>>()? {
            match node.children.iter().position(|(known, _)| *known == *name) {
                Some(at) if known & (1 << at) != 0 => {
                    return Err(A::Error::custom(format!("duplicate field `{name}`")));
                }
                Some(at) => {
                    known |= 1 << at;
                    self.child(&node.children[at].1, &mut map)?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
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
        let text = r#"{"a": {"b": [1, 2], "x.y": "z", "skipped": {"a": 1}}, "c": 1.50, "d": null, "e": "text"}"#;
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
        ];
        let mut paths = Paths::default();
        let slots: Vec<Slot> = cases.iter().map(|(path, _)| paths.add(path).unwrap()).collect();
        assert_eq!(["a.b", "\"a\".b"].map(|path| paths.add(path).unwrap()), [slots[0]; 2]);
        let found = paths.read(text).unwrap();
        for ((path, expected), slot) in cases.iter().zip(slots) {
            assert_eq!(found.get(slot).map(RawValue::get), *expected, "{path}");
        }
        for text in ["[1]", "3", "null", "\"a\"", "true"] {
            assert!(paths.read(text).unwrap().0.iter().all(Option::is_none), "{text}");
        }
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
