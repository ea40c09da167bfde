//! The end of `dev`: whether the tables hold what they must, and a summary.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stage::{Stage, calls};
use crate::dev::{Left, Proof, Snapshot, Subject, View, count, limit_text};
use crate::model::{Clock, Json, SystemClock};
use crate::sinks::TableSink;

/// Rows shown at the end.
const ROWS_SHOWN: usize = 3;

impl Stage {
    /// Prints the tables' first rows and whether they are right. `left` is what has not settled, if that is known.
    pub(super) fn prove(&self, view: &View, left: Option<&Left>) -> bool {
        for (n, table) in &self.tables {
            let rows = table.rows();
            view.say(&format!("\n{}: {} rows", self.topology.nodes[*n].name, count(rows.len() as u64)));
            if let Some(Json::Object(row)) = rows.first() {
                let names: Vec<&str> = row.keys().map(String::as_str).collect();
                view.say(&format!("  {}", names.join(" | ")));
            }
            for row in rows.iter().take(ROWS_SHOWN) {
                let cells = row.as_object().into_iter().flat_map(|row| row.values());
                let cells: Vec<String> =
                    cells.map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
                view.say(&format!("  {}", cells.join(" | ")));
            }
            if rows.len() > ROWS_SHOWN {
                view.say("  ...");
            }
        }
        view.say("");
        let Some(left) = left else {
            view.say("nothing to prove: the events came from the topology's own sources");
            return true;
        };
        if !left.is_nothing() {
            view.say(&format!("NOT PROVED: it did not settle: {left}"));
            return false;
        }
        let subject = Subject::find(&self.topology);
        let Some((subject, table)) = subject.and_then(|s| Some((s.clone(), self.tables.get(&s.sink)?)))
        else {
            view.say("nothing to prove: no column of a table is the answer of `/accounts/{{ key }}`");
            return true;
        };
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let proof = Proof::of(&accounts, table, &subject.column, SystemClock.now());
        if proof.accounts == 0 {
            view.say("nothing to prove: no account was changed");
            return true;
        }
        if proof.holds() {
            let n = count(proof.accounts as u64);
            view.say(&format!("PROVED: all {n} accounts that changed have their settled state in their row"));
            return true;
        }
        let (wrong, all) = (count(proof.wrong as u64), count(proof.accounts as u64));
        view.say(&format!("NOT PROVED: {wrong} of {all} accounts have another row than their settled state"));
        for difference in &proof.differences {
            view.say(&format!("  {difference}"));
        }
        false
    }

    pub(super) fn summary(
        &self,
        view: &View,
        written: Option<&AtomicU64>,
        end: &Snapshot,
        dead_letters: u64,
        proved: bool,
    ) {
        let events = written.map_or(end.events, |n| n.load(Ordering::Relaxed));
        let line = |what: &str, number: String, more: &str| {
            view.say(format!("  {what:<26}{number:>9}   {more}").trim_end());
        };
        view.say("");
        line("events", count(events), "");
        if calls(&self.topology) {
            let stats = self.api.stats();
            let refused = format!(
                "{} answered 429 and {} 503, and were made again",
                stats.throttled, stats.unavailable
            );
            line(
                "calls made",
                count(stats.calls),
                if stats.throttled + stats.unavailable > 0 { &refused } else { "" },
            );
            let saved = events.saturating_sub(stats.calls);
            let percent = Snapshot { events, waiting: 0, ..*end }.saved_percent().unwrap_or(0);
            line("calls saved", format!("{percent} %"), &format!("{} fewer than events", count(saved)));
            let limit =
                self.limit().map_or_else(|| "no limit".to_owned(), |l| format!("of {}", limit_text(l)));
            line("most calls in one second", count(stats.busiest_second as u64), &limit);
        }
        let rows: u64 = self.tables.values().map(TableSink::written).sum();
        line("rows written", count(rows), "");
        line("dead letters", count(dead_letters), "");
        let early = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).read_early();
        if early > 0 {
            let why = match proved {
                true => "busy accounts, called at `max_wait`, and again when quiet",
                false => "is the debounce's `quiet` longer than what a change takes to settle?",
            };
            line("calls before settled", count(early), why);
        }
    }
}
