//! Snapshots of every version ever written must stay readable, or be refused with a named error. A golden file is never
//! edited. A changed format gets a new version.

use std::borrow::Cow;
use std::sync::Arc;

use keepwell_core::codec;
use keepwell_core::event::{
    Body, Change, Contract, ContractAction, Event, Origin, Outcome, PersonAction, Survey, Terms, TicketAction,
};
use keepwell_core::offset::{NextOffset, Offset, Position, TopicPartition};
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::event::EventBuilder;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::snapshot::ONE;
use keepwell_pipeline::snapshot::parts::{Part, Parts, SavedRevisions, SnapshotBytes, all_bytes};
use keepwell_pipeline::stage::{Batch, Stage, StageError};
use keepwell_pipeline::suspect::SourceCount;
use keepwell_pipeline::watermark::{Mark, STATEMENT_HEADER, Source, SourceState, Statement};

use crate::{Aggregate, State};

/// An older format, which no program reads any more.
const STATE_2: &[u8] = include_bytes!("../golden/state-2.postcard");
/// An object as it is in the store, with all parts.
const STATE_5: &[u8] = include_bytes!("../golden/state-5.snapshot");
/// The same records with counts of a source.
const STATE_6: &[u8] = include_bytes!("../golden/state-6.snapshot");
/// The same records, and one of contracts.
const STATE_7: &[u8] = include_bytes!("../golden/state-7.snapshot");
/// The same records, and a close at which a month has begun.
const STATE_8: &[u8] = include_bytes!("../golden/state-8.snapshot");
/// The same records, and an answer of nobody known.
const STATE_9: &[u8] = include_bytes!("../golden/state-9.snapshot");
const CONFIG: &str = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: raw, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";

pub(crate) fn stage() -> Aggregate {
    Aggregate::new(&Config::parse("golden", CONFIG, &[]).unwrap())
}

pub(crate) fn partition() -> TopicPartition {
    TopicPartition::new("keepwell.events", 0)
}

/// One record with an event of each kind, and a statement that closes no pane with events.
fn record() -> Record {
    let text = Cow::Borrowed::<str>;
    let at = 19_800 * DAY_US;
    let bodies = vec![
        Body::Usage { user_id: Some(text("u")), feature: text("f"), count: 2, duration_ms: Some(3), errors: None },
        Body::Ticket {
            ticket_id: text("t"),
            action: TicketAction::Opened,
            priority: None,
            category: None,
            csat: None,
            user_id: None,
        },
        Body::Survey { survey: Survey::Nps, score: 9, scale_max: 10, user_id: None },
        Body::Facts { facts: vec![(text("plan"), text("\"pro\""))], valid_until_us: Some(at + DAY_US), author: None },
        Body::Milestone { id: text("go-live"), due_us: Change::Set(at), done_us: Change::Kept },
        Body::Outcome { alert_id: text("acme/inactivity/1"), outcome: Outcome::Accepted },
        Body::Person { action: PersonAction::Added, user_id: text("u"), role: Change::Set(text("champion")) },
        Body::Deleted,
    ];
    let event = |(n, body): (i64, Body<'static>)| {
        let account_id = if matches!(body, Body::Deleted) { text("gone") } else { text("acme") };
        Event { account_id, event_id: Cow::Owned(format!("e{n}")), occurred_us: at + n, body }
    };
    record_of(0, (0..).zip(bodies).map(event), at)
}

