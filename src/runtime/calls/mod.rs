//! The call driver of one node: makes the calls that its tasks ask for, whichever worker they belong to.
//!
//! A worker hands in a job without waiting ([`CallDriver::try_submit`]); a full queue gives it back. Each job waits for
//! a free slot, then for the circuit breaker and the limiter's grant, and makes one attempt; the answer goes back with
//! the job's ticket. Retries are decided by the operator and come as new jobs. A server that wants no calls for a time
//! (`Retry-After` on 429 and 503) pauses the limiter, which slows every caller of that API.
//!
//! Order: jobs of one key never overlap, because the operator sends a key's next call after the answer to the one
//! before. Shutdown: calls in flight are dropped; they are pending in the checkpoint and will be made again.
//!
//! What an answer means is decided in `clients/`, what that means for the record in `operators/enrich`.

pub(crate) mod breaker;
pub(crate) mod limiter;
pub(crate) mod pacer;
pub(super) mod permit;
pub(super) mod shares;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::breaker::{Admission, Breaker, Pass};
use self::limiter::Limiter;
use crate::clients::{Called, Caller};
use crate::model::{Call, Reply};

/// The longest pause that one answer's `Retry-After` puts on the limiter.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Between two lines that say why calls fail.
const SAY: Duration = Duration::from_secs(10);

/// One attempt to make. The ticket identifies where the answer belongs; the driver only carries it.
#[derive(Debug)]
pub struct Job<T> {
    /// Goes back with the answer.
    pub ticket: T,
    /// The call.
    pub call: Call,
}

/// Counters of a node's calls, of all tasks in this process. The metrics read them at any time.
#[derive(Debug)]
pub struct CallCounters {
    /// Attempts by outcome.
    outcomes: Vec<(&'static str, AtomicU64)>,
    /// Requests in flight.
    pub in_flight: AtomicUsize,
    /// Time in flight, microseconds, summed.
    call_micros: AtomicU64,
    /// How often the circuit opened.
    breaker_opened: AtomicU64,
}

impl CallCounters {
    /// Counters at zero, for calls with these possible outcomes.
    #[must_use]
    pub fn new(outcomes: &[&'static str]) -> CallCounters {
        CallCounters {
            outcomes: outcomes.iter().map(|name| (*name, AtomicU64::new(0))).collect(),
            in_flight: AtomicUsize::new(0),
            call_micros: AtomicU64::new(0),
            breaker_opened: AtomicU64::new(0),
        }
    }

    /// Attempts by the `status` label of `slackwater_calls_total`.
    pub fn by_outcome(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.outcomes.iter().map(|(name, n)| (*name, n.load(Ordering::Relaxed)))
    }

    /// Time that calls were in flight, summed.
    #[must_use]
    pub fn call_time(&self) -> Duration {
        Duration::from_micros(self.call_micros.load(Ordering::Relaxed))
    }

    /// How often the circuit opened.
    #[must_use]
    pub fn breaker_opened(&self) -> u64 {
        self.breaker_opened.load(Ordering::Relaxed)
    }

    fn count(&self, outcome: &'static str, took: Duration) {
        if let Some((_, n)) = self.outcomes.iter().find(|(name, _)| *name == outcome) {
            n.fetch_add(1, Ordering::Relaxed);
        }
        self.call_micros.fetch_add(micros(took), Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The parts of a driver.
pub struct CallParts {
    /// The node, for logs.
    pub node: String,
    /// Paces the attempts; without one they are paused only by `Retry-After`.
    pub limiter: Option<Arc<Limiter>>,
    /// Makes the requests.
    pub caller: Caller,
    /// Jobs that may wait for the limiter or be in flight; as many more may be queued.
    pub in_flight_max: usize,
    /// Counts the calls.
    pub counters: Arc<CallCounters>,
    /// Ends the driver.
    pub cancel: CancellationToken,
}

/// A running driver, shared by the workers of a process: one circuit breaker, one connection pool, one bound. When
/// every clone is dropped, it takes no more jobs and ends after the calls in flight.
pub struct CallDriver<T> {
    jobs: mpsc::Sender<Job<T>>,
}

// Not derived: a ticket need not be cloned.
impl<T> Clone for CallDriver<T> {
    fn clone(&self) -> Self {
        CallDriver { jobs: self.jobs.clone() }
    }
}

/// Identifies what a job's reply belongs to.
pub trait Ticket: Send + Sync + 'static {
    /// The call is about to be sent. False if its reply is not wanted any more: then the job ends without one.
    fn begin(&self) -> bool {
        true
    }
}

impl<T: Ticket> CallDriver<T> {
    /// Starts a driver. `reply_to(ticket, call id, reply)` is called on the runtime for each answer; it must not block.
    pub fn spawn<F>(handle: &Handle, parts: CallParts, reply_to: F) -> CallDriver<T>
    where
        F: Fn(T, u64, Reply) + Send + Sync + 'static,
    {
        let slots = parts.in_flight_max.clamp(1, Semaphore::MAX_PERMITS);
        let (jobs, queue) = mpsc::channel(slots);
        let shared = Shared {
            limiter: parts.limiter.unwrap_or_else(|| Arc::new(Limiter::unlimited())),
            caller: parts.caller,
            counters: parts.counters,
            start: Instant::now(),
            breaker: Mutex::new(Breaker::default()),
            turned: Notify::new(),
            said: Mutex::default(),
            node: parts.node,
            reply_to,
        };
        drop(handle.spawn(drive(Arc::new(shared), queue, slots, parts.cancel)));
        CallDriver { jobs }
    }

    /// Hands in a job, without waiting.
    ///
    /// # Errors
    /// The queue is full, or the driver has ended: the job comes back.
    pub fn try_submit(&self, job: Job<T>) -> Result<(), Job<T>> {
        self.jobs.try_send(job).map_err(|e| match e {
            mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job) => job,
        })
    }
}

struct Shared<F> {
    limiter: Arc<Limiter>,
    caller: Caller,
    counters: Arc<CallCounters>,
    start: Instant,
    /// Shared by the calls in flight; never held across an await.
    breaker: Mutex<Breaker>,
    /// Notified when the circuit opens or closes.
    turned: Notify,
    /// When it was said last why calls fail. Shared by the calls under way, for moments.
    said: Mutex<Option<Instant>>,
    node: String,
    reply_to: F,
}

async fn drive<T, F>(
    shared: Arc<Shared<F>>,
    mut queue: mpsc::Receiver<Job<T>>,
    slots: usize,
    cancel: CancellationToken,
) where
    T: Ticket,
    F: Fn(T, u64, Reply) + Send + Sync + 'static,
{
    enum Event<T> {
        Cancelled,
        Ended(Result<(), JoinError>),
        Job(Option<Job<T>>),
    }
    let mut calls = JoinSet::new();
    let mut open = true;
    while open || !calls.is_empty() {
        // Every arm is cancel safe (documented by tokio for all three); biased, so that the end is seen first and
        // finished calls are reaped before new ones start.
        let event = tokio::select! {
            biased;
            () = cancel.cancelled() => Event::Cancelled,
            Some(ended) = calls.join_next() => Event::Ended(ended),
            job = queue.recv(), if open && calls.len() < slots => Event::Job(job),
        };
        match event {
            Event::Cancelled => break,
            Event::Ended(Ok(())) => {}
            Event::Ended(Err(e)) => match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(e) => tracing::error!(node = shared.node, error = %e, "call was cancelled"),
            },
            Event::Job(None) => open = false,
            Event::Job(Some(job)) => {
                let shared = Arc::clone(&shared);
                calls.spawn(async move { shared.perform(job).await });
            }
        }
    }
    calls.shutdown().await;
}

impl<F> Shared<F> {
    async fn perform<T: Ticket>(&self, job: Job<T>)
    where
        F: Fn(T, u64, Reply),
    {
        let Some(pass) = self.pass(|| job.ticket.begin()).await else { return };
        let began = Instant::now();
        let flying = Flying::new(&self.counters.in_flight);
        let called = self.caller.call(&job.call.request).await;
        drop(flying);
        self.counters.count(called.outcome, began.elapsed());
        self.settle(pass, &called);
        (self.reply_to)(job.ticket, job.call.id, called.reply);
    }

