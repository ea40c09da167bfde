//! Points between the steps of a checkpoint at which a debug build can be told to die, for tests of what remains then.
//! `SLACKWATER_FAILPOINT=NAME` ends the process at the first hit of a point, `NAME:N` at the Nth, as `kill -9` does:
//! nothing is flushed, closed or reported. Release builds do none of this.

/// An epoch is sealed; nothing of it has left the process.
pub(in crate::runtime) const SEALED: &str = "sealed";
/// The checkpoint's deliveries are durable; its transaction is not begun.
pub(in crate::runtime) const SETTLED: &str = "settled";
/// The transaction's records are acked, without offsets.
pub(in crate::runtime) const PRODUCED: &str = "produced";
/// The offsets are in the transaction, which is open.
pub(in crate::runtime) const OFFSETS: &str = "offsets";
/// The transaction is committed; local state does not have it yet.
pub(in crate::runtime) const COMMITTED: &str = "committed";
/// Local state has it; the task was not told.
pub(in crate::runtime) const APPLIED: &str = "applied";
/// Some rows of the changelog are in local state, and more are to come.
pub(in crate::runtime) const RESTORING: &str = "restoring";
/// A transaction of a move to other names is committed, or a partition of it is done.
pub(in crate::runtime) const MOVING: &str = "moving";
/// A move is written down; the old topics are still there.
pub(in crate::runtime) const MOVED: &str = "moved";

/// A checkpoint fails before anything of it is sent: `failed:N` fails every Nth.
pub(in crate::runtime) const FAILED: &str = "failed";
/// A checkpoint is committed, but reported as failed: `doubtful:N` does so to every Nth.
pub(in crate::runtime) const DOUBTFUL: &str = "doubtful";

/// Ends the process here, if it was told to.
pub(in crate::runtime) fn hit(point: &str) {
    if reached(point, |count, nth| count == nth) {
        tracing::error!(point, "failpoint");
        std::process::abort();
    }
}

/// Whether this should fail.
pub(in crate::runtime) fn fails(point: &str) -> bool {
    reached(point, u64::is_multiple_of)
}

#[cfg(debug_assertions)]
fn reached(point: &str, now: fn(u64, u64) -> bool) -> bool {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct At {
        name: String,
        nth: u64,
        count: AtomicU64,
    }
    static AT: OnceLock<Option<At>> = OnceLock::new();
    let at = AT.get_or_init(|| {
        let text = std::env::var("SLACKWATER_FAILPOINT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some(At { name: name.to_owned(), nth: nth.parse().unwrap_or(1), count: AtomicU64::new(0) })
    });
    at.as_ref()
        .is_some_and(|at| at.name == point && now(at.count.fetch_add(1, Ordering::Relaxed) + 1, at.nth))
}

/// Never, in a release build.
#[cfg(not(debug_assertions))]
fn reached(_: &str, _: fn(u64, u64) -> bool) -> bool {
    false
}
