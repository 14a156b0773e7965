//! Snapshots, statements of time and positions: understood or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline::offset::{NextOffset, Position};
use pipeline::snapshot::decode;
use pipeline::watermark::{Statement, Watermarks};

fuzz_target!(|value: &[u8]| {
    if let Ok((header, _)) = decode(value) {
        assert!(!header.stage.is_empty() || header.next.0 >= i64::MIN);
    }
    if let Ok(statement) = serde_json::from_slice::<Statement>(value) {
        let mut watermarks = Watermarks::default();
        watermarks.hear(&statement);
        let before = watermarks.watermark_us();
        watermarks.hear(&statement);
        assert!(watermarks.watermark_us() >= before);
    }
    if let Ok(text) = std::str::from_utf8(value)
        && let Ok(position) = Position::parse(NextOffset(0), text)
    {
        assert_eq!(Position::parse(NextOffset(0), &position.metadata()), Ok(position));
    }
});
