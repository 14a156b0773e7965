//! The state of a partition in a snapshot: version, model files, accounts. Versions 2 to 6 can be read.

use std::sync::Arc;

use keepwell_core::interned::Name;
use keepwell_pipeline::snapshot::ONE;
use keepwell_pipeline::snapshot::parts::{Part, Parts, SavedRevisions, SnapshotBytes, accounts};
use keepwell_pipeline::watermark::Progress;
use serde::{Deserialize, Serialize};

use crate::compile::Compiled;
use crate::model::ModelError;
use crate::model_schedule::Models;
use crate::state::{Account, OpenDrops, PartitionState};

/// Version of the format that is written: a head, and the accounts in parts.
const VERSION: u32 = 6;

/// The last version in which accounts have no standing beside them.
const WITHOUT_STANDING: u32 = 5;

/// Name of the part with everything except the accounts. It changes with every record.
const HEAD: &str = "head";

/// Everything except the accounts, in versions 5 and 6. `models` contains the model files and the times from which they score, UTC
/// microseconds.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    models: Vec<(i64, String)>,
    progress: Option<Progress>,
    drops: OpenDrops,
}

/// The head of version 4: without drops.
#[derive(Deserialize)]
struct Head4 {
    _version: u32,
    models: Vec<(i64, String)>,
    progress: Option<Progress>,
}

/// Version 3: everything in one part.
#[derive(Deserialize)]
struct Saved3 {
    _version: u32,
    models: Vec<(i64, String)>,
    state: PartitionState,
}

/// Version 2: everything in one part, with only one model.
#[derive(Deserialize)]
struct Saved2 {
    _version: u32,
    model: String,
    state: PartitionState,
}

/// The state as parts of a snapshot. Parts with a revision in `known` have no bytes. Equal states give equal bytes.
///
/// # Errors
/// None in practice: every value can be serialised.
pub fn parts(state: &PartitionState, known: &SavedRevisions) -> Result<Parts, postcard::Error> {
    let head = Head {
        version: VERSION,
        models: state.models.texts(),
        progress: state.progress.clone(),
        drops: state.drops.clone(),
    };
    let mut parts = Parts::from([(HEAD.to_owned(), Part::Changing(postcard::to_stdvec(&head)?))]);
    let accounts = state.accounts.iter().map(|(id, account)| (id.as_str(), (account, &account.memory.standing)));
    state.dirty.parts(state.accounts.len(), accounts, known, &mut parts)?;
    Ok(parts)
}

/// The state from a snapshot.
///
/// # Errors
/// When the version belongs to another program, the bytes are damaged, or this program does not accept a model in it.
pub fn restored(
    whole: &SnapshotBytes,
    compile: impl Fn(&str) -> Result<Arc<Compiled>, ModelError>,
) -> Result<PartitionState, String> {
    let damaged = |error: postcard::Error| error.to_string();
    let bytes = whole.get(HEAD).or(whole.get(ONE)).ok_or("it has no head")?;
    let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(damaged)?;
    let (texts, state) = match version {
        2 => {
            let saved: Saved2 = postcard::from_bytes(bytes).map_err(damaged)?;
            (vec![(i64::MIN, saved.model)], saved.state)
        }
        3 => {
            let saved: Saved3 = postcard::from_bytes(bytes).map_err(damaged)?;
            (saved.models, saved.state)
        }
        4..=VERSION => {
            let head = match version {
                WITHOUT_STANDING..=VERSION => postcard::from_bytes(bytes).map_err(damaged)?,
                _ => {
                    let Head4 { models, progress, .. } = postcard::from_bytes(bytes).map_err(damaged)?;
                    Head { version, models, progress, drops: OpenDrops::new() }
                }
            };
            let mut state = PartitionState { progress: head.progress, drops: head.drops, ..PartitionState::default() };
            for mut rest in accounts(whole) {
                while !rest.is_empty() {
                    let ((id, mut account), behind) =
                        postcard::take_from_bytes::<(Name, Account)>(rest).map_err(damaged)?;
                    rest = behind;
                    if version > WITHOUT_STANDING {
                        (account.memory.standing, rest) = postcard::take_from_bytes(rest).map_err(damaged)?;
                    }
                    state.accounts.insert(id, account);
                }
            }
            if version <= WITHOUT_STANDING {
                // No part of it may be kept: the next snapshot has another form.
                state.dirty.mark_all();
            }
            (head.models, state)
        }
        _ => return Err(format!("its state has version {version}, this program reads 2 to {VERSION}")),
    };
    let models = texts.into_iter().map(|(from_us, text)| Ok((from_us, compile(&text)?)));
    let models = models.collect::<Result<_, ModelError>>().map_err(|error| error.to_string())?;
    Ok(PartitionState { models: Models::of(models), ..state })
}
