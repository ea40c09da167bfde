//! Reads for endpoints: a key of a state store, from whichever instance is asked.

pub mod peer;
pub mod store;
