//! The rows of a versioned table: each row's newest version, its earlier versions, and when those may be deleted.
//!
//! ```text
//! [0][id]                                       -> [1][timestamp, 8][1 or 0: deleted][value]   the newest version
//! [1][id length, 4][id][timestamp, 8, inverted] -> [1][1 or 0: deleted][value]                 an earlier version
//! [2][replaced at, 8][timestamp, 8][id]         -> nothing                                     when one may go
//! [3]                                           -> [1][timestamp, 8]                           highest timestamp put
//! ```
//!
//! A version is valid from its timestamp until the next one's. A look-up as of a time finds the newest version that is
//! not later. Further back than the history is retained, it finds the newest version or nothing, never an old version
//! that happens not to be deleted yet. A record older than the history is late. A version is deleted when the one that
//! replaced it is older than the history, so a deleted row leaves nothing behind.

use std::ops::ControlFlow;

use bytes::{BufMut, Bytes, BytesMut};

use super::{TableRow, query_ids, read_row_id};
use crate::model::{Json, Timestamp, Value};
use crate::operators::Query;
use crate::operators::shared::describe;
use crate::operators::shared::describe::Described;
use crate::operators::shared::expiry::Expiring;
use crate::state::codec::{ordered_i64, read_ordered_i64};
use crate::state::{StateError, Store, after_prefix};

const VERSION: u8 = 1;
const NEWEST: u8 = 0;
const EARLIER: u8 = 1;
const EXPIRY: u8 = 2;
const OBSERVED: u8 = 3;
/// Expired versions deleted with each record.
const PURGE_MAX: usize = 32;

/// One version; a value of `None` says that the row was deleted.
struct Version {
    ts: i64,
    value: Option<Bytes>,
}

impl Version {
    fn row(self) -> Option<TableRow> {
        let ts = Timestamp(self.ts);
        self.value.map(|value| TableRow { ts, value: Value::Bytes(value) })
    }
}

fn damaged() -> StateError {
    StateError("a versioned table's row is damaged or of another version".into())
}

fn newest_key(id: &[u8]) -> Vec<u8> {
    [&[NEWEST], id].concat()
}

fn earlier_prefix(id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(13 + id.len());
    key.push(EARLIER);
    key.extend_from_slice(&length(id.len()));
    key.extend_from_slice(id);
    key
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("a record is under 4 GiB").to_be_bytes()
}

fn earlier_key(id: &[u8], ts: i64) -> Vec<u8> {
    let mut key = earlier_prefix(id);
    key.extend_from_slice(&ordered_i64(!ts));
    key
}

fn expiry_key(replaced_at: i64, ts: i64, id: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(17 + id.len());
    key.push(EXPIRY);
    key.extend_from_slice(&ordered_i64(replaced_at));
    key.extend_from_slice(&ordered_i64(ts));
    key.extend_from_slice(id);
    key
}

fn encode_newest(ts: i64, value: Option<&Bytes>) -> Bytes {
    let mut row = BytesMut::with_capacity(10 + value.map_or(0, Bytes::len));
    row.put_u8(VERSION);
    row.put_i64(ts);
    row.put_u8(u8::from(value.is_some()));
    row.put_slice(value.map_or(b"", |v| v));
    row.freeze()
}

fn encode_earlier(value: Option<&Bytes>) -> Bytes {
    let mut row = BytesMut::with_capacity(2 + value.map_or(0, Bytes::len));
    row.put_u8(VERSION);
    row.put_u8(u8::from(value.is_some()));
    row.put_slice(value.map_or(b"", |v| v));
    row.freeze()
}

fn value_at(row: &Bytes, at: usize) -> Result<Option<Bytes>, StateError> {
    match row.get(at) {
        Some(1) => Ok(Some(row.slice(at + 1..))),
        Some(0) if row.len() == at + 1 => Ok(None),
        _ => Err(damaged()),
    }
}

fn newest(store: &Store, id: &[u8]) -> Result<Option<Version>, StateError> {
    let Some(row) = store.get(&newest_key(id))? else { return Ok(None) };
    match row.split_first_chunk::<9>() {
        Some(([VERSION, ts @ ..], _)) => {
            Ok(Some(Version { ts: i64::from_be_bytes(*ts), value: value_at(&row, 9)? }))
        }
        _ => Err(damaged()),
    }
}

