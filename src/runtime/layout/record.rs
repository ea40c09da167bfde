//! The layout in Kafka: one record in a compacted topic with one partition. If an earlier version has run, its
//! substitute: the lines that each checkpoint writes into its changelog.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use crate::kafka::{
    Admin, GroupOffset, KafkaConfig, OutRecord, RestoreError, TopicPartition, TopicSpec, restore,
};
use crate::model::Headers;
use crate::state::{META_SHAPE, Row};
use crate::topology::{Kept, LAYOUT_FORMAT, Layout, Topology};

/// The record's key.
const KEY: &[u8] = b"layout";

/// The topic of the record.
#[must_use]
pub fn spec(topology: &Topology) -> TopicSpec {
    let mut spec = TopicSpec::new(topology.layout_topic(), 1).with("cleanup.policy", "compact");
    spec.replication = topology.settings.state.replication.unwrap_or(-1);
    spec
}

/// A layout as the record that is written.
///
/// # Errors
/// It cannot be written as JSON.
pub fn record(topology: &Topology, layout: &Layout) -> Result<OutRecord, String> {
    Ok(OutRecord {
        topic: topology.layout_topic().into(),
        partition: Some(0),
        key: Some(Bytes::from_static(KEY)),
        value: Some(Bytes::from(serde_json::to_vec(layout).map_err(|e| e.to_string())?)),
        headers: Headers::default(),
        ts: None,
    })
}

/// What was recorded last; `None` if nothing was.
///
/// # Errors
/// The cluster does not answer, or a newer program wrote it.
pub fn read(admin: &Admin, config: &KafkaConfig, topology: &Topology) -> Result<Option<Layout>, String> {
    let topic = topology.layout_topic();
    let found = admin.topics(&[&topic]).map_err(|e| e.to_string())?;
    if found.iter().all(|(_, count)| count.is_none()) {
        return Ok(None);
    }
    let at = TopicPartition::new(topic.as_str(), 0);
    let mut last = None;
    read_rows(admin, config, topology, &at, None, &mut |key, value| {
        if key == KEY {
            last = value.cloned();
        }
        false
    })?;
    let Some(bytes) = last else { return Ok(None) };
    let format = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let format = format.and_then(|json| json.get("format")?.as_u64()).unwrap_or(0);
    if format > u64::from(LAYOUT_FORMAT) {
        return Err(format!(
            "the topic `{topic}` was written by a newer program (format {format}; this one reads {LAYOUT_FORMAT}): run that one"
        ));
    }
    let layout =
        serde_json::from_slice(&bytes).map_err(|e| format!("the record in `{topic}` cannot be read: {e}"))?;
    Ok(Some(layout))
}

/// What changelogs and repartition topics tell about the state if nothing was recorded.
///
/// # Errors
/// The cluster does not answer.
pub fn found(admin: &Admin, config: &KafkaConfig, topology: &Topology) -> Result<Layout, String> {
    let mut layout = Layout { format: LAYOUT_FORMAT, ..Layout::default() };
    let all = admin.topic_names().map_err(|e| e.to_string())?;
    let mut foreign: BTreeMap<String, bool> = BTreeMap::new();
    for topic in all {
        let Some(middle) = topic.strip_prefix(topology.name.as_str()).and_then(|rest| rest.strip_prefix('-'))
        else {
            continue;
        };
        let (is_changelog, name) =
            match (middle.strip_suffix("-changelog"), middle.strip_suffix("-repartition")) {
                (Some(name), _) => (true, name),
                (None, Some(name)) => (false, name),
                (None, None) => continue,
            };
        // `a-b-x-changelog` may be that of the topology `a-b`: then there is such a group, or such a record.
        let mut others = name.match_indices('-').map(|(at, _)| format!("{}-{}", topology.name, &name[..at]));
        let other = others.try_fold(false, |found, group| {
            if found {
                return Ok(true);
            }
            if let Some(known) = foreign.get(&group) {
                return Ok(*known);
            }
            let offsets = admin.all_committed(&group).map_err(|e| e.to_string())?;
            let is = offsets.iter().any(|(_, offset)| *offset != GroupOffset::None);
            foreign.insert(group, is);
            Ok::<bool, String>(is)
        })?;
        if other {
            continue;
        }
        if is_changelog {
            for line in lines(admin, config, topology, &topic)? {
                let Some((node, form)) = line.split_once(" = ") else { continue };
                let kept =
                    Kept { changelog: topic.clone(), form: form.to_owned(), owner: owner(node, topology) };
                layout.nodes.insert(node.to_owned(), kept);
            }
        } else {
            layout.repartitions.insert(topic.clone(), name.to_owned());
        }
    }
    // The right half of a join by a foreign key, whose node is gone too.
    let names: Vec<String> = layout.nodes.keys().cloned().collect();
    for (name, kept) in &mut layout.nodes {
        if let Some(join) = name.strip_suffix("-right").filter(|join| names.iter().any(|n| n == join)) {
            kept.owner.get_or_insert_with(|| join.to_owned());
        }
    }
    Ok(layout)
}

