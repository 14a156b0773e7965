//! The `windows` table: measures of an account over one trailing window. It contains live and final rows.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::SchemaRef;

use super::ColumnType::{CountMap, Flag, Float, Int32, Int64, Money, Text, TextMap, Time};
use super::json::Place;
use super::{Column, RowBuilder, known, maybe, schema_of};

/// Name and version of the table, as in the schema metadata.
pub const TABLE: &str = "windows/2";

/// Columns that identify a row and its state.
pub const KEYS: &[Column] = &[
    known("account_id", Text, "account"),
    known("as_of", Time, "end of the window, exclusive; a pane end"),
    known("period", Text, "length of the window as configured, e.g. 28d"),
    known("final", Flag, "true: the pane has closed and this row never changes; false: live"),
    known("retired", Flag, "true: silent for retire_after; the account's last row"),
    known("deleted", Flag, "true: the account was deleted; every measure is null or zero"),
];

/// Declares the measures of a window once, and lists them for the window and for the window before it.
macro_rules! windowed {
    ($($name:literal $kind:ident $nullable:literal $doc:literal)+) => {
        /// Measures of the window `[as_of - period, as_of)`.
        pub const WINDOWED: &[Column] = &[$(Column { name: $name, kind: $kind, nullable: $nullable, doc: $doc, json: Place::Own },)+];
        /// The same measures for the window of equal length before it.
        pub const PREVIOUS: &[Column] = &[$(Column {
            name: concat!("previous_", $name), kind: $kind, nullable: $nullable,
            doc: concat!("the window before: ", $doc), json: Place::Own,
        },)+];
    };
}

windowed! {
    "events" Int64 false "depth: usage events"
    "uses" Int64 false "depth: sum of count"
    "active_users" Int64 false "people: distinct users with usage"
    "user_days" Int64 false "people: sum over panes of distinct users"
    "features_used" Int64 false "breadth: distinct features used"
    "features_adopted" Int64 true "breadth: features used among the entitled ones, else among the configured catalogue"
    "adoption_rate" Float true "breadth: features_adopted / features entitled, else / size of the catalogue"
    "uses_per_user" Float true "depth: uses / active_users"
    "events_per_user" Float true "depth: events / active_users"
    "uses_per_feature" Float true "depth: uses / features_used"
    "active_days" Int64 false "depth: panes with usage"
    "active_day_share" Float false "depth: active_days / panes of the window"
    "duration_ms" Int64 true "depth: sum of duration_ms; null where no event tells"
    "errors" Int64 true "depth: sum of errors; null where no event tells"
    "error_rate" Float true "depth: errors / uses of the events that tell errors"
    "stickiness" Float true "people: (user_days / panes of the window) / active_users"
    "seat_use" Float true "people: active_users / seats"
    "people_added" Int64 false "people: persons added"
    "people_removed" Int64 false "people: persons removed"
    "champions_lost" Int64 false "people: persons with a champion role who were removed or lost that role"
    "champions_active" Int64 false "people: champions as of the end of the window who used the product in it"
    "tickets_opened" Int64 false "tickets: opened"
    "tickets_opened_low" Int64 false "tickets: opened with priority low"
    "tickets_opened_normal" Int64 false "tickets: opened with priority normal or none"
    "tickets_opened_high" Int64 false "tickets: opened with priority high"
    "tickets_opened_urgent" Int64 false "tickets: opened with priority urgent"
    "tickets_opened_by_category" CountMap false "tickets: opened, by configured category; the rest under other"
    "tickets_escalated" Int64 false "tickets: escalations"
    "tickets_reopened" Int64 false "tickets: reopenings"
    "first_responses" Int64 false "tickets: first responses given"
    "first_response_ms_mean" Float true "tickets: mean calendar time from opening to first response"
    "first_response_ms_p90" Int64 true "tickets: 90th percentile of it, nearest rank"
    "first_response_within_target_low" Float true "tickets: share of first responses within the target, priority low"
    "first_response_within_target_normal" Float true "tickets: the same, priority normal"
    "first_response_within_target_high" Float true "tickets: the same, priority high"
    "first_response_within_target_urgent" Float true "tickets: the same, priority urgent"
    "tickets_resolved" Int64 false "tickets: resolved in the window and not reopened by its end; by last resolution"
    "resolution_ms_mean" Float true "tickets: mean calendar time from opening to last resolution"
    "resolution_ms_p90" Int64 true "tickets: 90th percentile of it, nearest rank"
    "resolution_within_target_low" Float true "tickets: share of resolutions within the target, priority low"
    "resolution_within_target_normal" Float true "tickets: the same, priority normal"
    "resolution_within_target_high" Float true "tickets: the same, priority high"
    "resolution_within_target_urgent" Float true "tickets: the same, priority urgent"
    "ticket_csat_count" Int64 false "tickets: ratings"
    "ticket_csat_mean" Float true "tickets: mean rating, 1-5"
    "ticket_csat_low" Int64 false "tickets: ratings of 1 or 2"
    "nps_responses" Int64 false "surveys: NPS answers"
    "nps" Float true "surveys: 100 * (promoters 9-10 - detractors 0-6) / answers"
    "nps_detractors" Int64 false "surveys: NPS answers 0-6"
    "csat_responses" Int64 false "surveys: CSAT answers"
    "csat" Float true "surveys: sum of answers / sum of best possible answers"
    "csat_low" Int64 false "surveys: CSAT answers of at most two fifths of the best possible one"
    "ces_responses" Int64 false "surveys: CES answers"
    "ces" Float true "surveys: sum of answers / sum of best possible answers"
}

