//! The `feature_days` table: adoption per feature and pane. It contains final rows only.

use super::kind::{Int32, Int64, Maybe, Text, Time};
use super::table;

table! {
    "feature_days/1":
    account_id: Text = "account";
    as_of: Time = "end of the pane, exclusive";
    feature: Text = "feature used";
    events: Int64 = "usage events";
    uses: Int64 = "sum of count";
    users: Int64 = "distinct users";
    duration_ms: Maybe<Int64> = "sum of duration_ms; null where no event tells";
    errors: Maybe<Int64> = "sum of errors; null where no event tells";
    epoch: Int32 = "epoch of the log";
    partition: Int32 = "partition of the events topic";
    next_offset: Int64 = "events below this offset are in the row";
    ordinal: Int64 = "order among rows with the same next_offset";
}
