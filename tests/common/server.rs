//! A server of a test's own, started by its script: one that it may stop, kill, freeze and start again.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::{Rc, Weak};
use std::sync::{Condvar, Mutex};

/// A server of the test's own, that it may stop and start again.
pub struct OwnServer {
    script: PathBuf,
    dir: tempfile::TempDir,
    pub address: String,
    _turn: Rc<Turn>,
}

/// Tests with servers of their own that run at a time. Most other tests only wait, so many of them run at once; these start
/// processes that want memory and time.
const AT_ONCE: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// One of [`AT_ONCE`], shared by all servers of a test: two tests would wait for each other's second one else.
struct Turn;

impl Turn {
    /// Waits for one, unless a server of this test has it already.
    fn of_this_test() -> Rc<Turn> {
        thread_local! {
            static OWN: RefCell<Weak<Turn>> = const { RefCell::new(Weak::new()) };
        }
        OWN.with_borrow_mut(|own| {
            own.upgrade().unwrap_or_else(|| {
                let running = RUNNING.lock().unwrap();
                *ENDED.wait_while(running, |running| *running >= AT_ONCE).unwrap() += 1;
                let turn = Rc::new(Turn);
                *own = Rc::downgrade(&turn);
                turn
            })
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap() -= 1;
        ENDED.notify_one();
    }
}

impl OwnServer {
    pub fn kafka() -> OwnServer {
        OwnServer::start("kafka.sh")
    }

    fn start(script: &str) -> OwnServer {
        OwnServer::start_with(script, &[])
    }

    /// With these settings, `NAME=VALUE`, in the file of that name.
    fn start_with(script: &str, settings: &[&str]) -> OwnServer {
        let turn = Turn::of_this_test();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
        let dir = match std::env::var("SLACKWATER_TEST_DIR") {
            Ok(base) => tempfile::Builder::new().prefix("own").tempdir_in(base).unwrap(),
            Err(_) => tempfile::tempdir().unwrap(),
        };
        if !settings.is_empty() {
            std::fs::write(dir.path().join("settings"), settings.join("\n")).unwrap();
        }
        let out =
            Command::new(&script).arg("start").arg(dir.path()).stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success(), "{} start failed", script.display());
        let text = String::from_utf8(out.stdout).unwrap();
        let address = text.lines().find_map(|l| l.split_once('=')).unwrap().1.trim().to_owned();
        OwnServer { script, dir, address, _turn: turn }
    }

    pub fn spanner() -> OwnServer {
        // `spanner.sh` would only print a running one.
        OwnServer::start("spanner.sh")
    }

    pub fn postgres() -> OwnServer {
        OwnServer::start("postgres.sh")
    }

    pub fn redis() -> OwnServer {
        OwnServer::start("redis.sh")
    }

    /// One of the variables that its script prints.
    pub fn variable(&self, name: &str) -> String {
        let out = Command::new(&self.script).arg("env").arg(self.dir.path()).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let mut all = text.lines().filter_map(|line| line.split_once('='));
        all.find_map(|(known, value)| (known == name).then(|| value.to_owned())).unwrap()
    }

    pub fn opensearch(settings: &[&str]) -> OwnServer {
        OwnServer::start_with("opensearch.sh", settings)
    }

    pub fn registry() -> OwnServer {
        OwnServer::start("registry.sh")
    }

    pub fn smtp() -> OwnServer {
        OwnServer::start("smtp.sh")
    }

    /// Its folder, as its script says what is in it.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn pid(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(self.script.with_extension("pid").file_name().unwrap()))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// SIGSTOP, its children too: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// PostgreSQL has a process for each session.
    fn signal(&self, signal: &str) {
        let pid = self.pid();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &pid]).output().unwrap();
        for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            // One of them may have ended by itself.
            drop(Command::new("kill").args([signal, child]).stderr(Stdio::null()).status());
        }
    }

    pub fn act(&self, verb: &str) {
        let status =
            Command::new(&self.script).arg(verb).arg(self.dir.path()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{} {verb} failed", self.script.display());
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        drop(Command::new(&self.script).arg("stop").arg(self.dir.path()).stdout(Stdio::null()).status());
    }
}
