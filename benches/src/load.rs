//! A load of known content, from a seed: product usage as Segment `track` calls of about 350 bytes.
//!
//! Accounts and features follow Zipf's law with exponent 1: of N, rank k has a share of about 1 / (k ln N) of the
//! events. Users come in sessions of some minutes.
//! On Saturday and Sunday there are a quarter as many events as on other days. Events are in the order of their time,
//! except for a jitter of some seconds. A few come twice, because real collectors send some twice.

use std::sync::Arc;

use anyhow::Result;
use fastrand::Rng;
use keepwell_pipeline::record::Message;

use keepwell_verify::kafka::Kafka;

/// Number of sessions at the same time.
const SESSIONS: usize = 256;
/// Maximum number of events of a session.
const SESSION_EVENTS: u32 = 24;
/// Maximum number of users of an account.
const USERS: usize = 60;
/// One of this many calls is sent twice, as collectors do when they get no answer.
const REPEAT_ONE_OF: u32 = 200;
/// Number of features of the product.
const FEATURES: usize = 80;
/// Events are sent at most this long after their time, in milliseconds.
const JITTER_MS: i64 = 5000;
const DAY_MS: i64 = 86_400_000;

/// Parameters of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Seed. Equal shapes give equal loads.
    pub seed: u64,
    /// Number of accounts that can have events.
    pub accounts: usize,
    /// Number of events.
    pub events: usize,
    /// Time from the first event to the last, in milliseconds.
    pub span_ms: i64,
    /// Time of the first event, UTC milliseconds. It is midnight on a Monday.
    pub start_ms: i64,
    /// Whether each account has one event before any has a second. Then all accounts occur, not only the frequent ones.
    pub every_account: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Session {
    account: usize,
    user: usize,
    events_left: u32,
}

/// The events of a load, one after another.
#[derive(Debug)]
pub struct Load {
    shape: Shape,
    rng: Rng,
    sessions: Vec<Session>,
    /// Elapsed time in weekday milliseconds. At weekends calendar time passes four times as fast.
    weekday_ms: f64,
    count: usize,
    /// The last call, which a collector may send again.
    last: Option<Call>,
}

impl Shape {
    /// Name of the topic in which the load is kept.
    pub fn topic(&self) -> String {
        let Self { seed, accounts, events, span_ms, start_ms, every_account } = self;
        let first = if *every_account { "-every" } else { "" };
        format!("load-{seed}-{accounts}-{events}-{span_ms}-{start_ms}{first}")
    }

    /// Writes the load to Kafka, unless it is already there. Returns whether it was written.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn keep(&self, kafka: &Kafka, partitions: i32) -> Result<bool> {
        let topic = self.topic();
        match kafka.count(&topic)? {
            Some(count) if count == self.events as i64 => return Ok(false),
            // An existing topic with another count is incomplete.
            Some(_) => kafka.delete_topic(&topic)?,
            None => {}
        }
        kafka.create_topic(&topic, partitions)?;
        kafka.produce(Load::new(*self).messages(&topic, partitions))?;
        Ok(true)
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Event time, UTC milliseconds.
    pub at_ms: i64,
    /// Account id.
    pub account_id: String,
    /// The JSON text.
    pub text: String,
}

/// A random rank from 0 to `count` - 1: the inverse of P(rank < k) = ln(k + 1) / ln(count + 1).
fn zipf(rng: &mut Rng, count: usize) -> usize {
    let rank = ((count as f64 + 1.0).ln() * rng.f64()).exp() - 1.0;
    (rank as usize).min(count - 1)
}

/// Weekday milliseconds of a week: Saturday and Sunday count a quarter.
const WEEK: f64 = 5.5 * DAY_MS as f64;

/// Converts weekday milliseconds to milliseconds since Monday.
fn calendar_ms(weekday_ms: f64) -> i64 {
    let (weeks, within) = ((weekday_ms / WEEK).floor(), weekday_ms % WEEK);
    let days = 5.0 * DAY_MS as f64;
    let within = if within < days { within } else { days + (within - days) * 4.0 };
    (weeks * 7.0 * DAY_MS as f64 + within) as i64
}

/// The inverse of [`calendar_ms`].
fn weekday_ms(calendar_ms: i64) -> f64 {
    let (weeks, within) = (calendar_ms.div_euclid(7 * DAY_MS), calendar_ms.rem_euclid(7 * DAY_MS));
    let workdays = within.min(5 * DAY_MS);
    weeks as f64 * WEEK + workdays as f64 + (within - workdays) as f64 / 4.0
}

impl Load {
    /// The load from its first event.
    pub fn new(shape: Shape) -> Self {
        let sessions = vec![Session::default(); SESSIONS];
        Self { shape, rng: Rng::with_seed(shape.seed), sessions, weekday_ms: 0.0, count: 0, last: None }
    }

    /// The load as messages to a topic. They have no key, as with most collectors.
    pub fn messages(self, topic: &str, partitions: i32) -> impl Iterator<Item = Message> {
        let topic: Arc<str> = topic.into();
        self.zip(0..).map(move |(call, n): (Call, i64)| Message {
            topic: Arc::clone(&topic),
            partition: (n % i64::from(partitions)) as i32,
            timestamp_ms: Some(call.at_ms),
            key: None,
            value: Some(call.text.into_bytes()),
            headers: Vec::new(),
        })
    }
}

impl Iterator for Load {
    type Item = Call;

