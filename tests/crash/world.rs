//! A schedule: two machines, one group, and what may happen to them, picked by dice.

use std::collections::BTreeMap;

use bytes::Bytes;
use slackwater::model::Timestamp;

use super::broker::Faults;
use super::env::{Env, note};
use super::ledger::Kind;
use super::mutation::Mutation;
use super::process::{Disk, OUTPUTS, Process};
use super::shape::{SHAPES, Shape};

const MACHINES: usize = 2;
/// Rounds in which the rest must be done once nothing fails any more.
const ROUNDS_MAX: usize = 60;

/// More records than there are.
const READ_ALL: usize = 100;
/// Steps of commits in one pass of a machine.
const COMMIT_STEPS_MAX: usize = 60;
/// Actions drawn until one of them is possible.
const TRIES: usize = 8;

/// Keys of a partition. `x` is unknown to the API, `r` is refused by tables.
const KEYS: [&str; 5] = ["a", "b", "c", "x", "r"];

/// An event to come.
#[derive(Clone)]
struct Plan {
    to: (usize, i32),
    key: Option<Bytes>,
    kind: Kind,
    /// How much older than the wall clock, or younger.
    late: i64,
}

#[derive(Default)]
struct Machine {
    process: Option<Process>,
    disks: BTreeMap<i32, Disk>,
}

pub struct World {
    pub env: Env,
    machines: Vec<Machine>,
    plan: Vec<Plan>,
    sent: usize,
    processes: u64,
    /// Members keep their id over a restart.
    fixed_ids: bool,
    /// Polite moves under way: partition, to which machine.
    moving: BTreeMap<i32, usize>,
}

type Outcome = Result<(), String>;

/// What to do, and how often of the sum of all.
const ACTIONS: [(Action, usize); 26] = [
    (Action::Append, 160),
    (Action::Read, 180),
    (Action::Advance, 40),
    (Action::Tick, 100),
    (Action::Reply, 120),
    (Action::Foreign, 60),
    (Action::Write, 180),
    (Action::Acknowledge, 180),
    (Action::Seal, 90),
    (Action::Submit, 90),
    (Action::Commit, 400),
    (Action::Mail, 160),
    (Action::LookUp, 200),
    (Action::Restore, 300),
    (Action::Leaves, 100),
    (Action::Marker, 140),
    (Action::Expire, 10),
    (Action::Crash, 14),
    (Action::Start, 80),
    (Action::Evict, 20),
    (Action::Move, 14),
    (Action::Overdue, 4),
    (Action::Lose, 6),
    (Action::Sync, 50),
    (Action::Compact, 10),
    (Action::Quiet, 60),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Producers write events.
    Append,
    Read,
    /// The wall clock goes forward.
    Advance,
    Tick,
    Reply,
    /// Another consumer group commits.
    Foreign,
    Write,
    Acknowledge,
    Seal,
    Submit,
    Commit,
    Mail,
    LookUp,
    Restore,
    Leaves,
    Marker,
    /// A transaction was open for too long.
    Expire,
    /// A process is killed; its machine may lose the last writes or its disk.
    Crash,
    Start,
    /// The group notices that a member is dead.
    Evict,
    /// A partition moves politely.
    Move,
    /// A polite move took too long.
    Overdue,
    /// A living member is taken for dead.
    Lose,
    /// A member takes part in the last rebalance.
    Sync,
    Compact,
    /// Nothing goes wrong on a machine for as long as a checkpoint takes.
    Quiet,
}

impl Action {
    /// Is it worth doing several times on end?
    fn goes_on(self) -> bool {
        use Action::{Acknowledge, Append, Commit, LookUp, Mail, Marker, Quiet, Read, Reply, Restore, Write};
        matches!(
            self,
            Append | Read | Reply | Write | Acknowledge | Commit | Mail | LookUp | Restore | Marker | Quiet
        )
    }
}

