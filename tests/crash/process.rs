//! One process of the program: what the worker, the commit thread, the restorer and the drivers of sinks and calls do,
//! one small step at a time, around the production `Task` and the production rules of its assignment.
//!
//! A schedule (`world.rs`) calls the steps in any order; each side of a process is a file of its own.

mod commit;
mod disk;
mod group;
mod restore;
mod sinks;
mod worker;

use std::collections::{BTreeMap, VecDeque};

use slackwater::model::{Call, SinkRow};
use slackwater::runtime::{Assigned, Handle, Step};

use self::commit::{Commit, Part};
pub use self::disk::Disk;
use self::group::Lease;
use self::restore::Restore;
use super::env::Env;
use super::ledger::{Input, Life};

/// Partitions from here on hold what transactions write to the output topic.
pub const OUTPUTS: i32 = 1000;

/// A partition's records, read from one place on.
struct Reader {
    input: Input,
    /// The committed offset at which it starts; without one, known with the first record.
    start: Option<i64>,
    next: i64,
    caught_up: bool,
}

/// A task of this process, or one to be.
struct Slot {
    assigned: Assigned,
    readers: Vec<Reader>,
    commits: Vec<Input>,
    lease: Lease,
    restore: Restore,
    /// The version of the state that the next checkpoint changes.
    base: u64,
}

/// What the worker hears from the poller, the restorer and the commit thread.
enum Mail {
    Assign { partition: i32, starts: Vec<Option<i64>>, lease: Lease },
    Revoke { partition: i32, lost: bool },
    Restored { handle: Handle },
    Committed(Vec<Handle>),
    Rewind(Vec<Handle>),
}

/// A row on its way to a sink or back.
struct Parcel {
    handle: Handle,
    epoch: u64,
    node: usize,
    row: SinkRow,
    delivery: usize,
    lease: Lease,
}

/// A call under way.
struct Flight {
    handle: Handle,
    node: usize,
    call: Call,
}

pub struct Process {
    machine: usize,
    number: u64,
    /// Transactional id.
    producer: u64,
    epoch: Option<u64>,
    /// The group's generation as this member knows it.
    pub generation: u64,
    /// The group has expelled it, and it does not know yet: its partitions may belong to another member, or to it
    /// again.
    pub expelled: bool,
    /// Partitions that the group has given to it, whose offsets are being looked up.
    fresh: Vec<i32>,
    slots: BTreeMap<i32, Slot>,
    handles: u64,
    jobs: VecDeque<Vec<Part>>,
    commit: Option<Commit>,
    mail: VecDeque<Mail>,
    /// Rows on their way to sinks, in order.
    parcels: Vec<Parcel>,
    /// Rows written whose acknowledgements are on their way back, in order.
    acks: Vec<Parcel>,
    calls: Vec<Flight>,
    step: Step,
}

type Outcome = Result<(), String>;

impl Process {
    pub fn new(machine: usize, number: u64, producer: u64, generation: u64) -> Process {
        Process {
            machine,
            number,
            producer,
            epoch: None,
            generation,
            expelled: false,
            fresh: Vec::new(),
            slots: BTreeMap::new(),
            handles: 0,
            jobs: VecDeque::new(),
            commit: None,
            mail: VecDeque::new(),
            parcels: Vec::new(),
            acks: Vec::new(),
            calls: Vec::new(),
            step: Step::default(),
        }
    }

    pub fn producer(&self) -> u64 {
        self.producer
    }

    fn life(&self, handle: Handle) -> Life {
        (self.number, handle.id.partition, handle.generation)
    }

    fn next_handle(&mut self, env: &Env, partition: i32) -> Handle {
        self.handles += 1;
        Handle { id: env.shape.task(partition), generation: self.handles }
    }

    /// Is nothing on its way?
    pub fn is_idle(&self) -> bool {
        self.commit.is_none()
            && self.jobs.is_empty()
            && self.mail.is_empty()
            && self.parcels.is_empty()
            && self.acks.is_empty()
            && self.calls.is_empty()
            && self.fresh.is_empty()
    }
}