/// Visits the earlier versions of a row, newest first, from `ts` on.
fn each_earlier(
    store: &Store,
    id: &[u8],
    ts: i64,
    visit: &mut dyn FnMut(Version) -> ControlFlow<()>,
) -> Result<(), StateError> {
    let prefix = earlier_prefix(id);
    let end = earlier_key(id, i64::MIN);
    let mut failed = None;
    store.scan(&earlier_key(id, ts), Some(&end), &mut |key, row| {
        let ts = key.get(prefix.len()..).and_then(|ts| <[u8; 8]>::try_from(ts).ok());
        let row = Bytes::copy_from_slice(row);
        match (ts, row.first()) {
            (Some(ts), Some(&VERSION)) => match value_at(&row, 1) {
                Ok(value) => return visit(Version { ts: !read_ordered_i64(ts), value }),
                Err(e) => failed = Some(e),
            },
            _ => failed = Some(damaged()),
        }
        ControlFlow::Break(())
    })?;
    failed.map_or(Ok(()), Err)
}

fn observed(store: &Store) -> Result<i64, StateError> {
    let Some(row) = store.get(&[OBSERVED])? else { return Ok(i64::MIN) };
    match <[u8; 9]>::try_from(&row[..]) {
        Ok([VERSION, ts @ ..]) => Ok(i64::from_be_bytes(ts)),
        _ => Err(damaged()),
    }
}

/// The row as it is now.
pub(super) fn latest(store: &Store, id: &[u8]) -> Result<Option<TableRow>, StateError> {
    Ok(newest(store, id)?.and_then(Version::row))
}

