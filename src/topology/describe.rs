//! The graph as a picture, in mermaid and dot. It shows the declared nodes; an edge through a repartition topic is
//! dotted.

use std::fmt::Write as _;

use super::{Input, Node, NodeKind, Topology};

impl Topology {
    pub(super) fn label(&self, n: usize) -> String {
        match &self.nodes[n].kind {
            NodeKind::Source(s) => match &self.nodes[n].table {
                Some(table) => format!("{}, {}", s.label(), table.label()),
                None => s.label(),
            },
            NodeKind::Operator(o) => o.label(),
            NodeKind::Sink(s) => s.label(),
        }
    }

    pub(super) fn port_name(&self, n: usize, port: u16) -> Option<String> {
        match &self.nodes[n].kind {
            NodeKind::Operator(o) => o.ports().get(usize::from(port)).cloned(),
            NodeKind::Source(_) | NodeKind::Sink(_) => None,
        }
    }

    /// The declared nodes.
    fn shown(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, n)| n.is_declared())
    }

    /// The inputs of node `n`, as declared: node, port, and whether a repartition topic is in between.
    pub(super) fn edges(&self, n: usize) -> Vec<(usize, u16, bool)> {
        let own = self.repartitions();
        let mut out = Vec::new();
        let mut left: Vec<(Input, bool)> = self.nodes[n].inputs.iter().rev().map(|i| (*i, false)).collect();
        while let Some((input, through)) = left.pop() {
            if input.node == n {
                // A join's records to its own other half are not shown.
            } else if self.nodes[input.node].is_declared() {
                out.push((input.node, input.port, through));
            } else if let Some(r) = own.iter().find(|r| r.source == input.node) {
                left.extend(self.nodes[r.sink].inputs.iter().rev().map(|i| (*i, true)));
            } else {
                left.extend(self.nodes[input.node].inputs.iter().rev().map(|i| (*i, through)));
            }
        }
        out
    }

    /// A mermaid flowchart.
    #[must_use]
    pub fn mermaid(&self) -> String {
        let mut out = String::from("flowchart LR\n");
        for (n, node) in self.shown() {
            let label = format!("{}<br/>{}", node.name, self.label(n)).replace('"', "#quot;");
            let (open, close) = match node.kind {
                NodeKind::Source(_) => ("([", "])"),
                NodeKind::Operator(_) => ("[", "]"),
                NodeKind::Sink(_) => ("[(", ")]"),
            };
            // Writing to a String cannot fail.
            writeln!(out, "  n{n}{open}\"{label}\"{close}").unwrap_or_default();
        }
        for (n, node) in self.shown() {
            for (from, port, through) in self.edges(n) {
                match self.port_name(from, port) {
                    _ if through => writeln!(out, "  n{from} -. repartition .-> n{n}"),
                    Some(port) => writeln!(out, "  n{from} -- {port} --> n{n}"),
                    None => writeln!(out, "  n{from} --> n{n}"),
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
        for (n, node) in self.shown() {
            let shape = match node.kind {
                NodeKind::Source(_) => "oval",
                NodeKind::Operator(_) => "box",
                NodeKind::Sink(_) => "cylinder",
            };
            let label = format!("{}\n{}", node.name, self.label(n));
            writeln!(out, "  n{n} [shape={shape}, label={label:?}];").unwrap_or_default();
        }
        for (n, node) in self.shown() {
            for (from, port, through) in self.edges(n) {
                match self.port_name(from, port) {
                    _ if through => {
                        writeln!(out, "  n{from} -> n{n} [style=dotted, label=\"repartition\"];")
                    }
                    Some(port) => writeln!(out, "  n{from} -> n{n} [label={port:?}];"),
                    None => writeln!(out, "  n{from} -> n{n};"),
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
