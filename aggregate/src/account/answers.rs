//! Survey answers: the last answer of each person, and sums of anonymous answers.

use std::collections::BTreeMap;

use keepwell_core::event::Survey;
use keepwell_core::interned::Name;
use keepwell_core::natural::natural;
use serde::{Deserialize, Serialize};

/// The best possible score from which on the two best answers count as satisfied.
const MANY: i64 = 4;

/// Sums over the answers to one kind of survey.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Number of answers.
    pub responses: i64,
    /// Sum of scores. For NPS: promoters minus detractors.
    pub score: i64,
    /// Sum of the best possible scores.
    pub best: i64,
    /// Number of low answers. For NPS: detractors (0-6). Otherwise: at most two fifths of the best possible score.
    pub low: i64,
    /// Number of high answers. For CSAT: the two best of four or more, else the best. For CES: at least five sevenths of the
    /// best possible score. For NPS it is not counted. A snapshot stores it beside the sums, and the next one, too.
    #[serde(skip)]
    pub high: i64,
    /// Number of answers of which it is known whether they are high: not of those that a state before version 9 had summed up.
    #[serde(skip)]
    pub judged: i64,
    /// Time of the last answer, UTC microseconds.
    pub last_us: Option<i64>,
}

/// One answer to a survey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Event time, UTC microseconds.
    pub at_us: i64,
    /// Event id. It decides between answers of the same time.
    pub event_id: Name,
    /// The score, `0..=scale_max`.
    pub score: i64,
    /// The best possible score.
    pub scale_max: i64,
}

impl Answer {
    fn is_before(&self, other: &Self) -> bool {
        self.at_us.cmp(&other.at_us).then_with(|| natural(&self.event_id, &other.event_id)).is_lt()
    }
}

impl Answers {
    /// Adds one answer.
    pub fn add(&mut self, survey: Survey, answer: &Answer) {
        let Answer { at_us, score, scale_max, .. } = *answer;
        self.responses += 1;
        self.score += match survey {
            Survey::Nps => i64::from(score >= 9) - i64::from(score <= 6),
            Survey::Csat | Survey::Ces => score,
        };
        self.best += scale_max;
        self.low += i64::from(match survey {
            Survey::Nps => score <= 6,
            Survey::Csat | Survey::Ces => 5 * score <= 2 * scale_max,
        });
        self.high += i64::from(match survey {
            Survey::Nps => false,
            Survey::Csat if scale_max >= MANY => score >= scale_max - 1,
            Survey::Csat => score == scale_max,
            Survey::Ces => 7 * score >= 5 * scale_max,
        });
        self.judged += i64::from(survey != Survey::Nps);
        self.last_us = self.last_us.max(Some(at_us));
    }

    /// Number of high answers. None: there is no answer, or of some it is not known.
    pub fn known_high(&self) -> Option<i64> {
        (self.responses > 0 && self.judged == self.responses).then_some(self.high)
    }

    fn plus(&mut self, more: &Self) {
        self.responses += more.responses;
        self.score += more.score;
        self.best += more.best;
        self.low += more.low;
        self.high += more.high;
        self.judged += more.judged;
        self.last_us = self.last_us.max(more.last_us);
    }
}

/// Number of high answers, and of answers of which that is known, by kind.
pub type HighAnswers = [(i64, i64); 3];

/// The survey answers of a pane. Few panes have any: a pane without answers takes only the size of a pointer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surveys(Option<Box<NonEmpty>>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct NonEmpty {
    /// Answers without a person, by kind. With `answers: all`, all answers are here.
    sums: [Answers; 3],
    /// The last answer of each person, by code of the survey and name.
    last: BTreeMap<(u8, Name), Answer>,
}

/// Answers within a window, by kind.
#[derive(Debug, Default)]
pub struct Answered<'a> {
    sums: [Answers; 3],
    last: BTreeMap<(u8, &'a Name), &'a Answer>,
}

fn place(survey: Survey) -> usize {
    usize::from(survey.code()) - 1
}

impl Surveys {
    /// No answers.
    pub(super) const NONE: Self = Self(None);

    /// Adds an answer. The last answer of a person counts, whatever the order of arrival.
    pub fn take(&mut self, survey: Survey, person: Option<&str>, answer: Answer) {
        let held = self.0.get_or_insert_default();
        let Some(person) = person else { return held.sums[place(survey)].add(survey, &answer) };
        let known = held.last.entry((survey.code(), Name::from(person))).or_insert_with(|| answer.clone());
        if known.is_before(&answer) {
            *known = answer;
        }
    }