/// Columns for the state at the end of the window. They do not depend on its length.
pub const AS_OF: &[Column] = &[
    known("tickets_backlog", Int64, "tickets open"),
    known("tickets_backlog_low", Int64, "tickets open with priority low"),
    known("tickets_backlog_normal", Int64, "tickets open with priority normal or none"),
    known("tickets_backlog_high", Int64, "tickets open with priority high"),
    known("tickets_backlog_urgent", Int64, "tickets open with priority urgent"),
    known("tickets_backlog_by_category", CountMap, "tickets open, by configured category; the rest under other"),
    known("tickets_moved", Int64, "tickets with events here that were opened elsewhere: counted, not applied"),
    maybe("nps_last_at", Time, "last NPS answer"),
    maybe("csat_last_at", Time, "last CSAT answer"),
    maybe("ces_last_at", Time, "last CES answer"),
    known("people", Int64, "persons added and not removed"),
    known("champions", Int64, "of these, with a champion role"),
    maybe("first_seen_at", Time, "start of the pane of the first event"),
    maybe("last_activity_at", Time, "last event of any kind"),
    maybe("last_use_at", Time, "last usage event"),
    maybe("first_value_at", Time, "first use of the configured first-value feature"),
    maybe("started_at", Time, "fact: start of the contract"),
    maybe("renews_at", Time, "fact: end of the term"),
    maybe("plan", Text, "fact"),
    maybe("segment", Text, "fact"),
    maybe("stage", Text, "fact: lifecycle stage"),
    maybe("owner", Text, "fact: who looks after the account"),
    maybe("seats", Int64, "fact: seats bought"),
    maybe("mrr", Money, "fact: monthly recurring revenue"),
    maybe("features_entitled", Int64, "fact: number of features the plan entitles to"),
    maybe("sentiment", Float, "fact: the owner's judgement, 0-100"),
    maybe("sentiment_at", Time, "event time of that fact"),
    maybe("trained", Float, "fact: training completion, 0-100"),
    maybe("invoices", Float, "fact: billing consistency, 0-100"),
    maybe(
        "other_facts",
        TextMap,
        "facts without a column of their own, as JSON texts; on the row of the shortest window",
    ),
    known("milestones", Int64, "milestones known"),
    known("milestones_done", Int64, "milestones done"),
    known("milestones_overdue", Int64, "milestones whose due time has passed and that are not done"),
    maybe("oldest_overdue_at", Time, "due time of the oldest overdue milestone"),
    known(
        "outcomes",
        TextMap,
        "last outcome by alert id, within the longest window: accepted, done or dismissed; on the row of the shortest window",
    ),
    maybe("left_out", Int64, "other facts and outcomes of the account that did not fit into its rows; null: none"),
];

/// Columns that have a value only on the row of the shortest window, because an account can have many facts and
/// outcomes.
pub const ONCE: [&str; 2] = ["other_facts", "outcomes"];

/// Columns that record what the row was made from.
pub const PROVENANCE: &[Column] = &[
    known("epoch", Int32, "epoch of the log"),
    known("partition", Int32, "partition of the events topic"),
    known("next_offset", Int64, "events below this offset are in the row"),
    known("ordinal", Int64, "order among rows with the same next_offset"),
    maybe("watermark", Time, "watermark when the row was made"),
];

/// Whether a column is a measure of a window, with a twin for the window before.
pub fn is_windowed(name: &str) -> bool {
    WINDOWED.iter().any(|column| column.name == name)
}

/// All columns of the table, in order.
pub fn columns() -> impl Iterator<Item = &'static Column> {
    [KEYS, WINDOWED, PREVIOUS, AS_OF, PROVENANCE].into_iter().flatten()
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| schema_of(TABLE, columns()));

/// The Arrow schema of the table.
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// A builder for rows of the table.
pub fn builder() -> RowBuilder {
    RowBuilder::new(schema(), columns())
}
