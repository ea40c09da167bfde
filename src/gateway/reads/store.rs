//! A key of a state store, whichever instance has it.
//!
//! There are three answers, and the third is never taken for the second: the rows; none, said by the tasks that would have
//! them; not known now (a restore, a rebalance, an instance that is gone).
//!
//! A key is in the partition that our partitioner says, and is asked of that partition's owner. Records that others wrote
//! may be in another partition: so where the owner has nothing, all partitions are asked, and it is none only when all of
//! them say so.
//!
//! A question goes to another instance at most once; that instance never passes it on. Where the answer shows that the
//! partition has moved (the task is not there, is behind the record asked for, or the instance is gone), the group is asked
//! who has it now, and that one is asked instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::peer::{Question, from_here, from_there};
use crate::clients::http::Peers;
use crate::gateway::owners::{Map, Owners};
use crate::operators::shared::describe::Described;
use crate::runtime::{AskError, EngineHandle, Position, Said};

/// How long a read may take in all.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long another instance may take to answer.
const PEER: Duration = Duration::from_millis(1500);
/// How long a new map of owners is waited for.
const MAP: Duration = Duration::from_secs(1);
/// Reads under way at a time; more are refused.
const READS_MAX: usize = 2048;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Looked {
    /// Its rows, and whether there are more.
    Rows(Vec<Described>, bool),
    /// It has none: said by the tasks that would have them.
    Absent,
    /// It cannot be known now, and why.
    Unknown(String),
    /// It cannot be asked so.
    Refused(String),
}

/// Reads the stores of a running topology, from every instance.
#[derive(Clone)]
pub struct Stores {
    engine: EngineHandle,
    /// `None` without a group: all tasks are here.
    owners: Option<Owners>,
    peers: Peers,
    /// What other instances' admin servers want to see.
    token: Option<Arc<str>>,
    room: Arc<Semaphore>,
}

/// Who was asked for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    Here,
    At(String),
}

/// What is known of each partition that was asked for.
#[derive(Default)]
struct Gathered {
    rows: Vec<Described>,
    cut: bool,
    absent: BTreeSet<i32>,
    /// Who may have lost the partition since, and what is said of it.
    moved: BTreeMap<i32, (Who, String)>,
    unknown: BTreeMap<i32, String>,
}

impl Stores {
    /// The stores of an engine, where an endpoint of its topology reads state.
    ///
    /// # Errors
    /// A client cannot be made.
    pub fn needed(engine: &EngineHandle) -> Result<Option<Stores>, String> {
        engine.topology().reads_state().then(|| Stores::new(engine, None)).transpose()
    }

    /// The stores of an engine. Other instances are looked for where its topology has a group.
    ///
    /// # Errors
    /// A client cannot be made.
    pub fn new(engine: &EngineHandle, token: Option<&str>) -> Result<Stores, String> {
        let topology = engine.topology();
        let owners = match &topology.settings.kafka {
            Some(kafka) if !topology.source_topics().is_empty() => {
                Some(Owners::watch(kafka, &topology.name).map_err(|e| e.to_string())?)
            }
            _ => None,
        };
        Ok(Stores {
            engine: engine.clone(),
            owners,
            peers: Peers::new().map_err(|e| e.to_string())?,
            token: token.map(Into::into),
            room: Arc::new(Semaphore::new(READS_MAX)),
        })
    }

    /// The rows of a key, from state that has taken in the record `at`. `anywhere`: where its own partition has nothing, it
    /// may be in another.
    pub async fn look(&self, node: &str, key: &str, at: Option<&Position>, anywhere: bool) -> Looked {
        let Ok(_room) = self.room.try_acquire() else {
            return Looked::Unknown(format!("{READS_MAX} reads are under way already"));
        };
        match tokio::time::timeout(DEADLINE, self.ask(node, key, at, anywhere)).await {
            Ok(Ok(looked)) => looked,
            Ok(Err(e @ AskError::NoPosition { .. })) => Looked::Refused(e.to_string()),
            Ok(Err(e)) => Looked::Unknown(e.to_string()),
            Err(_) => Looked::Unknown(format!("no answer within {} s", DEADLINE.as_secs())),
        }
    }

    async fn ask(
        &self,
        node: &str,
        key: &str,
        at: Option<&Position>,
        anywhere: bool,
    ) -> Result<Looked, AskError> {
        let store = self.engine.store(node)?;
        if let Some(at) = at.filter(|at| at.partition >= store.partitions) {
            let message =
                format!("`{}` has partitions 0 to {}, not {}", at.topic, store.partitions - 1, at.partition);
            return Ok(Looked::Refused(message));
        }
        let own = store.partition_of(key.as_bytes());
        // The record asked for is most likely the key's own.
        let first = at.map_or(own, |at| at.partition);
        let topics = &store.readable.topics;
        let question = |partitions: Vec<i32>, at: Option<&Position>| Question {
            topology: self.engine.topology().name.clone(),
            node: node.to_owned(),
            key: key.to_owned(),
            partitions,
            at: at.cloned(),
        };
        let one = self.gather(&question(vec![first], at), topics).await?;
        if let Some(looked) = one.looked() {
            return Ok(looked);
        }
        // Its task has gone past the record and has nothing.
        let rest: Vec<i32> = match anywhere && store.readable.foreign {
            true => (0..store.partitions).filter(|partition| *partition != first).collect(),
            false if first == own => return Ok(Looked::Absent),
            false => vec![own],
        };
        let all = self.gather(&question(rest, None), topics).await?;
        Ok(all.looked().unwrap_or(Looked::Absent))
    }

