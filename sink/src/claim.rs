//! Claims decide who writes which range. A writer claims a range before it writes it, and nobody cuts that range again.
//!
//! The object `_claims/<source>/<epoch>/<partition>/<first, 20 digits>` contains the end, the files and the writer.
//! It is created only if absent. When two writers cut a range at the same first record, one finds the claim of the
//! other and adopts it.
//! A writer finishes a claim before it makes the next one, so only the newest claim can be unfinished.

use keepwell_core::offset::NextOffset;
use keepwell_pipeline::store::{Objects, StoreError};
use serde::{Deserialize, Serialize};

use crate::range_files::{File, Range, Source};

/// Content of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Offset of the first record.
    pub first: NextOffset,
    /// Next offset: behind the last record.
    pub end: NextOffset,
    /// The file names, sorted.
    pub files: Vec<String>,
    /// Instance that made the claim; only for people.
    pub writer: String,
}

/// Why a claim cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The content of the claim is not valid.
    #[error("claim {name}: {why}; was it written by another program? Restore it, or put the tables into a new place")]
    Foreign {
        /// Name of the claim.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

fn folder(source: Source, epoch: u32, partition: i32) -> String {
    format!("_claims/{}/{epoch}/{partition}", source.name())
}

fn name(range: Range) -> String {
    format!("{}/{:020}", folder(range.source, range.epoch, range.partition), range.first.0)
}

fn read(store: &dyn Objects, name: &str) -> Result<Claim, ClaimError> {
    let content = store.get(name)?;
    let foreign = |why: String| ClaimError::Foreign { name: name.to_owned(), why };
    let claim: Claim = serde_json::from_slice(&content).map_err(|error| foreign(error.to_string()))?;
    if claim.end <= claim.first || !name.ends_with(&format!("{:020}", claim.first.0)) {
        return Err(foreign(format!("its range is {} to {}", claim.first, claim.end)));
    }
    Ok(claim)
}

/// The newest claim of a partition, and whether all its files exist.
///
/// # Errors
/// [`ClaimError`] when the store does not answer or the claim is foreign.
pub fn newest(
    store: &dyn Objects,
    source: Source,
    epoch: u32,
    partition: i32,
) -> Result<Option<(Claim, bool)>, ClaimError> {
    let folder = folder(source, epoch, partition);
    let Some(newest) = store.list(&folder)?.pop() else { return Ok(None) };
    let claim = read(store, &format!("{folder}/{newest}"))?;
    for file in &claim.files {
        if !store.exists(file)? {
            return Ok(Some((claim, false)));
        }
    }
    Ok(Some((claim, true)))
}

/// Every claim of a partition, ordered by range.
///
/// # Errors
/// See [`newest`].
pub fn all(store: &dyn Objects, source: Source, epoch: u32, partition: i32) -> Result<Vec<Claim>, ClaimError> {
    let folder = folder(source, epoch, partition);
    store.list(&folder)?.into_iter().map(|name| read(store, &format!("{folder}/{name}"))).collect()
}

/// Claims a range for its files. If another writer has claimed it, returns that claim instead.
///
/// # Errors
/// [`ClaimError`] when the store does not answer or the other writer's claim is foreign.
pub fn make(store: &dyn Objects, range: Range, files: &[File], writer: &str) -> Result<Claim, ClaimError> {
    let files = files.iter().map(|file| file.name.clone()).collect();
    let claim = Claim { first: range.first, end: range.end, files, writer: writer.to_owned() };
    let name = name(range);
    let foreign = |error: serde_json::Error| ClaimError::Foreign { name: name.clone(), why: error.to_string() };
    let content = serde_json::to_vec(&claim).map_err(foreign)?;
    if store.create(&name, content)? { Ok(claim) } else { read(store, &name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A claim as the first version wrote it. Never edit it.
    const CLAIM_1: &str =
        r#"{"first":7,"end":12,"files":["windows/as_of_date=2024-01-01/1-0-7.parquet"],"writer":"a"}"#;

    #[test]
    fn a_claim_of_the_first_version_stays_readable_and_is_written_so() {
        let claim: Claim = serde_json::from_str(CLAIM_1).unwrap();
        assert_eq!((claim.first, claim.end, claim.files.len()), (NextOffset(7), NextOffset(12), 1));
        assert_eq!(serde_json::to_string(&claim).unwrap(), CLAIM_1);
    }
}
