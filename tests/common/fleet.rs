//! Several instances of one topology under a steady load, with faults that are random but seeded.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use slackwater::kafka::{GroupOffset, TopicPartition};

use super::{Instance, OwnServer, Sent, World, wait};

const LONG: Duration = Duration::from_secs(90);
/// What librdkafka says to a static member whose place was taken, be it by itself.
pub const FENCED: &str = "fenced by other consumer with same group.instance.id";
/// Instances at a time.
const MEMBERS_MAX: usize = 3;

/// `CHAOS_ROUNDS` bad things happen to each of the three topologies; 4 where it is not set, 12 in all.
pub fn rounds() -> usize {
    std::env::var("CHAOS_ROUNDS").map_or(4, |n| n.parse().expect("CHAOS_ROUNDS is a number"))
}

/// `CHAOS_SEED`, else another one each time.
pub fn seed() -> u64 {
    std::env::var("CHAOS_SEED")
        .map_or_else(|_| rand::random_range(0..1_000_000), |n| n.parse().expect("CHAOS_SEED is a number"))
}

struct Member {
    id: String,
    /// Has a name in the group, which a restart keeps.
    fixed: bool,
    instance: Option<Instance>,
    runs: usize,
}

/// The instances. Dropped in a panic, it prints what was done and where the logs are.
pub struct Fleet<'w> {
    pub world: &'w World,
    broker: &'w OwnServer,
    rng: SmallRng,
    seed: u64,
    members: Vec<Member>,
    next: usize,
    began: Instant,
    trace: Vec<String>,
    /// Processes that were frozen and went on: zombies of their own making.
    pub freeze_members: bool,
}

