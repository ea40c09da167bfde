//! Where a topology keeps its state: what a start compares with what an earlier run has written down, so that state is
//! never left behind without a word.
//!
//! Names are identity, and a topology's own names lead to Kafka topics: a node's rows are in the changelog of its
//! sub-topology, which is named after a source; behind a change of the key that source, its changelog and a repartition
//! topic are named after the node that wants the key. So a rename of one node can move the state of others. Everything
//! here is a comparison of names; `runtime/layout/` reads and writes what is compared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Changelog, NodeKind, Topology};
use crate::model::Problem;

/// The number of this form of the record. A program refuses a record with a higher one.
pub const LAYOUT_FORMAT: u32 = 1;

/// Which state: that in topics, or that of nodes that read lines, which is on one machine alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Rows are in changelogs.
    Topics,
    /// Rows are in a directory of the state directory, and nowhere else.
    Machine,
}

/// The state of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The topic that its rows are in; on a machine the directory.
    pub changelog: String,
    /// What its rows depend on. See `docs/changing-a-topology.md`.
    pub form: String,
    /// The declared node that it was put in for, where it is not declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Where all state of a topology is: nodes with state by name, repartition topics with the declared nodes they are made
/// for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// [`LAYOUT_FORMAT`] of the program that wrote it down.
    pub format: u32,
    /// Nodes with state.
    pub nodes: BTreeMap<String, Kept>,
    /// Repartition topics, with their declared nodes.
    pub repartitions: BTreeMap<String, String>,
    /// A move that has begun and is not done: the `renamed` of the file that began it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub moving: BTreeMap<String, String>,
    /// Topics whose contents were moved, still to be deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftover: Vec<String>,
}

/// A part of the layout that has another name now: see [`Topology::moves`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Changelogs to be rewritten, by the topic that the rows are in: where they belong, and the names of nodes.
    pub changelogs: BTreeMap<String, ChangelogMove>,
    /// Repartition topics, old and new.
    pub repartitions: BTreeMap<String, String>,
}

/// What becomes of one changelog's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangelogMove {
    /// The topic that they belong into: another one, or the same.
    pub to: String,
    /// Nodes with other names, old and new. Rows of nodes that are not named here keep their names.
    pub names: BTreeMap<String, String>,
}

impl Moves {
    /// Nothing to move?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changelogs.is_empty() && self.repartitions.is_empty()
    }
}

