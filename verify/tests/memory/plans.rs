//! Success plans: customers with the plan of their segment, day by day.

use keepwell_core::event::Kind::{self, Account, Contract, Usage};
use keepwell_core::schema::columns::{Columns, number, text};
use serde_json::{Value, json};

use crate::{Deployment, Raw, config};

fn us(time: &str) -> i64 {
    time.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

fn raw(kind: Kind, account: &str, time: &str, mut event: Value) -> Raw {
    let at = format!("2024-03-{time}:00:00Z");
    event["occurred_at"] = json!(at);
    event["account_id"] = json!(account);
    event["event_id"] = json!(format!("{account} {} {time}", kind.name()));
    Raw { kind, key: None, value: Some(event.to_string().into_bytes()), at_ms: us(&at) / 1000 }
}

fn story() -> Vec<Raw> {
    let milestone = |id: &str, done: &str| json!({"type": "milestone", "milestone": {"id": id, "done_at": format!("2024-03-{done}:00:00Z")}});
    let mut raws = vec![
        raw(Account, "small", "01T10", json!({"type": "upsert", "facts": {"segment": "smb"}})),
        raw(Contract, "small", "02T09", json!({"type": "started", "mrr": 10, "currency": "EUR"})),
        raw(Usage, "small", "02T12", json!({"feature": "dashboard"})),
        raw(Usage, "small", "06T10", json!({"feature": "import"})),
        raw(Usage, "small", "07T10", json!({"feature": "import"})),
        raw(Account, "small", "08T11", milestone("go-live", "08T10")),
        raw(
            Account,
            "large",
            "01T10",
            json!({"type": "upsert", "facts": {"segment": "enterprise", "started_at": "2024-03-02T00:00:00Z"}}),
        ),
        raw(Account, "large", "04T09", milestone("go-live", "04T08")),
        raw(Usage, "nobody's", "01T10", json!({"feature": "import"})),
        // What everybody waits for.
        raw(Usage, "nobody's", "12T10", json!({"feature": "import"})),
    ];
    raws.sort_by_key(|raw| raw.at_ms);
    raws
}

/// Plan, items due, done and overdue, next item and its day, first value and when it is due, as of a day of March.
fn line(deployment: &Deployment, account: &str, day: i8) -> String {
    let rows = deployment.rows(true);
    let columns = Columns::Batch(&rows);
    let (accounts, ends) = (columns.text("account_id").unwrap(), columns.time("as_of").unwrap());
    let end_us = us(&format!("2024-03-{day:02}T00:00:00Z"));
    let row = (0..rows.num_rows()).find(|row| accounts.value(*row) == account && ends.value(*row) == end_us).unwrap();
    let count = |name: &str| number(columns.int(name).unwrap(), row).map_or("-".to_owned(), |count| count.to_string());
    let word = |name: &str| text(columns.text(name).unwrap(), row).unwrap_or("-").to_owned();
    let time = |name: &str| {
        let us = number(columns.time(name).unwrap(), row).map(|us| jiff::Timestamp::from_microsecond(us).unwrap());
        us.map_or("-".to_owned(), |time| time.strftime("%dT%H").to_string())
    };
    format!(
        "{} {}: {} due, {} done, {} overdue; {} {}; {} of {}",
        word("success_plan"),
        count("plan_items"),
        count("plan_items_due"),
        count("plan_items_done"),
        count("plan_items_overdue"),
        word("plan_next_item"),
        time("plan_next_due_at"),
        time("first_value_at"),
        time("first_value_due_at")
    )
}

#[test]
fn a_customer_has_the_plan_of_its_segment_from_its_start_and_items_are_done_by_use_or_by_milestone() {
    let deployment = Deployment::of(&story(), config(&[]));
    // account, as of this day of March, its plan
    let cases = [
        ("small", 2, "- -: - due, - done, - overdue; - -; - of -"),
        ("small", 3, "small 3: 0 due, 1 done, 0 overdue; import 05T09; - of 05T09"),
        ("small", 6, "small 3: 2 due, 1 done, 1 overdue; import 05T09; - of 05T09"),
        ("small", 7, "small 3: 2 due, 2 done, 0 overdue; go-live 09T09; 06T10 of 05T09"),
        ("small", 9, "small 3: 2 due, 3 done, 0 overdue; - -; 06T10 of 05T09"),
        ("large", 3, "all 2: 0 due, 0 done, 0 overdue; training 07T00; - of 11T00"),
        ("large", 5, "all 2: 0 due, 1 done, 0 overdue; training 07T00; 04T08 of 11T00"),
        ("large", 7, "all 2: 1 due, 1 done, 1 overdue; training 07T00; 04T08 of 11T00"),
        ("nobody's", 9, "- -: - due, - done, - overdue; - -; - of -"),
    ];
    for (account, day, expected) in cases {
        assert_eq!(line(&deployment, account, day), expected, "{account} as of {day} March");
    }
    assert!(deployment.check() > 20);
}

#[test]
fn a_plan_is_the_same_after_restarts_and_a_start_that_is_told_late_makes_it_then() {
    let raws = story();
    let whole = Deployment::of(&raws, config(&[]));
    let parts: Vec<&[Raw]> = raws.chunks(3).collect();
    Deployment::in_parts(&parts, config(&[])).finals().assert_same(&whole.finals());
    // On 5 March somebody says that the contract began on the 2nd.
    let late = raw(
        Contract,
        "small",
        "05T09",
        json!({"type": "started", "effective_at": "2024-03-02T09:00:00Z", "mrr": 10, "currency": "EUR"}),
    );
    let mut told: Vec<Raw> = raws.into_iter().filter(|raw| raw.kind != Contract).chain([late]).collect();
    told.sort_by_key(|raw| raw.at_ms);
    let told = Deployment::of(&told, config(&[]));
    for (day, expected) in [
        (5, "- -: - due, - done, - overdue; - -; - of -"),
        (6, "small 3: 2 due, 1 done, 1 overdue; import 05T09; - of 05T09"),
        (7, "small 3: 2 due, 2 done, 0 overdue; go-live 09T09; 06T10 of 05T09"),
    ] {
        assert_eq!(line(&told, "small", day), expected, "as of {day} March");
    }
}

#[test]
fn what_a_customer_did_in_its_first_days_grows_stays_and_is_forgotten_with_its_panes() {
    let used = |day: u8, user: &str, feature: &str| {
        let event = json!({"feature": feature, "user_id": user, "count": 2});
        raw(Usage, "acme", &format!("{day:02}T12"), event)
    };
    let mut raws = vec![
        raw(Usage, "acme", "01T10", json!({"feature": "import", "user_id": "before"})),
        raw(Contract, "acme", "02T09", json!({"type": "started", "mrr": 10, "currency": "EUR"})),
        used(2, "ann", "dashboard"),
        used(15, "bob", "import"),
        used(16, "cem", "export"),
        raw(Usage, "other", "31T10", json!({"feature": "import"})),
    ];
    raws.sort_by_key(|raw| raw.at_ms);
    let deployment = Deployment::of(&raws, config(&[]));
    let rows = deployment.rows(true);
    let columns = Columns::Batch(&rows);
    let (accounts, ends) = (columns.text("account_id").unwrap(), columns.time("as_of").unwrap());
    // as of this day of March: users, uses and features of the first 14 days, users of the first 60
    let cases = [
        (2, [None; 4]),
        (3, [Some(1), Some(2), Some(1), Some(1)]),
        (16, [Some(2), Some(4), Some(2), Some(2)]),
        (17, [Some(2), Some(4), Some(2), Some(3)]),
        (30, [Some(2), Some(4), Some(2), Some(3)]),
        (31, [None; 4]),
    ];
    for (day, expected) in cases {
        let end_us = us(&format!("2024-03-{day:02}T00:00:00Z"));
        let row =
            (0..rows.num_rows()).find(|row| accounts.value(*row) == "acme" && ends.value(*row) == end_us).unwrap();
        let names = ["first_14d_active_users", "first_14d_uses", "first_14d_features_used", "first_60d_active_users"];
        let found = names.map(|name| number(columns.int(name).unwrap(), row));
        assert_eq!(found, expected, "as of {day} March");
    }
    assert!(deployment.check() > 28);
}
