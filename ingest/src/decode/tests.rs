use keepwell_core::event::Change;

use super::*;

const LIMITS: Limits = Limits {
    max_event_bytes: 20_000,
    max_facts: 40,
    max_fact_bytes: 500,
    latest_us: 2_000_000_000_000_000,
    max_future_us: 3_600_000_000,
    earliest_us: 946_684_800_000_000,
};

/// The event in a text, or the reason why it is rejected.
fn event(kind: Kind, text: &str) -> Result<Event<'_>, Reason> {
    match decode(kind, text.as_bytes(), &LIMITS)? {
        Decoded::Event(event) => Ok(event),
        Decoded::Ignored(call) => panic!("{call} is ignored: {text}"),
    }
}

const TRACK: &str = r#"{"type":"track","messageId":"m1","event":"export","userId":"u1","context":{"groupId":"acme"},"timestamp":"2024-03-01T10:00:00Z","properties":{"count":3,"duration_ms":40,"errors":1}}"#;
const FLAT: &str = r#"{"event_id":"m1","account_id":"acme","user_id":"u1","feature":"export","occurred_at":1709287200000,"count":3,"duration_ms":40,"errors":1}"#;
const RATED: &str =
    r#"{"event_id":"t1","account_id":"acme","ticket_id":"7","occurred_at":1709287200000,"type":"rated","csat":4}"#;
const NPS: &str = r#"{"event_id":"s1","account_id":"acme","occurred_at":1709287200000,"survey":"nps","score":9}"#;
const FACTS: &str = r#"{"event_id":"a1","account_id":"acme","occurred_at":1709287200000,"type":"upsert","facts":{"plan":"pro","seats":5,"mrr":10.5,"renews_at":"2024-12-01T00:00:00Z","features":["b","a","b"],"region":{"eu":1}}}"#;
const PERSON: &str = r#"{"event_id":"p1","account_id":"acme","user_id":"u1","occurred_at":1709287200000,"type":"added","role":"champion"}"#;
const CONTRACT: &str = r#"{"event_id":"c1","account_id":"acme","contract_id":"k-7","occurred_at":1709287200000,"type":"started","effective_at":"2024-02-01T00:00:00Z","mrr":1250.505,"currency":"eur","seats":20,"ends_at":"2025-02-01T00:00:00Z","reason":"new"}"#;

#[test]
fn both_usage_forms_give_the_same_event() {
    let track = event(Kind::Usage, TRACK).unwrap();
    assert_eq!(track, event(Kind::Usage, FLAT).unwrap());
    assert_eq!(track.occurred_us, 1_709_287_200_000_000);
}

#[test]
fn known_facts_are_written_in_one_form_and_others_as_given() {
    let event = event(Kind::Account, FACTS).unwrap();
    let Body::Facts { facts, .. } = event.body else { panic!("not facts") };
    let table: Vec<String> = facts.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        table,
        [
            "plan=\"pro\"",
            "seats=5",
            "mrr=10.50",
            "renews_at=1733011200000000",
            "features=[\"a\",\"b\"]",
            "region={\"eu\":1}"
        ]
    );
}

