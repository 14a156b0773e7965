//! The state of a partition in parts: a head, the panes of accounts, the rest of the accounts, and event ids.
//!
//! | part | contains | is written again |
//! |---|---|---|
//! | `head` | version, settings, watermarks, accounts with a due live row | with every snapshot |
//! | `accounts-B-N` | accounts with hash prefix N (B bits) | on changes except usage and surveys, and at each close |
//! | `pane-P` | usage, surveys, users and features of pane P | when an event of the pane arrives, or the pane closes |
//! | `ids-P-N`, `ids-P-open` | event ids under pane P, 2^20 in each full part | the open part, when ids arrive |
//! | `ids-P-gone` | ids of these parts that have moved to a later pane | when ids move |

use std::collections::{BTreeMap, BTreeSet};

use keepwell_core::pane::{Pane, PaneWidth};
use keepwell_pipeline::snapshot::parts::{Part, Parts, SavedRevisions, SnapshotBytes, accounts};
use keepwell_pipeline::suspect::SuspectPane;
use keepwell_pipeline::watermark::Watermarks;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::account::locked::Locked;
use crate::account::pane_totals::SinceVersion9;
use crate::account::snapshot::{OfPane, OfPaneBefore9, Rest, RestBefore7, RestBefore8, RestBefore9};
use crate::dedup::EventIds;
use crate::dirty::Dirty;
use crate::feeds::Feeds;
use crate::state::{Closing, PartitionState};
use keepwell_core::interned::Name;

/// Version of the format that is written.
const VERSION: u32 = 9;
const HEAD: &str = "head";
const PANE: &str = "pane-";

/// The part that changes with every snapshot.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    fingerprint: String,
    watermarks: Watermarks,
    closed: Option<Pane>,
    closing: Option<Closing>,
    live_due: BTreeSet<Name>,
    is_completion_sent: bool,
}

/// What versions since 6 have behind the head of version 5.
#[derive(Default, Serialize, Deserialize)]
struct Behind {
    feeds: Feeds,
    /// Suspect panes of the running close.
    suspect: Vec<SuspectPane>,
}

/// The state as parts of a snapshot. Parts with a revision in `known` have no bytes. Equal states give equal bytes.
///
/// # Errors
/// None in practice: every value can be serialised.
pub fn parts(state: &PartitionState, fingerprint: &str, known: &SavedRevisions) -> Result<Parts, postcard::Error> {
    let head = Head {
        version: VERSION,
        fingerprint: fingerprint.to_owned(),
        watermarks: state.watermarks.clone(),
        closed: state.closed,
        closing: state.closing.clone(),
        live_due: state.live_due.names(),
        is_completion_sent: state.is_completion_sent,
    };
    let suspect = state.closing.as_ref().map(|closing| closing.suspect.clone()).unwrap_or_default();
    let behind = Behind { feeds: state.feeds.clone(), suspect };
    let mut parts = Parts::from([(HEAD.to_owned(), Part::Changing(postcard::to_stdvec(&(head, behind))?))]);
    let rest = state.accounts.range(..).map(|(name, account)| (name.as_str(), account.rest()));
    state.dirty.accounts.parts(state.accounts.len(), rest, known, &mut parts)?;
    for (pane, revision) in state.dirty.panes() {
        let name = format!("{PANE}{}", pane.0);
        if known.get(&name) == Some(&revision) {
            parts.insert(name, Part::Settled { revision, bytes: None });
            continue;
        }
        let mut bytes = Vec::new();
        for (id, account) in state.accounts.range(..) {
            if let Some(of_pane) = account.of_pane(pane) {
                bytes = postcard::to_extend(&(id, of_pane), bytes)?;
            }
        }
        if !bytes.is_empty() {
            parts.insert(name, Part::Settled { revision, bytes: Some(bytes) });
        }
    }
    state.event_ids.parts(known, &mut parts);
    Ok(parts)
}

