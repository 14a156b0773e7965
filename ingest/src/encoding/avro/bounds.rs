//! What a schema can make of few bytes. Memory and JSON must stay in proportion to a record, whatever its bytes are.
//!
//! A value of `n` encoded bytes becomes at most `MOST_TIMES * n + base` bytes. The base of a type is the sum of its parts. It
//! may be below 0, since a number or a text takes a byte at least. A list may have any number of items, so that the base of
//! an item must not be above 0.

use std::collections::BTreeMap;

use serde_json::Value;

/// How many times as large a value may become as it is encoded.
const MOST_TIMES: i64 = 128;
/// The most bytes that a record may become on top of that.
const MOST_BASE_BYTES: i64 = 64 << 10;
/// The most types within types, each counted where it is used.
const MOST_NODES: u64 = 20_000;
/// The deepest nesting of types. Readers descend into them on the stack.
const MAX_DEPTH: usize = 64;
/// Bytes of a number or a text in memory and as JSON, without the bytes of the text itself.
const SCALAR_BYTES: i64 = 32;
/// Bytes in memory of a number or a text that is null.
const EMPTY_BYTES: i64 = 16;

/// What a type can become.
#[derive(Debug, Clone, Copy)]
struct Size {
    base: i64,
    /// Bytes in memory where the value is null.
    filled: i64,
    /// The types in it, each counted where it is used.
    nodes: u64,
}

const NULL: Size = Size { base: 4, filled: 0, nodes: 1 };

/// A value of at least `bytes`, of which each becomes another one at most.
fn scalar(bytes: i64) -> Size {
    Size { base: SCALAR_BYTES + bytes - MOST_TIMES * bytes, filled: EMPTY_BYTES, nodes: 1 }
}

/// Names that are defined so far, and the names that stand for them. No size while a type is being defined.
#[derive(Default)]
struct Names {
    defined: BTreeMap<String, (String, Option<Size>)>,
    /// Types of the schemas that are referred to, by their full names.
    referred: BTreeMap<String, Value>,
    /// How many types the present one is within.
    depth: usize,
}

impl Names {
    /// The type of another schema with this name. It is given once: from then on it is defined.
    fn take_referred(&mut self, name: &str, namespace: &str) -> Option<Value> {
        let full_name = full(name, namespace);
        if self.defined.contains_key(&full_name) {
            return None;
        }
        self.referred.remove(&full_name).or_else(|| self.referred.remove(name))
    }
}

/// The full name of a named type.
fn full_name_of(schema: &Value) -> Option<String> {
    let namespace = schema.get("namespace").and_then(Value::as_str).unwrap_or_default();
    Some(full(schema.get("name")?.as_str()?, namespace))
}

/// The schema with plain names, if it is one that can be read.
///
/// Each named type gets a name without a namespace, since readers differ in how they resolve names; nothing that is read shows
/// them. Texts that are marked as UUIDs become plain ones: a reader would change them, and an id must be the same text by Avro
/// and by JSON. A type of another schema stands where it is first used.
///
/// # Errors
/// What of it could take too much memory, or is no schema.
pub fn plain(mut schema: Value, references: &[Value]) -> Result<Value, String> {
    let referred = references.iter().filter_map(|schema| Some((full_name_of(schema)?, schema.clone())));
    let mut names = Names { referred: referred.collect(), ..Names::default() };
    let size = walk(&mut schema, "", &mut names)?;
    if size.base > MOST_BASE_BYTES {
        return Err(format!("a record becomes {} bytes more than it has; {MOST_BASE_BYTES} are taken", size.base));
    }
    Ok(schema)
}

fn walk(schema: &mut Value, namespace: &str, names: &mut Names) -> Result<Size, String> {
    names.depth += 1;
    if names.depth > MAX_DEPTH {
        return Err(format!("it has types within types deeper than {MAX_DEPTH} times"));
    }
    let size = of_any(schema, namespace, names)?;
    names.depth -= 1;
    if size.nodes > MOST_NODES { Err(format!("it has more than {MOST_NODES} types within types")) } else { Ok(size) }
}

fn of_any(schema: &mut Value, namespace: &str, names: &mut Names) -> Result<Size, String> {
    let size = match schema {
        Value::String(name) => match names.take_referred(name, namespace) {
            Some(referred) => {
                *schema = referred;
                walk(schema, "", names)?
            }
            None => {
                let (plain, size) = named(name, namespace, names)?;
                *name = plain;
                size
            }
        },
        Value::Array(branches) => of_union(branches, namespace, names)?,
        Value::Object(_) => of_object(schema, namespace, names)?,
        other => return Err(format!("{other} is no schema")),
    };
    Ok(size)
}

