//! The faults, their frequency, and counts of those that struck. All randomness comes from one seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use fastrand::Rng;

/// A fault that the simulator injects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The process ends at a call to the log that changes nothing, such as a poll.
    CrashBetween,
    /// The process ends before its transaction begins.
    CrashBeforeBegin,
    /// The process ends with its records written and its transaction open.
    CrashInTransaction,
    /// The process ends after a commit, before it gets the verdict.
    CrashAfterCommit,
    /// A transaction is aborted.
    Abort,
    /// The verdict of a committed transaction is lost.
    LostCommit,
    /// The verdict of a transaction that was not committed is lost.
    LostAbort,
    /// The group removes a member in the middle of its step. It wakes up after others have gone on.
    Stale,
    /// The group removes a member, which wakes up later.
    Frozen,
    /// Other processes go on while a call waits for its answer.
    Interleaved,
    /// One more process joins.
    Joins,
    /// One process ends. Its partitions go to the others when its session has timed out.
    Leaves,
    /// All processes of a stage end.
    StageDown,
    /// A poll returns less than there is.
    ShortPoll,
    /// The leader of a partition cannot be reached for a while.
    Unreachable,
    /// Records of a raw topic stay hidden in a producer's open transaction.
    HiddenRaw,
    /// A producer's transaction is aborted and its records are sent again.
    AbortedRaw,
    /// A wall clock jumps forward or back.
    ClockJump,
    /// A snapshot disappears.
    SnapshotLost,
    /// A snapshot is damaged.
    SnapshotDamaged,
    /// The store of the tables does not answer.
    StoreFails,
    /// The store of the tables does what it was asked, but answers with an error.
    StoreLies,
    /// The process ends before an object is written.
    CrashBeforeObject,
    /// The process ends after an object was written.
    CrashAfterObject,
}

/// Decides at random which faults strike.
#[derive(Debug)]
pub struct Chaos {
    rng: RefCell<Rng>,
    /// Multiplies the usual frequency of faults; 0 while all is calm.
    rate: Cell<u32>,
    counts: RefCell<BTreeMap<Fault, u64>>,
}

impl Chaos {
    /// Starts with a seed. `rate` multiplies the usual frequency.
    pub fn new(seed: u64, rate: u32) -> Self {
        Self { rng: RefCell::new(Rng::with_seed(seed)), rate: Cell::new(rate), counts: RefCell::new(BTreeMap::new()) }
    }

    /// From now on no fault strikes.
    pub fn calm(&self) {
        self.rate.set(0);
    }

    /// Whether a fault strikes now. `of_10_000` is its usual chance in ten thousand.
    pub fn strikes(&self, fault: Fault, of_10_000: u32) -> bool {
        let rate = self.rate.get();
        let strikes = rate > 0 && self.rng.borrow_mut().u32(0..10_000) < of_10_000 * rate;
        if strikes {
            *self.counts.borrow_mut().entry(fault).or_default() += 1;
        }
        strikes
    }

    /// A random number of a range.
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