/// The row as it was at a time.
pub(super) fn as_of(store: &Store, id: &[u8], ts: i64, history: i64) -> Result<Option<TableRow>, StateError> {
    let Some(newest) = newest(store, id)? else { return Ok(None) };
    if newest.ts <= ts {
        return Ok(newest.row());
    }
    if ts < observed(store)?.saturating_sub(history) {
        return Ok(None);
    }
    let mut found = None;
    each_earlier(store, id, ts, &mut |version| {
        found = version.row();
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// The versions of a key's rows, without a window and with any.
pub(super) fn query(query: &mut Query<'_>) -> Result<(), StateError> {
    query_ids(query, &[NEWEST])?;
    // The newest version of each row; those before it are in no order of windows.
    let windows = [&[EARLIER][..], &length(query.key().len() + 16), query.key()].concat();
    query.prefix(&earlier_prefix(query.key()))?;
    let (id_at, wanted) = (5, query.key());
    let is_of_key = |id: &[u8]| read_row_id(id).0 == wanted;
    query.scan(&windows, &after_prefix(&windows), |row| {
        row[id_at..].split_last_chunk::<8>().is_some_and(|(id, _)| is_of_key(id))
    })
}

/// A row for people; `None` where the bytes are no such row.
pub(super) fn describe_row(key: &[u8], value: &[u8]) -> Option<Described> {
    let (kind, rest) = key.split_first()?;
    let bytes = Bytes::copy_from_slice(value);
    let of_row = |id: &[u8], ts: i64, value: Option<Bytes>| {
        let (key, window) = read_row_id(id);
        let value = value.map_or(Json::Null, |value| describe::bytes(&value));
        Described::of_key(key, value).window(window).at("ts", ts)
    };
    match *kind {
        NEWEST => {
            let (_, ts) = bytes.get(..9)?.split_last_chunk::<8>()?;
            Some(of_row(rest, i64::from_be_bytes(*ts), value_at(&bytes, 9).ok()?))
        }
        EARLIER => {
            let (id, ts) = rest.get(4..)?.split_last_chunk::<8>()?;
            let row = of_row(id, !read_ordered_i64(*ts), value_at(&bytes, 1).ok()?);
            Some(row.at("replaced", true))
        }
        EXPIRY => {
            let (replaced_at, ts, id) = read_expiry(key).ok()?;
            Some(of_row(id, ts, None).at("replaced_at", replaced_at))
        }
        OBSERVED => {
            let (_, ts) = value.split_last_chunk::<8>()?;
            let ts = Json::from(i64::from_be_bytes(*ts));
            Some(Described::of_key(b"", ts).at("highest_timestamp", true))
        }
        _ => None,
    }
}

/// The effect of a record.
#[derive(Debug, PartialEq)]
pub(super) enum Put {
    /// It is older than the history.
    Late,
    /// It is now the newest version; the one before it.
    Newest(Option<TableRow>),
    /// It changed the history; the newest version, which is unchanged.
    Earlier(Option<TableRow>),
}

/// Writes versions. Caches what it would otherwise read for every record.
pub(super) struct Versions {
    history: i64,
    /// Read from the store with the first record.
    known: Option<Known>,
}

#[derive(Clone, Copy)]
struct Known {
    observed: i64,
    /// The earliest time at which a version may be deleted; `None` if there is none to delete.
    expiry: Option<i64>,
}

impl Versions {
    pub(super) fn new(history: i64) -> Versions {
        Versions { history, known: None }
    }

    pub(super) fn put(
        &mut self,
        store: &mut Store,
        id: &[u8],
        ts: i64,
        value: Option<&Bytes>,
    ) -> Result<Put, StateError> {
        let mut known = match self.known {
            Some(known) => known,
            None => Known { observed: observed(store)?, expiry: EXPIRIES.first(store)? },
        };
        if ts < known.observed.saturating_sub(self.history) {
            self.known = Some(known);
            return Ok(Put::Late);
        }
        if ts > known.observed {
            known.observed = ts;
            let mut row = vec![VERSION];
            row.extend_from_slice(&ts.to_be_bytes());
            store.put(&[OBSERVED], Bytes::from(row));
        }
        let mut expires = |store: &mut Store, replaced_at: i64, ts: i64| {
            store.put(&expiry_key(replaced_at, ts, id), Bytes::new());
            known.expiry = Some(known.expiry.map_or(replaced_at, |first| first.min(replaced_at)));
        };
        let newest = newest(store, id)?;
        let put = match newest {
            Some(newest) if ts < newest.ts => {
                let mut replaced_at = newest.ts;
                let mut before = None;
                each_earlier(store, id, i64::MAX, &mut |version| {
                    if version.ts > ts {
                        replaced_at = version.ts;
                        return ControlFlow::Continue(());
                    }
                    before = Some(version.ts);
                    ControlFlow::Break(())
                })?;
                store.put(&earlier_key(id, ts), encode_earlier(value));
                if before != Some(ts) {
                    if let Some(before) = before {
                        store.delete(&expiry_key(replaced_at, before, id));
                        expires(store, ts, before);
                    }
                    expires(store, replaced_at, ts);
                }
                Put::Earlier(newest.row())
            }
            newest => {
                if let Some(newest) = &newest {
                    if newest.value.is_none() {
                        store.delete(&expiry_key(newest.ts, newest.ts, id));
                    }
                    if newest.ts < ts {
                        store.put(&earlier_key(id, newest.ts), encode_earlier(newest.value.as_ref()));
                        expires(store, ts, newest.ts);
                    }
                }
                store.put(&newest_key(id), encode_newest(ts, value));
                if value.is_none() {
                    // A deleted row needs no version once its history may not be asked for.
                    expires(store, ts, ts);
                }
                Put::Newest(newest.and_then(Version::row))
            }
        };
        let cutoff = known.observed.saturating_sub(self.history);
        if known.expiry.is_some_and(|first| first <= cutoff) {
            known.expiry = purge(store, cutoff)?;
        }
        self.known = Some(known);
        Ok(put)
    }
}

/// Parses an expiry key: when the version was replaced, its timestamp, and its row.
fn read_expiry(key: &[u8]) -> Result<(i64, i64, &[u8]), StateError> {
    let (replaced_at, rest) =
        key.get(1..).and_then(|rest| rest.split_first_chunk::<8>()).ok_or_else(damaged)?;
    let (ts, id) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    Ok((read_ordered_i64(*replaced_at), read_ordered_i64(*ts), id))
}

/// The expiry rows, which are in the order in which versions were replaced.
const EXPIRIES: Expiring<'_> = Expiring {
    from: &[EXPIRY],
    to: Some(&[EXPIRY + 1]),
    time_of: |key| read_expiry(key).map(|(replaced_at, ..)| replaced_at),
};

/// Deletes some of the versions that were replaced at the cutoff or before. Returns when the next one may be deleted.
fn purge(store: &mut Store, cutoff: i64) -> Result<Option<i64>, StateError> {
    let (expired, next) = EXPIRIES.expired(store, PURGE_MAX, |replaced_at| replaced_at <= cutoff)?;
    for key in &expired {
        let (replaced_at, ts, id) = read_expiry(key)?;
        if replaced_at > ts {
            store.delete(&earlier_key(id, ts));
        } else if newest(store, id)?.is_some_and(|newest| newest.ts == ts && newest.value.is_none()) {
            store.delete(&newest_key(id));
        }
        store.delete(key);
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::state::{Backend, MemoryBackend};

    struct Rig {
        backend: Arc<MemoryBackend>,
        store: Store,
        versions: Versions,
        history: i64,
    }

    impl Rig {
        fn new(history: i64) -> Rig {
            let backend = Arc::new(MemoryBackend::default());
            let store = Store::new("t", Arc::clone(&backend) as Arc<dyn Backend>);
            Rig { backend, store, versions: Versions::new(history), history }
        }

        fn put(&mut self, id: &str, ts: i64, value: Option<&str>) -> Put {
            let value = value.map(|v| Bytes::from(v.to_owned()));
            self.versions.put(&mut self.store, id.as_bytes(), ts, value.as_ref()).unwrap()
        }

        fn as_of(&self, id: &str, ts: i64) -> Option<(i64, String)> {
            let row = as_of(&self.store, id.as_bytes(), ts, self.history).unwrap();
            row.map(|row| (row.ts.0, row.value.show().to_string()))
        }

        fn checkpoint(&mut self) {
            let mut rows = Vec::new();
            self.store.seal(&mut rows);
            self.backend.write(&rows).unwrap();
            self.store.applied();
        }

        fn restart(&mut self) {
            self.store = Store::new("t", Arc::clone(&self.backend) as Arc<dyn Backend>);
            self.versions = Versions::new(self.history);
        }
    }

    fn was(ts: i64, value: &str) -> Option<TableRow> {
        Some(TableRow { ts: Timestamp(ts), value: Value::Bytes(Bytes::from(value.to_owned())) })
    }

    fn is(ts: i64, value: &str) -> Option<(i64, String)> {
        Some((ts, value.to_owned()))
    }

    #[test]
    fn a_row_is_what_it_was_at_a_time() {
        let mut t = Rig::new(100);
        assert_eq!(t.put("a", 10, Some("1")), Put::Newest(None));
        assert_eq!(t.put("a", 20, Some("2")), Put::Newest(was(10, "1")));
        assert_eq!(t.put("a", 30, None), Put::Newest(was(20, "2")));
        assert_eq!(t.put("a", 15, Some("3")), Put::Earlier(None));
        assert_eq!(t.put("a", 40, Some("4")), Put::Newest(None));
        assert_eq!(t.put("a", 40, Some("5")), Put::Newest(was(40, "4")));
        assert_eq!(t.put("a", 25, None), Put::Earlier(was(40, "5")));
        assert_eq!(t.put("a", 20, Some("6")), Put::Earlier(was(40, "5")), "replaces");
        for (ts, row) in [
            (9, None),
            (10, is(10, "1")),
            (14, is(10, "1")),
            (15, is(15, "3")),
            (19, is(15, "3")),
            (20, is(20, "6")),
            (24, is(20, "6")),
            (25, None),
            (39, None),
            (40, is(40, "5")),
            (1_000, is(40, "5")),
        ] {
            assert_eq!(t.as_of("a", ts), row, "{ts}");
        }
        assert_eq!(t.as_of("b", 40), None);
    }

    #[test]
    fn history_ends_exactly_where_it_says() {
        let mut t = Rig::new(50);
        t.put("a", 10, Some("1"));
        t.put("a", 60, Some("2"));
        t.put("b", 100, Some("3"));
        // Back to 50, no further.
        assert_eq!(t.as_of("a", 50), is(10, "1"));
        assert_eq!(t.as_of("a", 49), None);
        assert_eq!(t.as_of("a", 60), is(60, "2"));
        assert_eq!(t.put("a", 49, Some("4")), Put::Late);
        assert_eq!(t.put("a", 50, Some("4")), Put::Earlier(was(60, "2")));
        t.put("c", 10_000, Some("5"));
        assert_eq!(t.as_of("a", 60), is(60, "2"), "the newest version never goes");
    }

    #[test]
    fn a_deleted_row_leaves_nothing_behind() {
        let mut t = Rig::new(50);
        for n in 0..20 {
            t.put("a", n, Some("1"));
        }
        t.put("a", 20, None);
        assert_eq!(t.put("a", 15, Some("x")), Put::Earlier(None), "a tombstone is a version");
        t.put("z", 69, Some("1"));
        assert_eq!(t.as_of("a", 19), is(19, "1"));
        t.checkpoint();
        t.restart();
        t.put("z", 70, Some("1"));
        t.checkpoint();
        t.put("z", 70, None);
        t.put("z", 1_000, None);
        t.put("z", 2_000, None);
        t.checkpoint();
        let left: Vec<_> = t.backend.snapshot().into_iter().filter(|(key, _)| key.contains(&b'a')).collect();
        assert_eq!(left, [], "nothing of the deleted row");
    }

    #[test]
    fn damaged_rows_are_refused() {
        let mut t = Rig::new(50);
        t.store.put(&newest_key(b"a"), Bytes::from("\x02"));
        assert!(latest(&t.store, b"a").is_err());
        t.store.put(&newest_key(b"a"), encode_newest(9, None));
        t.store.put(&earlier_key(b"a", 5), Bytes::from("\x01\x02"));
        assert!(as_of(&t.store, b"a", 6, 50).is_err());
        t.store.put(&[OBSERVED], Bytes::from("\x01"));
        assert!(as_of(&t.store, b"a", 6, 50).is_err());
        assert!(t.versions.put(&mut t.store, b"a", 1, None).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_order_gives_the_versions_of_the_model(
            history in 1..20i64,
            puts in prop::collection::vec((0..2usize, 0..15i64, 0..5u8, 0..6u8), 1..80),
        ) {
            let mut t = Rig::new(history);
            let mut model: [std::collections::BTreeMap<i64, Option<String>>; 2] = Default::default();
            let mut observed = i64::MIN;
            let mut base = 20;
            for (n, (id, back, kind, restart)) in puts.into_iter().enumerate() {
                if restart == 0 {
                    t.checkpoint();
                    t.restart();
                }
                base += i64::from(kind);
                let ts = base - back;
                let name = ["a", "ab"][id];
                let value = (kind != 0).then(|| n.to_string());
                let put = t.put(name, ts, value.as_deref());
                if ts < observed.saturating_sub(history) {
                    prop_assert_eq!(put, Put::Late);
                } else {
                    observed = observed.max(ts);
                    let newest = model[id].last_key_value().map(|(ts, v)| (*ts, v.clone()));
                    let before = newest.as_ref().and_then(|(ts, v)| was(*ts, v.as_deref()?));
                    if newest.is_some_and(|(newest, _)| ts < newest) {
                        prop_assert_eq!(put, Put::Earlier(before));
                    } else {
                        prop_assert_eq!(put, Put::Newest(before));
                    }
                    model[id].insert(ts, value);
                }
                for at in base - 40..base + 2 {
                    let (newest, _) = model[id].last_key_value().map_or((i64::MAX, None), |(ts, v)| (*ts, v.clone()));
                    let version = model[id].range(..=at).next_back();
                    let seen = newest <= at || at >= observed - history;
                    let want = version.filter(|_| seen).and_then(|(ts, v)| is(*ts, v.as_deref()?));
                    prop_assert_eq!(t.as_of(name, at), want, "{} as of {}", name, at);
                }
            }
        }
    }
}
