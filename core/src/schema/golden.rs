//! Tests that every version ever written stays readable. A golden file is never edited. A changed table is a new
//! version with its own file.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, TimeUnit, UInt8Type};
use arrow::ipc::reader::StreamReader;

use super::event::{EventBuilder, EventRows, schema};
use super::{feature_day, health, revenue, time_type, window};
use crate::codec;
use crate::event::{
    Body, Change, Contract, ContractAction, Event, Kind, Origin, Outcome, PersonAction, Priority, Survey, Terms,
    TicketAction,
};

const EVENTS_1: &[u8] = include_bytes!("../../golden/events-1.arrow");
const WINDOWS_3: &[u8] = include_bytes!("../../golden/windows-3.arrow");
const HEALTH_2: &[u8] = include_bytes!("../../golden/health-2.arrow");
const REVENUE_1: &[u8] = include_bytes!("../../golden/revenue-1.arrow");
const FEATURE_DAYS_1: &[u8] = include_bytes!("../../golden/feature_days-1.arrow");

/// One event of each kind and form that the golden file has.
fn first_forms() -> Vec<Event<'static>> {
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
        Body::Milestone { id: text("go-live"), due_us: Change::Set(1), done_us: Change::Kept },
        Body::Outcome { alert_id: text("a"), outcome: Outcome::Dismissed },
        Body::Person { action: PersonAction::RoleChanged, user_id: text("u"), role: Change::Set(text("admin")) },
    ];
    let event =
        |(n, body)| Event { account_id: text("acme"), event_id: Cow::Owned(format!("e{n}")), occurred_us: n, body };
    (0..).zip(bodies).map(event).collect()
}

/// One event of each kind and form, and of each way to change the terms of a contract.
fn every_form() -> Vec<Event<'static>> {
    let text = Cow::Borrowed::<str>;
    let terms = [
        Terms::default(),
        Terms {
            mrr_hundredths: Change::Set(125_050),
            currency: Change::Set(text("EUR")),
            seats: Change::Set(20),
            ends_us: Change::Set(7),
        },
        Terms {
            mrr_hundredths: Change::Cleared,
            currency: Change::Cleared,
            seats: Change::Cleared,
            ends_us: Change::Cleared,
        },
    ];
    let contract = |(n, terms): (i64, Terms<Cow<'static, str>>)| Event {
        account_id: text("acme"),
        event_id: Cow::Owned(format!("c{n}")),
        occurred_us: 100 + n,
        body: Body::Contract(Contract {
            id: text("k"),
            action: ContractAction::Renewed,
            effective_us: -n,
            terms,
            reason: (n > 0).then(|| text("upsell")),
        }),
    };
    first_forms().into_iter().chain((0..).zip(terms).map(contract)).collect()
}

#[test]
fn events_of_version_1_stay_readable() {
    let batch = codec::decode(EVENTS_1, &schema()).unwrap();
    let rows = EventRows::new(&batch);
    let events: Vec<_> = (0..rows.len()).map(|row| rows.event(row, rows.shape(row).unwrap())).collect();
    assert_eq!(events, first_forms());
    let origin = rows.origin(1);
    assert_eq!((origin.topic, origin.partition, origin.offset, origin.received_us), ("raw", 3, 7, 11));
    assert_eq!(origin.payload, Some(b"{}".as_slice()));
}

#[test]
fn every_form_of_event_survives_the_table_behind_every_other() {
    let mut builder = EventBuilder::default();
    let mut events = every_form();
    for first in 0..events.len() {
        let topics = ["raw", "old raw", "raw"];
        let origins = topics.iter().cycle().zip(0..).map(|(topic, offset)| Origin {
            topic,
            partition: 3,
            offset,
            received_us: 11,
            payload: (offset % 2 == 0).then_some(b"{}"),
        });
        let origins: Vec<_> = origins.take(events.len()).collect();
        events.iter().zip(&origins).for_each(|(event, origin)| builder.push(event, *origin).unwrap());
        assert_eq!(builder.num_rows(), events.len());
        let batch = codec::decode(&codec::encode(&builder.finish().unwrap()).unwrap(), &schema()).unwrap();
        let rows = EventRows::new(&batch);
        let read: Vec<_> = (0..rows.len()).map(|row| rows.event(row, rows.shape(row).unwrap())).collect();
        assert_eq!(read, events, "as of form {first}");
        let read: Vec<_> = (0..rows.len()).map(|row| rows.origin(row)).collect();
        assert_eq!(read, origins, "as of form {first}");
        let kinds: std::collections::BTreeSet<Kind> = events.iter().map(|event| event.body.kind()).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
        events.rotate_left(1);
    }
}

