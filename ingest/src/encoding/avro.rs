//! Avro as JSON: values by their schema, times as RFC 3339, unions as the value of their branch.

mod bounds;
mod times;

use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch, UnionArray};
use arrow::datatypes::{DataType, FieldRef, UnionMode};
use arrow::error::ArrowError;
use arrow::json::writer::NullableEncoder;
use arrow::json::writer::{LineDelimited, Writer};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions, WriterBuilder};
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema as SchemaText, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::Value;

use super::Binary;
use crate::reason::{Code, Reason};

/// The id under which a decoder knows its only schema. A body that ends with its frame must be read alone: see [`take`].
const ONLY: u32 = 0x6b65_6570;

/// A schema that can be read.
pub struct AvroSchema {
    store: SchemaStore,
    /// The byte before each record, if the schema is a union of null and a record.
    branch: Option<u8>,
}

impl fmt::Debug for AvroSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AvroSchema").finish_non_exhaustive()
    }
}

impl AvroSchema {
    /// A schema from its JSON text, and those of the schemas that it refers to.
    ///
    /// # Errors
    /// Why the text is no schema that can be read: not JSON, not a record, a type that contains itself, or one that makes
    /// too much of few bytes.
    pub fn new(text: &str, references: &[(String, String)]) -> Result<Self, String> {
        let parsed = |text: &str| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
        let (schema, branch) = record_of(parsed(text)?);
        let references = references.iter().map(|(_, text)| parsed(text)).collect::<Result<Vec<_>, _>>()?;
        let schema = bounds::plain(schema, &references)?;
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        let schema = SchemaText::new(schema.to_string());
        store.set(Fingerprint::Id(ONLY), schema).map_err(|error| error.to_string())?;
        let schema = Self { store, branch };
        schema.decoder(1).map_err(|error| error.to_string())?;
        Ok(schema)
    }

    fn decoder(&self, num_rows: usize) -> Result<Decoder, ArrowError> {
        ReaderBuilder::new()
            .with_batch_size(num_rows.max(1))
            .with_writer_schema_store(self.store.clone())
            .with_active_fingerprint(Fingerprint::Id(ONLY))
            .build_decoder()
    }

    /// The bytes of the record in a body.
    fn record<'b>(&self, body: &'b [u8]) -> Result<&'b [u8], String> {
        let Some(branch) = self.branch else { return Ok(body) };
        body.strip_prefix(&[branch]).ok_or_else(|| "it is null, not a record".to_owned())
    }

    fn all(&self, bodies: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        let mut decoder = self.decoder(bodies.len()).ok()?;
        for body in bodies {
            // Behind its row a decoder with room would take the frame for that of another row.
            let is_plain = bodies.len() == 1 || !body.ends_with(&frame());
            take(&mut decoder, self.record(body).ok()?).ok().filter(|()| is_plain)?;
        }
        let texts = lines(&decoder.flush().ok()??).ok()?;
        (texts.len() == bodies.len()).then_some(texts)
    }

    fn one(&self, body: &[u8]) -> Result<Vec<u8>, Reason> {
        let refused = |why: String| Reason::new(Code::NotAvro, why);
        let mut decoder = self.decoder(1).map_err(|error| refused(error.to_string()))?;
        self.record(body).and_then(|body| take(&mut decoder, body)).map_err(refused)?;
        let batch = decoder.flush().map_err(|error| refused(error.to_string()))?;
        let batch = batch.ok_or_else(|| refused("it has no value".to_owned()))?;
        let mut texts = lines(&batch).map_err(|error| refused(error.to_string()))?;
        texts.pop().ok_or_else(|| refused("it has no value".to_owned()))
    }
}

/// The record of a union of null and a record, and the byte of its branch. Any other schema stays.
fn record_of(schema: Value) -> (Value, Option<u8>) {
    match schema {
        Value::Array(mut branches) if branches.len() == 2 && branches.iter().any(|branch| branch == "null") => {
            let place = usize::from(branches.first().is_some_and(|first| first == "null"));
            (branches.swap_remove(place), Some(2 * place as u8))
        }
        other => (other, None),
    }
}

