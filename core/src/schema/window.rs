//! The `windows` table: one row for an account and time, with its measures over every trailing window. It contains live
//! and final rows.
//!
//! The columns are declared in groups. An account has all columns of a group or none: without tickets, for example, all
//! measures of tickets are 0 or null. Which measures of which windows a row keeps is configured: see [`Layout`].

use super::Column;

mod layout;
mod long;
mod writer;

pub use layout::{Kept, LaidOut, Layout, Part, Wanted};
pub use long::long_form;
pub use writer::{AsOfRow, MeasuresRow, WindowRow, Writer};

/// Name and version of the table, as in the schema metadata.
pub const TABLE: &str = "windows/3";

/// What identifies a row, and its state.
pub mod key {
    use super::super::kind::{Flag, Text, Time};
    use super::super::table;

    table! {
        account_id: Text = "account";
        as_of: Time = "end of the window, exclusive; a pane end";
        is_final as "final": Flag = "true: the pane has closed and this row never changes; false: live";
        is_retired as "retired": Flag = "true: silent for retire_after; the account's last row";
        is_deleted as "deleted": Flag = "true: the account was deleted; every measure is null or zero";
    }
}

/// Usage, by users and features. Measures of the window `[as_of - period, as_of)`.
pub mod usage {
    use super::super::kind::{Float, Int64, Maybe};
    use super::super::table;

    table! {
        events: Int64 = "depth: usage events";
        uses: Int64 = "depth: sum of count";
        active_users: Int64 = "people: distinct users with usage";
        user_days: Int64 = "people: sum over panes of distinct users";
        features_used: Int64 = "breadth: distinct features used";
        features_adopted: Maybe<Int64> = "breadth: features used among the entitled ones, else among the configured catalogue";
        adoption_rate: Maybe<Float> = "breadth: features_adopted / features entitled, else / size of the catalogue";
        uses_per_user: Maybe<Float> = "depth: uses / active_users";
        events_per_user: Maybe<Float> = "depth: events / active_users";
        uses_per_feature: Maybe<Float> = "depth: uses / features_used";
        active_days: Int64 = "depth: panes with usage";
        active_day_share: Float = "depth: active_days / panes of the window";
        duration_ms: Maybe<Int64> = "depth: sum of duration_ms; null where no event tells";
        errors: Maybe<Int64> = "depth: sum of errors; null where no event tells";
        error_rate: Maybe<Float> = "depth: errors / uses of the events that tell errors";
        stickiness: Maybe<Float> = "people: (user_days / panes of the window) / active_users";
        seat_use: Maybe<Float> = "people: active_users / seats";
    }
}

/// Changes among people. Measures of the window `[as_of - period, as_of)`.
pub mod people {
    use super::super::kind::Int64;
    use super::super::table;

    table! {
        people_added: Int64 = "people: persons added";
        people_removed: Int64 = "people: persons removed";
        champions_lost: Int64 = "people: persons with a champion role who were removed or lost that role";
        champions_active: Int64 = "people: champions as of the end of the window who used the product in it";
    }
}

/// Tickets. Measures of the window `[as_of - period, as_of)`.
pub mod tickets {
    use super::super::kind::{CountMap, Float, Int64, Maybe};
    use super::super::table;

