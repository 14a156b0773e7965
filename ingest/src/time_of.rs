//! Event time of a Segment call.

use crate::input::When;

/// `receivedAt - (sentAt - originalTimestamp)`, which takes a wrong device clock out, as Segment's common
/// fields define `timestamp`. Where Segment has not told the original, `timestamp` is the device's;
/// without both of the other two it is taken as it stands. UTC microseconds.
pub fn segment_time(
    timestamp: Option<When>,
    original: Option<When>,
    sent: Option<When>,
    received: Option<When>,
) -> Option<i64> {
    match (original.or(timestamp), sent, received) {
        (Some(original), Some(sent), Some(received)) => {
            Some(received.0.saturating_sub(sent.0.saturating_sub(original.0)))
        }
        _ => timestamp.or(original).map(|time| time.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_device_clock_is_taken_out() {
        let minute = 60_000_000;
        // original 10:00:00, sent 10:05:00, received 10:07:30 -> 10:02:30
        let [original, sent, received] = [0, 5 * minute, 7 * minute + minute / 2].map(|us| Some(When(us)));
        let corrected = Some(2 * minute + minute / 2);
        assert_eq!(segment_time(None, original, sent, received), corrected);
        assert_eq!(segment_time(original, None, sent, received), corrected);
        assert_eq!(segment_time(sent, original, None, None), Some(5 * minute));
        assert_eq!(segment_time(None, None, sent, received), None);
    }
}