/// A record with these events, and a statement that the source has reached `time_us`.
pub(crate) fn record_of(offset: i64, events: impl Iterator<Item = Event<'static>>, time_us: i64) -> Record {
    let mut builder = EventBuilder::default();
    let origin = Origin { topic: "raw", partition: 0, offset: 0, received_us: 19_800 * DAY_US, payload: None };
    for event in events {
        builder.push(&event, origin).unwrap();
    }
    let mark = Mark {
        topic: "raw".into(),
        partition: 0,
        next: NextOffset(7 + offset),
        value_us: Some(time_us),
        state: SourceState::Reading,
    };
    let source = Source { topic: "raw".into(), epoch: 0, partitions: 1 };
    let statement = Statement { clock: true, sources: vec![source], marks: vec![mark], counts: Vec::new() };
    Record {
        value: Some(codec::encode(&builder.finish().unwrap()).unwrap().into()),
        headers: vec![stated(&statement)],
        ..Record::at(partition(), Offset(offset))
    }
}

fn stated(statement: &Statement) -> (String, Option<Vec<u8>>) {
    (STATEMENT_HEADER.to_owned(), Some(serde_json::to_vec(statement).unwrap()))
}

/// A record that only counts events: of two complete hours, and of one that is open.
fn counted() -> Record {
    let hour = 19_800 * 24;
    let counts = vec![SourceCount { topic: "raw".into(), hours: vec![(hour - 2, 300), (hour - 1, 5), (hour + 3, 7)] }];
    let statement = Statement { clock: true, sources: Vec::new(), marks: Vec::new(), counts };
    Record { headers: vec![stated(&statement)], ..Record::at(partition(), Offset(0)) }
}

/// A record with what was said of a contract.
fn contracted(offset: i64) -> Record {
    let (text, at) = (Cow::Borrowed::<str>, 19_800 * DAY_US);
    let terms = Terms {
        mrr_hundredths: Change::Set(125_050),
        currency: Change::Set(text("EUR")),
        seats: Change::Cleared,
        ends_us: Change::Set(at + 90 * DAY_US),
    };
    let (id, reason) = (text("k-1"), Some(text("upsell")));
    let contract = Contract { id, action: ContractAction::Started, effective_us: at - DAY_US, terms, reason };
    let body = Body::Contract(contract);
    let event = Event { account_id: text("acme"), event_id: text("c1"), occurred_us: at + 9, body };
    record_of(offset, std::iter::once(event), at)
}

/// Folds a record and the closes that it starts.
fn fold(stage: &Aggregate, state: &mut State, record: &Record) {
    let mut position = Position::at(NextOffset(record.offset.0));
    while position.next.0 <= record.offset.0 {
        let batch = Batch {
            records: [(partition(), std::slice::from_ref(record))].into(),
            positions: [(partition(), position)].into(),
            max_slices: 8,
            ..Batch::default()
        };
        let step = stage.apply(state, &batch).unwrap();
        position = step.positions[&partition()];
        stage.merge(state, step.changes);
    }
}

fn folded(stage: &Aggregate) -> State {
    let mut state = State::default();
    stage.restore(&mut state, &partition(), Position::at(NextOffset(0)), None).unwrap();
    fold(stage, &mut state, &record());
    state
}

/// The state of counts, events and contracts.
fn whole(stage: &Aggregate, with_contracts: bool) -> State {
    let mut state = State::default();
    stage.restore(&mut state, &partition(), Position::at(NextOffset(0)), None).unwrap();
    fold(stage, &mut state, &counted());
    fold(stage, &mut state, &Record { offset: Offset(1), ..record() });
    if with_contracts {
        fold(stage, &mut state, &contracted(2));
    }
    state
}

/// The state when April has begun.
fn of_april(stage: &Aggregate) -> State {
    let mut state = whole(stage, true);
    fold(stage, &mut state, &record_of(3, std::iter::empty(), 19_816 * DAY_US));
    state
}

/// The state of April, and an answer of nobody known.
fn answered(stage: &Aggregate) -> State {
    let mut state = of_april(stage);
    let text = Cow::Borrowed::<str>;
    let body = Body::Survey { survey: Survey::Csat, score: 4, scale_max: 5, user_id: None };
    let at = 19_816 * DAY_US;
    let event = Event { account_id: text("acme"), event_id: text("s1"), occurred_us: at, body };
    fold(stage, &mut state, &record_of(4, std::iter::once(event), at));
    state
}

