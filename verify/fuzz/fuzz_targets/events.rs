//! Fuzzes raw values of each kind. Each is accepted within the limits, ignored, or rejected with a short reason; it
//! never causes a panic.
#![no_main]

use keepwell_core::event::Kind;
use keepwell_ingest::decode::{Decoded, Limits, decode};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    max_event_bytes: 262_144,
    max_facts: 1000,
    max_fact_bytes: 16_384,
    earliest_us: 946_684_800_000_000,
    latest_us: 4_102_444_800_000_000,
    max_future_us: 3_600_000_000,
};

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, value) = input;
    let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
    match decode(kind, value, &LIMITS) {
        Ok(Decoded::Event(event)) => {
            assert!((LIMITS.earliest_us..=LIMITS.latest_us).contains(&event.occurred_us));
            assert!((1..=512).contains(&event.account_id.len()) && (1..=512).contains(&event.event_id.len()));
        }
        Ok(Decoded::Ignored(call)) => assert!(kind == Kind::Usage && !call.is_empty()),
        // The detail of a reject stays short, however long the value is.
        Err(reason) => assert!(reason.detail.len() < 2000 && !reason.detail.is_empty()),
    }
});
