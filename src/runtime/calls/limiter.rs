//! The rate limiter: waits until the pacer grants an attempt. The call driver asks it before every attempt; all callers
//! of one API in this process share it.
//!
//! One caller at a time asks the pacer, in the order in which they came. That is fair, and takes one timer instead of
//! one per caller.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pacer::{Pacer, Turn};
use crate::clients::Pace;
use crate::operators::shared::rate_limit::{RateLimitConfig, RateScope};

/// What a limiter has done so far, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LimiterStats {
    /// Grants so far.
    pub granted: u64,
    /// Time that callers waited, summed over callers.
    pub waited: Duration,
    /// Callers waiting now.
    pub waiting: usize,
    /// Grants in the last full second, as a fraction of what this instance may use.
    pub used_share: f64,
}

/// A rate limiter shared by every caller of one API in this process.
pub struct Limiter {
    start: Instant,
    /// Callers in the order they came; the holder alone asks the pacer.
    queue: tokio::sync::Mutex<()>,
    /// Shared with the code that sets the share or pauses; never held across an await.
    pacer: Mutex<Pacer>,
    changed: Notify,
    waiting: AtomicUsize,
    granted: AtomicU64,
    waited_micros: AtomicU64,
}

impl Limiter {
    /// A limiter from its settings. With `scope: cluster` it grants nothing until [`Limiter::set_share`].
    #[must_use]
    pub fn new(config: &RateLimitConfig) -> Limiter {
        let share = match config.scope {
            RateScope::Instance => 1.0,
            RateScope::Cluster => 0.0,
        };
        Limiter::with(Pacer::new(Some(config.limit.per_second), share))
    }

    /// No limit, but it can be paused: for nodes without `rate_limit`, so that `Retry-After` slows them too.
    #[must_use]
    pub fn unlimited() -> Limiter {
        Limiter::with(Pacer::new(None, 1.0))
    }

    fn with(pacer: Pacer) -> Limiter {
        Limiter {
            start: Instant::now(),
            queue: tokio::sync::Mutex::new(()),
            pacer: Mutex::new(pacer),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
            granted: AtomicU64::new(0),
            waited_micros: AtomicU64::new(0),
        }
    }

    fn pacer(&self) -> MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a grant; callers are served in the order they came. Make the call at once, since the limit counts
    /// grants. Cancel safe: a dropped caller takes no grant.
    pub async fn acquire(&self) {
        let came = Instant::now();
        let waiting = Waiting::new(&self.waiting);
        let turn = self.queue.lock().await;
        loop {
            let more = self.waiting.load(Ordering::Relaxed) > 1;
            let until = match self.pacer().turn(self.start.elapsed(), more) {
                Turn::Go => break,
                Turn::Wait(until) => until,
            };
            tokio::select! {
                () = tokio::time::sleep_until(self.start + until) => {}
                () = self.changed.notified() => {}
            }
        }
        drop(turn);
        drop(waiting);
        self.granted.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(came.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// Sets this instance's share of the limit, 0 to 1. A lower share applies at once, a higher one after a second.
    pub fn set_share(&self, share: f64) {
        self.pacer().set_share(self.start.elapsed(), share);
        self.changed.notify_one();
    }

    /// Grants nothing for `time`, to any caller (`Retry-After`). A pause is never shortened.
    pub fn pause_for(&self, time: Duration) {
        self.pacer().pause(self.start.elapsed() + time);
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> LimiterStats {
        LimiterStats {
            granted: self.granted.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)),
            waiting: self.waiting.load(Ordering::Relaxed),
            used_share: self.pacer().used_share(self.start.elapsed()),
        }
    }
}

impl Pace for Limiter {
    fn turn(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.acquire())
    }

    fn pause_for(&self, time: Duration) {
        Limiter::pause_for(self, time);
    }
}

/// Counts a caller for as long as it waits, also when it is cancelled.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Waiting<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::calls::pacer::tests::busiest;

    const SECOND: Duration = Duration::from_secs(1);

    /// With `TIMINGS` set, as the last step of `./test long` has it, it asks for nearly all of the limit.
    #[test]
    fn real_tasks_get_1500_a_second_and_no_more() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build()
            .expect("a runtime");
        let config =
            RateLimitConfig { limit: "1500/s".parse().expect("is a rate"), scope: RateScope::Instance };
        let limiter = Arc::new(Limiter::new(&config));
        let start = std::time::Instant::now();
        let time = SECOND * 3;
        let mut grants = runtime.block_on(async {
            let tasks: Vec<_> = (0..128)
                .map(|_| {
                    let limiter = Arc::clone(&limiter);
                    tokio::spawn(async move {
                        let mut grants = Vec::new();
                        while start.elapsed() < time {
                            limiter.acquire().await;
                            grants.push(start.elapsed());
                        }
                        grants
                    })
                })
                .collect();
            let mut all = Vec::new();
            for task in tasks {
                all.push(task.await.expect("does not panic"));
            }
            all
        });
        let (least, most) = (grants.iter().map(Vec::len).min(), grants.iter().map(Vec::len).max());
        let mut all: Vec<_> = grants.drain(..).flatten().filter(|at| *at < time).collect();
        all.sort_unstable();
        let (busiest, used) = (busiest(&all, SECOND), all.len() as f64 / 4500.0);
        println!(
            "128 tasks: {used:.3} of the limit used, {busiest} in the busiest second, {least:?} to {most:?} a task"
        );
        println!("{:?}", limiter.stats());
        assert!(busiest <= 1500, "{busiest} in one second");
        // How much of it they use is up to the machine as well: a busy one wakes them late.
        let least_used = if std::env::var_os("TIMINGS").is_some() { 0.8 } else { 0.2 };
        assert!(used >= least_used, "{used:.3} of the limit used");
    }
}
