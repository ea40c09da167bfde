//! A worker on its own thread, with one task whose first node decides which records come in.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::time::Duration;

use super::*;
use crate::model::{Expr, Rate};
use crate::operators::{Admits, Commits, Cx, FilterConfig, NodeConfig, Operator, OperatorError};
use crate::runtime::checkpoint::CommitMode;
use crate::runtime::inbox::inbox;
use crate::runtime::metrics::Metrics;
use crate::runtime::task::TaskOptions;
use crate::sinks::{BlackholeConfig, SinkConfig};
use crate::sources::{GenerateSource, SourceConfig};
use crate::state::{Backend, MemoryBackend};
use crate::topology::{Topology, TopologyBuilder};

/// Lets records in as far as a group has committed; each shows how far that was when it came.
struct Gate {
    done: i64,
    came: Sender<(i64, i64)>,
}

impl Operator for Gate {
    fn on_record(&mut self, record: Record, _: &mut Cx<'_>) -> Result<(), OperatorError> {
        self.came.send((record.origin.offset, self.done)).unwrap();
        Ok(())
    }
    fn gates(&self) -> bool {
        true
    }
    fn admits(&self, record: &Record, _: Timestamp) -> Admits {
        if record.origin.offset < self.done { Admits::Yes } else { Admits::Wait }
    }
    fn on_commits(&mut self, commits: &Commits, _: &mut Cx<'_>) -> Result<(), OperatorError> {
        self.done = commits.next;
        Ok(())
    }
}

/// Made-up records through a node in the middle.
fn topology(source: &SourceConfig) -> Arc<Topology> {
    let topology = TopologyBuilder::new("t")
        .source("in", source.clone())
        .operator("gate", ["in"], NodeConfig::Filter(FilterConfig(Expr::new("true", None))))
        .sink("out", ["gate"], SinkConfig::Blackhole(BlackholeConfig::default()))
        .build();
    Arc::new(topology.expect("a topology"))
}

fn three_records() -> SourceConfig {
    SourceConfig::Generate(GenerateSource { rate: Rate { per_second: 1e6 }, keys: 1, count: Some(3) })
}

/// The only task, on the source's records.
const ID: TaskId = TaskId { sub: 0, partition: 0 };

fn readers(source: &SourceConfig) -> Vec<(usize, TaskReader)> {
    let reader = source.open(Timestamp(0)).unwrap().expect("a reader");
    vec![(0, TaskReader::source(reader, 0))]
}

/// A worker without sinks, calls and commits.
fn worker(
    topology: &Arc<Topology>,
    restore: impl Fn(Order) + Send + 'static,
    status: impl Fn(Option<TaskStatus>) + Send + 'static,
) -> (Worker, Inbox) {
    let metrics = Metrics::new(topology).expect("metrics");
    let (inbox, mail) = inbox();
    let outside = Outside {
        sinks: BTreeMap::new(),
        calls: BTreeMap::new(),
        restore: Box::new(restore),
        transactional: BTreeMap::new(),
        changelogs: vec![None],
        checkpoint: Duration::from_secs(60),
        idle: crate::model::Millis::ZERO,
        delay: crate::model::Millis::ZERO,
        repartitions: BTreeMap::new(),
        horizons: Arc::default(),
        failed: Box::new(|_, _| {}),
        blocked: Box::new(|_, _| {}),
        stopped: Box::new(|id, error| panic!("{id:?}: {error}")),
        status: Box::new(move |_, now| status(now)),
        topology: Arc::clone(topology),
    };
    let committer =
        Committer::start("commit-test", CommitMode::Local, None, inbox.clone(), metrics.checkpoints())
            .unwrap();
    (Worker::new(mail, inbox.clone(), outside, committer, metrics.worker()), inbox)
}

#[test]
fn what_another_group_commits_reaches_the_task_and_lets_in_what_waited() {
    let source = three_records();
    let topology = topology(&source);
    let (came, seen) = channel();
    let (said, statuses) = channel();
    let restored = Arc::clone(&topology);
    let restore = move |order: Order| {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
        let mut step = Step::default();
        let (id, options) = (order.handle.id, TaskOptions::default());
        let mut task = Task::open(&restored, id, &backend, &options, SystemClock.now(), &mut step).unwrap();
        let gate = restored.node("gate").unwrap();
        task.stand_in(&restored, gate, Box::new(Gate { done: 0, came: came.clone() }));
        let result = Ok(Restored { task, backend, step, offsets: Vec::new(), firsts: Vec::new() });
        order.inbox.send(Message::Restored { handle: order.handle, result: Box::new(result) });
    };
    let (mut worker, inbox) = worker(&topology, restore, move |now| said.send(now).unwrap_or_default());
    worker.add(ID, readers(&source));
    let thread = std::thread::spawn(move || worker.run());

    let wait = Duration::from_secs(30);
    let until = |wanted| while statuses.recv_timeout(wait).expect("a status") != wanted {};
    until(Some(TaskStatus::Running));
    let tell = |id: TaskId, next: i64| {
        let commits = Commits { group: "other".into(), topic: "in".into(), next };
        inbox.send(Message::Commits { id, commits });
    };
    tell(TaskId { sub: 0, partition: 1 }, 9);
    tell(ID, 1);
    assert_eq!(seen.recv_timeout(wait), Ok((0, 1)));
    tell(ID, 3);
    assert_eq!(seen.recv_timeout(wait), Ok((1, 3)), "not before");
    assert_eq!(seen.recv_timeout(wait), Ok((2, 3)));
    until(Some(TaskStatus::Ended));
    let (done, drained) = sync_channel(1);
    inbox.send(Message::Drain(done));
    drained.recv_timeout(wait).expect("it leaves");
    until(None);
    thread.join().unwrap();
}

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_calls_a_task_by_its_name() {
    let source = three_records();
    let topology = topology(&source);
    let log = Log::default();
    let written = log.clone();
    let logs = tracing_subscriber::fmt().with_ansi(false).with_writer(move || written.clone()).finish();
    tracing::subscriber::with_default(logs, || {
        let fail = |order: Order| {
            assert_eq!(order.name, "in-0");
            let result = Box::new(Err("no disk".to_owned().into()));
            order.inbox.send(Message::Restored { handle: order.handle, result });
        };
        let (mut worker, _) = worker(&topology, fail, |_| {});
        worker.add(ID, readers(&source));
        worker.turn();
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).expect("is text");
    assert!(text.contains("task cannot be restored task=\"in-0\" error=\"no disk\""), "{text}");
}
