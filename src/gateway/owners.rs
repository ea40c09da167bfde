//! Which instance has which partition, for reads of a key that another instance owns.
//!
//! There is no coordinator and no topic for this: the consumer group itself knows its members and what is assigned to each,
//! and each member names the address of its admin server in its `client.id` ([`Member::address`]). The group is asked every
//! few seconds, and at once when an answer showed that the map is old.
//!
//! The map is a hint and never a proof: an instance that is asked answers for the tasks that it has, and says so where it
//! has them not. So nothing is wrong for being old here, it only takes longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::kafka::{Admin, AdminError, KafkaConfig, Member};

/// How often the group is asked without a reason.
const EVERY: Duration = Duration::from_secs(3);
/// How soon it is asked again with one, and while it is being rebalanced.
const SOON: Duration = Duration::from_millis(100);
/// How soon it is asked again when it could not be.
const FAILED: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Who has what, as the group said it at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// When the group was asked. `None`: never yet.
    asked: Option<Instant>,
    /// Addresses by topic and partition.
    owners: BTreeMap<Arc<str>, BTreeMap<i32, String>>,
    /// Addresses that several members name.
    twice: BTreeSet<String>,
    /// How many members name no address.
    nameless: usize,
}

impl Map {
    /// What members say; `None` while the group is being rebalanced: then no member has anything.
    fn of(members: &[Member], asked: Instant) -> Option<Map> {
        if !members.is_empty() && members.iter().all(|member| member.partitions.is_empty()) {
            return None;
        }
        let mut map = Map { asked: Some(asked), ..Map::default() };
        let mut seen = BTreeSet::new();
        for member in members {
            let Some(address) = member.address() else {
                map.nameless += 1;
                continue;
            };
            if !seen.insert(address.clone()) {
                map.twice.insert(address.clone());
            }
            for p in &member.partitions {
                map.owners.entry(Arc::clone(&p.topic)).or_default().insert(p.partition, address.clone());
            }
        }
        Some(map)
    }

    /// The address of the instance that has a partition of any of these topics, which one task reads together.
    #[must_use]
    pub fn owner(&self, topics: &[String], partition: i32) -> Option<&str> {
        let of = |topic: &String| self.owners.get(topic.as_str())?.get(&partition);
        topics.iter().find_map(of).map(String::as_str)
    }

    /// Whether several members name this address, so that it cannot be told which of them answers.
    #[must_use]
    pub fn is_twice(&self, address: &str) -> bool {
        self.twice.contains(address)
    }

    /// Why a partition has no owner, in words.
    #[must_use]
    pub fn why_none(&self) -> String {
        match (self.asked, self.nameless) {
            (None, _) => "it is not known yet which instance has it".to_owned(),
            (Some(_), 0) => "no instance has it at the moment".to_owned(),
            (Some(_), n) => format!(
                "no instance that names its address has it; {n} of the group name none (is another `client.id` set, or an \
                 older version running?)"
            ),
        }
    }
}

/// The owners of a group's partitions. Cheap to clone; every clone shares the map.
#[derive(Clone)]
pub struct Owners {
    shared: Arc<Shared>,
    /// Ends the task that asks, with the last clone.
    _end: Arc<DropGuard>,
}

struct Shared {
    /// Written by the task that asks, read by every request; for moments.
    map: watch::Sender<Arc<Map>>,
    /// Told when a newer map is wanted.
    wanted: Notify,
    /// What was last said in the log. Used by the task that asks alone.
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    twice: BTreeSet<String>,
    failed: bool,
}

impl Owners {
    /// Asks a group for its members, as long as it is asked for them.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub fn watch(kafka: &KafkaConfig, group: &str) -> Result<Owners, AdminError> {
        // A client of its own: a broker that does not answer it holds up nothing else.
        let admin = Arc::new(Admin::open(kafka, ANSWER)?);
        let shared = Arc::new(Shared {
            map: watch::Sender::new(Arc::default()),
            wanted: Notify::new(),
            told: Mutex::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&shared).run(admin, group.to_owned(), stop.clone()));
        Ok(Owners { shared, _end: Arc::new(stop.drop_guard()) })
    }

    /// The map as it is.
    #[must_use]
    pub fn now(&self) -> Arc<Map> {
        Arc::clone(&self.shared.map.borrow())
    }

    /// A map that the group was asked for after `since`; `None`: the group has said nothing until `until`.
    pub async fn since(&self, since: Instant, until: Instant) -> Option<Arc<Map>> {
        let mut maps = self.shared.map.subscribe();
        self.shared.wanted.notify_one();
        let newer = maps.wait_for(|map| map.asked.is_some_and(|asked| asked >= since));
        match tokio::time::timeout_at(until, newer).await {
            Ok(Ok(map)) => Some(Arc::clone(&map)),
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

impl Shared {
    async fn run(self: Arc<Self>, admin: Arc<Admin>, group: String, stop: CancellationToken) {
        loop {
            let (asking, name, asked) = (Arc::clone(&admin), group.clone(), Instant::now());
            let members = tokio::task::spawn_blocking(move || asking.assignments(&name)).await;
            let pause = members.map_or(FAILED, |members| self.heard(members, asked));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(asked + pause) => {}
                () = self.wanted.notified() => tokio::time::sleep_until(asked + SOON).await,
            }
        }
    }

    /// Takes an answer; after how long the group is asked again.
    fn heard(&self, members: Result<Vec<Member>, AdminError>, asked: Instant) -> Duration {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let map = match members {
            Ok(members) => Map::of(&members, asked),
            Err(error) => {
                if !std::mem::replace(&mut told.failed, true) {
                    tracing::warn!(%error, "which instance has which key is looked up in vain: reads of other instances' keys may fail");
                }
                return FAILED;
            }
        };
        told.failed = false;
        let Some(map) = map else { return SOON };
        for address in map.twice.difference(&told.twice) {
            tracing::warn!(
                address,
                "several instances of the group name the same address: reads of their keys fail; give each its own with --advertise"
            );
        }
        told.twice.clone_from(&map.twice);
        self.map.send_replace(Arc::new(map));
        EVERY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::TopicPartition;

    fn member(id: &str, partitions: &[i32]) -> Member {
        let partitions = partitions.iter().map(|p| TopicPartition::new("t", *p)).collect();
        Member { client_id: id.into(), host: "10.0.0.1".into(), partitions }
    }

    #[test]
    fn the_members_say_who_has_what() {
        let members = [
            member("s@a:1", &[0, 2]),
            member("s@0.0.0.0:9", &[1]),
            member("other", &[3]),
            member("s@c:1", &[]),
        ];
        let map = Map::of(&members, Instant::now()).expect("someone has something");
        let topics = ["u".to_owned(), "t".to_owned()];
        let owner = |partition| map.owner(&topics, partition);
        assert_eq!(
            [owner(0), owner(1), owner(2), owner(3)],
            [Some("a:1"), Some("10.0.0.1:9"), Some("a:1"), None]
        );
        assert!(map.why_none().contains("1 of the group name none"), "{}", map.why_none());
        assert_eq!(
            Map::of(&[member("s@a:1", &[]), member("s@b:1", &[])], Instant::now()),
            None,
            "a rebalance"
        );
        assert!(Map::of(&[], Instant::now()).is_some(), "an empty group is known to be empty");
    }

    #[test]
    fn an_address_that_two_name_is_noticed() {
        let map =
            Map::of(&[member("s@a:1", &[0]), member("s@a:1", &[1]), member("s@b:1", &[2])], Instant::now());
        let map = map.expect("someone has something");
        assert!(map.is_twice("a:1") && !map.is_twice("b:1"));
    }
}