impl Layout {
    /// No state, and no topic in between?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.repartitions.is_empty()
    }

    /// The changelogs that hold state.
    #[must_use]
    pub fn changelogs(&self) -> Vec<&str> {
        let mut topics: Vec<&str> = self.nodes.values().map(|kept| kept.changelog.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// The layout after these moves.
    #[must_use]
    pub fn moved(&self, moves: &Moves) -> Layout {
        let nodes = self.nodes.iter().map(|(name, kept)| match moves.changelogs.get(&kept.changelog) {
            None => (name.clone(), kept.clone()),
            Some(to) => {
                let new = |name: &String| to.names.get(name).unwrap_or(name).clone();
                let kept = Kept {
                    changelog: to.to.clone(),
                    form: kept.form.clone(),
                    owner: kept.owner.as_ref().map(new),
                };
                (new(name), kept)
            }
        });
        let repartitions = self.repartitions.iter().map(|(topic, owner)| {
            let renamed = moves.changelogs.values().find_map(|to| to.names.get(owner));
            let topic = moves.repartitions.get(topic).unwrap_or(topic);
            (topic.clone(), renamed.unwrap_or(owner).clone())
        });
        Layout { nodes: nodes.collect(), repartitions: repartitions.collect(), ..self.clone() }
    }

    /// The layout with what the other adds.
    #[must_use]
    pub fn with(&self, other: &Layout) -> Layout {
        let mut all = self.clone();
        all.format = LAYOUT_FORMAT;
        all.nodes.extend(other.nodes.clone());
        all.repartitions.extend(other.repartitions.clone());
        all
    }

    /// The layout without the state of a declared node: its own, that of nodes put in for it, and its repartition topics.
    #[must_use]
    pub fn without(&self, node: &str) -> Layout {
        let is = |name: &str, owner: Option<&String>| name == node || owner.is_some_and(|o| o == node);
        let mut left = self.clone();
        left.nodes.retain(|name, kept| !is(name, kept.owner.as_ref()));
        left.repartitions.retain(|_, owner| owner != node);
        left
    }

    /// What of this layout, which was written down, the topology of today would leave behind or misread. `unread`: the
    /// repartition topics that hold records which are not read yet.
    #[must_use]
    pub fn lost(&self, today: &Layout, unread: &dyn Fn(&str) -> bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, was) in &self.nodes {
            let shown = was.owner.as_ref().unwrap_or(name);
            let (message, field) = match today.nodes.get(name) {
                Some(now) if now == was || now.changelog == was.changelog && now.form == was.form => continue,
                Some(now) if now.changelog != was.changelog => (
                    format!(
                        "the state of `{name}` is in `{}`, and this topology would keep it in `{}`: what is there would be \
                         left behind",
                        was.changelog, now.changelog
                    ),
                    true,
                ),
                Some(now) => (
                    format!(
                        "the state of `{name}` was written as `{}`, and this topology would read it as `{}`",
                        was.form, now.form
                    ),
                    true,
                ),
                None => (
                    format!(
                        "the node `{name}` has state (`{}`, in `{}`), and this topology has no such node with state: it \
                         would be left behind",
                        was.form, was.changelog
                    ),
                    false,
                ),
            };
            problems.push(Problem {
                node: field.then(|| shown.clone()),
                ..Problem::new("state::lost", message).help(ways_out(shown, field))
            });
        }
        for (topic, owner) in &self.repartitions {
            let said = self.nodes.iter().any(|(name, kept)| {
                let same = name == owner || kept.owner.as_ref() == Some(owner);
                same && today.nodes.get(name).is_none_or(|now| now.changelog != kept.changelog)
            });
            if !today.repartitions.contains_key(topic) && !said && unread(topic) {
                let message = format!(
                    "records wait in `{topic}`, which was made for the node `{owner}`, and this topology does not read it: \
                     they would be left behind"
                );
                problems.push(Problem::new("state::lost", message).help(ways_out(owner, false)));
            }
        }
        problems
    }
}

/// What may be done about state that would be left behind.
fn ways_out(node: &str, is_there: bool) -> String {
    let back = if is_there {
        format!("change back what moved it (a source's name or place, what `{node}` reads, its settings)")
    } else {
        format!(
            "give the node its name back; or say `renamed: {{ NEW: {node} }}`, which moves its state to the node NEW"
        )
    };
    format!(
        "{back}; or drop its state with `slackwater reset --node {node}`; or give the topology a new `name` \
         (docs/changing-a-topology.md)"
    )
}

impl Topology {
    /// The topic where the layout is written down.
    #[must_use]
    pub fn layout_topic(&self) -> String {
        format!("{}-layout", self.name)
    }

    /// Where it keeps its state.
    #[must_use]
    pub fn layout(&self, home: Home) -> Layout {
        let name = |n: usize| self.nodes[n].name.clone();
        let mut layout = Layout { format: LAYOUT_FORMAT, ..Layout::default() };
        for (n, changelog, form) in self.kept(home, &name) {
            let owner = self.nodes[n].made_for().map(name);
            layout.nodes.insert(name(n), Kept { changelog, form, owner });
        }
        for repartition in self.repartitions().into_iter().filter(|_| home == Home::Topics) {
            layout.repartitions.insert(repartition.topic, name(repartition.node));
        }
        layout
    }

    /// A node's name before `renamed`.
    fn before(&self, n: usize) -> String {
        let node = &self.nodes[n];
        let declared = &self.declared(n).name;
        // What the topology puts in for a node has its name first.
        match (self.settings.renamed.get(declared), node.name.strip_prefix(declared.as_str())) {
            (Some(old), Some(rest)) => format!("{old}{rest}"),
            _ => node.name.clone(),
        }
    }

