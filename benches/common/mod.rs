//! What the benches of debounce and of a task share: the same events at the same virtual times, how CPU time is taken,
//! and variants that run in a process of their own.
//!
//! Keys are drawn uniformly; 20 bytes of key, 128 of value; quiet 30 s, max_wait 60 s; `rho` events per key and quiet time.

use std::process::Command;

use cpu_time::ThreadTime;
use slackwater::operators::debounce::Rule;

pub type Error = Box<dyn std::error::Error + Send + Sync>;

pub const QUIET: i64 = 30_000;
pub const MAX_WAIT: i64 = 60_000;
pub const RULE: Rule = Rule::Quiet { quiet: QUIET, max_wait: Some(MAX_WAIT) };
pub const KEY: usize = 20;
pub const VALUE: usize = 128;
/// Parts of a run, of whose figures the median is taken.
pub const SEGMENTS: usize = 5;

/// Makes events, always the same ones.
pub struct Feed {
    keys: u64,
    rho: u64,
    seed: u64,
    /// Events made so far.
    pub made: u64,
}

impl Feed {
    pub fn new(keys: u64, rho: u64) -> Feed {
        Feed { keys, rho, seed: 42, made: 0 }
    }

    /// The key of this number, `account-000000000042`.
    pub fn key(n: u64, to: &mut [u8]) {
        to[..8].copy_from_slice(b"account-");
        let mut n = n;
        for digit in to[8..KEY].iter_mut().rev() {
            *digit = b'0' + u8::try_from(n % 10).unwrap_or(0);
            n /= 10;
        }
    }

    /// The next event: its key into the first bytes, its value, which is told the event's number, into the others. Returns
    /// its time, ms from the first event's.
    pub fn event(&mut self, to: &mut [u8], value: impl FnOnce(u64, &mut [u8])) -> i64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (key, rest) = to.split_at_mut(KEY);
        Feed::key(((u128::from(self.seed) * u128::from(self.keys)) >> 64) as u64, key);
        value(self.made, rest);
        let at = self.made * QUIET.unsigned_abs() / (self.keys * self.rho);
        self.made += 1;
        i64::try_from(at).unwrap_or(0)
    }
}

pub fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(0.0)
}

/// Nanoseconds of CPU time of this thread.
pub fn spent(since: ThreadTime) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}

/// Runs this program with these arguments, which make it print `N` numbers and maybe some words.
pub fn in_a_process<const N: usize>(args: &[String]) -> Result<([f64; N], String), Error> {
    let out = Command::new(std::env::current_exe()?).args(args).output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut parts = text.trim().splitn(N + 1, ' ');
    let numbers: Vec<f64> = parts.by_ref().take(N).filter_map(|part| part.parse().ok()).collect();
    let numbers = <[f64; N]>::try_from(numbers);
    let numbers =
        numbers.map_err(|_| format!("{}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr)))?;
    Ok((numbers, parts.next().unwrap_or_default().to_owned()))
}
