//! Reads snapshots from the store and writes them to it.

use std::sync::{Arc, Mutex, PoisonError};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tracing::info;

use super::garbage::Named;
use super::{Header, SnapshotError, Written, WrittenParts, decode, encode};
use crate::crash_points::{self, CrashPoint};
use crate::snapshot::parts::SnapshotBytes;
use crate::store::{WRITES_WITHIN, within};

/// The folder of the parts, beside the snapshots that name them.
pub(super) const PIECES: &str = "pieces";

/// Reads a snapshot and all parts that it names.
///
/// # Errors
/// [`SnapshotError::Store`] when the store does not answer. Any other error concerns the snapshot itself.
pub(super) async fn read(
    store: &dyn ObjectStore,
    folder: &Path,
    path: &Path,
    is_of_it: impl Fn(&Header) -> bool,
) -> Result<(Header, SnapshotBytes, WrittenParts), SnapshotError> {
    let (header, mut state) = decode(&get(store, path).await?)?;
    if !is_of_it(&header) {
        return Err(SnapshotError::Damaged("of another partition, stage or epoch"));
    }
    let mut written = WrittenParts::new();
    for (name, object) in &header.names {
        let wrong = |why: String| SnapshotError::Part { name: object.clone(), why };
        let bytes = match get(store, &folder.clone().join(PIECES).join(object.as_str())).await {
            Err(object_store::Error::NotFound { .. }) => return Err(wrong("it is not there".into())),
            got => got?,
        };
        let (of, mut held) = decode(&bytes).map_err(|error| wrong(error.to_string()))?;
        let part =
            held.remove(name).filter(|_| is_of_it(&of)).ok_or_else(|| wrong("it is of something else".into()))?;
        // The state begins with what was read, so nothing has changed yet.
        written.insert(name.clone(), Written { revision: 0, object: object.clone(), num_bytes: part.len() });
        state.insert(name.clone(), part);
    }
    Ok((header, state, written))
}

async fn get(store: &dyn ObjectStore, path: &Path) -> Result<bytes::Bytes, object_store::Error> {
    within(WRITES_WITHIN, async { store.get(path).await?.bytes().await }).await
}

/// What is written for a snapshot.
pub(super) struct Content {
    /// Header that names the objects of the settled parts.
    pub header: Header,
    /// Parts that are written with every snapshot.
    pub changing: SnapshotBytes,
    /// New settled parts: name, object name, bytes.
    pub new: Vec<(String, String, Vec<u8>)>,
}

/// Writes the new parts and, when all of them exist, the snapshot that names them.
///
/// # Errors
/// [`SnapshotError`] when the store fails to write one of them.
pub(super) async fn write(
    store: Arc<dyn ObjectStore>,
    folder: Path,
    content: Content,
    named: Arc<Mutex<Named>>,
) -> Result<(), SnapshotError> {
    let Content { header, changing, new } = content;
    let mut num_bytes = 0;
    let num_new = new.len();
    for (name, object, part) in new {
        let of = Header { names: Default::default(), ..header.clone() };
        let bytes = encode(&of, &SnapshotBytes::from([(name, part)]))?;
        num_bytes += bytes.len();
        within(WRITES_WITHIN, store.put(&folder.clone().join(PIECES).join(object), PutPayload::from(bytes))).await?;
        crash_points::here(CrashPoint::InSnapshot);
    }
    let path = folder.join(format!("{:020}.snapshot", header.next.0));
    let bytes = encode(&header, &changing)?;
    num_bytes += bytes.len();
    crash_points::here(CrashPoint::BeforeSnapshot);
    within(WRITES_WITHIN, store.put(&path, PutPayload::from(bytes))).await?;
    info!(%path, num_bytes, num_new, num_parts = header.names.len(), "snapshot written");
    let objects = header.names.into_values().collect();
    named.lock().unwrap_or_else(PoisonError::into_inner).insert(path, objects);
    crash_points::here(CrashPoint::AfterSnapshot);
    Ok(())
}
