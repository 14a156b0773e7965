//! The single binary's parts: all stages in one process, the demo, loading and looking.

pub mod demo;
pub mod explain;
pub mod in_process;
pub mod load;
