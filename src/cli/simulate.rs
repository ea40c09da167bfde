//! `simulate`: JSON lines through the production task.

use std::fs::File;
use std::io::{BufReader, BufWriter, stdin, stdout};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Exit, load_file};
use crate::model::secret::Masked;
use crate::testing;
use crate::yaml::{Mode, Registry};

/// Arguments of `simulate`.
#[derive(Debug, Args)]
pub(super) struct SimulateArgs {
    /// Topology file.
    topology: PathBuf,
    /// File of JSON lines; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    records: PathBuf,
    /// Take a checkpoint after so many lines.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
}

pub(super) fn simulate(registry: &Registry, args: &SimulateArgs) -> Result<(), Exit> {
    let loaded = load_file(registry, &args.topology, Mode::Lenient)?;
    let topology = Arc::new(loaded.topology);
    let out = BufWriter::new(Masked::new(stdout().lock()));
    let result = if args.records.as_os_str() == "-" {
        testing::simulate(topology, stdin().lock(), out, args.checkpoint_every)
    } else {
        let cannot = |e: std::io::Error| Exit {
            code: 2,
            message: Some(format!("error: cannot read {}: {e}", args.records.display())),
        };
        let file = File::open(&args.records).map_err(cannot)?;
        if file.metadata().is_ok_and(|about| about.is_dir()) {
            return Err(cannot(std::io::ErrorKind::IsADirectory.into()));
        }
        testing::simulate(topology, BufReader::new(file), out, args.checkpoint_every)
    };
    result.map_err(|e| match e {
        testing::SimulateError::Io(e) => Exit::output(&e),
        e => Exit::failed(e.to_string()),
    })
}