    table! {
        tickets_opened: Int64 = "tickets: opened";
        tickets_opened_low: Int64 = "tickets: opened with priority low";
        tickets_opened_normal: Int64 = "tickets: opened with priority normal or none";
        tickets_opened_high: Int64 = "tickets: opened with priority high";
        tickets_opened_urgent: Int64 = "tickets: opened with priority urgent";
        tickets_opened_by_category: CountMap = "tickets: opened, by configured category; the rest under other";
        tickets_escalated: Int64 = "tickets: escalations";
        tickets_reopened: Int64 = "tickets: reopenings";
        first_responses: Int64 = "tickets: first responses given";
        first_response_ms_mean: Maybe<Float> = "tickets: mean calendar time from opening to first response";
        first_response_ms_p90: Maybe<Int64> = "tickets: 90th percentile of it, nearest rank";
        first_response_within_target_low: Maybe<Float> = "tickets: share of first responses within the target, priority low";
        first_response_within_target_normal: Maybe<Float> = "tickets: the same, priority normal";
        first_response_within_target_high: Maybe<Float> = "tickets: the same, priority high";
        first_response_within_target_urgent: Maybe<Float> = "tickets: the same, priority urgent";
        tickets_resolved: Int64 = "tickets: resolved in the window and not reopened by its end; by last resolution";
        resolution_ms_mean: Maybe<Float> = "tickets: mean calendar time from opening to last resolution";
        resolution_ms_p90: Maybe<Int64> = "tickets: 90th percentile of it, nearest rank";
        resolution_within_target_low: Maybe<Float> = "tickets: share of resolutions within the target, priority low";
        resolution_within_target_normal: Maybe<Float> = "tickets: the same, priority normal";
        resolution_within_target_high: Maybe<Float> = "tickets: the same, priority high";
        resolution_within_target_urgent: Maybe<Float> = "tickets: the same, priority urgent";
        ticket_csat_count: Int64 = "tickets: ratings";
        ticket_csat_mean: Maybe<Float> = "tickets: mean rating, 1-5";
        ticket_csat_low: Int64 = "tickets: ratings of 1 or 2";
    }
}

/// Survey answers. Measures of the window `[as_of - period, as_of)`.
pub mod surveys {
    use super::super::kind::{Float, Int64, Maybe};
    use super::super::table;

    table! {
        nps_responses: Int64 = "surveys: NPS answers";
        nps: Maybe<Float> = "surveys: 100 * (promoters 9-10 - detractors 0-6) / answers";
        nps_detractors: Int64 = "surveys: NPS answers 0-6";
        csat_responses: Int64 = "surveys: CSAT answers";
        csat: Maybe<Float> = "surveys: sum of answers / sum of best possible answers";
        csat_low: Int64 = "surveys: CSAT answers of at most two fifths of the best possible one";
        ces_responses: Int64 = "surveys: CES answers";
        ces: Maybe<Float> = "surveys: sum of answers / sum of best possible answers";
        csat_satisfied: Maybe<Int64> = "surveys: CSAT answers that are one of the two best, or the best where it is below 4";
        ces_easy: Maybe<Int64> = "surveys: CES answers of at least five sevenths of the best possible one";
    }
}

/// Use of a group of features. Measures of the window `[as_of - period, as_of)`, behind the name of the group:
/// `insights_users`.
pub mod feature_group {
    use super::super::kind::{Float, Int64, Maybe};
    use super::super::table;

    table! {
        uses: Int64 = "group: sum of count over its features";
        users: Int64 = "group: distinct users of its features";
        active_days: Int64 = "group: panes with use of its features";
        user_share: Maybe<Float> = "group: its users / active_users";
    }
}

/// Open tickets. The state at the end of the window; it does not depend on its length.
pub mod backlog {
    use super::super::kind::{CountMap, Int64};
    use super::super::table;

    table! {
        tickets_backlog: Int64 = "tickets open";
        tickets_backlog_low: Int64 = "tickets open with priority low";
        tickets_backlog_normal: Int64 = "tickets open with priority normal or none";
        tickets_backlog_high: Int64 = "tickets open with priority high";
        tickets_backlog_urgent: Int64 = "tickets open with priority urgent";
        tickets_backlog_by_category: CountMap = "tickets open, by configured category; the rest under other";
        tickets_moved: Int64 = "tickets with events here that were opened elsewhere: counted, not applied";
    }
}

/// Times of survey answers. The state at the end of the window; it does not depend on its length.
pub mod answers {
    use super::super::kind::{Maybe, Time};
    use super::super::table;

    table! {
        nps_last_at: Maybe<Time> = "last NPS answer";
        csat_last_at: Maybe<Time> = "last CSAT answer";
        ces_last_at: Maybe<Time> = "last CES answer";
    }
}

/// People. The state at the end of the window; it does not depend on its length.
pub mod headcount {
    use super::super::kind::Int64;
    use super::super::table;

    table! {
        people: Int64 = "persons added and not removed";
        champions: Int64 = "of these, with a champion role";
    }
}