/// The weights of one seed: in each, some actions are rare, some never happen and some happen all the time, so that
/// seeds differ in kind and not in detail alone.
fn weights(env: &mut Env) -> Vec<(Action, usize)> {
    let mut draw = |(action, weight): (Action, usize)| {
        let times = [0, 1, 4, 4, 4, 4, 12, 24][env.dice.below(8)];
        (action, weight * times / 4)
    };
    ACTIONS.into_iter().map(&mut draw).collect()
}

impl World {
    /// The world of a seed: shape, partitions, events and faults are drawn from it.
    pub fn new(seed: u64) -> World {
        let mut env = Env::new(&SHAPES[0], 1, seed, Faults::default());
        let shape: &'static Shape = &SHAPES[env.dice.below(SHAPES.len())];
        let partitions = [1, 1, 2, 3][env.dice.below(4)];
        let faults = [0, 0, 30, 100][env.dice.below(4)];
        let dice = env.dice.clone();
        env = Env::new(shape, partitions, seed, Faults { refused: faults, unanswered: faults });
        env.dice = dice;
        let events = 4 + env.dice.below(20);
        let fixed_ids = env.dice.chance(500);
        let plan = (0..events).map(|_| event(&mut env)).collect();
        let machines = (0..MACHINES).map(|_| Machine::default()).collect();
        World { env, machines, plan, sent: 0, processes: 0, fixed_ids, moving: BTreeMap::new() }
    }

    /// Runs the schedule, then the rest without faults, and compares with the run without a crash.
    pub fn run(&mut self, mutation: Option<Mutation>) -> Outcome {
        self.env.mutation = mutation;
        let steps = 40 + self.env.dice.below(260);
        let (name, partitions, events) = (self.env.shape.name, self.env.partitions, self.plan.len());
        let fixed = self.fixed_ids;
        note!(
            self.env,
            "{name} on {partitions} partitions, {events} events, {steps} steps, fixed ids: {fixed}"
        );
        for m in 0..MACHINES {
            if self.env.dice.chance(800) {
                self.start(m);
            }
        }
        let weights = weights(&mut self.env);
        let sum = weights.iter().map(|(_, weight)| weight).sum();
        for _ in 0..steps {
            // What cannot happen now does not count.
            for _ in 0..TRIES {
                let mut at = self.env.dice.below(sum);
                let (action, _) = *weights
                    .iter()
                    .find(|(_, weight)| {
                        let here = at < *weight;
                        at = at.saturating_sub(*weight);
                        here
                    })
                    .unwrap_or(&ACTIONS[0]);
                let machine = self.machine();
                if !self.act(action, machine)? {
                    continue;
                }
                // Now and then much of the same: things take steps, and what is slow is slow for a while.
                if action.goes_on() && self.env.dice.chance(250) {
                    let more = self.env.dice.below(12);
                    for _ in 0..more {
                        self.act(action, machine)?;
                    }
                }
                break;
            }
        }
        self.finish()?;
        self.env.tally.events = self.plan.len() as u64;
        self.compare()
    }

    /// The same events without a crash or a fault.
    fn calm(&self) -> Result<World, String> {
        let mut env = Env::new(self.env.shape, self.env.partitions, 0, Faults::default());
        env.calm = true;
        let machines = (0..MACHINES).map(|_| Machine::default()).collect();
        let plan = self.plan.clone();
        let mut world =
            World { env, machines, plan, sent: 0, processes: 0, fixed_ids: true, moving: BTreeMap::new() };
        world.finish().map_err(|e| format!("without a crash: {e}"))?;
        Ok(world)
    }

