//! A running `slackwater run`: its log, its admin port, its end.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{World, wait};

/// A running `slackwater run`.
pub struct Instance {
    pub child: Child,
    pub log: PathBuf,
    pub admin: String,
    pub id: String,
}

impl Instance {
    pub fn start(world: &World, id: &str, more: &[&str]) -> Instance {
        Instance::start_with(world, id, more, &[])
    }

    pub fn start_with(world: &World, id: &str, more: &[&str], env: &[(&str, &str)]) -> Instance {
        let mut command = world.command(&[]);
        command.envs(env.iter().copied());
        Instance::spawn(command, &world.yaml, id, more)
    }

    /// `command` without arguments; log and state stand beside the topology file.
    pub fn spawn(mut command: Command, yaml: &Path, id: &str, more: &[&str]) -> Instance {
        static RUN: AtomicU64 = AtomicU64::new(0);
        let log = yaml.with_file_name(format!("{id}-{}.log", RUN.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&log).unwrap();
        let state = yaml.with_file_name(format!("state-{id}"));
        let child = command
            .args([
                "run",
                yaml.to_str().unwrap(),
                "--admin",
                "127.0.0.1:0",
                "--state-dir",
                state.to_str().unwrap(),
            ])
            .args(more)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut instance = Instance { child, log, admin: String::new(), id: id.into() };
        let mut admin = String::new();
        wait("the admin address is in the log", Duration::from_secs(20), || {
            let text = instance.text();
            if let Some(at) = text.find("admin=") {
                admin = text[at + 6..].split_whitespace().next().unwrap_or_default().to_owned();
            }
            assert!(
                instance.child.try_wait().unwrap().is_none() || !admin.is_empty(),
                "it ended: {}",
                instance.text()
            );
            !admin.is_empty()
        });
        instance.admin = admin;
        instance
    }

    /// Where its endpoints are served.
    pub fn http(&self) -> String {
        let mut http = String::new();
        wait("the endpoints' address is in the log", Duration::from_secs(20), || {
            let text = self.text();
            let address = text.split_once(" http=").map(|(_, rest)| rest.split_whitespace().next());
            http = address.flatten().unwrap_or_default().to_owned();
            !http.is_empty()
        });
        http
    }

    pub fn text(&self) -> String {
        strip_colours(&std::fs::read_to_string(&self.log).unwrap_or_default())
    }

    /// `GET` on the admin port: status and body; status 0 when it does not answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        http_get(&self.admin, path).unwrap_or((0, String::new()))
    }

    pub fn wait_ready(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        loop {
            let (status, body) = self.get("/ready");
            if status == 200 {
                return;
            }
            if let Some(code) = self.child.try_wait().unwrap() {
                panic!("{} ended with {code}:\n{}", self.id, self.text());
            }
            assert!(Instant::now() < end, "{} not ready in {limit:?}: {body}\n{}", self.id, self.text());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// A metric's value, summed over its labels that contain `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        self.get("/metrics")
            .1
            .lines()
            .filter(|l| l.starts_with(name) && l[name.len()..].starts_with(['{', ' ']) && l.contains(part))
            .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success()
        );
    }

    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit code.
    pub fn stop(mut self, limit: Duration) -> i32 {
        self.signal("-TERM");
        let mut code = None;
        wait(&format!("{} stops", self.id), limit, || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|c| c.code()).unwrap_or(-1)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
        if std::thread::panicking() {
            let text = self.text();
            let tail: Vec<&str> = text.lines().rev().take(40).collect();
            eprintln!("--- {} ---", self.log.display());
            tail.iter().rev().for_each(|l| eprintln!("{l}"));
        }
    }
}

pub fn http_get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split_whitespace().nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default();
    Some((status, body))
}

pub fn strip_colours(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}