/// Times of activity. The state at the end of the window; it does not depend on its length.
pub mod activity {
    use super::super::kind::{Maybe, Time};
    use super::super::table;

    table! {
        first_seen_at: Maybe<Time> = "start of the pane of the first event";
        last_activity_at: Maybe<Time> = "last event of any kind";
        last_use_at: Maybe<Time> = "last usage event";
        first_value_at: Maybe<Time> = "first value: what the success plan names, else first use of the configured first-value feature";
    }
}

/// The account as a customer, by its contracts. The state at the end of the window; it does not depend on its length.
pub mod customer {
    use super::super::kind::{Int64, Maybe, Text, Time};
    use super::super::table;

    table! {
        customer_status: Maybe<Text> = "upcoming, trial (runs, costs nothing), active, paused, churned, or expired (a trial that ended); null: no contract is known";
        customer_since: Maybe<Time> = "since when it is a customer without a break; of one that churned, when that was; of one that never paid, when its first contract began";
        churn_reason: Maybe<Text> = "why it churned: the sender's word, or not_renewed";
        contracts: Maybe<Int64> = "contracts that run or are paused";
        currency: Maybe<Text> = "currency of the contracts that run; null: unknown, or several";
    }

    /// Whether an account is a customer.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Status {
        /// Its first contract has not started.
        Upcoming,
        /// A contract runs that costs nothing, and it never paid.
        Trial,
        /// A contract runs that is paid, or whose price is not known.
        Active,
        /// No contract runs, and at least one is paused.
        Paused,
        /// It was a customer and has left.
        Churned,
        /// It never paid, and no contract runs any more.
        Expired,
    }

    impl Status {
        /// The word in rows.
        pub fn name(self) -> &'static str {
            match self {
                Self::Upcoming => "upcoming",
                Self::Trial => "trial",
                Self::Active => "active",
                Self::Paused => "paused",
                Self::Churned => "churned",
                Self::Expired => "expired",
            }
        }

        /// Whether an account with this word has left.
        pub fn has_left(word: &str) -> bool {
            [Self::Churned, Self::Expired].iter().any(|status| status.name() == word)
        }
    }
}

/// Facts with a column of their own. The state at the end of the window; it does not depend on its length.
pub mod facts {
    use super::super::kind::{Float, Int64, Maybe, Money, Text, Time};
    use super::super::table;

    table! {
        started_at: Maybe<Time> = "when it became a customer for the first time, by its contracts; without them the fact";
        renews_at: Maybe<Time> = "first end of a term, by the contracts; without them the fact";
        plan: Maybe<Text> = "fact";
        segment: Maybe<Text> = "fact";
        stage: Maybe<Text> = "fact: lifecycle stage";
        owner: Maybe<Text> = "fact: who looks after the account";
        seats: Maybe<Int64> = "seats bought, by the contracts that run; without contracts the fact";
        mrr: Maybe<Money> = "monthly recurring revenue, by the contracts that run; null: unknown, or in several currencies; without contracts the fact";
        features_entitled: Maybe<Int64> = "fact: number of features the plan entitles to";
        sentiment: Maybe<Float> = "fact: the owner's judgement, 0-100";
        sentiment_at: Maybe<Time> = "event time of that fact";
        trained: Maybe<Float> = "fact: training completion, 0-100";
        invoices: Maybe<Float> = "fact: billing consistency, 0-100";
    }
}

/// Facts without a column of their own. The state at the end of the window; it does not depend on its length.
pub mod other_facts {
    use super::super::kind::{Maybe, TextMap};
    use super::super::table;

    table! {
        other_facts: Maybe<TextMap> = "facts without a column of their own, as JSON texts";
    }
}

/// Milestones. The state at the end of the window; it does not depend on its length.
pub mod milestones {
    use super::super::kind::{Int64, Maybe, Time};
    use super::super::table;

    table! {
        milestones: Int64 = "milestones known";
        milestones_done: Int64 = "milestones done";
        milestones_overdue: Int64 = "milestones whose due time has passed and that are not done";
        oldest_overdue_at: Maybe<Time> = "due time of the oldest overdue milestone";
    }
}