    fn compare(&self) -> Outcome {
        self.env.ledger.check_end()?;
        let shape = self.env.shape;
        if !shape.transactional.is_empty() {
            let read = |partition| self.env.broker.read_changelog(OUTPUTS + partition, 0, usize::MAX).0;
            let rows: Vec<_> = (0..self.env.partitions).flat_map(read).collect();
            self.env.ledger.check_outputs(&rows)?;
        }
        // Without tables everything was compared already.
        if !shape.is_ordered() || !(0..shape.topology.nodes.len()).any(|n| shape.is_table(n)) {
            return Ok(());
        }
        let calm = self.calm()?;
        for ((node, key), (last, text)) in &calm.env.tables {
            let Some((found, row)) = self.env.tables.get(&(*node, key.clone())) else {
                return Err(format!("the table has no row of {key:?}; without a crash it has {text}"));
            };
            // A record without a key has no order.
            if key.is_some() && (found != last || row != text) {
                return Err(format!("the row of {key:?} is {row}; without a crash it is {text}"));
            }
            let newest = key.as_ref().and_then(|k| self.env.ledger.last_of_key(k));
            if newest.is_some() && *last != newest {
                return Err(format!(
                    "without a crash the row of {key:?} is of event {last:?}, not of {newest:?}"
                ));
            }
        }
        if self.env.tables.len() != calm.env.tables.len() {
            return Err("the tables have rows that they have not without a crash".into());
        }
        Ok(())
    }

    fn machine(&mut self) -> usize {
        self.env.dice.below(MACHINES)
    }

    fn partition(&mut self) -> i32 {
        let n = usize::try_from(self.env.partitions).expect("a few");
        i32::try_from(self.env.dice.below(n)).expect("a few")
    }

    /// False if it was not possible.
    fn act(&mut self, action: Action, m: usize) -> Result<bool, String> {
        let partition = self.partition();
        let nth = self.env.dice.below(64);
        let env = &mut self.env;
        match action {
            Action::Append => return Ok(self.append(1 + nth % 2)),
            Action::Advance => {
                let by = [1, 500, 5_000, 20_000, 31_000][nth % 5];
                env.wall = Timestamp(env.wall.0 + by);
                return Ok(true);
            }
            Action::Marker => {
                let missing = env.broker.missing_markers();
                if missing > 0 {
                    note!(env, "a marker is written");
                    env.broker.write_marker(nth % missing);
                }
                return Ok(missing > 0);
            }
            Action::Expire => {
                let open = env.broker.open_transactions();
                if !open.is_empty() {
                    let id = open[nth % open.len()];
                    note!(env, "the transaction of {id} times out");
                    env.broker.expire(id);
                }
                return Ok(!open.is_empty());
            }
            Action::Compact => {
                note!(env, "compaction of {partition}");
                env.broker.compact(partition, 0);
                return Ok(true);
            }
            Action::Crash => return Ok(self.crash(m)),
            Action::Start => return Ok(self.start(m)),
            Action::Evict => return Ok(self.evict(m)),
            Action::Move => return Ok(self.begin_move(partition)),
            Action::Overdue => return Ok(self.end_move(partition)),
            Action::Lose => return Ok(self.lose(m)),
            Action::Sync => return Ok(self.sync(m)),
            Action::Quiet => {
                let max = 1 + nth % 4;
                let busy = pass(env, &mut self.machines[m], max)?;
                self.end_moves();
                return Ok(busy);
            }
            _ => {}
        }
        let machine = &mut self.machines[m];
        let Some(process) = &mut machine.process else { return Ok(false) };
        let busy = match action {
            Action::Read => process.read(env, partition, 1 + nth % 4)?,
            Action::Tick => process.tick(env, partition)?,
            Action::Reply => process.reply(env, nth)?,
            Action::Foreign => process.foreign(env, partition, nth)?,
            Action::Write => process.write(env, nth)?,
            Action::Acknowledge => process.acknowledge(env, nth)?,
            Action::Seal => process.seal(env, partition)?,
            Action::Submit => process.submit(env),
            Action::Commit => process.commit(env, &machine.disks)?,
            Action::Mail => process.read_mail(env, &machine.disks)?,
            Action::LookUp => process.look_up(env),
            Action::Restore => process.restore(env, &mut machine.disks, partition)?,
            Action::Leaves => process.settle_leaves(env).is_some(),
            _ => false,
        };
        self.end_moves();
        Ok(busy)
    }

