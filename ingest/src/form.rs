//! Keepwell's own forms: which fields an event of each kind has. Mappings and the JSON Schemas use this list.

use keepwell_core::event::{ContractAction, Kind, Outcome, PersonAction, Priority, Survey, TicketAction};
use serde_json::{Map, Value, json};

use crate::decode::account::Action;
use crate::decode::{MAX_COUNT, MAX_DURATION_MS};
use crate::input::{MAX_NAME_BYTES, Word};

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Holds {
    /// A text that names something, or a whole number of at most 64 bits.
    Id,
    /// RFC 3339, or epoch milliseconds.
    Time,
    /// A whole number from the first to the second.
    Whole(i64, i64),
    /// A number from 0 to this.
    Number(i64),
    /// One of these texts.
    OneOf(fn() -> Vec<&'static str>),
    /// This text.
    Only(&'static str),
    /// Three letters.
    Currency,
    /// Names and values of facts.
    Facts,
    /// An object with these fields.
    Object(&'static [Field]),
}

/// A field of a form.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub holds: Holds,
    /// Whether every event has it.
    pub is_needed: bool,
    /// What it means.
    pub doc: &'static str,
}

/// A form: its name, its fields, those that every event needs first, and which field a word of another asks for.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Its name in the JSON Schemas.
    pub name: &'static str,
    /// The kind of its events.
    pub kind: Kind,
    /// What an event of it is.
    pub doc: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
    /// An event with this word in `type` needs this field.
    pub needs_by_type: &'static [(&'static str, &'static str)],
}

const fn needed(name: &'static str, holds: Holds, doc: &'static str) -> Field {
    Field { name, holds, is_needed: true, doc }
}

const fn optional(name: &'static str, holds: Holds, doc: &'static str) -> Field {
    Field { name, holds, is_needed: false, doc }
}

fn words<T: Word>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

const EVENT_ID: Field = needed("event_id", Holds::Id, "unique for the account; a repeated id is a duplicate");
const ACCOUNT_ID: Field = needed("account_id", Holds::Id, "the account");
const OCCURRED_AT: Field = needed("occurred_at", Holds::Time, "when it happened");
const USER_ID: Field = optional("user_id", Holds::Id, "who");
const COUNT: Field = optional("count", Holds::Whole(0, MAX_COUNT), "uses that this event stands for; default 1");
const DURATION: Field = optional("duration_ms", Holds::Number(MAX_DURATION_MS), "how long, in milliseconds");
const ERRORS: Field = optional("errors", Holds::Whole(0, MAX_COUNT), "failed uses");
const GROUP_ID: Field = optional("groupId", Holds::Id, "the account");

/// The greatest whole amount of money that ingest takes.
const MAX_MRR: i64 = 9_999_999_999_999;

const CONTEXT: &[Field] = &[GROUP_ID];
const PROPERTIES: &[Field] = &[COUNT, DURATION, ERRORS];
const MILESTONE: &[Field] = &[
    needed("id", Holds::Id, "which milestone"),
    optional("due_at", Holds::Time, "when it is due; null clears it"),
    optional("done_at", Holds::Time, "when it was done; null clears it"),
];
const OUTCOME: &[Field] = &[
    needed("alert_id", Holds::Id, "the alert, as in a record of alerts"),
    needed("event", Holds::OneOf(words::<Outcome>), "what became of its playbook"),
];

/// The forms of all kinds. `segment` is a second form of usage.
pub const FORMS: &[Form] = &[
    Form {
        name: "usage",
        kind: Kind::Usage,
        doc: "A use of a feature.",
        fields: &[
            EVENT_ID,
            ACCOUNT_ID,
            OCCURRED_AT,
            needed("feature", Holds::Id, "what was used"),
            USER_ID,
            COUNT,
            DURATION,
            ERRORS,
        ],
        needs_by_type: &[],
    },
    Form {
        name: "segment_track",
        kind: Kind::Usage,
        doc: "A use of a feature, as a track call of Segment. The account is context.groupId, else groupId.",
        fields: &[
            needed("messageId", Holds::Id, "event id"),
            needed("event", Holds::Id, "what was used"),
            needed("timestamp", Holds::Time, "when it happened"),
            optional("type", Holds::Only("track"), "the call"),
            optional("userId", Holds::Id, "who"),
            optional("anonymousId", Holds::Id, "who, without a userId"),
            optional("originalTimestamp", Holds::Time, "when it happened, by the clock of the device"),
            optional("sentAt", Holds::Time, "when it was sent, by the clock of the device"),
            optional("receivedAt", Holds::Time, "when it was received"),
            optional("context", Holds::Object(CONTEXT), "groupId is the account"),
            GROUP_ID,
            optional("properties", Holds::Object(PROPERTIES), "numbers of the use"),
        ],
        needs_by_type: &[],
    },
    Form {
        name: "ticket",
        kind: Kind::Ticket,
        doc: "A step of a support ticket.",
        fields: &[
            EVENT_ID,
            ACCOUNT_ID,
            OCCURRED_AT,
            needed("ticket_id", Holds::Id, "the ticket"),
            needed("type", Holds::OneOf(words::<TicketAction>), "the step"),
            optional("priority", Holds::OneOf(words::<Priority>), "its priority from this step on"),
            optional("category", Holds::Id, "what it is about"),
            optional("csat", Holds::Whole(1, 5), "the rating of the step `rated`"),
            USER_ID,
        ],
        needs_by_type: &[("rated", "csat")],
    },
    Form {
        name: "survey",
        kind: Kind::Survey,
        doc: "An answer to a survey. score is at most scale_max; without it, at most 10 for nps, 5 for csat, 7 for ces.",
        fields: &[
            EVENT_ID,
            ACCOUNT_ID,
            OCCURRED_AT,
            needed("survey", Holds::OneOf(words::<Survey>), "which survey"),
            needed("score", Holds::Whole(0, 1000), "the answer"),
            optional("scale_max", Holds::Whole(1, 1000), "the best possible answer; 10 for nps"),
            USER_ID,
        ],
        needs_by_type: &[],
    },
    Form {
        name: "account",
        kind: Kind::Account,
        doc: "Facts of an account, its deletion, a milestone, or what became of an alert.",
        fields: &[
            EVENT_ID,
            ACCOUNT_ID,
            OCCURRED_AT,
            needed("type", Holds::OneOf(words::<Action>), "what the event says"),
            optional("facts", Holds::Facts, "names and values; null clears a fact"),
            optional("valid_until", Holds::Time, "the facts are unknown from then on"),
            optional("author", Holds::Id, "who says so"),
            optional("milestone", Holds::Object(MILESTONE), "a milestone of the account"),
            optional("outcome", Holds::Object(OUTCOME), "what became of an alert"),
        ],
        needs_by_type: &[("upsert", "facts"), ("milestone", "milestone"), ("outcome", "outcome")],
    },
    Form {
        name: "person",
        kind: Kind::Person,
        doc: "A person of the account: added, removed, in another role, or erased.",
        fields: &[
            EVENT_ID,
            ACCOUNT_ID,
            OCCURRED_AT,
            needed("type", Holds::OneOf(words::<PersonAction>), "what happened"),
            needed("user_id", Holds::Id, "the person"),
            optional("role", Holds::Id, "role of the person; null clears it"),
        ],
        needs_by_type: &[],
    },
    Form {
        name: "contract",
        kind: Kind::Contract,
        doc: "A contract of the account: started, changed, renewed, paused, resumed or cancelled.",
        fields: &[
            EVENT_ID,
            ACCOUNT_ID,
            needed("occurred_at", Holds::Time, "when it was said"),
            needed("type", Holds::OneOf(words::<ContractAction>), "what happened"),
            optional("contract_id", Holds::Id, "which contract; an account with one needs none"),
            optional("effective_at", Holds::Time, "from when on it holds; default: occurred_at"),
            optional("mrr", Holds::Number(MAX_MRR), "monthly recurring revenue from then on; null: unknown"),
            optional("currency", Holds::Currency, "its currency, ISO 4217; null: unknown"),
            optional("seats", Holds::Whole(0, MAX_COUNT), "seats bought; null: unknown"),
            optional("ends_at", Holds::Time, "end of the term; null: none"),
            optional("reason", Holds::Id, "why, as a word of yours"),
        ],
        needs_by_type: &[],
    },
];

/// The form of a kind that mappings write.
pub fn of_kind(kind: Kind) -> Option<&'static Form> {
    FORMS.iter().find(|form| form.kind == kind)
}

