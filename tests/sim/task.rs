//! The task from outside: dead letters that belong to a transaction although the task was not running, or was sealed.

use std::sync::Arc;

use bytes::Bytes;
use slackwater::model::{Origin, Record, Reply, Timestamp, Value};
use slackwater::runtime::{Input, Step, Task, TaskId, TaskOptions};
use slackwater::state::{Backend, MemoryBackend};
use slackwater::topology::Topology;
use slackwater::yaml::{Mode, load};

fn topology(column: &str) -> Topology {
    let text = format!(
        "name: t\nkafka: {{ brokers: \"none:1\" }}\nguarantee: exactly_once\nerrors: {{ dead_letter: {{ topic: dead }} }}\n\
         sources: {{ in: {{ kafka: {{ topic: in }} }} }}\n\
         sinks:\n  \
         rows: {{ from: in, spanner: {{ database: projects/p/instances/i/databases/d, table: T, columns: {{ id: key, n: '{column}' }} }} }}\n  \
         done: {{ from: rows, kafka: {{ topic: done }} }}\n"
    );
    load("t.yaml", &text, Mode::Required, &|_| None).map_err(|r| r.render(false)).expect("loads").topology
}

fn record() -> Record {
    let origin = Origin { topic: 0, partition: 0, offset: 0 };
    Record { origin, ..Record::new("k", Value::Bytes(Bytes::from("{\"n\":1}")), Timestamp(1)) }
}

const ID: TaskId = TaskId { sub: 0, partition: 0 };
const NOW: Timestamp = Timestamp(1);

fn dead_letter(topology: &Topology) -> usize {
    topology.dead_letter().expect("has one")
}

/// Dead letters go into the transaction, up to so many bytes.
fn in_transaction(topology: &Topology, bytes_max: usize) -> TaskOptions {
    TaskOptions { transactional: [(dead_letter(topology), bytes_max)].into(), ..TaskOptions::default() }
}

/// A task that has read one record, sealed, with the rows in the backend.
fn sealed(topology: &Topology, backend: &Arc<dyn Backend>) -> (Task, Step) {
    let mut step = Step::default();
    let mut task =
        Task::open(topology, ID, backend, &in_transaction(topology, 1000), NOW, &mut step).expect("opens");
    task.step(Input::Records { topic: 0, records: vec![record()] }, NOW, &mut step).expect("steps");
    let sealed = task.seal(NOW).expect("seals").expect("an epoch");
    backend.write(&sealed.rows).expect("writes");
    (task, step)
}

#[test]
fn what_is_refused_while_a_task_opens_belongs_to_its_first_transaction() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
    sealed(&topology(".n"), &backend);
    // The delivery is made again, with an expression that fails on it.
    let after = topology("string!(.n)");
    let mut step = Step::default();
    let task = Task::open(&after, ID, &backend, &TaskOptions::default(), NOW, &mut step).expect("opens");
    assert_eq!((step.deliveries.len(), task.outstanding()), (1, 1), "to a driver, were nothing said");
    let mut step = Step::default();
    let mut task =
        Task::open(&after, ID, &backend, &in_transaction(&after, 1000), NOW, &mut step).expect("opens");
    assert_eq!((step.deliveries.len(), task.outstanding()), (0, 0));
    let sealed = task.seal(NOW).expect("seals").expect("an epoch");
    let nodes: Vec<usize> = sealed.outputs.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes, [dead_letter(&after)]);
    assert!(task.is_settled());
}

#[test]
fn a_dead_letter_that_no_transaction_takes_stops_the_task_that_opens() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
    sealed(&topology(".n"), &backend);
    let mut step = Step::default();
    let after = topology("string!(.n)");
    let options = in_transaction(&after, 10);
    let error = Task::open(&after, ID, &backend, &options, NOW, &mut step).err();
    let error = error.expect("is too large");
    assert!(error.to_string().contains("the topic takes messages up to 10 bytes"), "{error}");
}