    fn append(&mut self, n: usize) -> bool {
        for plan in self.plan.iter().skip(self.sent).take(n) {
            let env = &mut self.env;
            let ts = Timestamp(env.wall.0 - plan.late);
            let n = env.ledger.events.len();
            note!(env, "event {n} for {:?} at {:?}: {:?} {ts}", plan.key, plan.to, plan.kind);
            let record = env.ledger.event(plan.to, plan.key.clone(), plan.kind, ts);
            env.broker.append(plan.to, record);
        }
        let before = self.sent;
        self.sent = (self.sent + n).min(self.plan.len());
        self.sent > before
    }

    // The group.

    fn start(&mut self, m: usize) -> bool {
        if self.machines[m].process.is_some() {
            return false;
        }
        self.processes += 1;
        let producer = if self.fixed_ids { m as u64 } else { 100 + self.processes };
        let kept = self.fixed_ids && self.env.owners.values().any(|owner| *owner == m);
        if !kept {
            // A new member: the group does without its last life, and gives it something.
            self.drop_member(m);
        }
        let generation = self.env.broker.generation();
        note!(self.env, "machine {m} starts p{}, kept its place: {kept}", self.processes);
        let mut process = Process::new(m, self.processes, producer, generation);
        for (partition, _) in self.env.owners.iter().filter(|(_, owner)| **owner == m) {
            process.give(*partition);
        }
        self.machines[m].process = Some(process);
        self.balance();
        if !kept && self.env.dice.chance(500) {
            let partition = self.partition();
            self.begin_move(partition);
        }
        true
    }

    /// Partitions without an owner get one that lives.
    fn balance(&mut self) {
        let alive: Vec<usize> = (0..MACHINES).filter(|m| self.machines[*m].process.is_some()).collect();
        for partition in 0..self.env.partitions {
            if self.env.owners.contains_key(&partition) || alive.is_empty() {
                continue;
            }
            let m = alive[self.env.dice.below(alive.len())];
            self.assign(partition, m);
        }
    }

    fn assign(&mut self, partition: i32, m: usize) {
        self.env.broker.rebalance();
        self.env.owners.insert(partition, m);
        note!(self.env, "the group gives {partition} to machine {m}");
        // Who takes part at once, and who later.
        for other in 0..MACHINES {
            if self.env.dice.chance(700) {
                self.sync(other);
            }
        }
    }

    fn drop_member(&mut self, m: usize) {
        self.env.owners.retain(|_, owner| *owner != m);
        self.moving.retain(|_, to| *to != m);
        self.env.broker.rebalance();
    }

    fn evict(&mut self, m: usize) -> bool {
        if self.machines[m].process.is_some() || !self.env.owners.values().any(|owner| *owner == m) {
            return false;
        }
        note!(self.env, "the group goes on without machine {m}");
        self.drop_member(m);
        self.balance();
        true
    }

    /// A living member misses its session: its partitions go elsewhere, and it learns of it later.
    fn lose(&mut self, m: usize) -> bool {
        let other = (m + 1) % MACHINES;
        if self.machines[m].process.is_none() || self.machines[other].process.is_none() {
            return false;
        }
        note!(self.env, "machine {m} is taken for dead");
        let lost: Vec<i32> = self.env.owners.iter().filter(|(_, o)| **o == m).map(|(p, _)| *p).collect();
        self.drop_member(m);
        if let Some(process) = &mut self.machines[m].process {
            process.expelled = true;
        }
        for partition in lost {
            self.env.owners.insert(partition, other);
        }
        self.sync(other);
        true
    }

