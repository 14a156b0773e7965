//! The worked day of `docs/time.md`: three events, what each row shows after them, and what becomes of each event.

use keepwell::in_process::{self, InMemory, InProcess, Stages};
use keepwell_core::codec;
use keepwell_core::event::Kind;
use keepwell_core::schema::columns::Columns;
use keepwell_pipeline::clock::SetClock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::memory::MemoryBroker;
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::stage::Fate;
use keepwell_verify::deployment;
use keepwell_verify::fleet::Raw;

const CONFIG: &str = "
epoch: 1
partitions: 1
kafka: {bootstrap_servers: 'unused:9092'}
sources: [{topic: product-usage, kind: usage, bound: 1h, delay: 1h}]
time: {pane: 1d, lateness: 2d}
snapshots: {url: 'memory:///'}
";

/// Wall clock, the event that arrives (id, event time), and the rows that are new then (as of, final, uses).
type Moment = (&'static str, Option<(&'static str, &'static str)>, &'static [(&'static str, bool, i64)]);

/// As of, final, uses: of every row that was written, in order.
fn rows(broker: &MemoryBroker, config: &Config) -> Vec<(String, bool, i64)> {
    let mut rows = Vec::new();
    for value in broker.records(&config.topics.windows).into_iter().filter_map(|record| record.value) {
        let batch = codec::decode(&value, &config.aggregate.layout().schema()).unwrap();
        let columns = Columns::Batch(&batch);
        let (as_of, is_final) = (columns.time("as_of").unwrap(), columns.flag("final").unwrap());
        let uses = columns.int("uses_7d").unwrap();
        rows.extend((0..batch.num_rows()).map(|row| {
            let as_of = jiff::Timestamp::from_microsecond(as_of.value(row)).unwrap();
            (as_of.strftime("%d %b").to_string(), is_final.value(row), uses.value(row))
        }));
    }
    rows
}

#[test]
fn the_worked_day_of_the_document_on_time() {
    let us = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let config = Config::parse("worked day", CONFIG, &[]).unwrap();
    let (broker, stages) = (in_process::broker(&config, 1), Stages::new(&config).unwrap());
    let (clock, args) = (SetClock::at(us("2026-09-28T00:00:00Z")), RunArgs::drained(false));
    let place = InMemory { broker: &broker, config: &config, args: &args, clock: &clock };
    let mut deployment = InProcess::unsaved(&stages, &place).unwrap();
    let steps: [Moment; 7] = [
        ("2026-09-28T10:00:00Z", Some(("A", "2026-09-28T10:00:00Z")), &[("29 Sep", false, 1)]),
        ("2026-09-29T00:20:00Z", Some(("B", "2026-09-28T23:30:00Z")), &[("29 Sep", false, 2)]),
        ("2026-09-29T01:00:00Z", None, &[("29 Sep", true, 2)]),
        ("2026-09-30T01:00:00Z", None, &[("30 Sep", true, 2)]),
        ("2026-09-30T09:00:00Z", Some(("C", "2026-09-28T15:00:00Z")), &[("01 Oct", false, 3)]),
        ("2026-10-01T01:00:00Z", None, &[("01 Oct", true, 3)]),
        ("2026-10-01T01:00:01Z", Some(("D", "2026-09-28T15:00:00Z")), &[]),
    ];
    let mut known = 0;
    let mut fates = Vec::new();
    for (now, event, expected) in steps {
        clock.set(us(now));
        if let Some((id, at)) = event {
            let text = format!(r#"{{"event_id":"{id}","account_id":"acme","feature":"export","occurred_at":"{at}"}}"#);
            let raw = Raw { kind: Kind::Usage, key: None, value: Some(text.into_bytes()), at_ms: us(now) / 1000 };
            broker.produce(&deployment::message(&raw, known, 1, &config).unwrap()).unwrap();
        }
        // Twice: the end of a topic is proven once what came before is read.
        deployment.drain().unwrap();
        fates = deployment.drain().unwrap().aggregate.into_iter().collect();
        let rows = rows(&broker, &config);
        let new: Vec<_> = rows[known..].iter().map(|(as_of, f, uses)| (as_of.as_str(), *f, *uses)).collect();
        assert_eq!(new, expected, "{now}");
        known = rows.len();
    }
    let of =
        |name: &str| fates.iter().filter(|(fate, _): &&(Fate, u64)| fate.name == name).map(|(_, n)| n).sum::<u64>();
    assert_eq!(["on_time", "late", "too_late"].map(of), [2, 1, 1]);
}
