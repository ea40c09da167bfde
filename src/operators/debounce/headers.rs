//! A record's headers as the `extra` bytes of an entry, part of the row's versions 1 and 2: for each header the name's
//! length u16, the name, the value's length u32, the value; numbers big-endian. In version 2 a length of [`NULL`] is a
//! null value.

use bytes::Bytes;

use crate::model::Headers;
use crate::state::StateError;

/// The length of a null value. No value is as long.
const NULL: u32 = u32::MAX;

/// Appends the headers' bytes to `out`. A name over 64 KiB is cut: Kafka's protocol allows one, but none is known to
/// exist.
pub(super) fn encode(headers: &Headers, out: &mut Vec<u8>) {
    for (name, value) in headers.iter() {
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        let name = &name[..name.floor_char_boundary(usize::from(len))];
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&value.map_or(NULL, |value| super::row::length(value)).to_be_bytes());
        out.extend_from_slice(value.map_or(&[], |value| value));
    }
}

/// Reads [`encode`].
///
/// # Errors
/// The bytes were not written by it.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(String, Option<Bytes>)>, StateError> {
    let mut list = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (name, value, after) =
            one(rest).ok_or_else(|| StateError("damaged headers in a debounce row".into()))?;
        list.push((name.to_owned(), value.map(Bytes::copy_from_slice)));
        rest = after;
    }
    Ok(list)
}

/// Whether one has a null value. Other bytes than headers have none.
pub(super) fn has_null(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match one(rest) {
            Some((_, None, _)) => return true,
            Some((_, Some(_), after)) => rest = after,
            None => return false,
        }
    }
    false
}

/// The first header's name and value, and the bytes behind it.
type One<'a> = (&'a str, Option<&'a [u8]>, &'a [u8]);

fn one(bytes: &[u8]) -> Option<One<'_>> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let name = std::str::from_utf8(name).ok()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let len = u32::from_be_bytes(*len);
    if len == NULL {
        return Some((name, None, rest));
    }
    let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    Some((name, Some(value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were_and_damage_is_seen() {
        let list = vec![
            ("traceparent".to_owned(), Some(Bytes::from("00-ab"))),
            (String::new(), Some(Bytes::new())),
            ("ü".to_owned(), Some(Bytes::from(vec![0; 300]))),
        ];
        let mut bytes = Vec::new();
        encode(&Headers::new(list.clone()), &mut bytes);
        assert_eq!(decode(&bytes).unwrap(), list);
        assert_eq!(bytes[..4], [0, 11, b't', b'r'], "the layout of row version 1");
        for cut in [1, 5, 14, bytes.len() - 1] {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(!has_null(&bytes) && !has_null(b"hh"));
        let nulls = vec![("n".to_owned(), None), ("e".to_owned(), Some(Bytes::new()))];
        bytes.clear();
        encode(&Headers::new(nulls.clone()), &mut bytes);
        assert_eq!(
            bytes,
            [0, 1, b'n', 255, 255, 255, 255, 0, 1, b'e', 0, 0, 0, 0],
            "the layout of row version 2"
        );
        assert_eq!(decode(&bytes).unwrap(), nulls);
        assert!(has_null(&bytes));
        bytes.clear();
        encode(&Headers::new(vec![("ü".repeat(40_000), Bytes::new())]), &mut bytes);
        assert_eq!(decode(&bytes).unwrap()[0].0.len(), 65_534);
    }
}
