//! Fits a topology to the stand-ins: divides times, sends calls to the simulated API, makes table sinks write to
//! memory. Nothing else about the topology changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clients::Server;
use crate::endpoints::Lookup;
use crate::gateway::StandIn;
use crate::model::{Millis, SystemClock};
use crate::sinks::TableSink;
use crate::topology::{NodeKind, Topology};

/// Divides the times that operators let go by (of a debounce `quiet`, `settle`, `max_wait`) by `speed`. Says what became
/// of each: `settled.quiet 30s -> 3s`.
pub fn divide_times(topology: &mut Topology, speed: f64) -> Vec<String> {
    let mut said = Vec::new();
    for node in &mut topology.nodes {
        let NodeKind::Operator(config) = &mut node.kind else { continue };
        for (field, time) in config.waits_mut() {
            let before = *time;
            *time = divided(before, speed);
            said.push(format!("{}.{field} {before} -> {time}", node.name));
        }
    }
    said
}

/// `time` divided by `speed`, at least a millisecond.
pub fn divided(time: Millis, speed: f64) -> Millis {
    Millis::from(time.duration().div_f64(speed)).max(Millis(1))
}

/// The longest that a key waits after its last event, over all operators.
#[must_use]
pub fn longest_wait(topology: &Topology) -> Millis {
    let waits = topology.nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Operator(config) => Some(config.waits()),
        NodeKind::Source(_) | NodeKind::Sink(_) => None,
    });
    waits.max().unwrap_or_default()
}

/// Sends every call to `base` instead of the host in the file. Returns the nodes that would still call something real,
/// because their host comes from the record.
pub fn calls_elsewhere(topology: &mut Topology, base: &str) -> Vec<String> {
    let mut real = Vec::new();
    for node in &mut topology.nodes {
        let NodeKind::Operator(config) = &mut node.kind else { continue };
        if !config.call_at(base) {
            real.push(node.name.clone());
        }
    }
    real
}

/// A table in memory for every sink that writes to a server other than Kafka, by node.
#[must_use]
pub fn stand_in_tables(topology: &Topology) -> BTreeMap<usize, TableSink> {
    let mut tables = BTreeMap::new();
    for (n, node) in topology.nodes.iter().enumerate() {
        let NodeKind::Sink(sink) = &node.kind else { continue };
        if let Some(table) = sink.stand_in(Arc::new(SystemClock)) {
            tables.insert(n, table);
        }
    }
    tables
}

/// What endpoints are told in place of Redis: the value of a key in the tables of the sinks that write there. PostgreSQL has
/// no stand-in that knows SQL, so what is not in a cache is nowhere.
#[must_use]
pub fn stand_in_caches(topology: &Topology, tables: &BTreeMap<usize, TableSink>) -> StandIn {
    let cached = |n: &usize| match &topology.nodes[*n].kind {
        NodeKind::Sink(sink) => sink.connection().is_some_and(|uses| uses.server == Server::Redis),
        NodeKind::Source(_) | NodeKind::Operator(_) => false,
    };
    let caches: Vec<TableSink> =
        tables.iter().filter(|(n, _)| cached(n)).map(|(_, table)| table.clone()).collect();
    Arc::new(move |lookup| match lookup {
        Lookup::Redis(key) => {
            let row = caches.iter().find_map(|table| table.get(&[key]))?;
            row.get("value").filter(|value| !value.is_null()).cloned()
        }
        Lookup::Postgres(_) | Lookup::Store { .. } => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Mode, load};

    const FILE: &str = "
name: t
kafka: { brokers: prod:9092 }
sources: { in: { kafka: { topic: in } } }
operators:
  calm: { from: in, debounce: { quiet: 30s, max_wait: 5m } }
  fixed: { from: calm, debounce: { settle: 1s } }
  one: { from: fixed, enrich: { http: { get: \"https://prod.internal:8443/v1/accounts/{{ key }}\" }, into: .a } }
  two: { from: one, enrich: { http: { post: \"${UNSET}/things\" }, into: .b } }
  three: { from: two, enrich: { http: { get: \"{{ .url }}/x\" }, into: .c } }
sinks:
  rows: { from: three, spanner: { database: d, table: T, columns: { Id: key } } }
  nothing: { from: three, blackhole: {} }
";

    #[test]
    fn a_topology_is_cut_off_from_the_world_and_sped_up() {
        let mut topology = load("t.yaml", FILE, Mode::Lenient, &|_| None).expect("is well").topology;
        assert_eq!(longest_wait(&topology), Millis::secs(30));
        assert_eq!(
            divide_times(&mut topology, 10.0),
            ["calm.quiet 30s -> 3s", "calm.max_wait 5m -> 30s", "fixed.settle 1s -> 100ms"]
        );
        assert_eq!(longest_wait(&topology), Millis::secs(3));
        assert_eq!(calls_elsewhere(&mut topology, "http://127.0.0.1:1"), ["three"]);
        let urls: Vec<String> = topology
            .nodes
            .iter()
            .filter_map(|n| match &n.kind {
                NodeKind::Operator(c) => {
                    c.calls().map(|calls| calls.http.checked().expect("one method").1.text().to_owned())
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            urls,
            ["http://127.0.0.1:1/v1/accounts/{{ key }}", "http://127.0.0.1:1/things", "{{ .url }}/x"]
        );
        let tables = stand_in_tables(&topology);
        assert_eq!(tables.keys().map(|n| topology.nodes[*n].name.as_str()).collect::<Vec<_>>(), ["rows"]);
    }

    #[test]
    fn no_time_becomes_nothing() {
        assert_eq!(divided(Millis(5), 1000.0), Millis(1));
        assert_eq!(divided(Millis::secs(20), 0.5), Millis::secs(40));
    }
}
