//! Removes what no snapshot needs any more.
//!
//! Only the partition's owner collects, after a commit that followed its newest snapshot: a former owner cannot commit.
//! A part is removed when no kept snapshot names it and it is older than all of them. What another owner may be writing
//! meanwhile is newer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tracing::{debug, warn};

use super::transfer::PIECES;
use super::{SnapshotError, decode, in_order};
use crate::store::{ANSWERS_WITHIN, WRITES_WITHIN, within};
use keepwell_core::offset::NextOffset;

/// Objects that each snapshot names, by the path of the snapshot. Contains snapshots that this process wrote or read.
pub(super) type Named = BTreeMap<Path, BTreeSet<String>>;

/// Removes all snapshots of a folder except the newest `keep`, and the parts that none of these names.
pub(super) async fn collect(store: Arc<dyn ObjectStore>, folder: Path, keep: usize, named: Arc<Mutex<Named>>) {
    match remove(&*store, &folder, keep, &named).await {
        Ok(0) => {}
        Ok(num_removed) => debug!(%folder, num_removed, "snapshots and parts that nothing needs are removed"),
        Err(error) => warn!(%folder, %error, "what snapshots no longer need was not removed; it is looked for again"),
    }
}

async fn remove(
    store: &dyn ObjectStore,
    folder: &Path,
    keep: usize,
    named: &Mutex<Named>,
) -> Result<usize, SnapshotError> {
    let listing = within(ANSWERS_WITHIN, store.list_with_delimiter(Some(folder))).await?;
    let snapshots = in_order(listing.objects.into_iter().map(|object| object.location));
    let (old, kept) = snapshots.split_at(snapshots.len().saturating_sub(keep));
    for (_, path) in old {
        delete(store, path).await?;
        named.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }
    let Some((oldest, _)) = kept.first() else { return Ok(old.len()) };
    let mut needed = BTreeSet::new();
    for (_, path) in kept {
        needed.extend(names_of(store, path, named).await?);
    }
    let parts = within(ANSWERS_WITHIN, store.list_with_delimiter(Some(&folder.clone().join(PIECES)))).await?.objects;
    let mut num_removed = old.len();
    for part in parts {
        let Some(object) = part.location.filename() else { continue };
        if part_next(object).is_some_and(|next| next < *oldest) && !needed.contains(object) {
            delete(store, &part.location).await?;
            num_removed += 1;
        }
    }
    Ok(num_removed)
}

/// The objects that a snapshot names. If it cannot be read we do not know what is needed, so this is an error.
async fn names_of(
    store: &dyn ObjectStore,
    path: &Path,
    named: &Mutex<Named>,
) -> Result<BTreeSet<String>, SnapshotError> {
    if let Some(names) = named.lock().unwrap_or_else(PoisonError::into_inner).get(path) {
        return Ok(names.clone());
    }
    let bytes = within(WRITES_WITHIN, async { store.get(path).await?.bytes().await }).await?;
    let names: BTreeSet<String> = decode(&bytes)?.0.names.into_values().collect();
    named.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone(), names.clone());
    Ok(names)
}

/// The next offset of the snapshot for which a part was written.
fn part_next(object: &str) -> Option<NextOffset> {
    object.split_once('-')?.0.parse().ok().map(NextOffset)
}

async fn delete(store: &dyn ObjectStore, path: &Path) -> Result<(), object_store::Error> {
    match within(ANSWERS_WITHIN, store.delete(path)).await {
        Err(object_store::Error::NotFound { .. }) => Ok(()),
        deleted => deleted,
    }
}
