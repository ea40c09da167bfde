//! `explain`: the topology in words. No servers.

use std::path::PathBuf;

use clap::Args;

use super::table::Table;
use super::{Exit, Format, load_file};
use crate::topology::{Explanation, SubExplanation};
use crate::yaml::{Mode, Registry};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// Topology file.
    topology: PathBuf,
    /// How to print it.
    #[arg(long, default_value = "text")]
    format: Format,
}

pub(super) fn explain(registry: &Registry, args: &ExplainArgs) -> Result<(), Exit> {
    let loaded = load_file(registry, &args.topology, Mode::Lenient)?;
    let explanation = loaded.topology.explain();
    match args.format {
        Format::Text => super::print(&text(&explanation)),
        Format::Json => {
            let json = serde_json::to_string_pretty(&explanation).map_err(|e| Exit::failed(e.to_string()))?;
            super::print(&format!("{json}\n"));
        }
    }
    Ok(())
}

fn text(explanation: &Explanation) -> String {
    let mut lines = vec![format!("{}: consumer group, and prefix of its own topics", explanation.name)];
    let sentences = explanation.guarantees.iter().chain(std::iter::once(&explanation.errors));
    lines.extend(sentences.map(|sentence| format!("  - {sentence}")));
    for sub in &explanation.sub_topologies {
        lines.push(String::new());
        lines.extend(sub_lines(sub));
    }
    if !explanation.endpoints.is_empty() {
        lines.extend([String::new(), "endpoints".to_owned(), String::new()]);
        let mut table = Table::new(["ENDPOINT", "ROUTE", "WHAT"]);
        for endpoint in &explanation.endpoints {
            table.row([endpoint.name.clone(), endpoint.route.clone(), endpoint.what.clone()]);
        }
        lines.extend(table.to_string().lines().map(|line| format!("  {line}")));
    }
    lines.join("\n") + "\n"
}

fn sub_lines(sub: &SubExplanation) -> Vec<String> {
    let mut lines = vec![format!("sub-topology {}", sub.name)];
    if !sub.reads.is_empty() {
        lines.push(format!("  a task per partition of  {}", sub.reads.join(", ")));
    }
    lines.extend(sub.changelog.iter().map(|topic| format!("  changelog                {topic}")));
    lines.extend(sub.repartition_topics.iter().map(|r| {
        format!("  writes                   {}  (internal: records by the key of {})", r.topic, r.node)
    }));
    lines.push(String::new());
    let mut table = Table::new(["NODE", "WHAT", "FROM", "KEYED BY", "AS", "STATE"]);
    for node in &sub.nodes {
        let from = if node.from.is_empty() { "-".into() } else { node.from.join(", ") };
        let sends = if node.role == "sink" { "-" } else { node.sends }.to_owned();
        let state = match (&node.state, node.writes) {
            (Some(state), Some(writes)) => format!("{state}; writes {writes}"),
            (Some(state), None) => state.clone(),
            (None, Some(writes)) => format!("writes {writes}"),
            (None, None) => "-".into(),
        };
        table.row([node.name.clone(), node.what.clone(), from, node.key.clone(), sends, state]);
    }
    lines.extend(table.to_string().lines().map(|line| format!("  {line}")));
    lines
}
