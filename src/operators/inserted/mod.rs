//! Operators that cannot be written in a file: the topology puts them in front of others.

pub(super) mod by_id;
pub(super) mod regroup;

pub use by_id::ByIdConfig;
pub use regroup::RegroupConfig;
