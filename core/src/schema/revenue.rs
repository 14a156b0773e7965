//! The `revenue` table: what became of the revenue of an account in a calendar period.
//!
//! Amounts are monthly recurring revenue in the currency of the contracts. They are null where a price is not known, or
//! where there are several currencies.

use super::kind::{Flag, Int32, Int64, Maybe, Money, Text, Time};
use super::table;

table! {
    "revenue/1":
    account_id: Text = "account";
    period: Text = "week, month, quarter or year";
    period_start: Time = "start of the period, inclusive";
    period_end: Time = "end of the period, exclusive";
    as_of: Time = "end of the pane at whose close the row was written; what was known by then is in it";
    is_final as "final": Flag = "true: the period has ended; false: to date";
    revision: Int32 = "0: the first report; each later report with other figures adds 1; after a deletion it begins again";
    currency: Maybe<Text> = "currency of the contracts; null where none is told, or several are";
    opening: Maybe<Money> = "revenue just before the start";
    new: Maybe<Money> = "closing of an account that opened with 0 and never paid before";
    expansion: Maybe<Money> = "closing less opening, where it is more";
    contraction: Maybe<Money> = "opening less closing, where it is less but not 0";
    churned: Maybe<Money> = "opening, where closing is 0; what is lost with seats, if revenue.seat_removal is churn";
    reactivated: Maybe<Money> = "closing of an account that opened with 0 and paid before";
    closing: Maybe<Money> = "revenue just before the end; of a period that runs, before as_of";
    gross_expansion: Maybe<Money> = "sum of single rises, where opening is not 0";
    gross_contraction: Maybe<Money> = "sum of single falls that are not to 0, where opening is not 0";
    gross_churned: Maybe<Money> = "sum of single falls to 0, where opening is not 0";
    earned: Maybe<Money> = "each price for its share of the month, rounded half up once a month; so the months sum to their quarter";
    is_customer as "customer_at_start": Flag = "true: it paid just before the start, or its price was not known; the cohort of the period";
    is_churned as "churned_logo": Flag = "true: it is in the cohort, and no contract is paid just before the end";
    renewals_due: Int64 = "terms that ended in the period";
    renewals_made: Int64 = "those of them that were renewed";
    renewals_due_mrr: Maybe<Money> = "revenue of the terms that ended";
    renewals_made_mrr: Maybe<Money> = "of it what was renewed; what is sold on top does not count";
    segment: Maybe<Text> = "fact as of the start, as known then; of an account without contracts then, as of this row";
    owner: Maybe<Text> = "fact as of the start, in the same way";
    plan: Maybe<Text> = "fact as of the start, in the same way";
    epoch: Int32 = "epoch of the log";
    partition: Int32 = "partition of the events topic";
    next_offset: Int64 = "events below this offset are in the row";
    ordinal: Int64 = "order among rows with the same next_offset";
}
