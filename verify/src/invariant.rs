//! The promises of Keepwell, each with a name. `docs/ARCHITECTURE.md` states each in words; a test compares the two.

use std::fmt;

macro_rules! invariants {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $words:literal;)+) => {
        /// A promise to users that holds in every situation.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $($(#[$doc])* $name,)+
        }

        impl Invariant {
            /// All invariants, in the order of `docs/ARCHITECTURE.md`.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Name of the invariant in mutations and reports.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// Name of the invariant in `docs/ARCHITECTURE.md`.
            pub fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)+
                }
            }
        }
    };
}

invariants! {
    /// Every state, fate and final row is a function of `keepwell.events`.
    LogIsTruth = "log_is_truth", "The log is the truth";
    /// Arrival order within the bound, batch cuts, restarts, process counts and partition counts change no final row.
    TimingDoesNotMatter = "timing_does_not_matter", "Timing does not matter";
    /// Outputs, rejects and positions commit together.
    OneTransactionAStep = "one_transaction_a_step", "One transaction a step";
    /// Epoch, partition, next offset and ordinal of the rows of a key rise.
    RowsNameTheirOrigin = "rows_name_their_origin", "Rows name their origin";
    /// A snapshot is a cache of the fold; a restart replays the log from it.
    StateIsAFold = "state_is_a_fold", "State is a fold";
    /// Every record and event has one fate, and the sums hold.
    EveryRecordHasAFate = "every_record_has_a_fate", "Every record has a fate";
    /// A quiet account gets its final rows, and a quiet source does not hold time back.
    SilenceIsASignal = "silence_is_a_signal", "Silence is a signal";
    /// Steps and transactions have a maximum size.
    WorkIsBounded = "work_is_bounded", "Work is bounded";
    /// Each claimed range has its files, exactly once.
    FilesAppearWhole = "files_appear_whole", "Files appear whole, once";
    /// Contributions sum to the score, and plain SQL computes the same score.
    ScoresExplainThemselves = "scores_explain_themselves", "Scores explain themselves";
    /// An input over a bound is counted and stops nothing.
    SizeIsAFate = "size_is_a_fate", "Size is a fate";
}

impl Invariant {
    /// Text for the context of an error that breaks this promise.
    pub fn broken(self, what: &str) -> String {
        format!("{self}: {what}")
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
