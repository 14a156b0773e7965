//! The store of the tables: objects in memory. A fault can strike at every call.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use keepwell_pipeline::store::{Objects, StoreError};

use super::chaos::Fault;
use super::world::World;

/// Objects by name, shared by all processes.
pub type Shared = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

/// The store as one process accesses it.
pub struct SimStore<'s> {
    objects: Shared,
    world: Weak<World<'s>>,
    slot: usize,
    is_dead: Rc<Cell<bool>>,
}

impl std::fmt::Debug for SimStore<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimStore").field("slot", &self.slot).finish_non_exhaustive()
    }
}

fn silent() -> StoreError {
    StoreError::Url { url: "simulated".into(), why: "it does not answer".into() }
}

impl<'s> SimStore<'s> {
    /// The store for the process in a slot of the world.
    pub fn new(objects: Shared, world: Weak<World<'s>>, slot: usize, is_dead: Rc<Cell<bool>>) -> Self {
        Self { objects, world, slot, is_dead }
    }

    fn call<T>(&self, is_write: bool, act: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> T) -> Result<T, StoreError> {
        let world = self.world.upgrade().filter(|_| !self.is_dead.get()).ok_or_else(silent)?;
        if is_write && world.chaos.strikes(Fault::Stale, 200) {
            // Others take over, cut and claim, while this process continues without knowing it.
            world.expel(self.slot);
            (0..8).for_each(|_| world.interleave(self.slot, 10_000));
        }
        world.interleave(self.slot, 100);
        let ends = |fault, of_10_000| {
            let strikes = is_write && world.chaos.strikes(fault, of_10_000);
            if strikes {
                self.is_dead.set(true);
            }
            strikes
        };
        if self.is_dead.get() || ends(Fault::CrashBeforeObject, 30) || world.chaos.strikes(Fault::StoreFails, 30) {
            return Err(silent());
        }
        let answer = act(&mut self.objects.borrow_mut());
        if ends(Fault::CrashAfterObject, 30) || (is_write && world.chaos.strikes(Fault::StoreLies, 30)) {
            return Err(silent());
        }
        Ok(answer)
    }
}

impl Objects for SimStore<'_> {
    fn exists(&self, name: &str) -> Result<bool, StoreError> {
        self.call(false, |objects| objects.contains_key(name))
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.call(false, |objects| objects.get(name).cloned())?.ok_or_else(silent)
    }

    fn put(&self, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        self.call(true, |objects| objects.insert(name.to_owned(), content)).map(|_| ())
    }

    fn create(&self, name: &str, content: Vec<u8>) -> Result<bool, StoreError> {
        self.call(true, |objects| {
            let is_new = !objects.contains_key(name);
            objects.entry(name.to_owned()).or_insert(content);
            is_new
        })
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{folder}/");
        let below = |name: &String| name.strip_prefix(&prefix).filter(|rest| !rest.contains('/')).map(str::to_owned);
        self.call(false, |objects| objects.keys().filter_map(below).collect())
    }
}