#[test]
fn every_kind_of_mistake_has_its_reason() {
    use Code::*;
    let long = "x".repeat(600);
    // kind, valid text, text to replace, replacement, reason
    #[rustfmt::skip]
    let cases: &[Mistake<'_>] = &[
        (Kind::Usage, TRACK, "{\"type\"", "[{\"type\"", NotJson),
        (Kind::Usage, TRACK, TRACK, "[1, 2]", NotAnObject),
        (Kind::Usage, TRACK, TRACK, "\"text\"", NotAnObject),
        (Kind::Usage, TRACK, TRACK, "", NotJson),
        (Kind::Usage, TRACK, "{\"groupId\":\"acme\"}", "[\"acme\"]", WrongType),
        (Kind::Usage, TRACK, "\"context\":{\"groupId\":\"acme\"},", "", NoAccount),
        (Kind::Usage, TRACK, "\"messageId\":\"m1\",", "", MissingField),
        (Kind::Usage, TRACK, "\"event\":\"export\",", "\"event\":\"export\",\"event\":\"b\",", DuplicateKey),
        (Kind::Usage, TRACK, "track", "merge", UnknownValue),
        (Kind::Usage, TRACK, "\"track\"", "7.5", WrongType),
        (Kind::Usage, TRACK, "\"m1\"", "1.5", WrongType),
        (Kind::Usage, TRACK, "\"m1\"", "12345678901234567890123", WrongType),
        (Kind::Usage, TRACK, "\"acme\"", "true", WrongType),
        (Kind::Usage, TRACK, "\"m1\"", "\"\"", MissingField),
        (Kind::Usage, TRACK, "{\"count\":3,\"duration_ms\":40,\"errors\":1}", "[1]", WrongType),
        (Kind::Usage, TRACK, "2024-03-01T10:00:00Z", "yesterday", BadTime),
        (Kind::Usage, TRACK, "2024-03-01T10:00:00Z", "2124-03-01T10:00:00Z", Future),
        (Kind::Usage, TRACK, "2024-03-01T10:00:00Z", "1970-03-01T10:00:00Z", TooOld),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":\"3\"", WrongType),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":3.5", WrongType),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":-1", OutOfRange),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":99999999999999999999", WrongType),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":1e400", NotJson),
        (Kind::Usage, FLAT, "\"acme\"", "\"\"", NoAccount),
        (Kind::Usage, FLAT, "1709287200000", "1000000000000000", BadTime),
        (Kind::Usage, FLAT, "acme", &long, OutOfRange),
        (Kind::Usage, FLAT, "\"acme\"", "null", NoAccount),
        (Kind::Usage, FLAT, "1709287200000", "17092872000000000000", BadTime),
        (Kind::Ticket, RATED, "rated", "praised", UnknownValue),
        (Kind::Ticket, RATED, ",\"csat\":4", "", MissingField),
        (Kind::Ticket, RATED, "\"csat\":4", "\"csat\":6", OutOfRange),
        (Kind::Survey, NPS, "\"score\":9", "\"score\":11", OutOfRange),
        (Kind::Survey, NPS, "\"score\":9", "\"score\":9,\"scale_max\":7", OutOfRange),
        (Kind::Account, FACTS, "\"seats\":5", "\"seats\":-5", OutOfRange),
        (Kind::Account, FACTS, "\"plan\":\"pro\"", "\"plan\":[]", WrongType),
        (Kind::Account, FACTS, "{\"plan\":\"pro\",", "[{\"plan\":\"pro\",", NotJson),
        (Kind::Account, FACTS, "\"acme\"", "[]", WrongType),
        (Kind::Account, FACTS, "\"plan\":\"pro\"", "\"plan\":\"pro\",\"plan\":\"free\"", DuplicateKey),
        (Kind::Account, FACTS, "2024-12-01T00:00:00Z", "soon", BadTime),
        (Kind::Account, FACTS, "upsert", "milestone", MissingField),
        (Kind::Person, PERSON, "\"user_id\":\"u1\",", "", MissingField),
    ];
    each_is_rejected(cases);
    let not_utf8 = decode(Kind::Usage, &[b'{', 0xff, b'}'], &LIMITS).unwrap_err();
    let deep = decode(Kind::Usage, "{\"a\":".repeat(300).as_bytes(), &LIMITS).unwrap_err();
    let deep_array = decode(Kind::Usage, "[".repeat(1900).as_bytes(), &LIMITS).unwrap_err();
    let large = decode(Kind::Usage, &[b' '; 20_001], &LIMITS).unwrap_err();
    let codes = [not_utf8.code, deep.code, deep_array.code, large.code];
    assert_eq!(codes, [NotUtf8, NotJson, NotJson, Oversized]);
}

/// Kind, valid text, what is replaced in it, by what, and the reason.
type Mistake<'t> = (Kind, &'t str, &'t str, &'t str, Code);