    fn begin_move(&mut self, partition: i32) -> bool {
        let Some(&from) = self.env.owners.get(&partition) else { return false };
        let to = (from + 1) % MACHINES;
        if self.moving.contains_key(&partition) || self.machines[to].process.is_none() {
            return false;
        }
        let Some(process) = &mut self.machines[from].process else { return false };
        if process.generation != self.env.broker.generation() || !process.holds(partition) {
            return false;
        }
        note!(self.env, "{partition} shall move from machine {from} to {to}");
        process.revoke(partition, false);
        self.moving.insert(partition, to);
        true
    }

    /// Moves whose partition was released.
    fn end_moves(&mut self) {
        let moving: Vec<i32> = self.moving.keys().copied().collect();
        for partition in moving {
            let from = self.env.owners.get(&partition).copied();
            let released = from.is_none_or(|m| {
                self.machines[m]
                    .process
                    .as_ref()
                    .is_none_or(|p| !p.has_slot(partition) && !p.holds(partition))
            });
            if released {
                self.end_move(partition);
            }
        }
    }

    /// The move is over, whether the partition was released or not.
    fn end_move(&mut self, partition: i32) -> bool {
        let Some(to) = self.moving.remove(&partition) else { return false };
        if let Some(from) = self.env.owners.get(&partition)
            && let Some(process) = &mut self.machines[*from].process
        {
            process.end_lease(partition);
            // It takes part: it has answered, or let its deadline pass.
            self.env.broker.rebalance();
            process.generation = self.env.broker.generation();
        }
        self.assign(partition, to);
        true
    }

    /// A member takes part in the last rebalance, and learns what it has and what it has lost.
    fn sync(&mut self, m: usize) -> bool {
        let mut busy = false;
        let Some(process) = &mut self.machines[m].process else { return false };
        let expelled = std::mem::take(&mut process.expelled);
        for partition in 0..self.env.partitions {
            if expelled && (process.holds(partition) || process.has_slot(partition)) {
                // Even what it gets again at once, or is about to release: another member may have had it in between.
                process.revoke(partition, true);
            }
            let ours = self.env.owners.get(&partition) == Some(&m);
            let polite = self.moving.contains_key(&partition);
            if !ours && process.holds(partition) {
                process.revoke(partition, true);
                busy = true;
            } else if !ours {
                // It was leaving, and the poller did not wait any longer.
                process.end_lease(partition);
            } else if ours && !polite && !process.holds(partition) {
                // What it was about to release it has released, or its deadline has passed: that comes first.
                process.end_lease(partition);
                process.give(partition);
                busy = true;
            }
        }
        if process.generation != self.env.broker.generation() {
            process.generation = self.env.broker.generation();
            note!(self.env, "machine {m} is in generation {}", process.generation);
            busy = true;
        }
        busy
    }

    fn crash(&mut self, m: usize) -> bool {
        let Some(process) = self.machines[m].process.take() else { return false };
        process.die(&mut self.env);
        self.env.tally.crashes += 1;
        self.moving.retain(|_, to| *to != m);
        let disks = &mut self.machines[m].disks;
        match self.env.dice.below(4) {
            0 => disks.clear(),
            1 => {
                for disk in disks.values_mut() {
                    let n = self.env.dice.below(4);
                    disk.lose(n);
                }
            }
            _ => {}
        }
        note!(self.env, "machine {m} crashes, {} disks left", disks.len());
        true
    }

    // The end.

