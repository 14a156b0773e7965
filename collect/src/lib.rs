//! Takes events over HTTP and writes them to raw topics: Segment's API, and webhooks with their signatures checked.
//!
//! It answers 200 when the broker has all copies of what was sent. What it cannot take now is answered with 503, and the
//! sender repeats it. A repeated event has the same id, so it is a duplicate later. It reads nothing and keeps nothing:
//! any number of processes can stand behind one address.

pub mod cli;
pub mod credentials;
pub mod doors;
pub mod refusal;
pub mod request;
pub mod segment;
pub mod server;
