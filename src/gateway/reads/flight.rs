//! One question at a time for each key: who asks while it is under way gets its answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

/// The questions under way, by key. Cheap to clone; every clone shares them.
#[derive(Clone)]
pub struct Flights<T: Clone> {
    /// Requests that begin, and questions that end; for moments.
    under_way: Arc<Mutex<HashMap<String, Flight<T>>>>,
}

type Flight<T> = Shared<BoxFuture<'static, Option<T>>>;

impl<T: Clone> Default for Flights<T> {
    fn default() -> Self {
        Flights { under_way: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// The answer to the question of this key. Where none is under way, `ask` is: in a task of its own, so that what it has
    /// begun is brought to an end although the client may go. `None`: it panicked.
    pub async fn join<F>(&self, key: String, ask: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let flight = {
            let mut under_way = self.locked();
            match under_way.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (asked, own, name) = (ask(), self.clone(), key.clone());
                    let task = tokio::spawn(async move {
                        // Removed whatever happens.
                        let _end = Landing { flights: own, key: name };
                        asked.await
                    });
                    let flight = task.map(Result::ok).boxed().shared();
                    under_way.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Flight<T>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a question off the list when it has ended.
struct Landing<T: Clone + Send + Sync + 'static> {
    flights: Flights<T>,
    key: String,
}

impl<T: Clone + Send + Sync + 'static> Drop for Landing<T> {
    fn drop(&mut self) {
        drop(self.flights.locked().remove(&self.key));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn who_asks_at_the_same_time_gets_the_same_answer() {
        let (flights, asked) = (Flights::<usize>::default(), Arc::new(AtomicUsize::new(0)));
        let join = |key: &'static str| {
            let (flights, asked) = (flights.clone(), Arc::clone(&asked));
            async move {
                let ask = move || async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    asked.fetch_add(1, Ordering::SeqCst)
                };
                flights.join(key.to_owned(), ask).await
            }
        };
        let (a, b, c) = tokio::join!(join("x"), join("x"), join("y"));
        assert_eq!(a, b);
        assert_ne!(a, c);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert_eq!(join("x").await, Some(2), "afterwards it is asked again");
        assert!(flights.locked().is_empty());
    }

    #[tokio::test]
    async fn a_question_ends_although_who_asked_has_gone() {
        let (flights, done) = (Flights::<()>::default(), Arc::new(AtomicUsize::new(0)));
        let ended = Arc::clone(&done);
        let ask = flights.join("x".into(), || async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ended.fetch_add(1, Ordering::SeqCst);
        });
        assert!(tokio::time::timeout(Duration::from_millis(1), ask).await.is_err());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(done.load(Ordering::SeqCst), 1);
        assert!(flights.locked().is_empty());
    }
}
