//! The rules by which local state follows its changelog. Nothing here reads the topic.
//!
//! Local state is always a prefix of the changelog. The row [`META_CHANGELOG`] says how long that prefix is: it holds
//! the next changelog offset that is not in local state. It is written in the same batch as the rows before that
//! offset, both when a checkpoint is applied and when the changelog is replayed. It is a local row: the changelog never
//! has it.

use bytes::Bytes;

use super::{Backend, META_CHANGELOG, Row, StateError, codec};

/// The first changelog offset that local state does not have yet; 0 if it has none.
///
/// # Errors
/// The backend failed, or the row is damaged.
pub fn position(backend: &dyn Backend) -> Result<i64, StateError> {
    Ok(known_position(backend)?.unwrap_or(0))
}

/// The same; `None` where local state has no changelog.
///
/// # Errors
/// The backend failed, or the row is damaged.
pub fn known_position(backend: &dyn Backend) -> Result<Option<i64>, StateError> {
    backend.get(META_CHANGELOG)?.map(|bytes| codec::decode(1, &bytes)).transpose()
}

/// One write that brings local state up to offset `next`: the rows, in changelog order, of which the last one of a key
/// counts, and the position. Sorted by key.
///
/// # Errors
/// The position cannot be encoded.
pub fn batch(rows: &[Row], next: i64) -> Result<Vec<Row>, StateError> {
    let mut all = Vec::with_capacity(rows.len() + 1);
    all.push((Bytes::from_static(META_CHANGELOG), Some(codec::encode(1, &next)?)));
    all.extend(rows.iter().cloned());
    // The sort is stable, so rows of one key stay in changelog order.
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryBackend;

    #[test]
    fn replaying_in_pieces_gives_what_the_last_row_of_each_key_says() {
        let row = |k: &'static str, v: Option<&'static str>| (Bytes::from(k), v.map(Bytes::from));
        let log = [
            row("b", Some("1")),
            row("a", Some("1")),
            row("b", None),
            row("a", Some("2")),
            row("b", Some("3")),
        ];
        for cut in 0..=log.len() {
            let backend = MemoryBackend::default();
            assert_eq!(position(&backend).unwrap(), 0);
            let at = i64::try_from(cut).unwrap();
            backend.write(&batch(&log[..cut], at).unwrap()).unwrap();
            assert_eq!(position(&backend).unwrap(), at);
            backend.write(&batch(&log[cut..], 7).unwrap()).unwrap();
            assert_eq!(position(&backend).unwrap(), 7);
            let rows = backend.snapshot();
            let text: Vec<_> = rows[1..].iter().map(|(k, v)| (&k[..], &v[..])).collect();
            assert_eq!(text, [(&b"a"[..], &b"2"[..]), (b"b", b"3")], "cut at {cut}");
        }
    }
}
