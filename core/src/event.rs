//! The accepted event: what ingest decodes, validates and writes, and aggregate folds.
//!
//! Codes are part of the `events` schema and never change their meaning.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Declares an enumeration whose codes are written to a `Code` column.
macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $code,)+
        }
        impl $name {
            /// Every value, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code in the `events` table.
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
    /// What an event is about; one raw topic each.
    Kind {
        /// Use of a feature.
        Usage = 1,
        /// Something happened to a support ticket.
        Ticket = 2,
        /// An answer to a survey.
        Survey = 3,
        /// Facts, milestones, outcomes and the end of an account.
        Account = 4,
        /// A person joined, left or changed role.
        Person = 5,
    }
}

coded! {
    /// What happened to a ticket.
    TicketAction {
        /// It was opened; only tickets opened at an account count there.
        Opened = 1,
        /// An agent answered.
        Responded = 2,
        /// It was solved.
        Resolved = 3,
        /// The customer came back.
        Reopened = 4,
        /// It was handed to a higher tier.
        Escalated = 5,
        /// Its priority changed.
        PriorityChanged = 6,
        /// The customer rated it (CSAT 1-5).
        Rated = 7,
        /// It was closed for good.
        Closed = 8,
    }
}

coded! {
    /// Priority of a ticket.
    Priority {
        /// Low.
        Low = 1,
        /// Normal; the default.
        Normal = 2,
        /// High.
        High = 3,
        /// Urgent.
        Urgent = 4,
    }
}

coded! {
    /// Kind of a survey.
    Survey {
        /// Net promoter score, 0-10.
        Nps = 1,
        /// Customer satisfaction.
        Csat = 2,
        /// Customer effort.
        Ces = 3,
    }
}

coded! {
    /// What happened to a person.
    PersonAction {
        /// Joined the account.
        Added = 1,
        /// Left the account.
        Removed = 2,
        /// Has another role now.
        RoleChanged = 3,
        /// The id is to be forgotten.
        Erased = 4,
    }
}

coded! {
    /// What became of an alert's playbook.
    Outcome {
        /// Someone took it on.
        Accepted = 1,
        /// It was carried out.
        Done = 2,
        /// It was set aside.
        Dismissed = 3,
    }
}

impl Outcome {
    /// As in the input.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Done => "done",
            Self::Dismissed => "dismissed",
        }
    }
}

/// What an event says of a value that is remembered: nothing, that it is unknown from then on, or what it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change<T> {
    /// Nothing is said: what was known stands.
    #[default]
    Kept,
    /// A null: unknown from then on.
    Cleared,
    /// The value from then on.
    Set(T),
}

impl<T> Change<T> {
    /// The value that is set, if one is.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Kept | Self::Cleared => None,
        }
    }

    /// The same of a value made from this one.
    pub fn map<U>(self, of: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Kept => Change::Kept,
            Self::Cleared => Change::Cleared,
            Self::Set(value) => Change::Set(of(value)),
        }
    }

    /// The same, borrowed.
    pub fn as_ref(&self) -> Change<&T> {
        match self {
            Self::Kept => Change::Kept,
            Self::Cleared => Change::Cleared,
            Self::Set(value) => Change::Set(value),
        }
    }

    /// What is known after it, of what was known before.
    pub fn after(self, before: Option<T>) -> Option<T> {
        match self {
            Self::Kept => before,
            Self::Cleared => None,
            Self::Set(value) => Some(value),
        }
    }
}

/// Bits of the `cleared` column: what a null has cleared.
pub mod cleared {
    /// The role of a person.
    pub const ROLE: u8 = 1;
    /// The due time of a milestone.
    pub const DUE: u8 = 2;
    /// The done time of a milestone.
    pub const DONE: u8 = 4;
}

/// Codes of the `action` column for [`Kind::Account`].
pub mod account_action {
    /// Facts were set.
    pub const UPSERT: u8 = 1;
    /// The account was deleted.
    pub const DELETED: u8 = 2;
    /// A milestone was planned, moved or done.
    pub const MILESTONE: u8 = 3;
    /// The outcome of an alert.
    pub const OUTCOME: u8 = 4;
}

/// One accepted event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event<'a> {
    /// The account it belongs to.
    pub account_id: Cow<'a, str>,
    /// Unique within the account and the kind; a second sighting is a duplicate.
    pub event_id: Cow<'a, str>,
    /// When it happened, UTC microseconds.
    pub occurred_us: i64,
    /// What happened.
    pub body: Body<'a>,
}

/// What happened, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Body<'a> {
    /// A feature was used.
    Usage {
        /// Who used it, if known.
        user_id: Option<Cow<'a, str>>,
        /// Which feature.
        feature: Cow<'a, str>,
        /// How many uses this event stands for; 0 where none succeeded.
        count: i64,
        /// How long it took, if known, in milliseconds.
        duration_ms: Option<i64>,
        /// How many of the uses failed, if known.
        errors: Option<i64>,
    },
    /// A ticket moved.
    Ticket {
        /// Which ticket.
        ticket_id: Cow<'a, str>,
        /// What happened.
        action: TicketAction,
        /// Its priority from now on, where told.
        priority: Option<Priority>,
        /// Its category from now on, where told.
        category: Option<Cow<'a, str>>,
        /// The rating 1-5, with `rated`.
        csat: Option<u8>,
        /// The customer's user, if known.
        user_id: Option<Cow<'a, str>>,
    },
    /// A survey was answered.
    Survey {
        /// Which survey.
        survey: Survey,
        /// The answer, `0..=scale_max`.
        score: i64,
        /// Best possible answer; 10 for NPS.
        scale_max: i64,
        /// Who answered, if known.
        user_id: Option<Cow<'a, str>>,
    },
    /// Facts were set: name and JSON text of the value (`null` clears).
    Facts {
        /// Names and JSON texts.
        facts: Vec<(Cow<'a, str>, Cow<'a, str>)>,
        /// From then on unknown again.
        valid_until_us: Option<i64>,
        /// Who said so.
        author: Option<Cow<'a, str>>,
    },
    /// The account was deleted.
    Deleted,
    /// A milestone was planned, moved or done.
    Milestone {
        /// Which milestone.
        id: Cow<'a, str>,
        /// When it is due, UTC microseconds.
        due_us: Change<i64>,
        /// When it was done, UTC microseconds.
        done_us: Change<i64>,
    },
    /// What became of an alert.
    Outcome {
        /// Which alert.
        alert_id: Cow<'a, str>,
        /// What became of it.
        outcome: Outcome,
    },
    /// A person joined, left or changed role.
    Person {
        /// What happened.
        action: PersonAction,
        /// Who.
        user_id: Cow<'a, str>,
        /// Role from now on.
        role: Change<Cow<'a, str>>,
    },
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
        }
    }

    /// Facts are never too late: an older one fills history or is superseded.
    pub fn is_fact(&self) -> bool {
        matches!(self, Self::Facts { .. } | Self::Milestone { .. } | Self::Person { .. })
    }
}

/// Where an event was read and what was kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Raw topic.
    pub topic: &'a str,
    /// Raw partition.
    pub partition: i32,
    /// Raw offset.
    pub offset: i64,
    /// The raw record's timestamp, UTC microseconds.
    pub received_us: i64,
    /// The raw value, kept where the event may turn out too late.
    pub payload: Option<&'a [u8]>,
}
