//! The state of a partition in pieces: a head, what is kept of accounts by pane, the rest of the accounts, event ids.
//!
//! | piece | holds | is written again |
//! |---|---|---|
//! | `head` | version, settings, watermarks, whose live row is due | with every snapshot |
//! | `accounts-B-N` | accounts whose hash begins with the B bits N | when one of them changes in more than usage, and when a pane closes |
//! | `pane-P` | usage, surveys, users and features of pane P | when an event of the pane comes, or it closes |
//! | `ids-P-N`, `ids-P-open` | event ids under pane P, a million a piece | the open one, as ids come |
//! | `ids-P-gone` | those of them that have moved to a later pane | as they move |

use std::collections::{BTreeMap, BTreeSet};

use keepwell_core::pane::Pane;
use keepwell_pipeline::piece::{Known, Piece, Pieces, Whole, accounts};
use keepwell_pipeline::watermark::Watermarks;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::account::saved::{OfPane, Rest};
use crate::account::saved3::{self, OfPane3, Rest3};
use crate::seen::Seen;
use crate::state::{Closing, PartitionState};
use crate::touched::Touched;
use keepwell_core::interned::Name;

/// Version of the bytes that are written.
const VERSION: u32 = 4;
const HEAD: &str = "head";
const PANE: &str = "pane-";

/// What changes all the time.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    fingerprint: String,
    watermarks: Watermarks,
    closed: Option<Pane>,
    closing: Option<Closing>,
    awaiting: BTreeSet<Name>,
    is_complete_told: bool,
}

/// The head of version 3: a close that stands between accounts only.
#[derive(Deserialize)]
struct Head3 {
    _version: u32,
    fingerprint: String,
    watermarks: Watermarks,
    closed: Option<Pane>,
    closing: Option<(Pane, Pane, Option<Name>, u32, i64)>,
    awaiting: BTreeSet<Name>,
    is_complete_told: bool,
}

impl From<Head3> for Head {
    fn from(old: Head3) -> Self {
        let closing = old.closing.map(|(pane, to, after, slice, ordinal)| Closing {
            pane,
            to,
            after,
            within: None,
            slice,
            ordinal,
        });
        Self {
            version: VERSION,
            fingerprint: old.fingerprint,
            watermarks: old.watermarks,
            closed: old.closed,
            closing,
            awaiting: old.awaiting,
            is_complete_told: old.is_complete_told,
        }
    }
}

/// A state as bytes, without the pieces that are known. Equal states give equal bytes.
///
/// # Errors
/// None in practice: all of it has a form.
pub fn pieces(state: &PartitionState, fingerprint: &str, known: &Known) -> Result<Pieces, postcard::Error> {
    let head = Head {
        version: VERSION,
        fingerprint: fingerprint.to_owned(),
        watermarks: state.watermarks.clone(),
        closed: state.closed,
        closing: state.closing.clone(),
        awaiting: state.awaiting.names(),
        is_complete_told: state.is_complete_told,
    };
    let mut pieces = Pieces::from([(HEAD.to_owned(), Piece::Changing(postcard::to_stdvec(&head)?))]);
    let rest = state.accounts.range(..).map(|(name, account)| (name.as_str(), account.rest()));
    state.touched.accounts.pieces(state.accounts.len(), rest, known, &mut pieces)?;
    for (pane, revision) in state.touched.panes() {
        let name = format!("{PANE}{}", pane.0);
        if known.get(&name) == Some(&revision) {
            pieces.insert(name, Piece::Resting { revision, bytes: None });
            continue;
        }
        let mut bytes = Vec::new();
        for (id, account) in state.accounts.range(..) {
            if let Some(of_pane) = account.of_pane(pane) {
                bytes = postcard::to_extend(&(id, of_pane), bytes)?;
            }
        }
        if !bytes.is_empty() {
            pieces.insert(name, Piece::Resting { revision, bytes: Some(bytes) });
        }
    }
    state.seen.pieces(known, &mut pieces);
    Ok(pieces)
}

/// The state that bytes hold, and the settings it was folded with.
///
/// # Errors
/// What is wrong: a version of another program, or damage.
pub fn restored(whole: &Whole) -> Result<(PartitionState, String), String> {
    let damaged = |error: postcard::Error| error.to_string();
    let bytes = whole.get(HEAD).ok_or("it has no head: versions before 3 are not read any more")?;
    let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(damaged)?;
    let head: Head = match version {
        3 => postcard::from_bytes::<Head3>(bytes).map_err(damaged)?.into(),
        VERSION => postcard::from_bytes(bytes).map_err(damaged)?,
        _ => return Err(format!("its state has version {version}, this program reads 3 and {VERSION}")),
    };
    let mut state = PartitionState {
        watermarks: head.watermarks,
        closed: head.closed,
        closing: head.closing,
        awaiting: head.awaiting.into(),
        is_complete_told: head.is_complete_told,
        seen: Seen::restored(whole)?,
        ..PartitionState::default()
    };
    if version == VERSION {
        take_accounts(whole, &mut state, |rest: Rest| rest, |of_pane: OfPane| of_pane)?;
        state.touched = Touched::restored(panes_of(whole).into_keys());
    } else {
        take_accounts(
            whole,
            &mut state,
            |rest: Rest3| saved3::rest(rest),
            |of_pane: OfPane3| saved3::of_pane(of_pane),
        )?;
        // What lies in the store is of another form.
        state.touched = Touched::all(state.accounts.values());
    }
    Ok((state, head.fingerprint))
}

/// The pieces of panes, oldest first.
fn panes_of(whole: &Whole) -> BTreeMap<Pane, &Vec<u8>> {
    let number = |name: &String| Some(Pane(name.strip_prefix(PANE)?.parse().ok()?));
    whole.iter().filter_map(|(name, bytes)| Some((number(name)?, bytes))).collect()
}

/// Takes the accounts back, and what is kept of them by pane, from whatever form they were saved in.
fn take_accounts<R: for<'b> Deserialize<'b>, P: for<'b> Deserialize<'b>>(
    whole: &Whole,
    state: &mut PartitionState,
    rest: impl Fn(R) -> Rest,
    of_pane: impl Fn(P) -> OfPane,
) -> Result<(), String> {
    for bytes in accounts(whole) {
        each(bytes, |(name, saved): (Name, R)| state.accounts.insert(name, Account::of_rest(rest(saved))))?;
    }
    for (pane, bytes) in panes_of(whole) {
        each(bytes, |(name, saved): (Name, P)| {
            state.accounts.get_or_new(&name).take_pane(pane, of_pane(saved), &mut state.names);
        })?;
    }
    Ok(())
}

/// Hands out the values that stand one after another.
fn each<'b, T: Deserialize<'b>>(mut bytes: &'b [u8], mut take: impl FnMut(T)) -> Result<(), String> {
    while !bytes.is_empty() {
        let (value, behind) = postcard::take_from_bytes(bytes).map_err(|error| error.to_string())?;
        take(value);
        bytes = behind;
    }
    Ok(())
}
