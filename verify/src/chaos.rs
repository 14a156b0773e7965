//! A deployment on a real Kafka: faults strike it again and again, and its outputs are judged at the end.
#![allow(clippy::disallowed_methods, reason = "I/O edge: faults strike and are waited for by the clock")]

pub mod away;
pub mod broker;
pub mod fault;
pub mod hostile;
pub mod processes;
pub mod proxy;
pub mod results;
pub mod run;
pub mod store;
pub mod watch;
