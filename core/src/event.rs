//! The accepted event. Ingest decodes, validates and writes it, and aggregate folds it.
//!
//! Codes are part of the `events` schema. Their meaning never changes.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Declares an enumeration with codes that are written to a `Code` column.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $code,)+
        }
        impl $name {
            /// All values, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code of this value in the `events` table.
            pub fn code(self) -> u8 {
                self as u8
            }

            /// The value with this code, if there is one.
            pub fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

coded! {
    /// The subject of an event. Each kind has its own raw topic.
    Kind {
        /// Use of a feature.
        Usage = 1,
        /// An event in the life of a support ticket.
        Ticket = 2,
        /// An answer to a survey.
        Survey = 3,
        /// Facts, milestones, outcomes, and the deletion of an account.
        Account = 4,
        /// A person joined, left or changed role.
        Person = 5,
        /// A contract started, changed, was renewed, paused, resumed or cancelled.
        Contract = 6,
    }
}

impl Kind {
    /// The word in the configuration and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Ticket => "ticket",
            Self::Survey => "survey",
            Self::Account => "account",
            Self::Person => "person",
            Self::Contract => "contract",
        }
    }
}

coded! {
    /// What happened to a ticket.
    TicketAction {
        /// It was opened. Only tickets opened at an account count for that account.
        Opened = 1,
        /// An agent responded.
        Responded = 2,
        /// It was resolved.
        Resolved = 3,
        /// It was reopened by the customer.
        Reopened = 4,
        /// It was escalated to a higher tier.
        Escalated = 5,
        /// Its priority changed.
        PriorityChanged = 6,
        /// The customer rated it (CSAT, 1 to 5).
        Rated = 7,
        /// It was closed for good.
        Closed = 8,
    }
}

coded! {
    /// Priority of a ticket.
    Priority {
        /// Low priority.
        Low = 1,
        /// Normal priority; the default.
        Normal = 2,
        /// High priority.
        High = 3,
        /// Urgent priority.
        Urgent = 4,
    }
}

coded! {
    /// Kind of a survey.
    Survey {
        /// Net promoter score, 0 to 10.
        Nps = 1,
        /// Customer satisfaction score.
        Csat = 2,
        /// Customer effort score.
        Ces = 3,
    }
}

coded! {
    /// What happened to a person of an account.
    PersonAction {
        /// The person joined the account.
        Added = 1,
        /// The person left the account.
        Removed = 2,
        /// The person's role changed.
        RoleChanged = 3,
        /// The person must be erased: the user id must be forgotten.
        Erased = 4,
    }
}

coded! {
    /// What happened to a contract.
    ContractAction {
        /// It started. Terms that the event does not name are unknown.
        Started = 1,
        /// Its terms changed.
        Changed = 2,
        /// It goes on for another term. Without an end the new term has none.
        Renewed = 3,
        /// It is paused: it earns nothing, but the customer has not left.
        Paused = 4,
        /// It goes on after a pause.
        Resumed = 5,
        /// It ended.
        Cancelled = 6,
    }
}

coded! {
    /// What became of the playbook of an alert.
    Outcome {
        /// Someone accepted it.
        Accepted = 1,
        /// It was carried out.
        Done = 2,
        /// It was dismissed.
        Dismissed = 3,
    }
}

impl Outcome {
    /// The name as in the input.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Dismissed => "dismissed",
        }
    }
}

/// How an event changes a stored value: not at all, to unknown, or to a new value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change<T> {
    /// The event does not mention the value, so the old one remains.
    #[default]
    Kept,
    /// The event contains null, so the value is unknown from then on.
    Cleared,
    /// The value from then on.
    Set(T),
}

impl<T> Change<T> {
    /// The new value, if one is set.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Kept | Self::Cleared => None,
        }
    }

    /// Converts the value, if one is set.
    pub fn map<U>(self, of: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Kept => Change::Kept,
            Self::Cleared => Change::Cleared,
            Self::Set(value) => Change::Set(of(value)),
        }
    }

    /// The same change with a borrowed value.
    pub fn as_ref(&self) -> Change<&T> {
        match self {
            Self::Kept => Change::Kept,
            Self::Cleared => Change::Cleared,
            Self::Set(value) => Change::Set(value),
        }
    }

    /// The value after this change, given the value before it.
    pub fn after(self, before: Option<T>) -> Option<T> {
        match self {
            Self::Kept => before,
            Self::Cleared => None,
            Self::Set(value) => Some(value),
        }
    }
}

/// Bits of the `cleared` column: which values a null has cleared.
pub mod cleared {
    /// The role of a person.
    pub const ROLE: u8 = 1;
    /// The due time of a milestone.
    pub const DUE: u8 = 2;
    /// The done time of a milestone.
    pub const DONE: u8 = 4;
    /// The monthly recurring revenue of a contract.
    pub const MRR: u8 = 8;
    /// The currency of a contract.
    pub const CURRENCY: u8 = 16;
    /// The seats of a contract.
    pub const SEATS: u8 = 32;
    /// The end of a contract's term.
    pub const ENDS: u8 = 64;
}

/// Codes of the `action` column for [`Kind::Account`].
pub mod account_action {
    /// Facts were set.
    pub const UPSERT: u8 = 1;
    /// The account was deleted.
    pub const DELETED: u8 = 2;
    /// A milestone was planned, moved or done.
    pub const MILESTONE: u8 = 3;
    /// The outcome of an alert was reported.
    pub const OUTCOME: u8 = 4;
}