impl Form {
    /// The form as a JSON Schema (2020-12). Fields that it does not name are allowed. What it accepts, ingest accepts, but for
    /// event times, facts with a type, answers above a `scale_max`, ids of over 512 bytes, and whole numbers such as 5.0.
    pub fn json_schema(&self) -> Value {
        let mut schema = object(self.fields);
        schema["description"] = self.doc.into();
        let mut rules: Vec<Value> = self.needs_by_type.iter().map(|(word, field)| rule("type", word, field)).collect();
        match self.name {
            "segment_track" => {
                let in_context = json!({"required": ["context"], "properties": {"context": {"type": "object", "required": ["groupId"]}}});
                rules.push(json!({"anyOf": [in_context, {"required": ["groupId"]}]}));
            }
            "survey" => {
                let at_most = |survey: &str, most: i64| {
                    json!({"if": {"properties": {"survey": {"const": survey}, "scale_max": {"type": "null"}}},
                        "then": {"properties": {"score": {"maximum": most}}}})
                };
                rules.extend([at_most("nps", 10), at_most("csat", 5), at_most("ces", 7)]);
                let of_nps = json!({"score": {"maximum": 10}, "scale_max": {"const": 10}});
                rules.push(json!({"if": {"properties": {"survey": {"const": "nps"}}}, "then": {"properties": of_nps}}));
            }
            _ => {}
        }
        if !rules.is_empty() {
            schema["allOf"] = rules.into();
        }
        schema
    }
}

