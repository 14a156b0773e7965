//! Inputs that went wrong for users of other systems, from public reports. Each case states the right result, and the
//! oracle must agree.

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use keepwell_core::event::Kind::{self, Account, Person, Survey, Ticket, Usage};
use keepwell_pipeline::record::Message;
use keepwell_pipeline::stage::Fate;

use crate::{Deployment, Raw, config, count};

/// An account, a column of its seven-day row at the end of the second day, and the value (`None` for null).
type Cell = (&'static str, &'static str, Option<f64>);

struct Case {
    /// What the case is, and who reported it.
    name: &'static str,
    lines: Vec<(Kind, String)>,
    cells: Vec<Cell>,
    /// Fates of ingest: `name`, or `name reason`.
    fates: &'static [(&'static str, u64)],
}

/// An event a day later, so that the second day closes.
fn later() -> (Kind, String) {
    use_of("clock", "zz", "03T00:00:00Z")
}

fn use_of(id: &str, account: &str, at: &str) -> (Kind, String) {
    let text = format!(
        r#"{{"event_id":"{id}","account_id":"{account}","user_id":"u","feature":"api","occurred_at":"2024-03-{at}"}}"#
    );
    (Usage, text)
}

fn of(kind: Kind, id: &str, at: &str, more: &str) -> (Kind, String) {
    (kind, format!(r#"{{"event_id":"{id}","account_id":"a","occurred_at":"2024-03-{at}",{more}}}"#))
}

fn call(id: &str, at: &str, more: &str) -> (Kind, String) {
    let text = format!(
        r#"{{"type":"track","messageId":"{id}","event":"export","originalTimestamp":"2024-03-{at}","sentAt":"2024-03-{at}",{more}}}"#
    );
    (Usage, text)
}

fn tickets() -> Vec<Case> {
    vec![
        Case {
            name: "steps of a ticket in one second: fivetran/dbt_zendesk pull request 50, constructorfabric/insight issue 3485",
            lines: vec![
                of(Ticket, "9", "02T10:00:00Z", r#""ticket_id":"T","type":"opened""#),
                of(Ticket, "10", "02T10:00:00Z", r#""ticket_id":"T","type":"resolved""#),
                later(),
            ],
            cells: vec![
                ("a", "tickets_opened", Some(1.0)),
                ("a", "tickets_resolved", Some(1.0)),
                ("a", "tickets_backlog", Some(0.0)),
            ],
            fates: &[],
        },
        Case {
            name: "reopened and ended in one second: what was closed stays closed, what was open stays open",
            lines: vec![
                of(Ticket, "1", "02T09:00:00Z", r#""ticket_id":"closed","type":"opened""#),
                of(Ticket, "2", "02T09:30:00Z", r#""ticket_id":"closed","type":"resolved""#),
                of(Ticket, "3", "02T10:00:00Z", r#""ticket_id":"closed","type":"reopened""#),
                of(Ticket, "4", "02T10:00:00Z", r#""ticket_id":"closed","type":"resolved""#),
                of(Ticket, "5", "02T10:00:00Z", r#""ticket_id":"open","type":"opened","priority":"high""#),
                of(Ticket, "6", "02T11:00:00Z", r#""ticket_id":"open","type":"reopened""#),
                of(Ticket, "7", "02T11:00:00Z", r#""ticket_id":"open","type":"closed""#),
                later(),
            ],
            cells: vec![
                ("a", "tickets_backlog", Some(1.0)),
                ("a", "tickets_backlog_high", Some(1.0)),
                ("a", "tickets_resolved", Some(1.0)),
                ("a", "resolution_ms_mean", Some(3_600_000.0)),
                ("a", "tickets_reopened", Some(2.0)),
            ],
            fates: &[],
        },
        Case {
            name: "answered before it was opened: fivetran/dbt_zendesk issues 49 and 53, dust-tt/dust pull request 9330",
            lines: vec![
                of(Ticket, "1", "02T09:59:59Z", r#""ticket_id":"T","type":"responded""#),
                of(Ticket, "2", "02T10:00:00Z", r#""ticket_id":"T","type":"opened""#),
                later(),
            ],
            cells: vec![
                ("a", "first_responses", Some(1.0)),
                ("a", "first_response_ms_mean", Some(0.0)),
                ("a", "tickets_backlog", Some(1.0)),
            ],
            fates: &[],
        },
    ]
}

fn answers_and_ids() -> Vec<Case> {
    vec![
        Case {
            name: "second answers and ratings: PostHog/posthog-js issue 2075, singer-io/tap-zendesk pull request 37",
            lines: vec![
                of(Ticket, "t1", "01T10:00:00Z", r#""ticket_id":"7","type":"opened""#),
                of(Ticket, "t3", "02T11:00:00Z", r#""ticket_id":"7","type":"rated","csat":1"#),
                of(Ticket, "t4", "02T11:05:00Z", r#""ticket_id":"7","type":"rated","csat":5"#),
                of(Survey, "s1", "02T10:00:00Z", r#""user_id":"u1","survey":"nps","score":3"#),
                of(Survey, "s2", "02T10:00:20Z", r#""user_id":"u1","survey":"nps","score":9"#),
                of(Survey, "s3", "02T11:00:00Z", r#""user_id":"u2","survey":"nps","score":10"#),
                of(Survey, "s4", "02T11:00:01Z", r#""user_id":"u2","survey":"nps","score":10"#),
                of(Survey, "s5", "02T12:00:00Z", r#""survey":"csat","score":1"#),
                of(Survey, "s6", "02T12:00:00Z", r#""survey":"csat","score":5,"scale_max":7"#),
                later(),
            ],
            cells: vec![
                ("a", "nps_responses", Some(2.0)),
                ("a", "nps", Some(100.0)),
                ("a", "nps_detractors", Some(0.0)),
                ("a", "csat_responses", Some(2.0)),
                ("a", "csat_low", Some(1.0)),
                ("a", "ticket_csat_count", Some(1.0)),
                ("a", "ticket_csat_mean", Some(5.0)),
                ("a", "ticket_csat_low", Some(0.0)),
            ],
            fates: &[],
        },
        Case {
            name: "ids that source systems share: Wave-RF/WaveHouse issue 222",
            lines: vec![
                use_of("1", "a", "02T10:00:00Z"),
                of(Survey, "1", "02T14:00:00Z", r#""user_id":"u","survey":"nps","score":3"#),
                later(),
            ],
            cells: vec![("a", "events", Some(1.0)), ("a", "nps_responses", Some(1.0)), ("a", "nps", Some(-100.0))],
            fates: &[],
        },
    ]
}

fn accounts() -> Vec<Case> {
    let upsert =
        |id: &str, facts: &str| of(Account, id, "01T09:00:00Z", &format!(r#""type":"upsert","facts":{{{facts}}}"#));
    vec![
        Case {
            name: "two updates in one second: Alanaktion/phproject issue 334, supaglue-labs/supaglue issue 532",
            lines: vec![upsert("9", r#""seats":5"#), upsert("10", r#""seats":50"#), later()],
            cells: vec![("a", "seats", Some(50.0))],
            fates: &[],
        },
        Case {
            name: "null clears: PostHog/posthog pull request 99229, SalesforceCommerceCloud/b2c-crm-sync issue 276",
            lines: vec![
                of(Person, "1", "02T08:00:00Z", r#""user_id":"u","type":"added","role":"champion""#),
                of(Person, "2", "02T09:00:00Z", r#""user_id":"u","type":"role_changed","role":null"#),
                of(
                    Account,
                    "m1",
                    "01T09:00:00Z",
                    r#""type":"milestone","milestone":{"id":"go-live","due_at":"2024-03-02T00:00:00Z","done_at":"2024-03-01T12:00:00Z"}"#,
                ),
                of(Account, "m2", "02T10:00:00Z", r#""type":"milestone","milestone":{"id":"go-live","done_at":null}"#),
                of(
                    Account,
                    "m3",
                    "01T09:00:00Z",
                    r#""type":"milestone","milestone":{"id":"training","due_at":"2024-03-02T00:00:00Z"}"#,
                ),
                of(Account, "m4", "02T10:00:00Z", r#""type":"milestone","milestone":{"id":"training","due_at":null}"#),
                later(),
            ],
            cells: vec![
                ("a", "champions", Some(0.0)),
                ("a", "champions_lost", Some(1.0)),
                ("a", "milestones", Some(2.0)),
                ("a", "milestones_done", Some(0.0)),
                ("a", "milestones_overdue", Some(1.0)),
            ],
            fates: &[],
        },
        Case {
            name: "no end, as 9999-12-31: joestelmach/natty issue 271, apache/datafusion issue 1360, apache/arrow issue 41266",
            lines: vec![
                upsert("1", r#""seats":5,"renews_at":"9999-12-31T23:59:59Z""#),
                of(
                    Account,
                    "2",
                    "01T09:00:00Z",
                    r#""type":"upsert","facts":{"mrr":7},"valid_until":"9999-12-31T00:00:00Z""#,
                ),
                upsert("3", r#""sentiment":9,"renews_at":253402300799000"#),
                upsert("4", r#""trained":9,"renews_at":1000000000000000"#),
                later(),
            ],
            cells: vec![
                ("a", "seats", Some(5.0)),
                ("a", "mrr", Some(7.0)),
                ("a", "sentiment", Some(9.0)),
                ("a", "trained", None),
            ],
            fates: &[("rejected bad_time", 1)],
        },
    ]
}

fn uses() -> Vec<Case> {
    vec![
        Case {
            name: "an event after it was received: segmentio/analytics-react-native issue 977, laminardb/laminardb pull request 388",
            lines: vec![
                call("1", "01T12:00:00Z", r#""userId":"u","groupId":"a","receivedAt":"2024-03-01T12:00:00Z""#),
                (
                    Usage,
                    r#"{"type":"track","messageId":"2","event":"export","userId":"u","groupId":"b","originalTimestamp":"2024-05-31T12:00:00Z","sentAt":"2024-03-01T12:00:00Z","receivedAt":"2024-03-01T12:00:00Z"}"#
                        .to_owned(),
                ),
                later(),
            ],
            cells: vec![("a", "events", Some(1.0))],
            fates: &[("rejected future", 1), ("emitted", 2)],
        },
        Case {
            name: "empty texts: rudderlabs/rudder-sdk-js issue 201",
            lines: vec![
                call("r1", "02T10:00:00Z", r#""userId":"","anonymousId":"v1","groupId":"a""#),
                call("r2", "02T11:00:00Z", r#""userId":"","anonymousId":"v2","groupId":"","context":{"groupId":"a"}"#),
                call("r3", "02T12:00:00Z", r#""userId":"u3","anonymousId":"","groupId":"a","context":{"groupId":""}"#),
                call("r4", "02T12:00:00Z", r#""userId":"u4","groupId":"""#),
                of(Ticket, "t1", "02T12:00:00Z", r#""ticket_id":"7","type":"opened","priority":"","category":"","user_id":"""#),
                later(),
            ],
            cells: vec![
                ("a", "events", Some(3.0)),
                ("a", "active_users", Some(3.0)),
                ("a", "tickets_opened_normal", Some(1.0)),
            ],
            fates: &[("rejected no_account", 1), ("emitted", 5)],
        },
        Case {
            name: "PHP's empty object, and fields of the other form: jsonmodel/jsonmodel issue 163, svix/svix-webhooks pull request 2060",
            lines: vec![
                of(Usage, "1", "02T11:00:00Z", r#""user_id":"u","feature":"api","context":"web","timestamp":"soon""#),
                call("2", "02T10:00:00Z", r#""userId":"u","groupId":"a","properties":[]"#),
                later(),
            ],
            cells: vec![("a", "events", Some(2.0))],
            fates: &[("emitted", 3)],
        },
        Case {
            name: "numbers as ids, a count of 0, a BOM, calls that are no use",
            lines: vec![
                (Usage, r#"{"event_id":1,"account_id":7,"user_id":8,"feature":"f","occurred_at":"2024-03-02T10:00:00Z","count":0,"errors":2}"#.to_owned()),
                (Usage, format!("\u{feff}{}", use_of("2", "7", "02T10:00:00Z").1)),
                call("3", "02T10:00:00Z", r#""userId":"u","groupId":"7""#),
                (Usage, r#"{"type":"page","messageId":"4","name":"Home","userId":"u","timestamp":"2024-03-02T10:00:00Z"}"#.to_owned()),
                later(),
            ],
            cells: vec![
                ("7", "events", Some(3.0)),
                ("7", "uses", Some(2.0)),
                ("7", "errors", Some(2.0)),
                ("7", "error_rate", None),
            ],
            fates: &[("ignored page", 1), ("emitted", 4)],
        },
    ]
}

fn cell(deployment: &Deployment, account: &str, column: &str) -> Option<f64> {
    let layout = deployment.config.aggregate.layout();
    let rows = keepwell_verify::compare::over(&deployment.rows(true), &layout, "7d").unwrap();
    let texts = |name: &str| rows.column_by_name(name).unwrap().as_string::<i32>().clone();
    let ids = texts("account_id");
    let row = (0..rows.num_rows()).rfind(|row| ids.value(*row) == account);
    assert!(row.is_some() && rows.column_by_name(column).is_some(), "no row of {account}, or no column {column}");
    let (row, column) = (row.unwrap(), rows.column_by_name(column).unwrap());
    let values = cast(column, &DataType::Float64).unwrap();
    let values = values.as_primitive::<Float64Type>();
    values.is_valid(row).then(|| values.value(row))
}

#[test]
fn what_others_reported_is_right_and_the_oracle_says_so() {
    for Case { name, lines, cells, fates } in [tickets(), answers_and_ids(), accounts(), uses()].into_iter().flatten() {
        let raw =
            |(kind, text): &(Kind, String)| Raw { kind: *kind, key: None, value: Some(text.clone().into()), at_ms: 0 };
        let raws: Vec<Raw> = lines.iter().map(raw).collect();
        // In one batch, one by one, and backwards.
        for (set, is_reversed) in
            [("batch.max_records=1000", false), ("batch.max_records=1", false), ("batch.max_records=1000", true)]
        {
            let raws: Vec<Raw> = if is_reversed { raws.iter().rev().cloned().collect() } else { raws.clone() };
            // In backward order the events are further apart than a source's usual bound.
            let bound: Vec<String> = (0..5).map(|n| format!("sources.{n}.bound=10d")).collect();
            let set: Vec<&str> = std::iter::once(set).chain(bound.iter().map(String::as_str)).collect();
            let deployment = Deployment::of(&raws, config(&set));
            for (account, column, expected) in &cells {
                let found = cell(&deployment, account, column);
                assert!(found == *expected, "{name}: {column} of {account} is {found:?}, not {expected:?}");
            }
            let ingest = &deployment.fates.ingest;
            for (fate, expected) in fates {
                let (fate, reason) = fate.split_once(' ').unwrap_or((fate, ""));
                let known = ingest
                    .iter()
                    .filter(|(known, _)| known.name == fate && (reason.is_empty() || known.reason == reason));
                assert_eq!(known.map(|(_, count)| count).sum::<u64>(), *expected, "{name}: {fate} {reason}");
            }
            assert_eq!(count(&deployment.fates.aggregate, Fate::of("duplicate").name), 0, "{name}");
            if set[0].ends_with("=1") {
                deployment.check();
            }
        }
    }
}

/// One account with more custom fields than a record can contain stopped all others: Apache Kafka KIP-210,
/// confluentinc/ksql issue 6711.
#[test]
fn an_account_of_long_custom_fields_has_its_row_and_its_neighbours_theirs() {
    let facts = |id: u32| {
        let fields: Vec<String> = (0..11).map(|n| format!("\"notes_{id}_{n}\":\"{}\"", "n".repeat(15_000))).collect();
        of(Account, &format!("f{id}"), "01T09:00:00Z", &format!(r#""type":"upsert","facts":{{{}}}"#, fields.join(",")))
    };
    let mut lines: Vec<_> = (0..3).map(facts).collect();
    lines.extend([use_of("1", "a", "02T10:00:00Z"), use_of("2", "neighbour", "02T10:00:00Z"), later()]);
    let raws: Vec<Raw> = lines
        .iter()
        .map(|(kind, text)| Raw { kind: *kind, key: None, value: Some(text.clone().into()), at_ms: 0 })
        .collect();
    let deployment = Deployment::of(&raws, config(&[]));
    assert_eq!(cell(&deployment, "a", "events"), Some(1.0));
    assert_eq!(cell(&deployment, "neighbour", "events"), Some(1.0));
    assert!(count(&deployment.fates.aggregate, "left_out") > 0, "{:?}", deployment.fates.aggregate);
}

/// A deletion erases facts with the same event time, whatever the order of the events and of their arrival.
#[test]
fn two_tellings_and_a_deletion_in_one_moment_have_one_result_in_every_order() {
    let moment = "01T09:00:00Z";
    let steps = [
        of(Account, "9", moment, r#""type":"upsert","facts":{"seats":5}"#),
        of(Account, "10", moment, r#""type":"upsert","facts":{"seats":50}"#),
        of(Account, "5", moment, r#""type":"deleted""#),
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let lines = order.iter().map(|n| steps[*n].clone()).chain([use_of("u", "a", "02T10:00:00Z"), later()]);
        let raws: Vec<Raw> =
            lines.map(|(kind, text)| Raw { kind, key: None, value: Some(text.into()), at_ms: 0 }).collect();
        let deployment = Deployment::of(&raws, config(&[]));
        assert_eq!(cell(&deployment, "a", "seats"), None, "{order:?}");
        assert_eq!(cell(&deployment, "a", "events"), Some(1.0), "{order:?}");
        deployment.check();
    }
}

fn raws_of(lines: &[(Kind, &str)]) -> Vec<Raw> {
    let raw = |(kind, text): &(Kind, &str)| Raw { kind: *kind, key: None, value: Some((*text).into()), at_ms: 0 };
    lines.iter().map(raw).collect()
}

/// Once, a forged event could have the id of a tombstone. The deletion then counted as a duplicate and the account
/// stayed.
#[test]
fn no_event_has_the_id_of_a_tombstone() {
    let raws = raws_of(&[
        (
            Account,
            r#"{"event_id":"keepwell:tombstone:0:accounts-1:1","account_id":"a","occurred_at":"2024-03-01T09:00:00Z","type":"upsert","facts":{"seats":5}}"#,
        ),
        (Usage, r#"{"event_id":"1","account_id":"a","feature":"f","occurred_at":"2024-03-01T09:00:00Z"}"#),
        (Usage, r#"{"event_id":"2","account_id":"zz","feature":"f","occurred_at":"2024-03-03T00:00:00Z"}"#),
    ]);
    let deployment = Deployment::of(&raws, config(&[]));
    let refused = deployment.fates.ingest.iter().filter(|(fate, _)| fate.reason == "out_of_range");
    assert_eq!(refused.map(|(_, count)| *count).sum::<u64>(), 1);
    // A tombstone deletes, whatever was sent before it; here on 2 March, 9:00.
    let mut deployment = Deployment::begun(config(&[]));
    let tombstone = Message {
        topic: "accounts".into(),
        partition: 1,
        timestamp_ms: Some(1_709_370_000_000),
        key: Some(b"a".to_vec()),
        value: None,
        headers: Vec::new(),
    };
    deployment.broker.produce(&tombstone).unwrap();
    deployment.read(&raws, true);
    assert_eq!(count(&deployment.fates.ingest, "emitted"), 3, "{:?}", deployment.fates.ingest);
    assert_eq!(count(&deployment.fates.aggregate, "duplicate"), 0);
    assert!(count(&deployment.fates.publish, "tombstone") > 0, "{:?}", deployment.fates.publish);
}

/// Once, raw values in `events` and in rejects contained plain user ids although the key was set.
#[test]
fn with_a_key_no_user_id_stands_in_clear_in_any_topic_of_keepwell() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "00112233445566778899aabbccddeeff\n").unwrap();
    let raws = raws_of(&[
        (
            Usage,
            r#"{"event_id":"1","account_id":"a","user_id":"SECRETUSER-old","feature":"f","occurred_at":"2024-03-01T09:00:00Z"}"#,
        ),
        (Usage, r#"{"event_id":"2","account_id":"a","user_id":"SECRETUSER-bad","feature":"f","occurred_at":"soon"}"#),
        (Usage, r#"{"event_id":"3","account_id":"zz","feature":"f","occurred_at":"2024-03-20T00:00:00Z"}"#),
        (Usage, r#"["SECRETUSER-list"]"#),
        (Usage, r#"{"event_id":"7","account_id":"a","feature":"f","occurred_at":"SECRETUSER-time"}"#),
        // This event is too late by now: aggregate rejects it.
        (
            Usage,
            r#"{"event_id":"4","account_id":"a","user_id":"SECRETUSER-late","feature":"f","occurred_at":"2024-03-01T09:00:00Z"}"#,
        ),
        (
            Person,
            r#"{"event_id":"5","account_id":"a","user_id":"SECRETUSER-person","occurred_at":"2024-03-19T00:00:00Z","type":"promoted"}"#,
        ),
        (
            Person,
            r#"{"event_id":"6","account_id":"a","user_id":"SECRETUSER-person","occurred_at":"2024-03-19T00:00:00Z","type":"added"}"#,
        ),
    ]);
    let set = format!(r#"ingest.user_id_key={{"file":"{}"}}"#, key.path().display());
    let hidden = Deployment::of(&raws, config(&[&set, "batch.max_records=1"]));
    let open = Deployment::of(&raws, config(&["batch.max_records=1"]));
    let found = |deployment: &Deployment| {
        let holds = |text: &[u8]| text.windows(10).any(|window| window == b"SECRETUSER");
        let topics = deployment.config.topics.all();
        let records = topics.iter().flat_map(|topic| deployment.records(topic));
        records
            .filter(|r| {
                r.value.as_deref().is_some_and(holds) || r.headers.iter().any(|(_, v)| v.as_deref().is_some_and(holds))
            })
            .count()
    };
    assert_eq!(found(&hidden), 0);
    assert!(found(&open) >= 4, "{}", found(&open));
    let rejected = |deployment: &Deployment| deployment.records(&deployment.config.topics.rejects).len();
    assert_eq!((rejected(&hidden), rejected(&open)), (rejected(&open), rejected(&open)));
}

/// Which events are over a limit depends on earlier events, but not on how the log is cut into steps.
#[test]
fn an_account_at_its_limits_has_the_same_fates_in_one_step_and_in_many() {
    let uses = (0..30).map(|n| {
        format!(
            r#"{{"event_id":"{n}","account_id":"a","user_id":"u{}","feature":"/orders/{}","occurred_at":"2024-03-02T10:00:00Z"}}"#,
            n % 9,
            n % 20
        )
    });
    let people = (0..10).map(|n| {
        format!(r#"{{"event_id":"p{n}","account_id":"a","user_id":"u{n}","occurred_at":"2024-03-02T10:00:00Z","type":"added"}}"#)
    });
    // Known ids are erased and return, at the limit. To forget is never over a limit, and an erased id stays one name.
    let erased = ["u1", "u8"].into_iter().flat_map(|user| {
        let erase = format!(r#"{{"event_id":"e{user}","account_id":"a","user_id":"{user}","occurred_at":"2024-03-02T11:00:00Z","type":"erased"}}"#);
        let back = format!(r#"{{"event_id":"b{user}","account_id":"a","user_id":"{user}","feature":"/orders/1","occurred_at":"2024-03-02T12:00:00Z"}}"#);
        let again = format!(r#"{{"event_id":"a{user}","account_id":"a","user_id":"{user}","occurred_at":"2024-03-02T12:00:00Z","type":"added"}}"#);
        [(Person, erase), (Usage, back), (Person, again)]
    });
    let lines = uses.map(|text| (Usage, text)).chain(people.map(|text| (Person, text)));
    let lines: Vec<(Kind, String)> = lines.chain(erased).collect();
    // Another account's events alternate with these. So those of this account are in one partition of their topic, in
    // order.
    let raw = |kind: Kind, text: &str| Raw { kind, key: None, value: Some(text.into()), at_ms: 0 };
    let raws: Vec<Raw> = lines
        .iter()
        .flat_map(|(kind, text)| {
            let other = text.replace(r#""account_id":"a""#, r#""account_id":"other""#).replace("/orders/", "/");
            [raw(*kind, text), raw(*kind, &other)]
        })
        .collect();
    let limits = ["features=12", "users=6", "people=4"].map(|limit| format!("aggregate.limits.{limit}"));
    let fates = |records: &str| {
        let set: Vec<&str> = limits.iter().map(String::as_str).chain([records]).collect();
        let deployment = Deployment::of(&raws, config(&set));
        let over = deployment.fates.aggregate.iter().filter(|(fate, _)| fate.name == "over_limit");
        over.map(|(fate, count)| (fate.reason, *count)).collect::<Vec<_>>()
    };
    let whole = fates("batch.max_records=1000");
    assert!(whole.len() == 3 && whole.iter().all(|(_, count)| *count > 0), "{whole:?}");
    assert_eq!(fates("batch.max_records=1"), whole);
}
