//! Values of Keepwell's own topics: a batch of the table or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline::codec::decode;
use pipeline::schema::{event, feature_day, health, window};

fuzz_target!(|value: &[u8]| {
    for schema in [event::schema(), window::schema(), feature_day::schema(), health::schema()] {
        if let Ok(batch) = decode(value, &schema) {
            assert_eq!(batch.schema().fields(), schema.fields());
        }
    }
});
