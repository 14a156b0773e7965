//! Contracts: an account becomes a customer, leaves and comes back, as far as anybody has said so by then.

use keepwell_core::event::Kind::{self, Contract, Usage};
use keepwell_core::schema::columns::{Columns, number, text};
use keepwell_pipeline::stage::Fate;
use keepwell_verify::compare;
use serde_json::{Value, json};

use crate::{Deployment, Raw, config};

fn us(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

fn raw(kind: Kind, time: &str, mut event: Value) -> Raw {
    let at = format!("2024-03-{time}Z");
    event["occurred_at"] = json!(at);
    Raw { kind, key: None, value: Some(event.to_string().into_bytes()), at_ms: us(&at) / 1000 }
}

fn usage(id: &str, account: &str, time: &str) -> Raw {
    raw(Usage, time, json!({"event_id": id, "account_id": account, "user_id": "u", "feature": "export"}))
}

fn said(id: &str, time: &str, more: Value) -> Raw {
    let mut event = json!({"event_id": id, "account_id": "acme"});
    more.as_object().unwrap().iter().for_each(|(name, value)| event[name] = value.clone());
    raw(Contract, time, event)
}

/// `1 Mar`, for a time in UTC microseconds.
fn day(us: i64) -> String {
    jiff::Timestamp::from_microsecond(us).unwrap().strftime("%-d").to_string()
}

/// The story of one customer.
fn story() -> Vec<Raw> {
    let mut raws = vec![
        usage("u", "acme", "01T10:00:00"),
        said(
            "c1",
            "02T09:00:00",
            json!({"type": "started", "mrr": 4000, "currency": "eur", "seats": 20, "ends_at": "2024-03-12T00:00:00Z"}),
        ),
        said("c2", "05T09:00:00", json!({"type": "changed", "effective_at": "2024-03-04T00:00:00Z", "mrr": 3500.5})),
        // The term ended on the 12th, and three days later the contract has lapsed. On the 18th somebody renews it after all.
        said("c3", "18T09:00:00", json!({"type": "renewed", "effective_at": "2024-03-12T00:00:00Z"})),
        said(
            "c4",
            "20T09:00:00",
            json!({"type": "cancelled", "effective_at": "2024-03-22T00:00:00Z", "reason": "price"}),
        ),
        said("c5", "25T09:00:00", json!({"type": "started", "mrr": 100, "currency": "EUR"})),
    ];
    raws.extend((1..29).map(|day| usage(&format!("z{day}"), "zz", &format!("{day:02}T12:00:00"))));
    raws.sort_by_key(|raw| raw.at_ms);
    raws
}

#[test]
fn a_customer_leaves_and_comes_back_as_far_as_anybody_has_said_so() {
    let deployment = Deployment::of(&story(), config(&[]));
    let rows = compare::where_flag(&deployment.streamed().windows, "final", true).unwrap();
    let columns = Columns::Batch(&rows);
    let (accounts, as_of) = (columns.text("account_id").unwrap(), columns.time("as_of").unwrap());
    let (status, reason) = (columns.text("customer_status").unwrap(), columns.text("churn_reason").unwrap());
    let (since, mrr) = (columns.time("customer_since").unwrap(), columns.decimal("mrr").unwrap());
    let row = |on: &str| {
        let at = us(&format!("2024-03-{on}T00:00:00Z"));
        let row = (0..rows.num_rows()).find(|row| accounts.value(*row) == "acme" && as_of.value(*row) == at).unwrap();
        let since = number(since, row).map(day);
        (text(status, row).map(str::to_owned), since, number(mrr, row), text(reason, row).map(str::to_owned))
    };
    // as of, status, since, revenue in hundredths, why it left
    let expected = [
        ("02", None, None, None, None),
        ("03", Some("active"), Some("2"), Some(400_000), None),
        ("05", Some("active"), Some("2"), Some(400_000), None),
        ("06", Some("active"), Some("2"), Some(350_050), None),
        ("15", Some("active"), Some("2"), Some(350_050), None),
        ("16", Some("churned"), Some("15"), Some(0), Some("not_renewed")),
        ("18", Some("churned"), Some("15"), Some(0), Some("not_renewed")),
        ("19", Some("active"), Some("2"), Some(350_050), None),
        ("22", Some("active"), Some("2"), Some(350_050), None),
        ("23", Some("churned"), Some("22"), Some(0), Some("price")),
        ("26", Some("active"), Some("25"), Some(10_000), None),
    ];
    for (on, status, since, mrr, reason) in expected {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        assert_eq!(row(on), (owned(status), owned(since), mrr, owned(reason)), "as of {on} March");
    }
    assert!(deployment.check() > 33);
}

#[test]
fn who_has_left_has_no_score_and_raises_nothing_until_it_is_back() {
    let deployment = Deployment::of(&story(), config(&[]));
    let health = compare::where_flag(&deployment.streamed().health, "final", true).unwrap();
    let rows = keepwell_core::schema::health::Reader::of(Columns::Batch(&health)).unwrap();
    let mut found = Vec::new();
    for row in (0..health.num_rows()).map(|row| rows.row(row)).filter(|row| row.account_id == "acme") {
        let inactivity = row.triggers.iter().find(|trigger| trigger.name == "inactivity" && trigger.is_news);
        let news = inactivity.map(|trigger| trigger.state);
        let left = row.band.filter(|band| *band == "churned");
        assert_eq!(row.score.is_none(), left.is_some(), "as of {}", day(row.as_of));
        assert_eq!(row.factors.is_empty(), left.is_some(), "as of {}", day(row.as_of));
        let is_after_leaving = found.last().is_some_and(|(_, before, _)| *before == left);
        if !is_after_leaving || news.is_some() {
            found.push((day(row.as_of), left, news));
        }
    }
    let found: Vec<_> = found.iter().map(|(day, left, news)| (day.as_str(), *left, *news)).collect();
    let (left, raised, cleared) = (Some("churned"), Some("raised"), Some("cleared"));
    let expected = [
        ("2", None, None),
        ("5", None, raised),
        ("16", left, cleared),
        ("19", None, raised),
        ("23", left, cleared),
        ("26", None, raised),
    ];
    assert_eq!(found, expected);
    let scores = deployment.records(&deployment.config.topics.scores);
    let last = scores.iter().rfind(|record| record.key.as_deref() == Some(b"acme".as_slice())).unwrap();
    let last: Value = serde_json::from_slice(last.value.as_ref().unwrap()).unwrap();
    assert_eq!(last["customer"], json!({"status": "active", "since": "2024-03-25T09:00:00Z", "churn_reason": null}));
    assert_eq!((&last["mrr"], &last["currency"], &last["renews_at"]), (&json!(100.0), &json!("EUR"), &Value::Null));
}

#[test]
fn a_customer_is_not_retired_and_one_that_has_left_not_before_it_has_been_gone_for_as_long() {
    // Accounts retire after 20 days of silence.
    let mut raws = vec![
        usage("u", "silent", "01T10:00:00"),
        usage("u", "acme", "01T10:00:00"),
        said("c1", "01T11:00:00", json!({"type": "started", "mrr": 1})),
        said("c2", "01T12:00:00", json!({"type": "cancelled", "effective_at": "2024-03-06T00:00:00Z"})),
    ];
    raws.extend((1..32).map(|day| usage(&format!("z{day}"), "zz", &format!("{day:02}T12:00:00"))));
    raws.sort_by_key(|raw| raw.at_ms);
    let deployment = Deployment::of(&raws, config(&[]));
    let rows = compare::where_flag(&deployment.streamed().windows, "final", true).unwrap();
    let columns = Columns::Batch(&rows);
    let (accounts, as_of) = (columns.text("account_id").unwrap(), columns.time("as_of").unwrap());
    let retired = columns.flag("retired").unwrap();
    let last = |account: &str| {
        let row = (0..rows.num_rows()).rfind(|row| accounts.value(*row) == account && retired.value(*row)).unwrap();
        day(as_of.value(row))
    };
    assert_eq!((last("silent"), last("acme")), ("22".to_owned(), "26".to_owned()));
    assert!(deployment.check() > 33);
}

#[test]
fn a_churn_that_is_told_when_all_else_is_long_silent_is_still_told() {
    let uses =
        |days: std::ops::Range<i32>| days.map(|day| usage(&format!("z{day}"), "zz", &format!("{day:02}T12:00:00")));
    let mut before: Vec<Raw> = uses(1..29).collect();
    before.insert(0, said("c1", "01T10:00:00", json!({"type": "started", "mrr": 100})));
    // Both partitions of the contracts have reached the 28th.
    for (id, time) in [("c8", "28T12:00:00"), ("c9", "28T12:01:00")] {
        before.push(raw(Contract, time, json!({"event_id": id, "account_id": "zz", "type": "changed"})));
    }
    // Said on the 3rd, it arrives on the 28th. Accounts retire after 20 days of silence.
    let late = said("c2", "03T10:00:00", json!({"type": "cancelled"}));
    let after: Vec<Raw> = std::iter::once(late).chain(uses(29..32)).collect();
    let deployment = Deployment::in_parts(&[&before, &after], config(&[]));
    let health = compare::where_flag(&deployment.streamed().health, "final", true).unwrap();
    let rows = keepwell_core::schema::health::Reader::of(Columns::Batch(&health)).unwrap();
    let of_acme = (0..health.num_rows()).map(|row| rows.row(row)).filter(|row| row.account_id == "acme");
    let last = of_acme.max_by_key(|row| row.as_of).unwrap();
    assert_eq!((day(last.as_of).as_str(), last.band, last.score), ("31", Some("churned"), None));
    assert!(deployment.check() > 33);
}

#[test]
fn contracts_beyond_the_limits_of_an_account_are_rejected() {
    let said = |n: i64, contract: &str| {
        let id = format!("c{n}");
        said(&id, &format!("02T0{n}:00:00"), json!({"contract_id": contract, "type": "changed", "mrr": n}))
    };
    // limit, events, how many are rejected
    let cases = [
        ("contracts", 2, vec![said(1, "a"), said(2, "b"), said(3, "c"), said(4, "d")], 2),
        ("contract_events", 3, vec![said(1, "a"), said(2, "b"), said(3, "a"), said(4, "b"), said(5, "a")], 2),
    ];
    for (limit, most, raws, rejected) in cases {
        // Together, and one by one.
        for max_records in ["batch.max_records=100", "batch.max_records=1"] {
            let config = config(&[&format!("aggregate.limits.{limit}={most}"), max_records]);
            let fates = Deployment::of(&raws, config).fates.aggregate;
            let over = fates.get(&Fate { name: "over_limit", reason: limit }).copied();
            assert_eq!(over, Some(rejected), "{limit}, {max_records}");
        }
    }
}
