//! The `health` table: the score of an account, its factors and its triggers. It contains live and final rows.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;

use super::kind::{Flag, Int32, Int64, List, Maybe, Money, Points, Text, Time};
use super::{position, table};

/// The factors of a score.
pub mod factor {
    use super::super::kind::{Float, Maybe, Points, Text, Time};
    use super::super::table;

    table! {
        name: Text = "factor, as the model names it; (start) and (limit): where an additive model begins, and what lay beyond 0 or 100";
        group: Maybe<Text> = "its group, as the model names it";
        value: Maybe<Float> = "what its SQL gave, now or where it is carried from; null: unknown";
        normalised: Maybe<Points> = "its points, rounded half-up to 6 decimals; null: left out of the score";
        weight: Points = "weight in the model, percent, to 6 decimals";
        effective_weight: Points = "weight among the factors that count, percent, to 6 decimals; they sum to 100, but for additive models";
        contribution: Maybe<Points> = "its part of the score: normalised * effective_weight / 100, to 6 decimals; the parts sum to the score";
        missing: Maybe<Text> = "what stood in for an unknown value: reweight, zero, neutral or carry";
        carried_from: Maybe<Time> = "as_of of the final row its value is carried from";
    }
}

/// The factors that moved a score.
pub mod driver {
    use super::super::kind::{Points, Text};
    use super::super::table;

    table! {
        name: Text = "factor, as the model names it";
        delta: Points = "its contribution less that of the previous final row";
    }
}

/// The triggers that are active or have just ended.
pub mod trigger {
    use super::super::kind::{Flag, Json, Maybe, Text, Time};
    use super::super::table;

    table! {
        name: Text = "trigger, as the model names it";
        state: Text = "pending: holds, not for long enough or too soon after the last episode; raised: an episode begins; active: it goes on; closed: an outcome ended it, it still holds; cleared: it is over";
        since: Time = "as_of of the final row since which it holds (pending) or at which it was raised; on live rows of a new one, of this row";
        is_news as "news": Flag = "true: this row is the first to say raised, closed or cleared; an alert goes out" => hidden;
        severity: Text = "from the model: low, medium or high";
        playbook: Text = "what to do, from the model";
        owner_role: Text = "role that acts, from the model";
        evidence: Maybe<Json> = "JSON object: the columns its SQL looks at, as they are on this row";
        outcome: Maybe<Text> = "last outcome of its playbook: accepted, done or dismissed";
    }
}

