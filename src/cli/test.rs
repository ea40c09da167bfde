//! `test`: the tests inside a topology file.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Exit, FAILED, load_file};
use crate::testing::run_test;
use crate::yaml::{Mode, Registry};

/// Arguments of `test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Topology files.
    #[arg(required = true)]
    topologies: Vec<PathBuf>,
}

pub(super) fn test(registry: &Registry, args: &TestArgs) -> Result<(), Exit> {
    let (mut passed, mut failed) = (0, 0);
    for path in &args.topologies {
        let loaded = load_file(registry, path, Mode::Lenient)?;
        let places = loaded.places().clone();
        let topology = Arc::new(loaded.topology);
        for test in &loaded.tests {
            match run_test(&topology, test) {
                Ok(()) => {
                    passed += 1;
                    println!("ok      {}", test.name);
                }
                Err(failure) => {
                    failed += 1;
                    println!("FAILED  {}", test.name);
                    let (line, message) = (places.line(failure.place.start), &failure.message);
                    super::print(&format!("        {}:{line}: {message}\n", places.file()));
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        return Err(Exit::quiet(FAILED));
    }
    if passed == 0 {
        return Err(Exit::failed("no test was run: add `tests:` to the file"));
    }
    Ok(())
}
