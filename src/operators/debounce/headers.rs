//! A record's headers as the `extra` bytes of an entry, part of the row's version 1: for each header the name's length
//! u16, the name, the value's length u32, the value; numbers big-endian.

use bytes::Bytes;

use crate::model::Headers;
use crate::state::StateError;

/// Appends the headers' bytes to `out`. A name over 64 KiB is cut: Kafka's protocol allows one, but none is known to
/// exist.
pub(super) fn encode(headers: &Headers, out: &mut Vec<u8>) {
    for (name, value) in headers.iter() {
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        let name = &name[..name.floor_char_boundary(usize::from(len))];
        let len = u16::try_from(name.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&super::row::length(value).to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// Reads [`encode`].
///
/// # Errors
/// The bytes were not written by it.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(String, Bytes)>, StateError> {
    let mut list = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (name, value, after) =
            one(rest).ok_or_else(|| StateError("damaged headers in a debounce row".into()))?;
        list.push((name.to_owned(), Bytes::copy_from_slice(value)));
        rest = after;
    }
    Ok(list)
}

fn one(bytes: &[u8]) -> Option<(&str, &[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    Some((std::str::from_utf8(name).ok()?, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_were_and_damage_is_seen() {
        let list = vec![
            ("traceparent".to_owned(), Bytes::from("00-ab")),
            (String::new(), Bytes::new()),
            ("ü".to_owned(), Bytes::from(vec![0; 300])),
        ];
        let mut bytes = Vec::new();
        encode(&Headers::new(list.clone()), &mut bytes);
        assert_eq!(decode(&bytes).unwrap(), list);
        assert_eq!(bytes[..4], [0, 11, b't', b'r'], "the layout of row version 1");
        for cut in [1, 5, 14, bytes.len() - 1] {
            assert!(decode(&bytes[..cut]).is_err(), "{cut}");
        }
        bytes.clear();
        encode(&Headers::new(vec![("ü".repeat(40_000), Bytes::new())]), &mut bytes);
        assert_eq!(decode(&bytes).unwrap()[0].0.len(), 65_534);
    }
}
