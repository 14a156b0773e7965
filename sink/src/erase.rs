//! An account taken out of the tables: files that hold it are written again without it, under their names.
//!
//! Claims stay as they are: a range is what it was, one account less. A file is replaced whole, as the object store does.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, Scalar, StringArray};
use arrow::compute::{concat_batches, filter_record_batch, kernels::cmp};
use arrow::error::ArrowError;
use bytes::Bytes;
use keepwell_pipeline::store::{Objects, StoreError};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::claim::{self, ClaimError};
use crate::range_files::{RANGE_KEY, Source, parquet, same};

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Erased {
    /// Files looked into.
    pub num_files: usize,
    /// Files written again.
    pub num_rewritten: usize,
    /// Rows of the account that are gone.
    pub num_rows: usize,
    /// Files that are claimed and not written yet.
    pub num_missing: usize,
}

/// Why an account was not taken out.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// A claim, or the store.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file is not what its claim says.
    #[error("{file}: {why}; it stays as it is")]
    File {
        /// Which.
        file: String,
        /// The reader's words.
        why: ArrowError,
    },
}

/// Takes an account out of every table, in one epoch and the partition it belongs to. May be done again.
///
/// # Errors
/// [`EraseError`]; what was rewritten by then stays so.
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

/// A file without the rows of an account, and how many those were; none where it has no such row.
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
    // What the file says of its range is no part of the rows' schema, as it was when it was written first.
    let metadata = schema.metadata().iter().filter(|(key, _)| *key != RANGE_KEY);
    let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
    let schema = Arc::new(schema.as_ref().clone().with_metadata(metadata));
    let kept = RecordBatch::try_new(schema, kept.columns().to_vec())?;
    let places: Vec<_> = (0..kept.num_rows()).map(|row| (0, row)).collect();
    let (content, _) = parquet(&[kept], &places, same, of)?;
    Ok(Some((content, num_rows)))
}
