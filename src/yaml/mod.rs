//! Floor 4: the YAML of topology files. Text becomes a tree with places, variables are filled in, the tree becomes
//! settings, and every problem on the way is collected and shown at its place in the file.
//!
//! Called by `cli/`, `dev/` and `testing/`. The YAML parser (`serde-saphyr`) is used only in `tree.rs`, miette only in
//! `problem.rs`.

mod access;
#[cfg(test)]
mod complaint_tests;
pub(crate) mod decode;
pub(crate) mod env;
mod fault;
pub(crate) mod file;
pub(crate) mod problem;
mod registry;
pub(crate) mod schema;
pub(crate) mod secret;
mod sections;
pub(crate) mod test_case;
mod test_names;
pub(crate) mod tree;
mod types;
#[cfg(test)]
mod types_tests;

pub use crate::expressions::VrlCompiler;
pub use decode::decode;
pub use env::{Mode, substitute};
pub use file::{Loaded, Places, load, load_with};
pub use problem::Report;
pub use registry::Registry;
pub use schema::{schema, schema_with};
pub use secret::Secrets;
pub use test_case::{CallAnswer, Commit, Nothing, Send, TestCase, TestStep, is_status};
pub use test_names::expectable;
pub use tree::{Key, Kind, Node, names_once, parse};