/// The branch takes a byte of its own. A null may be filled up to the size of another branch.
fn of_union(branches: &mut [Value], namespace: &str, names: &mut Names) -> Result<Size, String> {
    let mut sizes = Vec::new();
    for branch in branches.iter_mut() {
        let is_null = *branch == "null";
        sizes.push((is_null, walk(branch, namespace, names)?));
    }
    let filled = sizes.iter().map(|(_, size)| size.filled).max().unwrap_or_default();
    let base = |(is_null, size): &(bool, Size)| if *is_null { 4 + filled } else { size.base };
    let most = sizes.iter().map(base).max().unwrap_or_default();
    let nodes = sizes.iter().fold(1, |sum: u64, (_, size)| sum.saturating_add(size.nodes));
    Ok(Size { base: most.saturating_sub(MOST_TIMES), filled: filled.saturating_add(8), nodes })
}

fn named(name: &str, namespace: &str, names: &Names) -> Result<(String, Size), String> {
    let size = match name {
        "null" => NULL,
        "boolean" | "int" | "long" | "string" | "bytes" => scalar(1),
        "float" => scalar(4),
        "double" => scalar(8),
        _ => {
            let found = names.defined.get(&full(name, namespace)).or_else(|| names.defined.get(name));
            let (plain, size) = found.ok_or_else(|| format!("type {name} is not defined"))?;
            return size.map(|size| (plain.clone(), size)).ok_or_else(|| format!("type {name} contains itself"));
        }
    };
    Ok((name.to_owned(), size))
}

fn of_object(schema: &mut Value, namespace: &str, names: &mut Names) -> Result<Size, String> {
    let kind = schema.get("type").and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = kind else { return walk(part(schema, "type")?, namespace, names) };
    match kind.as_str() {
        "array" => of_items(walk(part(schema, "items")?, namespace, names)?, 0, &kind),
        // A key takes a byte at least.
        "map" => of_items(walk(part(schema, "values")?, namespace, names)?, scalar(1).base, &kind),
        "record" | "enum" | "fixed" => of_named(schema, &kind, namespace, names),
        _ => {
            let is_uuid = schema.get("logicalType").and_then(Value::as_str) == Some("uuid");
            if let (Value::Object(parts), true) = (&mut *schema, is_uuid && kind == "string") {
                parts.remove("logicalType");
            }
            let size = walk(part(schema, "type")?, namespace, names)?;
            Ok(size)
        }
    }
}

fn of_named(schema: &mut Value, kind: &str, namespace: &str, names: &mut Names) -> Result<Size, String> {
    let name = part(schema, "name")?.as_str().ok_or("a name is no text")?.to_owned();
    let inner = schema.get("namespace").and_then(Value::as_str).unwrap_or(namespace).to_owned();
    let (name, inner) = match name.rsplit_once('.') {
        Some((of_name, _)) => (name.clone(), of_name.to_owned()),
        None => (full(&name, &inner), inner),
    };
    let plain = format!("T{}", names.defined.len());
    if names.defined.insert(name.clone(), (plain.clone(), None)).is_some() {
        return Err(format!("type {name} is defined twice"));
    }
    let size = match kind {
        "enum" => {
            let symbols = part(schema, "symbols")?.as_array().into_iter().flatten().filter_map(Value::as_str);
            let longest = symbols.map(str::len).max().unwrap_or_default() as i64;
            Size { base: scalar(1).base + longest, ..scalar(1) }
        }
        "fixed" => {
            let bytes = part(schema, "size")?.as_u64().and_then(|bytes| i32::try_from(bytes).ok());
            let bytes = i64::from(bytes.ok_or("a size is no number of bytes")?);
            Size { base: SCALAR_BYTES + 2 * bytes - MOST_TIMES * bytes, filled: bytes, nodes: 1 }
        }
        _ => of_fields(part(schema, "fields")?, &inner, names)?,
    };
    names.defined.insert(name, (plain.clone(), Some(size)));
    if let Value::Object(parts) = schema {
        parts.remove("namespace");
        parts.remove("aliases");
        parts.insert("name".to_owned(), Value::String(plain));
    }
    Ok(size)
}

fn of_fields(fields: &mut Value, namespace: &str, names: &mut Names) -> Result<Size, String> {
    let mut sum = Size { base: 2, filled: 8, nodes: 1 };
    for field in fields.as_array_mut().ok_or("fields are no list")? {
        let written = part(field, "name")?.as_str().ok_or("a field has no name")?.len() as i64 + 4;
        let of = walk(part(field, "type")?, namespace, names)?;
        sum.base = sum.base.saturating_add(of.base).saturating_add(written);
        sum.filled = sum.filled.saturating_add(of.filled);
        sum.nodes = sum.nodes.saturating_add(of.nodes);
    }
    Ok(sum)
}

/// A list or map of such items. It takes a byte at least.
fn of_items(item: Size, key_base: i64, kind: &str) -> Result<Size, String> {
    let base = item.base.saturating_add(key_base).saturating_add(1);
    if base > 0 {
        return Err(format!("an item of type {kind} may become {base} bytes more than {MOST_TIMES} times what it has"));
    }
    Ok(Size { nodes: item.nodes.saturating_add(1), ..scalar(1) })
}

fn part<'s>(schema: &'s mut Value, name: &str) -> Result<&'s mut Value, String> {
    schema.get_mut(name).ok_or_else(|| format!("a schema has no {name}"))
}

