//! `dlq replay`: the records that dead letters come from go back into their topics.
//!
//! A dead letter holds a record as it came into the node that refused it, perhaps after other nodes have changed it. What
//! goes back is the record as it was read, fetched from its topic once more: key, value, headers, time and partition.
//!
//! What was sent is remembered in the topic `NAME-dlq-replay`: for each dead letter a row, written in the transaction
//! that sends its record. So a record is sent once, wherever a replay is stopped, and however many run at a time: a replay
//! takes the transactional id of that name before it reads what was sent, and who had it before can commit nothing more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;

use super::super::Exit;
use super::super::connect::failed;
use super::pick::Pick;
use super::{Found, Letters};
use crate::kafka::{OutRecord, TopicPartition, TopicSpec, TxnError, TxnWriter};
use crate::model::{Headers, Record};
use crate::runtime::ReadFrom;
use crate::yaml::Registry;

/// Records of one transaction.
const CHUNK: usize = 500;
/// Records that are rather read and skipped than looked up anew.
const GAP_MAX: i64 = 5000;
/// How long the cluster may take to answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `dlq replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Topology file.
    topology: PathBuf,
    #[command(flatten)]
    pick: Pick,
    /// Only say what would be sent.
    #[arg(long)]
    dry_run: bool,
    /// Where a record is in its topic no more, send it as the node that refused it had it.
    #[arg(long)]
    as_refused: bool,
}

/// The dead letters that were sent, with their prints.
pub(super) struct Replayed(HashMap<(i32, i64), Bytes>);

impl Replayed {
    pub(super) fn holds(&self, found: &Found) -> bool {
        let print = self.0.get(&(found.partition, found.offset));
        print.is_some_and(|print| *print == found.print.as_bytes())
    }
}

/// Reads which of the dead letters were sent.
pub(super) fn replayed(letters: &Letters) -> Result<Replayed, Exit> {
    let mut all = HashMap::new();
    letters.read_topic(&memory(letters), |record| {
        let key = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
        // Of another dead-letter topic, which the file named before.
        let place = key.and_then(|key| key.strip_prefix(letters.topic.as_str())?.strip_prefix('/'));
        let place = place.and_then(|place| place.split_once('/'));
        let place = place.and_then(|(p, o)| Some((p.parse::<i32>().ok()?, o.parse::<i64>().ok()?)));
        if let (Some(place), Some(print)) = (place, record.value.bytes()) {
            all.insert(place, print);
        }
    })?;
    Ok(Replayed(all))
}

/// The topic in which it is remembered what was sent; the transactional id too.
fn memory(letters: &Letters) -> String {
    format!("{}-dlq-replay", letters.topology.name)
}

/// A record to send, and the dead letters that it is sent for.
struct Chosen {
    letters: Vec<(i32, i64, String)>,
    /// As it was refused, where that is asked for.
    refused: Option<Record>,
}

/// By topic and partition, by offset.
type Origins = BTreeMap<TopicPartition, BTreeMap<i64, Chosen>>;

/// What there is to do, and what cannot be done.
#[derive(Default)]
struct Counts {
    before: u64,
    nowhere: u64,
    gone: u64,
    sent: BTreeMap<Arc<str>, u64>,
}

pub(super) fn replay(registry: &Registry, args: &ReplayArgs) -> Result<(), Exit> {
    let letters = Letters::open(registry, &args.topology)?;
    let mut writer = if args.dry_run { None } else { Some(open(&letters)?) };
    // After the writer has taken its id: what another replay has under way is committed or aborted now.
    let replayed = replayed(&letters)?;
    let mut counts = Counts::default();
    let origins = choose(&letters, args, &replayed, &mut counts)?;
    for (at, records) in origins {
        let records: Vec<(i64, Chosen)> = records.into_iter().collect();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(rest.len().min(CHUNK));
            let found = fetch(&letters, &at, chunk)?;
            send(&letters, writer.as_mut(), &at, chunk, &found, &mut counts)?;
            rest = after;
        }
    }
    report(args, &letters, &counts)
}

/// The chosen dead letters that were not sent yet, by where their records were read.
fn choose(
    letters: &Letters,
    args: &ReplayArgs,
    replayed: &Replayed,
    counts: &mut Counts,
) -> Result<Origins, Exit> {
    let topology = &letters.topology;
    let topics: BTreeSet<String> =
        topology.source_topics().into_iter().chain(topology.global_topics()).collect();
    let external = topology.external_topics();
    let mut origins = Origins::new();
    letters.read(|found| {
        if !args.pick.takes(&found.letter) {
            return;
        }
        if replayed.holds(&found) {
            counts.before += 1;
            return;
        }
        let Found { partition: p, offset: o, print, letter } = found;
        // A record that a timer made, or a line of a file: there is no topic to send it to.
        let Some(ReadFrom { topic, partition, offset }) =
            letter.from.filter(|from| topics.contains(&from.topic))
        else {
            counts.nowhere += 1;
            return;
        };
        // A repartition topic carries more than a dead letter holds.
        let as_refused = args.as_refused && external.contains(&topic);
        let at = TopicPartition::new(topic, partition);
        let chosen = origins.entry(at).or_default().entry(offset);
        let chosen = chosen.or_insert_with(|| Chosen { letters: Vec::new(), refused: None });
        chosen.letters.push((p, o, print));
        if as_refused {
            chosen.refused.get_or_insert(letter.record);
        }
    })?;
    Ok(origins)
}

