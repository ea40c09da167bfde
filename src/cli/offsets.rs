//! `offsets`: what the topology's group has committed, where its topics end, and the difference.

use std::path::PathBuf;

use clap::Args;

use super::connect::{TopicLag, lags, open_admin};
use super::table::Table;
use super::{Exit, Format, load_file};
use crate::kafka::GroupOffset;
use crate::model::Json;
use crate::yaml::{Mode, Registry};

/// Arguments of `offsets`.
#[derive(Debug, Args)]
pub(super) struct OffsetsArgs {
    /// Topology file.
    topology: PathBuf,
    /// How they are printed.
    #[arg(long, default_value = "text")]
    format: Format,
}

pub(super) fn offsets(registry: &Registry, args: &OffsetsArgs) -> Result<(), Exit> {
    let loaded = load_file(registry, &args.topology, Mode::Lenient)?;
    let topology = &loaded.topology;
    let admin = open_admin(topology)?;
    let topics = lags(&admin, topology)?;
    match args.format {
        Format::Text => print!("{}", text(&topology.name, &topics)),
        Format::Json => println!("{}", json(&topics)),
    }
    let missing: Vec<&str> =
        topics.iter().filter(|t| !t.exists && !t.internal).map(|t| t.topic.as_str()).collect();
    if !missing.is_empty() {
        return Err(Exit::failed(format!("the topic `{}` does not exist", missing.join("`, `"))));
    }
    Ok(())
}

fn text(group: &str, topics: &[TopicLag]) -> String {
    let mut table = Table::new(["topic", "partition", "committed", "end", "lag"]);
    let mut total = 0;
    for topic in topics {
        if !topic.exists {
            let why = if topic.internal { "made at the first run" } else { "does not exist" };
            table.row([topic.topic.clone(), why.into(), String::new(), String::new(), String::new()]);
        }
        for p in &topic.partitions {
            let committed = match p.committed {
                GroupOffset::At(next) => next.to_string(),
                GroupOffset::None => "-".into(),
                GroupOffset::Pending => "in a transaction".into(),
            };
            total += p.lag().unwrap_or(0);
            let lag = p.lag().map_or("-".into(), |n| n.to_string());
            let cells = [topic.topic.clone(), p.partition.to_string(), committed, p.end.to_string(), lag];
            table.row(cells);
        }
    }
    format!("group {group}\n{table}total lag {total}\n")
}

fn json(topics: &[TopicLag]) -> Json {
    let rows = topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|p| {
            let committed = match p.committed {
                GroupOffset::At(next) => Some(next),
                GroupOffset::None | GroupOffset::Pending => None,
            };
            serde_json::json!({
                "topic": topic.topic,
                "internal": topic.internal,
                "partition": p.partition,
                "start": p.start,
                "committed": committed,
                "end": p.end,
                "lag": p.lag(),
            })
        })
    });
    Json::Array(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::super::connect::PartitionLag;
    use super::*;

    #[test]
    fn a_partition_without_a_commit_lags_by_all_that_is_there() {
        let at = |partition, committed| PartitionLag { partition, start: 3, committed, end: 10 };
        let topics = [
            TopicLag {
                topic: "orders".into(),
                internal: false,
                exists: true,
                partitions: vec![
                    at(0, GroupOffset::At(8)),
                    at(1, GroupOffset::None),
                    at(2, GroupOffset::Pending),
                    // Deleted in the meantime: only retained records can be read.
                    at(3, GroupOffset::At(1)),
                ],
            },
            TopicLag { topic: "t-k-repartition".into(), internal: true, exists: false, partitions: vec![] },
        ];
        let lines = text("t", &topics);
        let expected = "\
group t
topic            partition              committed         end  lag
orders           0                      8                 10   2
orders           1                      -                 10   7
orders           2                      in a transaction  10   -
orders           3                      1                 10   7
t-k-repartition  made at the first run
total lag 16
";
        assert_eq!(lines, expected);
        let rows = json(&topics);
        assert_eq!((rows[0]["lag"].as_i64(), rows[1]["committed"].is_null()), (Some(2), true));
    }
}