/// The full name of a type.
fn full(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &str) -> Result<Value, String> {
        let text = format!(r#"{{"type":"record","name":"R","namespace":"x","fields":[{fields}]}}"#);
        plain(serde_json::from_str(&text).unwrap(), &[])
    }

    fn list_of(item: &str) -> String {
        format!(r#"{{"name":"a","type":{{"type":"array","items":{item}}}}}"#)
    }

    /// Types that use the one before them twice: the last of 30 stands for a billion.
    fn doubled(used: impl Fn(&str) -> String) -> String {
        let of_number = |n: usize| {
            let below = used(&if n == 1 { r#""long""#.to_owned() } else { format!(r#""A{}""#, n - 1) });
            format!(
                r#"{{"name":"f{n}","type":{{"type":"record","name":"A{n}","fields":[{{"name":"a","type":{below}}},{{"name":"b","type":{below}}}]}}}}"#
            )
        };
        (1..30).map(of_number).collect::<Vec<_>>().join(",")
    }

    /// A list of a few bytes whose items take none, or nearly none, could name billions of them.
    #[test]
    fn a_schema_that_makes_much_of_few_bytes_is_refused() {
        let empty = r#"{"name":"e","type":{"type":"record","name":"E","fields":[{"name":"n","type":"null"}]}}"#;
        let fields: Vec<String> =
            (0..50).map(|n| format!(r#"{{"name":"field_{n}","type":["null","string"]}}"#)).collect();
        let nulls: Vec<String> = (0..1000).map(|n| format!(r#"{{"name":"field_{n}","type":"null"}}"#)).collect();
        let record = |fields: &[String]| format!(r#"{{"type":"record","name":"W","fields":[{}]}}"#, fields.join(","));
        let refused = [
            list_of(r#""null""#),
            format!("{empty},{}", list_of(r#""E""#)),
            format!("{empty},{}", list_of(r#""x.E""#)),
            format!("{empty},{}", list_of(r#"{"type":"record","name":"W","fields":[{"name":"f","type":"E"}]}"#)),
            list_of(r#"["null",{"type":"fixed","name":"F","size":1000000}]"#),
            list_of(&format!(r#"["null",{}]"#, record(&fields))),
            list_of(&record(&nulls)),
            doubled(str::to_owned),
            doubled(|below| format!(r#"{{"type":"array","items":{below}}}"#)),
            r#"{"name":"next","type":["null","R"]}"#.to_owned(),
            format!(
                r#"{{"name":"deep","type":{}"long"{}}}"#,
                r#"{"type":"array","items":"#.repeat(100),
                "}".repeat(100)
            ),
            r#"{"name":"next","type":["null","x.R"]}"#.to_owned(),
            r#"{"name":"e","type":{"type":"error","name":"E","fields":[]}}"#.to_owned(),
        ];
        for fields in refused {
            assert!(of(&fields).is_err(), "{fields}");
        }
    }

    #[test]
    fn usual_schemas_are_taken() {
        let columns: Vec<String> = (0..500)
            .map(|n| format!(r#"{{"name":"a_column_with_a_long_name_{n}","type":["null","string"]}}"#))
            .collect();
        let columns = columns.join(",");
        for fields in [
            list_of(
                r#"{"type":"record","name":"Line","fields":[{"name":"sku","type":"string"},{"name":"n","type":["null","long"]}]}"#,
            ),
            list_of(
                r#"["null",{"type":"record","name":"L","fields":[{"name":"sku","type":["null","string"]},{"name":"n","type":["null","long"]}]}]"#,
            ),
            list_of(r#"{"type":"enum","name":"K","symbols":["A_SYMBOL_OF_MORE_THAN_THIRTY_LETTERS"]}"#),
            list_of(r#"["null",{"type":"fixed","name":"F","size":16}]"#),
            r#"{"name":"m","type":{"type":"map","values":["null","string","double"]}}"#.to_owned(),
            r#"{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}}"#.to_owned(),
            // The envelope of a change of a wide row.
            format!(
                r#"{{"name":"before","type":["null",{{"type":"record","name":"V","fields":[{columns}]}}]}},{{"name":"after","type":["null","V"]}}"#
            ),
        ] {
            assert_eq!(of(&fields).err(), None, "{fields}");
        }
    }

    #[test]
    fn a_name_means_the_same_type_however_it_is_written() {
        let fields = r#"{"name":"a","type":{"type":"fixed","name":"com.acme.Money","size":8}},{"name":"b","type":"com.acme.Money"},
            {"name":"c","type":{"type":"record","name":"W","namespace":"com.acme","fields":[{"name":"m","type":"Money"}]}}"#;
        let schema = of(fields).unwrap();
        let types = ["/fields/0/type/name", "/fields/1/type", "/fields/2/type/fields/0/type"]
            .map(|at| schema.pointer(at).cloned());
        assert_eq!(types, [Some("T1".into()), Some("T1".into()), Some("T1".into())]);
        assert!(schema.get("namespace").is_none());
    }
}
