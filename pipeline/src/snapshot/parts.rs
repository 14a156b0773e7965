//! The parts of a saved state: those that change all the time, and settled ones that are written once.
//!
//! A stage divides its state into named parts and counts how often each one changes. A snapshot writes the parts that
//! changed since the one before it, and refers to the objects of the others.

use std::collections::BTreeMap;

use serde::Serialize;

/// The parts of one state, by name.
pub type Parts = BTreeMap<String, Part>;

/// Revisions of the settled parts in a snapshot, by name. A restored part has revision 0.
pub type SavedRevisions = BTreeMap<String, u64>;

/// The bytes of all parts of one state, by name.
pub type SnapshotBytes = BTreeMap<String, Vec<u8>>;

/// One part of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A part that is written with every snapshot.
    Changing(Vec<u8>),
    /// A part that is written only when its revision differs from the last snapshot.
    Settled {
        /// Within a process and for one name, equal revisions mean equal bytes.
        revision: u64,
        /// None if this revision is already saved.
        bytes: Option<Vec<u8>>,
    },
}

/// The bytes of all parts. None if one of them was left out because it is saved.
pub fn all_bytes(parts: Parts) -> Option<SnapshotBytes> {
    let bytes_of = |part| match part {
        Part::Changing(bytes) => Some(bytes),
        Part::Settled { bytes, .. } => bytes,
    };
    parts.into_iter().map(|(name, part)| Some((name, bytes_of(part)?))).collect()
}

/// Maximum number of parts into which the hash space is divided.
const MOST_BUCKETS: u32 = 1 << MOST_BITS;
const MOST_BITS: u32 = 8;
/// Approximate number of accounts in a part.
const BUCKET_ACCOUNTS: usize = 4096;
const PREFIX: &str = "accounts-";

/// Counts changes of accounts, in buckets by the hash of the account.
#[derive(Debug, Clone)]
pub struct ChangeBuckets {
    revisions: Vec<u64>,
    count: u64,
}

impl Default for ChangeBuckets {
    fn default() -> Self {
        Self { revisions: vec![0; MOST_BUCKETS as usize], count: 0 }
    }
}

impl ChangeBuckets {
    /// Notes that an account has changed.
    pub fn mark(&mut self, account_id: &str) {
        self.count += 1;
        self.revisions[bucket(account_id, MOST_BITS)] = self.count;
    }

    /// Notes that every account may have changed.
    pub fn mark_all(&mut self) {
        self.count += 1;
        self.revisions.fill(self.count);
    }

    /// Adds the parts of `num_accounts` accounts. The iterator returns the id and the saved state of each, in id order.
    ///
    /// # Errors
    /// Practically none: every value can be encoded.
    pub fn parts<'a, S: Serialize>(
        &self,
        num_accounts: usize,
        accounts: impl Iterator<Item = (&'a str, S)>,
        known: &SavedRevisions,
        parts: &mut Parts,
    ) -> Result<(), postcard::Error> {
        let bits = (num_accounts / BUCKET_ACCOUNTS).checked_ilog2().map_or(0, |log| (log + 1).min(MOST_BITS));
        let fine = (MOST_BUCKETS >> bits) as usize;
        let mut made: Vec<_> = (0..1_usize << bits)
            .map(|at| {
                let name = format!("{PREFIX}{bits}-{at:03}");
                let revision = self.revisions.iter().skip(at * fine).take(fine).copied().max().unwrap_or_default();
                let bytes = (known.get(&name) != Some(&revision)).then(Vec::new);
                (name, revision, bytes)
            })
            .collect();
        if made.iter().any(|(.., bytes)| bytes.is_some()) {
            for (id, account) in accounts {
                if let Some((.., Some(bytes))) = made.get_mut(bucket(id, bits)) {
                    *bytes = postcard::to_extend(&(id, account), std::mem::take(bytes))?;
                }
            }
        }
        parts.extend(made.into_iter().map(|(name, revision, bytes)| (name, Part::Settled { revision, bytes })));
        Ok(())
    }
}

/// The bytes of the accounts in a state, one part after another, as [`ChangeBuckets::parts`] wrote them.
pub fn accounts(whole: &SnapshotBytes) -> impl Iterator<Item = &[u8]> {
    whole.iter().filter(|(name, _)| name.starts_with(PREFIX)).map(|(_, bytes)| bytes.as_slice())
}

/// The bucket of an account. A CRC is the same in every version of the program, which parts outlive.
fn bucket(account_id: &str, bits: u32) -> usize {
    (u64::from(crc32fast::hash(account_id.as_bytes())) >> (32 - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(buckets: &ChangeBuckets, ids: &[String], known: &SavedRevisions) -> Parts {
        let mut parts = Parts::new();
        buckets.parts(ids.len(), ids.iter().map(|id| (id.as_str(), ())), known, &mut parts).unwrap();
        parts
    }

    fn known(parts: &Parts) -> SavedRevisions {
        let revision_of = |part: &Part| match part {
            Part::Changing(_) => None,
            Part::Settled { revision, .. } => Some(*revision),
        };
        parts.iter().filter_map(|(name, part)| Some((name.clone(), revision_of(part)?))).collect()
    }

    #[test]
    fn only_the_part_of_an_account_that_changed_is_made_again() {
        let ids: Vec<String> = (0..20_000).map(|n| format!("account-{n:05}")).collect();
        let mut buckets = ChangeBuckets::default();
        let all = made(&buckets, &ids, &SavedRevisions::new());
        assert_eq!(all.len(), 8);
        assert_eq!(accounts(&all_bytes(all.clone()).unwrap()).map(<[u8]>::len).sum::<usize>(), 20_000 * 14);
        buckets.mark("account-00007");
        let again = made(&buckets, &ids, &known(&all));
        let made_again: Vec<_> =
            again.iter().filter(|(_, part)| matches!(part, Part::Settled { bytes: Some(_), .. })).collect();
        assert_eq!(made_again.len(), 1);
        assert!(all_bytes(again.clone()).is_none());
        assert_eq!(
            made(&buckets, &ids, &known(&again))
                .values()
                .filter(|part| matches!(part, Part::Settled { bytes: Some(_), .. }))
                .count(),
            0
        );
        buckets.mark_all();
        assert_eq!(all_bytes(made(&buckets, &ids, &known(&again))).unwrap().len(), 8);
    }
}
