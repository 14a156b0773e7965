//! Snapshots: the state of one partition at one position, as a cache of the log.
//!
//! A snapshot is one object, `<stage>/<epoch>/<topic>-<partition>/<next offset, 20 digits>.snapshot`. It contains the
//! parts of the state that change all the time, and names the others. Each of these is an object in the folder `pieces`
//! beside it. It is written once, and every snapshot names it until it changes. A snapshot is skipped if it, or a part
//! it names, is damaged or foreign. The log message names it, and the snapshot before it is used.

mod format;
mod garbage;
pub mod parts;
mod transfer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::snapshot::parts::{Part, Parts, SavedRevisions, SnapshotBytes};
use crate::store::{ANSWERS_WITHIN, within};
pub use format::{Header, ONE, SnapshotError, decode, encode};
use garbage::{Named, collect};
use keepwell_core::offset::{NextOffset, Position, TopicPartition};
use transfer::{Content, read, write};

/// Time limit for a snapshot that is written synchronously.
const AT_ONCE: Duration = Duration::from_secs(60);

/// A settled part that is written.
#[derive(Debug, Clone)]
struct Written {
    revision: u64,
    /// Name of its object in the store.
    object: String,
    num_bytes: usize,
}

/// The written settled parts of a partition, by name.
type WrittenParts = BTreeMap<String, Written>;

/// A snapshot that is being written.
struct Upload {
    partition: TopicPartition,
    folder: Path,
    task: JoinHandle<Result<(), SnapshotError>>,
    /// The parts it names once it is written. None if the partition was released meanwhile: a restored state counts its
    /// revisions from 0 again.
    names: Option<WrittenParts>,
}

/// The store of all snapshots. Uploads run in parallel to the loop.
pub struct Snapshots {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    runtime: Runtime,
    keep: usize,
    is_beside: bool,
    uploads: Vec<Upload>,
    /// The parts that the newest snapshot of each partition names, among those that this process read or wrote.
    written: BTreeMap<TopicPartition, WrittenParts>,
    /// Partitions with an upload that ended since the last call, and whether it succeeded.
    ended: Vec<(TopicPartition, bool)>,
    /// Folders of partitions with a snapshot newer than the last garbage collection.
    uncollected: BTreeMap<TopicPartition, Path>,
    named: Arc<Mutex<Named>>,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Snapshots below `url` (see [`crate::store::parse`]). The newest `keep` of each partition are kept.
    ///
    /// # Errors
    /// [`SnapshotError::Url`] when the URL is invalid or its folder cannot be made.
    pub fn open(url: &str, keep: usize) -> Result<Self, SnapshotError> {
        let (store, prefix) = crate::store::parse(url, &BTreeMap::new())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("snapshots")
            .enable_all()
            .build()
            .map_err(SnapshotError::Runtime)?;
        Ok(Self::new(store, prefix, runtime, keep, true))
    }

