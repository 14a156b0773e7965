//! Generates a fleet of accounts that is dirty on purpose. It contains repeats, disorder within the bound, late and too
//! late events, and corrupt records.
//! It also contains tickets with times that go backwards, tickets that move, contracts that are told late or ahead, and
//! accounts that are deleted and made again. The same seed gives the same records.

use fastrand::Rng;
use keepwell_core::event::Kind;
use serde_json::{Value, json};

/// One raw record. Records are written in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// Kind of the event; it decides the raw topic.
    pub kind: Kind,
    /// Key of the record.
    pub key: Option<String>,
    /// Value of the record; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Event time, UTC milliseconds.
    pub at_ms: i64,
}

/// Size of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Number of accounts.
    pub accounts: usize,
    /// Number of days of history.
    pub days: i64,
    /// About the number of usage events for each account and day.
    pub usage: usize,
}

/// 2024-01-01T00:00:00Z in milliseconds.
const START_MS: i64 = 1_704_067_200_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

const FEATURES: [&str; 6] = ["dashboard", "export", "import", "alerts", "api", "search"];
const CATEGORIES: [&str; 4] = ["billing", "bug", "howto", "other-thing"];

struct Fleet {
    rng: Rng,
    /// Arrival time and record.
    records: Vec<(i64, Raw)>,
    /// Accounts without any event after this time.
    gone: Vec<(String, i64)>,
    serial: usize,
    survey_serial: usize,
    manner: Manner,
}

/// How the events of a fleet happen and arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Dirty,
    Punctual,
    /// Punctual, and all within half an hour of midnight.
    Nightly,
}

impl Raw {
    /// Whether the value contains this account's name.
    fn names(&self, account: &str) -> bool {
        let name = format!("\"{account}\"");
        let value = self.value.as_deref().unwrap_or_default();
        value.windows(name.len()).any(|part| part == name.as_bytes())
    }
}

/// The raw records of a dirty fleet, in arrival order.
pub fn dirty(seed: u64, shape: Shape) -> Vec<Raw> {
    generate(seed, shape, Manner::Dirty)
}

/// A fleet in the order of event time: nothing repeated, corrupt or late.
pub fn punctual(seed: u64, shape: Shape) -> Vec<Raw> {
    generate(seed, shape, Manner::Punctual)
}

/// A punctual fleet with all its events around midnight. Panes end there, so disorder matters most.
pub fn nightly(seed: u64, shape: Shape) -> Vec<Raw> {
    generate(seed, shape, Manner::Nightly)
}

/// Reorders the records so that none comes after one that happened `bound_ms` or more later.
pub fn shuffled_within(raws: &[Raw], seed: u64, bound_ms: i64) -> Vec<Raw> {
    let mut rng = Rng::with_seed(seed);
    let mut delayed: Vec<_> = raws.iter().map(|raw| (raw.at_ms + rng.i64(0..bound_ms), raw)).collect();
    delayed.sort_by_key(|(arrival_ms, _)| *arrival_ms);
    delayed.into_iter().map(|(_, raw)| raw.clone()).collect()
}

fn generate(seed: u64, shape: Shape, manner: Manner) -> Vec<Raw> {
    let mut fleet =
        Fleet { rng: Rng::with_seed(seed), records: Vec::new(), gone: Vec::new(), serial: 0, survey_serial: 0, manner };
    for n in 0..shape.accounts {
        let account = format!("account-{n:03}");
        fleet.facts(&account, n, shape.days);
        fleet.people(&account, shape.days);
        for day in 0..shape.days {
            fleet.usage(&account, day, shape.usage, n);
            fleet.tickets(&account, day, shape.accounts);
            fleet.surveys(&account, day);
        }
        if n % 7 == 3 {
            let at_ms = fleet.delete(&account, shape.days);
            if n % 2 == 0 {
                fleet.gone.push((account, at_ms));
            }
        }
    }
    for n in (0..shape.accounts).step_by(4) {
        (0..shape.days).for_each(|day| fleet.outcomes(&format!("account-{n:03}"), day));
    }
    for n in 0..shape.accounts {
        fleet.contracts(&format!("account-{n:03}"), n, shape.days);
    }
    // Some deleted accounts have no events after their deletion. The sort below is stable: equal arrival times keep the
    // order of generation.
    fleet
        .records
        .retain(|(_, raw)| !fleet.gone.iter().any(|(account, at_ms)| raw.at_ms > *at_ms && raw.names(account)));
    fleet.records.sort_by_key(|(arrival_ms, _)| *arrival_ms);
    fleet.records.into_iter().map(|(_, raw)| raw).collect()
}

