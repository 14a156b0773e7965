//! Points at which a process can be made to end as if by SIGKILL. They test recovery where it matters.
//!
//! `KEEPWELL_CRASH_AT=after_commit:12` ends the process when it reaches that point for the 12th time. Without the
//! variable, a point costs one read of a static.
#![allow(clippy::disallowed_methods, reason = "I/O edge: ends the process")]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that names a point, and at which pass the process ends there.
pub const VARIABLE: &str = "KEEPWELL_CRASH_AT";

/// A crash point. The order is that in which the loop reaches them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashPoint {
    /// A step is computed, but its transaction has not begun.
    BeforeBegin,
    /// Some records of a step are on their way to the broker.
    WhileProducing,
    /// All records of a step are handed over, but its positions are not.
    AfterProduce,
    /// Records are delivered and positions are sent, but the commit is not.
    BeforeCommit,
    /// The commit is confirmed, but the state is not merged.
    AfterCommit,
    /// A step in the middle of a close is committed.
    InClose,
    /// One part of a snapshot is written.
    InSnapshot,
    /// The parts of a snapshot are written, but the snapshot itself is not.
    BeforeSnapshot,
    /// A snapshot is written, and older ones still exist.
    AfterSnapshot,
    /// A range of records is claimed, but none of its files is written.
    AfterClaim,
    /// One file of a range is written.
    InUpload,
}

/// All points and their names.
pub const PLACES: [(CrashPoint, &str); 11] = [
    (CrashPoint::BeforeBegin, "before_begin"),
    (CrashPoint::WhileProducing, "while_producing"),
    (CrashPoint::AfterProduce, "after_produce"),
    (CrashPoint::BeforeCommit, "before_commit"),
    (CrashPoint::AfterCommit, "after_commit"),
    (CrashPoint::InClose, "in_close"),
    (CrashPoint::InSnapshot, "in_snapshot"),
    (CrashPoint::BeforeSnapshot, "before_snapshot"),
    (CrashPoint::AfterSnapshot, "after_snapshot"),
    (CrashPoint::AfterClaim, "after_claim"),
    (CrashPoint::InUpload, "in_upload"),
];

static SET: LazyLock<Option<(CrashPoint, AtomicU64)>> = LazyLock::new(|| {
    let set = std::env::var(VARIABLE).ok()?;
    let (name, times) = set.split_once(':')?;
    let (place, _) = PLACES.into_iter().find(|(_, known)| *known == name)?;
    Some((place, AtomicU64::new(times.parse().ok()?)))
});

/// Marks a point in the code. The process ends here if the variable asks for it.
pub fn here(place: CrashPoint) {
    if let Some((set, times)) = &*SET
        && *set == place
        && times.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}
