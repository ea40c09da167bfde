//! What the accounts of `dev` really are: the feed changes them, the simulated API answers from them, and the proof
//! compares the table with them.
//!
//! A change settles some time after it was made; until then a reader sees the older state, as in the pipeline behind
//! the real API. So a call that is made too early writes an old row, and the proof finds it. Pure: time is an argument.
//! Bounded: an account keeps its settled change and those that have not settled yet.

use std::collections::{BTreeMap, VecDeque};

use serde_json::json;

use crate::model::{Json, Millis, Timestamp};

/// All accounts that were changed.
#[derive(Debug)]
pub struct Accounts {
    settle: Millis,
    by_id: BTreeMap<String, Account>,
    first_saved: Option<Saved>,
    read_early: u64,
}

#[derive(Debug, Default)]
struct Account {
    /// Time and number of each change, oldest first. As of the last look, only the first has settled.
    changes: VecDeque<(Timestamp, u64)>,
    /// Changes since the API last answered.
    unanswered: u64,
}

/// One call in place of several events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The account.
    pub id: String,
    /// Its events since the answer before.
    pub events: u64,
}

impl Accounts {
    /// No changes yet; one settles `settle` after it was made.
    #[must_use]
    pub fn new(settle: Millis) -> Accounts {
        Accounts { settle, by_id: BTreeMap::new(), first_saved: None, read_early: 0 }
    }

    /// Changes an account; the number of the change, from 1.
    pub fn change(&mut self, id: &str, now: Timestamp) -> u64 {
        let settled_by = now.minus(self.settle);
        let account = self.by_id.entry(id.to_owned()).or_default();
        account.forget(settled_by);
        let number = account.changes.back().map_or(0, |(_, n)| *n) + 1;
        account.changes.push_back((now, number));
        account.unanswered += 1;
        number
    }

    /// The API's answer: the settled state. An account without changes is as it was made.
    pub fn answer(&mut self, id: &str, now: Timestamp) -> Json {
        let settled_by = now.minus(self.settle);
        let Some(account) = self.by_id.get_mut(id) else { return state(id, 0) };
        account.forget(settled_by);
        let events = std::mem::take(&mut account.unanswered);
        let settled = account.settled(settled_by);
        if account.changes.back().is_some_and(|(_, newest)| *newest != settled) {
            self.read_early += 1;
        }
        if events > 1 && self.first_saved.is_none() {
            self.first_saved = Some(Saved { id: id.to_owned(), events });
        }
        state(id, settled)
    }

    /// The settled state of an account, without counting as a call.
    #[must_use]
    pub fn settled(&self, id: &str, now: Timestamp) -> Json {
        let number = self.by_id.get(id).map_or(0, |a| a.settled(now.minus(self.settle)));
        state(id, number)
    }

    /// Accounts that were changed, in order.
    pub fn changed(&self) -> impl Iterator<Item = &str> {
        self.by_id.keys().map(String::as_str)
    }

    /// Changes that have not settled.
    #[must_use]
    pub fn unsettled(&self, now: Timestamp) -> usize {
        let settled_by = now.minus(self.settle);
        self.by_id.values().map(|a| a.changes.iter().filter(|(at, _)| *at > settled_by).count()).sum()
    }

    /// The first call that was made in place of several events.
    #[must_use]
    pub fn first_saved(&self) -> Option<&Saved> {
        self.first_saved.as_ref()
    }

    /// Answers that were older than the account's newest change.
    #[must_use]
    pub fn read_early(&self) -> u64 {
        self.read_early
    }
}

impl Account {
    /// Number of the newest change made at `by` or before.
    fn settled(&self, by: Timestamp) -> u64 {
        self.changes.iter().rev().find(|(at, _)| *at <= by).map_or(0, |(_, number)| *number)
    }

    /// Drops changes older than the settled one.
    fn forget(&mut self, settled_by: Timestamp) {
        while self.changes.get(1).is_some_and(|(at, _)| *at <= settled_by) {
            self.changes.pop_front();
        }
    }
}

/// An account after so many changes: every change is visible.
fn state(id: &str, changes: u64) -> Json {
    let plan = ["free", "team", "pro"][usize::try_from(changes % 3).unwrap_or(0)];
    json!({ "id": id, "version": changes, "plan": plan })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(json: &Json) -> u64 {
        json["version"].as_u64().expect("has a version")
    }

    #[test]
    fn a_change_shows_once_it_has_settled() {
        let mut accounts = Accounts::new(Millis(100));
        assert_eq!(accounts.change("a", Timestamp(1000)), 1);
        assert_eq!(accounts.change("a", Timestamp(1050)), 2);
        for (at, expected) in [(1050, 0), (1099, 0), (1100, 1), (1149, 1), (1150, 2), (9000, 2)] {
            assert_eq!(version(&accounts.settled("a", Timestamp(at))), expected, "at {at}");
            assert_eq!(version(&accounts.answer("a", Timestamp(at))), expected, "at {at}");
        }
        assert_eq!(accounts.read_early(), 4);
        assert_eq!((accounts.unsettled(Timestamp(1149)), accounts.unsettled(Timestamp(1150))), (1, 0));
        assert_eq!(version(&accounts.answer("never changed", Timestamp(0))), 0);
        assert_eq!(accounts.changed().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn only_what_may_still_be_asked_for_is_kept() {
        let mut accounts = Accounts::new(Millis(10));
        for n in 0..1000 {
            accounts.change("a", Timestamp(n));
        }
        assert!(accounts.by_id["a"].changes.len() <= 12, "{}", accounts.by_id["a"].changes.len());
    }

    #[test]
    fn the_first_call_for_several_events_is_remembered() {
        let mut accounts = Accounts::new(Millis(0));
        accounts.change("a", Timestamp(1));
        accounts.answer("a", Timestamp(2));
        assert_eq!(accounts.first_saved(), None, "one event, one call");
        for id in ["b", "b", "b", "a", "a"] {
            accounts.change(id, Timestamp(3));
        }
        accounts.answer("b", Timestamp(4));
        accounts.answer("a", Timestamp(5));
        assert_eq!(accounts.first_saved(), Some(&Saved { id: "b".into(), events: 3 }));
    }
}