    /// Everything that is left, without faults: all machines run, everything is read, answered and committed.
    fn finish(&mut self) -> Outcome {
        self.env.calm = true;
        self.env.broker.heal();
        note!(self.env, "-- the rest, without faults");
        self.append(self.plan.len());
        for m in 0..MACHINES {
            self.start(m);
        }
        for _ in 0..ROUNDS_MAX {
            self.env.wall = Timestamp(self.env.wall.0 + 40_000);
            let alive: Vec<u64> =
                self.machines.iter().filter_map(|m| m.process.as_ref()).map(Process::producer).collect();
            for id in self.env.broker.open_transactions() {
                if !alive.contains(&id) {
                    self.env.broker.expire(id);
                }
            }
            for partition in 0..self.env.partitions {
                self.end_move(partition);
            }
            self.balance();
            for m in 0..MACHINES {
                self.sync(m);
            }
            while self.round()? {}
            if self.env.ledger.is_drained()
                && self.machines.iter().all(|m| m.process.as_ref().is_some_and(Process::is_idle))
            {
                return Ok(());
            }
        }
        let held: Vec<usize> =
            self.env.ledger.events.iter().enumerate().filter(|(_, e)| e.held > 0).map(|(n, _)| n).collect();
        let offsets: Vec<_> =
            self.env.ledger.committed.iter().map(|(p, c)| (*p, c.offsets.clone())).collect();
        let idle: Vec<bool> =
            self.machines.iter().map(|m| m.process.as_ref().is_some_and(Process::is_idle)).collect();
        Err(format!("it does not come to an end: committed {offsets:?}, rows hold {held:?}, idle {idle:?}"))
    }

    fn round(&mut self) -> Result<bool, String> {
        let mut busy = false;
        while self.env.broker.missing_markers() > 0 {
            self.env.broker.write_marker(0);
        }
        for machine in &mut self.machines {
            busy |= pass(&mut self.env, machine, READ_ALL)?;
        }
        Ok(busy)
    }
}

/// One machine does everything that it can do, once, in a checkpoint's order, and reads up to `read_max` records of
/// each partition. What it needs of the broker comes at once when all is calm, else sooner or later.
fn pass(env: &mut Env, machine: &mut Machine, read_max: usize) -> Result<bool, String> {
    let mut busy = false;
    let Some(process) = &mut machine.process else { return Ok(false) };
    process.look_up(env);
    for partition in 0..env.partitions {
        while process.restore(env, &mut machine.disks, partition)? {
            busy = true;
        }
    }
    for _ in 0..process.mail_waiting() {
        busy |= process.read_mail(env, &machine.disks)?;
    }
    for partition in 0..env.partitions {
        busy |= process.read(env, partition, read_max)?;
        while env.calm && process.read(env, partition, read_max)? {}
        busy |= process.tick(env, partition)?;
    }
    loop {
        let wrote = process.write(env, 0)?;
        let heard = process.acknowledge(env, 0)?;
        let answered = process.reply(env, 0)?;
        if !(wrote || heard || answered) {
            break;
        }
        busy = true;
    }
    for partition in 0..env.partitions {
        busy |= process.seal(env, partition)?;
    }
    busy |= process.submit(env);
    for _ in 0..COMMIT_STEPS_MAX {
        if !process.commit(env, &machine.disks)? {
            break;
        }
        busy = true;
        while env.broker.missing_markers() > 0 && (env.calm || env.dice.chance(150)) {
            let n = env.dice.below(env.broker.missing_markers());
            env.broker.write_marker(n);
        }
    }
    for _ in 0..process.mail_waiting() {
        busy |= process.read_mail(env, &machine.disks)?;
    }
    process.settle_leaves(env);
    Ok(busy)
}

fn event(env: &mut Env) -> Plan {
    let n = usize::try_from(env.partitions).expect("a few");
    let partition = i32::try_from(env.dice.below(n)).expect("a few");
    let to = (env.dice.below(env.shape.topics), partition);
    let key = (!env.dice.chance(30))
        .then(|| Bytes::from(format!("{partition}{}", KEYS[env.dice.below(KEYS.len())])));
    let kind = match env.dice.below(30) {
        0 => Kind::Broken,
        1 if env.shape.identity != super::shape::Identity::Items => Kind::Tombstone,
        _ => Kind::Good,
    };
    let late = [0, 0, 0, 100, 10_000, 50_000, -500, -5_000][env.dice.below(8)];
    Plan { to, key, kind, late }
}
