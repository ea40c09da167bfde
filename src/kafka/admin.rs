//! Administration of a cluster: topics, end offsets, and the committed offsets of any group.
//!
//! Every call blocks its thread. There are two clients, and neither of them consumes: on a consuming client such a
//! request would wait behind its idle fetch.
//!
//! A client that has not answered twice running is made anew. librdkafka gives up a connection only when one of its
//! requests has timed out, and a request for a group's offsets never does (`ffi.rs`): on a connection that is dead without
//! having been closed every further question would wait as well, for as long as the client lives.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pollster::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::config::{KafkaConfig, MESSAGE_BYTES_MAX};
use super::member::Member;
use super::reader::offset_list;
use super::remind::Series;
use super::{ErrorKind, Quiet, TopicPartition, ffi, kind_of};
use crate::model::Timestamp;

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Copies of each partition; -1: the broker's default.
    pub replication: i32,
    /// Topic settings (`cleanup.policy` and so on).
    pub config: BTreeMap<String, String>,
}

impl TopicSpec {
    /// A topic with the broker's defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, partitions: i32) -> TopicSpec {
        TopicSpec { name: name.into(), partitions, replication: -1, config: BTreeMap::new() }
    }

    /// With a setting.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> TopicSpec {
        self.config.insert(name.into(), value.into());
        self
    }
}

/// An admin call failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub struct AdminError {
    /// What kind of error it is. [`ErrorKind::Transport`]: try again.
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
}

impl AdminError {
    fn new(what: &str, error: &KafkaError) -> AdminError {
        let kind = error.rdkafka_error_code().map_or(ErrorKind::Other, kind_of);
        AdminError { kind, message: format!("{what}: {error}") }
    }

    fn code(what: &str, code: RDKafkaErrorCode) -> AdminError {
        AdminError { kind: kind_of(code), message: format!("{what}: {code}") }
    }
}

/// How often the leaders of partitions are asked before giving up.
const LEADER_TRIES: u32 = 4;
const LEADER_PAUSE: Duration = Duration::from_millis(200);

/// So many questions without an answer, and a client is made anew;
const UNANSWERED_MAX: u32 = 2;
/// but not more often than this: where the brokers are away, a new client is no better.
const RENEW: Duration = Duration::from_secs(4);

/// What a group has committed on a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupOffset {
    /// The next offset.
    At(i64),
    /// No commit, which is also the answer for a group or topic that does not exist.
    None,
    /// The offset is part of a transaction that is still open: keep the value seen before.
    Pending,
}

/// A client for administration requests.
pub struct Admin {
    config: KafkaConfig,
    timeout: Duration,
    /// Those in use. Held for moments, by every call.
    clients: Mutex<Arc<Clients>>,
}

/// One life of the two clients.
struct Clients {
    both: Arc<(AdminClient<Quiet>, BaseConsumer<Quiet>)>,
    /// When to remind each of the two clients of its brokers (`remind`). Held for the moment of a call.
    series: Mutex<[Series; 2]>,
    made: Instant,
    /// Questions without an answer since the last one that had one.
    unanswered: AtomicU32,
}

impl Clients {
    fn open(config: &KafkaConfig) -> Result<Arc<Clients>, AdminError> {
        let failed = |e: KafkaError| AdminError::new("cannot make a Kafka client", &e);
        let admin = config.admin().create_with_context(Quiet::default()).map_err(failed)?;
        let reader = config.admin_consumer().create_with_context(Quiet::default()).map_err(failed)?;
        Ok(Arc::new(Clients {
            both: Arc::new((admin, reader)),
            series: Mutex::default(),
            made: Instant::now(),
            unanswered: AtomicU32::new(0),
        }))
    }

    fn admin(&self) -> &AdminClient<Quiet> {
        &self.both.0
    }

    fn reader(&self) -> &BaseConsumer<Quiet> {
        &self.both.1
    }
}

impl Drop for Clients {
    /// Not on the thread of the last caller: a client that is stuck takes long to end.
    fn drop(&mut self) {
        let both = Arc::clone(&self.both);
        if self.unanswered.load(Ordering::Acquire) == 0 {
            return;
        }
        let ended = std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || drop(both));
        if let Err(error) = ended {
            tracing::warn!(%error, "no thread to end a Kafka client on");
        }
    }
}

