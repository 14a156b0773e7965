//! A fleet whose usage dies for some days, while one account leaves before and one during it.

use keepwell_core::event::Kind;

use crate::fleet::Raw;

const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// 2024-01-01T00:00:00Z: the begin of day 0.
const START_MS: i64 = 1_704_067_200_000;
/// Number of days.
pub const DAYS: i64 = 44;
/// Number of accounts.
pub const ACCOUNTS: usize = 30;
/// Days on which nothing of usage arrives.
pub const OUTAGE: std::ops::Range<i64> = 30..34;
/// This account leaves before the outage.
pub const LEFT: usize = 4;
/// This account leaves during the outage.
pub const LEAVES: usize = 17;

/// Name of an account.
pub fn account(n: usize) -> String {
    format!("account-{n:03}")
}

/// The day of a time in UTC milliseconds.
pub fn day_of(at_ms: i64) -> i64 {
    (at_ms - START_MS).div_euclid(DAY_MS)
}

/// Six uses a day of each account that has not left, in the order of event time.
pub fn usage() -> Vec<Raw> {
    let mut raws = Vec::new();
    for day in 0..DAYS {
        let is_there = |n: &usize| !(*n == LEFT && day >= 22 || *n == LEAVES && day >= 31);
        for (hour, n) in (9..15).flat_map(|hour| (0..ACCOUNTS).filter(is_there).map(move |n| (hour, n))) {
            let at_ms = START_MS + day * DAY_MS + hour * HOUR_MS + n as i64 * 1000;
            let text = format!(
                r#"{{"event_id":"{day}-{hour}-{n}","account_id":"{}","user_id":"u{}","feature":"export","occurred_at":{at_ms}}}"#,
                account(n),
                hour % 3
            );
            raws.push(Raw { kind: Kind::Usage, key: None, value: Some(text.into_bytes()), at_ms });
        }
    }
    raws
}

/// The events without those of the outage.
pub fn with_a_hole() -> Vec<Raw> {
    usage().into_iter().filter(|raw| !OUTAGE.contains(&day_of(raw.at_ms))).collect()
}

/// The events, those of the outage behind the first hour of the day after it.
pub fn with_a_return() -> Vec<Raw> {
    let (lost, mut raws): (Vec<Raw>, Vec<Raw>) =
        usage().into_iter().partition(|raw| OUTAGE.contains(&day_of(raw.at_ms)));
    let back_ms = START_MS + OUTAGE.end * DAY_MS + 10 * HOUR_MS;
    let at = raws.partition_point(|raw| raw.at_ms < back_ms);
    raws.splice(at..at, lost);
    raws
}
