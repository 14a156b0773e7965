//! Places at which a process can be told to end as if by SIGKILL, so that recovery is tried where it matters.
//!
//! `KEEPWELL_CRASH_AT=after_commit:12` ends the process when it comes to that place for the 12th time. Where the
//! variable is not set a place costs one look at a static.
#![allow(clippy::disallowed_methods, reason = "I/O edge: ends the process")]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that names a place and how often it is passed before the process ends there.
pub const VARIABLE: &str = "KEEPWELL_CRASH_AT";

/// A place, in the order in which the loop comes to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashPoint {
    /// A step is computed, its transaction not begun.
    BeforeBegin,
    /// Some of a step's records are on their way to the broker.
    WhileProducing,
    /// All of a step's records are handed over, its positions are not.
    AfterProduce,
    /// Records are delivered and positions sent, the commit is not.
    BeforeCommit,
    /// The commit is heard of, the state not merged.
    AfterCommit,
    /// A step in the middle of a close is committed.
    InClose,
    /// One of a snapshot's parts is written.
    InSnapshot,
    /// A snapshot is about to be written, its parts are.
    BeforeSnapshot,
    /// A snapshot is written, older ones are still there.
    AfterSnapshot,
    /// A range of records is claimed, none of its files written.
    AfterClaim,
    /// One of a range's files is written.
    InUpload,
}

/// All places and their names.
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

static TOLD: LazyLock<Option<(CrashPoint, AtomicU64)>> = LazyLock::new(|| {
    let told = std::env::var(VARIABLE).ok()?;
    let (name, times) = told.split_once(':')?;
    let (place, _) = PLACES.into_iter().find(|(_, known)| *known == name)?;
    Some((place, AtomicU64::new(times.parse().ok()?)))
});

/// The process comes to a place, and ends there if it was told to.
pub fn here(place: CrashPoint) {
    if let Some((told, times)) = &*TOLD
        && *told == place
        && times.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}