    /// Waits until the circuit is closed (or needs a probe) and the limiter grants the attempt. If the circuit has
    /// opened meanwhile, the grant is given up: that makes fewer calls than allowed, never more.
    ///
    /// `begin` is asked last; if it says false, there is no pass.
    async fn pass(&self, begin: impl Fn() -> bool) -> Option<Pass> {
        loop {
            self.circuit().await;
            self.limiter.acquire().await;
            let mut breaker = self.breaker();
            if !matches!(breaker.look(self.start.elapsed()), Admission::Go(_)) {
                continue;
            }
            if !begin() {
                return None;
            }
            if let Admission::Go(pass) = breaker.admit(self.start.elapsed()) {
                return Some(pass);
            }
        }
    }

    async fn circuit(&self) {
        loop {
            // Created before looking, so that a change in between is not missed.
            let turned = self.turned.notified();
            let look = self.breaker().look(self.start.elapsed());
            match look {
                Admission::Go(_) => return,
                Admission::Wait(until) => tokio::time::sleep_until(self.start + until).await,
                Admission::Probing => turned.await,
            }
        }
    }

    /// Tells the breaker and the limiter what the answer shows about the API.
    fn settle(&self, pass: Pass, called: &Called) {
        if let Some(pause) = called.pause {
            self.limiter.pause_for(pause.duration().min(PAUSE_MAX));
        }
        let why = match &called.reply {
            Reply::Again { message, .. } if !called.alive => Some(message.as_str()),
            _ => None,
        };
        let (turned, open, opened) = {
            let mut breaker = self.breaker();
            let turned = breaker.done(self.start.elapsed(), pass, called.alive);
            (turned, breaker.is_open(), breaker.opened())
        };
        if turned {
            self.counters.breaker_opened.store(opened, Ordering::Relaxed);
            if open {
                tracing::warn!(node = self.node, opened, why, "the API fails: calls wait");
            } else {
                tracing::info!(node = self.node, opened, "the API answers again");
            }
            self.turned.notify_waiters();
        }
        if let Some(why) = why.filter(|_| !turned && self.may_say()) {
            tracing::warn!(node = self.node, why, "a call failed, and is made again");
        }
    }

    /// Is it time for another line about failing calls?
    fn may_say(&self) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let may = said.is_none_or(|at| at.elapsed() >= SAY);
        if may {
            *said = Some(Instant::now());
        }
        may
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request while it is in flight, also if it is dropped.
struct Flying<'a>(&'a AtomicUsize);

impl<'a> Flying<'a> {
    fn new(count: &'a AtomicUsize) -> Flying<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Flying(count)
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