/// Cells that depend only on the name and type of a column. The last cell is null if the column allows it.
fn cells(field: &Field, num_rows: usize) -> ArrayRef {
    let seed = field.name().bytes().map(i64::from).sum::<i64>();
    let numbers = move |row: usize| seed * 1_000 + row as i64;
    let is_there = |row: usize| !field.is_nullable() || row + 1 < num_rows;
    let texts = || (0..num_rows).map(|row| is_there(row).then(|| format!("{} {row}", field.name())));
    let ints = || (0..num_rows).map(|row| is_there(row).then(|| numbers(row)));
    match field.data_type() {
        DataType::Utf8 => Arc::new(texts().collect::<StringArray>()),
        DataType::Binary => Arc::new(texts().map(|text| text.map(String::into_bytes)).collect::<BinaryArray>()),
        DataType::Dictionary(..) => {
            let texts: Vec<_> = texts().collect();
            Arc::new(texts.iter().map(Option::as_deref).collect::<DictionaryArray<UInt8Type>>())
        }
        DataType::Boolean => Arc::new(ints().map(|n| n.map(|n| n % 2 == 0)).collect::<BooleanArray>()),
        DataType::UInt8 => Arc::new(ints().map(|n| n.map(|n| (n % 3 + 1) as u8)).collect::<UInt8Array>()),
        DataType::Int32 => Arc::new(ints().map(|n| n.map(|n| n as i32)).collect::<Int32Array>()),
        DataType::Int64 => Arc::new(ints().collect::<Int64Array>()),
        DataType::Float64 => Arc::new(ints().map(|n| n.map(|n| n as f64 / 8.0)).collect::<Float64Array>()),
        DataType::Decimal128(..) => {
            let decimals = ints().map(|n| n.map(i128::from)).collect::<Decimal128Array>();
            Arc::new(decimals.with_data_type(field.data_type().clone()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Arc::new(ints().collect::<TimestampMicrosecondArray>().with_data_type(time_type()))
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { panic!("{field}") };
            let items = StructArray::new(fields.clone(), fields.iter().map(|field| cells(field, 2)).collect(), None);
            let offsets = OffsetBuffer::from_lengths((0..num_rows).map(|row| if row == 0 { 2 } else { 0 }));
            Arc::new(MapArray::new(Arc::clone(entries), offsets, items, None, false))
        }
        DataType::List(item) => {
            let DataType::Struct(fields) = item.data_type() else { panic!("{field}") };
            let items = StructArray::new(fields.clone(), fields.iter().map(|field| cells(field, 2)).collect(), None);
            let offsets = OffsetBuffer::from_lengths((0..num_rows).map(|row| if row == 0 { 2 } else { 0 }));
            Arc::new(ListArray::new(Arc::clone(item), offsets, Arc::new(items), None))
        }
        other => panic!("{field}: {other}"),
    }
}

/// The layout of the golden rows.
fn windows() -> window::Layout {
    let wanted = |of: &[&str], windows: &[&str], with_previous| window::Wanted {
        of: of.iter().map(|name| (*name).to_owned()).collect(),
        windows: windows.iter().map(|name| (*name).to_owned()).collect(),
        with_previous,
    };
    let asked =
        [wanted(&["usage", "people", "tickets", "surveys"], &[], false), wanted(&["uses", "nps"], &["28d"], true)];
    window::Layout::new(&["7d".to_owned(), "28d".to_owned()], &[], &asked)
}

#[test]
fn tables_of_every_version_stay_readable() {
    for (golden, schema) in [
        (WINDOWS_3, windows().schema()),
        (HEALTH_2, health::schema()),
        (FEATURE_DAYS_1, feature_day::schema()),
        (REVENUE_1, revenue::schema()),
    ] {
        let written = StreamReader::try_new(golden, None).unwrap().next().unwrap().unwrap();
        let read = codec::decode(golden, &schema).unwrap();
        for field in written.schema().fields() {
            let column = read.column_by_name(field.name()).unwrap();
            assert_eq!(column.as_ref(), cells(field, written.num_rows()).as_ref(), "{field}");
        }
    }
}
