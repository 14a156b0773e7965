//! The fleet of the demo: accounts of different sizes and fates, from a seed.
//!
//! Account sizes follow Zipf's law. Usage follows working days and hours. A few accounts get a fate that a health score
//! must show.
//! A file lists these accounts, so that readers can judge the result.

use fastrand::Rng;
use keepwell_core::event::Kind;
use serde::Serialize;
use serde_json::{Value, json};

use super::FEATURES;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What happens to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Usage stays the same.
    Steady,
    /// Usage grows.
    Growing,
    /// Usage fades to almost nothing over the last weeks.
    Decliner,
    /// The only champion leaves, and usage falls by half.
    ChampionExit,
    /// Badly rated urgent and high-priority tickets pile up in the last days, and usage falls a little.
    TicketStorm,
}

impl Fate {
    /// Whether a health score must show this fate.
    pub fn is_planted(self) -> bool {
        !matches!(self, Self::Steady | Self::Growing)
    }
}

/// One account of the fleet.
#[derive(Debug, Clone, Serialize)]
pub struct Account {
    /// Account id.
    pub id: String,
    /// What happens to the account.
    pub fate: Fate,
    /// Number of users.
    pub users: u32,
}

/// One raw event.
#[derive(Debug, Clone)]
pub struct RawEvent {
    /// Event time, UTC milliseconds.
    pub at_ms: i64,
    /// Kind of the event, and of its topic.
    pub kind: Kind,
    /// Index of the account in the fleet.
    pub account: usize,
    /// JSON value of the record.
    pub value: Value,
}

/// A fleet while it is generated.
#[derive(Debug)]
pub struct Fleet {
    /// The accounts, roughly from the largest to the smallest.
    pub accounts: Vec<Account>,
    events: Vec<RawEvent>,
    rng: Rng,
    start_ms: i64,
    days: i64,
}

/// Generates a fleet and its events over `days` days from `start_ms`, ordered by event time.
pub fn generate(seed: u64, accounts: usize, days: i64, start_ms: i64) -> (Vec<Account>, Vec<RawEvent>) {
    let mut fleet = Fleet { accounts: Vec::new(), events: Vec::new(), rng: Rng::with_seed(seed), start_ms, days };
    for n in 0..accounts {
        let fate = match fleet.rng.u32(0..100) {
            0..=5 => Fate::Decliner,
            6..=8 => Fate::ChampionExit,
            9..=11 => Fate::TicketStorm,
            12..=25 => Fate::Growing,
            _ => Fate::Steady,
        };
        let users = 3 + (120.0 / (1.0 + n as f64 / 8.0)) as u32 + fleet.rng.u32(0..4);
        fleet.accounts.push(Account { id: format!("account-{n:03}"), fate, users });
    }
    for n in 0..accounts {
        fleet.facts(n);
        fleet.people(n);
        fleet.usage(n);
        fleet.tickets(n);
        fleet.surveys(n);
        fleet.contract(n, &mut Rng::with_seed(seed ^ 0x6d72_7200 ^ n as u64));
    }
    // The sort is stable: events with equal times keep the order in which they were made.
    fleet.events.sort_by_key(|event| event.at_ms);
    for (serial, event) in fleet.events.iter_mut().enumerate() {
        event.value["event_id"] = json!(format!("demo-{serial:07}"));
    }
    (fleet.accounts, fleet.events)
}

impl Fleet {
    fn push(&mut self, at_ms: i64, kind: Kind, account: usize, mut value: Value) {
        if at_ms < self.start_ms + self.days * DAY_MS {
            value["account_id"] = json!(self.accounts[account].id);
            value["occurred_at"] = json!(at_ms);
            self.events.push(RawEvent { at_ms, kind, account, value });
        }
    }

    fn at(&mut self, day: i64, hours: std::ops::Range<i64>) -> i64 {
        self.start_ms + day * DAY_MS + self.rng.i64(hours.start * HOUR_MS..hours.end * HOUR_MS)
    }

    /// Usage of an account on a day, as a share of its full usage.
    fn vigour(&self, fate: Fate, day: i64) -> f64 {
        let left = (self.days - day) as f64;
        match fate {
            Fate::Steady => 1.0,
            Fate::Growing => 0.6 + 0.6 * day as f64 / self.days as f64,
            // Usage falls from five weeks before the end, for four weeks, down to 3 percent.
            Fate::Decliner => ((left - 7.0) / 28.0).clamp(0.03, 1.0),
            Fate::ChampionExit if left < 21.0 => 0.5,
            Fate::TicketStorm if left < 8.0 => 0.7,
            Fate::ChampionExit | Fate::TicketStorm => 1.0,
        }
    }

    fn facts(&mut self, n: usize) {
        let at_ms = self.at(0, 0..1);
        let segment = if self.accounts[n].users > 60 { "enterprise" } else { "smb" };
        let owner = format!("csm-{}", n % 7);
        let seats = self.accounts[n].users + self.rng.u32(0..10);
        let facts =
            json!({"plan": self.rng.choice(["team", "business"]), "segment": segment, "owner": owner, "seats": seats});
        self.push(at_ms, Kind::Account, n, json!({"type": "upsert", "facts": facts}));
        if self.rng.u32(0..4) == 0 {
            let (due_ms, done_ms) = (self.at(20, 0..1), self.at(12, 0..200));
            self.push(
                at_ms,
                Kind::Account,
                n,
                json!({"type": "milestone", "milestone": {"id": "go-live", "due_at": due_ms}}),
            );
            self.push(
                done_ms,
                Kind::Account,
                n,
                json!({"type": "milestone", "milestone": {"id": "go-live", "done_at": done_ms}}),
            );
        }
    }

