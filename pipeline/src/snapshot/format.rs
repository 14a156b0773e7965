//! The bytes of an object: magic, format version, a JSON header, the zstd-compressed body, and a CRC-32 of all bytes
//! before it.

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::snapshot::parts::SnapshotBytes;
use keepwell_core::offset::NextOffset;

const MAGIC: &[u8; 8] = b"KEEPWELL";
const FORMAT: u16 = 2;
/// The older format. The whole state is one part without a name.
const FORMAT_OF_ONE: u16 = 1;
const ZSTD_LEVEL: i32 = 1;

/// Name given to the only part of a snapshot in format 1.
pub const ONE: &str = "state";

/// What an object contains, and of which partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Stage that folded the state.
    pub stage: String,
    /// Epoch of the topics.
    pub epoch: u32,
    /// Topic that the stage reads.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// The state is the fold of all records below this offset.
    pub next: NextOffset,
    /// Names and lengths in bytes of the parts in the body, in order.
    #[serde(default)]
    pub holds: Vec<(String, usize)>,
    /// Parts in other objects: from the name of the part to the name of its object in the folder of parts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
}

/// Why bytes cannot be used as a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are not a snapshot, or are damaged.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// The format is newer, or not ours.
    #[error("format {0}, this program reads {FORMAT_OF_ONE} to {FORMAT}; run the version of Keepwell that wrote it")]
    ForeignFormat(u16),
    /// A part that a snapshot names is not what was written.
    #[error("part {name}: {why}")]
    Part {
        /// Name of its object.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The object store failed.
    #[error("object store: {0}; check snapshots.url and the store's credentials")]
    Store(#[from] object_store::Error),
    /// The URL is invalid.
    #[error("snapshots.url: {0}")]
    Url(#[from] crate::store::StoreError),
    /// The threads that write snapshots cannot be started.
    #[error("starting the threads that write snapshots: {0}")]
    Runtime(std::io::Error),
}

/// Encodes these parts as an object. Computes `header.holds` from them.
///
/// # Errors
/// [`SnapshotError::Damaged`] when they cannot be compressed.
pub fn encode(header: &Header, parts: &SnapshotBytes) -> Result<Vec<u8>, SnapshotError> {
    let holds = parts.iter().map(|(name, bytes)| (name.clone(), bytes.len())).collect();
    let header = Header { holds, ..header.clone() };
    let header = serde_json::to_vec(&header).map_err(|_| SnapshotError::Damaged("header"))?;
    let content: Vec<u8> = parts.values().flatten().copied().collect();
    let body = zstd::bulk::compress(&content, ZSTD_LEVEL).map_err(|_| SnapshotError::Damaged("compression"))?;
    let mut bytes = Vec::with_capacity(header.len() + body.len() + 32);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    Ok(bytes)
}

/// Decodes the header and the parts of an object.
///
/// # Errors
/// [`SnapshotError`] when the bytes are damaged or have another format.
pub fn decode(bytes: &[u8]) -> Result<(Header, SnapshotBytes), SnapshotError> {
    let damaged = SnapshotError::Damaged;
    let (content, checksum) = bytes.split_last_chunk::<4>().ok_or(damaged("too short"))?;
    let rest = content.strip_prefix(MAGIC).ok_or(damaged("not a snapshot"))?;
    let (format, rest) = rest.split_first_chunk::<2>().ok_or(damaged("too short"))?;
    let format = u16::from_le_bytes(*format);
    if !(FORMAT_OF_ONE..=FORMAT).contains(&format) {
        return Err(SnapshotError::ForeignFormat(format));
    }
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(damaged("checksum differs"));
    }
    let (header_len, rest) = rest.split_first_chunk::<4>().ok_or(damaged("too short"))?;
    let (header, rest) = rest.split_at_checked(u32::from_le_bytes(*header_len) as usize).ok_or(damaged("too short"))?;
    let header: Header = serde_json::from_slice(header).map_err(|_| damaged("header"))?;
    let (len, body) = rest.split_first_chunk::<8>().ok_or(damaged("too short"))?;
    let content = unpacked(body, u64::from_le_bytes(*len)).ok_or(damaged("body"))?;
    if format == FORMAT_OF_ONE {
        return Ok((header, SnapshotBytes::from([(ONE.to_owned(), content)])));
    }
    let mut rest = content.as_slice();
    let mut parts = SnapshotBytes::new();
    for (name, len) in &header.holds {
        let (bytes, behind) = rest.split_at_checked(*len).ok_or(damaged("pieces"))?;
        parts.insert(name.clone(), bytes.to_vec());
        rest = behind;
    }
    Ok((header, parts))
}

/// Decompresses the body, which must have exactly this length. The buffer grows while reading, so that a damaged length
/// does not allocate memory.
fn unpacked(body: &[u8], len: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let mut reader = zstd::Decoder::new(body).ok()?.take(len.saturating_add(1));
    reader.read_to_end(&mut content).ok()?;
    (content.len() as u64 == len).then_some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_is_not_that_of_the_content_is_damage_and_asks_for_no_memory() {
        let body = zstd::bulk::compress(b"content", 1).unwrap();
        assert_eq!(unpacked(&body, 7).as_deref(), Some(&b"content"[..]));
        for len in [0, 6, 8, 1 << 62, u64::MAX] {
            assert_eq!(unpacked(&body, len), None, "{len}");
        }
    }

    #[test]
    fn an_object_survives_and_every_damaged_byte_is_noticed() {
        let header = Header {
            stage: "aggregate".into(),
            epoch: 1,
            topic: "events".into(),
            partition: 3,
            next: NextOffset(7),
            holds: vec![("a".into(), 3), ("b".into(), 0)],
            names: [("rests".to_owned(), "0-rests.part".to_owned())].into(),
        };
        let parts = SnapshotBytes::from([("a".to_owned(), b"one".to_vec()), ("b".to_owned(), Vec::new())]);
        let bytes = encode(&header, &parts).unwrap();
        assert_eq!(decode(&bytes).unwrap(), (header, parts));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(decode(&damaged).is_err(), "byte {at}");
        }
    }
}
