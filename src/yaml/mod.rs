//! Floor 4: the YAML. Text becomes a tree with places, variables are put in, the tree becomes config types, and
//! every problem on the way is collected and shown at its place in the file.
//!
//! Called by `cli/`, `dev/` and `testing/`. The YAML parser (`serde-saphyr`) lives in [`tree`], miette in [`problem`]; no
//! other module knows them.

mod access;
#[cfg(test)]
mod complaint_tests;
pub mod decode;
pub mod env;
mod fault;
pub mod file;
pub mod problem;
mod registry;
pub mod schema;
pub mod secret;
pub mod test_case;
mod test_names;
pub mod tree;
mod types;
#[cfg(test)]
mod types_tests;

pub use crate::expressions::VrlCompiler;
pub use decode::decode;
pub use env::{Mode, substitute};
pub use file::{Loaded, Places, SECTIONS, load, load_with};
pub use problem::Report;
pub use registry::Registry;
pub use schema::{schema, schema_with};
pub use secret::Secrets;
pub use test_case::{CallAnswer, Nothing, Send, TestCase, TestStep, is_status};
pub use test_names::expectable;
pub use tree::{Key, Kind, Node, parse};
