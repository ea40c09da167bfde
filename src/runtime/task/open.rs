//! Opens a task from its topology and its state.
//!
//! State that a newer program or another topology wrote is refused before anything of it is read.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::graph::{reached, set_delays, shape};
use super::sink::SinkNode;
use super::source::{EventTime, SourceNode};
use super::{DeadLetterSink, FORMAT, Node, Step, Task, TaskError, TaskId, TaskOptions};
use crate::formats::Formats;
use crate::model::Timestamp;
use crate::operators::{Effects, Operator, OperatorError, OperatorSettings, Tally, Timing};
use crate::state::{Backend, META_CLOCKS, META_FORMAT, META_SHAPE, StateError, Store, codec};
use crate::topology::{Changelog, ClockMode, NodeKind, Topology};

impl Task {
    /// A task over its state: reads back what operators keep in memory, and makes pending calls again. `step` gets
    /// those calls and deliveries.
    ///
    /// # Errors
    /// State cannot be read, or was written by another shape of the topology; a global table is missing; a row made
    /// here is refused, and the policy is `stop`.
    pub fn open(
        topology: &Topology,
        id: TaskId,
        backend: &Arc<dyn Backend>,
        options: &TaskOptions,
        now: Timestamp,
        step: &mut Step,
    ) -> Result<Task, TaskError> {
        let sub = &topology.subs[id.sub];
        let unconnected = || Arc::new(Formats::unconnected(&topology.named_schemas));
        let formats = options.formats.clone().unwrap_or_else(unconnected);
        let mut nodes = Vec::new();
        let mut stores = Vec::new();
        // Each node that reads global tables gets stores of its own over their rows, after the stores of the nodes.
        let mut seen: Vec<Store> = Vec::new();
        let by_global: BTreeMap<usize, usize> =
            sub.nodes.iter().enumerate().map(|(local, g)| (*g, local)).collect();
        for &g in &sub.nodes {
            let node = &topology.nodes[g];
            let children: Vec<(u16, usize, u16)> = topology
                .readers(g)
                .filter_map(|(port, reader, input)| Some((port, *by_global.get(&reader)?, input)))
                .collect();
            let op: Box<dyn Operator> = match &node.kind {
                NodeKind::Source(source) => {
                    let (table, internal) = (node.table.as_ref(), !node.is_declared());
                    Box::new(SourceNode::new(topology, &formats, &node.name, source, table, internal))
                }
                NodeKind::Operator(config) => config.build(&node.plan),
                NodeKind::Sink(sink) => {
                    Box::new(SinkNode::new(&formats, &node.name, sink, !children.is_empty()))
                }
            };
            // The stores a node sees: the store with its own number first, then those of the tables that it reads.
            let mut own = vec![stores.len()];
            for table in &node.lookups {
                if let Some(local) = by_global.get(table) {
                    own.push(*local);
                    continue;
                }
                let name = &topology.nodes[*table].name;
                let rows = options.globals.get(table);
                let rows =
                    rows.ok_or_else(|| StateError(format!("the global table `{name}` is not there")))?;
                own.push(sub.nodes.len() + seen.len());
                seen.push(Store::new(name, Arc::clone(rows)));
            }
            stores.push(Store::new(&node.name, Arc::clone(backend)));
            nodes.push(Node {
                name: node.name.as_str().into(),
                shown: topology.declared(g).name.as_str().into(),
                op,
                own,
                clock: Timestamp::MIN,
                seen: vec![Timestamp::MIN; node.inputs.len().max(1)],
                children,
                delays: Vec::new(),
                takes_changes: match &node.kind {
                    NodeKind::Source(_) => false,
                    NodeKind::Operator(c) => c.takes_changes(&node.plan),
                    // A repartition topic carries changes on.
                    NodeKind::Sink(_) => !node.is_declared(),
                },
                timing: match &node.kind {
                    NodeKind::Source(_) => {
                        node.table.map(|table| table.timing(&node.plan)).unwrap_or_default()
                    }
                    NodeKind::Operator(c) => c.timing(&node.plan),
                    NodeKind::Sink(_) => Timing::default(),
                },
                message_bytes_max: options.transactional.get(&g).copied(),
                tally: Tally::default(),
            });
        }
        stores.append(&mut seen);
        set_delays(&mut nodes);
        let inputs = topology.inputs(id.sub);
        let topics: Vec<Arc<str>> = inputs.iter().map(|input| input.name.as_str().into()).collect();
        let sources: Vec<Vec<usize>> = inputs
            .iter()
            .map(|input| input.sources.iter().filter_map(|g| by_global.get(g).copied()).collect())
            .collect();
        let time = |from: &Vec<usize>| match &topology.nodes[sub.nodes[*from.first()?]].kind {
            NodeKind::Source(source) => EventTime::of(source),
            NodeKind::Operator(_) | NodeKind::Sink(_) => None,
        };
        let times = sources.iter().map(time).collect();
        let reached = sources.iter().map(|from| reached(topology, sub, &nodes, from)).collect();
        let mut task = Task {
            id,
            name: id.name(topology),
            positions: vec![None; topics.len()],
            committed: vec![None; topics.len()],
            sealed_positions: Vec::new(),
            topics,
            global: sub.nodes.clone(),
            by_global,
            nodes,
            sources,
            admission: Vec::new(),
            times,
            reached,
            stores,
            moved: false,
            epoch: 1,
            outstanding: 0,
            sealed: None,
            copying: false,
            spent: Vec::new(),
            seal_rows: options.seal_rows.max(1),
            policy: topology.settings.errors.policy(),
            hybrid: topology.settings.time.clock == ClockMode::Hybrid,
            delay: options.delay,
            low_watermark: topology.settings.state.changelog == Changelog::Off,
            outputs: Vec::new(),
            late_outputs: Vec::new(),
            dead_letter: topology.dead_letter().map(|node| DeadLetterSink {
                node,
                name: topology.nodes[node].name.as_str().into(),
                message_bytes_max: options.transactional.get(&node).copied(),
            }),
            stack: Vec::new(),
            effects: Effects::default(),
            clocks_saved: Vec::new(),
            format_saved: false,
            shape: shape(topology, sub),
            taps: Vec::new(),
        };
        task.set_admission(topology, &formats);
        task.check_format(backend)?;
        task.check_shape(backend)?;
        task.read_clocks(backend)?;
        for n in 0..task.nodes.len() {
            task.with_op(n, 0, now, |op, cx| op.open(cx).map_err(OperatorError::Fatal), step)?;
            task.drain(now, step)?;
        }
        Ok(task)
    }