impl Fleet {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    fn id(&mut self) -> String {
        self.serial += 1;
        format!("e{}", self.serial)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(0..from.len())]
    }

    /// A time on a day, in whole minutes, so that equal times occur.
    fn moment(&mut self, day: i64) -> i64 {
        let minute = self.rng.i64(0..24 * 60);
        let minute = if self.manner == Manner::Nightly { minute / 24 - 30 } else { minute };
        START_MS + day * DAY_MS + minute * 60_000
    }

    /// Adds an event with the delays, damage and repeats of its manner.
    fn arrive(&mut self, kind: Kind, at_ms: i64, event: &Value) {
        if self.manner != Manner::Dirty {
            let raw = Raw { kind, key: None, value: Some(event.to_string().into_bytes()), at_ms };
            self.records.push((at_ms, raw));
            return;
        }
        let delay_ms = match self.rng.u32(0..1000) {
            0..=20 => self.rng.i64(DAY_MS / 2..2 * DAY_MS),
            21..=28 => self.rng.i64(4 * DAY_MS..6 * DAY_MS),
            _ => self.rng.i64(0..50 * 60_000),
        };
        let mut value = event.to_string().into_bytes();
        if self.chance(1) {
            let at = self.rng.usize(0..value.len());
            value[at] = b'~';
        }
        let raw = Raw { kind, key: None, value: Some(value), at_ms };
        self.records.push((at_ms + delay_ms, raw.clone()));
        if self.chance(2) {
            let again_ms = self.rng.i64(0..3 * DAY_MS);
            self.records.push((at_ms + delay_ms + again_ms, raw));
        }
    }

    fn usage(&mut self, account: &str, day: i64, usage: usize, n: usize) {
        // Some accounts fall silent after day 20; all have less usage at weekends.
        if n % 5 == 1 && day > 20 || day % 7 > 4 && self.chance(70) {
            return;
        }
        for _ in 0..self.rng.usize(0..=2 * usage) {
            let at_ms = self.moment(day);
            let user = format!("{account}-user-{}", self.rng.u32(0..5));
            let feature = self.pick(&FEATURES);
            let id = self.id();
            let event = if self.chance(50) {
                json!({"type": "track", "messageId": id, "event": feature, "userId": user, "context": {"groupId": account},
                    "timestamp": rfc3339(at_ms), "properties": {"count": self.rng.i64(0..5)}})
            } else {
                json!({"event_id": id, "account_id": account, "user_id": self.chance(90).then_some(user), "feature": feature,
                    "occurred_at": at_ms, "count": self.chance(20).then(|| self.rng.i64(0..3)), "duration_ms": self.chance(50).then(|| self.rng.i64(0..100_000)),
                    "errors": self.chance(30).then(|| self.rng.i64(0..3))})
            };
            self.arrive(Kind::Usage, at_ms, &event);
        }
    }

    fn tickets(&mut self, account: &str, day: i64, accounts: usize) {
        if !self.chance(12) {
            return;
        }
        let ticket = format!("ticket-{account}-{day}");
        let mut at_ms = self.moment(day);
        let mut steps = vec!["opened"];
        for (step, percent) in [
            ("responded", 80),
            ("escalated", 20),
            ("priority_changed", 20),
            ("resolved", 80),
            ("rated", 40),
            ("reopened", 20),
            ("responded", 20),
            ("resolved", 60),
            ("closed", 50),
        ] {
            if self.chance(percent) {
                steps.push(step);
            }
        }
        for step in steps {
            let moved = self.chance(3).then(|| format!("account-{:03}", self.rng.usize(0..accounts)));
            let priority = self.chance(60).then(|| self.pick(&["low", "normal", "high", "urgent"]));
            let category = self.chance(50).then(|| self.pick(&CATEGORIES));
            let event = json!({"event_id": self.id(), "account_id": moved.as_deref().unwrap_or(account), "ticket_id": ticket,
                "occurred_at": at_ms, "type": step, "priority": priority, "category": category,
                "csat": (step == "rated").then(|| self.rng.i64(1..6))});
            self.arrive(Kind::Ticket, at_ms, &event);
            at_ms += if self.chance(5) { -2 * HOUR_MS } else { self.rng.i64(0..40) * HOUR_MS / 2 };
        }
    }

    fn surveys(&mut self, account: &str, day: i64) {
        if !self.chance(10) {
            return;
        }
        let at_ms = self.moment(day);
        let (survey, best) = self.pick(&[("nps", 10), ("csat", 5), ("ces", 7)]);
        // A person may answer again, at the same time or later.
        let user = self.chance(70).then(|| format!("{account}-user-{}", self.rng.u32(0..3)));
        for _ in 0..self.rng.i64(1..4) {
            let at_ms = at_ms + self.rng.i64(0..3) * HOUR_MS;
            // Surveys come from another system, which has its own numbers.
            self.survey_serial += 1;
            let id = format!("e{}", self.survey_serial);
            let event = json!({"event_id": id, "account_id": account, "user_id": user, "occurred_at": at_ms,
                "survey": survey, "score": self.rng.i64(0..=best)});
            self.arrive(Kind::Survey, at_ms, &event);
        }
    }

    /// Outcomes of alerts that may have been raised at the start of the day.
    fn outcomes(&mut self, account: &str, day: i64) {
        for trigger in ["inactivity", "champion_exit", "usage_drop"] {
            for (outcome, percent) in [("accepted", 50), ("done", 15), ("dismissed", 10)] {
                if self.chance(percent) {
                    let alert = format!("{account}/{trigger}/{}", rfc3339(START_MS + day * DAY_MS));
                    let at_ms = self.moment(day) + self.rng.i64(0..3) * DAY_MS;
                    let event = json!({"event_id": self.id(), "account_id": account, "occurred_at": at_ms, "type": "outcome", "outcome": {"alert_id": alert, "event": outcome}});
                    self.arrive(Kind::Account, at_ms, &event);
                }
            }
        }
    }

    fn facts(&mut self, account: &str, n: usize, days: i64) {
        for i in 0..self.rng.i64(1..5) {
            let at_ms = self.moment(i * days / 5);
            let mut facts =
                json!({"plan": self.pick(&["free", "pro"]), "seats": self.rng.i64(0..12), "region": {"code": i}});
            facts["stage"] = json!(["onboarding", "adoption", "renewal"][(n + i as usize) % 3]);
            if self.chance(50) {
                facts["features"] = json!([self.pick(&FEATURES), self.pick(&FEATURES), "unused"]);
            }
            if self.chance(50) {
                facts["mrr"] = json!(self.rng.i64(0..100_000) as f64 / 8.0);
                facts["renews_at"] = json!(rfc3339(at_ms + 90 * DAY_MS));
                facts["sentiment"] = json!(self.rng.i64(0..=100));
                facts["segment"] = if self.chance(20) { Value::Null } else { json!("smb") };
            }
            let until = self.chance(30).then(|| rfc3339(at_ms + 9 * DAY_MS));
            let event = json!({"event_id": self.id(), "account_id": account, "occurred_at": at_ms, "type": "upsert", "facts": facts, "valid_until": until, "author": "csm"});
            self.arrive(Kind::Account, at_ms, &event);
        }
        if n.is_multiple_of(2) {
            let at_ms = self.moment(1);
            let due = self.moment(10);
            let milestone = |done: Option<i64>| json!({"id": "go-live", "due_at": due, "done_at": done});
            let planned = json!({"event_id": self.id(), "account_id": account, "occurred_at": at_ms, "type": "milestone", "milestone": milestone(None)});
            self.arrive(Kind::Account, at_ms, &planned);
            let done_ms = self.moment(14);
            let done = json!({"event_id": self.id(), "account_id": account, "occurred_at": done_ms, "type": "milestone", "milestone": {"id": "go-live", "done_at": done_ms}});
            self.arrive(Kind::Account, done_ms, &done);
            let outcome = json!({"event_id": self.id(), "account_id": account, "occurred_at": done_ms, "type": "outcome", "outcome": {"alert_id": "a1", "event": "done"}});
            self.arrive(Kind::Account, done_ms, &outcome);
        }
    }

    fn people(&mut self, account: &str, days: i64) {
        for user in 0..3 {
            let user_id = format!("{account}-user-{user}");
            for (step, percent, day) in [
                ("added", 90, 0),
                ("role_changed", 50, days / 3),
                ("removed", 40, days / 2),
                ("added", 30, days * 2 / 3),
            ] {
                if self.chance(percent) {
                    let at_ms = self.moment(day);
                    let role = self.chance(60).then(|| self.pick(&["champion", "admin"]));
                    let event = json!({"event_id": self.id(), "account_id": account, "user_id": user_id, "occurred_at": at_ms, "type": step, "role": role});
                    self.arrive(Kind::Person, at_ms, &event);
                }
            }
        }
    }

    /// Up to two contracts, with a story that is true in part: told late or ahead, corrected, without an end or with one.
    fn contracts(&mut self, account: &str, n: usize, days: i64) {
        if n % 8 == 5 {
            // A trial that ends.
            for (step, day) in [("started", days / 4), ("cancelled", days / 2)] {
                let at_ms = self.moment(day);
                let event =
                    json!({"event_id": self.id(), "account_id": account, "occurred_at": at_ms, "type": step, "mrr": 0});
                self.arrive(Kind::Contract, at_ms, &event);
            }
            return;
        }
        for contract in 0..[0, 1, 0, 2][n % 4] {
            let mut day = self.rng.i64(0..days / 2 + 1);
            let mut step = "started";
            for _ in 0..self.rng.usize(1..7) {
                let said_ms = self.moment(day);
                let effective_ms = match self.rng.u32(0..10) {
                    0..5 => None,
                    5..8 => Some(said_ms - self.rng.i64(0..8) * DAY_MS),
                    _ => Some(said_ms + self.rng.i64(0..8) * DAY_MS),
                };
                let mut event =
                    json!({"event_id": self.id(), "account_id": account, "occurred_at": said_ms, "type": step});
                if contract > 0 || self.chance(50) {
                    event["contract_id"] = json!(format!("c{contract}"));
                }
                event["effective_at"] = json!(effective_ms);
                let has_terms = step == "started" || self.chance(50);
                if has_terms {
                    event["mrr"] = match self.rng.u32(0..10) {
                        0 => Value::Null,
                        // A trial.
                        1..4 => json!(0),
                        _ => json!(self.rng.i64(1..40_000) as f64 / 8.0),
                    };
                    event["currency"] = json!(self.pick(&["EUR", "EUR", "usd"]));
                }
                if self.chance(40) {
                    event["seats"] = if self.chance(20) { Value::Null } else { json!(self.rng.i64(0..30)) };
                }
                if self.chance(40) {
                    let ends_ms = said_ms + self.rng.i64(1..20) * DAY_MS;
                    event["ends_at"] = if self.chance(20) { Value::Null } else { json!(ends_ms) };
                }
                if self.chance(30) {
                    event["reason"] = json!(self.pick(&["price", "seat_removed", "upsell"]));
                }
                self.arrive(Kind::Contract, said_ms, &event);
                day += self.rng.i64(0..days / 3 + 1);
                step = self.pick(&[
                    "changed",
                    "changed",
                    "renewed",
                    "renewed",
                    "paused",
                    "resumed",
                    "cancelled",
                    "started",
                ]);
            }
        }
    }

    fn delete(&mut self, account: &str, days: i64) -> i64 {
        let at_ms = self.moment(days / 2);
        let event = json!({"event_id": self.id(), "account_id": account, "occurred_at": at_ms, "type": "deleted"});
        let first = self.records.len();
        self.arrive(Kind::Account, at_ms, &event);
        if self.manner == Manner::Dirty {
            // Every second deletion is told when its pane has closed: behind facts that are newer.
            let late_hours = if at_ms / 60_000 % 2 == 0 { 30 } else { 0 };
            self.records.iter_mut().skip(first).for_each(|(arrival_ms, _)| *arrival_ms += late_hours * HOUR_MS);
            for hours in 0..late_hours {
                let after_ms = at_ms + hours * HOUR_MS;
                let event = json!({"event_id": self.id(), "account_id": account, "occurred_at": after_ms, "type": "upsert", "facts": {"seats": hours}});
                let value = Some(event.to_string().into_bytes());
                self.records.push((after_ms, Raw { kind: Kind::Account, key: None, value, at_ms: after_ms }));
            }
            // Usage from before the deletion that arrives when its pane has closed.
            for hours in (26..60).step_by(2) {
                let before_ms = at_ms - 2 * HOUR_MS;
                let event = json!({"event_id": self.id(), "account_id": account, "feature": "export", "occurred_at": before_ms});
                let value = Some(event.to_string().into_bytes());
                let raw = Raw { kind: Kind::Usage, key: None, value, at_ms: before_ms };
                self.records.push((at_ms + hours * HOUR_MS, raw));
            }
        }
        at_ms
    }
}

fn rfc3339(at_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map_or_else(|_| at_ms.to_string(), |time| time.to_string())
}
