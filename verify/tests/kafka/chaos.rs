//! Some faults of `verify/src/bin/chaos.rs`, each once, and the judgement on all outputs.

use keepwell_pipeline::crash_points::CrashPoint;
use keepwell_verify::chaos::fault::Fault;
use keepwell_verify::chaos::processes::Programs;
use keepwell_verify::chaos::run::{Load, Run};

#[test]
fn struck_at_named_places_by_broker_network_and_store_nothing_is_lost_doubled_or_inverted() {
    let faults = [
        Fault::Crash("ingest", CrashPoint::BeforeCommit),
        Fault::Crash("aggregate", CrashPoint::AfterCommit),
        Fault::KillAway("score"),
        Fault::Crash("sink", CrashPoint::AfterClaim),
        Fault::BrokerKilled,
        Fault::Damage("aggregate"),
        Fault::Cut,
        Fault::Freeze("aggregate"),
        Fault::Rescale("aggregate"),
        Fault::Replace("sink"),
        Fault::StoreLies,
    ];
    let folder = tempfile::tempdir().unwrap();
    let programs = Programs::One(keepwell_verify::programs::keepwell().unwrap());
    let mut run =
        Run::start(programs, folder.path(), &Load { build: "test", seed: 7, num_cycles: faults.len(), hostile: 0 })
            .unwrap();
    for fault in faults {
        let cycle = run.cycle(fault).unwrap_or_else(|error| panic!("{fault}: {error:#}"));
        assert!(cycle.did_strike, "{fault}");
    }
    let verified = run.judged().unwrap();
    assert!(verified.ledger.is_clean(), "{verified:?}");
    assert!(verified.ledger.sent > 500 && verified.finals > 166 && verified.claims > 10, "{verified:?}");
}
