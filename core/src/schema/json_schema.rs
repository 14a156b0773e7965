//! The JSON Schema (2020-12) of a table's JSON form, see [`super::json`].

use serde_json::{Map, Value, json};

use super::json::Place;
use super::{Column, ColumnType};

/// The JSON Schema of the objects that these columns make. `form` is the first key's value, if there is one. Every key is
/// always there; more keys may be added in the same version.
pub fn json_schema(columns: &[Column], form: Option<&str>) -> Value {
    let mut schema = object(columns);
    if let Some(form) = form {
        schema["properties"]["schema"] = json!({"const": form, "description": "name and version of this form"});
        if let Some(required) = schema["required"].as_array_mut() {
            required.insert(0, "schema".into());
        }
    }
    schema
}

/// A nested object: its name, whether it may be null, and the columns in it under their keys.
struct Nested {
    name: &'static str,
    nullable: bool,
    columns: Vec<Column>,
}

fn object(columns: &[Column]) -> Value {
    let (mut properties, mut required): (Map<String, Value>, Vec<&str>) = (Map::new(), Vec::new());
    let mut nested: Vec<Nested> = Vec::new();
    for column in columns {
        match column.json {
            Place::Hidden => {}
            Place::Own => {
                properties.insert(column.name.to_owned(), value(column));
                required.push(column.name);
            }
            Place::Within(name, key) => {
                let inner = Column { name: key, json: Place::Own, ..*column };
                match nested.iter_mut().find(|nested| nested.name == name) {
                    Some(known) => known.columns.push(inner),
                    None => {
                        required.push(name);
                        // The first column decides whether the object is null, so in it that one never is.
                        let first = Column { nullable: false, ..inner };
                        nested.push(Nested { name, nullable: column.nullable, columns: vec![first] });
                    }
                }
            }
        }
    }
    for Nested { name, nullable, columns } in nested {
        let schema = object(&columns);
        properties
            .insert(name.to_owned(), if nullable { json!({"anyOf": [schema, {"type": "null"}]}) } else { schema });
    }
    json!({"type": "object", "properties": properties, "required": required})
}

fn value(column: &Column) -> Value {
    let kind = match column.kind {
        ColumnType::Text | ColumnType::Label | ColumnType::Bytes | ColumnType::Time => "string",
        ColumnType::Flag => "boolean",
        ColumnType::Code | ColumnType::Int32 | ColumnType::Int64 => "integer",
        ColumnType::Float | ColumnType::Money | ColumnType::Points => "number",
        ColumnType::Json | ColumnType::TextMap | ColumnType::CountMap => "object",
        ColumnType::List(_) => "array",
    };
    let mut schema = json!({"type": kind, "description": column.doc});
    if column.nullable {
        schema["type"] = json!([kind, "null"]);
    }
    match column.kind {
        ColumnType::Time => schema["format"] = "date-time".into(),
        ColumnType::List(columns) => schema["items"] = object(columns),
        _ => {}
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::health;

    #[test]
    fn keys_nulls_and_nested_objects_are_those_that_are_written() {
        let schema = json_schema(health::COLUMNS, Some("scores/2"));
        let properties = &schema["properties"];
        assert_eq!(properties["schema"]["const"], "scores/2");
        assert_eq!(properties["score"]["type"], json!(["number", "null"]));
        assert_eq!(properties["as_of"]["format"], "date-time");
        assert_eq!(properties["deleted"], Value::Null);
        assert_eq!(properties["previous"]["anyOf"][0]["required"], json!(["as_of", "score", "band"]));
        assert_eq!(properties["provenance"]["type"], "object");
        assert_eq!(properties["factors"]["items"]["properties"]["weight"]["type"], "number");
        assert_eq!(properties["triggers"]["items"]["properties"]["news"], Value::Null);
        assert_eq!(schema["required"][0], "schema");
    }
}
