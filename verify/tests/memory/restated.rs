//! Revenue by calendar period: rows that are replaced, books that are closed, and currencies.

use keepwell_core::calendar::PeriodKind::Month;
use keepwell_core::event::Kind::Account;
use keepwell_core::schema::revenue::Row;
use serde_json::json;

use crate::revenue::{contract, deployment, ms, over, raw, rows};

#[test]
fn a_row_to_date_that_is_not_true_any_more_is_replaced() {
    let told = [
        contract("1", -5, json!({"account_id": "acme", "type": "started", "mrr": 500, "currency": "EUR"})),
        // Told on 2 April: it had left on 30 March. And of another account: it is deleted.
        contract("2", 33, json!({"account_id": "acme", "type": "cancelled", "effective_at": ms(30)})),
        contract("3", -5, json!({"account_id": "gone", "type": "started", "mrr": 70, "currency": "EUR"})),
        raw(Account, ms(35), "4", json!({"account_id": "gone", "type": "deleted"})),
    ];
    let deployment = deployment(&told, over(&[Month], &[]));
    let shown = |row: &Row<'_>| {
        let day = |us: i64| us / 86_400_000_000 - 19_782;
        let (opening, closing) = (row.opening.unwrap() / 100, row.closing.unwrap() / 100);
        let is_april = row.period_start == ms(32) * 1000;
        is_april.then(|| format!("as of day {}, final {}: {opening} to {closing}", day(row.as_of), row.is_final))
    };
    assert_eq!(
        rows(&deployment, "acme", shown),
        ["as of day 33, final false: 500 to 500", "as of day 34, final false: 0 to 0"]
    );
    assert_eq!(
        rows(&deployment, "gone", shown),
        ["as of day 33, final false: 70 to 70", "as of day 36, final false: 0 to 0"]
    );
    deployment.check();
}

#[test]
fn a_closed_book_stays_closed_on_the_first_day_after_it_and_a_first_import_is_no_news() {
    let config = over(&[Month], &["revenue.late=book_now", "revenue.grace=20d"]);
    let told = [
        contract("1", -5, json!({"account_id": "acme", "type": "started", "mrr": 500, "ends_at": ms(25)})),
        contract("2", 32, json!({"account_id": "acme", "type": "renewed", "ends_at": ms(400)})),
        // Told on 2 April of a contract that runs since February.
        contract("3", 33, json!({"account_id": "late", "type": "started", "mrr": 40, "effective_at": ms(-9)})),
    ];
    let deployment = deployment(&told, config);
    let shown = |row: &Row<'_>| {
        let Row { revision, renewals_due, renewals_made, .. } = row;
        let day = row.period_start / 86_400_000_000 - 19_782;
        let (opening, new) = (row.opening.unwrap() / 100, row.new.unwrap() / 100);
        let made = format!("{renewals_made} of {renewals_due}");
        row.is_final.then(|| format!("day {day}, revision {revision}: {opening} and {new} new, {made}"))
    };
    assert_eq!(
        rows(&deployment, "acme", shown),
        [
            "day -28, revision 0: 0 and 500 new, 0 of 0",
            "day 1, revision 0: 500 and 0 new, 0 of 1",
            "day 32, revision 0: 500 and 0 new, 0 of 0"
        ]
    );
    assert_eq!(rows(&deployment, "late", shown), ["day 32, revision 0: 40 and 0 new, 0 of 0"]);
    deployment.check();
}

#[test]
fn amounts_of_several_currencies_are_never_added() {
    let start = |id: &str, contract_id: &str, mrr: i64, currency: &str| {
        let more = json!({"account_id": "acme", "contract_id": contract_id, "type": "started", "mrr": mrr, "currency": currency, "ends_at": ms(20)});
        contract(id, -5, more)
    };
    let renew = |id: &str, contract_id: &str, currency: &str| {
        let more = json!({"account_id": "acme", "contract_id": contract_id, "type": "renewed", "currency": currency, "ends_at": ms(400)});
        contract(id, 18, more)
    };
    let shown = |row: &Row<'_>| {
        let Row { currency, opening, renewals_due, renewals_made, renewals_due_mrr, renewals_made_mrr, .. } = row;
        let is_march = row.is_final && row.period_start == ms(1) * 1000;
        let renewals = (*renewals_due, *renewals_made, *renewals_due_mrr, *renewals_made_mrr);
        is_march.then(|| format!("{currency:?} {opening:?} {renewals:?}"))
    };
    let two =
        [start("1", "a", 100, "EUR"), start("2", "b", 200, "USD"), renew("3", "a", "EUR"), renew("4", "b", "USD")];
    let of_two = deployment(&two, over(&[Month], &[]));
    assert_eq!(rows(&of_two, "acme", shown), ["None None (2, 2, None, None)"]);
    of_two.check();
    let other = [start("1", "a", 100, "EUR"), renew("2", "a", "USD")];
    let of_other = deployment(&other, over(&[Month], &[]));
    assert_eq!(rows(&of_other, "acme", shown), ["None None (1, 1, None, None)"]);
    of_other.check();
}
