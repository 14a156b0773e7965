//! Protobuf as JSON: the canonical form, with the names of the `.proto` file and 64-bit integers as numbers.
//!
//! The bytes behind a frame begin with the place of the message in its file: how many numbers follow, then the number of the
//! message and of each message within, as zigzag varints. A single zero stands for the first message. Source:
//! <https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, DynamicMessage, FileDescriptor, MessageDescriptor, SerializeOptions};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::Binary;
use crate::reason::{Code, Reason};

/// Name of the file that a schema is compiled as.
const MAIN: &str = "keepwell/schema.proto";
/// The deepest nesting of braces and brackets that is compiled.
const MAX_DEPTH: usize = 64;
/// The most numbers in the place of a message.
const MAX_PLACE: u64 = 32;

/// A schema that can be read: a file with messages.
#[derive(Debug)]
pub struct ProtobufSchema {
    file: FileDescriptor,
}

/// Files by the name under which others import them.
struct Files(BTreeMap<String, String>);

impl FileResolver for Files {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(source) => File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

impl ProtobufSchema {
    /// A schema from its text, or from its descriptor as base64, and the files that it imports, by name.
    ///
    /// # Errors
    /// Why the text cannot be read.
    pub fn new(text: &str, references: &[(String, String)]) -> Result<Self, String> {
        let mut all = references.to_vec();
        all.push((MAIN.to_owned(), text.to_owned()));
        let descriptors = all.iter().map(|(name, text)| descriptor(name, text)).collect::<Option<Vec<_>>>();
        let file = match descriptors {
            Some(descriptors) => linked(descriptors)?,
            None => compiled(all)?,
        };
        let has_messages = file.messages().len() > 0;
        if has_messages { Ok(Self { file }) } else { Err("it has no message".to_owned()) }
    }

    fn text(&self, body: &[u8]) -> Result<Vec<u8>, Reason> {
        let refused = |why: String| Reason::new(Code::NotProtobuf, why);
        let mut rest = body;
        let kind = self.message(&mut rest).map_err(refused)?;
        let name = kind.full_name().to_owned();
        let message = DynamicMessage::decode(kind, rest).map_err(|error| refused(format!("{name}: {error}")))?;
        let options = SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true);
        let mut text = Vec::new();
        let written = message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options);
        written.map_err(|error| refused(format!("{name}: {error}")))?;
        Ok(text)
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

/// A file that is given as base64 of its descriptor, as some clients register it.
fn descriptor(name: &str, text: &str) -> Option<FileDescriptorProto> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    let file = FileDescriptorProto::decode(bytes.as_slice()).ok()?;
    Some(FileDescriptorProto { name: Some(name.to_owned()), ..file })
}

fn linked(descriptors: Vec<FileDescriptorProto>) -> Result<FileDescriptor, String> {
    // It knows the files of Google.
    let mut pool = DescriptorPool::global();
    pool.add_file_descriptor_protos(descriptors).map_err(|error| error.to_string())?;
    pool.get_file_by_name(MAIN).ok_or_else(|| "it has no file".to_owned())
}

fn compiled(files: Vec<(String, String)>) -> Result<FileDescriptor, String> {
    for (name, text) in &files {
        // The compiler descends into each of them on the stack.
        if depth(text) > MAX_DEPTH {
            return Err(format!("{name} is nested deeper than {MAX_DEPTH} times"));
        }
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(Files(files.into_iter().collect()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file(MAIN).map_err(|error| error.to_string())?;
    let pool = compiler.descriptor_pool();
    pool.get_file_by_name(MAIN).ok_or_else(|| "it has no file".to_owned())
}

/// The deepest nesting of braces, brackets and angles. Texts and comments count, too: a file that quotes so many is refused.
fn depth(text: &str) -> usize {
    let mut depths = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'<' | b'(' => depths = (depths.0 + 1, depths.1.max(depths.0 + 1)),
            b'}' | b']' | b'>' | b')' => depths.0 = depths.0.saturating_sub(1),
            _ => {}
        }
    }
    depths.1
}

impl Binary for ProtobufSchema {
    fn texts(&self, bodies: &[&[u8]]) -> Vec<Result<Vec<u8>, Reason>> {
        bodies.iter().map(|body| self.text(body)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            r#"{"event_id":"e1","account_id":"acme","feature":"EXPORT","occurred_at":"2026-03-01T10:00:00Z","count":2,"lines":[{"sku":"s1"}],"plan":{"name":"pro"},"raw":"/w=="}"#
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
            (deep.as_str(), "nested deeper"),
        ] {
            let why = ProtobufSchema::new(text, &[]).unwrap_err();
            assert!(why.contains(word), "{word}: {why}");
        }
    }
}
