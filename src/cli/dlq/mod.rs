//! `dlq`: what is in a topology's dead-letter topic, and its records back into the topics that they came from.
//!
//! All three commands read the topic from its start to its end and join no group. What was sent again is remembered in a
//! topic beside it (`replay`).

mod pick;
mod replay;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use sha2::{Digest, Sha256};

use self::pick::Pick;
use super::connect::{failed, open_admin};
use super::table::Table;
use super::{Exit, Format, UNAVAILABLE, load_file};
use crate::kafka::{Admin, Follower, KafkaConfig, TopicPartition};
use crate::model::{Json, Record, Scope, Timestamp};
use crate::runtime::{DeadLetter, ReadFrom};
use crate::topology::Topology;
use crate::yaml::{Mode, Registry};

/// How long nothing may come before a topic's end.
const STALLED: Duration = Duration::from_secs(30);
/// Records that are read at a time.
const READ: usize = 1000;

/// Arguments of `dlq`.
#[derive(Debug, Args)]
pub(super) struct DlqArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Count the dead letters by reason and node.
    Ls(ListArgs),
    /// Print dead letters, one JSON object a line.
    Show(ShowArgs),
    /// Send the records again, to the topics that they came from: each once, however often this is run.
    Replay(replay::ReplayArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Topology file.
    topology: PathBuf,
    #[command(flatten)]
    pick: Pick,
    /// How they are printed.
    #[arg(long, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Topology file.
    topology: PathBuf,
    #[command(flatten)]
    pick: Pick,
}

pub(super) fn dlq(registry: &Registry, args: &DlqArgs) -> Result<(), Exit> {
    match &args.what {
        What::Ls(args) => ls(registry, args),
        What::Show(args) => show(registry, args),
        What::Replay(args) => replay::replay(registry, args),
    }
}

/// A topology's dead-letter topic.
struct Letters {
    topology: Topology,
    config: KafkaConfig,
    admin: Admin,
    topic: String,
}

/// A dead letter and its place.
struct Found {
    partition: i32,
    offset: i64,
    /// Of all that the record holds: a place may be another record's, where the topic was made anew.
    print: String,
    letter: DeadLetter,
}

impl Letters {
    fn open(registry: &Registry, file: &std::path::Path) -> Result<Letters, Exit> {
        let topology = load_file(registry, file, Mode::Lenient)?.topology;
        let Some(topic) = topology.dead_letter_topic().map(str::to_owned) else {
            let message = format!(
                "`{}` has no dead letter: add `errors: {{ dead_letter: {{ topic: {}.dlq }} }}`",
                topology.name, topology.name
            );
            return Err(Exit::failed(message));
        };
        let admin = open_admin(&topology)?;
        // `open_admin` has refused a topology without Kafka.
        let config = topology.settings.kafka.clone().unwrap_or_else(|| KafkaConfig::new(""));
        Ok(Letters { topology, config, admin, topic })
    }

    /// Calls `each` for every dead letter, by partition in order; how many other records are in the topic.
    fn read(&self, mut each: impl FnMut(Found)) -> Result<u64, Exit> {
        let mut others = 0;
        self.read_topic(&self.topic, |record| match DeadLetter::read(&record) {
            Some(letter) => each(Found {
                partition: record.origin.partition,
                offset: record.origin.offset,
                print: print(&record),
                letter,
            }),
            None => others += 1,
        })?;
        Ok(others)
    }

    /// Calls `each` for every record of a topic; of one that does not exist for none.
    fn read_topic(&self, topic: &str, each: impl FnMut(Record)) -> Result<(), Exit> {
        let found = self.admin.topics(&[topic]).map_err(failed)?;
        let count = found.first().and_then(|(_, count)| *count).unwrap_or(0);
        let partitions: Vec<TopicPartition> = (0..count).map(|p| TopicPartition::new(topic, p)).collect();
        let starts = self.admin.start_offsets(&partitions).map_err(failed)?;
        let ends = self.admin.end_offsets(&partitions).map_err(failed)?;
        let ranges = partitions.into_iter().zip(starts.into_iter().zip(ends));
        self.read_ranges(&ranges.map(|(at, (start, end))| (at, start, end)).collect::<Vec<_>>(), each)
    }

