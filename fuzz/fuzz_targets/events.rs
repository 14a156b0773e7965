//! Raw values of each kind: accepted or rejected by a reason, never a panic.
#![no_main]

use ingest::decode::{Limits, decode};
use libfuzzer_sys::fuzz_target;
use pipeline::event::Kind;

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, value) = input;
    let limits = Limits { max_event_bytes: 262_144, earliest_us: 946_684_800_000_000, latest_us: 4_102_444_800_000_000 };
    let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
    if let Err(reason) = decode(kind, value, &limits) {
        assert!(!reason.to_string().is_empty());
    }
});
