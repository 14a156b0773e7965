//! What Keepwell promises, by name. ARCHITECTURE says each in words; a test compares the two.

use std::fmt;

macro_rules! invariants {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $words:literal;)+) => {
        /// A promise to users that holds whatever happens.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $($(#[$doc])* $name,)+
        }

        impl Invariant {
            /// All of them, in the order of ARCHITECTURE.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name in mutations and reports.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// The name in ARCHITECTURE.
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
    /// Order within the bound, batch cuts, restarts, processes and partitions change no final row.
    TimingDoesNotMatter = "timing_does_not_matter", "Timing does not matter";
    /// Outputs, rejects and positions commit together.
    OneTransactionAStep = "one_transaction_a_step", "One transaction a step";
    /// Epoch, partition, next offset and ordinal of a row rise by key.
    RowsNameTheirOrigin = "rows_name_their_origin", "Rows name their origin";
    /// A snapshot is a cache of the fold, a restart replays it.
    StateIsAFold = "state_is_a_fold", "State is a fold";
    /// Every record and event has one fate, and the sums hold.
    EveryRecordHasAFate = "every_record_has_a_fate", "Every record has a fate";
    /// A quiet account has its final rows, and a quiet source holds nothing back.
    SilenceIsASignal = "silence_is_a_signal", "Silence is a signal";
    /// A step and a transaction have a largest size.
    WorkIsBounded = "work_is_bounded", "Work is bounded";
    /// Each claimed range has its files, once.
    FilesAppearWhole = "files_appear_whole", "Files appear whole, once";
    /// Contributions sum to the score, and plain SQL gives it again.
    ScoresExplainThemselves = "scores_explain_themselves", "Scores explain themselves";
    /// What is over a bound is counted, and stops nothing.
    SizeIsAFate = "size_is_a_fate", "Size is a fate";
}

impl Invariant {
    /// The context of an error that says that the promise is broken.
    pub fn broken(self, what: &str) -> String {
        format!("{self}: {what}")
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
