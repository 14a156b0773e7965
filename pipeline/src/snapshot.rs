//! Snapshots: the state of one partition at one position, as a cache of the log.
//!
//! A snapshot is one object, `<stage>/<epoch>/<topic>-<partition>/<next offset, 20 digits>.snapshot`:
//! magic, format version, a JSON header that says of what it is, the zstd-compressed state and a CRC-32
//! of everything before. A damaged or foreign object is passed over by name and the one before is taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::crash::{self, Place};
use crate::offset::{NextOffset, Position, TopicPartition};
use crate::store::{ANSWERS_WITHIN, WRITES_WITHIN, within};

const MAGIC: &[u8; 8] = b"KEEPWELL";
const FORMAT: u16 = 1;
const ZSTD_LEVEL: i32 = 1;
/// How long a snapshot that is written at once may take.
const AT_ONCE: Duration = Duration::from_secs(60);

/// Of what a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Stage that folded the state.
    pub stage: String,
    /// Epoch of the log.
    pub epoch: u32,
    /// Topic the stage reads.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// The state is the fold of all records below this offset.
    pub next: NextOffset,
}

/// Why bytes are no snapshot of ours.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are not a snapshot, or damaged.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// A newer or foreign format.
    #[error("format {0}, this program reads {FORMAT}; run the version of Keepwell that wrote it")]
    ForeignFormat(u16),
    /// The object store cannot be used.
    #[error("object store: {0}; check snapshots.url and the store's credentials")]
    Store(#[from] object_store::Error),
    /// The URL is not understood.
    #[error("snapshots.url: {0}")]
    Place(#[from] crate::store::StoreError),
    /// The threads that write snapshots cannot be started.
    #[error("starting the threads that write snapshots: {0}")]
    Runtime(std::io::Error),
}

/// The bytes of a snapshot.
///
/// # Errors
/// [`SnapshotError::Damaged`] when the state cannot be compressed.
pub fn encode(header: &Header, state: &[u8]) -> Result<Vec<u8>, SnapshotError> {
    let header = serde_json::to_vec(header).map_err(|_| SnapshotError::Damaged("header"))?;
    let body = zstd::bulk::compress(state, ZSTD_LEVEL).map_err(|_| SnapshotError::Damaged("compression"))?;
    let mut bytes = Vec::with_capacity(header.len() + body.len() + 32);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(header.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&(state.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    Ok(bytes)
}

/// Header and state of a snapshot.
///
/// # Errors
/// [`SnapshotError`] when the bytes are damaged or of another format.
pub fn decode(bytes: &[u8]) -> Result<(Header, Vec<u8>), SnapshotError> {
    let damaged = SnapshotError::Damaged;
    let (content, checksum) = bytes.split_last_chunk::<4>().ok_or(damaged("too short"))?;
    let rest = content.strip_prefix(MAGIC).ok_or(damaged("not a snapshot"))?;
    let (format, rest) = rest.split_first_chunk::<2>().ok_or(damaged("too short"))?;
    let format = u16::from_le_bytes(*format);
    if format != FORMAT {
        return Err(SnapshotError::ForeignFormat(format));
    }
    if crc32fast::hash(content) != u32::from_le_bytes(*checksum) {
        return Err(damaged("checksum differs"));
    }
    let (header_len, rest) = rest.split_first_chunk::<4>().ok_or(damaged("too short"))?;
    let (header, rest) = rest.split_at_checked(u32::from_le_bytes(*header_len) as usize).ok_or(damaged("too short"))?;
    let header = serde_json::from_slice(header).map_err(|_| damaged("header"))?;
    let (state_len, body) = rest.split_first_chunk::<8>().ok_or(damaged("too short"))?;
    let state = zstd::bulk::decompress(body, u64::from_le_bytes(*state_len) as usize).map_err(|_| damaged("body"))?;
    Ok((header, state))
}

/// Where snapshots are kept. Uploads run beside the loop.
pub struct Snapshots {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    runtime: Runtime,
    keep: usize,
    is_beside: bool,
    uploads: Vec<(TopicPartition, JoinHandle<Result<(), SnapshotError>>)>,
    failed: Vec<TopicPartition>,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Snapshots below `url` (see [`crate::store::parse`]), the newest `keep` of each partition.
    ///
    /// # Errors
    /// [`SnapshotError::Place`] when the URL is not understood or its folder cannot be made.
    pub fn open(url: &str, keep: usize) -> Result<Self, SnapshotError> {
        let (store, prefix) = crate::store::parse(url, &BTreeMap::new())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("snapshots")
            .enable_all()
            .build()
            .map_err(SnapshotError::Runtime)?;
        Ok(Self { store, prefix, runtime, keep, is_beside: true, uploads: Vec::new(), failed: Vec::new() })
    }

    /// Snapshots in a store that is at hand, each written before the loop goes on: for simulations.
    ///
    /// # Errors
    /// [`SnapshotError::Runtime`] when there is no runtime to be had.
    pub fn at_once(store: Arc<dyn ObjectStore>, keep: usize) -> Result<Self, SnapshotError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(SnapshotError::Runtime)?;
        let prefix = Path::default();
        Ok(Self { store, prefix, runtime, keep, is_beside: false, uploads: Vec::new(), failed: Vec::new() })
    }

    fn folder(&self, stage: &str, epoch: u32, partition: &TopicPartition) -> Path {
        let mut path = self.prefix.clone();
        for part in [stage.to_owned(), epoch.to_string(), partition.to_string()] {
            path = path.join(part);
        }
        path
    }

    /// Paths of a partition's snapshots and their next offsets, oldest first.
    fn list(&self, folder: &Path) -> Result<Vec<(NextOffset, Path)>, SnapshotError> {
        let listing = self.store.list_with_delimiter(Some(folder));
        let listing = self.runtime.block_on(within(ANSWERS_WITHIN, listing))?;
        Ok(in_order(listing.objects.into_iter().map(|object| object.location)))
    }

    /// Whether a partition has any snapshot, good or not.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] when the store cannot be listed.
    pub fn exist(&self, stage: &str, epoch: u32, partition: &TopicPartition) -> Result<bool, SnapshotError> {
        // One at the very beginning holds nothing.
        Ok(self.list(&self.folder(stage, epoch, partition))?.iter().any(|(next, _)| *next > NextOffset(0)))
    }

    /// The newest good snapshot at or below `committed`: its position and the state.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] when the store cannot be listed or read. A damaged snapshot is no error:
    /// it is named in the log and the one before is taken.
    pub fn newest(
        &self,
        stage: &str,
        epoch: u32,
        partition: &TopicPartition,
        committed: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, SnapshotError> {
        let folder = self.folder(stage, epoch, partition);
        for (next, path) in self.list(&folder)?.into_iter().rev().filter(|(next, _)| *next <= committed.next) {
            let read = async { self.store.get(&path).await?.bytes().await };
            let bytes = self.runtime.block_on(within(WRITES_WITHIN, read))?;
            match decode(&bytes) {
                Ok((header, state)) if header.stage == stage && header.epoch == epoch && header.next == next => {
                    return Ok(Some((Position::at(next), state)));
                }
                Ok((header, _)) => warn!(%path, ?header, "passed over a snapshot that is of something else"),
                Err(error) => warn!(%path, %error, "passed over a snapshot"),
            }
        }
        Ok(None)
    }

    /// Whether a snapshot of a partition is still being written.
    pub fn is_busy(&mut self, partition: &TopicPartition) -> bool {
        self.reap();
        self.uploads.iter().any(|(uploading, _)| uploading == partition)
    }

    /// Partitions whose snapshot was not written since this was last asked.
    pub fn take_failed(&mut self) -> Vec<TopicPartition> {
        self.reap();
        std::mem::take(&mut self.failed)
    }

    /// Starts to write a snapshot, and removes old ones behind it.
    ///
    /// # Errors
    /// [`SnapshotError`] when the bytes cannot be made. A failed upload is named in the log and by
    /// [`Snapshots::take_failed`]: the log still has everything.
    pub fn put(&mut self, header: &Header, state: &[u8]) -> Result<(), SnapshotError> {
        let partition = TopicPartition::new(header.topic.as_str(), header.partition);
        let bytes = encode(header, state)?;
        let folder = self.folder(&header.stage, header.epoch, &partition);
        let path = folder.clone().join(format!("{:020}.snapshot", header.next.0));
        let (store, keep, num_bytes) = (Arc::clone(&self.store), self.keep, bytes.len());
        let upload = async move {
            crash::here(Place::BeforeSnapshot);
            store.put(&path, PutPayload::from(bytes)).await?;
            info!(%path, num_bytes, "snapshot written");
            crash::here(Place::AfterSnapshot);
            let listing = store.list_with_delimiter(Some(&folder)).await?;
            let paths = in_order(listing.objects.into_iter().map(|object| object.location));
            for (_, old) in paths.iter().rev().skip(keep) {
                store.delete(old).await?;
            }
            Ok(())
        };
        self.uploads.push((partition, self.runtime.spawn(upload)));
        if !self.is_beside {
            self.finish(AT_ONCE);
        }
        Ok(())
    }

    /// Waits for the uploads under way, for at most `limit`.
    pub fn finish(&mut self, limit: Duration) {
        for (partition, upload) in std::mem::take(&mut self.uploads) {
            let waited = self.runtime.block_on(async { tokio::time::timeout(limit, upload).await });
            let ended = waited.map_err(|_| "timed out".to_owned()).and_then(|r| r.map_err(|e| e.to_string()));
            if !report(&partition, ended) {
                self.failed.push(partition);
            }
        }
    }

    fn reap(&mut self) {
        for (partition, upload) in std::mem::take(&mut self.uploads) {
            if upload.is_finished() {
                if !report(&partition, self.runtime.block_on(upload).map_err(|e| e.to_string())) {
                    self.failed.push(partition);
                }
            } else {
                self.uploads.push((partition, upload));
            }
        }
    }
}

/// Whether it was written; says so where not.
fn report(partition: &TopicPartition, result: Result<Result<(), SnapshotError>, String>) -> bool {
    let why = match result {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => error.to_string(),
        Err(why) => why,
    };
    warn!(%partition, why, "a snapshot was not written; it will be tried again");
    false
}

/// Snapshot paths with the offsets in their names, oldest first; other objects are left out.
fn in_order(paths: impl Iterator<Item = Path>) -> Vec<(NextOffset, Path)> {
    let next_of = |path: &Path| path.filename()?.strip_suffix(".snapshot")?.parse().ok().map(NextOffset);
    let mut found: Vec<_> = paths.filter_map(|path| Some((next_of(&path)?, path))).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(next: i64) -> Header {
        Header { stage: "aggregate".into(), epoch: 1, topic: "events".into(), partition: 3, next: NextOffset(next) }
    }

    #[test]
    fn a_snapshot_survives_and_every_damaged_byte_is_noticed() {
        let bytes = encode(&header(7), b"the state").unwrap();
        assert_eq!(decode(&bytes).unwrap(), (header(7), b"the state".to_vec()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(decode(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_newest_good_snapshot_at_or_below_the_position_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let mut snapshots = Snapshots::open(&url, 3).unwrap();
        for next in [10, 20, 30, 40] {
            snapshots.put(&header(next), format!("state {next}").as_bytes()).unwrap();
            snapshots.finish(Duration::from_secs(10));
        }
        let partition = TopicPartition::new("events", 3);
        let newest = |committed| {
            let found = snapshots.newest("aggregate", 1, &partition, Position::at(NextOffset(committed))).unwrap();
            found.map(|(position, state)| (position.next.0, String::from_utf8(state).unwrap()))
        };
        assert_eq!(newest(39), Some((30, "state 30".into())));
        assert_eq!(newest(15), None, "only the newest three are kept");
        let damaged = folder.path().join("aggregate/1/events-3").join(format!("{:020}.snapshot", 40));
        std::fs::write(damaged, b"half a fi").unwrap();
        assert_eq!(newest(50), Some((30, "state 30".into())));
    }
}
