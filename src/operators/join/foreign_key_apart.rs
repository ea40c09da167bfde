//! A foreign-key join of tables in different partitions: two halves, with a topic between them in each direction (after
//! KIP-213). What comes out follows the rules in `foreign_key.rs`, which joins within one task.
//!
//! ```text
//! left row changes -> LeftHalf  -- subscription topic, by foreign key -->  RightHalf <- right row changes
//!        results   <- LeftHalf  <-- answer topic, by the left row's key --  RightHalf
//! ```
//!
//! The left half, beside the left table, tells the right half which foreign key a row now names, with a hash of the
//! row's value (a subscription). The right half, beside the right table, keeps the subscriptions, and answers with the
//! right row: when a subscription begins, and whenever the right row changes. An answer for another value than the left
//! row has now is stale and dropped, since the answer to the newer value is on its way. Answers to one value come from
//! one right task, in order, so the last one accepted is right whatever was in flight.
//!
//! An inner join sends no tombstone if a row keeps its key and there is no right row; but if the tombstone for the
//! right row's deletion was dropped as stale, its result would stay. So the left half of an inner join remembers which
//! rows have a result, and accepts such a quiet answer only for those. A row that changes from no key to no key
//! retracts what is left of its result itself, because no answer will.
//!
//! Subscription: key is the foreign key; value `[version = 1][kind][hash, 16][window, 0 or 16][left key]`, with a byte
//! after the kind that says whether there is a window. Answer: key and window of the left row; value `[version =
//! 1][flags][hash, 0 or 16][right value]`. Timestamp and headers travel as those of the records. Stores: left `row ->
//! nothing`, for rows with a result; right `[key length, 4][foreign key][left row] -> [version = 1][hash, 16][window, 0
//! or 16]`.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::config::{JoinConfig, JoinType};
use super::foreign_key::{describe_subscription, read_window, subscription, window_bytes};
use super::plan::JoinPlan;
use super::result::{Around, Maker, refuse};
use super::{LEFT, OWN, RIGHT_ONLY, Side};
use crate::model::{Change, EvalError, Expr, Json, Reason, Record, Scope, Value, Window, key_text};
use crate::operators::settings::Sends;
use crate::operators::shared::describe::Described;
use crate::operators::table::{TableView, query_ids, read_row_id, row_id};
use crate::operators::{Cx, NodePlan, Operator, OperatorError, OperatorSettings, Query};
use crate::state::{StateError, after_prefix};

/// The left half's output for subscriptions; results leave through port 0.
pub(super) const SUBSCRIPTIONS: u16 = 1;
const VERSION: u8 = 1;

type Hash = [u8; 16];

/// FNV-1a with 128 bits: the same on every machine and in every version. It tells values of a row apart; it is not for
/// security.
fn hash(value: &[u8]) -> Hash {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let step = |hash: u128, byte: &u8| (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
    value.iter().fold(BASIS, step).to_be_bytes()
}

/// What a left row asks of the right half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// It names the key no longer.
    End,
    /// It no longer names the key, and wants an answer to learn the right row's timestamp.
    EndAndAnswer,
    /// It names the key now.
    Begin,
    /// It names the key now; if there is no right row, the answer is quiet.
    BeginQuietly,
}

impl Ask {
    const ALL: [Ask; 4] = [Ask::End, Ask::EndAndAnswer, Ask::Begin, Ask::BeginQuietly];