#[test]
fn a_row_refused_after_its_epoch_was_sealed_has_its_dead_letter_in_that_epoch() {
    let text = "name: t\nkafka: { brokers: \"none:1\" }\nguarantee: exactly_once\nerrors: { dead_letter: { topic: dead } }\n\
                sources: { in: { kafka: { topic: in } } }\nsinks: { out: { from: in, blackhole: {} } }\n";
    let topology =
        load("t.yaml", text, Mode::Required, &|_| None).map_err(|r| r.render(false)).expect("loads").topology;
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
    let (mut task, mut step) = sealed(&topology, &backend);
    let delivery = step.deliveries.pop().expect("a delivery");
    assert!(!task.is_settled());
    let (epoch, node, record) = (delivery.epoch, delivery.node, delivery.row.record);
    task.step(Input::Refused { epoch, node, record, message: "no".into() }, NOW, &mut step).expect("steps");
    assert!(task.is_settled() && step.is_empty(), "{step:?}");
    let late = task.take_late_outputs();
    let nodes: Vec<usize> = late.iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes, [dead_letter(&topology)]);
    assert!(task.take_late_outputs().is_empty());
    task.applied();
    // Of the open epoch as before.
    let next = Record { origin: Origin { topic: 0, partition: 0, offset: 1 }, ..late[0].1.record.clone() };
    task.step(Input::Records { topic: 0, records: vec![next] }, NOW, &mut step).expect("steps");
    let delivery = step.deliveries.pop().expect("a delivery");
    let (epoch, node, record) = (delivery.epoch, delivery.node, delivery.row.record);
    task.step(Input::Refused { epoch, node, record, message: "no".into() }, NOW, &mut step).expect("steps");
    assert!(task.take_late_outputs().is_empty());
    let sealed = task.seal(NOW).expect("seals").expect("an epoch");
    assert_eq!(sealed.outputs.len(), 1);
}

/// The deliveries of two records of different keys, 10 and 20 s, are answered the other way round, then time passes.
/// Nothing of what is below is late, and what a record brings is never behind the clock it meets.
#[test]
fn rows_that_become_durable_out_of_order_are_not_late_below_their_sink() {
    let window = "aggregate: { window: { tumbling: 5s, grace: 0s }, emit: final, count: {} }";
    let check = |between: &str, from: &str| {
        let text = format!(
            "name: t\nkafka: {{ brokers: \"none:1\" }}\ntime: {{ clock: stream }}\n\
             sources: {{ in: {{ kafka: {{ topic: in }} }} }}\n\
             operators: {{ {between} counts: {{ from: {from}, {window} }} }}\n\
             sinks:\n  rows: {{ from: in, blackhole: {{}} }}\n  out: {{ from: counts, blackhole: {{}} }}\n"
        );
        let topology = load("t.yaml", &text, Mode::Required, &|_| None)
            .map_err(|r| r.render(false))
            .expect("loads")
            .topology;
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let now = Timestamp(1_000_000);
        let mut step = Step::default();
        let mut task =
            Task::open(&topology, ID, &backend, &TaskOptions::default(), now, &mut step).expect("opens");
        let record = |key: &'static str, ts: i64, offset: i64| Record {
            origin: Origin { topic: 0, partition: 0, offset },
            ..Record::new(key, Value::Bytes(Bytes::from("{\"n\":1}")), Timestamp(ts))
        };
        let records = vec![record("a", 10_000, 0), record("b", 20_000, 1), record("c", 30_000, 2)];
        task.step(Input::Records { topic: 0, records }, now, &mut step).expect("steps");
        let rows = topology.node("rows").expect("the sink");
        let asked: Vec<u64> =
            step.deliveries.drain(..).filter_map(|d| d.row.reply_to.filter(|_| d.node == rows)).collect();
        let mut counted = Vec::new();
        for at in [2, 1, 0] {
            let reply = Input::Reply { node: rows, call: asked[at], reply: Reply::Delivered(None) };
            task.step(reply, now, &mut step).expect("steps");
            counted.extend(step.deliveries.drain(..).map(|d| (d.row.record.ts.0, d.row.record.value.show())));
        }
        assert_eq!(step.drops, [], "{from}: nothing is late");
        let closed: Vec<i64> = counted.iter().map(|(ts, _)| *ts).collect();
        assert_eq!(closed, [10_000, 20_000], "{from}: the windows before the last are counted: {counted:?}");
    };
    check("", "rows");
    // Held through what only passes records on, too.
    check("some: { from: rows, filter: '.n == 1' },", "some");
}
