//! Runs a user's [`Processor`] as an operator: its punctuators, its timers, and the rows in which they are kept.
//!
//! Everything is in one store; the first byte of the key tells what a row is:
//!
//! ```text
//! p NAME          a punctuator: when it is due next
//! s NAME 0 KEY    the user's stores
//! t KEY           a timer: when it is due, and
//! u TIME KEY      the same by time
//! ```

use std::ops::ControlFlow;

use bytes::Bytes;

use super::processor::{Processor, ProcessorCx};
use super::schedule::{Clock, Punctuator};
use crate::model::{Json, Record, Timestamp};
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::{Cx, Operator, OperatorError, Query};
use crate::state::codec::{ordered_i64, read_ordered_i64};
use crate::state::{StateError, Store, after_prefix};

const PUNCTUATOR: u8 = b'p';
const STORE: u8 = b's';
const TIMER: u8 = b't';
const TIMER_BY_TIME: u8 = b'u';
/// Format of a timer's rows.
const VERSION: u8 = 1;
/// Timers and punctuations called by one call of `on_time`; the rest follow when the task asks again.
const CALLS_MAX: usize = 1024;

/// The node that runs a user's processor.
pub(super) struct ProcessorNode<P> {
    processor: P,
    /// Each with the time at which it is due next.
    punctuators: Vec<(Punctuator, Timestamp)>,
    timers: Timers,
}

impl<P: Processor> ProcessorNode<P> {
    pub(super) fn new(processor: P) -> ProcessorNode<P> {
        let punctuators = processor.punctuators().into_iter().map(|p| (p, Timestamp::MIN)).collect();
        ProcessorNode { processor, punctuators, timers: Timers::default() }
    }

    fn next(&self, clock: Clock) -> Option<(usize, Timestamp)> {
        let of = self.punctuators.iter().enumerate().filter(|(_, (p, _))| p.clock == clock);
        of.map(|(n, (_, due))| (n, *due)).min_by_key(|(n, due)| (*due, *n))
    }

    fn punctuate(&mut self, n: usize, at: Timestamp, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let (punctuator, due) = &mut self.punctuators[n];
        *due = punctuator.next(*due, at);
        let name = punctuator.name;
        cx.store(0).put(&row_key(PUNCTUATOR, name.as_bytes()), punctuator.row(*due));
        let result = self.processor.punctuate(name, at, &mut ProcessorCx { cx, timers: &mut self.timers });
        go_on(result, cx)
    }
}

/// Lets the remaining timers be called after one refused its record.
fn go_on(result: Result<(), OperatorError>, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
    match result {
        Err(OperatorError::Reject(reject)) => {
            cx.reject(*reject);
            Ok(())
        }
        other => other,
    }
}

impl<P: Processor> Operator for ProcessorNode<P> {
    fn open(&mut self, cx: &mut Cx<'_>) -> Result<(), StateError> {
        let mut saved: Vec<(Vec<u8>, Bytes)> = Vec::new();
        cx.store(0).scan(&[PUNCTUATOR], Some(&[PUNCTUATOR + 1]), &mut |key, row| {
            saved.push((key.to_vec(), Bytes::copy_from_slice(row)));
            ControlFlow::Continue(())
        })?;
        let (stream, wall) = (cx.clock, cx.now);
        for (punctuator, due) in &mut self.punctuators {
            let key = row_key(PUNCTUATOR, punctuator.name.as_bytes());
            let at = saved.iter().position(|(k, _)| *k == key);
            let row = at.map(|at| saved.swap_remove(at).1);
            let known = row.map(|row| punctuator.due(&row)).transpose()?.flatten();
            *due = known.unwrap_or_else(|| punctuator.first(stream, wall));
            if known.is_none() {
                // A restart cannot tell what the schedule is aligned to, so the next time is written down.
                cx.store(0).put(&key, punctuator.row(*due));
            }
        }
        for (gone, _) in saved {
            cx.store(0).delete(&gone);
        }
        self.timers.open(cx.store(0))
    }

    fn on_record(&mut self, record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        self.processor.process(record, &mut ProcessorCx { cx, timers: &mut self.timers })
    }

    fn deadline(&self) -> Option<Timestamp> {
        let punctuation = self.next(Clock::Stream).map(|(_, due)| due);
        punctuation.into_iter().chain(self.timers.earliest).min()
    }

