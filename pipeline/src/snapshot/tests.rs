use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn header(next: i64) -> Header {
    Header {
        stage: "aggregate".into(),
        epoch: 1,
        topic: "events".into(),
        partition: 3,
        next: NextOffset(next),
        holds: Vec::new(),
        names: BTreeMap::new(),
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new("events", 3)
}

fn put(snapshots: &mut Snapshots, next: i64, parts: Parts) {
    snapshots.put(header(next), parts).unwrap();
    snapshots.finish(Duration::from_secs(10));
    assert_eq!(snapshots.take_ended(), [(partition(), true)]);
}

fn newest(snapshots: &mut Snapshots, committed: i64) -> Option<(i64, SnapshotBytes)> {
    let found = snapshots.newest("aggregate", 1, &partition(), Position::at(NextOffset(committed))).unwrap();
    found.map(|(position, state)| (position.next.0, state))
}

/// The file names in a folder.
fn files(folder: &std::path::Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// The state at a position: a head, and three parts that change at every 1st, 2nd and 4th position.
fn state(next: i64) -> SnapshotBytes {
    let part = |n: i64| (format!("part-{n}"), format!("{n} at {}", next >> n << n).into_bytes());
    (0..3).map(part).chain([("head".to_owned(), next.to_string().into_bytes())]).collect()
}

fn parts(next: i64, known: &SavedRevisions) -> Parts {
    let cut = |(name, bytes): (String, Vec<u8>)| {
        if name == "head" {
            return (name, Part::Changing(bytes));
        }
        let n: i64 = name.trim_start_matches("part-").parse().unwrap();
        let revision = (1 + (next >> n)) as u64;
        let bytes = (known.get(&name) != Some(&revision)).then_some(bytes);
        (name, Part::Settled { revision, bytes })
    };
    state(next).into_iter().map(cut).collect()
}

#[test]
fn the_newest_good_snapshot_at_or_below_the_position_is_taken_and_resting_pieces_are_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let mut snapshots = Snapshots::open(&url, 3).unwrap();
    for next in 8..16 {
        let known = snapshots.known(&partition());
        put(&mut snapshots, next, parts(next, &known));
    }
    let folder = folder.path().join("aggregate/1/events-3");
    assert_eq!(files(&folder).len(), 8, "nothing is removed before a commit");
    assert_eq!(files(&folder.join("pieces")).len(), 8 + 4 + 2);
    assert_eq!(newest(&mut snapshots, 7), None);
    assert_eq!(newest(&mut snapshots, 14), Some((14, state(14))));
    // The process that restored the partition continues from what it read.
    let known = snapshots.known(&partition());
    assert_eq!(known.into_values().collect::<Vec<_>>(), [0; 3]);
    std::fs::write(folder.join(format!("{:020}.snapshot", 15)), b"half a fi").unwrap();
    assert_eq!(newest(&mut snapshots, 50), Some((14, state(14))));
    // A part that is damaged or missing has the same effect.
    let part = |next: i64, n: i64| {
        let prefix = format!("{next:020}-part-{n}-");
        let name = files(&folder.join("pieces")).into_iter().find(|name| name.starts_with(&prefix)).unwrap();
        folder.join("pieces").join(name)
    };
    std::fs::remove_file(part(14, 0)).unwrap();
    assert_eq!(newest(&mut snapshots, 50), Some((13, state(13))));
    std::fs::write(part(12, 2), b"half").unwrap();
    assert_eq!(newest(&mut snapshots, 50), Some((11, state(11))), "13 and 12 name the same part");
}

#[test]
fn a_piece_that_is_neither_given_nor_written_is_refused() {
    let mut snapshots = Snapshots::open("memory:///", 3).unwrap();
    let without = Parts::from([("a".to_owned(), Part::Settled { revision: 1, bytes: None })]);
    assert!(snapshots.put(header(1), without).unwrap_err().to_string().contains("neither given nor written"));
}

proptest! {
    /// Owners follow one another, each from the newest snapshot. The newest three stay readable, whatever was removed.
    #[test]
    fn garbage_is_never_what_the_newest_three_name(steps in prop::collection::vec((1..4_i64, any::<bool>(), any::<bool>()), 1..30)) {
        let store = Arc::new(object_store::memory::InMemory::new());
        let open = || Snapshots::at_once(Arc::clone(&store) as Arc<dyn ObjectStore>, 3).unwrap();
        let mut snapshots = open();
        let (mut next, mut written) = (0, Vec::new());
        // Revisions count from 0 in each process.
        let mut base = SavedRevisions::new();
        let num_steps = steps.len();
        for (step, (by, is_committed, is_taken_over)) in steps.into_iter().enumerate() {
            next += by;
            let known = snapshots.known(&partition());
            let mut now = parts(next, &SavedRevisions::new());
            for (name, part) in &mut now {
                if let Part::Settled { revision, bytes } = part {
                    *revision -= base.get(name).copied().unwrap_or_default();
                    *bytes = bytes.take().filter(|_| known.get(name) != Some(revision));
                }
            }
            put(&mut snapshots, next, now);
            written.push(next);
            if is_committed {
                snapshots.committed();
            }
            if is_taken_over && step + 1 < num_steps {
                snapshots = open();
                prop_assert_eq!(newest(&mut snapshots, next), Some((next, state(next))));
                base = parts(next, &SavedRevisions::new()).into_iter().filter_map(|(name, part)| match part {
                    Part::Changing(_) => None,
                    Part::Settled { revision, .. } => Some((name, revision)),
                }).collect();
            }
        }
        snapshots.committed();
        for next in written.into_iter().rev().take(3) {
            prop_assert_eq!(newest(&mut open(), next), Some((next, state(next))));
        }
        let left = snapshots.runtime.block_on(store.list_with_delimiter(Some(&Path::from("aggregate/1/events-3/parts")))).unwrap();
        prop_assert!(left.objects.len() <= 3 * 3, "{} parts", left.objects.len());
    }
}