    /// Snapshots in an existing store. Each is written before the loop continues; for simulations.
    ///
    /// # Errors
    /// [`SnapshotError::Runtime`] when no runtime can be started.
    pub fn at_once(store: Arc<dyn ObjectStore>, keep: usize) -> Result<Self, SnapshotError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        Ok(Self::new(store, Path::default(), runtime.map_err(SnapshotError::Runtime)?, keep, false))
    }

    fn new(store: Arc<dyn ObjectStore>, prefix: Path, runtime: Runtime, keep: usize, is_beside: bool) -> Self {
        Self {
            store,
            prefix,
            runtime,
            keep,
            is_beside,
            uploads: Vec::new(),
            written: BTreeMap::new(),
            ended: Vec::new(),
            uncollected: BTreeMap::new(),
            named: Arc::default(),
        }
    }

    fn folder(&self, stage: &str, epoch: u32, partition: &TopicPartition) -> Path {
        let mut path = self.prefix.clone();
        for part in [stage.to_owned(), epoch.to_string(), partition.to_string()] {
            path = path.join(part);
        }
        path
    }

    /// Paths and next offsets of a partition's snapshots, oldest first.
    fn list(&self, folder: &Path) -> Result<Vec<(NextOffset, Path)>, SnapshotError> {
        let listing = self.store.list_with_delimiter(Some(folder));
        let listing = self.runtime.block_on(within(ANSWERS_WITHIN, listing))?;
        Ok(in_order(listing.objects.into_iter().map(|object| object.location)))
    }

    /// Whether a partition has any snapshot, usable or not.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] when the store cannot be listed.
    pub fn exist(&self, stage: &str, epoch: u32, partition: &TopicPartition) -> Result<bool, SnapshotError> {
        // A snapshot at offset 0 contains nothing.
        Ok(self.list(&self.folder(stage, epoch, partition))?.iter().any(|(next, _)| *next > NextOffset(0)))
    }

    /// The newest usable snapshot at or below `committed`: its position and the state.
    ///
    /// # Errors
    /// [`SnapshotError::Store`] when the store cannot be listed or read. A damaged snapshot is not an error: the log
    /// names it, and the one before it is used.
    pub fn newest(
        &mut self,
        stage: &str,
        epoch: u32,
        partition: &TopicPartition,
        committed: Position,
    ) -> Result<Option<(Position, SnapshotBytes)>, SnapshotError> {
        let folder = self.folder(stage, epoch, partition);
        self.forget(partition);
        for (next, path) in self.list(&folder)?.into_iter().rev().filter(|(next, _)| *next <= committed.next) {
            let is_of_it = |header: &Header| {
                header.stage == stage
                    && header.epoch == epoch
                    && (&*header.topic, header.partition) == (&*partition.topic, partition.partition)
            };
            match self.runtime.block_on(read(&*self.store, &folder, &path, is_of_it)) {
                Ok((header, state, written)) if header.next == next => {
                    self.written.insert(partition.clone(), written);
                    return Ok(Some((Position::at(next), state)));
                }
                Ok((header, ..)) => warn!(%path, ?header, "passed over a snapshot that is of something else"),
                Err(SnapshotError::Store(error)) => return Err(error.into()),
                Err(error) => warn!(%path, %error, "passed over a snapshot"),
            }
        }
        Ok(None)
    }

    /// Revisions of the settled parts that the newest snapshot of a partition names.
    pub fn known(&self, partition: &TopicPartition) -> SavedRevisions {
        let written = self.written.get(partition).into_iter().flatten();
        written.map(|(name, written)| (name.clone(), written.revision)).collect()
    }

    /// Whether a snapshot of a partition is still being written.
    pub fn is_busy(&mut self, partition: &TopicPartition) -> bool {
        self.reap();
        self.uploads.iter().any(|upload| upload.partition == *partition)
    }

    /// Partitions with an upload that ended since the last call, and whether it succeeded.
    pub fn take_ended(&mut self) -> Vec<(TopicPartition, bool)> {
        self.reap();
        std::mem::take(&mut self.ended)
    }

    /// Starts to write a snapshot: first its new parts, then the object that names them. Returns the size of the whole
    /// state in bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Part`] when a part has no bytes and was not written before. A failed upload is not an error,
    /// because the topics still contain everything. The log and [`Snapshots::take_ended`] report it.
    pub fn put(&mut self, header: Header, parts: Parts) -> Result<usize, SnapshotError> {
        let partition = TopicPartition::new(header.topic.as_str(), header.partition);
        let before = self.written.get(&partition);
        let (mut changing, mut new, mut names) = (SnapshotBytes::new(), Vec::new(), WrittenParts::new());
        for (name, part) in parts {
            match part {
                Part::Changing(bytes) => drop(changing.insert(name, bytes)),
                Part::Settled { revision, bytes: Some(bytes) } => {
                    let object = format!("{:020}-{name}-{:08x}.part", header.next.0, crc32fast::hash(&bytes));
                    names.insert(name.clone(), Written { revision, object: object.clone(), num_bytes: bytes.len() });
                    new.push((name, object, bytes));
                }
                Part::Settled { revision, bytes: None } => {
                    let written = before.and_then(|before| before.get(&name)).filter(|old| old.revision == revision);
                    let missing =
                        || SnapshotError::Part { name: name.clone(), why: "neither given nor written".into() };
                    names.insert(name.clone(), written.cloned().ok_or_else(missing)?);
                }
            }
        }
        let num_bytes = changing.values().map(Vec::len).chain(names.values().map(|part| part.num_bytes)).sum();
        let folder = self.folder(&header.stage, header.epoch, &partition);
        let objects = names.iter().map(|(name, part)| (name.clone(), part.object.clone())).collect();
        let header = Header { names: objects, ..header };
        let (store, named) = (Arc::clone(&self.store), Arc::clone(&self.named));
        let task = self.runtime.spawn(write(store, folder.clone(), Content { header, changing, new }, named));
        self.uploads.push(Upload { partition, folder, task, names: Some(names) });
        if !self.is_beside {
            self.finish(AT_ONCE);
        }
        Ok(num_bytes)
    }

    /// Waits for running uploads, at most `limit` for each.
    pub fn finish(&mut self, limit: Duration) {
        for mut upload in std::mem::take(&mut self.uploads) {
            let waited = self.runtime.block_on(async { tokio::time::timeout(limit, &mut upload.task).await });
            let ended = waited.map_err(|_| "timed out".to_owned()).and_then(|r| r.map_err(|e| e.to_string()));
            self.end(upload, ended);
        }
    }

    fn reap(&mut self) {
        for mut upload in std::mem::take(&mut self.uploads) {
            if upload.task.is_finished() {
                let ended = self.runtime.block_on(&mut upload.task).map_err(|e| e.to_string());
                self.end(upload, ended);
            } else {
                self.uploads.push(upload);
            }
        }
    }

    fn end(&mut self, upload: Upload, ended: Result<Result<(), SnapshotError>, String>) {
        let Upload { partition, folder, names, .. } = upload;
        let why = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(why) => Some(why),
        };
        if let Some(why) = &why {
            warn!(%partition, why, "a snapshot was not written; it will be tried again");
        }
        let Some(names) = names else { return };
        if why.is_none() {
            self.written.insert(partition.clone(), names);
            self.uncollected.insert(partition.clone(), folder);
        }
        self.ended.push((partition, why.is_none()));
    }

    /// Called after a commit. Removes what is not needed since the snapshots that were written before it.
    pub fn committed(&mut self) {
        for folder in std::mem::take(&mut self.uncollected).into_values() {
            let collecting = collect(Arc::clone(&self.store), folder, self.keep, Arc::clone(&self.named));
            if self.is_beside {
                // The task logs its own result.
                drop(self.runtime.spawn(collecting));
            } else {
                self.runtime.block_on(collecting);
            }
        }
    }

    /// Forgets a partition that is no longer owned.
    pub fn forget(&mut self, partition: &TopicPartition) {
        self.written.remove(partition);
        self.uncollected.remove(partition);
        for upload in self.uploads.iter_mut().filter(|upload| upload.partition == *partition) {
            upload.names = None;
        }
    }
}

/// Snapshot paths with the offsets from their names, oldest first. Other objects are left out.
fn in_order(paths: impl Iterator<Item = Path>) -> Vec<(NextOffset, Path)> {
    let next_of = |path: &Path| path.filename()?.strip_suffix(".snapshot")?.parse().ok().map(NextOffset);
    let mut found: Vec<_> = paths.filter_map(|path| Some((next_of(&path)?, path))).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests;
