//! The graph as a picture: mermaid and dot.

use std::fmt::Write as _;

use super::{NodeKind, Topology};

impl Topology {
    fn label(&self, n: usize) -> String {
        match &self.nodes[n].kind {
            NodeKind::Source(s) => match &self.nodes[n].table {
                Some(table) => format!("{}, {}", s.label(), table.label()),
                None => s.label(),
            },
            NodeKind::Operator(o) => o.label(),
            NodeKind::Sink(s) => s.label(),
        }
    }

    fn port_name(&self, n: usize, port: u16) -> Option<String> {
        match &self.nodes[n].kind {
            NodeKind::Operator(o) => o.ports().get(usize::from(port)).cloned(),
            NodeKind::Source(_) | NodeKind::Sink(_) => None,
        }
    }

    /// A mermaid flowchart.
    #[must_use]
    pub fn mermaid(&self) -> String {
        let mut out = String::from("flowchart LR\n");
        for (n, node) in self.nodes.iter().enumerate() {
            let label = format!("{}<br/>{}", node.name, self.label(n)).replace('"', "#quot;");
            let (open, close) = match node.kind {
                NodeKind::Source(_) => ("([", "])"),
                NodeKind::Operator(_) => ("[", "]"),
                NodeKind::Sink(_) => ("[(", ")]"),
            };
            // Writing to a String cannot fail.
            writeln!(out, "  n{n}{open}\"{label}\"{close}").unwrap_or_default();
        }
        for (n, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                match self.port_name(input.node, input.port) {
                    Some(port) => writeln!(out, "  n{} -- {port} --> n{n}", input.node),
                    None => writeln!(out, "  n{} --> n{n}", input.node),
                }
                .unwrap_or_default();
            }
            for table in node.lookups.iter().filter(|t| !node.inputs.iter().any(|i| i.node == **t)) {
                writeln!(out, "  n{table} -. rows .-> n{n}").unwrap_or_default();
            }
        }
        out
    }

    /// A Graphviz digraph.
    #[must_use]
    pub fn dot(&self) -> String {
        let mut out =
            format!("digraph {:?} {{\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n", self.name);
        for (n, node) in self.nodes.iter().enumerate() {
            let shape = match node.kind {
                NodeKind::Source(_) => "oval",
                NodeKind::Operator(_) => "box",
                NodeKind::Sink(_) => "cylinder",
            };
            let label = format!("{}\n{}", node.name, self.label(n));
            writeln!(out, "  n{n} [shape={shape}, label={label:?}];").unwrap_or_default();
        }
        for (n, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                match self.port_name(input.node, input.port) {
                    Some(port) => writeln!(out, "  n{} -> n{n} [label={port:?}];", input.node),
                    None => writeln!(out, "  n{} -> n{n};", input.node),
                }
                .unwrap_or_default();
            }
            for table in node.lookups.iter().filter(|t| !node.inputs.iter().any(|i| i.node == **t)) {
                writeln!(out, "  n{table} -> n{n} [label=\"rows\", style=dashed];").unwrap_or_default();
            }
        }
        out.push_str("}\n");
        out
    }
}
