use super::*;

const LIMITS: Limits =
    Limits { max_event_bytes: 2000, latest_us: 2_000_000_000_000_000, earliest_us: 946_684_800_000_000 };

const TRACK: &str = r#"{"type":"track","messageId":"m1","event":"export","userId":"u1","context":{"groupId":"acme"},"timestamp":"2024-03-01T10:00:00Z","properties":{"count":3,"duration_ms":40,"errors":1}}"#;
const FLAT: &str = r#"{"event_id":"m1","account_id":"acme","user_id":"u1","feature":"export","occurred_at":1709287200000,"count":3,"duration_ms":40,"errors":1}"#;
const RATED: &str =
    r#"{"event_id":"t1","account_id":"acme","ticket_id":"7","occurred_at":1709287200000,"type":"rated","csat":4}"#;
const NPS: &str = r#"{"event_id":"s1","account_id":"acme","occurred_at":1709287200000,"survey":"nps","score":9}"#;
const FACTS: &str = r#"{"event_id":"a1","account_id":"acme","occurred_at":1709287200000,"type":"upsert","facts":{"plan":"pro","seats":5,"mrr":10.5,"renews_at":"2024-12-01T00:00:00Z","features":["b","a","b"],"region":{"eu":1}}}"#;
const PERSON: &str = r#"{"event_id":"p1","account_id":"acme","user_id":"u1","occurred_at":1709287200000,"type":"added","role":"champion"}"#;

#[test]
fn both_usage_forms_give_the_same_event() {
    let track = decode(Kind::Usage, TRACK.as_bytes(), &LIMITS).unwrap();
    assert_eq!(track, decode(Kind::Usage, FLAT.as_bytes(), &LIMITS).unwrap());
    assert_eq!(track.occurred_us, 1_709_287_200_000_000);
}

#[test]
fn known_facts_are_written_in_one_form_and_others_as_given() {
    let event = decode(Kind::Account, FACTS.as_bytes(), &LIMITS).unwrap();
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
    // kind, valid text, what is replaced, by what, reason
    #[rustfmt::skip]
    let cases: &[(Kind, &str, &str, &str, Code)] = &[
        (Kind::Usage, TRACK, "{\"type\"", "[{\"type\"", NotJson),
        (Kind::Usage, TRACK, TRACK, "[1, 2]", NotAnObject),
        (Kind::Usage, TRACK, TRACK, "\"text\"", NotAnObject),
        (Kind::Usage, TRACK, TRACK, "", NotJson),
        (Kind::Usage, TRACK, "{\"groupId\":\"acme\"}", "[\"acme\"]", WrongType),
        (Kind::Usage, TRACK, "\"context\":{\"groupId\":\"acme\"},", "", NoAccount),
        (Kind::Usage, TRACK, "\"messageId\":\"m1\",", "", MissingField),
        (Kind::Usage, TRACK, "\"event\":\"export\",", "\"event\":\"export\",\"event\":\"b\",", DuplicateKey),
        (Kind::Usage, TRACK, "track", "identify", UnknownValue),
        (Kind::Usage, TRACK, "2024-03-01T10:00:00Z", "yesterday", BadTime),
        (Kind::Usage, TRACK, "2024-03-01T10:00:00Z", "2124-03-01T10:00:00Z", Future),
        (Kind::Usage, TRACK, "2024-03-01T10:00:00Z", "1970-03-01T10:00:00Z", TooOld),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":\"3\"", WrongType),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":0", OutOfRange),
        (Kind::Usage, TRACK, "\"count\":3", "\"count\":1e400", NotJson),
        (Kind::Usage, FLAT, "\"acme\"", "\"\"", OutOfRange),
        (Kind::Usage, FLAT, "acme", &long, OutOfRange),
        (Kind::Usage, FLAT, "\"acme\"", "null", NoAccount),
        (Kind::Usage, FLAT, "1709287200000", "17092872000000000000", BadTime),
        (Kind::Ticket, RATED, "rated", "praised", UnknownValue),
        (Kind::Ticket, RATED, ",\"csat\":4", "", MissingField),
        (Kind::Ticket, RATED, "\"csat\":4", "\"csat\":6", OutOfRange),
        (Kind::Survey, NPS, "\"score\":9", "\"score\":11", OutOfRange),
        (Kind::Survey, NPS, "\"score\":9", "\"score\":9,\"scale_max\":7", OutOfRange),
        (Kind::Account, FACTS, "\"seats\":5", "\"seats\":-5", OutOfRange),
        (Kind::Account, FACTS, "\"plan\":\"pro\"", "\"plan\":7", WrongType),
        (Kind::Account, FACTS, "\"plan\":\"pro\"", "\"plan\":\"pro\",\"plan\":\"free\"", DuplicateKey),
        (Kind::Account, FACTS, "2024-12-01T00:00:00Z", "soon", BadTime),
        (Kind::Account, FACTS, "upsert", "milestone", MissingField),
        (Kind::Person, PERSON, "\"user_id\":\"u1\",", "", MissingField),
    ];
    for (kind, valid, from, to, expected) in cases {
        decode(*kind, valid.as_bytes(), &LIMITS).unwrap();
        let text = valid.replacen(from, to, 1);
        let reason = decode(*kind, text.as_bytes(), &LIMITS).expect_err(&text);
        assert_eq!(reason.code, *expected, "{text}: {reason}");
    }
    let not_utf8 = decode(Kind::Usage, &[b'{', 0xff, b'}'], &LIMITS).unwrap_err();
    let deep = decode(Kind::Usage, "{\"a\":".repeat(300).as_bytes(), &LIMITS).unwrap_err();
    let deep_array = decode(Kind::Usage, "[".repeat(1900).as_bytes(), &LIMITS).unwrap_err();
    let large = decode(Kind::Usage, &[b' '; 2001], &LIMITS).unwrap_err();
    let codes = [not_utf8.code, deep.code, deep_array.code, large.code];
    assert_eq!(codes, [NotUtf8, NotJson, NotJson, Oversized]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0..5usize) {
            if let Err(reason) = decode(Kind::ALL[kind], &bytes, &LIMITS) {
                prop_assert!(!reason.detail.is_empty() || reason.code == Code::NotJson);
            }
        }

        #[test]
        fn no_damage_to_a_valid_text_makes_a_decoder_panic(at in 0..100usize, byte in any::<u8>(), which in 0..6usize) {
            let (kind, text) = [(Kind::Usage, TRACK), (Kind::Usage, FLAT), (Kind::Ticket, RATED), (Kind::Survey, NPS),
                (Kind::Account, FACTS), (Kind::Person, PERSON)][which];
            let mut bytes = text.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            let fate = decode(kind, &bytes, &LIMITS);
            prop_assert!(fate.is_ok() || fate.is_err());
        }
    }
}