    /// Asks for each partition this instance, then the one that has it, and where that has it no more the one that has it
    /// by a new map.
    async fn gather(&self, question: &Question, topics: &[String]) -> Result<Gathered, AskError> {
        let mut gathered = Gathered::default();
        let asked = Instant::now();
        let mut elsewhere = BTreeMap::new();
        for (partition, said) in from_here(&self.engine, question).await? {
            if said == Said::NotHere {
                elsewhere.insert(partition, Who::Here);
            } else {
                gathered.take(partition, Who::Here, said);
            }
        }
        let Some(owners) = &self.owners else {
            gathered.unknown.extend(elsewhere.into_keys().map(|p| (p, "its task is not here".to_owned())));
            return Ok(gathered);
        };
        if !elsewhere.is_empty() {
            self.ask_owners(&mut gathered, question, elsewhere, topics, &owners.now()).await;
        }
        let moved = std::mem::take(&mut gathered.moved);
        // With rows in hand the rest does not matter.
        if moved.is_empty() || !gathered.rows.is_empty() {
            return Ok(gathered);
        }
        let Some(map) = owners.since(asked, Instant::now() + MAP).await else {
            let why = "the group is being rebalanced, or does not answer";
            gathered.unknown.extend(moved.into_iter().map(|(p, (_, what))| (p, format!("{what}; {why}"))));
            return Ok(gathered);
        };
        let mut again = BTreeMap::new();
        for (partition, (who, what)) in moved {
            match map.owner(topics, partition) {
                Some(address) if who != Who::At(address.to_owned()) => drop(again.insert(partition, who)),
                Some(_) => drop(gathered.unknown.insert(partition, what)),
                None => drop(gathered.unknown.insert(partition, format!("{what}; {}", map.why_none()))),
            }
        }
        if !again.is_empty() {
            self.ask_owners(&mut gathered, question, again, topics, &map).await;
        }
        let left = std::mem::take(&mut gathered.moved);
        gathered.unknown.extend(left.into_iter().map(|(p, (_, what))| (p, what)));
        Ok(gathered)
    }

    /// Asks the instances that have these partitions, by a map.
    async fn ask_owners(
        &self,
        gathered: &mut Gathered,
        question: &Question,
        partitions: BTreeMap<i32, Who>,
        topics: &[String],
        map: &Map,
    ) {
        let mut by_address: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (partition, who) in partitions {
            match map.owner(topics, partition) {
                Some(address) => by_address.entry(address).or_default().push(partition),
                None => drop(gathered.moved.insert(partition, (who, map.why_none()))),
            }
        }
        let asks = by_address.into_iter().map(|(address, partitions)| async move {
            let question = Question { partitions, ..question.clone() };
            let answers = from_there(&self.peers, (address, self.token.as_deref()), &question, PEER).await;
            (address, question.partitions, answers)
        });
        for (address, partitions, answers) in join_all(asks).await {
            let who = Who::At(address.to_owned());
            match answers {
                Ok(mut answers) => {
                    for partition in partitions {
                        match answers.remove(&partition).unwrap_or(Said::NotHere) {
                            Said::NotHere if map.is_twice(address) => {
                                let what = format!("several instances name the address {address}");
                                gathered.moved.insert(partition, (who.clone(), what));
                            }
                            said => gathered.take(partition, who.clone(), said),
                        }
                    }
                }
                Err(e) => {
                    let twice = match map.is_twice(address) {
                        true => "; several instances name the same address",
                        false => "",
                    };
                    let what = format!("the instance at {address} does not answer: {e}{twice}");
                    gathered.moved.extend(partitions.into_iter().map(|p| (p, (who.clone(), what.clone()))));
                }
            }
        }
    }
}

impl Gathered {
    fn take(&mut self, partition: i32, who: Who, said: Said) {
        let place = match &who {
            Who::At(address) => format!(" at {address}"),
            Who::Here => String::new(),
        };
        match said {
            Said::Rows { rows, cut } => {
                self.rows.extend(rows);
                self.cut |= cut;
            }
            Said::Absent => drop(self.absent.insert(partition)),
            Said::Behind { next } => {
                let what = format!("its task{place} is at offset {next}, not past the record asked for");
                self.moved.insert(partition, (who, what));
            }
            Said::NotHere => {
                drop(self.moved.insert(partition, (who, format!("its task is not{place} any more"))))
            }
            Said::Restoring => {
                self.unknown.insert(partition, format!("its state is being restored{place}"));
            }
            Said::Failed { why } => drop(self.unknown.insert(partition, format!("{why}{place}"))),
        }
    }

    /// What is known now; `None`: all that were asked have nothing.
    fn looked(self) -> Option<Looked> {
        if !self.rows.is_empty() || self.cut {
            return Some(Looked::Rows(self.rows, self.cut));
        }
        let (partition, what) = self.unknown.into_iter().next()?;
        Some(Looked::Unknown(format!("partition {partition}: {what}")))
    }
}
