//! Compares the state that an earlier run kept with today's topology: before the group is joined, before any task runs,
//! and by `check --connect` with the same messages.
//!
//! The authoritative record is in Kafka, in the compacted topic `NAME-layout`: which nodes have state, in which format
//! and which changelog, and which repartition topics there are ([`Layout`]). It is written when the internal topics are
//! created, so before there is state, and again when more nodes have state. If a version that wrote no such record has
//! run, its changelogs tell the same: each has the lines of its sub-topology in every checkpoint (`record.rs`). The
//! state of nodes below sources that are not topics is only in the state directory, and is compared there (`local.rs`).
//! `moving.rs` carries out what `renamed` asks for.

mod edit;
pub mod local;
pub mod moving;
pub mod record;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

pub use edit::Edit;

use crate::kafka::{Admin, AdminError, GroupOffset, KafkaConfig, TopicPartition};
use crate::model::Problem;
use crate::topology::{Home, Layout, Moves, Topology};

/// How long one request to the cluster may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The result, if everything fits.
#[derive(Debug)]
pub struct Examined {
    /// What was recorded, or found in its place.
    pub written: Layout,
    /// Whether it was recorded.
    pub recorded: bool,
    /// The same after `renamed`.
    pub moves: Moves,
    /// The same on this machine.
    pub local: Moves,
}

/// Where to look.
pub struct Places<'a> {
    /// The topology of today.
    pub topology: &'a Topology,
    /// Its cluster, and how to reach it.
    pub kafka: Option<(&'a Admin, &'a KafkaConfig)>,
    /// The partitions that each topic of the group has, or has to have.
    pub counts: &'a BTreeMap<String, i32>,
    /// The state directory, if it exists and no other process uses it.
    pub dir: Option<&'a Path>,
}

/// Compares both. The inner error is what does not fit.
///
/// # Errors
/// The cluster does not answer, or refuses; or a database on disk cannot be read.
pub fn examine(places: &Places<'_>) -> Result<Result<Examined, Vec<Problem>>, String> {
    let topology = places.topology;
    let mut problems = Vec::new();
    if let Some(dir) = places.dir {
        problems.extend(local::owner(dir, &topology.name)?);
        if !problems.is_empty() {
            // Anything else about this directory would be of no use.
            return Ok(Err(problems));
        }
    }
    let mut examined = Examined {
        written: Layout::default(),
        recorded: false,
        moves: Moves::default(),
        local: Moves::default(),
    };
    if let Some((admin, config)) = places.kafka {
        let asked = |e: AdminError| e.to_string();
        let written = record::read(admin, config, topology)?;
        examined.recorded = written.is_some();
        examined.written = match written {
            Some(written) => written,
            None => record::found(admin, config, topology)?,
        };
        let written = &examined.written;
        if !written.moving.is_empty() && written.moving != topology.settings.renamed {
            let list: Vec<String> = written.moving.iter().map(|(new, old)| format!("{new}: {old}")).collect();
            let message = "the state is being moved to nodes with other names, and the move is not done";
            let help = format!("run it with `renamed: {{ {} }}` until it is", list.join(", "));
            return Ok(Err(vec![Problem::new("state::renamed", message).field("name").help(help)]));
        }
        match topology.moves(Home::Topics, written) {
            Ok(moves) => examined.moves = moves,
            Err(found) => problems.extend(found),
        }
        let after = written.moved(&examined.moves);
        let today = topology.layout(Home::Topics);
        let mut unread = BTreeMap::new();
        for topic in after.repartitions.keys().filter(|topic| !today.repartitions.contains_key(*topic)) {
            unread.insert(topic.clone(), is_unread(admin, config, topology, topic)?);
        }
        problems.extend(after.lost(&today, &|topic| unread.get(topic).copied().unwrap_or(false)));
        if examined.recorded {
            problems.extend(gone(admin, written).map_err(asked)?);
        }
        problems.extend(sizes(places, admin, &examined.moves).map_err(asked)?);
    }
    if let Some(dir) = places.dir {
        let kept = local::found(dir)?;
        match topology.moves(Home::Machine, &kept.layout) {
            Ok(moves) => examined.local = moves,
            Err(found) => problems.extend(found),
        }
        let today = topology.layout(Home::Machine);
        problems.extend(kept.layout.moved(&examined.local).lost(&today, &|_| false));
        if let Some((_, config)) = places.kafka.filter(|_| !kept.positions.is_empty()) {
            // The markers of the last commits may still be in flight.
            let ends = Admin::open_uncommitted(config, TIMEOUT).map_err(|e| e.to_string())?;
            problems.extend(ahead(&ends, topology, dir, &kept)?);
        }
    }
    Ok(if problems.is_empty() { Ok(examined) } else { Err(problems) })
}

