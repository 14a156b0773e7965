//! Simulated deployments: every promise under every fault. For many more seeds: `cargo run --bin simulate`.

use std::sync::atomic::{AtomicU64, Ordering};

use keepwell_verify::sim::{Asked, simulate};

/// Number of seeds that run with the tests. The oracle judges every tenth.
const SEEDS: u64 = 100;
const ORACLE_EVERY: u64 = 10;

#[test]
fn simulated_deployments_keep_every_promise_whatever_strikes() {
    let next = AtomicU64::new(1_000_000);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= 1_000_000 + SEEDS {
                        break;
                    }
                    let asked = Asked { seed, with_oracle: seed.is_multiple_of(ORACLE_EVERY), rate: 1 };
                    if let Err(error) = simulate(asked) {
                        panic!("{error:#}\nagain: cargo run --bin simulate -- --seed {seed}");
                    }
                }
            });
        }
    });
}

#[test]
fn the_same_seed_gives_the_same_run_to_the_byte() {
    let run = |seed| {
        let outcome = simulate(Asked { seed, with_oracle: false, rate: 3 }).unwrap();
        assert!(outcome.faults.values().sum::<u64>() > 20, "{:?}", outcome.faults);
        (outcome.digest, outcome.num_turns, outcome.faults)
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3).0, run(4).0);
}

#[test]
fn seeds_that_once_found_a_fault_find_none() {
    // Columns: the seed, the rate, and the error that it found.
    let found = [
        (17, 1, "the state's bytes told where a step had been cut: when an account was last pruned"),
        (89, 1, "the same"),
        (358, 1, "the same"),
        (13, 2, "the oracle counted a fact twice that was told again long after it happened"),
        (72, 2, "the oracle let a deletion erase facts that came after it had been forgotten"),
        (786, 2, "the same"),
    ];
    for (seed, rate, what) in found {
        if let Err(error) = simulate(Asked { seed, with_oracle: true, rate }) {
            panic!("seed {seed}: {what}: {error:#}");
        }
    }
}