/// Sets the flag when it is dropped, also when the test fails, so that threads that watch it end.
pub struct Until<'a>(pub &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl<'w> Fleet<'w> {
    /// Two instances, one of them with a name in the group.
    pub fn start(world: &'w World, broker: &'w OwnServer, seed: u64) -> Fleet<'w> {
        println!("CHAOS_SEED={seed} CHAOS_ROUNDS={}", rounds());
        let mut fleet = Fleet {
            world,
            broker,
            rng: SmallRng::seed_from_u64(seed),
            seed,
            members: Vec::new(),
            next: 0,
            began: Instant::now(),
            trace: Vec::new(),
            freeze_members: false,
        };
        for fixed in [true, false] {
            fleet.add(fixed);
        }
        for member in &mut fleet.members {
            member.instance.iter_mut().for_each(|i| i.wait_ready(LONG));
        }
        fleet
    }

    fn say(&mut self, what: &str) {
        let line = format!("{:7.2} {what}", self.began.elapsed().as_secs_f64());
        println!("{line}");
        self.trace.push(line);
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) {
        std::thread::park_timeout(Duration::from_millis(self.rng.random_range(from_ms..=to_ms)));
    }

    fn add(&mut self, fixed: bool) {
        let id = format!("m{}", self.next);
        self.next += 1;
        self.say(&format!("add {id}{}", if fixed { " (static)" } else { "" }));
        self.members.push(Member { id, fixed, instance: None, runs: 0 });
        self.launch(self.members.len() - 1);
    }

    fn launch(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.runs += 1;
        let who = format!("{}.{}", member.id, member.runs);
        let url = self.world.api.url_of(&who);
        let more: Vec<&str> = if member.fixed { vec!["--instance-id", &member.id] } else { Vec::new() };
        member.instance =
            Some(Instance::start_with(self.world, &member.id, &more, &[("ACCOUNTS_API", url.as_str())]));
    }

    /// No instance may end by itself, except one with a static name that was fenced: it is started again, as a
    /// supervisor would. (If its session is lost while its commit is in flight, a static member is fenced by its own
    /// new life, which librdkafka takes for fatal: see the README's limits.)
    fn all_alive(&mut self) {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            let Some(instance) = &mut member.instance else { continue };
            let Some(code) = instance.child.try_wait().unwrap() else { continue };
            let (id, text) = (member.id.clone(), instance.text());
            let fenced = member.fixed && text.contains(FENCED);
            assert!(fenced, "{id} ended by itself with {code}:\n{}", tail(&text, 60));
            self.say(&format!("  {id} was fenced by itself, start again"));
            self.members[at].instance = None;
            self.launch(at);
        }
    }

    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.members.len())
    }

    fn kill(&mut self, at: usize) {
        if let Some(instance) = self.members[at].instance.take() {
            instance.kill9();
        }
    }

    fn lose_disk(&mut self, at: usize) {
        let dir = self.world.dir.path().join(format!("state-{}", self.members[at].id));
        drop(std::fs::remove_dir_all(dir));
    }

    fn stop(&mut self, at: usize) {
        let Some(instance) = self.members[at].instance.take() else { return };
        let began = Instant::now();
        let log = instance.log.clone();
        let code = instance.stop(LONG);
        let took = began.elapsed().as_secs_f64();
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let fenced = self.members[at].fixed && text.contains(FENCED);
        assert!(
            code == 0 || fenced,
            "{} stopped in order: {code}; log {}",
            self.members[at].id,
            log.display()
        );
        if took > 3.0 {
            let id = self.members[at].id.clone();
            self.say(&format!("  {id} took {took:.1} s to stop"));
        }
    }

    /// One bad thing.
    pub fn round(&mut self) {
        self.all_alive();
        let at = self.any();
        let id = self.members[at].id.clone();
        match self.rng.random_range(0..100) {
            0..=19 => {
                self.say(&format!("kill -9 {id}, start again"));
                self.kill(at);
                self.launch(at);
            }
            20..=29 => {
                self.say(&format!("kill -9 {id}, start again later"));
                self.kill(at);
                self.pause(500, 9_000);
                self.launch(at);
            }
            30..=39 => {
                self.say(&format!("kill -9 {id}, lose its disk, start again"));
                self.kill(at);
                self.lose_disk(at);
                self.launch(at);
            }
            40..=46 => {
                self.say("kill -9 all, start again");
                (0..self.members.len()).for_each(|at| self.kill(at));
                (0..self.members.len()).for_each(|at| self.launch(at));
            }
            47..=56 => {
                self.say(&format!("stop {id} in order, start again"));
                self.stop(at);
                self.launch(at);
            }
            57..=67 if self.members.len() < MEMBERS_MAX => {
                let fixed = self.rng.random();
                self.add(fixed);
            }
            57..=67 => {
                self.say(&format!("stop {id} in order, for good"));
                self.stop(at);
                self.members.remove(at);
            }
            68..=77 => {
                self.say("broker: stop, start");
                self.broker.act("stop");
                self.pause(0, 3_000);
                self.broker.act("resume");
            }
            78..=82 => {
                self.say("broker: stop for longer than a session, start");
                self.broker.act("stop");
                self.pause(7_000, 10_000);
                self.broker.act("resume");
            }
            83..=91 => {
                self.say("broker: kill -9, start");
                self.broker.act("kill");
                self.broker.act("resume");
            }
            92..=95 if self.freeze_members => {
                self.say(&format!("freeze {id} for longer than a session"));
                self.freeze(at, 7_000, 9_000);
            }
            _ => {
                self.say("broker: freeze, thaw");
                self.broker.freeze();
                self.pause(500, 8_000);
                self.broker.thaw();
            }
        }
        self.pause(300, 3_000);
        // Something else before it has recovered from this, now and then.
        if self.rng.random_bool(0.5) {
            self.pause(2_000, 5_000);
        }
    }

    fn freeze(&mut self, at: usize, from_ms: u64, to_ms: u64) {
        if let Some(instance) = &self.members[at].instance {
            instance.signal("-STOP");
        }
        self.pause(from_ms, to_ms);
        if let Some(instance) = &self.members[at].instance {
            instance.signal("-CONT");
        }
    }

    /// Everything runs again and has read everything.
    pub fn settle(&mut self) {
        self.say("settle");
        self.all_alive();
        for at in 0..self.members.len() {
            if self.members[at].instance.is_none() {
                self.launch(at);
            }
        }
        wait("all are ready", LONG, || {
            self.all_alive();
            self.members.iter().filter_map(|m| m.instance.as_ref()).all(|i| i.get("/ready").0 == 200)
        });
        self.say("all are ready");
        wait("everything is read and committed", LONG, || {
            self.all_alive();
            all_committed(self.world)
        });
        self.all_alive();
        self.say("everything is read and committed");
    }

    /// What is in a metric of all instances, where the labels contain `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        self.members.iter().filter_map(|m| m.instance.as_ref()).map(|i| i.metric(name, part)).sum()
    }

    /// Stops all in order.
    pub fn stop_all(&mut self) {
        self.all_alive();
        (0..self.members.len()).for_each(|at| self.stop(at));
        self.say("all have stopped");
        for (log, text) in self.logs() {
            assert!(!text.contains("panicked"), "{}: a panic", log.display());
        }
    }

    fn logs(&self) -> Vec<(PathBuf, String)> {
        let dir = std::fs::read_dir(self.world.dir.path()).unwrap();
        dir.filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "log"))
            .map(|p| (p.clone(), std::fs::read_to_string(p).unwrap_or_default()))
            .collect()
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let dir = std::env::temp_dir().join(format!("chaos-{}-{}", self.world.name, self.seed));
            drop(std::fs::create_dir_all(&dir));
            drop(std::fs::write(dir.join("trace"), self.trace.join("\n")));
            for (log, text) in self.logs() {
                drop(std::fs::write(dir.join(log.file_name().unwrap_or_default()), text));
            }
            eprintln!("CHAOS_SEED={} failed; its logs and trace are in {}", self.seed, dir.display());
        }
    }
}

pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Has the group committed everything that is in the source topic?
pub fn all_committed(world: &World) -> bool {
    let admin = world.admin();
    let all: Vec<TopicPartition> = (0..4).map(|p| TopicPartition::new(world.topic.as_str(), p)).collect();
    let (Ok(ends), Ok(committed)) = (admin.end_offsets(&all), admin.committed(&world.name, &all)) else {
        return false;
    };
    committed.iter().zip(&ends).all(|(c, e)| matches!(c, GroupOffset::At(o) if o == e) || *e == 0)
}

/// How often each number is in the lists that are a topic's values, and whether each key's numbers only grow.
pub fn numbers(records: &[(String, String)]) -> (BTreeMap<u64, usize>, usize) {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut disordered = 0;
    for (key, value) in records {
        let list: Vec<serde_json::Value> = serde_json::from_str(value).unwrap();
        for n in list.iter().map(|v| v["n"].as_u64().unwrap()) {
            *counts.entry(n).or_default() += 1;
            if last.insert(key, n).is_some_and(|before| before >= n) {
                disordered += 1;
            }
        }
    }
    (counts, disordered)
}

/// The topology that gathers each key's events in state and writes them out with the checkpoint.
pub fn gathering(world: &World, out: &str, more: &str) {
    std::fs::write(
        &world.yaml,
        format!(
            "name: {}\nkafka: {{ brokers: \"${{KAFKA_BROKERS}}\", session_timeout: 6s }}\nguarantee: exactly_once\n\
             sources:\n  in: {{ kafka: {{ topic: {} }} }}\n\
             operators:\n  gathered: {{ from: in, debounce: {{ quiet: 1s, max_wait: 4s, keep: all }} }}\n\
             sinks:\n  out: {{ from: gathered, kafka: {{ topic: {out} }} }}\n{more}",
            world.name, world.topic
        ),
    )
    .unwrap();
}

/// Sends numbered events of a few keys until told to end; how many.
pub fn feed_numbers(world: &World, stop: &AtomicBool, every: Duration) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Acquire) {
        // Some keys go quiet while others do not.
        let group = (n / 400) % 4;
        let batch: Vec<(String, String)> = (n..n + 20)
            .map(|n| (format!("k{}", group * 20 + n * 7 % 25), format!("{{\"n\":{n}}}")))
            .collect();
        let records: Vec<Sent<'_>> =
            batch.iter().map(|(k, v)| (Some(k.as_bytes()), Some(v.as_bytes()))).collect();
        world.send(&world.topic, &records);
        n += 20;
        std::thread::park_timeout(every);
    }
    n
}