/// The terms of a contract, as an event changes them. `T` is a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms<T> {
    /// Monthly recurring revenue, in hundredths of the currency.
    pub mrr_hundredths: Change<i64>,
    /// Currency, as its three letters (ISO 4217).
    pub currency: Change<T>,
    /// Seats bought.
    pub seats: Change<i64>,
    /// End of the term, UTC microseconds.
    pub ends_us: Change<i64>,
}

impl<T> Default for Terms<T> {
    /// Terms that stay as they are.
    fn default() -> Self {
        Self { mrr_hundredths: Change::Kept, currency: Change::Kept, seats: Change::Kept, ends_us: Change::Kept }
    }
}

/// What is said of a contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Contract<'a> {
    /// Id of the contract within the account.
    pub id: Cow<'a, str>,
    /// What happened to it.
    pub action: ContractAction,
    /// From when on it holds, UTC microseconds. The event time is when it was said.
    pub effective_us: i64,
    /// The terms from then on.
    pub terms: Terms<Cow<'a, str>>,
    /// Why, as a word of the sender.
    pub reason: Option<Cow<'a, str>>,
}

/// One accepted event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// The account it belongs to.
    pub account_id: Cow<'a, str>,
    /// Unique within the account and the kind. A second event with the same id is a duplicate.
    pub event_id: Cow<'a, str>,
    /// Event time, UTC microseconds.
    pub occurred_us: i64,
    /// What happened, by kind.
    pub body: Body<'a>,
}

/// The content of an event, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Body<'a> {
    /// A feature was used.
    Usage {
        /// The user, if known.
        user_id: Option<Cow<'a, str>>,
        /// Name of the feature.
        feature: Cow<'a, str>,
        /// Number of uses that this event stands for. 0 if none succeeded.
        count: i64,
        /// Duration in milliseconds, if known.
        duration_ms: Option<i64>,
        /// Number of failed uses, if known.
        errors: Option<i64>,
    },
    /// Something happened to a ticket.
    Ticket {
        /// Id of the ticket.
        ticket_id: Cow<'a, str>,
        /// What happened to it.
        action: TicketAction,
        /// Priority from now on, if the event contains one.
        priority: Option<Priority>,
        /// Category from now on, if the event contains one.
        category: Option<Cow<'a, str>>,
        /// The rating from 1 to 5, for `rated` events.
        csat: Option<u8>,
        /// The customer's user, if known.
        user_id: Option<Cow<'a, str>>,
    },
    /// A survey was answered.
    Survey {
        /// Kind of the survey.
        survey: Survey,
        /// The answer, from 0 to `scale_max`.
        score: i64,
        /// The best possible answer. It is 10 for NPS.
        scale_max: i64,
        /// The user who answered, if known.
        user_id: Option<Cow<'a, str>>,
    },
    /// Facts were set.
    Facts {
        /// Names and JSON texts of the values. A `null` clears the fact.
        facts: Vec<(Cow<'a, str>, Cow<'a, str>)>,
        /// Time from which the facts are unknown again, UTC microseconds.
        valid_until_us: Option<i64>,
        /// Who stated the facts, if known.
        author: Option<Cow<'a, str>>,
    },
    /// The account was deleted.
    Deleted,
    /// A milestone was planned, moved or done.
    Milestone {
        /// Id of the milestone.
        id: Cow<'a, str>,
        /// Due time, UTC microseconds.
        due_us: Change<i64>,
        /// Time when it was done, UTC microseconds.
        done_us: Change<i64>,
    },
    /// The outcome of an alert was reported.
    Outcome {
        /// Id of the alert.
        alert_id: Cow<'a, str>,
        /// The outcome.
        outcome: Outcome,
    },
    /// A person joined, left or changed role.
    Person {
        /// What happened to the person.
        action: PersonAction,
        /// The person's user id.
        user_id: Cow<'a, str>,
        /// The role from now on.
        role: Change<Cow<'a, str>>,
    },
    /// Something happened to a contract.
    Contract(Contract<'a>),
}

impl Body<'_> {
    /// The kind of this body.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Usage { .. } => Kind::Usage,
            Self::Ticket { .. } => Kind::Ticket,
            Self::Survey { .. } => Kind::Survey,
            Self::Facts { .. } | Self::Deleted | Self::Milestone { .. } | Self::Outcome { .. } => Kind::Account,
            Self::Person { .. } => Kind::Person,
            Self::Contract(_) => Kind::Contract,
        }
    }

    /// Whether the event is a fact. Facts are never too late: an older one completes the history or is superseded.
    pub fn is_fact(&self) -> bool {
        matches!(self, Self::Facts { .. } | Self::Milestone { .. } | Self::Person { .. } | Self::Contract(_))
    }
}

/// Where an event was read, and the raw value if it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Raw topic of the event.
    pub topic: &'a str,
    /// Partition of the raw topic.
    pub partition: i32,
    /// Offset of the raw record.
    pub offset: i64,
    /// Timestamp of the raw record, UTC microseconds.
    pub received_us: i64,
    /// The raw value. It is kept if the event may turn out to be too late.
    pub payload: Option<&'a [u8]>,
}
