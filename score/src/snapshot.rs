//! The bytes of a partition's state: version, model files, accounts. Every version that was ever written is read.

use std::sync::Arc;

use keepwell_core::interned::Name;
use keepwell_pipeline::snapshot::ONE;
use keepwell_pipeline::snapshot::parts::{Part, Parts, SavedRevisions, SnapshotBytes, accounts};
use keepwell_pipeline::watermark::Progress;
use serde::{Deserialize, Serialize};

use crate::compile::Compiled;
use crate::model::ModelError;
use crate::model_schedule::Models;
use crate::state::{Account, PartitionState};

/// Version of the bytes that are written: a head and parts of the accounts.
const VERSION: u32 = 4;

/// Name of the part that says the rest: it changes with every record.
const HEAD: &str = "head";

/// All but the accounts: the models and the times, UTC microseconds, from which on they score.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    models: Vec<(i64, String)>,
    progress: Option<Progress>,
}

/// Version 3: all in one.
#[derive(Deserialize)]
struct Saved3 {
    _version: u32,
    models: Vec<(i64, String)>,
    state: PartitionState,
}

/// Version 2: one model.
#[derive(Deserialize)]
struct Saved2 {
    _version: u32,
    model: String,
    state: PartitionState,
}

/// A state as bytes, without the parts that are known. Equal states give equal bytes.
///
/// # Errors
/// None in practice: all of it has a form.
pub fn parts(state: &PartitionState, known: &SavedRevisions) -> Result<Parts, postcard::Error> {
    let head = Head { version: VERSION, models: state.models.texts(), progress: state.progress.clone() };
    let mut parts = Parts::from([(HEAD.to_owned(), Part::Changing(postcard::to_stdvec(&head)?))]);
    let accounts = state.accounts.iter().map(|(id, account)| (id.as_str(), account));
    state.dirty.parts(state.accounts.len(), accounts, known, &mut parts)?;
    Ok(parts)
}

/// The state that bytes hold.
///
/// # Errors
/// What is wrong: a version of another program, damage, or a model that this program does not allow.
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
        VERSION => {
            let head: Head = postcard::from_bytes(bytes).map_err(damaged)?;
            let mut state = PartitionState { progress: head.progress, ..PartitionState::default() };
            for mut rest in accounts(whole) {
                while !rest.is_empty() {
                    let ((id, account), behind) =
                        postcard::take_from_bytes::<(Name, Account)>(rest).map_err(damaged)?;
                    state.accounts.insert(id, account);
                    rest = behind;
                }
            }
            (head.models, state)
        }
        _ => return Err(format!("its state has version {version}, this program reads 2 to {VERSION}")),
    };
    let models = texts.into_iter().map(|(from_us, text)| Ok((from_us, compile(&text)?)));
    let models = models.collect::<Result<_, ModelError>>().map_err(|error| error.to_string())?;
    Ok(PartitionState { models: Models::of(models), ..state })
}
