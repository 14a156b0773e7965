//! What a schema can make of few bytes. Memory and JSON must stay in proportion to a record, whatever its bytes are.

use std::collections::BTreeMap;

use serde_json::Value;

/// The most bytes that an item of a list or a map, or a record without its items and texts, may become for each of its own.
const MOST_TIMES: u64 = 64;
/// The most bytes that a record may become besides its texts, lists and maps.
const MOST_BYTES: u64 = 64 << 10;
/// Bytes of a number or a text in memory and as JSON, without the bytes of the text itself.
const SCALAR_BYTES: u64 = 32;

/// The size of a value: of the smallest encoded one, and the most it may become besides texts, lists and maps in it.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    least_in: u64,
    most_out: u64,
}

impl Size {
    fn of(least_in: u64, most_out: u64) -> Self {
        Self { least_in, most_out }
    }
}

/// Names that are defined so far. None while a type is being defined.
type Defined = BTreeMap<String, Option<Size>>;

/// Checks a schema.
///
/// # Errors
/// What of it could take too much memory, or is no schema.
pub fn check(schema: &Value) -> Result<(), String> {
    let size = size(schema, "", &mut Defined::new())?;
    if size.most_out > MOST_BYTES {
        return Err(format!("a record becomes {} bytes without its texts; {MOST_BYTES} are taken", size.most_out));
    }
    Ok(())
}

fn size(schema: &Value, namespace: &str, defined: &mut Defined) -> Result<Size, String> {
    match schema {
        Value::String(name) => named(name, namespace, defined),
        // A null in a union may be filled up to the size of its other branch.
        Value::Array(branches) => {
            let mut all = Size::of(u64::MAX, 4);
            for branch in branches {
                let of = size(branch, namespace, defined)?;
                all = Size::of(all.least_in.min(of.least_in), all.most_out.max(of.most_out));
            }
            Ok(Size::of(all.least_in.saturating_add(1), all.most_out.saturating_add(2)))
        }
        Value::Object(_) => of_object(schema, namespace, defined),
        other => Err(format!("{other} is no schema")),
    }
}

fn named(name: &str, namespace: &str, defined: &Defined) -> Result<Size, String> {
    Ok(match name {
        "null" => Size::of(0, 4),
        "boolean" => Size::of(1, 6),
        "int" | "long" | "string" | "bytes" => Size::of(1, SCALAR_BYTES),
        "float" => Size::of(4, SCALAR_BYTES),
        "double" => Size::of(8, SCALAR_BYTES),
        _ => match defined.get(&full(name, namespace)).or_else(|| defined.get(name)) {
            Some(Some(size)) => *size,
            Some(None) => return Err(format!("type {name} contains itself")),
            None => return Err(format!("type {name} is not defined")),
        },
    })
}

fn of_object(schema: &Value, namespace: &str, defined: &mut Defined) -> Result<Size, String> {
    let kind = schema.get("type").ok_or("a schema has no type")?;
    let Some(kind) = kind.as_str() else { return size(kind, namespace, defined) };
    let part = |name: &str| schema.get(name).ok_or_else(|| format!("a schema of type {kind} has no {name}"));
    match kind {
        "array" => within_bounds(size(part("items")?, namespace, defined)?, 0, kind),
        // A key takes at least one byte.
        "map" => within_bounds(size(part("values")?, namespace, defined)?, 1, kind),
        "record" | "error" | "enum" | "fixed" => {
            let name = part("name")?.as_str().ok_or("a name is no text")?;
            let inner = schema.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
            let (name, inner) = match name.rsplit_once('.') {
                Some((of_name, _)) => (name.to_owned(), of_name.to_owned()),
                None => (full(name, inner), inner.to_owned()),
            };
            defined.insert(name.clone(), None);
            let size = match kind {
                "enum" => {
                    let symbols = part("symbols")?.as_array().into_iter().flatten().filter_map(Value::as_str);
                    Size::of(1, SCALAR_BYTES + symbols.map(str::len).max().unwrap_or_default() as u64)
                }
                "fixed" => {
                    let bytes = part("size")?.as_u64().ok_or("a size is no number")?;
                    Size::of(bytes, bytes.saturating_mul(2).saturating_add(SCALAR_BYTES))
                }
                _ => of_fields(part("fields")?, &inner, defined)?,
            };
            defined.insert(name, Some(size));
            Ok(size)
        }
        _ => named(kind, namespace, defined),
    }
}