    /// Of the answers without a person, by kind: how many are high, and of how many that is known.
    pub(super) fn high(&self) -> HighAnswers {
        self.0.as_deref().map_or_else(HighAnswers::default, |held| held.sums.map(|sums| (sums.high, sums.judged)))
    }

    /// Restores these numbers.
    pub(super) fn take_high(&mut self, high: HighAnswers) {
        let Some(held) = self.0.as_deref_mut() else { return };
        held.sums.iter_mut().zip(high).for_each(|(sums, high)| (sums.high, sums.judged) = high);
    }

    /// Takes over the times of the last answers in `other`.
    pub(super) fn merge_times(&mut self, other: &Self) {
        if other.0.is_none() {
            return;
        }
        let sums = &mut self.0.get_or_insert_default().sums;
        for survey in Survey::ALL {
            let mine = &mut sums[place(*survey)].last_us;
            *mine = (*mine).max(other.last_us(*survey));
        }
    }

    /// Time of the last answer of one kind, UTC microseconds.
    pub fn last_us(&self, survey: Survey) -> Option<i64> {
        let held = self.0.as_deref()?;
        let of_people =
            held.last.iter().filter(|((code, _), _)| *code == survey.code()).map(|(_, answer)| answer.at_us);
        of_people.max().max(held.sums[place(survey)].last_us)
    }

    /// Replaces the name of a person.
    pub(super) fn rename(&mut self, person: &str, name: &Name) {
        let Some(held) = self.0.as_deref_mut() else { return };
        for survey in Survey::ALL {
            if let Some(answer) = held.last.remove(&(survey.code(), Name::from(person))) {
                self.take(*survey, Some(name), answer);
                return self.rename(person, name);
            }
        }
    }
}

impl<'a> Answered<'a> {
    /// Adds the answers of a later pane.
    pub fn merge(&mut self, surveys: &'a Surveys) {
        let Some(held) = surveys.0.as_deref() else { return };
        self.sums.iter_mut().zip(&held.sums).for_each(|(mine, more)| mine.plus(more));
        self.last.extend(held.last.iter().map(|((survey, person), answer)| ((*survey, person), answer)));
    }

    /// Whether there is no answer.
    pub fn is_empty(&self) -> bool {
        self.last.is_empty() && self.sums.iter().all(|sums| sums.responses == 0)
    }

    /// The sums of one kind of survey, with one answer per person.
    pub fn of(&self, survey: Survey) -> Answers {
        let mut answers = self.sums[place(survey)];
        let of_people = self.last.iter().filter(|((code, _), _)| *code == survey.code());
        of_people.for_each(|(_, answer)| answers.add(survey, answer));
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Survey, answers and their scales, high ones.
    type Case<'c> = (Survey, &'c [(i64, i64)], Option<i64>);

    #[test]
    fn high_answers_are_those_of_the_top_boxes_and_unknown_where_an_older_state_had_summed_them_up() {
        let answer = |score, scale_max| Answer { at_us: 0, event_id: Name::from("e"), score, scale_max };
        let taken = |survey, answers: &[(i64, i64)]| {
            let mut surveys = Surveys::NONE;
            answers.iter().for_each(|(score, scale_max)| surveys.take(survey, None, answer(*score, *scale_max)));
            surveys
        };
        let high = |survey, parts: &[&Surveys]| {
            let mut answered = Answered::default();
            parts.iter().for_each(|part| answered.merge(part));
            answered.of(survey).known_high()
        };
        let cases: [Case<'_>; 5] = [
            (Survey::Csat, &[(5, 5), (5, 5), (4, 5), (3, 5), (1, 5)], Some(3)),
            (Survey::Csat, &[(3, 3), (2, 3), (1, 1), (0, 1)], Some(2)),
            (Survey::Ces, &[(7, 7), (6, 7), (5, 7), (2, 7)], Some(3)),
            (Survey::Csat, &[], None),
            (Survey::Nps, &[(10, 10)], None),
        ];
        for (survey, answers, expected) in cases {
            assert_eq!(high(survey, &[&taken(survey, answers)]), expected, "{survey:?} {answers:?}");
        }
        let new = taken(Survey::Csat, &[(5, 5)]);
        let older: Surveys = postcard::from_bytes(&postcard::to_stdvec(&new).unwrap()).unwrap();
        assert_eq!(high(Survey::Csat, &[&older]), None);
        assert_eq!(high(Survey::Csat, &[&older, &new]), None);
        let mut restored = older;
        restored.take_high(new.high());
        assert_eq!(high(Survey::Csat, &[&restored, &new]), Some(2));
    }
}
