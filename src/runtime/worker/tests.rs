//! A worker on its own thread, with one task whose first node gates.

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
use crate::topology::TopologyBuilder;

/// Lets records in as far as a group has committed; says of each how far that was when it came.
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

#[test]
fn what_another_group_commits_reaches_the_task_and_lets_in_what_waited() {
    let source = GenerateSource { rate: Rate { per_second: 1e6 }, keys: 1, count: Some(3) };
    let source = SourceConfig::Generate(source);
    let topology = TopologyBuilder::new("t")
        .source("in", source.clone())
        .operator("gate", ["in"], NodeConfig::Filter(FilterConfig(Expr::new("true", None))))
        .sink("out", ["gate"], SinkConfig::Blackhole(BlackholeConfig::default()))
        .build();
    let topology = Arc::new(topology.expect("a topology"));
    let metrics = Metrics::new(&topology).expect("metrics");
    let (inbox, mail) = inbox();
    let (came, seen) = channel();
    let (said, statuses) = channel();
    let restored = Arc::clone(&topology);
    let outside = Outside {
        sinks: BTreeMap::new(),
        calls: BTreeMap::new(),
        restore: Box::new(move |order: Order| {
            let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::default());
            let mut step = Step::default();
            let mut task = Task::open(
                &restored,
                order.handle.id,
                &backend,
                &TaskOptions::default(),
                SystemClock.now(),
                &mut step,
            )
            .unwrap();
            let gate = restored.node("gate").unwrap();
            task.stand_in(&restored, gate, Box::new(Gate { done: 0, came: came.clone() }));
            let result = Ok(Restored { task, backend, step, offsets: Vec::new(), firsts: Vec::new() });
            order.inbox.send(Message::Restored { handle: order.handle, result: Box::new(result) });
        }),
        transactional: BTreeMap::new(),
        changelogs: vec![None],
        checkpoint: Duration::from_secs(60),
        idle: crate::model::Millis::ZERO,
        delay: crate::model::Millis::ZERO,
        repartitions: BTreeMap::new(),
        horizons: Arc::default(),
        failed: Box::new(|id, message| panic!("{id:?}: {message}")),
        status: Box::new(move |_, status| said.send(status).unwrap_or_default()),
    };
    let committer =
        Committer::start("commit-test", CommitMode::Local, None, inbox.clone(), metrics.checkpoints())
            .unwrap();
    let id = TaskId { sub: 0, partition: 0 };
    let reader = source.open(Timestamp(0)).unwrap().expect("a reader");
    let mut worker = Worker::new(mail, inbox.clone(), outside, committer, metrics.worker());
    worker.add(id, vec![(0, TaskReader::source(reader, 0))]);
    let thread = std::thread::spawn(move || worker.run());

    let wait = Duration::from_secs(30);
    let until = |wanted| while statuses.recv_timeout(wait).expect("a status") != wanted {};
    until(TaskStatus::Running);
    let tell = |id: TaskId, next: i64| {
        let commits = Commits { group: "other".into(), topic: "in".into(), next };
        inbox.send(Message::Commits { id, commits });
    };
    tell(TaskId { sub: 0, partition: 1 }, 9);
    tell(id, 1);
    assert_eq!(seen.recv_timeout(wait), Ok((0, 1)));
    tell(id, 3);
    assert_eq!(seen.recv_timeout(wait), Ok((1, 3)), "not before");
    assert_eq!(seen.recv_timeout(wait), Ok((2, 3)));
    until(TaskStatus::Ended);
    let (done, drained) = sync_channel(1);
    inbox.send(Message::Drain(done));
    drained.recv_timeout(wait).expect("it leaves");
    thread.join().unwrap();
}