impl Binary for AvroSchema {
    /// Where one of them is damaged, each half is read by itself, so that the others stay.
    fn texts(&self, bodies: &[&[u8]]) -> Vec<Result<Vec<u8>, Reason>> {
        match (self.all(bodies), bodies) {
            (Some(texts), _) => texts.into_iter().map(Ok).collect(),
            (None, []) => Vec::new(),
            (None, [one]) => vec![self.one(one)],
            (None, _) => {
                let (left, right) = bodies.split_at(bodies.len() / 2);
                let mut texts = self.texts(left);
                texts.extend(self.texts(right));
                texts
            }
        }
    }
}

fn frame() -> [u8; 5] {
    let [a, b, c, d] = ONLY.to_be_bytes();
    [0, a, b, c, d]
}

/// Gives one body to a decoder, which must make one row of it.
fn take(decoder: &mut Decoder, body: &[u8]) -> Result<(), String> {
    let framed = [&frame(), body].concat();
    let room = decoder.capacity();
    let taken = decoder.decode(&framed).map_err(|error| error.to_string())?;
    match (room.saturating_sub(decoder.capacity()), framed.len() - taken) {
        (1, 0) => Ok(()),
        (0, _) => Err("it ends within the value".to_owned()),
        (_, left) => Err(format!("bytes are behind the value, {left} of them unread")),
    }
}

/// The rows as JSON objects.
fn lines(rows: &RecordBatch) -> Result<Vec<Vec<u8>>, ArrowError> {
    let builder = WriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(std::sync::Arc::new(Unions));
    let mut text = Vec::new();
    let mut writer: Writer<_, LineDelimited> = builder.build(&mut text);
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    // Line ends within texts are escaped in JSON.
    Ok(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Writes a union as the value of its branch, and times as [`times`] does.
#[derive(Debug)]
struct Unions;

struct OfUnion<'a> {
    union: &'a UnionArray,
    branches: Vec<(i8, NullableEncoder<'a>)>,
}

impl Encoder for OfUnion<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let (branch, place) = (self.union.type_id(row), self.union.value_offset(row));
        match self.branches.iter_mut().find(|(id, _)| *id == branch) {
            Some((_, encoder)) if !encoder.is_null(place) => encoder.encode(place, out),
            _ => out.extend_from_slice(b"null"),
        }
    }
}