    fn on_time(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        for _ in 0..CALLS_MAX {
            let punctuation = self.next(Clock::Stream).filter(|(_, due)| *due <= cx.clock);
            let timer = self.timers.earliest.filter(|at| *at <= cx.clock);
            if let Some((n, due)) = punctuation
                && timer.is_none_or(|at| due < at)
            {
                self.punctuate(n, cx.clock, cx)?;
            } else if timer.is_some() {
                let Some((at, key)) = self.timers.take(cx.clock, cx.store(0))? else { continue };
                let result =
                    self.processor.timer(&key, at, &mut ProcessorCx { cx, timers: &mut self.timers });
                go_on(result, cx)?;
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    fn wall_deadline(&self) -> Option<Timestamp> {
        self.next(Clock::Wall).map(|(_, due)| due)
    }

    fn on_wall(&mut self, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        while let Some((n, _)) = self.next(Clock::Wall).filter(|(_, due)| *due <= cx.now) {
            self.punctuate(n, cx.now, cx)?;
        }
        Ok(())
    }

    fn has_work(&self) -> bool {
        self.timers.earliest.is_some()
    }

    /// Its row in each of the user's stores, its timer, and the punctuator of that name.
    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        let mut from = vec![STORE];
        while let Some(first) = query.first_key(&from, Some(&[STORE + 1]))? {
            let Some(end) = first.iter().position(|b| *b == 0) else { break };
            let prefix = &first[..=end];
            query.get(&[prefix, query.key()].concat())?;
            from = after_prefix(prefix);
        }
        query.get(&row_key(TIMER, query.key()))?;
        query.get(&row_key(PUNCTUATOR, query.key()))
    }
}

/// The timers of a node, one per key.
#[derive(Default)]
pub(super) struct Timers {
    /// No timer is due before this; `None` if there are none.
    earliest: Option<Timestamp>,
}

impl Timers {
    fn open(&mut self, store: &Store) -> Result<(), StateError> {
        self.earliest = first(store)?.map(|(at, _)| at);
        Ok(())
    }

    pub(super) fn set(&mut self, key: &[u8], at: Timestamp, store: &mut Store) -> Result<(), StateError> {
        if let Some(old) = due(key, store)? {
            if old == at {
                return Ok(());
            }
            store.delete(&by_time(old, key));
        }
        let row = [&[VERSION][..], &ordered_i64(at.0)].concat();
        store.put(&row_key(TIMER, key), Bytes::from(row));
        store.put(&by_time(at, key), Bytes::from_static(&[VERSION]));
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
        Ok(())
    }

    /// `earliest` stays as it is: it may be too early.
    pub(super) fn cancel(&mut self, key: &[u8], store: &mut Store) -> Result<(), StateError> {
        if let Some(at) = due(key, store)? {
            store.delete(&by_time(at, key));
            store.delete(&row_key(TIMER, key));
        }
        Ok(())
    }

    /// Takes the first timer that is due, and finds the next.
    fn take(
        &mut self,
        clock: Timestamp,
        store: &mut Store,
    ) -> Result<Option<(Timestamp, Vec<u8>)>, StateError> {
        let found = first(store)?;
        self.earliest = found.as_ref().map(|(at, _)| *at);
        let Some((at, key)) = found.filter(|(at, _)| *at <= clock) else { return Ok(None) };
        store.delete(&by_time(at, &key));
        store.delete(&row_key(TIMER, &key));
        self.earliest = first(store)?.map(|(at, _)| at);
        Ok(Some((at, key)))
    }
}

/// The time for which a key's timer is set.
fn due(key: &[u8], store: &Store) -> Result<Option<Timestamp>, StateError> {
    let Some(row) = store.get(&row_key(TIMER, key))? else { return Ok(None) };
    match row.split_first_chunk::<1>() {
        Some(([VERSION], at)) => time(at).map(Some),
        _ => Err(StateError("a timer of a custom operator cannot be read".into())),
    }
}

fn time(bytes: &[u8]) -> Result<Timestamp, StateError> {
    let at = <[u8; 8]>::try_from(bytes).map_err(|_| StateError("a timer's time is cut off".into()))?;
    Ok(Timestamp(read_ordered_i64(at)))
}

/// The first timer, by time and then by key.
fn first(store: &Store) -> Result<Option<(Timestamp, Vec<u8>)>, StateError> {
    let mut found = None;
    store.scan(&[TIMER_BY_TIME], Some(&[TIMER_BY_TIME + 1]), &mut |key, _| {
        found = Some(key[1..].to_vec());
        ControlFlow::Break(())
    })?;
    let Some(row) = found else { return Ok(None) };
    let (at, key) = row.split_at_checked(8).unwrap_or((&row, &[]));
    Ok(Some((time(at)?, key.to_vec())))
}

fn row_key(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind], rest].concat()
}

fn by_time(at: Timestamp, key: &[u8]) -> Vec<u8> {
    [&[TIMER_BY_TIME][..], &ordered_i64(at.0), key].concat()
}

/// The prefix of the keys of a user's store. A NUL in the name would reach into another store.
pub(super) fn store_prefix(name: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(name.len() + 2);
    prefix.push(STORE);
    prefix.extend(name.bytes().filter(|b| *b != 0));
    prefix.push(0);
    prefix
}

/// A row in readable form; `None` if the bytes are no such row.
pub(in crate::operators) fn describe_row(key: &[u8], value: &[u8]) -> Option<Described> {
    let (kind, rest) = key.split_first()?;
    match *kind {
        STORE => {
            let end = rest.iter().position(|b| *b == 0)?;
            let row = Described::of_key(&rest[end + 1..], describe::bytes(value));
            Some(row.at("store", describe::text(&rest[..end])))
        }
        TIMER => {
            let at = time(value.get(1..)?).ok()?;
            Some(Described::of_key(rest, Json::from(at.0)).at("timer", true))
        }
        PUNCTUATOR => {
            let next = value.last_chunk::<8>()?;
            let row = Described::of_key(rest, Json::from(i64::from_be_bytes(*next)));
            Some(row.at("punctuator", true))
        }
        TIMER_BY_TIME => {
            let (at, key) = rest.split_at_checked(8)?;
            Some(Described::of_key(key, Json::Null).at("timer_at", time(at).ok()?.0))
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