fn each_is_rejected(cases: &[Mistake<'_>]) {
    for (kind, valid, from, to, expected) in cases {
        event(*kind, valid).unwrap();
        let text = valid.replacen(from, to, 1);
        let reason = event(*kind, &text).expect_err(&text);
        assert_eq!(reason.code, *expected, "{text}: {reason}");
    }
}

#[test]
fn every_mistake_in_a_contract_has_its_reason() {
    use Code::*;
    #[rustfmt::skip]
    let cases: &[Mistake<'_>] = &[
        (Kind::Contract, CONTRACT, "started", "signed", UnknownValue),
        (Kind::Contract, CONTRACT, "\"type\":\"started\",", "", MissingField),
        (Kind::Contract, CONTRACT, "\"acme\"", "null", NoAccount),
        (Kind::Contract, CONTRACT, "2024-02-01T00:00:00Z", "soon", BadTime),
        (Kind::Contract, CONTRACT, "1250.505", "-1", WrongType),
        (Kind::Contract, CONTRACT, "1250.505", "\"1250\"", WrongType),
        (Kind::Contract, CONTRACT, "1250.505", "1e13", WrongType),
        (Kind::Contract, CONTRACT, "1250.505", "[1]", WrongType),
        (Kind::Contract, CONTRACT, "\"eur\"", "\"euro\"", UnknownValue),
        (Kind::Contract, CONTRACT, "\"eur\"", "978", WrongType),
        (Kind::Contract, CONTRACT, "\"seats\":20", "\"seats\":-1", OutOfRange),
        (Kind::Contract, CONTRACT, "\"seats\":20", "\"seats\":20,\"seats\":21", DuplicateKey),
        (Kind::Contract, CONTRACT, "2025-02-01T00:00:00Z", "never", BadTime),
    ];
    each_is_rejected(cases);
}

#[test]
fn ids_that_are_numbers_are_their_text_and_empty_texts_are_absent() {
    let used = |text: &str| match event(Kind::Usage, text).unwrap().body {
        Body::Usage { user_id, .. } => user_id.map(String::from),
        other => panic!("{other:?}"),
    };
    let with = |from: &str, to: &str| TRACK.replacen(from, to, 1);
    assert_eq!(event(Kind::Usage, &with("\"m1\"", "18446744073709551615")).unwrap().event_id, "18446744073709551615");
    assert_eq!(event(Kind::Usage, &with("\"acme\"", "-7")).unwrap().account_id, "-7");
    assert_eq!(used(&with("\"u1\"", "42")).as_deref(), Some("42"));
    // rudderlabs/rudder-sdk-js issue 201: unknown visitors have an empty text as their user id.
    assert_eq!(used(&with("\"u1\"", "\"\",\"anonymousId\":\"a9\"")).as_deref(), Some("a9"));
    assert_eq!(used(&with("\"u1\"", "\"\"")), None);
    let group = with("{\"groupId\":\"acme\"}", "{\"groupId\":\"\"},\"groupId\":\"beta\"");
    assert_eq!(event(Kind::Usage, &group).unwrap().account_id, "beta");
    let ticket = RATED.replacen("\"csat\":4", "\"csat\":4,\"priority\":\"\",\"category\":\"\",\"user_id\":\"\"", 1);
    let Body::Ticket { priority, category, user_id, .. } = event(Kind::Ticket, &ticket).unwrap().body else { panic!() };
    assert_eq!((priority, category, user_id), (None, None, None));
}

#[test]
fn what_says_nothing_wrong_does_no_harm() {
    let track = event(Kind::Usage, TRACK).unwrap();
    // svix/svix-webhooks pull request 2060: PHP has one empty array for lists and objects.
    let php = TRACK.replacen("{\"count\":3,\"duration_ms\":40,\"errors\":1}", "[]", 1);
    let Body::Usage { count, duration_ms, errors, .. } = event(Kind::Usage, &php).unwrap().body else { panic!() };
    assert_eq!((count, duration_ms, errors), (1, None, None));
    for (text, strange) in [
        (
            TRACK,
            "\"count\":\"many\",\"feature\":{},\"account_id\":[1],\"user_id\":true,\"occurred_at\":\"\",\"duration_ms\":{\"a\":1},",
        ),
        (TRACK, "\"event_id\":\"other\",\"occurred_at\":\"never\","),
        (
            FLAT,
            "\"context\":\"web\",\"timestamp\":\"yesterday\",\"receivedAt\":[],\"sentAt\":1e99,\"properties\":[7],\"type\":1.5,\"event\":{},\"userId\":[],",
        ),
        (FLAT, "\"messageId\":\"m7\",\"type\":\"page\","),
    ] {
        assert_eq!(event(Kind::Usage, &text.replacen('{', &format!("{{{strange}"), 1)).unwrap(), track, "{strange}");
    }
    let marked = ["\u{feff}", TRACK].concat();
    assert_eq!(event(Kind::Usage, &marked).unwrap(), track, "a byte order mark");
    for (from, to) in [("\"count\":3", "\"count\":3.0"), ("\"duration_ms\":40", "\"duration_ms\":39.7")] {
        let text = TRACK.replacen(from, to, 1);
        assert_eq!(event(Kind::Usage, &text).unwrap(), track, "{to}");
    }
    let zero = TRACK.replacen("\"count\":3", "\"count\":0", 1);
    let Body::Usage { count, errors, .. } = event(Kind::Usage, &zero).unwrap().body else { panic!() };
    assert_eq!((count, errors), (0, Some(1)));
}

#[test]
fn other_calls_of_segments_are_ignored_and_no_mistake() {
    for call in ["page", "screen", "identify", "group", "alias"] {
        let text =
            format!("{{\"type\":\"{call}\",\"messageId\":\"m1\",\"userId\":\"u1\",\"traits\":{{\"plan\":\"pro\"}}}}");
        assert_eq!(decode(Kind::Usage, text.as_bytes(), &LIMITS), Ok(Decoded::Ignored(call)));
    }
}

/// Wrong device clocks: segmentio/analytics-react-native issue 977.
#[test]
fn nothing_happens_after_it_was_received() {
    let received = |at: &str| TRACK.replacen("{\"type\"", &format!("{{\"receivedAt\":\"{at}\",\"type\""), 1);
    assert!(event(Kind::Usage, &received("2024-03-01T09:30:00Z")).is_ok());
    let reason = event(Kind::Usage, &received("2024-02-29T10:00:00Z")).unwrap_err();
    assert_eq!(reason.code, Code::Future);
    let appended = Limits { latest_us: 1_709_287_200_000_000 - 1, ..LIMITS };
    assert_eq!(decode(Kind::Usage, TRACK.as_bytes(), &appended).unwrap_err().code, Code::Future);
}

/// The id of an alert consists of three names. An outcome must be able to name every alert.
#[test]
fn an_outcome_names_alerts_of_the_longest_accounts_and_triggers() {
    let outcome = |bytes: usize| {
        let alert = "a".repeat(bytes);
        let text = format!(
            r#"{{"event_id":"o","account_id":"acme","occurred_at":1709287200000,"type":"outcome","outcome":{{"alert_id":"{alert}","event":"done"}}}}"#
        );
        event(Kind::Account, &text).map(|_| ()).map_err(|reason| reason.code)
    };
    let longest = 512 + 1 + 512 + 1 + "2024-03-01T00:00:00Z".len();
    assert_eq!([outcome(513), outcome(longest)], [Ok(()), Ok(())]);
    assert_eq!(outcome(2000), Err(Code::OutOfRange));
}

#[test]
fn a_null_clears_what_is_remembered_and_an_absent_field_does_not() {
    let role = |text: &str| match event(Kind::Person, text).unwrap().body {
        Body::Person { role, .. } => role.map(String::from),
        other => panic!("{other:?}"),
    };
    let with = |to: &str| PERSON.replacen(",\"role\":\"champion\"", to, 1);
    assert_eq!(role(PERSON), Change::Set("champion".to_owned()));
    assert_eq!([role(&with(",\"role\":null")), role(&with(",\"role\":\"\""))], [Change::Cleared, Change::Cleared]);
    assert_eq!(role(&with("")), Change::Kept);
    let text = r#"{"event_id":"a","account_id":"acme","occurred_at":1709287200000,"type":"milestone","milestone":{"id":"go-live","due_at":null}}"#;
    let Body::Milestone { due_us, done_us, .. } = event(Kind::Account, text).unwrap().body else { panic!() };
    assert_eq!((due_us, done_us), (Change::Cleared, Change::Kept));
    let text = FACTS.replacen("10.5", "\"\"", 1).replacen("\"pro\"", "\"\"", 1);
    let Body::Facts { facts, .. } = event(Kind::Account, &text).unwrap().body else { panic!() };
    let cleared: Vec<_> = facts.iter().filter(|(_, value)| value == "null").map(|(name, _)| name.as_ref()).collect();
    assert_eq!(cleared, ["plan", "mrr"]);
}

#[test]
fn facts_and_keys_have_bounds_and_the_reason_names_the_account() {
    let upsert = |facts: &str| FACTS.replacen("{\"plan\":\"pro\",", &format!("{{{facts}\"plan\":\"pro\","), 1);
    let many: String = (0..41).map(|n| format!("\"f{n}\":1,")).collect();
    let long = format!("\"notes\":\"{}\",", "n".repeat(500));
    let name = format!("\"{}\":1,", "n".repeat(513));
    let twice: String = (0..30).map(|n| format!("\"f{}\":1,", n % 29)).collect();
    for (facts, code, words) in [
        (many, Code::OutOfRange, "facts in one event"),
        (long, Code::OutOfRange, "ingest.max_fact_bytes"),
        (name, Code::OutOfRange, "513 bytes"),
        (twice, Code::DuplicateKey, "\"f0\" is there twice"),
    ] {
        let reason = event(Kind::Account, &upsert(&facts)).unwrap_err();
        assert!(reason.code == code && reason.detail.contains(words), "{reason}");
        assert!(code == Code::DuplicateKey || reason.detail.contains("acme"), "{reason}");
    }
    let tombstone =
        |key: &[u8], ms: i64| tombstone(Some(key), "t".to_owned(), ms, &LIMITS).map(|_| ()).map_err(|r| r.code);
    assert_eq!(tombstone(b"acme", 1_709_287_200_000), Ok(()));
    for (key, ms, code) in [
        (vec![b'k'; 310_000], 1_709_287_200_000, Code::OutOfRange),
        (b"".to_vec(), 1_709_287_200_000, Code::NoAccount),
        (vec![0xff], 1_709_287_200_000, Code::NoAccount),
        (b"acme".to_vec(), 4_102_444_800_000, Code::Future),
        (b"acme".to_vec(), i64::MAX, Code::BadTime),
        (b"acme".to_vec(), -1, Code::TooOld),
    ] {
        assert_eq!(tombstone(&key, ms), Err(code), "{ms}");
    }
}

#[test]
fn a_contract_has_two_times_and_its_money_in_hundredths() {
    fn contract(text: &str) -> (i64, keepwell_core::event::Contract<'_>) {
        match event(Kind::Contract, text).unwrap() {
            Event { occurred_us, body: Body::Contract(contract), .. } => (occurred_us, contract),
            other => panic!("{other:?}"),
        }
    }
    let (said_us, whole) = contract(CONTRACT);
    assert_eq!((said_us, whole.effective_us), (1_709_287_200_000_000, 1_706_745_600_000_000));
    assert_eq!((whole.id.as_ref(), whole.reason.as_deref()), ("k-7", Some("new")));
    assert_eq!(whole.terms.mrr_hundredths, Change::Set(125_051));
    assert_eq!(whole.terms.currency.as_ref().map(|currency| currency.as_ref()), Change::Set("EUR"));
    assert_eq!((whole.terms.seats, whole.terms.ends_us), (Change::Set(20), Change::Set(1_738_368_000_000_000)));
    let least = r#"{"event_id":"c1","account_id":"acme","occurred_at":1709287200000,"type":"changed"}"#;
    let (said_us, least) = contract(least);
    assert_eq!((least.effective_us, least.id.as_ref(), least.terms), (said_us, "main", Default::default()));
    let cleared = CONTRACT.replacen("1250.505", "null", 1).replacen("\"eur\"", "\"\"", 1);
    let cleared = cleared.replacen("\"seats\":20", "\"seats\":null", 1).replacen("\"2025-02-01T00:00:00Z\"", "null", 1);
    let terms = contract(&cleared).1.terms;
    assert_eq!((terms.mrr_hundredths, terms.seats, terms.ends_us), (Change::Cleared, Change::Cleared, Change::Cleared));
    assert_eq!(terms.currency, Change::Cleared);
}

/// `9999-12-31` for "no end": apache/datafusion issue 1360.
#[test]
fn the_end_of_time_is_a_date_of_facts_and_no_event_time() {
    let forever = FACTS.replacen("2024-12-01T00:00:00Z", "9999-12-31T00:00:00Z", 1);
    let forever = forever.replacen("{\"event_id\"", "{\"valid_until\":253402214400000,\"event_id\"", 1);
    let Body::Facts { facts, valid_until_us, .. } = event(Kind::Account, &forever).unwrap().body else { panic!() };
    assert_eq!(valid_until_us, Some(253_402_214_400_000_000));
    assert!(facts.iter().any(|(name, value)| name == "renews_at" && value == "253402214400000000"));
    let late = FACTS.replacen("1709287200000", "\"9999-12-31T00:00:00Z\"", 1);
    assert_eq!(event(Kind::Account, &late).unwrap_err().code, Code::Future);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..Kind::ALL.len()) {
            if let Err(reason) = decode(Kind::ALL[kind], &bytes, &LIMITS) {
                prop_assert!(!reason.detail.is_empty() || reason.code == Code::NotJson);
            }
        }

        #[test]
        fn no_damage_to_a_valid_text_makes_a_decoder_panic(at in 0..100usize, byte in any::<u8>(), which in 0..7usize) {
            let (kind, text) = [(Kind::Usage, TRACK), (Kind::Usage, FLAT), (Kind::Ticket, RATED), (Kind::Survey, NPS),
                (Kind::Account, FACTS), (Kind::Person, PERSON), (Kind::Contract, CONTRACT)][which];
            let mut bytes = text.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            match decode(kind, &bytes, &LIMITS) {
                Ok(Decoded::Event(event)) => {
                    prop_assert_eq!(event.body.kind(), kind);
                    prop_assert!((1..=512).contains(&event.account_id.len()) && (1..=512).contains(&event.event_id.len()));
                    prop_assert!((LIMITS.earliest_us..=LIMITS.latest_us).contains(&event.occurred_us));
                }
                Ok(Decoded::Ignored(_)) => prop_assert_eq!(kind, Kind::Usage),
                Err(reason) => prop_assert!(!reason.detail.is_empty(), "{}", reason),
            }
        }
    }
}