table! {
    "health/2":
    account_id: Text = "account";
    as_of: Time = "end of the windows, exclusive; a pane end";
    is_final as "final": Flag = "true: the pane has closed and this row never changes; false: live";
    is_retired as "retired": Flag = "true: silent for retire_after; the account's last row";
    is_deleted as "deleted": Flag = "true: the account was deleted; there is no score" => hidden;
    score: Maybe<Points> = "0-100, the sum of the contributions; null: no factor is known, or the customer has left";
    display: Maybe<Points> = "the score as it is shown: on the model's scale, rounded half-up once";
    band: Maybe<Text> = "band; unknown where coverage is below the model's minimum; churned or expired where the customer has left";
    band_since: Maybe<Time> = "as_of of the final row since which the account is in its band; on live rows of a new one, of this row";
    previous_as_of: Maybe<Time> = "as_of of the previous final row" => previous.as_of;
    previous_score: Maybe<Points> = "score of the previous final row" => previous.score;
    previous_band: Maybe<Text> = "band of the previous final row" => previous.band;
    delta: Maybe<Points> = "score less previous_score";
    coverage: Points = "share of the weights whose value is known or carried, percent";
    baseline_score: Maybe<Points> = "score of the first final row at which the account was as old as the model's baseline_day";
    factors: List<factor::Rows> = "what the score is made of, in the order of the model";
    drivers: List<driver::Rows> = "the factors that moved the score most since the previous final row, at most 3";
    triggers: List<trigger::Rows> = "what the model's triggers say; they are raised and cleared by final rows";
    segment: Maybe<Text> = "fact";
    stage: Maybe<Text> = "stage of the lifecycle: the fact, else by the rules of the model file";
    stage_since: Maybe<Time> = "as_of of the final row at which it entered the stage; on live rows of a new one, of this row; null: the model file has no stages, or it has left" => lifecycle.since;
    next_stage: Maybe<Text> = "stage that its rules point to, not for long enough yet" => lifecycle.next;
    next_stage_since: Maybe<Time> = "as_of of the final row since which they do" => lifecycle.next_since;
    stage_rules: Maybe<Text> = "rules of the stages, such as adoption=+;value=-1709251200000000: whether each counts as true, and since when the contrary holds" => hidden;
    stage_owner_role: Maybe<Text> = "role that looks after accounts in this stage, from the model file" => lifecycle.owner_role;
    stage_action: Maybe<Text> = "what that role does, from the model file" => lifecycle.action;
    stage_metric: Maybe<Text> = "name of the stage's headline metric, from the model file" => lifecycle.metric;
    stage_metric_value: Maybe<Points> = "the metric on this row, rounded half-up to 6 decimals; null: unknown" => lifecycle.value;
    owner: Maybe<Text> = "fact: who looks after the account";
    customer_status: Maybe<Text> = "by its contracts: upcoming, trial, active, paused, churned or expired" => customer.status;
    customer_since: Maybe<Time> = "since when it is a customer; of one that churned, when that was; of one that never paid, when its first contract began" => customer.since;
    churn_reason: Maybe<Text> = "why it churned: the sender's word, or not_renewed" => customer.churn_reason;
    plan: Maybe<Text> = "fact";
    mrr: Maybe<Money> = "monthly recurring revenue";
    currency: Maybe<Text> = "its currency";
    renews_at: Maybe<Time> = "first end of a term";
    model: Text = "name of the model" => model.name;
    model_version: Int64 = "version of the model" => model.version;
    is_changed as "changed": Flag = "true: differs from what was last published for the account, and is not older" => hidden;
    epoch: Int32 = "epoch of the log" => provenance.epoch;
    partition: Int32 = "partition of the windows topic" => provenance.partition;
    next_offset: Int64 = "window rows below this offset are in the row" => provenance.next_offset;
    ordinal: Int64 = "order among rows with the same next_offset" => provenance.ordinal;
    events_next_offset: Int64 = "events below this offset are in the row" => provenance.events_next_offset;
    watermark: Maybe<Time> = "watermark when the window rows were made" => provenance.watermark;
}

/// The rows with these lists as their factors.
///
/// # Errors
/// [`ArrowError`] when there are not as many lists as rows, or they are of another type.
pub fn with_factors(rows: &RecordBatch, factors: ArrayRef) -> Result<RecordBatch, ArrowError> {
    const FACTORS: usize = position(COLUMNS, "factors");
    let mut columns = rows.columns().to_vec();
    columns[FACTORS] = factors;
    RecordBatch::try_new(rows.schema(), columns)
}

/// A time in UTC microseconds as RFC 3339. A time out of the years -9999 to 9999 is written as a number.
pub fn rfc3339(us: i64) -> String {
    match jiff::Timestamp::from_microsecond(us) {
        Ok(time) => time.to_string(),
        // The last day of the year 9999, which means "no end", is beyond every timestamp, since zones differ by a day.
        Err(_) => {
            let time = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0).checked_add(jiff::SignedDuration::from_micros(us));
            time.map_or_else(|_| us.to_string(), |time| format!("{time}Z"))
        }
    }
}

/// Id of an episode of a trigger, from its raise to its end. It consists of the account, the trigger and the time of
/// the raise. `since` is RFC 3339, as [`rfc3339`] writes it.
pub fn alert_id(account_id: &str, trigger: &str, since: &str) -> String {
    format!("{account_id}/{trigger}/{since}")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn every_time_that_an_input_can_have_is_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_500_000, "1970-01-01T00:00:01.5Z"),
            (253_402_214_400_000_000, "9999-12-31T00:00:00Z"),
            (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
            (253_402_300_800_000_000, "253402300800000000"),
        ];
        for (us, expected) in cases {
            assert_eq!(rfc3339(us), expected);
        }
    }
}