/// The success plan. The state at the end of the window; it does not depend on its length.
pub mod success_plan {
    use super::super::kind::{Int64, Maybe, Text, Time};
    use super::super::table;

    table! {
        success_plan: Maybe<Text> = "name of the configured plan for its segment; null: none is, or the account has not started";
        plan_items: Maybe<Int64> = "items of the plan";
        plan_items_due: Maybe<Int64> = "items whose time has come";
        plan_items_done: Maybe<Int64> = "items that are done";
        plan_items_overdue: Maybe<Int64> = "items whose time has come and that are not done";
        plan_next_item: Maybe<Text> = "of the items that are not done, the one that is due first";
        plan_next_due_at: Maybe<Time> = "when it is due";
        first_value_due_at: Maybe<Time> = "when the first value should be there, by the plan";
    }
}

/// The first days of a customer. They are whole panes from that of `started_at` on.
pub mod first_days {
    use super::super::kind::{Int64, Maybe};
    use super::super::table;

    table! {
        first_14d_active_users: Maybe<Int64> = "distinct users in the first 14 days after started_at; it grows until they have passed; null: not started, or started longer ago than twice the longest window";
        first_14d_uses: Maybe<Int64> = "uses in these days";
        first_14d_features_used: Maybe<Int64> = "distinct features used in these days";
        first_60d_active_users: Maybe<Int64> = "distinct users in the first 60 days after started_at; it grows until they have passed; null: not started, or started longer ago than twice the longest window";
        first_60d_uses: Maybe<Int64> = "uses in these days";
        first_60d_features_used: Maybe<Int64> = "distinct features used in these days";
        first_90d_active_users: Maybe<Int64> = "distinct users in the first 90 days after started_at; it grows until they have passed; null: not started, or started longer ago than twice the longest window";
        first_90d_uses: Maybe<Int64> = "uses in these days";
        first_90d_features_used: Maybe<Int64> = "distinct features used in these days";
    }
}

/// Outcomes of alerts. The state at the end of the window; it does not depend on its length.
pub mod outcomes {
    use super::super::kind::TextMap;
    use super::super::table;

    table! {
        outcomes: TextMap = "last outcome by alert id, within the longest window: accepted, done or dismissed";
    }
}

/// What did not fit. The state at the end of the window; it does not depend on its length.
pub mod left_out {
    use super::super::kind::{Int64, Maybe};
    use super::super::table;

    table! {
        left_out: Maybe<Int64> = "other facts and outcomes of the account that did not fit into its row; null: none";
    }
}

/// What the row was made from.
pub mod provenance {
    use super::super::kind::{Int32, Int64, Maybe, Time};
    use super::super::table;

    table! {
        epoch: Int32 = "epoch of the log";
        partition: Int32 = "partition of the events topic";
        next_offset: Int64 = "events below this offset are in the row";
        ordinal: Int64 = "order among rows with the same next_offset";
        watermark: Maybe<Time> = "watermark when the row was made";
    }
}

/// The sets of measures that a configuration can name, with their measures.
pub const SETS: [(&str, &[Column]); 4] = [
    ("usage", usage::COLUMNS),
    ("people", people::COLUMNS),
    ("tickets", tickets::COLUMNS),
    ("surveys", surveys::COLUMNS),
];

/// What the name of a measure begins with if it is of the window of equal length before.
pub const PREVIOUS: &str = "previous_";

/// Measures of a window, in order, without those of feature groups.
pub fn windowed() -> impl Iterator<Item = &'static Column> {
    SETS.into_iter().flat_map(|(_, columns)| columns)
}

/// Columns for the state at the end of the windows, in order.
pub fn as_of() -> impl Iterator<Item = &'static Column> {
    [
        backlog::COLUMNS,
        answers::COLUMNS,
        headcount::COLUMNS,
        activity::COLUMNS,
        customer::COLUMNS,
        facts::COLUMNS,
        other_facts::COLUMNS,
        milestones::COLUMNS,
        success_plan::COLUMNS,
        first_days::COLUMNS,
        outcomes::COLUMNS,
        left_out::COLUMNS,
    ]
    .into_iter()
    .flatten()
}
