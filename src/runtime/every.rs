//! Repeats a request to a server while everything else runs: the pace, the thread and the end of such a loop.
//!
//! The engine uses it for what it watches: the horizons of repartition topics and their purge, and the topics that
//! sinks write.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Calls `ask`, which may block, on a thread for blocking work: first after `pause`, then `pause` after each answer,
/// until `stop`. A stop does not wait for an answer.
pub(super) async fn every(
    pause: Duration,
    what: &'static str,
    stop: CancellationToken,
    mut ask: impl FnMut() + Send + 'static,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let call = tokio::task::spawn_blocking(move || {
            ask();
            ask
        });
        let answered = tokio::select! {
            () = stop.cancelled() => return,
            answered = call => answered,
        };
        match answered {
            Ok(back) => ask = back,
            Err(error) => {
                tracing::error!(%error, what, "is not asked any more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn it_asks_until_it_is_told_to_stop_and_waits_for_no_answer_then() {
        let stop = CancellationToken::new();
        let (asked, answers) = channel();
        let (answer, blocked) = channel::<()>();
        let mut count = 0;
        let running = tokio::spawn(every(Duration::ZERO, "a test", stop.clone(), move || {
            count += 1;
            asked.send(count).unwrap();
            if count == 3 {
                // The answer never comes.
                blocked.recv().unwrap_or_default();
            }
        }));
        let seen = tokio::task::spawn_blocking(move || answers.iter().take(3).collect::<Vec<i32>>());
        assert_eq!(seen.await.unwrap(), [1, 2, 3], "its state goes from one to the next");
        assert!(!running.is_finished());
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), running).await.expect("it ends").unwrap();
        drop(answer);
    }
}
