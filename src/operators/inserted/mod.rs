//! Operators that no file names: the topology puts them in, in front of others.

pub(super) mod by_id;
pub(super) mod regroup;

pub use by_id::ByIdConfig;
pub use regroup::RegroupConfig;
