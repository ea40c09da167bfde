//! `graph` and `schema`: pictures and descriptions, no servers.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Exit, load_file};
use crate::yaml::{Mode, Registry, schema_with};

/// Arguments of `graph`.
#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    /// Topology file.
    topology: PathBuf,
    /// What to print.
    #[arg(long, default_value = "mermaid")]
    format: GraphFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GraphFormat {
    /// A mermaid flowchart, as GitHub shows it.
    Mermaid,
    /// A Graphviz digraph: `| dot -Tsvg`.
    Dot,
}

pub(super) fn graph(registry: &Registry, args: &GraphArgs) -> Result<(), Exit> {
    let loaded = load_file(registry, &args.topology, Mode::Lenient)?;
    match args.format {
        GraphFormat::Mermaid => super::print(&loaded.topology.mermaid()),
        GraphFormat::Dot => super::print(&loaded.topology.dot()),
    }
    Ok(())
}

pub(super) fn schema(registry: &Registry) -> Result<(), Exit> {
    let text =
        serde_json::to_string_pretty(&schema_with(registry)).map_err(|e| Exit::failed(e.to_string()))?;
    println!("{text}");
    Ok(())
}