fn of_fields(fields: &Value, namespace: &str, defined: &mut Defined) -> Result<Size, String> {
    let mut sum = Size::of(0, 2);
    for field in fields.as_array().ok_or("fields are no list")? {
        let name = field.get("name").and_then(Value::as_str).ok_or("a field has no name")?;
        let of = size(field.get("type").ok_or_else(|| format!("field {name} has no type"))?, namespace, defined)?;
        let written = name.len() as u64 + 4;
        sum = Size::of(
            sum.least_in.saturating_add(of.least_in),
            sum.most_out.saturating_add(of.most_out).saturating_add(written),
        );
    }
    Ok(sum)
}

/// The size of a list or map of such items.
fn within_bounds(item: Size, key_bytes: u64, kind: &str) -> Result<Size, String> {
    let least_in = item.least_in.saturating_add(key_bytes);
    if item.most_out > least_in.saturating_mul(MOST_TIMES) {
        return Err(format!(
            "an item of type {kind} takes at least {least_in} bytes and becomes up to {}; {MOST_TIMES} times as many are taken",
            item.most_out
        ));
    }
    Ok(Size::of(1, SCALAR_BYTES))
}

/// The full name of a type.
fn full(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

/// The schema without logical types that change how a text is written. An id must be the same text by Avro and by JSON.
pub fn with_plain_texts(schema: &mut Value) {
    match schema {
        Value::Array(parts) => parts.iter_mut().for_each(with_plain_texts),
        Value::Object(parts) => {
            let is_text = parts.get("type").and_then(Value::as_str) == Some("string");
            if is_text && parts.get("logicalType").and_then(Value::as_str) == Some("uuid") {
                parts.remove("logicalType");
            }
            parts.values_mut().for_each(with_plain_texts);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &str) -> Result<(), String> {
        check(
            &serde_json::from_str(&format!(r#"{{"type":"record","name":"R","namespace":"x","fields":[{fields}]}}"#))
                .unwrap(),
        )
    }

    /// A list of a few bytes whose items take none, or nearly none, could name billions of them.
    #[test]
    fn a_schema_that_makes_much_of_few_bytes_is_refused() {
        let empty = r#"{"name":"e","type":{"type":"record","name":"E","fields":[{"name":"n","type":"null"}]}}"#;
        let wide: String = (0..50).map(|n| format!(r#"{{"name":"field_{n}","type":["null","string"]}},"#)).collect();
        let wide = wide.trim_end_matches(',');
        let twice = (1..40).map(|n| {
            let below = if n == 1 { "\"long\"".to_owned() } else { format!("\"A{}\"", n - 1) };
            format!(r#"{{"name":"f{n}","type":{{"type":"record","name":"A{n}","fields":[{{"name":"a","type":{below}}},{{"name":"b","type":{below}}}]}}}}"#)
        });
        let twice: Vec<String> = twice.collect();
        let refused = [
            r#"{"name":"a","type":{"type":"array","items":"null"}}"#.to_owned(),
            format!(r#"{empty},{{"name":"a","type":{{"type":"array","items":"E"}}}}"#),
            format!(r#"{empty},{{"name":"a","type":{{"type":"array","items":"x.E"}}}}"#),
            format!(
                r#"{empty},{{"name":"a","type":{{"type":"array","items":{{"type":"record","name":"W","fields":[{{"name":"f","type":"E"}}]}}}}}}"#
            ),
            r#"{"name":"a","type":{"type":"array","items":["null",{"type":"fixed","name":"F","size":1000000}]}}"#
                .to_owned(),
            format!(
                r#"{{"name":"a","type":{{"type":"array","items":["null",{{"type":"record","name":"W","fields":[{wide}]}}]}}}}"#
            ),
            twice.join(","),
            r#"{"name":"next","type":["null","R"]}"#.to_owned(),
            r#"{"name":"next","type":["null","x.R"]}"#.to_owned(),
            r#"{"name":"f","type":{"type":"fixed","name":"F","size":1000000}}"#.to_owned(),
        ];
        for fields in refused {
            assert!(of(&fields).is_err(), "{fields}");
        }
    }

    #[test]
    fn usual_schemas_are_taken() {
        let columns: String =
            (0..500).map(|n| format!(r#"{{"name":"column_{n}","type":["null","string"]}},"#)).collect();
        for fields in [
            r#"{"name":"a","type":{"type":"array","items":{"type":"record","name":"Line","fields":[{"name":"sku","type":"string"},{"name":"n","type":["null","long"]}]}}}"#,
            r#"{"name":"m","type":{"type":"map","values":["null","string","double"]}}"#,
            r#"{"name":"u","type":{"type":"string","logicalType":"uuid"}},{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}}"#,
            columns.trim_end_matches(','),
        ] {
            assert_eq!(of(fields), Ok(()), "{fields}");
        }
    }
}