    /// Calls `each` for every record from the first offset of each partition up to before the second.
    fn read_ranges(
        &self,
        ranges: &[(TopicPartition, i64, i64)],
        mut each: impl FnMut(Record),
    ) -> Result<(), Exit> {
        let ranges: Vec<_> = ranges.iter().filter(|(_, start, end)| start < end).collect();
        if ranges.is_empty() {
            return Ok(());
        }
        let away = |message: String| Exit { code: UNAVAILABLE, message: Some(format!("error: {message}")) };
        let from: Vec<_> = ranges.iter().map(|(at, start, _)| (at.clone(), 0, *start)).collect();
        let follower = Follower::open(&self.config, &self.topology.name, &from);
        let mut follower = follower.map_err(|e| Exit::failed(e.to_string()))?;
        let mut records = Vec::new();
        let mut moved = Instant::now();
        while !follower.positions().zip(&ranges).all(|((_, next), (_, _, end))| next >= *end) {
            let wait = Duration::from_millis(100);
            let before: i64 = follower.positions().map(|(_, next)| next).sum();
            follower.poll(READ, wait, &mut records).map_err(|e| Exit::failed(e.to_string()))?;
            for record in records.drain(..) {
                let range = ranges.iter().find(|(at, _, _)| at.partition == record.origin.partition);
                if range.is_some_and(|(_, _, end)| record.origin.offset < *end) {
                    each(record);
                }
            }
            if follower.positions().map(|(_, next)| next).sum::<i64>() > before {
                moved = Instant::now();
            } else if moved.elapsed() > STALLED {
                let topic = ranges.first().map_or("", |(at, _, _)| &*at.topic);
                return Err(away(format!(
                    "`{topic}` has more, and nothing has come for {} s",
                    STALLED.as_secs()
                )));
            }
        }
        Ok(())
    }
}

