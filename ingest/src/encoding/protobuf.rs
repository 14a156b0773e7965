//! Protobuf as JSON: the canonical form, with the names of the `.proto` file and 64-bit integers as numbers.
//!
//! The bytes behind a frame begin with the place of the message in its file: how many numbers follow, then the number of the
//! message and of each message within, as zigzag varints. A single zero stands for the first message. Source:
//! <https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, DynamicMessage, FileDescriptor, MessageDescriptor, SerializeOptions};

use super::Binary;
use crate::reason::{Code, Reason};

mod file;

/// Name of the file of a schema.
const MAIN: &str = "keepwell/schema.proto";
/// The most numbers in the place of a message.
const MAX_PLACE: u64 = 32;
/// How many times as large a message may become as it is encoded, and how many bytes on top of that.
const MOST_TIMES: usize = 128;
const MOST_BASE_BYTES: usize = 64 << 10;

/// A schema that can be read: a file with messages.
#[derive(Debug)]
pub struct ProtobufSchema {
    file: FileDescriptor,
    /// Whether a message has a map. Its entries come in any order, so that the text is sorted.
    has_maps: bool,
}

impl ProtobufSchema {
    /// A schema from its text, or from its descriptor as base64, and the files that it imports, by name.
    ///
    /// # Errors
    /// Why the text cannot be read.
    pub fn new(text: &str, references: &[(String, String)]) -> Result<Self, String> {
        let references = references.iter().map(|(name, text)| file::read(name, text));
        let files: Vec<FileDescriptorProto> =
            references.chain([file::read(MAIN, text)]).collect::<Result<_, String>>()?;
        // It knows the files of Google, and passes over those that a client has registered, too.
        let mut pool = DescriptorPool::global();
        pool.add_file_descriptor_protos(files).map_err(|error| error.to_string())?;
        let has_maps = file::check(&pool)?;
        let file = pool.get_file_by_name(MAIN).filter(|file| file.messages().len() > 0);
        file.map(|file| Self { file, has_maps }).ok_or_else(|| "it has no message".to_owned())
    }

    fn text(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        let mut rest = body;
        let kind = self.message(&mut rest)?;
        let of_message = |error: &dyn std::fmt::Display, kind: &str| format!("{kind}: {error}");
        let name = kind.full_name().to_owned();
        let message = DynamicMessage::decode(kind, rest).map_err(|error| of_message(&error, &name))?;
        let options = SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true);
        let mut text = Bounded { bytes: Vec::new(), most: MOST_TIMES * body.len() + MOST_BASE_BYTES };
        let written = message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options);
        written.map_err(|error| of_message(&error, &name))?;
        if !self.has_maps {
            return Ok(text.bytes);
        }
        let sorted: serde_json::Value =
            serde_json::from_slice(&text.bytes).map_err(|error| of_message(&error, &name))?;
        Ok(sorted.to_string().into_bytes())
    }

    /// The message that a body is of. Takes its place from the bytes.
    fn message(&self, bytes: &mut &[u8]) -> Result<MessageDescriptor, String> {
        let missing = |place: &[u64]| format!("the schema has no message at place {place:?}");
        let count = varint(bytes)?;
        if count > MAX_PLACE {
            return Err(format!("the place of a message has {count} numbers; {MAX_PLACE} are taken"));
        }
        let place = (0..count).map(|_| varint(bytes)).collect::<Result<Vec<u64>, String>>()?;
        let place = if place.is_empty() { vec![0] } else { place };
        let mut found: Option<MessageDescriptor> = None;
        for number in &place {
            let number = usize::try_from(*number).map_err(|_| missing(&place))?;
            found = match found {
                None => self.file.messages().nth(number),
                Some(outer) => outer.child_messages().nth(number),
            };
            found.as_ref().ok_or_else(|| missing(&place))?;
        }
        found.ok_or_else(|| missing(&place))
    }
}

/// Bytes that may not become more than `most`.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > self.most {
            return Err(io::Error::other(format!("it becomes more than {} bytes", self.most)));
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A number of at least 0, written as zigzag varint.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("it ends within the place of its message")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            let is_negative = value & 1 == 1;
            return if is_negative { Err("the place of its message is below 0".to_owned()) } else { Ok(value >> 1) };
        }
    }
    Err("the place of its message is too large".to_owned())
}

