//! A stage: a pure left fold over records.
//!
//! `apply` reads the state and a batch, and returns what to write and how the state would change. Only after the commit
//! does `merge` change the state. So an abort loses nothing and needs no undo.

use crate::snapshot::parts::{Parts, SavedRevisions, SnapshotBytes};
use crate::source_reader::SourceReader;
pub use crate::step::{Batch, Fate, Fates, StageError, Step, add_fates};
use keepwell_core::offset::{Position, TopicPartition};

/// Metrics of one partition of a stage's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gauges {
    /// Watermark, UTC microseconds.
    pub watermark_us: Option<i64>,
    /// Accounts in the state.
    pub num_accounts: Option<usize>,
    /// Event ids that are kept to find duplicates.
    pub num_ids: Option<usize>,
    /// Memory of those event ids, in bytes.
    pub id_bytes: Option<u64>,
    /// Memory that the event ids of the whole process may use, in bytes.
    pub id_max_bytes: Option<u64>,
    /// Version of the model file in use.
    pub model_version: Option<i64>,
    /// Alerts that are held.
    pub num_held: Option<usize>,
    /// Events of each source in the last hour that ended, as a share of the usual number; NaN: not known.
    pub source_shares: Vec<(String, f64)>,
}

/// A stage of the pipeline.
pub trait Stage {
    /// Everything the stage remembers, for all partitions that it owns.
    type State;
    /// The changes that one step makes to the state.
    type Changes;

    /// Name of the stage in logs, metrics, consumer groups and snapshots.
    fn name(&self) -> &'static str;

    /// Whether the state must be restored before a partition can be read. A stage without such state continues from the
    /// committed position alone.
    fn is_stateful(&self) -> bool;

    /// Folds records. This is a pure function: no clock, no I/O, and it only reads the state.
    ///
    /// # Errors
    /// [`StageError`] when a record cannot be decoded. This is a named stop.
    fn apply(&self, state: &Self::State, batch: &Batch<'_>) -> Result<Step<Self::Changes>, StageError>;

    /// Applies the changes of a committed step.
    fn merge(&self, state: &mut Self::State, changes: Self::Changes);

    /// Starts a partition at `position`: with empty state, or from the parts that [`Stage::snapshot`] returned for it.
    ///
    /// # Errors
    /// [`StageError::Snapshot`] when the format of the bytes is unknown.
    fn restore(
        &self,
        state: &mut Self::State,
        partition: &TopicPartition,
        position: Position,
        snapshot: Option<&SnapshotBytes>,
    ) -> Result<(), StageError>;

    /// Drops the state of a partition that is no longer owned.
    fn forget(&self, state: &mut Self::State, partition: &TopicPartition);

    /// What the stage does instead of [`Stage::apply`], if it reads the raw topics.
    fn source_reader(&self) -> Option<&dyn SourceReader<Self::State, Self::Changes>> {
        None
    }

    /// Metrics of one partition's state, for Prometheus.
    fn gauges(&self, state: &Self::State, partition: &TopicPartition) -> Gauges;

    /// The state of one partition as bytes, in parts. For settled parts that are in `known` the bytes are left out.
    /// Equal states give equal bytes.
    ///
    /// # Errors
    /// [`StageError::Snapshot`] when the state cannot be encoded.
    fn snapshot(
        &self,
        state: &Self::State,
        partition: &TopicPartition,
        known: &SavedRevisions,
    ) -> Result<Parts, StageError>;

    /// Reports that a snapshot with these settled parts is written. The stage may drop what it kept only for them.
    fn saved(&self, _state: &mut Self::State, _partition: &TopicPartition, _known: &SavedRevisions) {}
}
