//! Points between two steps of a checkpoint at which a debug build can be told to die, for the tests that look at what
//! is left. `SLACKWATER_FAILPOINT=NAME` ends the process at the first hit of a point, `NAME:N` at the Nth, as `kill -9`
//! does: nothing is flushed, closed or told. Release builds have none of it.

/// An epoch is sealed; nothing of it has left the process.
pub(super) const SEALED: &str = "sealed";
/// The checkpoint's deliveries are durable; its transaction is not begun.
pub(super) const SETTLED: &str = "settled";
/// The transaction's records are acked, without offsets.
pub(super) const PRODUCED: &str = "produced";
/// The offsets are in the transaction, which is open.
pub(super) const OFFSETS: &str = "offsets";
/// The transaction is committed; local state is behind it.
pub(super) const COMMITTED: &str = "committed";
/// Local state has it; the task does not know.
pub(super) const APPLIED: &str = "applied";
/// Some rows of the changelog are in local state, and more are to come.
pub(super) const RESTORING: &str = "restoring";

/// Ends the process here, if it was told to.
#[cfg(debug_assertions)]
pub(super) fn hit(point: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static AT: OnceLock<Option<(String, AtomicU64)>> = OnceLock::new();
    let at = AT.get_or_init(|| {
        let text = std::env::var("SLACKWATER_FAILPOINT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicU64::new(nth.parse().unwrap_or(1))))
    });
    if let Some((name, left)) = at
        && name == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        tracing::error!(point, "failpoint");
        std::process::abort();
    }
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
pub(super) fn hit(_: &str) {}
