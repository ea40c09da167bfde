//! A sink needs no more than its file and its line in the list of kinds.

use crate::clients::Clients;
use crate::model::{Record, SinkRow, Timestamp, Value};
use crate::sinks::{Answer, Answers, SinkConfig, Surroundings};
use crate::topology::NodeKind;
use crate::yaml::{Mode, load};
use serde_json::json;

const FILE: &str = "
name: t
sources: { in: { stdin: {} } }
sinks: { out: { from: in, toy: { shelf: top } } }
";

#[tokio::test]
async fn a_kind_is_one_file_and_one_line() {
    let topology = load("t.yaml", FILE, Mode::Lenient, &|_| None).expect("is well").topology;
    let sink = topology.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Sink(sink) => Some(sink),
        NodeKind::Source(_) | NodeKind::Operator(_) => None,
    });
    let sink = sink.expect("the sink");
    assert_eq!((sink.kind_name(), sink.label().as_str()), ("toy", "toy top"));
    let row = |value: Value| {
        let record = Record::new("a", value, Timestamp(1));
        SinkRow { reply_to: None, payload: sink.payload(&record).unwrap(), record }
    };
    let rows = [row(Value::from(json!(1))), row(Value::Null)];
    let clients = Clients::new(&topology.settings.connections);
    let around = Surroundings {
        topology: "t",
        node: "out",
        env: &|_| None,
        kafka: None,
        clients: &clients,
        limit: &|_| None,
    };
    let connected = sink.connect(around).await.unwrap();
    let mut out = Answers::new(2);
    connected.lane().deliver_batch(&rows, &mut out).await.unwrap();
    assert_eq!(out.into_vec(), [None, Some(Answer::Refused("nothing to keep".into()))]);
    let SinkConfig::Toy(toy) = &**sink else { panic!("is a toy") };
    assert_eq!(*toy.kept.0.lock().unwrap(), ["1"]);

    let wrong = load("t.yaml", &FILE.replace("top }", "\"\" }"), Mode::Lenient, &|_| None);
    let Err(wrong) = wrong else { panic!("a fault") };
    let wrong = wrong.to_string();
    assert!(wrong.contains("the shelf has no name"), "{wrong}");
}
