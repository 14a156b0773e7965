//! Records in an encoding with a schema registry: a frame names a schema, and the schema says how to read the rest.
//!
//! A record becomes JSON before it is decoded. So kinds, presets and mappings work as they do for JSON.
//!
//! | first bytes | header | the schema is |
//! |---|---|---|
//! | | `__value_schema_id`: 1, then 16 bytes | the GUID of the registry |
//! | | `__value_schema_id`: 0, then four bytes | the id of the registry |
//! | 0, then four bytes, big-endian | | the id of the registry |
//! | anything else | | none: the record is JSON |
//!
//! Source: <https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>.

#[cfg(feature = "registry")]
pub mod avro;
#[cfg(feature = "registry")]
pub mod protobuf;
#[cfg(feature = "registry")]
pub mod registry;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::Arc;

use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::record::Record;

use crate::reason::{Code, Reason};

/// First byte of a record that names its schema.
const MAGIC: u8 = 0;
/// First byte of a header with a GUID.
const MAGIC_OF_GUID: u8 = 1;
/// Header that names the schema of the value.
const ID_HEADER: &str = "__value_schema_id";

/// What names a schema in its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SchemaId {
    /// Its number.
    Number(u32),
    /// Its GUID.
    Guid(u128),
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Guid(guid) => {
                let hex = format!("{guid:032x}");
                let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
                write!(f, "{a}-{b}-{c}-{d}-{e}")
            }
        }
    }
}

/// What a schema says about the bytes behind the frame.
#[derive(Debug)]
pub enum Schema {
    /// They are JSON.
    Json,
    /// They are in a binary form.
    Binary(Box<dyn Binary>),
    /// They cannot be read. The text says why.
    Unreadable(String),
}

/// A binary form, by a schema.
pub trait Binary: Debug + Send + Sync {
    /// Each body as a JSON object.
    ///
    /// # Errors
    /// A reason for a body that does not fit the schema, or has bytes behind its value.
    fn texts(&self, bodies: &[&[u8]]) -> Vec<Result<Vec<u8>, Reason>>;
}

/// What is known of a schema now.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// The schema. It never changes.
    Known(Arc<Schema>),
    /// The registry does not know the id. The text is its answer.
    Unknown(String),
    /// The registry has not answered yet.
    Awaited,
}

/// Schemas by id, as far as they are known. An implementation never waits.
pub trait Schemas: Debug + Send + Sync {
    /// What is known of a schema. `partition` waits for it until it is known.
    fn lookup(&self, id: SchemaId, partition: &TopicPartition) -> Lookup;

    /// The partitions that wait for a schema.
    fn waiting(&self) -> BTreeSet<TopicPartition>;
}

/// The values of records as JSON, or why they cannot be read.
#[derive(Debug, Default)]
pub struct Texts<'r> {
    /// In the order of the records. It ends before a record whose schema is not known yet, or when there are enough.
    pub values: Vec<Result<Option<Cow<'r, [u8]>>, Reason>>,
}

/// The schema that a record names, and the bytes that it is to read.
type Framed<'r> = (SchemaId, Cow<'r, [u8]>);

/// The schema that a record names, and the bytes that it is to read. None if the record names none.
///
/// What is behind the id in the header belongs before the value: the place of a Protobuf message.
///
/// # Errors
/// [`Code::BadFrame`] when value or header end within the frame.
fn framed<'r>(record: &'r Record, value: &'r [u8]) -> Result<Option<Framed<'r>>, Reason> {
    let bad = |what: &str, bytes: &[u8]| {
        Reason::new(Code::BadFrame, format!("{what} of {} bytes names no schema", bytes.len()))
    };
    if let Some(header) = record.header(ID_HEADER) {
        let (id, place) = named(header).ok_or_else(|| bad(ID_HEADER, header))?;
        let body = if place.is_empty() { Cow::Borrowed(value) } else { Cow::Owned([place, value].concat()) };
        return Ok(Some((id, body)));
    }
    if value.first() != Some(&MAGIC) {
        return Ok(None);
    }
    let (id, body) = named(value).ok_or_else(|| bad("a frame", value))?;
    Ok(Some((id, Cow::Borrowed(body))))
}

