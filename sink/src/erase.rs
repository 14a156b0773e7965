//! Removes an account from the tables: files that contain it are written again without it, under the same names.
//!
//! Claims do not change: a range keeps its offsets and its files, without this account. The object store replaces a
//! file as a whole.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, Scalar, StringArray};
use arrow::compute::{concat_batches, filter_record_batch, kernels::cmp};
use arrow::error::ArrowError;
use bytes::Bytes;
use keepwell_pipeline::store::{Objects, StoreError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::claim::{self, ClaimError};
use crate::range_files::{RANGE_KEY, Source, parquet};

/// Result of an erasure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Erased {
    /// Number of files that were read.
    pub num_files: usize,
    /// Number of files that were written again.
    pub num_rewritten: usize,
    /// Number of rows of the account that were removed.
    pub num_rows: usize,
    /// Number of claimed files that are not written yet.
    pub num_missing: usize,
}

/// Why an account was not erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// A claim is not valid, or the store failed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The object store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read as Parquet rows with an account id.
    #[error("{file}: {why}; it stays as it is")]
    File {
        /// Name of the file.
        file: String,
        /// Message of the Parquet reader.
        why: ArrowError,
    },
}

/// Removes an account from every table, in one epoch and in the partition of the account. It is safe to repeat.
///
/// # Errors
/// [`EraseError`]. Files that were rewritten before the error stay rewritten.
pub fn account(store: &dyn Objects, epoch: u32, partition: i32, account: &str) -> Result<Erased, EraseError> {
    let mut erased = Erased::default();
    for source in Source::ALL {
        for claim in claim::all(store, source, epoch, partition)? {
            for file in claim.files {
                if !store.exists(&file)? {
                    erased.num_missing += 1;
                    continue;
                }
                erased.num_files += 1;
                let content = Bytes::from(store.get(&file)?);
                let kept = without(content, account).map_err(|why| EraseError::File { file: file.clone(), why })?;
                if let Some((content, num_rows)) = kept {
                    store.put(&file, content)?;
                    erased.num_rewritten += 1;
                    erased.num_rows += num_rows;
                }
            }
        }
    }
    Ok(erased)
}

/// Content of a file without the rows of an account, and the number of removed rows. `None` if it has no such row.
fn without(content: Bytes, account: &str) -> Result<Option<(Vec<u8>, usize)>, ArrowError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(content).map_err(ArrowError::from)?;
    let schema = reader.schema().clone();
    let metadata = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let of = metadata.into_iter().find(|pair| pair.key == RANGE_KEY).and_then(|pair| pair.value).unwrap_or_default();
    let batches: Vec<RecordBatch> = reader.build().map_err(ArrowError::from)?.collect::<Result<_, _>>()?;
    let rows = concat_batches(&schema, &batches)?;
    let ids =
        rows.column_by_name("account_id").ok_or_else(|| ArrowError::SchemaError("no column account_id".into()))?;
    let name = Scalar::new(StringArray::from(vec![account]));
    let kept = filter_record_batch(&rows, &cmp::neq(ids, &name)?)?;
    let num_rows = ids.len() - kept.num_rows();
    if num_rows == 0 {
        return Ok(None);
    }
    // The range belongs to the file's metadata, not to the schema of the rows. The same is true for the first write.
    let metadata = schema.metadata().iter().filter(|(key, _)| *key != RANGE_KEY);
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
    let schema = Arc::new(schema.as_ref().clone().with_metadata(metadata));
    let kept = RecordBatch::try_new(schema, kept.columns().to_vec())?;
    let places: Vec<_> = (0..kept.num_rows()).map(|row| (0, row)).collect();
    Ok(Some((parquet(&[kept], &places, of)?, num_rows)))
}