    fn code(self) -> u8 {
        match self {
            Ask::End => 0,
            Ask::EndAndAnswer => 1,
            Ask::Begin => 2,
            Ask::BeginQuietly => 3,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Subscription {
    ask: Ask,
    /// Hash of the left row's value, or of null.
    hash: Hash,
    window: Option<Window>,
    key: Bytes,
}

impl Subscription {
    fn to_bytes(&self) -> Bytes {
        let window = window_bytes(self.window);
        let mut bytes = vec![VERSION, self.ask.code(), u8::from(self.window.is_some())];
        bytes.extend_from_slice(&self.hash);
        bytes.extend_from_slice(&window);
        bytes.extend_from_slice(&self.key);
        Bytes::from(bytes)
    }

    fn from_bytes(bytes: &Bytes) -> Option<Subscription> {
        let ([VERSION, ask, windowed], rest) = bytes.split_first_chunk::<3>()? else { return None };
        let (hash, rest) = rest.split_first_chunk::<16>()?;
        let window = match windowed {
            0 => &rest[..0],
            1 => rest.get(..16)?,
            _ => return None,
        };
        Some(Subscription {
            ask: Ask::ALL.into_iter().find(|a| a.code() == *ask)?,
            hash: *hash,
            window: read_window(window).ok()?,
            key: bytes.slice(19 + window.len()..),
        })
    }
}

const HAS_LEFT: u8 = 1;
const HAS_RIGHT: u8 = 2;
const QUIET: u8 = 4;

#[derive(Clone, Debug, PartialEq)]
struct Answer {
    hash: Hash,
    quiet: bool,
    right: Value,
}

impl Answer {
    fn to_bytes(&self) -> Bytes {
        let right = self.right.bytes();
        let flags =
            HAS_LEFT | if right.is_some() { HAS_RIGHT } else { 0 } | if self.quiet { QUIET } else { 0 };
        let mut bytes = vec![VERSION, flags];
        bytes.extend_from_slice(&self.hash);
        bytes.extend_from_slice(&right.unwrap_or_default());
        Bytes::from(bytes)
    }

    fn from_bytes(bytes: &Bytes) -> Option<Answer> {
        let ([VERSION, flags], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (hash, right) = rest.split_first_chunk::<16>()?;
        let has_right = flags & HAS_RIGHT != 0;
        if flags & HAS_LEFT == 0 || *flags > (HAS_LEFT | HAS_RIGHT | QUIET) || !has_right && !right.is_empty()
        {
            return None;
        }
        let right = if has_right { Value::Bytes(bytes.slice(18..)) } else { Value::Null };
        Some(Answer { hash: *hash, quiet: flags & QUIET != 0, right })
    }
}

fn damaged() -> OperatorError {
    OperatorError::Fatal(StateError("a foreign-key join's topic was written by another version".into()))
}

/// The hash that identifies a left row's value; zeros for no value.
fn hash_of(value: &Value) -> Hash {
    // Not the hash of the empty value, since that is a value.
    value.bytes().map_or([0; 16], |bytes| hash(&bytes))
}

/// The half beside the left table.
pub(super) struct LeftHalf {
    left_join: bool,
    on: Expr,
    left: TableView,
    maker: Maker,
}

impl LeftHalf {
    pub(super) fn new(config: &JoinConfig, plan: &JoinPlan) -> LeftHalf {
        LeftHalf {
            left_join: config.kind != JoinType::Inner,
            on: config.on.clone().expect("planned with a foreign key"),
            left: plan.left.expect("planned with two tables"),
            maker: Maker::new(config),
        }
    }

    /// The key that a left value names; `None` if it names none, or if there is no value.
    fn foreign_key(&self, record: &Record, value: &Value) -> Result<Option<Bytes>, EvalError> {
        if value.is_null() {
            return Ok(None);
        }
        self.on.eval(&Scope { value, ..Scope::of(record) }).map(|key| key_text(&key))
    }

    fn left_change(&self, record: &Record, old: &Value, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let Some(key) = &record.key else { return Ok(()) };
        // A value whose key cannot be computed was never joined.
        let old_key = self.foreign_key(record, old).unwrap_or_default();
        let (new_key, failed) = match self.foreign_key(record, &record.value) {
            Ok(key) => (key, None),
            Err(e) => (None, Some(e)),
        };
        let hash = hash_of(&record.value);
        let mut ask = |foreign: &Bytes, ask: Ask| {
            let subscription = Subscription { ask, hash, window: record.window, key: key.clone() };
            let value = Value::Bytes(subscription.to_bytes());
            let key = Some(foreign.clone());
            cx.forward_to(SUBSCRIPTIONS, Record { key, value, window: None, ..record.clone() });
        };
        let moved = old_key.as_ref().filter(|old| new_key.as_ref() != Some(*old));
        if let Some(e) = failed {
            if let Some(old_key) = moved {
                ask(old_key, Ask::End);
            }
            return Err(OperatorError::expression(record.clone(), &e));
        }
        if let Some(old_key) = moved {
            let answers = !self.left_join && new_key.is_none();
            ask(old_key, if answers { Ask::EndAndAnswer } else { Ask::End });
        }
        match &new_key {
            Some(new_key) => {
                let loud = self.left_join || moved.is_some();
                ask(new_key, if loud { Ask::Begin } else { Ask::BeginQuietly });
            }
            None if self.left_join && !(old.is_null() && record.value.is_null()) => {
                self.send(record, &record.value, &Value::Null, cx);
            }
            None if self.left_join => {}
            None => {
                if !record.value.is_null() {
                    cx.drop(Reason::NullKey);
                }
                // No answer comes for a change from no key to no key, so retract here what a stale answer would have
                // retracted.
                let id = row_id(key, record.window);
                if old_key.is_none() && cx.store(OWN).get(&id)?.is_some() {
                    cx.store(OWN).delete(&id);
                    self.send(record, &Value::Null, &Value::Null, cx);
                }
            }
        }
        Ok(())
    }

    /// Sends a left row's result on.
    fn send(&self, record: &Record, left: &Value, right: &Value, cx: &mut Cx<'_>) {
        let result = if left.is_null() || right.is_null() && !self.left_join {
            Ok(Value::Null)
        } else {
            self.maker.make(&Around::of(record), left, right)
        };
        match result {
            Ok(value) => cx.forward(Record { value, ..record.clone() }),
            Err(e) => refuse(Record { value: left.clone(), ..record.clone() }, &e, cx),
        }
    }

    fn answer(&self, record: &Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let (Some(key), Value::Bytes(bytes)) = (&record.key, &record.value) else { return Err(damaged()) };
        let answer = Answer::from_bytes(bytes).ok_or_else(damaged)?;
        let id = row_id(key, record.window);
        let row = self.left.latest(cx.store(LEFT), &id)?;
        let left = row.map_or(Value::Null, |row| row.value);
        if hash_of(&left) != answer.hash {
            return Ok(());
        }
        if !self.left_join {
            let store = cx.store(OWN);
            let was_out = store.get(&id)?.is_some();
            let is_out = !left.is_null() && !answer.right.is_null();
            match (was_out, is_out) {
                (false, false) if answer.quiet => return Ok(()),
                (false, true) => store.put_new(&id, Bytes::new()),
                (true, false) => store.delete(&id),
                (true, true) | (false, false) => {}
            }
        }
        self.send(record, &left, &answer.right, cx);
        Ok(())
    }
}

/// A left row that has a result, for people.
pub(super) fn describe_left(key: &[u8]) -> Described {
    let (key, window) = read_row_id(key);
    Described::of_key(key, Json::Null).window(window).at("has_result", true)
}

impl Operator for LeftHalf {
    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        query_ids(query, b"")
    }

    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        match Side::of(cx.input) {
            Side::Right => self.answer(&record, cx),
            Side::Left => match table_change(&mut record, cx) {
                Some(old) => self.left_change(&record, &old, cx),
                None => Ok(()),
            },
        }
    }
}

/// The old value of a row that has changed; `None` if the record is dropped.
fn table_change(record: &mut Record, cx: &mut Cx<'_>) -> Option<Value> {
    let change = record.change.take().map_or_else(Change::first, |change| *change);
    if record.key.is_none() {
        cx.drop(Reason::NullKey);
        return None;
    }
    if !change.latest {
        cx.drop(Reason::Late);
        return None;
    }
    Some(change.old)
}

/// The right half of a join, which the topology adds beside the right table.
#[derive(Clone, Debug)]
pub struct RightHalfConfig {
    /// How to read the right table.
    pub right: TableView,
    /// The text of the join's `on`: subscriptions depend on it.
    pub on: String,
}

/// The half beside the right table.
pub struct RightHalf {
    right: TableView,
}

impl RightHalf {
    /// A half without state.
    #[must_use]
    pub fn new(config: &RightHalfConfig) -> RightHalf {
        RightHalf { right: config.right }
    }

    fn subscribe(record: &Record, right: TableView, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let (Some(foreign), Value::Bytes(bytes)) = (&record.key, &record.value) else {
            return Err(damaged());
        };
        let asked = Subscription::from_bytes(bytes).ok_or_else(damaged)?;
        let row_key = subscription(foreign, &row_id(&asked.key, asked.window));
        let row = right.latest(cx.store(RIGHT_ONLY), foreign)?;
        let ts = row.as_ref().map_or(record.ts, |row| record.ts.max(row.ts));
        let begins = match asked.ask {
            Ask::End | Ask::EndAndAnswer => {
                cx.store(OWN).delete(&row_key);
                false
            }
            Ask::Begin | Ask::BeginQuietly => {
                let mut kept = vec![VERSION];
                kept.extend_from_slice(&asked.hash);
                kept.extend_from_slice(&window_bytes(asked.window));
                cx.store(OWN).put(&row_key, Bytes::from(kept));
                true
            }
        };
        if asked.ask == Ask::End {
            return Ok(());
        }
        let right = row.filter(|_| begins).map_or(Value::Null, |row| row.value);
        let quiet = asked.ask == Ask::BeginQuietly;
        let answer = Answer { hash: asked.hash, quiet, right };
        let value = Value::Bytes(answer.to_bytes());
        cx.forward(Record { key: Some(asked.key), window: asked.window, value, ts, ..record.clone() });
        Ok(())
    }

    fn right_change(record: &Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        let Some(key) = &record.key else { return Ok(()) };
        let prefix = subscription(&row_id(key, record.window), b"");
        let skip = prefix.len();
        let mut found: Vec<(Bytes, Bytes)> = Vec::new();
        cx.store(OWN).scan(&prefix, Some(&after_prefix(&prefix)), &mut |key, kept| {
            found.push((Bytes::copy_from_slice(&key[skip..]), Bytes::copy_from_slice(kept)));
            ControlFlow::Continue(())
        })?;
        for (id, kept) in found {
            let (hash, window) = match kept.split_first_chunk::<17>() {
                Some(([VERSION, hash @ ..], window)) => (*hash, read_window(window)?),
                _ => return Err(StateError("a foreign-key join's row is damaged".into()).into()),
            };
            let key = id.slice(..id.len() - if window.is_some() { 16 } else { 0 });
            let answer = Answer { hash, quiet: false, right: record.value.clone() };
            let value = Value::Bytes(answer.to_bytes());
            cx.forward(Record { key: Some(key), window, value, ..record.clone() });
        }
        Ok(())
    }
}

impl Operator for RightHalf {
    /// The left rows that name the key.
    fn query(&self, query: &mut Query<'_>) -> Result<(), StateError> {
        query.prefix(&subscription(query.key(), b""))
    }

    fn on_record(&mut self, mut record: Record, cx: &mut Cx<'_>) -> Result<(), OperatorError> {
        match Side::of(cx.input) {
            Side::Left => RightHalf::subscribe(&record, self.right, cx),
            Side::Right => match table_change(&mut record, cx) {
                Some(_) => RightHalf::right_change(&record, cx),
                None => Ok(()),
            },
        }
    }
}

impl OperatorSettings for RightHalfConfig {
    fn build(&self, _: &NodePlan) -> Box<dyn Operator> {
        Box::new(RightHalf::new(self))
    }
    fn state_kind(&self, _kind: &'static str, _: &NodePlan) -> Option<&'static str> {
        Some("foreign-key join, right half")
    }
    fn state_shape(&self, _: &NodePlan) -> Option<String> {
        Some(format!("foreign-key join, right half, on {}", self.on))
    }
    fn needs_key_together(&self) -> bool {
        true
    }
    fn takes_changes(&self, _: &NodePlan) -> bool {
        true
    }
    /// Version and hash stand before the window.
    fn describe(&self, key: &[u8], value: &[u8], _: &NodePlan) -> Option<Described> {
        describe_subscription(key, value.get(17..)?)
    }
    fn sends(&self, _: &NodePlan) -> Sends {
        Sends::Stream
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    /// Never edit: messages in users' topics have this format.
    #[test]
    fn what_travels_is_written_and_read_as_in_users_topics() {
        let window = Window { start: Timestamp(1), end: Timestamp(2) };
        for ask in Ask::ALL {
            for window in [None, Some(window)] {
                let asked = Subscription { ask, hash: [7; 16], window, key: Bytes::from("k") };
                assert_eq!(Subscription::from_bytes(&asked.to_bytes()), Some(asked));
            }
        }
        let asked = Subscription { ask: Ask::Begin, hash: [7; 16], window: None, key: Bytes::from("k") };
        assert_eq!(&asked.to_bytes()[..], [&[1, 2, 0][..], &[7; 16], b"k"].concat());
        for (quiet, right) in [(false, Value::Null), (true, Value::Null), (false, Value::Bytes("1".into()))] {
            let answer = Answer { hash: [7; 16], quiet, right };
            assert_eq!(Answer::from_bytes(&answer.to_bytes()), Some(answer));
        }
        let answer = Answer { hash: [7; 16], quiet: true, right: Value::Bytes("1".into()) };
        assert_eq!(&answer.to_bytes()[..], [&[1, 7][..], &[7; 16], b"1"].concat());
        for bad in [&b""[..], &[1], &[2; 40], &[1, 9, 0, 0], &[1, 2, 2], &[1, 8]] {
            let bad = Bytes::from([bad, &[0; 16][..]].concat());
            assert!(Subscription::from_bytes(&bad).is_none() || bad[..3] == [1, 2, 0], "{bad:?}");
            assert!(Answer::from_bytes(&bad).is_none(), "{bad:?}");
        }
    }

    /// The vectors of the FNV specification (draft-eastlake-fnv).
    #[test]
    fn the_hash_is_fnv_1a() {
        let text = |value: &[u8]| format!("{:032x}", u128::from_be_bytes(hash(value)));
        assert_eq!(text(b""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(text(b"a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_ne!(hash_of(&Value::Null), hash_of(&Value::Bytes(Bytes::new())));
    }
}