impl Admin {
    /// Two clients; brokers need not be there yet. `timeout` holds for every call.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub fn open(config: &KafkaConfig, timeout: Duration) -> Result<Admin, AdminError> {
        let clients = Mutex::new(Clients::open(config)?);
        Ok(Admin { config: config.clone(), timeout, clients })
    }

    /// As [`Admin::open`], but ends of partitions are those behind open transactions, and behind transactions whose marks
    /// are still on their way.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub fn open_uncommitted(config: &KafkaConfig, timeout: Duration) -> Result<Admin, AdminError> {
        let mut config = config.clone();
        config.properties.insert("isolation.level".into(), "read_uncommitted".into());
        Admin::open(&config, timeout)
    }

    /// The clients in use. Called before every request: gives a client that has forgotten its brokers their addresses
    /// again.
    fn clients(&self) -> Arc<Clients> {
        let clients = Arc::clone(&self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        {
            let mut series = clients.series.lock().unwrap_or_else(PoisonError::into_inner);
            let brokers = &self.config.brokers;
            let [admin, reader] = &mut *series;
            let (inner, client) = (clients.admin().inner(), clients.reader().client());
            admin.remind(&inner.context().lost, inner, brokers);
            reader.remind(&client.context().lost, client, brokers);
        }
        clients
    }

    /// Called with every answer. Nothing polls the reading client, so a failed request is the only sign that it has lost
    /// its brokers; and one that has failed twice running is made anew.
    fn heard<T>(&self, asked: &Arc<Clients>, answer: Result<T, AdminError>) -> Result<T, AdminError> {
        if answer.as_ref().map_or_else(|e| e.kind != ErrorKind::Transport, |_| true) {
            asked.unanswered.store(0, Ordering::Release);
            return answer;
        }
        asked.reader().context().lost.set();
        let unanswered = asked.unanswered.fetch_add(1, Ordering::AcqRel) + 1;
        if unanswered < UNANSWERED_MAX || asked.made.elapsed() < RENEW {
            return answer;
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        // Of several that asked at a time the first one makes it anew.
        if Arc::ptr_eq(&clients, asked) {
            match Clients::open(&self.config) {
                Ok(new) => {
                    tracing::debug!(unanswered, "a Kafka client that does not answer is made anew");
                    *clients = new;
                }
                Err(error) => {
                    tracing::warn!(%error, "a Kafka client that does not answer cannot be made anew")
                }
            }
        }
        answer
    }

    /// Asks the administrating client.
    fn ask<T>(
        &self,
        question: impl FnOnce(&AdminClient<Quiet>, &AdminOptions) -> Result<T, KafkaError>,
        what: &str,
    ) -> Result<T, AdminError> {
        let clients = self.clients();
        let answer = question(clients.admin(), &self.options());
        self.heard(&clients, answer.map_err(|e| AdminError::new(what, &e)))
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    /// The number of brokers: a way to find out whether the cluster answers.
    ///
    /// # Errors
    /// It does not.
    pub fn brokers(&self) -> Result<usize, AdminError> {
        let clients = self.clients();
        let metadata = clients
            .reader()
            .fetch_metadata(Some("__consumer_offsets"), self.timeout)
            .map_err(|e| AdminError::new("cannot reach Kafka", &e));
        let metadata = self.heard(&clients, metadata)?;
        Ok(metadata.brokers().len())
    }

    /// Partition counts by topic; `None`: it does not exist. In the order asked.
    ///
    /// # Errors
    /// The cluster does not answer, or refuses.
    pub fn topics(&self, names: &[&str]) -> Result<Vec<(String, Option<i32>)>, AdminError> {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let clients = self.clients();
            let metadata = clients
                .reader()
                .fetch_metadata(Some(name), self.timeout)
                .map_err(|e| AdminError::new(&format!("cannot look up topic `{name}`"), &e));
            let metadata = self.heard(&clients, metadata)?;
            let topic = metadata.topics().iter().find(|t| t.name() == *name);
            let count = match topic.and_then(|t| t.error()).map(RDKafkaErrorCode::from) {
                None => topic.and_then(|t| i32::try_from(t.partitions().len()).ok()).filter(|n| *n > 0),
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => None,
                Some(code) => return Err(AdminError::code(&format!("topic `{name}`"), code)),
            };
            found.push(((*name).to_owned(), count));
        }
        Ok(found)
    }

    /// How many bytes of key, value and headers together fit into a message of each topic for certain: its
    /// `max.message.bytes` (which holds for compressed batches) less the framing of a record, and never more than our
    /// own producers send. `None`: there is no such topic. In the order asked.
    ///
    /// # Errors
    /// The cluster does not answer, or refuses.
    pub fn message_bytes_max(&self, names: &[&str]) -> Result<Vec<Option<usize>>, AdminError> {
        /// Batch and record headers, with lengths: about 100 bytes.
        const FRAME: usize = 256;
        let what = "cannot look up the settings of topics";
        let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.ask(|admin, options| block_on(admin.describe_configs(&asked, options)), what)?;
        found
            .into_iter()
            .map(|result| match result {
                Ok(resource) => {
                    let entry = resource.get("max.message.bytes").and_then(|e| e.value.as_ref());
                    let bytes = entry.and_then(|v| v.parse::<usize>().ok()).unwrap_or(usize::MAX);
                    Ok(Some(bytes.min(MESSAGE_BYTES_MAX as usize).saturating_sub(FRAME)))
                }
                Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
                Err(code) => Err(AdminError::code(what, code)),
            })
            .collect()
    }

    /// Names of all topics, sorted.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn topic_names(&self) -> Result<Vec<String>, AdminError> {
        let clients = self.clients();
        let metadata = clients
            .reader()
            .fetch_metadata(None, self.timeout)
            .map_err(|e| AdminError::new("cannot list the topics", &e));
        let metadata = self.heard(&clients, metadata)?;
        let mut names: Vec<String> = metadata.topics().iter().map(|t| t.name().to_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Client addresses of a group's members; empty for a group that does not exist.
    ///
    /// # Errors
    /// The group's coordinator does not answer, or refuses.
    pub fn members(&self, group: &str) -> Result<Vec<String>, AdminError> {
        let clients = self.clients();
        let list = clients
            .reader()
            .fetch_group_list(Some(group), self.timeout)
            .map_err(|e| AdminError::new(&format!("cannot look up the members of group `{group}`"), &e));
        let list = self.heard(&clients, list)?;
        let found = list.groups().iter().filter(|g| g.name() == group);
        let mut members: Vec<String> = found
            .flat_map(|g| g.members())
            .map(|m| m.client_host().trim_start_matches('/').to_owned())
            .collect();
        members.sort();
        Ok(members)
    }

    /// The members of a group and what is assigned to each, of the classic group protocol and of KIP-848's; empty for a
    /// group that does not exist. While a classic group is being rebalanced no member has partitions.
    ///
    /// # Errors
    /// The group's coordinator does not answer, or refuses.
    pub fn assignments(&self, group: &str) -> Result<Vec<Member>, AdminError> {
        let clients = self.clients();
        let found = ffi::describe_group(clients.reader().client(), group, self.timeout);
        let found = self.heard(
            &clients,
            found.map_err(|e| AdminError {
                kind: kind_of(e.code),
                message: format!("cannot look up the members of group `{group}`: {}", e.message),
            }),
        )?;
        Ok(found.into_iter().map(Member::from).collect())
    }

    /// Creates topics in one call. A topic that exists already stays as it is: compare its partitions with
    /// [`Admin::topics`].
    ///
    /// # Errors
    /// The first topic that was not created, and why.
    pub fn create_topics(&self, specs: &[TopicSpec]) -> Result<(), AdminError> {
        if specs.is_empty() {
            return Ok(());
        }
        let topics: Vec<NewTopic<'_>> = specs
            .iter()
            .map(|spec| NewTopic {
                name: &spec.name,
                num_partitions: spec.partitions,
                replication: TopicReplication::Fixed(spec.replication),
                config: spec.config.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            })
            .collect();
        let results = self
            .ask(|admin, options| block_on(admin.create_topics(&topics, options)), "cannot create topics")?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    return Err(AdminError::code(&format!("cannot create topic `{topic}`"), code));
                }
            }
        }
        Ok(())
    }

    /// Deletes topics; it is no error if one does not exist.
    ///
    /// # Errors
    /// The first topic that was not deleted, and why.
    pub fn delete_topics(&self, names: &[&str]) -> Result<(), AdminError> {
        let results =
            self.ask(|admin, options| block_on(admin.delete_topics(names, options)), "cannot delete topics")?;
        for result in results {
            match result {
                Ok(_)
                | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {}
                Err((topic, code)) => {
                    return Err(AdminError::code(&format!("cannot delete topic `{topic}`"), code));
                }
            }
        }
        Ok(())
    }

    /// Deletes all records before these offsets.
    ///
    /// # Errors
    /// The first partition where that failed.
    pub fn delete_records(&self, before: &[(TopicPartition, i64)]) -> Result<(), AdminError> {
        let what = "cannot delete records";
        let list = offset_list(before).map_err(|e| AdminError::new(what, &e))?;
        let list = self.ask(|admin, options| block_on(admin.delete_records(&list, options)), what)?;
        for e in list.elements() {
            e.error().map_err(|error| {
                AdminError::new(&format!("{what} of {}-{}", e.topic(), e.partition()), &error)
            })?;
        }
        Ok(())
    }

    /// Deletes a group with its offsets; it is no error if it does not exist. A group that has members is refused.
    ///
    /// # Errors
    /// The broker refuses or does not answer.
    pub fn delete_group(&self, group: &str) -> Result<(), AdminError> {
        let what = format!("cannot delete group `{group}`");
        let results = self.ask(|admin, options| block_on(admin.delete_groups(&[group], options)), &what)?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
                Err((_, code)) => return Err(AdminError::code(&what, code)),
            }
        }
        Ok(())
    }

    /// The end of each partition as `read_committed` sees it (which is the start of the first open transaction), in one
    /// call and in the order asked.
    ///
    /// # Errors
    /// A partition does not exist, or the cluster does not answer.
    pub fn end_offsets(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>, AdminError> {
        self.log_offsets(partitions, Offset::End)
    }

    /// The first record of each partition whose timestamp is not before `at`; `None`: there is none. In the order asked.
    ///
    /// # Errors
    /// A partition does not exist, or the cluster does not answer.
    pub fn offsets_since(
        &self,
        partitions: &[TopicPartition],
        at: Timestamp,
    ) -> Result<Vec<Option<i64>>, AdminError> {
        let what = "cannot look up offsets by time";
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for p in partitions {
            list.add_partition_offset(&p.topic, p.partition, Offset::Offset(at.0))
                .map_err(|e| AdminError::new(what, &e))?;
        }
        let list = self.ask_leaders(list, what)?;
        partitions
            .iter()
            .map(|p| {
                let found = list.find_partition(&p.topic, p.partition);
                let e = found.ok_or_else(|| AdminError::code(what, RDKafkaErrorCode::UnknownPartition))?;
                e.error().map_err(|error| AdminError::new(&format!("{what} of {p}"), &error))?;
                Ok(match e.offset() {
                    Offset::Offset(offset) if offset >= 0 => Some(offset),
                    _ => None,
                })
            })
            .collect()
    }

    /// The first offset of each partition that is still retained, like [`Admin::end_offsets`].
    ///
    /// # Errors
    /// A partition does not exist, or the cluster does not answer.
    pub fn start_offsets(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>, AdminError> {
        self.log_offsets(partitions, Offset::Beginning)
    }

    /// Asks the leaders of the partitions for offsets. A partition that was just created, or whose leader has just
    /// changed, is refused as unknown, or for its leader epoch, until the client's metadata is fresh, which can take
    /// minutes; so this refreshes the metadata and asks again. (librdkafka 2.12.1 takes both errors for answers and
    /// does not retry.)
    fn ask_leaders(&self, list: TopicPartitionList, what: &str) -> Result<TopicPartitionList, AdminError> {
        use RDKafkaErrorCode as E;
        let outdated = |e: &KafkaError| {
            let codes =
                [E::FencedLeaderEpoch, E::UnknownLeaderEpoch, E::NotLeaderForPartition, E::UnknownPartition];
            e.rdkafka_error_code().is_some_and(|code| codes.contains(&code))
        };
        let clients = self.clients();
        let mut tries = LEADER_TRIES;
        let answer = loop {
            let result = clients.reader().offsets_for_times(list.clone(), self.timeout);
            let again = match &result {
                Err(e) => outdated(e),
                Ok(list) => list.elements().iter().any(|e| e.error().is_err_and(|e| outdated(&e))),
            };
            tries -= 1;
            if !again || tries == 0 {
                break result;
            }
            if let Err(e) = clients.reader().fetch_metadata(None, self.timeout) {
                break Err(e);
            }
            std::thread::park_timeout(LEADER_PAUSE);
        };
        self.heard(&clients, answer.map_err(|e| AdminError::new(what, &e)))
    }

    fn log_offsets(&self, partitions: &[TopicPartition], which: Offset) -> Result<Vec<i64>, AdminError> {
        let what = "cannot look up offsets";
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for p in partitions {
            list.add_partition_offset(&p.topic, p.partition, which).map_err(|e| AdminError::new(what, &e))?;
        }
        let list = self.ask_leaders(list, what)?;
        let mut offsets = Vec::with_capacity(partitions.len());
        for p in partitions {
            let what = || format!("{what} of {p}");
            let e = list
                .find_partition(&p.topic, p.partition)
                .ok_or_else(|| AdminError::code(&what(), RDKafkaErrorCode::UnknownPartition))?;
            e.error().map_err(|error| AdminError::new(&what(), &error))?;
            match e.offset() {
                Offset::Offset(offset) => offsets.push(offset),
                _ => return Err(AdminError::code(&what(), RDKafkaErrorCode::NoOffset)),
            }
        }
        Ok(offsets)
    }

    /// The offsets that any group has committed, without joining it, in the order asked. Offsets in open transactions
    /// are not shown. Takes 0.3 ms per group.
    ///
    /// # Errors
    /// The group's coordinator does not answer, or refuses.
    pub fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<GroupOffset>, AdminError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<(&str, i32)> = partitions.iter().map(|p| (&*p.topic, p.partition)).collect();
        let found = self.list_offsets(group, Some(&asked))?;
        let by_name: BTreeMap<(&str, i32), GroupOffset> =
            found.iter().map(|(p, offset)| ((&*p.topic, p.partition), *offset)).collect();
        Ok(asked.iter().map(|p| by_name.get(p).copied().unwrap_or(GroupOffset::None)).collect())
    }

    /// Every partition on which a group has committed, sorted; empty for an unknown group. The mock broker cannot
    /// answer this.
    ///
    /// # Errors
    /// The group's coordinator does not answer, or refuses.
    pub fn all_committed(&self, group: &str) -> Result<Vec<(TopicPartition, GroupOffset)>, AdminError> {
        let mut found = self.list_offsets(group, None)?;
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    fn list_offsets(
        &self,
        group: &str,
        partitions: Option<&[(&str, i32)]>,
    ) -> Result<Vec<(TopicPartition, GroupOffset)>, AdminError> {
        let clients = self.clients();
        let found = ffi::list_group_offsets(clients.reader().client(), group, partitions, self.timeout);
        let found = self.heard(
            &clients,
            found.map_err(|e| AdminError {
                kind: kind_of(e.code),
                message: format!("cannot look up the offsets of group `{group}`: {}", e.message),
            }),
        )?;
        found
            .into_iter()
            .map(|e| {
                let p = TopicPartition::new(e.topic, e.partition);
                match e.error {
                    None if e.offset >= 0 => Ok((p, GroupOffset::At(e.offset))),
                    None => Ok((p, GroupOffset::None)),
                    Some(RDKafkaErrorCode::UnstableOffsetCommit) => Ok((p, GroupOffset::Pending)),
                    Some(code) => Err(AdminError::code(&format!("offsets of group `{group}` on {p}"), code)),
                }
            })
            .collect()
    }
}
