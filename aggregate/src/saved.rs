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

use pipeline::pane::Pane;
use pipeline::piece::{Known, Piece, Pieces, Whole, accounts};
use pipeline::snapshot::ONE;
use pipeline::watermark::Watermarks;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::account::saved::{OfPane, Rest};
use crate::seen::Seen;
use crate::state::{Closing, PartitionState};
use crate::touched::Touched;
use pipeline::name::Name;

/// Version of the bytes that are written.
const VERSION: u32 = 3;
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

/// Version 2: all in one.
#[derive(Deserialize)]
struct Saved2 {
    _version: u32,
    fingerprint: String,
    state: PartitionState,
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
    let bytes = whole.get(HEAD).or(whole.get(ONE)).ok_or("it has no head")?;
    let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(damaged)?;
    match version {
        2 => {
            let Saved2 { fingerprint, mut state, .. } = postcard::from_bytes(bytes).map_err(damaged)?;
            state.touched = Touched::all(state.accounts.values());
            Ok((state, fingerprint))
        }
        VERSION => {
            let head: Head = postcard::from_bytes(bytes).map_err(damaged)?;
            let mut state = PartitionState {
                watermarks: head.watermarks,
                closed: head.closed,
                closing: head.closing,
                awaiting: head.awaiting.into(),
                is_complete_told: head.is_complete_told,
                seen: Seen::restored(whole)?,
                ..PartitionState::default()
            };
            for rest in accounts(whole) {
                each(rest, |(name, rest): (Name, Rest)| state.accounts.insert(name, Account::of_rest(rest)))?;
            }
            let number = |name: &String| Some(Pane(name.strip_prefix(PANE)?.parse().ok()?));
            let panes: BTreeMap<_, _> = whole.iter().filter_map(|(name, bytes)| Some((number(name)?, bytes))).collect();
            for (pane, bytes) in &panes {
                each(bytes, |(name, of_pane): (Name, OfPane)| {
                    state.accounts.get_or_new(&name).take_pane(*pane, of_pane, &mut state.names);
                })?;
            }
            state.touched = Touched::restored(panes.into_keys());
            Ok((state, head.fingerprint))
        }
        _ => Err(format!("its state has version {version}, this program reads 2 and {VERSION}")),
    }
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
