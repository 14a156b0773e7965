//! The bytes of a partition's state: version, model files, accounts. Every version that was ever written is read.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::compile::Compiled;
use crate::model::ModelError;
use crate::models::Models;
use crate::state::PartitionState;

/// Version of the bytes that are written.
const VERSION: u32 = 3;

/// Version 3: the models and the times, UTC microseconds, from which on they score.
#[derive(Serialize, Deserialize)]
struct Saved<S> {
    version: u32,
    models: Vec<(i64, String)>,
    state: S,
}

/// Version 2: one model.
#[derive(Deserialize)]
struct Saved2 {
    _version: u32,
    model: String,
    state: PartitionState,
}

/// A state as bytes. Equal states give equal bytes.
///
/// # Errors
/// None in practice: all of it has a form.
pub fn bytes(state: &PartitionState) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_stdvec(&Saved { version: VERSION, models: state.models.texts(), state })
}

/// The state that bytes hold.
///
/// # Errors
/// What is wrong: a version of another program, damage, or a model that this program does not allow.
pub fn restored(
    bytes: &[u8],
    compile: impl Fn(&str) -> Result<Arc<Compiled>, ModelError>,
) -> Result<PartitionState, String> {
    let damaged = |error: postcard::Error| error.to_string();
    let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(damaged)?;
    let (texts, state) = match version {
        2 => {
            let saved: Saved2 = postcard::from_bytes(bytes).map_err(damaged)?;
            (vec![(i64::MIN, saved.model)], saved.state)
        }
        VERSION => {
            let saved: Saved<PartitionState> = postcard::from_bytes(bytes).map_err(damaged)?;
            (saved.models, saved.state)
        }
        _ => return Err(format!("its state has version {version}, this program reads 2 to {VERSION}")),
    };
    let models = texts.into_iter().map(|(from_us, text)| Ok((from_us, compile(&text)?)));
    let models = models.collect::<Result<_, ModelError>>().map_err(|error| error.to_string())?;
    Ok(PartitionState { models: Models::of(models), ..state })
}