    /// Every node with state, its changelog (or directory) and its form, by what nodes are called.
    fn kept(&self, home: Home, name: &dyn Fn(usize) -> String) -> Vec<(usize, String, String)> {
        let mut out = Vec::new();
        if self.settings.state.changelog == Changelog::Off {
            return out;
        }
        for (s, sub) in self.subs.iter().enumerate() {
            let source = sub.nodes.iter().find(|n| self.nodes[**n].name == sub.name);
            let Some(source) = source else { continue };
            let changelog = match (home, self.changelog(s)) {
                (Home::Topics, Some(_)) => format!("{}-{}-changelog", self.name, name(*source)),
                (Home::Machine, None) if sub.stateful => format!("{}-0", name(*source)),
                (Home::Topics, None) | (Home::Machine, _) => continue,
            };
            for n in &sub.nodes {
                if let Some(form) = self.state_form(*n) {
                    out.push((*n, changelog.clone(), form));
                }
            }
        }
        out
    }

    /// What a node's state depends on; `None` where it keeps none.
    #[must_use]
    pub fn state_form(&self, n: usize) -> Option<String> {
        let node = &self.nodes[n];
        match &node.kind {
            NodeKind::Operator(config) => config.state_shape(&node.plan),
            NodeKind::Source(_) => node.table.map(|table| table.state_kind().to_owned()),
            NodeKind::Sink(_) => self.readers(n).next().map(|_| "sink".to_owned()),
        }
    }

    /// What `renamed` makes of a layout that was written down: nothing of what was moved already.
    ///
    /// # Errors
    /// A new name has state of its own already.
    pub fn moves(&self, home: Home, written: &Layout) -> Result<Moves, Vec<Problem>> {
        let mut moves = Moves::default();
        let mut problems = Vec::new();
        if self.settings.renamed.is_empty() {
            return Ok(moves);
        }
        let was = self.kept(home, &|n| self.before(n));
        let now = self.kept(home, &|n| self.nodes[n].name.clone());
        for ((n, old_log, _), (_, new_log, _)) in was.iter().zip(now) {
            let (old, new) = (self.before(*n), &self.nodes[*n].name);
            if old == *new && *old_log == new_log {
                continue;
            }
            let Some(_) = written.nodes.get(&old).filter(|kept| kept.changelog == *old_log) else { continue };
            if old != *new && written.nodes.contains_key(new) {
                let message =
                    format!("`{new}` has state of its own already, so that of `{old}` cannot be moved to it");
                problems.push(Problem::new("state::renamed", message).field(format!("renamed.{new}")).help(
                    format!("drop one of them with `slackwater reset --node {new}` or `--node {old}`"),
                ));
            }
            if *old_log != new_log && written.nodes.values().any(|kept| kept.changelog == new_log) {
                let message =
                    format!("`{new_log}` has state already, so that in `{old_log}` cannot be moved to it");
                let help = "give the sources the names back that they had";
                problems.push(Problem::new("state::renamed", message).field("renamed").help(help));
            }
            let to = moves
                .changelogs
                .entry(old_log.clone())
                .or_insert_with(|| ChangelogMove { to: new_log.clone(), names: BTreeMap::new() });
            // Every name of the sub-topology: its clocks go by them too.
            if let Some(sub) = self.subs.iter().find(|sub| sub.nodes.contains(n)) {
                let names = sub.nodes.iter().map(|n| (self.before(*n), self.nodes[*n].name.clone()));
                to.names.extend(names.filter(|(old, new)| old != new));
            }
        }
        for repartition in self.repartitions().into_iter().filter(|_| home == Home::Topics) {
            let (old, new) = (self.before(repartition.sink), &self.nodes[repartition.sink].name);
            let old = format!("{}-{old}", self.name);
            let new = format!("{}-{new}", self.name);
            if old != new && written.repartitions.contains_key(&old) {
                moves.repartitions.insert(old, new);
            }
        }
        if problems.is_empty() { Ok(moves) } else { Err(problems) }
    }
}