    /// A contract of the last year, with what became of it. It has a random source of its own.
    fn contract(&mut self, n: usize, rng: &mut Rng) {
        let Account { fate, users, .. } = self.accounts[n];
        let at = |day: i64| self.start_ms + day * DAY_MS + 9 * HOUR_MS;
        let (price, age) = (f64::from(users * rng.u32(20..45)), rng.i64(20..365));
        let term = |begins_day: i64| at(begins_day + 365);
        let started = json!({"type": "started", "effective_at": at(-age), "mrr": price, "currency": "EUR", "seats": users + 5, "ends_at": term(-age)});
        let mut told = vec![(at(0) - 9 * HOUR_MS, started)];
        let renewal_day = (365 - age).max(4);
        let leaves = fate == Fate::Steady && rng.u32(0..30) == 0;
        let day = self.days * rng.i64(30..90) / 100;
        match fate {
            Fate::Growing => told.push((at(day), json!({"type": "changed", "mrr": price * 1.25, "reason": "upsell"}))),
            Fate::ChampionExit => {
                told.push((at(day), json!({"type": "changed", "mrr": price * 0.8, "reason": "seat_removed"})));
            }
            _ if leaves => told.push((at(day), json!({"type": "cancelled", "reason": "price"}))),
            _ => {}
        }
        if !leaves {
            let again = json!({"type": "renewed", "effective_at": at(renewal_day), "ends_at": term(renewal_day)});
            told.push((at(renewal_day - 3), again));
        }
        told.into_iter().for_each(|(at_ms, event)| self.push(at_ms, Kind::Contract, n, event));
    }

    fn people(&mut self, n: usize) {
        let at_ms = self.at(0, 0..1);
        for user in 0..self.accounts[n].users {
            let role = if user == 0 { "champion" } else { "member" };
            self.push(at_ms, Kind::Person, n, json!({"type": "added", "user_id": user_id(n, user), "role": role}));
        }
        if self.accounts[n].fate == Fate::ChampionExit {
            let at_ms = self.at(self.days - 21, 9..17);
            self.push(at_ms, Kind::Person, n, json!({"type": "removed", "user_id": user_id(n, 0)}));
        }
    }

    fn usage(&mut self, n: usize) {
        let Account { fate, users, .. } = self.accounts[n];
        let breadth = 5 + self.rng.usize(0..FEATURES.len() - 5);
        let daily = 0.5 + self.rng.f64() * 0.4;
        for day in 0..self.days {
            let weekday = (self.start_ms / DAY_MS + day + 4) % 7;
            let is_weekend = weekday == 0 || weekday == 6;
            let share = daily * self.vigour(fate, day) * if is_weekend { 0.08 } else { 1.0 };
            for user in 0..users {
                if self.rng.f64() >= share {
                    continue;
                }
                for _ in 0..self.rng.u32(1..4) {
                    // The sum of two uniform values: usage from 7:00 to 19:00, most of it around 13:00.
                    let at_ms = self.start_ms
                        + day * DAY_MS
                        + (7 * HOUR_MS)
                        + (self.rng.i64(0..6 * HOUR_MS) + self.rng.i64(0..6 * HOUR_MS));
                    let feature = FEATURES[self.rng.usize(0..breadth).min(self.rng.usize(0..breadth))];
                    let event = json!({"user_id": user_id(n, user), "feature": feature, "count": self.rng.u32(1..6), "duration_ms": self.rng.u32(1_000..600_000)});
                    self.push(at_ms, Kind::Usage, n, event);
                }
            }
        }
    }

    fn ticket(&mut self, n: usize, serial: i64, at_ms: i64, priority: &str, csat: i64) {
        let id = format!("T-{n}-{serial}");
        let step = |kind: &str| json!({"ticket_id": id, "type": kind, "priority": priority, "category": "how-to"});
        self.push(at_ms, Kind::Ticket, n, step("opened"));
        let mut at_ms = at_ms + self.rng.i64(HOUR_MS / 4..8 * HOUR_MS);
        self.push(at_ms, Kind::Ticket, n, step("responded"));
        let slow = if priority == "urgent" { 20 } else { 3 };
        at_ms += self.rng.i64(HOUR_MS..slow * DAY_MS);
        self.push(at_ms, Kind::Ticket, n, step("resolved"));
        let mut rated = step("rated");
        rated["csat"] = json!(csat);
        self.push(at_ms + HOUR_MS, Kind::Ticket, n, rated);
    }

    fn tickets(&mut self, n: usize) {
        for day in 0..self.days {
            if self.rng.u32(0..60) == 0 {
                let at_ms = self.at(day, 8..17);
                let csat = self.rng.i64(3..6);
                self.ticket(n, day, at_ms, "normal", csat);
            }
        }
        if self.accounts[n].fate == Fate::TicketStorm {
            for serial in 0..self.rng.i64(7..12) {
                let day = self.days - self.rng.i64(1..7);
                let at_ms = self.at(day, 8..17);
                let priority = self.rng.choice(["high", "urgent"]).unwrap_or("high");
                self.ticket(n, 1000 + serial, at_ms, priority, 1);
            }
        }
    }

    fn surveys(&mut self, n: usize) {
        for day in (0..self.days).step_by(30) {
            if self.rng.bool() {
                let at_ms = self.at(day, 8..17);
                let unhappy = self.accounts[n].fate.is_planted() && day > self.days / 2;
                let score = if unhappy { self.rng.i64(0..7) } else { self.rng.i64(7..11) };
                self.push(at_ms, Kind::Survey, n, json!({"user_id": user_id(n, 1), "survey": "nps", "score": score}));
            }
        }
    }
}

fn user_id(account: usize, user: u32) -> String {
    format!("user-{account:03}-{user:03}")
}