fn owner(node: &str, topology: &Topology) -> Option<String> {
    let n = topology.node(node)?;
    topology.nodes[n].made_for().map(|owner| topology.nodes[owner].name.clone())
}

/// The lines of a changelog: what its last checkpoint in each partition says of the nodes with state.
fn lines(
    admin: &Admin,
    config: &KafkaConfig,
    topology: &Topology,
    topic: &str,
) -> Result<Vec<String>, String> {
    let found = admin.topics(&[topic]).map_err(|e| e.to_string())?;
    let count = found.first().and_then(|(_, count)| *count).unwrap_or(0);
    let mut lines = Vec::new();
    for partition in 0..count {
        let at = TopicPartition::new(topic, partition);
        // Every checkpoint has them, so they are near the end.
        for tail in [Some(1000), Some(50_000), None] {
            let mut last = None;
            read_rows(admin, config, topology, &at, tail, &mut |key, value| {
                if key == META_SHAPE {
                    last = value.cloned();
                }
                false
            })?;
            if let Some(text) = last {
                lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
                break;
            }
        }
    }
    lines.sort();
    lines.dedup();
    Ok(lines)
}

/// Visits the committed rows of a partition, or those of its last so many offsets, until `visit` says that it is enough.
///
/// # Errors
/// The cluster does not answer.
fn read_rows(
    admin: &Admin,
    config: &KafkaConfig,
    topology: &Topology,
    at: &TopicPartition,
    tail: Option<i64>,
    visit: &mut dyn FnMut(&[u8], Option<&Bytes>) -> bool,
) -> Result<(), String> {
    let one = std::slice::from_ref(at);
    let offset = |found: Vec<i64>| found.first().copied().unwrap_or(0);
    let start = offset(admin.start_offsets(one).map_err(|e| e.to_string())?);
    let end = offset(admin.end_offsets(one).map_err(|e| e.to_string())?);
    let from = tail.map_or(start, |tail| start.max(end - tail)).min(end);
    read_between(config, topology, at, (from, end), visit)
}

/// Visits the committed rows between two offsets, until `visit` says that it is enough.
///
/// # Errors
/// The cluster refuses.
pub(super) fn read_between(
    config: &KafkaConfig,
    topology: &Topology,
    at: &TopicPartition,
    (from, end): (i64, i64),
    visit: &mut dyn FnMut(&[u8], Option<&Bytes>) -> bool,
) -> Result<(), String> {
    let group = format!("{}-restore", topology.name);
    let on_rows = |rows: &[Row], _: i64, _: crate::kafka::Progress| match rows
        .iter()
        .any(|(key, value)| visit(key, value.as_ref()))
    {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    match restore(config, &group, at, from, end, on_rows) {
        Ok(_) | Err(RestoreError::Stopped) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}