fn restored(stage: &Aggregate, whole: &SnapshotBytes) -> Result<State, StageError> {
    let (mut state, at) = (State::default(), Position::at(NextOffset(1)));
    stage.restore(&mut state, &partition(), at, Some(whole)).map(|()| state)
}

fn memory(state: &State) -> impl PartialEq + std::fmt::Debug + '_ {
    state[&partition()].memory()
}

fn all(stage: &Aggregate, state: &State) -> SnapshotBytes {
    all_bytes(stage.snapshot(state, &partition(), &SavedRevisions::new()).unwrap()).unwrap()
}

#[test]
fn states_of_versions_since_5_stay_readable_and_are_what_the_same_records_give() {
    let stage = stage();
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_5).unwrap();
    let (of_5, of_records) = (restored(&stage, &saved).unwrap(), folded(&stage));
    assert_eq!(memory(&of_5), memory(&of_records));
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_6).unwrap();
    let (of_6, of_records) = (restored(&stage, &saved).unwrap(), whole(&stage, false));
    assert_eq!(memory(&of_6), memory(&of_records));
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_7).unwrap();
    let (of_7, of_records) = (restored(&stage, &saved).unwrap(), whole(&stage, true));
    assert_eq!(memory(&of_7), memory(&of_records));
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_8).unwrap();
    let (of_8, of_records) = (restored(&stage, &saved).unwrap(), of_april(&stage));
    assert_eq!(memory(&of_8), memory(&of_records));
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_9).unwrap();
    let (of_9, of_records) = (restored(&stage, &saved).unwrap(), answered(&stage));
    assert_eq!(memory(&of_9), memory(&of_records));
    assert_eq!(all(&stage, &of_9), saved, "equal states give equal bytes");
}

#[test]
fn a_snapshot_that_follows_one_of_an_older_version_can_be_read() {
    let stage = stage();
    for older in [STATE_5, STATE_6, STATE_7, STATE_8] {
        let (_, saved) = keepwell_pipeline::snapshot::decode(older).unwrap();
        let state = restored(&stage, &saved).unwrap();
        // All parts that are in the store count as written, at the revision of a state that was just restored.
        let known = saved.keys().map(|name| (name.clone(), 0)).collect();
        let bytes = |(name, part): (String, Part)| match part {
            Part::Changing(bytes) | Part::Settled { bytes: Some(bytes), .. } => (name, bytes),
            Part::Settled { bytes: None, .. } => (name.clone(), saved[&name].clone()),
        };
        let next = stage.snapshot(&state, &partition(), &known).unwrap().into_iter().map(bytes).collect();
        assert_eq!(memory(&restored(&stage, &next).unwrap()), memory(&state));
    }
}

#[test]
fn a_state_with_other_measures_is_refused_with_the_remedy() {
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_5).unwrap();
    let config = Config::parse("golden", &format!("{CONFIG}aggregate: {{measures: [usage]}}\n"), &[]).unwrap();
    let why = restored(&Aggregate::new(&config), &saved).unwrap_err().to_string();
    assert!(why.contains("raise `epoch` and rebuild") && why.contains("windows/3: 7d: usage;"), "{why}");
}

#[test]
fn another_version_and_damaged_bytes_are_refused_by_name() {
    let stage = stage();
    let refuse = |whole: &SnapshotBytes| restored(&stage, whole).unwrap_err().to_string();
    let of_2 = SnapshotBytes::from([(ONE.to_owned(), STATE_2.to_vec())]);
    assert!(refuse(&of_2).contains("before 3"), "{}", refuse(&of_2));
    let (_, saved) = keepwell_pipeline::snapshot::decode(STATE_9).unwrap();
    let mut newer = saved.clone();
    newer.get_mut("head").unwrap()[0] = 10;
    assert!(refuse(&newer).contains("version 10"), "{}", refuse(&newer));
    for name in saved.keys() {
        let mut cut = saved.clone();
        cut.get_mut(name).unwrap().pop();
        assert!(restored(&stage, &cut).is_err(), "{name}");
    }
}