impl Binary for ProtobufSchema {
    fn texts(&self, bodies: &[&[u8]]) -> Vec<Result<Vec<u8>, Reason>> {
        let refused = |why: String| Reason::new(Code::NotProtobuf, why.chars().take(200).collect::<String>());
        // A library that panics on one record must not end the process.
        let text = |body: &[u8]| catch_unwind(AssertUnwindSafe(|| self.text(body)));
        let read = |body: &&[u8]| text(body).unwrap_or_else(|_| Err("the reader failed".to_owned())).map_err(refused);
        bodies.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use prost_reflect::prost::Message;

    const USE: &str = r#"
syntax = "proto3";
package com.example;
import "google/protobuf/timestamp.proto";
import "shared/plan.proto";
enum Feature { FEATURE_NONE = 0; EXPORT = 1; }
message Other { string x = 1; }
message Use {
  message Line { string sku = 1; }
  string event_id = 1;
  string account_id = 2;
  optional string user_id = 3;
  Feature feature = 4;
  google.protobuf.Timestamp occurred_at = 5;
  int64 count = 6;
  repeated Line lines = 7;
  map<string, double> more = 8;
  shared.Plan plan = 9;
  bytes raw = 10;
  Use within = 11;
}
"#;
    const PLAN: &str = "syntax = \"proto3\";\npackage shared;\nmessage Plan { string name = 1; }\n";

    fn schema() -> ProtobufSchema {
        ProtobufSchema::new(USE, &[("shared/plan.proto".into(), PLAN.into())]).unwrap()
    }

    /// Field `number` with these bytes, or with this number.
    fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, value.len() as u8], value].concat()
    }

    fn use_of() -> Vec<u8> {
        [
            bytes(1, b"e1"),
            bytes(2, b"acme"),
            vec![4 << 3, 1],
            bytes(5, &[1 << 3, 0xa0, 0x9c, 0x90, 0xcd, 0x06]),
            vec![6 << 3, 2],
            bytes(7, &bytes(1, b"s1")),
            bytes(9, &bytes(1, b"pro")),
            bytes(10, b"\xff"),
        ]
        .concat()
    }

    fn text(schema: &ProtobufSchema, body: &[u8]) -> Result<String, Code> {
        let mut texts = schema.texts(&[body]);
        texts.pop().unwrap().map(|text| String::from_utf8(text).unwrap()).map_err(|reason| reason.code)
    }

    #[test]
    fn a_message_is_its_canonical_json_with_the_names_of_the_file() {
        let body = [&[2, 2], use_of().as_slice()].concat();
        assert_eq!(
            text(&schema(), &body).unwrap(),
            r#"{"account_id":"acme","count":2,"event_id":"e1","feature":"EXPORT","lines":[{"sku":"s1"}],"occurred_at":"2026-03-01T10:00:00Z","plan":{"name":"pro"},"raw":"/w=="}"#
        );
    }

    #[test]
    fn the_place_before_a_message_says_which_one_it_is() {
        let schema = schema();
        // The first; the same in full; one within another.
        assert_eq!(text(&schema, &[&[0], bytes(1, b"v").as_slice()].concat()).unwrap(), r#"{"x":"v"}"#);
        assert_eq!(text(&schema, &[&[2, 0], bytes(1, b"v").as_slice()].concat()).unwrap(), r#"{"x":"v"}"#);
        assert_eq!(text(&schema, &[&[4, 2, 0], bytes(1, b"v").as_slice()].concat()).unwrap(), r#"{"sku":"v"}"#);
        for wrong in
            [&[][..], &[2], &[1], &[2, 8], &[4, 2, 4], &[0x80; 6], &[0xfe, 0x7f], &[2, 0xff, 0xff, 0xff, 0xff, 0xff]]
        {
            assert_eq!(text(&schema, wrong), Err(Code::NotProtobuf), "{wrong:?}");
        }
    }

    #[test]
    fn a_damaged_message_is_refused_and_its_neighbours_are_read() {
        let good = [&[2, 2], use_of().as_slice()].concat();
        let cut = &good[..good.len() - 1];
        // Messages within messages, deeper than a reader goes.
        let mut deep = Vec::new();
        for _ in 0..120 {
            let length = deep.len();
            let mut outer = vec![11 << 3 | 2];
            prost_reflect::prost::encoding::encode_varint(length as u64, &mut outer);
            outer.extend(deep);
            deep = outer;
        }
        let deep = [&[2, 2], deep.as_slice()].concat();
        let found = schema().texts(&[&good, cut, &deep, &good]);
        let is_read: Vec<bool> = found.iter().map(Result::is_ok).collect();
        assert_eq!(is_read, [true, false, false, true]);
    }

    #[test]
    fn a_file_is_also_read_as_base64_of_its_descriptor() {
        let plain = "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\nmessage M { google.protobuf.Timestamp at = 1; }\n";
        let file = ProtobufSchema::new(plain, &[]).unwrap().file;
        let encoded = STANDARD.encode(file.file_descriptor_proto().encode_to_vec());
        let schema = ProtobufSchema::new(&encoded, &[]).unwrap();
        let body = [&[0], bytes(1, &[1 << 3, 0xa0, 0x9c, 0x90, 0xcd, 0x06]).as_slice()].concat();
        assert_eq!(text(&schema, &body).unwrap(), r#"{"at":"2026-03-01T10:00:00Z"}"#);
    }

    /// A file with one message of these fields, as base64 of its descriptor.
    fn encoded(syntax: &str, numbers: Vec<i32>) -> String {
        use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto};
        let field = |number: i32| FieldDescriptorProto {
            name: Some(format!("f{number}")),
            number: Some(number),
            label: Some(1),
            r#type: Some(9),
            ..FieldDescriptorProto::default()
        };
        let message = DescriptorProto {
            name: Some("M".to_owned()),
            field: numbers.into_iter().map(field).collect(),
            ..DescriptorProto::default()
        };
        let file = FileDescriptorProto {
            syntax: Some(syntax.to_owned()),
            message_type: vec![message],
            ..FileDescriptorProto::default()
        };
        STANDARD.encode(file.encode_to_vec())
    }

    #[test]
    fn files_import_each_other_in_any_order_and_those_of_google_may_be_registered() {
        let file = |more: &str| format!("syntax = \"proto3\"; {more}");
        let references = [
            ("a.proto".to_owned(), file("import \"z.proto\"; message A { Z z = 1; }")),
            (
                "google/protobuf/timestamp.proto".to_owned(),
                file("package google.protobuf; message Timestamp { int64 seconds = 1; }"),
            ),
            ("z.proto".to_owned(), file("message Z { string x = 1; }")),
        ];
        let main = file(
            "import \"google/protobuf/timestamp.proto\"; import \"a.proto\"; message M { A a = 1; google.protobuf.Timestamp at = 2; }",
        );
        let schema = ProtobufSchema::new(&main, &references).unwrap();
        let body = [vec![0], bytes(1, &bytes(1, &bytes(1, b"v"))), bytes(2, &[1 << 3, 0])].concat();
        assert_eq!(text(&schema, &body).unwrap(), r#"{"a":{"z":{"x":"v"}},"at":"1970-01-01T00:00:00Z"}"#);
    }

    #[test]
    fn what_options_say_of_maps_and_of_values_with_two_names_counts() {
        let file = "syntax = \"proto3\"; enum E { option allow_alias = true; A = 0; B = 0; } \
                    message M { repeated N n = 1; message N { option map_entry = true; string key = 1; int32 value = 2; } }";
        let schema = ProtobufSchema::new(file, &[]).unwrap();
        let entry = bytes(1, &[bytes(1, b"k"), vec![2 << 3, 5]].concat());
        assert_eq!(text(&schema, &[&[0], entry.as_slice()].concat()).unwrap(), r#"{"n":{"k":5}}"#);
    }

    /// Each byte of the record is a value whose name has a thousand letters.
    #[test]
    fn a_message_that_becomes_much_more_than_its_bytes_is_refused() {
        let name = "A".repeat(1000);
        let text = format!("syntax = \"proto3\"; enum E {{ {name} = 0; }} message M {{ repeated E e = 1; }}");
        let schema = ProtobufSchema::new(&text, &[]).unwrap();
        let of = |count: usize| [vec![0, 1 << 3 | 2, count as u8], vec![0; count]].concat();
        let found = schema.texts(&[&of(60), &of(100)]);
        assert!(found[0].is_ok() && found[1].as_ref().is_err_and(|reason| reason.code == Code::NotProtobuf));
    }

    proptest! {
        #[test]
        fn whatever_the_bytes_are_the_result_is_json_or_a_reason(body in prop::collection::vec(any::<u8>(), 0..80)) {
            let text = schema().texts(&[&body, &[&[2, 2], body.as_slice()].concat()]);
            for text in text.into_iter().flatten() {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
            }
        }
    }

    #[test]
    fn what_is_no_schema_is_refused_by_name() {
        let deep = format!("syntax = \"proto3\";\n{}{}", "message M {".repeat(100_000), "}".repeat(100_000));
        for (text, word) in [
            ("", "no message"),
            ("syntax = \"proto3\";", "no message"),
            ("syntax = \"proto3\"; message M { strin x = 1; }", "strin"),
            ("syntax = \"proto3\"; import \"away.proto\"; message M {}", "away.proto"),
            ("{}", "expected"),
            (
                "syntax = \"proto3\"; import \"google/protobuf/any.proto\"; message M { google.protobuf.Any a = 1; }",
                "Any",
            ),
            (
                "syntax = \"proto3\"; message M { repeated E e = 1; message E { option map_entry = true; } }",
                "no entry of a map",
            ),
            ("syntax = \"proto3\"; import public \"keepwell/schema.proto\"; message M {}", "import public"),
            ("message M { extensions 1, 2 to 9 [(x) = 1]; }", "extensions"),
            (encoded("editions", Vec::new()).as_str(), "editions"),
            (encoded("proto3", (1..1002).collect()).as_str(), "1000 fields"),
            (deep.as_str(), "nested deeper"),
        ] {
            let why = ProtobufSchema::new(text, &[]).err().unwrap_or_else(|| format!("taken: {text:.60}"));
            assert!(why.contains(word), "{word}: {why}");
        }
    }
}
