//! Any input can be bad. Each text gets its reason and keeps its bytes, and its neighbours are not harmed.

use keepwell_verify::bad_input::{Judged, judge};

const GOOD: &str = r#""event_id":"e","account_id":"a","user_id":"u","feature":"f","occurred_at":1704067200000"#;

/// Texts with the reason of their reject; `None` for a text that is an event.
fn cases() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let event = |more: &str| format!("{{{GOOD}{more}}}").into_bytes();
    let replaced = |from: &str, to: &str| {
        let text = format!("{{{GOOD}}}");
        assert!(text.contains(from), "{from}");
        text.replace(from, to).into_bytes()
    };
    let deep =
        |open: &str, close: &str, depth: usize| format!("{}{}", open.repeat(depth), close.repeat(depth)).into_bytes();
    let time = |text: &str| replaced("1704067200000", text);
    vec![
        (event(""), None),
        (event(r#","unknown":{"nested":[1,2,{"x":null}]}"#), None),
        (event(r#","count":null,"duration_ms":7,"errors":0"#), None),
        (event(r#","unknown":"\ud83d\ude00 \u0000""#), None),
        (time(r#""2024-01-01T00:00:00.123456Z""#), None),
        (time(r#""2024-01-01T02:00:00+02:00""#), None),
        (b"".to_vec(), Some("not_json")),
        (b" ".to_vec(), Some("not_json")),
        (b"nul".to_vec(), Some("not_json")),
        (b"{".to_vec(), Some("not_json")),
        (b"{]".to_vec(), Some("not_json")),
        (b"{\"a\":1,}".to_vec(), Some("not_json")),
        (b"{'a':1}".to_vec(), Some("not_json")),
        (b"{\"a\":01}".to_vec(), Some("not_json")),
        (b"{\"a\":NaN}".to_vec(), Some("not_json")),
        (b"{\"a\":\"\t\"}".to_vec(), Some("not_json")),
        (b"{\"a\":\"\\x\"}".to_vec(), Some("not_json")),
        (b"{} {}".to_vec(), Some("not_json")),
        (b"{}\0".to_vec(), Some("not_json")),
        (b"\xef\xbb\xbf{}".to_vec(), Some("missing_field")),
        (event("}"), Some("not_json")),
        (deep("[", "]", 100_000), Some("not_an_object")),
        (deep("{\"a\":", "", 5_000), Some("not_json")),
        (b"\xff\xfe{\0}\0".to_vec(), Some("not_utf8")),
        (b"{\"a\":\"\xc3\x28\"}".to_vec(), Some("not_utf8")),
        (b"{\"a\":\"\xed\xa0\x80\"}".to_vec(), Some("not_utf8")),
        (vec![b'x'; 300_000], Some("oversized")),
        // The largest size that a broker accepts; it is larger than a reject may be.
        (vec![b'x'; 1_040_000], Some("oversized")),
        (time(&format!("\"{}\"", "\u{300}".repeat(130_000))), Some("bad_time")),
        (b"[]".to_vec(), Some("not_an_object")),
        (b"null".to_vec(), Some("not_an_object")),
        (b"\"text\"".to_vec(), Some("not_an_object")),
        (b"1e400".to_vec(), Some("not_json")),
        (event(r#","event_id":"again""#), Some("duplicate_key")),
        (b"{}".to_vec(), Some("missing_field")),
        (replaced(r#""event_id":"e","#, ""), Some("missing_field")),
        (replaced(r#""feature":"f","#, ""), Some("missing_field")),
        (replaced(r#","occurred_at":1704067200000"#, ""), Some("missing_field")),
        (replaced(r#""account_id":"a","#, ""), Some("no_account")),
        (replaced(r#""account_id":"a""#, r#""account_id":"""#), Some("no_account")),
        (replaced(r#""account_id":"a""#, r#""account_id":7"#), None),
        (replaced(r#""account_id":"a""#, r#""account_id":7.5"#), Some("wrong_type")),
        (event(r#","count":"many""#), Some("wrong_type")),
        (event(r#","count":-1"#), Some("out_of_range")),
        (event(r#","count":1e99"#), Some("wrong_type")),
        (event(r#","duration_ms":1.5"#), None),
        (time("\"yesterday\""), Some("bad_time")),
        (time("\"2024-13-01T00:00:00Z\""), Some("bad_time")),
        (time("true"), Some("wrong_type")),
        (time("9999999999999"), Some("future")),
        (time("0"), Some("too_old")),
        (time("-99999999999999999"), Some("bad_time")),
    ]
}

#[test]
fn every_bad_text_has_its_reason_keeps_its_bytes_and_harms_no_neighbour() {
    let cases = cases();
    let texts: Vec<Vec<u8>> = cases.iter().map(|(text, _)| text.clone()).collect();
    let judged = judge(&texts).unwrap();
    let differ = cases.iter().zip(&judged).filter(|((_, expected), Judged { reason })| reason.as_deref() != *expected);
    let shown = differ.map(|((text, expected), judged)| {
        let text = String::from_utf8_lossy(text.get(..80).unwrap_or(text)).into_owned();
        format!("{text}: {:?} instead of {expected:?}", judged.reason)
    });
    assert_eq!(shown.collect::<Vec<_>>(), Vec::<String>::new());
}
