//! Properties of the final rows. proptest looks for a counterexample and reduces it.

use std::rc::Rc;

use keepwell_verify::fleet::{self, Raw, Shape};
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, RngAlgorithm, TestRng, TestRunner};

use crate::{BOUND_MS, Deployment, config, count};

/// Tries the same cases every time. The simulator tries many more.
fn holds<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S::Value: std::fmt::Debug,
{
    let cases = Cases { cases, max_shrink_iters: 64, failure_persistence: None, ..Cases::default() };
    let mut runner = TestRunner::new_with_rng(cases, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let counterexample = runner.run(strategy, property).err().map(|found| found.to_string()).unwrap_or_default();
    assert!(counterexample.is_empty(), "{counterexample}");
}

/// A part of the events of a fleet; fewer events are a simpler counterexample.
fn some_of(raws: Vec<Raw>) -> impl Strategy<Value = Vec<Raw>> {
    let raws = Rc::new(raws);
    let num_raws = raws.len();
    proptest::sample::subsequence((0..num_raws).collect::<Vec<_>>(), num_raws / 2..=num_raws)
        .prop_map(move |chosen| chosen.into_iter().map(|n| raws[n].clone()).collect())
}

/// Cuts of a deployment: records for each step, partitions, and the points (in percent) at which all stages restart.
fn cuts() -> impl Strategy<Value = (usize, i32, Vec<usize>)> {
    (1_usize..60, 1..6_i32, proptest::collection::vec(0_usize..100, 0..4))
}

fn settings(max_records: usize, partitions: i32) -> Vec<String> {
    vec![format!("batch.max_records={max_records}"), format!("partitions={partitions}")]
}

fn of(raws: &[Raw], set: &[String], restarts: &[usize]) -> Deployment {
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let mut ends: Vec<usize> = restarts.iter().map(|percent| raws.len() * percent / 100).collect();
    ends.sort_unstable();
    ends.push(raws.len());
    let mut parts = Vec::new();
    let mut start = 0;
    for end in ends {
        parts.push(&raws[start..end]);
        start = end;
    }
    Deployment::in_parts(&parts, config(&set))
}

#[test]
fn any_order_within_the_bound_any_cut_any_restarts_and_any_partition_count_give_the_same_final_rows() {
    let raws = fleet::punctual(31, Shape { accounts: 4, days: 10, usage: 12 });
    holds(12, &(some_of(raws), any::<u64>(), cuts()), |(raws, seed, (max_records, partitions, restarts))| {
        let expected = Deployment::of(&raws, config(&[])).finals();
        let shuffled = fleet::shuffled_within(&raws, seed, BOUND_MS);
        let deployment = of(&shuffled, &settings(max_records, partitions), &restarts);
        prop_assert_eq!(count(&deployment.fates.aggregate, "late"), 0);
        deployment.finals().assert_same(&expected);
        Ok(())
    });
}

#[test]
fn whatever_arrives_however_it_is_cut_the_rows_are_the_oracles_and_the_fates_add_up() {
    let raws = fleet::dirty(32, Shape { accounts: 5, days: 12, usage: 4 });
    holds(6, &(some_of(raws), cuts()), |(raws, (max_records, partitions, restarts))| {
        let deployment = of(&raws, &settings(max_records, partitions), &restarts);
        let (ingest, aggregate) = (&deployment.fates.ingest, &deployment.fates.aggregate);
        prop_assert_eq!(count(ingest, "read"), raws.len() as u64);
        prop_assert_eq!(count(ingest, "emitted") + count(ingest, "rejected"), raws.len() as u64);
        prop_assert_eq!(count(aggregate, "read"), count(ingest, "emitted"));
        deployment.check();
        Ok(())
    });
}

#[test]
fn replaying_rejects_after_a_fix_gives_the_final_rows_without_the_fault() {
    let raws = fleet::punctual(33, Shape { accounts: 4, days: 10, usage: 6 });
    // No pane closes before the rejects are back.
    let wide: Vec<String> =
        (0..config(&[]).sources.len()).map(|source| format!("sources.{source}.bound=30d")).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    holds(6, &(some_of(raws), 140_usize..200), |(raws, max_event_bytes)| {
        let mended = config(&wide);
        let expected = Deployment::of(&raws, mended.clone()).finals();
        let mut deployment = Deployment::begun(mended.clone());
        deployment.config.ingest.max_event_bytes = max_event_bytes;
        deployment.read(&raws, false);
        let rejects = deployment.records(&deployment.config.topics.rejects);
        prop_assert!(!rejects.is_empty() && rejects.len() < raws.len());
        for reject in rejects {
            deployment.broker.produce(&keepwell_ingest::rejects::original(reject).unwrap()).unwrap();
        }
        deployment.config.ingest = mended.ingest;
        deployment.read(&[], true);
        deployment.finals().assert_same(&expected);
        Ok(())
    });
}