/// The records as they were read, by offset; those that are gone are missing.
fn fetch(
    letters: &Letters,
    at: &TopicPartition,
    chunk: &[(i64, Chosen)],
) -> Result<HashMap<i64, Record>, Exit> {
    let there = letters.admin.topics(&[&at.topic]).map_err(failed)?;
    let count = there.first().and_then(|(_, count)| *count).unwrap_or(0);
    if at.partition >= count {
        return Ok(HashMap::new());
    }
    let bounds = std::slice::from_ref(at);
    let starts = letters.admin.start_offsets(bounds).map_err(failed)?;
    let ends = letters.admin.end_offsets(bounds).map_err(failed)?;
    let (start, end) = (starts.first().copied().unwrap_or(0), ends.first().copied().unwrap_or(0));
    let wanted: Vec<i64> =
        chunk.iter().map(|(offset, _)| *offset).filter(|o| (start..end).contains(o)).collect();
    let mut found = HashMap::new();
    for run in wanted.chunk_by(|a, b| b - a <= GAP_MAX) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        letters.read_ranges(&[(at.clone(), *first, last + 1)], |record| {
            if run.binary_search(&record.origin.offset).is_ok() {
                found.insert(record.origin.offset, record);
            }
        })?;
    }
    Ok(found)
}

/// Sends records of one partition in one transaction, and remembers them in it. Without a writer it only counts.
fn send(
    letters: &Letters,
    writer: Option<&mut TxnWriter>,
    at: &TopicPartition,
    chunk: &[(i64, Chosen)],
    found: &HashMap<i64, Record>,
    counts: &mut Counts,
) -> Result<(), Exit> {
    let mut out = Vec::new();
    let mut sent = 0;
    let memory: Arc<str> = memory(letters).into();
    for (offset, chosen) in chunk {
        let Some(record) = found.get(offset).or(chosen.refused.as_ref()) else {
            counts.gone += chosen.letters.len() as u64;
            continue;
        };
        sent += 1;
        out.push(OutRecord {
            topic: Arc::clone(&at.topic),
            // Where it was: so it stays in order with others of its key, whatever partitioner wrote them.
            partition: Some(at.partition),
            key: record.key.clone(),
            value: record.value.bytes(),
            headers: record.headers.clone(),
            ts: Some(record.ts),
        });
        out.extend(chosen.letters.iter().map(|(partition, offset, print)| OutRecord {
            topic: Arc::clone(&memory),
            partition: Some(0),
            key: Some(format!("{}/{partition}/{offset}", letters.topic).into()),
            value: Some(print.clone().into()),
            headers: Headers::default(),
            ts: None,
        }));
    }
    if sent == 0 {
        return Ok(());
    }
    if let Some(writer) = writer {
        transact(writer, &out)
            .map_err(|e| Exit::failed(format!("{at}: {e}: what was not sent is sent by the next replay")))?;
    }
    *counts.sent.entry(Arc::clone(&at.topic)).or_default() += sent;
    Ok(())
}

fn transact(writer: &mut TxnWriter, records: &[OutRecord]) -> Result<(), TxnError> {
    writer.begin()?;
    let sent = records.iter().try_for_each(|record| writer.send(record));
    let deadline = Instant::now() + TIMEOUT;
    let done = sent.and_then(|()| {
        loop {
            match writer.commit(&[], None, TIMEOUT) {
                Err(TxnError::Retriable(_)) if Instant::now() < deadline => {}
                result => return result.map(drop),
            }
        }
    });
    if done.is_err() && !writer.is_in_doubt() {
        // The next to take the id aborts it as well.
        drop(writer.abort(TIMEOUT));
    }
    done
}

/// Makes the topic in which it is remembered what was sent, and takes its id.
fn open(letters: &Letters) -> Result<TxnWriter, Exit> {
    let name = memory(letters);
    let mut spec = TopicSpec::new(&name, 1).with("cleanup.policy", "compact");
    spec.replication = letters.topology.settings.state.replication.unwrap_or(-1);
    letters.admin.create_topics(&[spec]).map_err(failed)?;
    TxnWriter::open(&letters.config, &name, TIMEOUT).map_err(|e| Exit::failed(e.to_string()))
}

fn report(args: &ReplayArgs, letters: &Letters, counts: &Counts) -> Result<(), Exit> {
    let Counts { before, nowhere, gone, sent } = counts;
    let verb = if args.dry_run { "would send" } else { "sent" };
    let mut text = String::new();
    for (topic, records) in sent {
        text.push_str(&format!("{verb} {records} to {topic}\n"));
    }
    if sent.is_empty() {
        text.push_str("nothing to send\n");
    }
    for (count, what) in [
        (before, "had been sent before"),
        (nowhere, "came from no topic that the topology reads"),
        (gone, "are in their topics no more: `--as-refused` sends them as the node had them"),
    ] {
        if *count > 0 {
            text.push_str(&format!("{count} of {} {what}\n", letters.topic));
        }
    }
    super::super::print(&text);
    if *gone > 0 && !args.dry_run {
        return Err(Exit::failed(format!("{gone} dead letters were not sent")));
    }
    Ok(())
}
