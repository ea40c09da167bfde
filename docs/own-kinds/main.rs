//! A program of a user's own: slackwater with one more kind of operators, `silence`, one more kind of sinks, `csv`, and one
//! more function in expressions, `luhn`. Each is a file beside this one, and a line here.
//!
//! ```sh
//! cargo run --example own_kinds -- test docs/own-kinds/machines.yaml
//! cargo run --example own_kinds -- run docs/own-kinds/machines.yaml
//! ```
//!
//! In a crate of its own these are the same files, with `slackwater = { git = "..." }` under `[dependencies]`. They use
//! nothing that is not public.

mod csv;
mod luhn;
mod silence;

use std::process::ExitCode;

pub use csv::Csv;
pub use silence::Silence;
use slackwater::cli;
use slackwater::yaml::Registry;

fn main() -> ExitCode {
    cli::main_with(&registry())
}

/// What this program can do besides what slackwater can.
pub fn registry() -> Registry {
    Registry::new().operator::<Silence>("silence").sink::<Csv>("csv").function(luhn::function())
}
