//! The pieces of a state's bytes: what changes all the time, and what rests and is written once.
//!
//! A stage cuts its state into pieces by names of its own and counts how often each has changed. A snapshot writes
//! the pieces that have changed since the one before and names the others where they lie.

use std::collections::BTreeMap;

use serde::Serialize;

/// The pieces of one state, by name.
pub type Pieces = BTreeMap<String, Piece>;

/// Revisions of the resting pieces that a snapshot holds, by name. What was restored has revision 0.
pub type Known = BTreeMap<String, u64>;

/// The bytes of all pieces of one state, by name.
pub type Whole = BTreeMap<String, Vec<u8>>;

/// One piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Written with every snapshot.
    Changing(Vec<u8>),
    /// Written when its revision is another than the one before.
    Resting {
        /// Within a process and under one name, equal revisions are equal bytes.
        revision: u64,
        /// None where the revision is known.
        bytes: Option<Vec<u8>>,
    },
}

/// The bytes of all pieces; none where one of them was left out as known.
pub fn whole(pieces: Pieces) -> Option<Whole> {
    let bytes_of = |piece| match piece {
        Piece::Changing(bytes) => Some(bytes),
        Piece::Resting { bytes, .. } => bytes,
    };
    pieces.into_iter().map(|(name, piece)| Some((name, bytes_of(piece)?))).collect()
}

/// Parts of the space of hashes at most.
const MOST_BUCKETS: u32 = 1 << MOST_BITS;
const MOST_BITS: u32 = 8;
/// Accounts of a piece, about.
const BUCKET_ACCOUNTS: usize = 4096;
const PREFIX: &str = "accounts-";

/// How often accounts have changed, in parts by their hash.
#[derive(Debug, Clone)]
pub struct Buckets {
    revisions: Vec<u64>,
    count: u64,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { revisions: vec![0; MOST_BUCKETS as usize], count: 0 }
    }
}

impl Buckets {
    /// An account has changed.
    pub fn touch(&mut self, account_id: &str) {
        self.count += 1;
        self.revisions[bucket(account_id, MOST_BITS)] = self.count;
    }

    /// Every account may have changed.
    pub fn touch_all(&mut self) {
        self.count += 1;
        self.revisions.fill(self.count);
    }

    /// Adds the pieces of so many accounts: each one's id and what is saved of it, in the order of the ids.
    ///
    /// # Errors
    /// None in practice: all of it has a form.
    pub fn pieces<'a, S: Serialize>(
        &self,
        num_accounts: usize,
        accounts: impl Iterator<Item = (&'a str, S)>,
        known: &Known,
        pieces: &mut Pieces,
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
        pieces.extend(made.into_iter().map(|(name, revision, bytes)| (name, Piece::Resting { revision, bytes })));
        Ok(())
    }
}

/// The bytes of the accounts in a state: one after another, as [`Buckets::pieces`] wrote them.
pub fn accounts(whole: &Whole) -> impl Iterator<Item = &[u8]> {
    whole.iter().filter(|(name, _)| name.starts_with(PREFIX)).map(|(_, bytes)| bytes.as_slice())
}

/// A CRC stays what it is in every version of the program: pieces outlive it.
fn bucket(account_id: &str, bits: u32) -> usize {
    (u64::from(crc32fast::hash(account_id.as_bytes())) >> (32 - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(buckets: &Buckets, ids: &[String], known: &Known) -> Pieces {
        let mut pieces = Pieces::new();
        buckets.pieces(ids.len(), ids.iter().map(|id| (id.as_str(), ())), known, &mut pieces).unwrap();
        pieces
    }

    fn known(pieces: &Pieces) -> Known {
        let revision_of = |piece: &Piece| match piece {
            Piece::Changing(_) => None,
            Piece::Resting { revision, .. } => Some(*revision),
        };
        pieces.iter().filter_map(|(name, piece)| Some((name.clone(), revision_of(piece)?))).collect()
    }

    #[test]
    fn only_the_part_of_an_account_that_changed_is_made_again() {
        let ids: Vec<String> = (0..20_000).map(|n| format!("account-{n:05}")).collect();
        let mut buckets = Buckets::default();
        let all = made(&buckets, &ids, &Known::new());
        assert_eq!(all.len(), 8);
        assert_eq!(accounts(&whole(all.clone()).unwrap()).map(<[u8]>::len).sum::<usize>(), 20_000 * 14);
        buckets.touch("account-00007");
        let again = made(&buckets, &ids, &known(&all));
        let made_again: Vec<_> =
            again.iter().filter(|(_, piece)| matches!(piece, Piece::Resting { bytes: Some(_), .. })).collect();
        assert_eq!(made_again.len(), 1);
        assert!(whole(again.clone()).is_none());
        assert_eq!(
            made(&buckets, &ids, &known(&again))
                .values()
                .filter(|piece| matches!(piece, Piece::Resting { bytes: Some(_), .. }))
                .count(),
            0
        );
        buckets.touch_all();
        assert_eq!(whole(made(&buckets, &ids, &known(&again))).unwrap().len(), 8);
    }
}