/// A hash of key, value, headers and time.
fn print(record: &Record) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: Option<&[u8]>| {
        // With its length, so that no two lists of parts run together alike.
        hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        hash.update(part.unwrap_or_default());
    };
    add(record.key.as_deref());
    add(record.value.bytes().as_deref());
    add(Some(&record.ts.0.to_be_bytes()));
    for (name, value) in record.headers.iter() {
        add(Some(name.as_bytes()));
        add(value.map(|value| &value[..]));
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What one reason has come to at one node.
#[derive(Default)]
struct Group {
    records: u64,
    replayed: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
}

fn ls(registry: &Registry, args: &ListArgs) -> Result<(), Exit> {
    let letters = Letters::open(registry, &args.topology)?;
    let replayed = replay::replayed(&letters)?;
    let mut groups: BTreeMap<(&'static str, String), Group> = BTreeMap::new();
    let others = letters.read(|found| {
        if !args.pick.takes(&found.letter) {
            return;
        }
        let group = groups.entry((found.letter.reason.name(), found.letter.node.clone())).or_default();
        let at = found.letter.record.ts;
        group.records += 1;
        group.replayed += u64::from(replayed.holds(&found));
        group.first = Some(group.first.map_or(at, |first| first.min(at)));
        group.last = Some(group.last.map_or(at, |last| last.max(at)));
    })?;
    match args.format {
        Format::Text => super::print(&text(&letters.topic, &groups, others)),
        Format::Json => super::print(&format!("{}\n", json(&groups))),
    }
    Ok(())
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or("-".into(), Timestamp::rfc3339)
}

fn text(topic: &str, groups: &BTreeMap<(&str, String), Group>, others: u64) -> String {
    let mut table = Table::new(["reason", "node", "records", "replayed", "first", "last"]);
    let mut total = 0;
    for ((reason, node), group) in groups {
        let Group { records, replayed, first, last } = group;
        total += records;
        let cells = [(*reason).to_owned(), node.clone(), records.to_string(), replayed.to_string()];
        let [reason, node, records, replayed] = cells;
        table.row([reason, node, records, replayed, time(*first), time(*last)]);
    }
    let others = if others == 0 { String::new() } else { format!(", and {others} that are no dead letters") };
    format!("topic {topic}\n{table}total {total}{others}\n")
}

fn json(groups: &BTreeMap<(&str, String), Group>) -> Json {
    let rows = groups.iter().map(|((reason, node), group)| {
        serde_json::json!({
            "reason": reason,
            "node": node,
            "records": group.records,
            "replayed": group.replayed,
            "first": group.first.map(Timestamp::rfc3339),
            "last": group.last.map(Timestamp::rfc3339),
        })
    });
    Json::Array(rows.collect())
}

fn show(registry: &Registry, args: &ShowArgs) -> Result<(), Exit> {
    let letters = Letters::open(registry, &args.topology)?;
    let replayed = replay::replayed(&letters)?;
    letters.read(|found| {
        if args.pick.takes(&found.letter) {
            let shown = shown(&found, replayed.holds(&found));
            super::print(&format!("{shown}\n"));
        }
    })?;
    Ok(())
}

fn shown(found: &Found, replayed: bool) -> Json {
    let DeadLetter { reason, error, node, attempts, from, record } = &found.letter;
    let from = from.as_ref().map(|ReadFrom { topic, partition, offset }| {
        serde_json::json!({ "topic": topic, "partition": partition, "offset": offset })
    });
    let header = |(name, value): (&str, Option<&bytes::Bytes>)| {
        (name.to_owned(), value.map(|value| String::from_utf8_lossy(value).into_owned()).into())
    };
    let headers: serde_json::Map<String, Json> = record.headers.iter().map(header).collect();
    serde_json::json!({
        "partition": found.partition,
        "offset": found.offset,
        "reason": reason.name(),
        "node": node,
        "error": error,
        "attempts": attempts,
        "from": from,
        "replayed": replayed,
        "ts": record.ts.rfc3339(),
        "key": Scope::of(record).key_json(),
        "value": record.value.show(),
        "headers": headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Headers, Reason, Value};

    #[test]
    fn letters_are_counted_by_reason_and_node() {
        let group = |records, replayed| Group {
            records,
            replayed,
            first: Some(Timestamp(0)),
            last: Some(Timestamp(1500)),
        };
        let groups = BTreeMap::from([
            (("expression", "sized".to_owned()), group(12, 0)),
            (("not_json", "orders".to_owned()), group(3, 2)),
        ]);
        let expected = "\
topic t.dlq
reason      node    records  replayed  first                 last
expression  sized   12       0         1970-01-01T00:00:00Z  1970-01-01T00:00:01.5Z
not_json    orders  3        2         1970-01-01T00:00:00Z  1970-01-01T00:00:01.5Z
total 15, and 1 that are no dead letters
";
        assert_eq!(text("t.dlq", &groups, 1), expected);
        assert_eq!(json(&groups)[1]["replayed"], 2);
    }

    #[test]
    fn another_record_has_another_print() {
        let record = |key: &str, value: &str| Record {
            headers: Headers::default().with("h", "x"),
            ..Record::new(key.to_owned(), Value::Bytes(value.to_owned().into()), Timestamp(1))
        };
        let first = print(&record("a", "bc"));
        assert_eq!(first, print(&record("a", "bc")));
        for other in [
            record("ab", "c"),
            Record { ts: Timestamp(2), ..record("a", "bc") },
            Record { key: None, ..record("", "bc") },
        ] {
            assert_ne!(first, print(&other), "{other:?}");
        }
    }

    #[test]
    fn a_letter_shows_with_where_it_came_from() {
        let record = Record::new("k", Value::Bytes("{".into()), Timestamp(0));
        let from = Some(ReadFrom { topic: "in".into(), partition: 2, offset: 7 });
        let letter = DeadLetter {
            reason: Reason::NotJson,
            error: "no JSON".into(),
            node: "n".into(),
            attempts: 1,
            from,
            record,
        };
        let shown = shown(&Found { partition: 0, offset: 5, print: String::new(), letter }, true);
        assert_eq!(shown["from"], serde_json::json!({"topic": "in", "partition": 2, "offset": 7}));
        assert_eq!((&shown["value"], &shown["replayed"]), (&Json::from("{"), &Json::from(true)));
    }
}
