//! A toy, to show what a new kind of sink is: this file (with its `mod` line) and one line in the list of kinds.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Answers, Connected, Lane, Sink, SinkError, SinkSettings, Surroundings};
use crate::model::{Problem, SinkRow};

/// Keeps values, and refuses what is empty.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToySink {
    /// Where to.
    pub shelf: String,
    #[serde(skip)]
    kept: Toy,
}

impl SinkSettings for ToySink {
    fn label(&self) -> String {
        self.shelf.clone()
    }

    fn connect<'a>(&'a self, _: Surroundings<'a>) -> BoxFuture<'a, Result<Arc<dyn Connected>, SinkError>> {
        Box::pin(async { Ok(Arc::new(self.kept.clone()) as Arc<dyn Connected>) })
    }

    fn check(&self) -> Vec<Problem> {
        if self.shelf.is_empty() {
            return vec![Problem::setting("shelf", "the shelf has no name", "write `shelf: top`")];
        }
        Vec::new()
    }
}

#[derive(Clone, Debug, Default)]
struct Toy(Arc<Mutex<Vec<String>>>);

impl Connected for Toy {
    fn lane(&self) -> Box<dyn Lane> {
        Box::new(self.clone())
    }
}

impl Sink for Toy {
    async fn deliver(&mut self, batch: &[SinkRow], out: &mut Answers) -> Result<(), SinkError> {
        let mut kept = self.0.lock().expect("no lane panicked");
        for (n, row) in batch.iter().enumerate() {
            if row.record.value.is_null() {
                out.refused(n, "nothing to keep");
            } else {
                kept.push(row.record.value.show().to_string());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Record, Timestamp, Value};
    use crate::sinks::{Answer, SinkConfig};
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
        let connected = sink.connect(Surroundings { env: &|_| None, kafka: None }).await.unwrap();
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
}