    fn read_clocks(&mut self, backend: &Arc<dyn Backend>) -> Result<(), TaskError> {
        let Some(bytes) = backend.get(META_CLOCKS)? else { return Ok(()) };
        let clocks: Vec<(String, i64)> = codec::decode(1, &bytes)?;
        for (name, clock) in &clocks {
            if let Some(node) = self.nodes.iter_mut().find(|n| &*n.name == name.as_str()) {
                node.clock = Timestamp(*clock);
                node.seen.fill(Timestamp(*clock));
            }
        }
        self.clocks_saved = clocks;
        Ok(())
    }

    fn check_format(&mut self, backend: &Arc<dyn Backend>) -> Result<(), TaskError> {
        let Some(bytes) = backend.get(META_FORMAT)? else { return Ok(()) };
        let found: u32 = codec::decode(1, &bytes)?;
        if found != FORMAT {
            return Err(TaskError::State(StateError(format!(
                "the state has format {found}, and this program reads format {FORMAT}: it was written by a newer one. Run \
                 that one, or remove the state with `slackwater reset`"
            ))));
        }
        self.format_saved = true;
        Ok(())
    }

    fn check_shape(&self, backend: &Arc<dyn Backend>) -> Result<(), TaskError> {
        let Some(bytes) = backend.get(META_SHAPE)? else { return Ok(()) };
        let old = String::from_utf8_lossy(&bytes).into_owned();
        let missing: Vec<&str> = old.lines().filter(|line| !self.shape.lines().any(|l| l == *line)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(TaskError::State(StateError(format!(
            "the state was written by another topology: it has `{}`, which this one has not. Give the topology a new \
             name, or remove the state with `slackwater reset` (docs/changing-a-topology.md says what may change)",
            missing.join("`, `")
        ))))
    }
}