impl EncoderFactory for Unions {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let DataType::Union(fields, UnionMode::Dense | UnionMode::Sparse) = array.data_type() else {
            return Ok(times::encoder(array));
        };
        let union = array.as_union();
        let branches = fields.iter().map(|(id, field)| {
            let encoder = arrow::json::writer::make_encoder(field, union.child(id).as_ref(), options)?;
            Ok((id, encoder))
        });
        let encoder = OfUnion { union, branches: branches.collect::<Result<_, ArrowError>>()? };
        Ok(Some(NullableEncoder::new(Box::new(encoder), None)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The writer's schema of the Avro specification's kinds of values.
    const SCHEMA: &str = r#"{"type": "record", "name": "Use", "namespace": "com.example", "fields": [
        {"name": "id", "type": "string"},
        {"name": "n", "type": "long"},
        {"name": "user", "type": ["null", "string"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "facts", "type": {"type": "map", "values": ["null", "double", "string", "boolean"]}}]}"#;

    fn long(value: i64) -> Vec<u8> {
        let mut zigzag = (value << 1 ^ value >> 63) as u64;
        let mut bytes = Vec::new();
        while zigzag >= 0x80 {
            bytes.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        bytes.push(zigzag as u8);
        bytes
    }

    fn text(value: &str) -> Vec<u8> {
        [long(value.len() as i64), value.as_bytes().to_vec()].concat()
    }

    /// A value by hand, as the specification encodes it.
    fn body(id: &str, n: i64, user: Option<&str>) -> Vec<u8> {
        let user = user.map_or(long(0), |user| [long(1), text(user)].concat());
        let facts = [
            long(3),
            text("mrr"),
            long(1),
            12.5_f64.to_le_bytes().to_vec(),
            text("plan"),
            long(2),
            text("pro\n"),
            text("x"),
            long(0),
            long(0),
        ];
        let tags = [long(2), text("a"), text("b"), long(0)].concat();
        [text(id), long(n), user, long(1_772_359_200_000), long(1), tags, facts.concat()].concat()
    }

    /// Types of other schemas, one of which refers to a third.
    #[test]
    fn types_of_other_schemas_are_read_where_they_are_used() {
        let schema = r#"{"type":"record","name":"Use","namespace":"a","fields":[
            {"name":"plan","type":"b.Plan"},{"name":"other","type":["null","b.Plan"]},{"name":"kind","type":"Kind"}]}"#;
        let plan = r#"{"type":"record","name":"Plan","namespace":"b","fields":[{"name":"kind","type":"a.Kind"},{"name":"n","type":"int"}]}"#;
        let kind = r#"{"type":"enum","name":"a.Kind","symbols":["small","large"]}"#;
        let references = [("b.Plan".to_owned(), plan.to_owned()), ("a.Kind".to_owned(), kind.to_owned())];
        let schema = AvroSchema::new(schema, &references).unwrap();
        let mut found = schema.texts(&[&[2, 4, 2, 0, 6, 0]]);
        let text = String::from_utf8(found.pop().unwrap().unwrap()).unwrap();
        assert_eq!(text, r#"{"plan":{"kind":"large","n":2},"other":{"kind":"small","n":3},"kind":"small"}"#);
    }

    #[test]
    fn a_value_is_json_with_times_as_text_and_unions_as_their_branch() {
        let schema = AvroSchema::new(SCHEMA, &[]).unwrap();
        let bodies = [body("e1", -7, Some("u1")), body("e2", i64::MAX, None)];
        let texts = schema.texts(&bodies.each_ref().map(Vec::as_slice));
        let found: Vec<Value> = texts.into_iter().map(|text| serde_json::from_slice(&text.unwrap()).unwrap()).collect();
        let expected = |id: &str, n: i64, user: Option<&str>| {
            serde_json::json!({"id": id, "n": n, "user": user, "at": "2026-03-01T10:00:00Z", "kind": "B", "tags": ["a", "b"],
                "facts": {"mrr": 12.5, "plan": "pro\n", "x": null}})
        };
        assert_eq!(found, [expected("e1", -7, Some("u1")), expected("e2", i64::MAX, None)]);
    }

    #[test]
    fn a_damaged_value_is_refused_and_its_neighbours_are_read() {
        let schema = AvroSchema::new(SCHEMA, &[]).unwrap();
        let good = body("e1", 1, None);
        let short = &good[..good.len() - 3];
        let long = [good.as_slice(), b"!"].concat();
        let found = schema.texts(&[&good, short, &good, &long, &[], &good]);
        let codes: Vec<Option<Code>> = found.iter().map(|text| text.as_ref().err().map(|reason| reason.code)).collect();
        let refused = Some(Code::NotAvro);
        assert_eq!(codes, [None, refused, None, refused, refused, None], "{found:?}");
        assert!(found[3].as_ref().unwrap_err().detail.contains("behind the value"), "{:?}", found[3]);
    }

    /// `infinity` of a database is a time that no text has: other fields must stay, and a mapping of this one must be refused.
    #[test]
    fn a_time_that_is_no_time_is_its_number() {
        let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "on", "type": {"type": "int", "logicalType": "date"}}, {"name": "of", "type": ["null", {"type": "long", "logicalType": "time-micros"}]}]}"#;
        let schema = AvroSchema::new(schema, &[]).unwrap();
        let body = |at: i64, on: i64, of: i64| [long(at), long(on), long(1), long(of)].concat();
        let texts = schema.texts(&[
            &body(1_772_359_200_500, 20_513, 3_600_000_001),
            &body(9_223_372_036_825_200_000, i64::from(i32::MAX), -1),
        ]);
        let found: Vec<Value> = texts.into_iter().map(|text| serde_json::from_slice(&text.unwrap()).unwrap()).collect();
        assert_eq!(
            found[0],
            serde_json::json!({"at": "2026-03-01T10:00:00.5Z", "on": "2026-03-01", "of": "01:00:00.000001"})
        );
        assert_eq!(found[1], serde_json::json!({"at": 9_223_372_036_825_200_000_i64, "on": i32::MAX, "of": -1}));
    }

    /// A decoder would change a text that is marked as a UUID, and an account would be two.
    #[test]
    fn an_id_is_the_text_that_was_written() {
        let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "id", "type": {"type": "string", "logicalType": "uuid"}}]}"#;
        let id = "550e8400-e29b-41d4-a716-446655440000";
        let found = AvroSchema::new(schema, &[]).unwrap().texts(&[&text(id)]);
        assert_eq!(found[0].as_deref(), Ok(format!("{{\"id\":\"{id}\"}}").as_bytes()));
    }

    #[test]
    fn a_record_that_may_be_null_as_a_whole_is_the_record() {
        let record = r#"{"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}"#;
        for (schema, branch) in [(format!(r#"["null", {record}]"#), 1), (format!(r#"[{record}, "null"]"#), 0)] {
            let schema = AvroSchema::new(&schema, &[]).unwrap();
            let found = schema.texts(&[&[long(branch), long(7)].concat(), &long(1 - branch)]);
            assert_eq!(found[0].as_deref(), Ok(br#"{"n":7}"#.as_slice()));
            assert!(found[1].as_ref().is_err_and(|reason| reason.detail.contains("null")));
        }
    }

    /// Behind the first row the decoder takes the surplus for the frame of the next, and that one's frame for its value.
    #[test]
    fn a_body_that_ends_with_a_frame_is_no_two_values() {
        let schema = r#"{"type": "record", "name": "R", "fields": [{"name": "f", "type": {"type": "fixed", "name": "F", "size": 5}}]}"#;
        let schema = AvroSchema::new(schema, &[]).unwrap();
        let (good, surplus) = ([1, 2, 3, 4, 5], [[1, 2, 3, 4, 5], frame()].concat());
        let found = schema.texts(&[&surplus, &[], &good]);
        assert_eq!(found.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, false, true]);
        assert!(schema.texts(&[]).is_empty());
    }

    #[test]
    fn a_schema_that_cannot_be_read_is_refused_with_its_reason() {
        let of = |fields: &str| format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#);
        for (text, why) in [
            ("{", "EOF"),
            (&of(r#"{"name": "a", "type": {"type": "array", "items": "null"}}"#), "an item of type array"),
            (&of(r#"{"name": "next", "type": ["null", "R"]}"#), "contains itself"),
            ("\"string\"", ""),
        ] {
            let refused = AvroSchema::new(text, &[]).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    proptest! {
        /// Any bytes are a value or a reason, and a changed byte of a good value is never more than one record's fault.
        #[test]
        fn no_bytes_stop_a_decoder(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..5), at in 0..60_usize, byte: u8) {
            let schema = AvroSchema::new(SCHEMA, &[]).unwrap();
            let mut changed = body("e1", 1, Some("u"));
            let at = at % changed.len();
            changed[at] = byte;
            let good = body("e2", 2, None);
            let mut all: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
            all.extend([changed.as_slice(), good.as_slice()]);
            let found = schema.texts(&all);
            prop_assert_eq!(found.len(), all.len());
            prop_assert!(found.last().is_some_and(Result::is_ok));
            for text in found.into_iter().flatten() {
                prop_assert!(serde_json::from_slice::<Value>(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
            }
        }
    }
}