/// The state from a snapshot, and the fingerprint of the settings it was folded with.
///
/// # Errors
/// When the version belongs to another program, or the bytes are damaged.
pub fn restored(whole: &SnapshotBytes, panes: PaneWidth) -> Result<(PartitionState, String), String> {
    let damaged = |error: postcard::Error| error.to_string();
    let bytes = whole.get(HEAD).ok_or("it has no head: a version before 3 wrote it")?;
    let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(damaged)?;
    if !(5..=VERSION).contains(&version) {
        return Err(format!("its state has version {version}, this program reads 5 to {VERSION}"));
    }
    let (head, rest): (Head, _) = postcard::take_from_bytes(bytes).map_err(damaged)?;
    let behind: Behind = match version {
        5 => Behind::default(),
        _ => postcard::from_bytes(rest).map_err(damaged)?,
    };
    let closing = head.closing.map(|closing| Closing { suspect: behind.suspect, ..closing });
    let mut state = PartitionState {
        watermarks: head.watermarks,
        closed: head.closed,
        closing,
        live_due: head.live_due.into(),
        is_completion_sent: head.is_completion_sent,
        feeds: behind.feeds,
        event_ids: EventIds::restored(whole)?,
        ..PartitionState::default()
    };
    for bytes in accounts(whole) {
        match version {
            5 | 6 => each(bytes, |(name, rest): (Name, RestBefore7)| {
                let rest = ((rest, BTreeMap::new()), Locked::NOTHING);
                state.accounts.insert(name, Account::of_rest((rest, SinceVersion9::default()), &mut state.names));
            })?,
            7 => each(bytes, |(name, rest): (Name, RestBefore8)| {
                let mut told = rest.1.values().flat_map(|contract| contract.statements());
                let known = head.closed.filter(|closed| told.any(|told| told.counts_from <= *closed));
                let locked = known.map_or(Locked::NOTHING, |closed| Locked::decided(panes.end_us(closed)));
                let rest = ((rest, locked), SinceVersion9::default());
                state.accounts.insert(name, Account::of_rest(rest, &mut state.names));
            })?,
            8 => each(bytes, |(name, rest): (Name, RestBefore9)| {
                state.accounts.insert(name, Account::of_rest((rest, SinceVersion9::default()), &mut state.names));
            })?,
            _ => each(bytes, |(name, rest): (Name, Rest)| {
                state.accounts.insert(name, Account::of_rest(rest, &mut state.names));
            })?,
        }
    }
    for (pane, bytes) in panes_of(whole) {
        let mut take = |name: &Name, of_pane: OfPane| {
            state.accounts.get_or_new(name).take_pane(pane, of_pane, &mut state.names);
        };
        match version {
            5..9 => each(bytes, |(name, of_pane): (Name, OfPaneBefore9)| {
                take(&name, (of_pane, SinceVersion9::default()));
            })?,
            _ => each(bytes, |(name, of_pane): (Name, OfPane)| take(&name, of_pane))?,
        }
    }
    let of_panes = panes_of(whole).into_keys();
    state.dirty = if version == VERSION { Dirty::restored(of_panes) } else { Dirty::outdated(of_panes) };
    Ok((state, head.fingerprint))
}

/// The parts of panes, oldest first.
fn panes_of(whole: &SnapshotBytes) -> BTreeMap<Pane, &Vec<u8>> {
    let number = |name: &String| Some(Pane(name.strip_prefix(PANE)?.parse().ok()?));
    whole.iter().filter_map(|(name, bytes)| Some((number(name)?, bytes))).collect()
}

/// Passes on the values that follow each other in `bytes`.
fn each<'b, T: Deserialize<'b>>(mut bytes: &'b [u8], mut take: impl FnMut(T)) -> Result<(), String> {
    while !bytes.is_empty() {
        let (value, behind) = postcard::take_from_bytes(bytes).map_err(|error| error.to_string())?;
        take(value);
        bytes = behind;
    }
    Ok(())
}
