//! Rewrites a changelog's rows when nodes get other names, or lose their state. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::state::{META_CLOCKS, META_POSITIONS, META_SHAPE, Row, StateError, codec};

/// A change of rows.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// Nodes with other names, old and new.
    pub names: BTreeMap<String, String>,
    /// Nodes whose rows are deleted.
    pub dropped: BTreeSet<String>,
    /// Topics that are no longer read under this name: positions in them are void.
    pub topics: BTreeSet<String>,
}

impl Edit {
    /// The row in its new form; `None` if it is deleted.
    ///
    /// # Errors
    /// A row of the task's own cannot be read.
    pub fn row(&self, key: &[u8], value: &[u8]) -> Result<Option<(Bytes, Bytes)>, StateError> {
        let same = || (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(Some(match key {
            META_SHAPE => {
                let text = String::from_utf8_lossy(value);
                let lines = text.lines().filter_map(|line| {
                    let (name, form) = line.split_once(" = ")?;
                    Some(format!("{} = {form}", self.name(name)?))
                });
                let mut lines: Vec<String> = lines.collect();
                lines.sort();
                (Bytes::from_static(META_SHAPE), Bytes::from(lines.join("\n")))
            }
            META_CLOCKS => {
                let clocks: Vec<(String, i64)> = codec::decode(1, value)?;
                let clocks =
                    clocks.into_iter().filter_map(|(name, at)| Some((self.name(&name)?.to_owned(), at)));
                (Bytes::from_static(META_CLOCKS), codec::encode(1, &clocks.collect::<Vec<_>>())?)
            }
            META_POSITIONS => {
                let positions: Vec<(String, i64)> = codec::decode(1, value)?;
                let left = positions.into_iter().filter(|(topic, _)| !self.topics.contains(topic));
                (Bytes::from_static(META_POSITIONS), codec::encode(1, &left.collect::<Vec<_>>())?)
            }
            _ => match key.iter().position(|byte| *byte == 0) {
                Some(at) if at > 0 => {
                    let Some(name) = std::str::from_utf8(&key[..at]).ok() else { return Ok(Some(same())) };
                    match self.name(name) {
                        None => return Ok(None),
                        Some(new) if new == name => same(),
                        Some(new) => (
                            Bytes::from([new.as_bytes(), &key[at..]].concat()),
                            Bytes::copy_from_slice(value),
                        ),
                    }
                }
                _ => same(),
            },
        }))
    }

    /// The rows that make the change in place: new rows, and tombstones for deleted ones.
    ///
    /// # Errors
    /// As [`Edit::row`].
    pub fn in_place(&self, key: &[u8], value: &[u8], out: &mut Vec<Row>) -> Result<(), StateError> {
        let gone = |key: &[u8]| (Bytes::copy_from_slice(key), None);
        match self.row(key, value)? {
            None => out.push(gone(key)),
            Some((new, changed)) if new != key => {
                out.push((new, Some(changed)));
                out.push(gone(key));
            }
            Some((_, changed)) if changed == value => {}
            Some((new, changed)) => out.push((new, Some(changed))),
        }
        Ok(())
    }

    /// A node's new name; `None` if its rows are deleted.
    fn name<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        match self.dropped.contains(name) {
            true => None,
            false => Some(self.names.get(name).map_or(name, String::as_str)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, i64)]) -> Bytes {
        let list: Vec<(String, i64)> = list.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        codec::encode(1, &list).expect("encodes")
    }

    #[test]
    fn every_row_that_names_a_node_follows_its_name() {
        let edit = Edit {
            names: BTreeMap::from([("old".to_owned(), "new".to_owned())]),
            dropped: BTreeSet::from(["gone".to_owned()]),
            topics: BTreeSet::from(["t-old-repartition".to_owned()]),
        };
        let text = |key: &[u8], value: &[u8]| {
            let row = edit.row(key, value).expect("reads");
            row.map(|(k, v)| (k.to_vec(), v.to_vec()))
        };
        let some = |key: &[u8], value: &[u8]| Some((key.to_vec(), value.to_vec()));
        assert_eq!(text(b"old\0a", b"1"), some(b"new\0a", b"1"));
        assert_eq!(text(b"older\0a", b"1"), some(b"older\0a", b"1"), "another node");
        assert_eq!(text(b"gone\0a", b"1"), None);
        assert_eq!(text(META_SHAPE, b"gone = x\nold = y\nz = w"), some(META_SHAPE, b"new = y\nz = w"));
        let clocks = text(META_CLOCKS, &pairs(&[("old", 5), ("gone", 6), ("z", 7)]));
        assert_eq!(clocks, some(META_CLOCKS, &pairs(&[("new", 5), ("z", 7)])));
        let positions = text(META_POSITIONS, &pairs(&[("in", 5), ("t-old-repartition", 6)]));
        assert_eq!(positions, some(META_POSITIONS, &pairs(&[("in", 5)])));
        assert_eq!(text(b"\0format", b"1"), some(b"\0format", b"1"));
    }

    #[test]
    fn a_change_in_place_is_whole_when_it_is_made_again_from_the_middle() {
        let edit = Edit { names: BTreeMap::from([("a".to_owned(), "b".to_owned())]), ..Edit::default() };
        let start: BTreeMap<Vec<u8>, Vec<u8>> = [
            (b"a\0x".to_vec(), b"1".to_vec()),
            (b"a\0y".to_vec(), b"2".to_vec()),
            (b"c\0x".to_vec(), b"3".to_vec()),
        ]
        .into();
        let rows = |state: &BTreeMap<Vec<u8>, Vec<u8>>| {
            let mut out = Vec::new();
            for (key, value) in state {
                edit.in_place(key, value, &mut out).expect("edits");
            }
            out
        };
        let apply = |state: &mut BTreeMap<Vec<u8>, Vec<u8>>, rows: &[Row]| {
            for (key, value) in rows {
                match value {
                    Some(value) => drop(state.insert(key.to_vec(), value.to_vec())),
                    None => drop(state.remove(&key[..])),
                }
            }
        };
        for cut in 0..=rows(&start).len() {
            let mut state = start.clone();
            apply(&mut state, &rows(&start)[..cut]);
            let again = rows(&state);
            apply(&mut state, &again);
            let expected = [(&b"b\0x"[..], &b"1"[..]), (b"b\0y", b"2"), (b"c\0x", b"3")];
            let found: Vec<(&[u8], &[u8])> = state.iter().map(|(k, v)| (&k[..], &v[..])).collect();
            assert_eq!(found, expected, "cut at {cut}");
            assert!(rows(&state).is_empty());
        }
    }
}
