//! Fuzzes values of Keepwell's own topics. Each must give a batch of the table or an error, never a panic.
#![no_main]

use keepwell_core::codec::decode;
use keepwell_core::schema::{event, feature_day, health, revenue, window};
use libfuzzer_sys::fuzz_target;

// The codec turns panics of Arrow into errors. libFuzzer would stop at the first panic.
fuzz_target!(init: std::panic::set_hook(Box::new(|_| {})), |value: &[u8]| {
    let windows = window::Layout::of_everything(&["7d".to_owned(), "28d".to_owned()]).schema();
    for schema in [event::schema(), windows, feature_day::schema(), revenue::schema(), health::schema()] {
        if let Ok(batch) = decode(value, &schema) {
            assert_eq!(batch.schema().fields(), schema.fields());
        }
    }
});