#[test]
fn a_step_changes_nothing_until_it_is_merged() {
    let stage = stage();
    let state = folded(&stage);
    let bytes = all(&stage, &state);
    let record = Record { offset: Offset(1), ..record() };
    let batch = Batch {
        records: [(partition(), std::slice::from_ref(&record))].into(),
        positions: [(partition(), Position::at(NextOffset(1)))].into(),
        is_early: true,
        tick: 1,
        ..Batch::default()
    };
    let steps = [(); 2].map(|()| stage.apply(&state, &batch).unwrap().messages);
    assert_eq!(steps[0], steps[1], "the same step gives the same messages");
    assert!(steps[0].iter().any(|message| message.topic == Arc::from("keepwell.windows")));
    assert_eq!(all(&stage, &state), bytes);
}

/// The content of a snapshot that follows `before`: its own parts, and the earlier parts that it refers to.
fn following(stage: &Aggregate, state: &State, before: &Parts) -> SnapshotBytes {
    let revision = |part: &Part| match part {
        Part::Changing(_) => None,
        Part::Settled { revision, .. } => Some(*revision),
    };
    let known = before.iter().filter_map(|(name, part)| Some((name.clone(), revision(part)?))).collect();
    let before = all_bytes(before.clone()).unwrap();
    let bytes = |(name, part): (String, Part)| match part {
        Part::Changing(bytes) | Part::Settled { bytes: Some(bytes), .. } => (name, bytes),
        Part::Settled { bytes: None, .. } => (name.clone(), before[&name].clone()),
    };
    stage.snapshot(state, &partition(), &known).unwrap().into_iter().map(bytes).collect()
}

#[test]
fn what_a_close_settles_is_in_the_next_snapshot() {
    let stage = stage();
    let mut state = folded(&stage);
    let before = stage.snapshot(&state, &partition(), &SavedRevisions::new()).unwrap();
    fold(&stage, &mut state, &record_of(1, std::iter::empty(), 19_802 * DAY_US));
    let after = following(&stage, &state, &before);
    assert_eq!(after, all(&stage, &state), "what is known has not changed");
    assert_ne!(after["pane-19800"], all_bytes(before).unwrap()["pane-19800"]);
    assert_eq!(memory(&restored(&stage, &after).unwrap()), memory(&state));
}

#[test]
fn what_a_deletion_erases_is_in_no_piece_of_the_next_snapshot() {
    let stage = stage();
    let mut state = folded(&stage);
    fold(&stage, &mut state, &contracted(1));
    let before = stage.snapshot(&state, &partition(), &SavedRevisions::new()).unwrap();
    let text = Cow::Borrowed::<str>;
    let at = 19_800 * DAY_US;
    let deleted =
        Event { account_id: text("acme"), event_id: text("d"), occurred_us: at + DAY_US, body: Body::Deleted };
    fold(&stage, &mut state, &record_of(2, std::iter::once(deleted), at + 3 * DAY_US));
    let after = following(&stage, &state, &before);
    assert_eq!(after, all(&stage, &state), "what is known has not changed");
    assert_eq!(memory(&restored(&stage, &after).unwrap()), memory(&state));
    let before = all_bytes(before).unwrap();
    for erased in [b"\"pro\"".as_slice(), b"go-live", b"k-1", b"upsell"] {
        let holds =
            |whole: &SnapshotBytes| whole.values().any(|bytes| bytes.windows(erased.len()).any(|part| part == erased));
        assert!(holds(&before) && !holds(&after), "{}", String::from_utf8_lossy(erased));
    }
    assert!(before.contains_key("pane-19800") && !after.contains_key("pane-19800"));
}
