//! How much memory decoded rows keep.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayData, RecordBatch};

/// Bytes in memory that these rows keep: the record they were decoded from, if they share its bytes, and what was made
/// for them. Columns that share values count once.
pub fn held_bytes(rows: &RecordBatch, record: &[u8]) -> usize {
    let mut buffers = BTreeMap::new();
    for column in rows.columns() {
        collect(&column.to_data(), &mut buffers);
    }
    let within = record.as_ptr_range();
    let within = within.start as usize..within.end as usize;
    let is_shared = buffers.keys().any(|address| within.contains(address));
    let own: usize = buffers.iter().filter(|(address, _)| !within.contains(address)).map(|(_, bytes)| bytes).sum();
    own + if is_shared { record.len() } else { 0 }
}

/// Adds the buffers of a column, by their address.
fn collect(data: &ArrayData, buffers: &mut BTreeMap<usize, usize>) {
    let nulls = data.nulls().map(|nulls| nulls.buffer());
    for buffer in data.buffers().iter().chain(nulls) {
        let bytes = buffers.entry(buffer.as_ptr() as usize).or_default();
        *bytes = buffer.len().max(*bytes);
    }
    for child in data.child_data() {
        collect(child, buffers);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use keepwell_core::codec::{decode_shared, encode};
    use keepwell_core::schema::feature_day;

    use super::*;

    fn rows(count: i64) -> RecordBatch {
        let mut rows = feature_day::Writer::default();
        for row in 0..count {
            rows.append(feature_day::Row {
                account_id: &format!("account {row:06}"),
                as_of: 1_700_000_000_000_000,
                feature: "search",
                events: row,
                uses: row,
                users: 1,
                duration_ms: None,
                errors: None,
                epoch: 1,
                partition: 2,
                next_offset: 3,
                ordinal: row,
            });
        }
        rows.finish().unwrap()
    }

    #[test]
    fn a_record_counts_with_what_its_rows_take_once_they_are_decoded() {
        let record = Bytes::from(encode(&rows(10_000)).unwrap());
        let decoded = decode_shared(&record, &feature_day::schema()).unwrap();
        let held = held_bytes(&decoded, &record);
        // In the record: the account and three numbers. Made besides: the time, the feature and its end, four numbers
        // of which two are of 4 bytes, and nulls, once for two columns.
        let made_per_row = 8 + (6 + 4) + (8 + 8 + 4 + 4) + 8;
        let made = held - record.len();
        assert!((made_per_row * 10_000..made_per_row * 10_500).contains(&made), "{made}");
    }

    #[test]
    fn what_was_copied_out_of_a_record_does_not_keep_it() {
        let record = Bytes::from(encode(&rows(100)).unwrap());
        let decoded = decode_shared(&record, &feature_day::schema()).unwrap();
        let one = arrow::compute::take_record_batch(&decoded, &arrow::array::UInt32Array::from(vec![7])).unwrap();
        assert!(held_bytes(&one, &record) < 300);
        assert!(held_bytes(&decoded.slice(7, 1), &record) > record.len());
    }
}
