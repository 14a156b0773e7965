//! Fuzzes snapshots, statements of time and positions. Each is decoded or refused, never a panic.
#![no_main]

use keepwell_core::offset::{NextOffset, Position};
use keepwell_pipeline::snapshot::{decode, encode};
use keepwell_pipeline::watermark::{Statement, Watermarks};
use libfuzzer_sys::fuzz_target;

/// What can be decoded can be encoded and decoded again.
fn understood_again(bytes: &[u8]) {
    if let Ok((header, pieces)) = decode(bytes)
        && let Ok(again) = encode(&header, &pieces)
    {
        let (same, _) = decode(&again).expect("it was written just now");
        assert_eq!((same.stage, same.next), (header.stage, header.next));
    }
}

fuzz_target!(|value: &[u8]| {
    understood_again(value);
    // Add the right checksum, which random bytes never have.
    understood_again(&[value, crc32fast::hash(value).to_le_bytes().as_slice()].concat());
    if let Ok(statement) = serde_json::from_slice::<Statement>(value) {
        let mut watermarks = Watermarks::default();
        watermarks.observe(&statement);
        let before = watermarks.watermark_us();
        watermarks.observe(&statement);
        assert!(watermarks.watermark_us() >= before);
    }
    if let Ok(text) = std::str::from_utf8(value)
        && let Ok(position) = Position::parse(NextOffset(0), text)
    {
        assert_eq!(Position::parse(NextOffset(0), &position.metadata()), Ok(position));
    }
});
