//! Episodes of a trigger: when one begins, goes on, is closed by an outcome, ends, and may begin again.
//!
//! Only final rows change an episode. A live row shows what would happen if it were final.

use keepwell_core::interned::Name;
use serde::{Deserialize, Serialize};

use crate::model::Trigger;

/// What is remembered of one trigger of an account. Nothing is stored while the trigger is quiet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// Time of the final row since which the condition holds without an episode, UTC microseconds.
    pub pending_since_us: Option<i64>,
    /// The present episode, if there is one.
    pub raised: Option<Raised>,
    /// When the last episode ended or was closed, UTC microseconds.
    pub ended_us: Option<i64>,
}

/// An episode. It contains enough to report its end even if the model no longer knows the trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// `as_of` of the final row that raised it, UTC microseconds.
    pub since_us: i64,
    /// `as_of` of the final row at which an outcome closed it, UTC microseconds.
    pub closed_us: Option<i64>,
    /// Severity from the model.
    pub severity: Name,
    /// Playbook from the model.
    pub playbook: Name,
    /// Owner role from the model.
    pub owner_role: Name,
}

/// The state of a trigger on one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The condition holds, but not for long enough, or too soon after the last episode.
    Pending,
    /// The episode begins with this row.
    Raised,
    /// The episode goes on.
    Active,
    /// An outcome has closed the episode, and the condition still holds.
    Closed,
    /// The episode is over.
    Cleared,
}

impl Phase {
    /// The word in the `health` table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Raised => "raised",
            Self::Active => "active",
            Self::Closed => "closed",
            Self::Cleared => "cleared",
        }
    }
}

/// The state of a trigger on one row, and its begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state.
    pub phase: Phase,
    /// `as_of` of the final row at which the episode or the pending state began, UTC microseconds.
    pub since_us: i64,
    /// Whether this row is the first with a change that causes an alert.
    pub is_news: bool,
}

/// The values of a row that decide about a trigger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs<'s> {
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// Whether the condition holds. Unknown counts as no.
    pub holds: bool,
    /// Whether the clearing condition holds. None if the trigger does not declare one.
    pub clears: Option<bool>,
    /// The last outcome of the alert: accepted, done or dismissed.
    pub outcome: Option<&'s str>,
}

impl Episode {
    /// Whether there is nothing to remember.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// The episode after a row, and the state of the trigger on this row.
    pub fn after(&self, trigger: &Trigger, signs: Signs<'_>) -> (Self, Option<Transition>) {
        match &self.raised {
            Some(raised) => self.under_way(raised, trigger, signs),
            None => self.quiet(trigger, signs),
        }
    }

    fn quiet(&self, trigger: &Trigger, signs: Signs<'_>) -> (Self, Option<Transition>) {
        let now_us = signs.as_of_us;
        let ended_us = self.ended_us;
        if !signs.holds {
            return (Self { ended_us, ..Self::default() }, None);
        }
        let is_cooling = ended_us.is_some_and(|ended_us| now_us - ended_us < trigger.cooldown.as_micros());
        let since_us = self.pending_since_us.unwrap_or(now_us);
        if is_cooling || now_us - since_us < trigger.lasting.as_micros() {
            let transition = Transition { phase: Phase::Pending, since_us, is_news: false };
            return (Self { pending_since_us: Some(since_us), raised: None, ended_us }, Some(transition));
        }
        let raised = Raised {
            since_us: now_us,
            closed_us: None,
            severity: Name::from(trigger.severity.name()),
            playbook: trigger.playbook.clone(),
            owner_role: trigger.owner_role.clone(),
        };
        let transition = Transition { phase: Phase::Raised, since_us: now_us, is_news: true };
        (Self { raised: Some(raised), ..Self::default() }, Some(transition))
    }

    fn under_way(&self, raised: &Raised, trigger: &Trigger, signs: Signs<'_>) -> (Self, Option<Transition>) {
        let (now_us, since_us) = (signs.as_of_us, raised.since_us);
        let goes_on = signs.clears.map_or(signs.holds, |clears| !clears);
        let cooled = |closed_us: i64| {
            let cooldown_us = trigger.cooldown.as_micros();
            cooldown_us > 0 && now_us - closed_us >= cooldown_us
        };
        match raised.closed_us {
            // The condition or the cooldown is over: the episode counts as ended when it was closed.
            Some(closed_us) if !goes_on || cooled(closed_us) => {
                Self { ended_us: Some(closed_us), ..Self::default() }.quiet(trigger, signs)
            }
            Some(_) => (self.clone(), Some(Transition { phase: Phase::Closed, since_us, is_news: false })),
            None if matches!(signs.outcome, Some("done" | "dismissed")) => {
                let closed = Raised { closed_us: Some(now_us), ..raised.clone() };
                let transition = Transition { phase: Phase::Closed, since_us, is_news: true };
                (Self { raised: Some(closed), ..Self::default() }, Some(transition))
            }
            None if goes_on || now_us - since_us < trigger.hold.as_micros() => {
                (self.clone(), Some(Transition { phase: Phase::Active, since_us, is_news: false }))
            }
            None => self.over(now_us),
        }
    }

