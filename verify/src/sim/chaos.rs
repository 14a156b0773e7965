//! Faults: which, how often, and a count of those that struck. All chance comes from one seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use fastrand::Rng;

/// A fault that the simulator injects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process ends at a call to the log that changes nothing: a poll, a question.
    CrashBetween,
    /// The process ends before its transaction begins.
    CrashBeforeBegin,
    /// The process ends with its records written and its transaction open.
    CrashInTransaction,
    /// The process ends behind a commit whose verdict it never saw.
    CrashAfterCommit,
    /// A transaction is aborted.
    Abort,
    /// The verdict of a transaction that was committed is lost.
    LostCommit,
    /// The verdict of a transaction that was not committed is lost.
    LostAbort,
    /// The group takes a member for dead in the middle of its step; it wakes when others have gone on.
    Stale,
    /// The group takes a member for dead; it wakes later.
    Frozen,
    /// Others go on while a call waits for its answer.
    Interleaved,
    /// A process more.
    Joins,
    /// A process less: its partitions go to the others when its session has timed out.
    Leaves,
    /// All processes of a stage end.
    StageDown,
    /// A poll brings less than there is.
    ShortPoll,
    /// The leader of a partition is out of reach for a while.
    Unreachable,
    /// Records of a raw topic stay hidden behind a producer's open transaction.
    HiddenRaw,
    /// A producer's transaction is aborted and its records are sent again.
    AbortedRaw,
    /// A wall clock is set forward or back.
    ClockJump,
    /// A snapshot disappears.
    SnapshotLost,
    /// A snapshot is damaged.
    SnapshotDamaged,
    /// The place of the tables does not answer.
    StoreFails,
    /// The place of the tables does what it was asked and answers with an error.
    StoreLies,
    /// The process ends before an object is written.
    CrashBeforeObject,
    /// The process ends behind an object that was written.
    CrashAfterObject,
}

/// The chance that faults strike.
#[derive(Debug)]
pub struct Chaos {
    rng: RefCell<Rng>,
    /// How many times as often as usual; none while all is calm.
    rate: Cell<u32>,
    counts: RefCell<BTreeMap<Fault, u64>>,
}

impl Chaos {
    /// Chance from a seed; `rate` times as often as usual.
    pub fn new(seed: u64, rate: u32) -> Self {
        Self { rng: RefCell::new(Rng::with_seed(seed)), rate: Cell::new(rate), counts: RefCell::new(BTreeMap::new()) }
    }

    /// No fault strikes from now on.
    pub fn calm(&self) {
        self.rate.set(0);
    }

    /// Whether a fault strikes that usually does so many times of ten thousand.
    pub fn strikes(&self, fault: Fault, of_10_000: u32) -> bool {
        let rate = self.rate.get();
        let strikes = rate > 0 && self.rng.borrow_mut().u32(0..10_000) < of_10_000 * rate;
        if strikes {
            *self.counts.borrow_mut().entry(fault).or_default() += 1;
        }
        strikes
    }

    /// A number of a range.
    pub fn pick(&self, range: std::ops::Range<usize>) -> usize {
        self.rng.borrow_mut().usize(range)
    }

    /// The same for longer ranges.
    pub fn pick_i64(&self, range: std::ops::Range<i64>) -> i64 {
        self.rng.borrow_mut().i64(range)
    }

    /// How often each fault struck.
    pub fn counts(&self) -> BTreeMap<Fault, u64> {
        self.counts.borrow().clone()
    }
}
