//! Bytes of every version that was ever written must stay readable. A golden file is never edited; a
//! changed table is a new version with a file of its own.

use std::borrow::Cow;

use super::event::{EventBuilder, EventRows, schema};
use crate::codec;
use crate::event::{Body, Event, Kind, Origin, Outcome, PersonAction, Priority, Survey, TicketAction};

const EVENTS_1: &[u8] = include_bytes!("../../golden/events-1.arrow");

/// One event of each form.
fn every_form() -> Vec<Event<'static>> {
    let text = Cow::Borrowed::<str>;
    let bodies = vec![
        Body::Usage { user_id: Some(text("u")), feature: text("f"), count: 2, duration_ms: Some(3), errors: None },
        Body::Ticket {
            ticket_id: text("t"),
            action: TicketAction::Rated,
            priority: Some(Priority::High),
            category: Some(text("billing")),
            csat: Some(4),
            user_id: None,
        },
        Body::Survey { survey: Survey::Ces, score: 5, scale_max: 7, user_id: Some(text("u")) },
        Body::Facts {
            facts: vec![(text("plan"), text("\"pro\"")), (text("seats"), text("5"))],
            valid_until_us: Some(9),
            author: Some(text("csm")),
        },
        Body::Deleted,
        Body::Milestone { id: text("go-live"), due_us: Some(1), done_us: None },
        Body::Outcome { alert_id: text("a"), outcome: Outcome::Dismissed },
        Body::Person { action: PersonAction::RoleChanged, user_id: text("u"), role: Some(text("admin")) },
    ];
    let event =
        |(n, body)| Event { account_id: text("acme"), event_id: Cow::Owned(format!("e{n}")), occurred_us: n, body };
    (0..).zip(bodies).map(event).collect()
}

#[test]
fn events_of_version_1_stay_readable() {
    let batch = codec::decode(EVENTS_1, &schema()).unwrap();
    let rows = EventRows::new(&batch);
    let events: Vec<_> = (0..rows.len()).map(|row| rows.event(row).unwrap()).collect();
    assert_eq!(events, every_form());
    let origin = rows.origin(1);
    assert_eq!((origin.topic, origin.partition, origin.offset, origin.received_us), ("raw", 3, 7, 11));
    assert_eq!(origin.payload, Some(b"{}".as_slice()));
}

#[test]
fn every_form_of_event_survives_the_table() {
    let mut builder = EventBuilder::default();
    let origin = Origin { topic: "raw", partition: 3, offset: 7, received_us: 11, payload: Some(b"{}") };
    let events = every_form();
    events.iter().for_each(|event| builder.push(event, origin).unwrap());
    let batch = codec::decode(&codec::encode(&builder.finish().unwrap()).unwrap(), &schema()).unwrap();
    let rows = EventRows::new(&batch);
    let read: Vec<_> = (0..rows.len()).map(|row| rows.event(row).unwrap()).collect();
    assert_eq!(read, events);
    let kinds: std::collections::BTreeSet<Kind> = read.iter().map(|event| event.body.kind()).collect();
    assert_eq!(kinds.len(), Kind::ALL.len());
}