/// The id at the begin of these bytes, and what is behind it.
fn named(bytes: &[u8]) -> Option<(SchemaId, &[u8])> {
    let (magic, rest) = bytes.split_first()?;
    match *magic {
        MAGIC => rest.split_first_chunk().map(|(id, rest)| (SchemaId::Number(u32::from_be_bytes(*id)), rest)),
        MAGIC_OF_GUID => rest.split_first_chunk().map(|(id, rest)| (SchemaId::Guid(u128::from_be_bytes(*id)), rest)),
        _ => None,
    }
}

fn within(bytes: usize, max_bytes: usize) -> Result<(), Reason> {
    let too_large = || Reason::new(Code::Oversized, format!("{bytes} bytes; the limit is {max_bytes}"));
    if bytes > max_bytes { Err(too_large()) } else { Ok(()) }
}

/// Most bytes and most records that are read at once.
const AT_ONCE_BYTES: usize = 1 << 20;
const AT_ONCE_RECORDS: usize = 2000;
/// Bytes of texts at which no more records are read in this step. The next step goes on.
const ENOUGH_BYTES: usize = 64 << 20;

/// A record's number in its piece, and the bytes behind its frame.
type Body<'r> = (usize, Cow<'r, [u8]>);

/// Reads the values of records, up to the first one whose schema is not known yet, or until there are enough.
///
/// A record of more than `max_bytes` is refused before it is read, and so is a text.
pub fn texts<'r>(records: &'r [Record], schemas: &dyn Schemas, max_bytes: usize) -> Texts<'r> {
    let (mut texts, mut rest, mut num_bytes) = (Texts::default(), records, 0);
    while let Some((now, behind)) = rest.split_at_checked(at_once(rest)).filter(|(now, _)| !now.is_empty()) {
        let values = texts_at_once(now, schemas, max_bytes);
        let owned = values.iter().flatten().flatten().filter(|text| matches!(text, Cow::Owned(_)));
        num_bytes += owned.map(|text| text.len()).sum::<usize>();
        let is_whole = values.len() == now.len();
        texts.values.extend(values);
        rest = behind;
        if !is_whole || num_bytes > ENOUGH_BYTES {
            break;
        }
    }
    texts
}

/// How many of these records are read at once.
fn at_once(records: &[Record]) -> usize {
    let mut num_bytes = 0;
    let fits = |record: &&Record| {
        num_bytes += record.value.as_ref().map_or(0, bytes::Bytes::len);
        num_bytes <= AT_ONCE_BYTES
    };
    records.iter().take(AT_ONCE_RECORDS).take_while(fits).count().max(1).min(records.len())
}

fn texts_at_once<'r>(
    records: &'r [Record],
    schemas: &dyn Schemas,
    max_bytes: usize,
) -> Vec<Result<Option<Cow<'r, [u8]>>, Reason>> {
    let mut values = Vec::new();
    let mut binary: BTreeMap<SchemaId, (Arc<Schema>, Vec<Body<'_>>)> = BTreeMap::new();
    for record in records {
        let framed =
            record.value.as_deref().map(|value| within(value.len(), max_bytes).and_then(|()| framed(record, value)));
        let value = match framed {
            None => Ok(None),
            Some(Ok(None)) => Ok(record.value.as_deref().map(Cow::Borrowed)),
            Some(Err(reason)) => Err(reason),
            Some(Ok(Some((id, body)))) => match schemas.lookup(id, &record.topic_partition) {
                Lookup::Awaited => break,
                Lookup::Unknown(why) => Err(Reason::new(Code::UnknownSchema, format!("schema {id}: {why}"))),
                Lookup::Known(schema) => match &*schema {
                    Schema::Json => Ok(Some(body)),
                    Schema::Unreadable(why) => Err(Reason::new(Code::UnknownSchema, format!("schema {id}: {why}"))),
                    Schema::Binary(_) => {
                        let of_schema = binary.entry(id).or_insert_with(|| (Arc::clone(&schema), Vec::new()));
                        of_schema.1.push((values.len(), body));
                        Ok(None)
                    }
                },
            },
        };
        values.push(value);
    }
    for (schema, bodies) in binary.into_values() {
        let Schema::Binary(schema) = &*schema else { continue };
        let of_schema: Vec<&[u8]> = bodies.iter().map(|(_, body)| body.as_ref()).collect();
        for ((place, _), text) in bodies.iter().zip(schema.texts(&of_schema)) {
            let text = text.and_then(|text| within(text.len(), max_bytes).map(|()| text));
            values[*place] = text.map(|text| Some(Cow::Owned(text)));
        }
    }
    values
}

#[cfg(test)]
mod tests;