/// Whether a topic of the group has records that it has not read. Transaction markers are none.
fn is_unread(admin: &Admin, config: &KafkaConfig, topology: &Topology, topic: &str) -> Result<bool, String> {
    let asked = |e: AdminError| e.to_string();
    let found = admin.topics(&[topic]).map_err(asked)?;
    let count = found.first().and_then(|(_, count)| *count).unwrap_or(0);
    let all: Vec<TopicPartition> = (0..count).map(|p| TopicPartition::new(topic, p)).collect();
    let starts = admin.start_offsets(&all).map_err(asked)?;
    let ends = admin.end_offsets(&all).map_err(asked)?;
    let committed = admin.committed(&topology.name, &all).map_err(asked)?;
    for (at, (committed, (start, end))) in all.iter().zip(committed.iter().zip(starts.into_iter().zip(ends)))
    {
        let from = match committed {
            GroupOffset::At(next) => start.max(*next),
            GroupOffset::None => start,
            GroupOffset::Pending => return Ok(true),
        };
        let mut any = false;
        record::read_between(config, topology, at, (from.min(end), end), &mut |_, _| {
            any = true;
            true
        })?;
        if any {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Changelogs that were recorded and no longer exist.
fn gone(admin: &Admin, written: &Layout) -> Result<Vec<Problem>, AdminError> {
    let changelogs = written.changelogs();
    let found = admin.topics(&changelogs)?;
    let gone = found.into_iter().filter(|(_, count)| count.is_none());
    Ok(gone
        .map(|(topic, _)| {
            let of: Vec<String> = written
                .nodes
                .iter()
                .filter(|(_, kept)| kept.changelog == topic)
                .map(|(node, _)| format!("`{node}`"))
                .collect();
            let message = format!("the topic `{topic}` is gone, and with it the state of {}", of.join(", "));
            let help = "start from the beginning with `slackwater reset`, or give the topology a new `name`";
            Problem::new("state::gone", message).field("name").help(help)
        })
        .collect())
}

/// Internal topics with a wrong number of partitions.
fn sizes(places: &Places<'_>, admin: &Admin, moves: &Moves) -> Result<Vec<Problem>, AdminError> {
    let topology = places.topology;
    let mut wanted: Vec<(String, String, i32)> = Vec::new();
    for (s, sub) in topology.subs.iter().enumerate() {
        let (Some(changelog), Some(source)) = (topology.changelog(s), sub.topics.first()) else { continue };
        let Some(count) = places.counts.get(source) else { continue };
        let wrong =
            format!("the topic `{source}` has {count}: state belongs to a partition, so they must be equal");
        let old = moves.changelogs.iter().find(|(_, to)| to.to == changelog).map(|(from, _)| from.clone());
        wanted.extend(old.map(|old| (old, wrong.clone(), *count)));
        wanted.push((changelog, wrong, *count));
    }
    for repartition in topology.repartitions() {
        let Some(count) = places.counts.get(&repartition.topic) else { continue };
        let wrong = format!("the topics beside or above it have {count}: they must be equal");
        let old = moves.repartitions.iter().find(|(_, to)| **to == repartition.topic);
        wanted.extend(old.map(|(old, _)| (old.clone(), wrong.clone(), *count)));
        wanted.push((repartition.topic, wrong, *count));
    }
    let names: Vec<&str> = wanted.iter().map(|(topic, _, _)| topic.as_str()).collect();
    let found = admin.topics(&names)?;
    let mut problems = Vec::new();
    for ((topic, wrong, wanted), (_, have)) in wanted.iter().zip(found) {
        if let Some(have) = have.filter(|have| have != wanted) {
            let message = format!("the topic `{topic}` has {have} partitions, and {wrong}");
            let help = "give the topology a new `name`; or stop every instance and start from the beginning with \
                        `slackwater reset`; or make the source a topic with as many partitions as before";
            problems.push(Problem::new("state::partitions", message).field("name").help(help));
        }
    }
    Ok(problems)
}

/// Local state that claims more of a changelog than there is.
fn ahead(
    admin: &Admin,
    topology: &Topology,
    dir: &Path,
    kept: &local::Found,
) -> Result<Vec<Problem>, String> {
    let of = |sub: &str| {
        let s = topology.subs.iter().position(|s| s.name == sub)?;
        topology.changelog(s)
    };
    let asked: Vec<(TopicPartition, i64)> = kept
        .positions
        .iter()
        .filter_map(|(sub, partition, position)| Some((TopicPartition::new(of(sub)?, *partition), *position)))
        .filter(|(_, position)| *position > 0)
        .collect();
    let names: Vec<&str> = asked.iter().map(|(at, _)| &*at.topic).collect();
    let there: BTreeMap<String, i32> = admin
        .topics(&names)
        .map_err(|e| e.to_string())?
        .into_iter()
        .filter_map(|(topic, count)| Some((topic, count?)))
        .collect();
    let (known, missing): (Vec<_>, Vec<_>) = asked
        .into_iter()
        .partition(|(at, _)| there.get(&*at.topic).is_some_and(|count| at.partition < *count));
    let partitions: Vec<TopicPartition> = known.iter().map(|(at, _)| at.clone()).collect();
    let ends = admin.end_offsets(&partitions).map_err(|e| e.to_string())?;
    let ahead = known.into_iter().zip(ends).filter(|((_, position), end)| position > end);
    let all = ahead
        .map(|((at, position), end)| (at, position, end))
        .chain(missing.into_iter().map(|(at, p)| (at, p, 0)));
    Ok(all
        .map(|(at, position, end)| {
            let message = format!(
                "the state in {} is at offset {position} of `{at}`, which ends at {end}: the changelog was made anew, or the \
                 state is another topology's",
                dir.display()
            );
            let help = "remove the local state with `slackwater reset --local`; or give --state-dir";
            Problem::new("state::ahead", message).field("name").help(help)
        })
        .collect())
}