/// A field that a word of another field asks for.
fn rule(field: &str, word: &str, needs: &str) -> Value {
    json!({
        "if": {"properties": {field: {"const": word}}, "required": [field]},
        "then": {"required": [needs], "properties": {needs: {"not": {"type": "null"}}}}
    })
}

fn object(fields: &[Field]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), field.json_schema())).collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.is_needed).map(|field| field.name).collect();
    json!({"type": "object", "properties": properties, "required": required})
}

impl Field {
    fn json_schema(&self) -> Value {
        let mut schema = match self.holds {
            Holds::Id => json!({"anyOf": [
                {"type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES},
                {"type": "integer", "minimum": i64::MIN, "maximum": u64::MAX}
            ]}),
            Holds::Time => json!({"anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "integer", "description": "milliseconds since 1970"}
            ]}),
            Holds::Whole(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Holds::Number(most) => json!({"type": "number", "minimum": 0, "maximum": most}),
            Holds::OneOf(words) => json!({"enum": words()}),
            Holds::Only(word) => json!({"const": word}),
            Holds::Currency => json!({"type": "string", "pattern": "^[A-Za-z]{3}$"}),
            Holds::Facts => json!({"type": "object"}),
            Holds::Object(fields) => object(fields),
        };
        if !self.is_needed {
            schema = json!({"anyOf": [schema, {"type": "null"}]});
        }
        schema["description"] = self.doc.into();
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Decoded, Limits, decode};

    const LIMITS: Limits = Limits {
        max_event_bytes: 100_000,
        max_facts: 100,
        max_fact_bytes: 1000,
        latest_us: i64::MAX,
        max_future_us: 0,
        earliest_us: 0,
    };

    /// Values that a field takes, and some that it does not.
    fn values(field: &Field) -> (Vec<Value>, Vec<Value>) {
        let wrong = |values: Vec<Value>| [values, vec![json!(true), json!([1])]].concat();
        let (right, wrong) = match field.holds {
            Holds::Id => {
                (vec![json!("a"), json!(7), json!("x".repeat(MAX_NAME_BYTES))], wrong(vec![json!(1.5), json!({})]))
            }
            Holds::Time => {
                (vec![json!("2026-03-01T10:00:00Z"), json!(1_772_359_200_000_i64)], wrong(vec![json!("soon")]))
            }
            Holds::Whole(least, most) => {
                (vec![json!(least), json!(most)], wrong(vec![json!(least - 1), json!(most + 1), json!("many")]))
            }
            Holds::Number(most) => (vec![json!(0), json!(0.5), json!(most)], wrong(vec![json!(-1), json!(most + 1)])),
            Holds::OneOf(words) => {
                (words().into_iter().map(Value::from).collect(), wrong(vec![json!("other"), json!(7)]))
            }
            Holds::Only(word) => (vec![json!(word)], wrong(vec![json!("other")])),
            Holds::Currency => (vec![json!("EUR"), json!("usd")], wrong(vec![json!("euro"), json!("12A"), json!(840)])),
            Holds::Facts => (vec![json!({}), json!({"plan": "pro", "x": [1]})], wrong(vec![json!("pro")])),
            Holds::Object(fields) => {
                let (least, most) = (example(fields, false), example(fields, true));
                (vec![most, least], wrong(vec![json!("x")]))
            }
        };
        if field.is_needed {
            (right, [wrong, vec![Value::Null]].concat())
        } else {
            ([right, vec![Value::Null]].concat(), wrong)
        }
    }

    /// An object with the needed fields, or with all.
    fn example(fields: &[Field], is_whole: bool) -> Value {
        let fields = fields.iter().filter(|field| field.is_needed || is_whole);
        fields.map(|field| (field.name.to_owned(), values(field).0.remove(0))).collect::<Map<_, _>>().into()
    }

    fn is_accepted(form: &Form, event: &Value) -> bool {
        let text = event.to_string();
        let decoded = decode(form.kind, text.as_bytes(), &LIMITS);
        matches!(decoded, Ok(Decoded::Event(_)))
    }

    /// Events of a form with all fields, one for each `type` or survey.
    fn examples(form: &Form) -> Vec<Value> {
        let mut whole = example(form.fields, true);
        if form.name == "survey" {
            whole["scale_max"] = 10.into();
        }
        let Some(field) = form.fields.iter().find(|field| field.is_needed && matches!(field.holds, Holds::OneOf(_)))
        else {
            return vec![whole];
        };
        let with = |word: Value| {
            let mut event = whole.clone();
            event[field.name] = word;
            event
        };
        values(field).0.into_iter().map(with).collect()
    }

    #[test]
    fn a_form_says_what_ingest_accepts() {
        for form in FORMS {
            for whole in examples(form) {
                assert!(is_accepted(form, &whole), "{}: {whole}", form.name);
                for field in form.fields {
                    let word = whole["type"].as_str().unwrap_or_default();
                    let is_read = match field.name {
                        // The group of the context and the user come first.
                        "groupId" | "anonymousId" => false,
                        "valid_until" | "author" => word == "upsert",
                        name if form.needs_by_type.iter().any(|(_, needed)| *needed == name) => {
                            form.needs_by_type.contains(&(word, name))
                        }
                        _ => true,
                    };
                    let is_needed = field.is_needed || form.needs_by_type.contains(&(word, field.name));
                    let mut event = whole.clone();
                    event.as_object_mut().unwrap().remove(field.name);
                    // Without its time, a call has those of the device.
                    let is_needed = is_needed && field.name != "timestamp";
                    assert_eq!(is_accepted(form, &event), !is_needed, "{} without {}", form.name, field.name);
                    let (right, wrong) = values(field);
                    for value in right {
                        let is_null = value.is_null();
                        event[field.name] = value;
                        let fits = form.name != "survey" || !["score", "scale_max"].contains(&field.name);
                        assert!(!fits || is_accepted(form, &event) != (is_null && is_needed), "{}: {event}", form.name);
                    }
                    // What an event of another type has may be anything.
                    let is_wrong = |value: &Value| is_read && (field.name != "timestamp" || !value.is_null());
                    for value in wrong.into_iter().filter(is_wrong) {
                        event[field.name] = value;
                        assert!(!is_accepted(form, &event), "{}: {event}", form.name);
                    }
                }
            }
        }
    }
}