    fn next(&mut self) -> Option<Call> {
        let shape = self.shape;
        if self.count == shape.events {
            return None;
        }
        let (count, rng) = (self.count, &mut self.rng);
        self.count += 1;
        self.weekday_ms += weekday_ms(shape.span_ms) / shape.events as f64;
        let session = &mut self.sessions[rng.usize(0..SESSIONS)];
        if session.events_left == 0 {
            // Spread the ranks over the ids, so that ids next to each other have different sizes.
            let account = zipf(rng, shape.accounts).wrapping_mul(7919) % shape.accounts;
            *session = Session { account, user: zipf(rng, USERS), events_left: rng.u32(1..=SESSION_EVENTS) };
        }
        session.events_left -= 1;
        if shape.every_account && count < shape.accounts {
            session.account = count;
        } else if rng.u32(0..REPEAT_ONE_OF) == 0
            && let Some(last) = &self.last
        {
            return Some(last.clone());
        }
        let at_ms = shape.start_ms + calendar_ms(self.weekday_ms) - rng.i64(0..JITTER_MS).min(count as i64);
        let at_ms = at_ms.max(shape.start_ms);
        let (account_id, feature) =
            (format!("account-{:07}", session.account), format!("feature-{:02}", zipf(rng, FEATURES)));
        let id = format!("ajs-next-{:016x}-{count:010}", shape.seed);
        let user = format!("user-{:07}-{:02}", session.account, session.user);
        let text = track(Track {
            id: &id,
            feature: &feature,
            user: &user,
            account_id: &account_id,
            at_ms,
            count: rng.u32(1..4),
            duration_ms: rng.u32(0..9000),
        });
        let call = Call { at_ms, account_id, text };
        self.last = Some(call.clone());
        Some(call)
    }
}

/// A Segment `track` call.
#[derive(Debug, Clone, Copy)]
pub struct Track<'c> {
    /// Message id.
    pub id: &'c str,
    /// Feature name.
    pub feature: &'c str,
    /// User id.
    pub user: &'c str,
    /// Account id.
    pub account_id: &'c str,
    /// Event time, UTC milliseconds.
    pub at_ms: i64,
    /// Number of uses.
    pub count: u32,
    /// Duration of the use, in milliseconds.
    pub duration_ms: u32,
}

/// The call as JSON.
pub fn track(call: Track<'_>) -> String {
    let Track { id, feature, user, account_id, at_ms, count, duration_ms } = call;
    let time = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    format!(
        r#"{{"type":"track","messageId":"{id}","event":"{feature}","userId":"{user}","context":{{"groupId":"{account_id}","library":{{"name":"analytics.js","version":"2.11.1"}},"ip":"203.0.113.7"}},"timestamp":"{time}","properties":{{"count":{count},"duration_ms":{duration_ms},"plan":"pro","path":"/app/home"}}}}"#
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SHAPE: Shape = Shape {
        seed: 7,
        accounts: 1000,
        events: 40_000,
        span_ms: 14 * DAY_MS,
        start_ms: 1_704_067_200_000,
        every_account: false,
    };

    #[test]
    fn a_load_is_a_function_of_its_shape_and_as_large_as_it_says() {
        let calls: Vec<Call> = Load::new(SHAPE).collect();
        assert_eq!(calls, Load::new(SHAPE).collect::<Vec<_>>());
        assert_ne!(calls, Load::new(Shape { seed: 8, ..SHAPE }).collect::<Vec<_>>());
        let bytes = calls.iter().map(|call| call.text.len()).sum::<usize>() / calls.len();
        assert!((320..=380).contains(&bytes), "{bytes} bytes");
        assert!(calls.windows(2).all(|pair| pair[1].at_ms > pair[0].at_ms - 2 * JITTER_MS));
        let last = calls.last().unwrap().at_ms - SHAPE.start_ms;
        assert!((13 * DAY_MS..=14 * DAY_MS).contains(&last), "{last} ms");
    }

    #[test]
    fn a_few_calls_come_twice_and_each_account_comes_where_that_is_asked_for() {
        let distinct = |shape: Shape| Load::new(shape).map(|call| call.text).collect::<std::collections::BTreeSet<_>>();
        let num_repeated = SHAPE.events - distinct(SHAPE).len();
        assert!((120..280).contains(&num_repeated), "{num_repeated}");
        let accounts = |shape: Shape| {
            Load::new(shape).take(1000).map(|call| call.account_id).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(accounts(Shape { every_account: true, ..SHAPE }).len(), 1000);
        assert!(accounts(SHAPE).len() < 300);
    }

    #[test]
    fn a_week_of_calendar_time_is_five_days_and_two_quarters() {
        for calendar in [0, 1, 5 * DAY_MS - 1, 5 * DAY_MS, 6 * DAY_MS, 7 * DAY_MS, 20 * DAY_MS + 7] {
            assert!((calendar_ms(weekday_ms(calendar)) - calendar).abs() <= 4, "{calendar}");
        }
        assert!((weekday_ms(7 * DAY_MS) - WEEK).abs() < 1.0);
    }

    #[test]
    fn few_accounts_make_most_of_it_and_a_weekend_little() {
        let (mut accounts, mut days) = (BTreeMap::new(), BTreeMap::new());
        for call in Load::new(SHAPE) {
            *accounts.entry(call.account_id).or_insert(0) += 1;
            *days.entry((call.at_ms - SHAPE.start_ms).div_euclid(DAY_MS)).or_insert(0) += 1;
        }
        let mut sizes: Vec<i32> = accounts.values().copied().collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let share = |count| f64::from(sizes.iter().take(count).sum::<i32>()) / SHAPE.events as f64;
        // ln(101) / ln(1001) = 0.67
        assert!((0.60..0.75).contains(&share(100)), "{}", share(100));
        assert!((0.2..0.3).contains(&(f64::from(days[&5]) / f64::from(days[&4]))), "{days:?}");
    }
}