    /// Ends the episode with the row of this time, whatever the condition.
    pub fn over(&self, as_of_us: i64) -> (Self, Option<Transition>) {
        let ended = |ended_us| Self { ended_us, ..Self::default() };
        match &self.raised {
            Some(Raised { since_us, closed_us: None, .. }) => {
                (ended(Some(as_of_us)), Some(Transition { phase: Phase::Cleared, since_us: *since_us, is_news: true }))
            }
            Some(Raised { closed_us, .. }) => (ended(*closed_us), None),
            None => (ended(self.ended_us), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(more: &str) -> Trigger {
        let text = format!(
            "{{name: t, sql: x, severity: low, playbook: p, owner_role: o{}{more}}}",
            if more.is_empty() { "" } else { ", " }
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    const DAY_US: i64 = 86_400_000_000;

    /// The phase of each day: `.` for none, else its first letter, upper case if it causes an alert.
    fn phases(trigger: &Trigger, holds: &str, clears: Option<&str>, outcomes: &str) -> String {
        let mut episode = Episode::default();
        let mut line = String::new();
        for (day, holds) in holds.bytes().enumerate() {
            let is_one = |text: &str| text.as_bytes().get(day) == Some(&b'1');
            let outcome = outcomes.as_bytes().get(day).and_then(|outcome| match outcome {
                b'a' => Some("accepted"),
                b'd' => Some("done"),
                b'x' => Some("dismissed"),
                _ => None,
            });
            let as_of_us = day as i64 * DAY_US;
            let signs = Signs { as_of_us, holds: holds == b'1', clears: clears.map(is_one), outcome };
            let (next, transition) = episode.after(trigger, signs);
            episode = next;
            line.push(match transition {
                None => '.',
                Some(Transition { phase: Phase::Pending, .. }) => 'p',
                Some(Transition { phase: Phase::Raised, .. }) => 'R',
                Some(Transition { phase: Phase::Active, .. }) => 'a',
                Some(Transition { phase: Phase::Closed, is_news: false, .. }) => 'c',
                Some(Transition { phase: Phase::Closed, .. }) => 'D',
                Some(Transition { phase: Phase::Cleared, .. }) => 'C',
            });
        }
        line
    }

    #[test]
    fn an_episode_is_raised_once_lasts_and_is_cleared_once() {
        assert_eq!(phases(&trigger(""), "0011100110", None, ""), "..RaaC.RaC");
    }

    #[test]
    fn it_begins_after_the_condition_has_held_for_as_long_as_declared() {
        assert_eq!(phases(&trigger("for: 2d"), "0110111100", None, ""), ".pp.ppRaC.");
    }

    #[test]
    fn it_lasts_as_long_as_declared_and_ends_where_its_own_condition_says_so() {
        assert_eq!(phases(&trigger("hold: 3d"), "01000000", None, ""), ".RaaC...");
        assert_eq!(phases(&trigger("clear: y"), "01000100", Some("00001000"), ""), ".RaaCRaa");
    }

    #[test]
    fn after_an_episode_none_begins_until_it_has_cooled_down() {
        assert_eq!(phases(&trigger("cooldown: 3d"), "1011111001", None, ""), "RCppRaaC.p");
    }

    #[test]
    fn an_outcome_closes_it_and_what_still_holds_is_not_raised_again_until_it_has_cooled_down() {
        assert_eq!(phases(&trigger(""), "11111011", None, "..ad"), "RaaDc.Ra");
        assert_eq!(phases(&trigger("cooldown: 3d"), "1111111110", None, ".x"), "RDccRaaaaC");
        assert_eq!(phases(&trigger("cooldown: 3d"), "110111", None, ".d"), "RD.pRa");
    }

    #[test]
    fn the_last_row_of_an_account_clears_what_was_raised_and_not_what_was_closed() {
        let signs = Signs { holds: true, ..Signs::default() };
        let (raised, _) = Episode::default().after(&trigger(""), signs);
        assert_eq!(
            raised.over(DAY_US).1.map(|transition| (transition.phase, transition.since_us)),
            Some((Phase::Cleared, 0))
        );
        let (closed, _) = raised.after(&trigger(""), Signs { outcome: Some("done"), as_of_us: DAY_US, ..signs });
        assert_eq!(closed.over(2 * DAY_US), (Episode { ended_us: Some(DAY_US), ..Episode::default() }, None));
    }
}
